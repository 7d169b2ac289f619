"""The load that a price follows, by the interfaces' own counters."""

from __future__ import annotations

import socket

from gateway.pushing import Load


def test_the_load_is_of_what_left_since_it_was_asked_last() -> None:
    load = Load({"lo": 1_000_000})
    assert load.ppm() is None, "nothing to compare with"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
    ):
        sink.bind(("127.0.0.1", 0))
        for _ in range(100):
            out.sendto(bytes(1_000), sink.getsockname())
    assert (load.ppm() or 0) > 0


def test_of_an_interface_that_is_gone_nothing_is_known() -> None:
    load = Load({"no-such-link": 1_000_000})
    assert (load.ppm(), load.ppm()) == (None, None)
