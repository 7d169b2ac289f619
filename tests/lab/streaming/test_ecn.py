from __future__ import annotations

import socket

import pytest

from lab.streaming.ecn import media_socket, receive, send_as
from lab.streaming.reception import Ecn


@pytest.mark.row("DPH-32")
@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_each_datagram_says_how_it_was_marked(family: socket.AddressFamily, address: str) -> None:
    with media_socket(family, address) as receiving, media_socket(family, address) as sending:
        sending.connect(receiving.getsockname())
        receiving.setblocking(True)
        receiving.settimeout(5)
        for ecn in (Ecn.ECT_0, Ecn.CE, Ecn.ECT_1, Ecn.NOT_ECT):
            send_as(sending, ecn)
            sending.send(bytes([ecn]))
            assert receive(receiving) == (bytes([ecn]), ecn, address)


def test_nothing_there() -> None:
    with media_socket(socket.AF_INET, "127.0.0.1") as held, pytest.raises(BlockingIOError):
        receive(held)


def test_a_port_that_is_taken() -> None:
    with media_socket(socket.AF_INET, "127.0.0.1") as held, pytest.raises(OSError, match="in use"):
        media_socket(socket.AF_INET, "127.0.0.1", held.getsockname()[1])
