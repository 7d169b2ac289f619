"""What a sender knows by itself: read out of the kernel's structure, whose layout differs by release."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from dataplane import marks_seen
from dataplane.marks_seen import MarksSeen
from dataplane.metering import FlowKey

ACCURATE_AT = 276


@pytest.fixture
def seen() -> Iterator[MarksSeen]:
    made = MarksSeen()
    yield made
    made.close()


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_one_connection(seen: MarksSeen, family: socket.AddressFamily, address: str) -> None:
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection((address, port)) as sending, server.accept()[0] as receiving:
            sending.sendall(bytes(5000))
            assert receiving.recv(5000, socket.MSG_WAITALL) == bytes(5000)
            packed = socket.inet_pton(family, address)
            key = FlowKey(0, socket.IPPROTO_TCP, packed, sending.getsockname()[1], packed, port)
            view = seen.read_sender_view(key)
            assert view is not None
            assert view.delivered_packets >= 1
            assert (view.lost, view.delivered_ce, view.accurate) == (0, 0, False)
            assert view.rtt_us > 0
            assert view.min_rtt_us is not None
            assert not seen.is_accurate(key)
            listens = key._replace(local_port=port, remote_port=9)
            assert seen.read_sender_view(listens) is None, "who listens is no connection"
            assert seen.read_sender_view(key._replace(protocol=socket.IPPROTO_UDP)) is None
    assert seen.read_sender_view(key._replace(remote_port=1)) is None


@pytest.mark.parametrize(
    ("release", "size", "word", "accurate"),
    [
        ("6.12.1-generic", 248, 0, False),
        ("6.18.0", 280, 0, False),
        ("6.18.0", 280, 1 << 16, True),  # an option without counts was seen
        ("6.18.0", 280, 3 << 16, False),  # it was zeroed on the way
        ("7.0-rc1", 280, 1, False),  # RFC 3168
        ("7.0-rc1", 280, 2, True),
        ("7.1.3", 280, 2 | 2 << 2, True),
    ],
)
def test_accurate_ecn_by_release(
    monkeypatch: pytest.MonkeyPatch, release: str, size: int, word: int, accurate: bool
) -> None:
    class Named:
        def __init__(self) -> None:
            self.release = release

    monkeypatch.setattr(marks_seen.os, "uname", Named)
    info = bytearray(max(size, ACCURATE_AT + 4))
    info[ACCURATE_AT : ACCURATE_AT + 4] = struct.pack("=I", word)
    made = MarksSeen()
    try:
        monkeypatch.setattr(made._diag, "tcp_info", lambda **_: bytes(info[:size]), raising=False)
        view = made.read_sender_view(FlowKey(0, socket.IPPROTO_TCP, bytes(4), 1, bytes(4), 2))
        assert view is not None
        assert view.accurate is accurate
    finally:
        made.close()
