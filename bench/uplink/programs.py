"""The programs of a household: a call, an upload, a browser, and whom they talk to.

Decides nothing. Imports nothing of ours: each is started as a file by itself, by an interpreter under a file name of
its own, so that it is known by that name. `NAME programs.py FUNCTION ARGUMENT...`; servers say "ready" when they are,
and all say one line of JSON at their end. Times are of the wall clock, which all namespaces of a machine share.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

NS_PER_S: Final = 1_000_000_000
CALL_BYTES: Final = 200
CALL_EVERY_NS: Final = 20_000_000
BIN_NS: Final = 20_000_000
TAIL_S: Final = 0.5
SILENCE_NS: Final = 700_000_000
"""A queue of half a second may be between the last datagram and its arrival."""

STAMP: Final = struct.Struct("=IQ")
REQUEST_BYTES: Final = 600
"""What a browser sends for an object, with its cookies."""

DOCUMENT_BYTES: Final = 40_000
OBJECT_BYTES: Final = (60_000, 45_000, 30_000, 30_000, 24_000, 24_000, 18_000, 18_000, 12_000, 12_000, 9_000, 9_000,
                       6_000, 3_000, 3_000)  # fmt: skip
CONNECTIONS: Final = 6
PAUSE_S: Final = 0.25


def say(what: object = "ready") -> None:
    print(what if isinstance(what, str) else json.dumps(what), flush=True)


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def be_prompt() -> None:
    """A measuring end: when a packet came is not to depend on who else computes."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))


# -- a call ----------------------------------------------------------------------------------------------------------


def call(address: str, port: str, seconds: str) -> None:
    """50 datagrams a second, and as many back."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as talking:
        say(_talk(talking, (address, int(port)), float(seconds)))


def answer_calls(port: str) -> None:
    """One after the other; a line about each."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as talking:
        talking.bind(("::", int(port)))
        say()
        while True:
            data, peer = talking.recvfrom(2048)
            if (
                time.time_ns() - STAMP.unpack_from(data)[1] < NS_PER_S
            ):  # not the end of the last one out of a long queue
                say(_talk(talking, peer, None))


def _talk(talking: socket.socket, peer: Any, seconds: float | None) -> dict[str, Any]:
    """`seconds` None: until the other end has been silent.

    Tells of each of its datagrams when it was sent, its number, and how long it took.
    """
    be_prompt()
    begun_ns = heard_ns = due_ns = time.time_ns()
    number = 0
    heard: list[tuple[int, int, int]] = []
    while True:
        now_ns = time.time_ns()
        if now_ns > (heard_ns + SILENCE_NS if seconds is None else begun_ns + int((seconds + TAIL_S) * NS_PER_S)):
            return {"sent": number, "heard": heard}
        speaks = seconds is None or now_ns < begun_ns + int(seconds * NS_PER_S)
        if speaks and now_ns >= due_ns:
            with contextlib.suppress(OSError):
                talking.sendto(STAMP.pack(number, time.time_ns()).ljust(CALL_BYTES - 28, b"\0"), peer)
            number += 1
            due_ns += CALL_EVERY_NS
        patience_s = max(0, due_ns - time.time_ns()) / NS_PER_S if speaks else 0.02
        if select.select([talking], [], [], patience_s)[0]:
            with contextlib.suppress(OSError):
                data = talking.recv(2048)
                heard_ns = time.time_ns()
                place, sent_ns = STAMP.unpack_from(data)
                heard.append((sent_ns, place, heard_ns - sent_ns))


# -- uploads ---------------------------------------------------------------------------------------------------------


def upload(address: str, port: str, seconds: str, congestion_control: str) -> None:
    """As much as goes."""
    data = bytes(1 << 16)
    with socket.socket(family_of(address), socket.SOCK_STREAM) as sending:
        sending.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode())
        sending.connect((address, int(port)))
        until_s = time.monotonic() + float(seconds)
        sending.settimeout(1)
        while time.monotonic() < until_s:
            with contextlib.suppress(TimeoutError):
                sending.send(data)
        # What still waits is not to be sent on behind our back.
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    say({})


