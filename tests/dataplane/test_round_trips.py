"""Round trips of real sockets, in a namespace of their own."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from netns import Namespace

from dataplane.round_trips import RoundTrip, RoundTrips

pytestmark = pytest.mark.netns
LOCALHOST = {4: socket.inet_aton("127.0.0.1"), 6: socket.inet_pton(socket.AF_INET6, "::1")}


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


def look(namespace: Namespace, exercise: Callable[[RoundTrips], None], *, sockets_max: int = 1000) -> None:
    def inside() -> None:
        with closing(RoundTrips(sockets_max)) as trips:
            exercise(trips)

    namespace.call(inside)


class Pairs:
    """Connected pairs of sockets: (client, accepted)."""

    def __init__(self, count: int, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=count, dualstack_ipv6=host == "::")
        port = self._listener.getsockname()[1]
        to = "127.0.0.1" if host == "::" else host
        self.all = []
        for _ in range(count):
            client = socket.create_connection((to, port))
            self.all.append((client, self._listener.accept()[0]))

    def __enter__(self) -> Pairs:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for each in self.all:
            for end in each:
                end.close()

    def say(self, count: int | None = None) -> None:
        """So many clients send a byte, and it is acknowledged."""
        for client, accepted in self.all[:count]:
            client.send(b"x")
            assert accepted.recv(1) == b"x"


def one(found: list[RoundTrip]) -> RoundTrip:
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_acknowledged_tells_a_round_trip_once(namespace: Namespace, host: str) -> None:
    def exercise(trips: RoundTrips) -> None:
        with Pairs(2, host) as pairs:
            pairs.say()
            first = one(trips.read())  # nothing is new at the first look
            assert (first.now_us, first.receiving_us, first.delivered_packets) == (None, None, 0)
            pairs.say(1)
            second = one(trips.read())
            assert second.local == second.remote == LOCALHOST[6 if ":" in host else 4]
            assert second.sockets == 4
            assert second.now_us is not None
            assert second.least_us is not None
            assert 0 < second.least_us <= second.now_us < 100_000
            assert (second.delivered_packets, second.retransmitted_packets) == (1, 0)
            assert one(trips.read()).now_us is None  # nothing since
            assert one(trips.read()).least_us == second.least_us

    look(namespace, exercise)


def test_a_new_connection_tells_at_once(namespace: Namespace) -> None:
    def exercise(trips: RoundTrips) -> None:
        assert trips.read() == []
        with Pairs(1, "127.0.0.1") as pairs:
            pairs.say()
            assert one(trips.read()).now_us is not None
        assert trips.read() == []

    look(namespace, exercise)


def test_ipv4_by_an_ipv6_socket_is_ipv4(namespace: Namespace) -> None:
    def exercise(trips: RoundTrips) -> None:
        with Pairs(1, "::"):
            found = one(trips.read())
            assert found.remote == LOCALHOST[4]
            assert found.sockets == 2

    look(namespace, exercise)


def test_so_many_sockets_are_read_of_either_family_and_no_more(namespace: Namespace) -> None:
    def exercise(trips: RoundTrips) -> None:
        with Pairs(40, "127.0.0.1"), Pairs(40, "::1"):
            for _ in range(3):  # the look before, that was left in the middle, spoils none
                found = {each.remote: each.sockets for each in trips.read()}
                assert found == {LOCALHOST[4]: 10, LOCALHOST[6]: 10}

    look(namespace, exercise, sockets_max=20)


@pytest.mark.deep
def test_a_look_at_500_sockets_takes_less_than_2_ms(namespace: Namespace) -> None:
    """On a machine with nothing else to do."""

    def exercise(trips: RoundTrips) -> None:
        with ExitStack() as stack:
            for host in ("127.0.0.1", "::1"):
                stack.enter_context(Pairs(125, host)).say()
            took_ns = []
            for _ in range(20):
                begun_ns = time.perf_counter_ns()
                trips.read()
                took_ns.append(time.perf_counter_ns() - begun_ns)
            assert sorted(took_ns)[10] < 2_000_000

    look(namespace, exercise)
