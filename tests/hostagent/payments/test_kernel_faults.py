"""What goes wrong around a host's programs while its packets pay: its uplink is gone for a while, tables are full,
another version's reader comes in the middle of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from pathlib import Path

import msgspec
import pytest
from gateway_network import UNIX_S, grant_for, header_of, plain
from kernel_chain import A_PORT, AMOUNT, B_PORT, A, B, Chain, Tap
from later_version import ROOT, TESTS, Stream, later_version
from netns import Routed
from one_host import flow_of

from billpay.errors import LocalProtocolError
from dataplane.ebpf.kernel_counters import CountersView, fold_pinned
from dataplane.supervisor import ReaderSupervisor
from hostagent.payments.commands import Answer, Command, PayFlow, Refused, SetUplink, Tick

pytestmark = pytest.mark.netns

PACKET = plain(A[4], B[4], sport=A_PORT, dport=B_PORT)

# --- the uplink, and tables that are full ---------------------------------------------------------------------------


def test_an_uplink_that_was_down_pays_again() -> None:
    with Chain() as chain:
        chain.pay(PACKET)
        chain.exchange(3)
        chain.turn_off_and_on(0)
        chain.inside("a", lambda: chain.a.on_timer(time.monotonic_ns()))
        chain.exchange(3)
        chain.assert_alike()
        assert chain.link_count("a", "x", "sent_packets") == 6


def test_without_a_free_counter_a_flow_goes_unpaid_and_the_others_pay() -> None:
    with Chain() as chain:
        chain.pay(PACKET)
        with contextlib.suppress(LocalProtocolError):
            for number in range(1 << 20):
                chain.counters["a"].index(f"filler/{number}")
        packet = plain(A[4], B[4], sport=A_PORT, dport=B_PORT + 1)
        grant = grant_for(packet, grant="7" * 32, not_before_unix_s=0)
        command = PayFlow(flow=flow_of(packet), grant=grant, amount_nanodollars=AMOUNT)
        reply = chain.a.on_message(msgspec.json.encode(command), time.monotonic_ns(), UNIX_S)
        assert reply is not None
        refused = msgspec.json.decode(reply, type=Answer)  # type: ignore[arg-type]
        assert isinstance(refused, Refused)
        assert refused.code == "no-room"
        with chain.socket("b", 4) as receiver, chain.socket("a", 4) as sender:
            receiver.bind((B[4], B_PORT + 1))
            sender.bind((A[4], A_PORT))
            sender.sendto(b"unpaid", (B[4], B_PORT + 1))
            assert receiver.recv(100) == b"unpaid"
        chain.exchange(2)
        chain.assert_alike()
        assert chain.link_count("a", "x", "sent_packets") == 2


# --- another version ------------------------------------------------------------------------------------------------

READER = """
import sys

version, tests = sys.argv[1:3]
sys.path[:0] = [version, tests]
import hostagent
from dataplane.ebpf.kernel_reader import serve_kernel
from dataplane.links import read_link
from hostagent.payments.kernel_datapath import KernelPayer
from hostagent.payments.plan import HostPlan, UplinkPlan

assert hostagent.__path__[0].startswith(version)
uplink = UplinkPlan(name="r", interface_index=read_link("a0").index, gateway_as=64512)
sys.exit(serve_kernel(lambda counters: KernelPayer(HostPlan(uplinks=(uplink,)), counters)))
"""


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return later_version(
        tmp_path_factory.mktemp("later"),
        "payer.bpf.c",
        ("payer.h", r"(struct observed observed\[OBSERVED_MAX\];\n)", r"\1\t__u64 of_later_days[3];\n"),
    )


async def test_another_version_goes_on_paying_where_the_last_one_stopped(later: Path, tmp_path: Path) -> None:
    with Routed() as routed:
        path = tmp_path / "counters"
        packet = plain("10.9.1.1", "10.9.2.1", sport=A_PORT, dport=B_PORT)
        grant = grant_for(packet, not_before_unix_s=0, expires_unix_s=2**32, cap=10**12)
        pay = PayFlow(flow=flow_of(packet), grant=grant, amount_nanodollars=AMOUNT)
        commands: list[Command] = [Tick(), SetUplink(uplink="r", agreed=True), pay]
        readers = {root: routed.a.command(sys.executable, "-c", READER, str(root), TESTS) for root in (ROOT, later)}
        async with ReaderSupervisor(
            readers[ROOT],
            counters_path=path,
            owner="version",
            on_event=lambda _: None,
            snapshot=lambda: [msgspec.json.encode(command) for command in commands],
        ) as supervisor:
            view, tap = CountersView(path), routed.r.call(lambda: Tap("ra"))
            with (
                routed.a.call(datagrams) as sender,
                Stream(routed, lambda: sender.send(b"paid"), B_PORT) as stream,
            ):
                for root in (later, ROOT, later):
                    before = view.committed("link/r/sent_packets")
                    await some_more(view)
                    await supervisor.replace(readers[root], between=lambda: None)
                    assert view.committed("link/r/sent_packets") >= before + 300
                await some_more(view)
            with tap:
                seen = tap.of_flow(packet)
            counted = view.snapshot()
            view.close()
        fold_pinned(path)
    assert stream.received == stream.sent == len(seen), "no packet is lost by it"
    paid = [header.amount for header in map(header_of, seen) if header is not None]
    assert set(paid) == {AMOUNT}
    assert counted["link/r/sent_packets"] == len(paid)
    assert counted["link/r/sent_nanodollars"] == counted[f"grant/{grant.grant}/spent_nanodollars"] == AMOUNT * len(paid)


def datagrams() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("10.9.1.1", A_PORT))
    made.connect(("10.9.2.1", B_PORT))
    return made


async def some_more(view: CountersView) -> None:
    before = view.committed("link/r/sent_packets")
    async with asyncio.timeout(20):
        while view.committed("link/r/sent_packets") < before + 300:
            await asyncio.sleep(0.01)