def drain(*ports: str) -> None:
    """Takes what is uploaded. At each line of its input, what came since the last one: bytes by port and time."""
    waiting: dict[int, tuple[socket.socket, int, bool]] = {}
    poll = select.epoll()
    for port in map(int, ports):
        listening = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=16)
        waiting[listening.fileno()] = (listening, port, True)
        poll.register(listening, select.EPOLLIN)
    poll.register(sys.stdin, select.EPOLLIN)
    came: dict[int, dict[int, int]] = {int(port): {} for port in ports}
    buffer = bytearray(1 << 18)
    say()
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == sys.stdin.fileno():
                if not sys.stdin.readline():
                    return
                say({port: sorted(bins.items()) for port, bins in came.items()})
                came = {port: {} for port in came}
                continue
            each, port, listens = waiting[descriptor]
            if listens:
                taken, _ = each.accept()
                waiting[taken.fileno()] = (taken, port, False)
                poll.register(taken, select.EPOLLIN)
                continue
            try:
                size = each.recv_into(buffer)
            except OSError:
                size = 0
            if not size:
                poll.unregister(each)
                del waiting[descriptor]
                each.close()
                continue
            place = time.time_ns() // BIN_NS * BIN_NS
            came[port][place] = came[port].get(place, 0) + size


# -- pages -----------------------------------------------------------------------------------------------------------


def serve_pages(port: str) -> None:
    """A request says in its first bytes how long the answer is to be."""
    listening = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    say()

    def serve(taken: socket.socket) -> None:
        with taken, contextlib.suppress(OSError, ValueError):
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while request := _take(taken, REQUEST_BYTES):
                taken.sendall(bytes(int(request[:16])))

    while True:
        taken, _ = listening.accept()
        threading.Thread(target=serve, args=(taken,), daemon=True).start()


def browse(address: str, port: str, seconds: str) -> None:
    """Page after page: a document, then its objects by several connections, all of them new."""
    until_s, pages = time.monotonic() + float(seconds), []
    while time.monotonic() < until_s:
        begun_ns = time.time_ns()
        try:
            _load(address, int(port))
        except OSError as error:
            say(f"page: {error}")
            continue
        pages.append((begun_ns, time.time_ns() - begun_ns))
        time.sleep(PAUSE_S)
    say({"pages": pages})


def _load(address: str, port: int) -> None:
    objects = iter(OBJECT_BYTES)
    lock = threading.Lock()
    faults: list[OSError] = []

    def fetch(first: int) -> None:
        try:
            with socket.create_connection((address, port), timeout=30) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                size: int | None = first
                while True:
                    if not size:
                        with lock:
                            size = next(objects, None)
                    if size is None:
                        return
                    connection.sendall(str(size).encode().ljust(16).ljust(REQUEST_BYTES, b"."))
                    if len(_take(connection, size)) < size:
                        raise OSError("cut off")
                    if size == DOCUMENT_BYTES:
                        others.extend(threading.Thread(target=fetch, args=(0,)) for _ in range(CONNECTIONS - 1))
                        for other in others:
                            other.start()
                    size = 0
        except OSError as error:
            faults.append(error)

    others: list[threading.Thread] = []
    fetch(DOCUMENT_BYTES)
    for other in others:
        other.join()
    if faults:
        raise faults[0]


def _take(connection: socket.socket, size: int) -> bytearray:
    taken = bytearray()
    while len(taken) < size:
        part = connection.recv(min(1 << 16, size - len(taken)))
        if not part:
            break
        taken += part
    return taken


PROGRAMS: Final[dict[str, Callable[..., None]]] = {
    each.__name__: each for each in (call, answer_calls, upload, drain, serve_pages, browse)
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
