"""A receiver without an agent: what its gateway hands it are ordinary packets, and the payment ends at that gateway."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest
from lab_runs import body_of, checksums_hold
from scapy.layers.l2 import Ether
from small_lab import PAID_PORT, SCENARIO, small_lab

from lab.audit import ask_gateway
from lab.namespaces import end_process
from lab.traffic import Counted

pytestmark = pytest.mark.netns

AGENT_B = 'name = "B"\nkind = "host"\nshare_nanodollars = 1'
PLAIN_B = 'name = "B"\nkind = "plain"'


def tap() -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind(("to-X", 3))
    sock.setblocking(False)
    return sock


@pytest.mark.row("BP-01", "BP-51")
@pytest.mark.parametrize("family", [4, 6])
def test_a_receiver_without_an_agent_gets_ordinary_packets(tmp_path: Path, family: int) -> None:
    assert AGENT_B in SCENARIO
    with small_lab(tmp_path, family=family, scenario=SCENARIO.replace(AGENT_B, PLAIN_B)) as lab:
        answering = lab.answer(PAID_PORT, family=family)
        with lab.network["B"].inside(tap) as sock:
            output, _ = lab.exchange(PAID_PORT, seconds=3, family=family).communicate()
            frames = []
            while True:
                try:
                    frames.append(sock.recv(65536))
                except BlockingIOError:
                    break
        end_process(answering)
        status = ask_gateway(tmp_path / "X" / "gateway" / "admin.sock")
        paid = lab.snapshot("A").accounts.links[0].sent_nanodollars
    exchange = msgspec.json.decode(output, type=Counted)
    assert exchange.received == exchange.sent
    requests = [frame for frame in frames if b"HALAB1" in frame]
    assert len(requests) >= 2 * exchange.sent  # and their replies
    assert all(body_of(Ether(frame)) is None for frame in requests)
    assert all(frame[14] == 0x45 or (frame[14] >> 4 == 6 and frame[20] == socket.IPPROTO_UDP) for frame in requests)
    assert all(checksums_hold(frame) for frame in requests)
    received = sum(link.received_nanodollars for link in status.links)
    assert received == paid > 100 * 20
    assert sum(link.retained_nanodollars + link.kept_nanodollars for link in status.links) == received
