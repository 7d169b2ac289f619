"""Routes: what is there is found, what is silent is shown as silent, and others' tools see the same."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from probed_network import B_BY_PACKET, B, Node, ProbedNetwork, ToldNetwork, hops

from cartographer.measuring.packets import Answer, AnswerKind, ProbePacket, Transport
from cartographer.measuring.tracing import UNKNOWN, End, Hop, Route, Trace, TraceTerms, round_trips, trace
from cartographer.measuring.wire import WireProber

PROBE = ProbePacket(destination="10.0.0.9", transport=Transport.UDP, ttl=1)
TERMS = TraceTerms(probe=PROBE)
MS = 1_000_000


def chain(length: int, *, silent: tuple[int, ...] = (), end: Node | None = None) -> dict[str, Node]:
    """Routers 1 to `length`, then the destination."""
    names = ["start", *(f"10.0.1.{number}" for number in range(1, length + 1)), PROBE.destination]
    nodes = {
        name: Node(towards=(names[number + 1],), is_silent=number in silent) for number, name in enumerate(names[:-1])
    }
    return nodes | {names[-1]: end or Node()}


def seen(route: Route) -> list[str]:
    return [" ".join(hop.addresses) or "*" for hop in route.hops]


@pytest.mark.parametrize("transport", Transport)
@pytest.mark.parametrize("length", [0, 1, 4, 17, 29])
async def test_all_hops_are_found_and_each_is_asked_thrice(length: int, transport: Transport) -> None:
    told = ToldNetwork(chain(length))
    route = await trace(replace(TERMS, probe=replace(PROBE, transport=transport)), told)
    assert seen(route) == [*(f"10.0.1.{number}" for number in range(1, length + 1)), PROBE.destination]
    assert (route.end, route.is_reached) == (End.REACHED, True)
    assert [(hop.sent, hop.answered) for hop in route.hops] == [(3, 3)] * (length + 1)
    trips = route.hops[-1].round_trips
    assert trips is not None
    assert trips.least_ns == trips.mean_ns == trips.median_ns == trips.most_ns == (length + 1) * MS
    assert len({(each.flow, each.port) for each in told.asked}) == 1


async def test_the_destination_hears_so_few_probes_that_its_limit_invents_no_loss() -> None:
    """Linux answers six at once and then one a second."""
    for length in range(12):
        told = ToldNetwork(chain(length, end=Node(answers_first=6)))
        route = await trace(TERMS, told)
        assert all(hop.answered == 3 for hop in route.hops), seen(route)
        if length >= 3:  # a nearer one gets more, those of its own hop first
            assert sum(each.ttl > length for each in told.asked) <= UNKNOWN == 6


async def test_silent_hops_are_shown_as_silent() -> None:
    route = await trace(TERMS, ToldNetwork(chain(7, silent=(1, 4, 5))))
    assert seen(route) == ["*", "10.0.1.2", "10.0.1.3", "*", "*", "10.0.1.6", "10.0.1.7", "10.0.0.9"]
    assert [hop.is_silent for hop in route.hops][3:5] == [True, True]
    assert route.hops[3].sent == 3
    assert route.hops[3].round_trips is None


@pytest.mark.parametrize("gap", [1, 3, 5])
async def test_it_ends_after_so_many_silent_hops_and_not_before(gap: int) -> None:
    terms = replace(TERMS, silent_hops=gap)
    silent = tuple(range(3, 3 + gap))
    ended = await trace(terms, ToldNetwork(chain(12, silent=silent)))
    assert (ended.end, len(ended.hops)) == (End.SILENT, 2 + gap)
    went_on = await trace(terms, ToldNetwork(chain(12, silent=silent[1:])))
    assert went_on.is_reached


async def test_a_destination_that_says_nothing_ends_in_silence() -> None:
    route = await trace(TERMS, ToldNetwork(chain(3, end=Node(is_silent=True))))
    assert (route.end, route.is_reached) == (End.SILENT, False)
    assert seen(route) == ["10.0.1.1", "10.0.1.2", "10.0.1.3", *"*****"]


async def test_the_last_ttl_is_the_last() -> None:
    told = ToldNetwork(chain(12))
    route = await trace(replace(TERMS, last_ttl=6, first_ttl=2), told)
    assert (route.end, len(route.hops), route.hops[0].ttl) == (End.FAR, 5, 2)
    assert {each.ttl for each in told.asked} == set(range(2, 7))


def answer(kind: AnswerKind, address: str = "10.0.1.1", *, code: int = 0, ms: int = 1) -> Answer:
    return Answer(kind=kind, address=address, round_trip_ns=ms * MS, code=code)


@pytest.mark.parametrize(
    ("given", "end"),
    [
        (answer(AnswerKind.UNREACHABLE, code=1), End.UNREACHABLE),
        (answer(AnswerKind.UNREACHABLE, code=13), End.UNREACHABLE),
        (answer(AnswerKind.UNREACHABLE, "10.0.0.8", code=3), End.REACHED),  # another address of the destination's
        (answer(AnswerKind.UNREACHABLE, "10.0.0.9", code=10), End.REACHED),
        (answer(AnswerKind.TOO_BIG), End.TOO_BIG),
        (answer(AnswerKind.REPLY, "10.0.0.9"), End.REACHED),
    ],
)
def test_who_says_that_nothing_is_behind_ends_it(given: Answer, end: End) -> None:
    core = Trace(TERMS)
    while ttls := core.next_ttls():
        for ttl in ttls:
            core.on_answer(ttl, given if ttl >= 2 else answer(AnswerKind.TIME_EXCEEDED))
    assert core.is_done
    assert (core.route().end, len(core.route().hops)) == (end, 2)


def test_never_more_than_a_few_are_under_way() -> None:
    core, under_way, most = Trace(replace(TERMS, attempts=10)), list[int](), 0
    while True:
        under_way += core.next_ttls()
        most = max(most, len(under_way))
        if core.is_done:
            break
        ttl = under_way.pop(0)
        core.on_answer(ttl, answer(AnswerKind.REPLY if ttl == 9 else AnswerKind.TIME_EXCEEDED, f"10.0.1.{ttl}"))
    assert most == 16


def test_waiting_is_as_long_as_what_was_heard_says() -> None:
    core = Trace(TERMS)
    core.next_ttls()
    assert core.patience_ns(1) == TERMS.wait_ns
    core.on_answer(2, answer(AnswerKind.TIME_EXCEEDED, ms=1))
    assert core.patience_ns(1) == 25 * MS  # one behind it has answered
    assert core.patience_ns(3) == TERMS.wait_ns
    core.on_answer(3, answer(AnswerKind.TIME_EXCEEDED, ms=40))
    assert core.patience_ns(1) == 25 * MS
    assert core.patience_ns(2) == 100 * MS  # it has answered before: not silent, but slow perhaps
    assert core.patience_ns(3) == 120 * MS
    core.on_answer(1, answer(AnswerKind.TIME_EXCEEDED, ms=900))
    assert core.patience_ns(1) == TERMS.wait_ns


async def test_a_hop_that_never_answers_is_not_waited_for_to_the_end() -> None:
    class Slow(ToldNetwork):
        """Who is silent keeps us waiting, as in the world."""

        async def ask(self, packets: Sequence[ProbePacket], *, wait_ns: int) -> list[Answer | None]:
            answers = await super().ask(packets, wait_ns=wait_ns)
            if answers == [None]:
                await asyncio.Event().wait()
            return answers

    route = await trace(TERMS, Slow(chain(4, silent=(2,))))
    assert (seen(route)[1], route.is_reached, route.hops[1].sent) == ("*", True, 3)


async def test_loss_is_counted_where_it_happens() -> None:
    route = await trace(replace(TERMS, attempts=10), ToldNetwork(chain(3), lose_every=10))
    assert route.is_reached
    assert all(hop.answers.count(None) == hop.sent - hop.answered for hop in route.hops)
    assert 1 <= sum(hop.sent - hop.answered for hop in route.hops) <= 5
    assert all(hop.sent == 10 for hop in route.hops)


async def test_who_looks_on_is_told() -> None:
    told: list[int] = []
    route = await trace(TERMS, ToldNetwork(chain(4)), on_change=lambda route: told.append(len(route.hops)))
    assert told[-1] == len(route.hops) == 5
    assert sorted(told[:3]) == told[:3]


def test_round_trips_are_told_from_their_numbers() -> None:
    trips = round_trips([5, 1, 9, 3])
    assert trips is not None
    assert (trips.least_ns, trips.mean_ns, trips.median_ns, trips.most_ns, trips.last_ns) == (1, 4, 4, 9, 3)
    assert trips.deviation_ns == 3
    assert round_trips([]) is None
    assert Hop(ttl=1, answers=(None,)).is_silent


# --- real packets -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> Iterator[ProbedNetwork]:
    made = ProbedNetwork()
    yield made
    made.close()


def real(network: ProbedNetwork, probe: ProbePacket) -> Route:
    async def work() -> Route:
        with WireProber() as prober:
            return await trace(TraceTerms(probe=probe), prober)

    return network["a"].call(lambda: asyncio.run(work()))


def to_b(version: int, transport: Transport, flow: int = 0) -> ProbePacket:
    port = 80 if transport is Transport.TCP else 33_434
    return ProbePacket(destination=B[version], transport=transport, ttl=1, flow=flow, port=port)


@pytest.mark.netns
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("transport", Transport)
def test_real_routers_are_found(network: ProbedNetwork, transport: Transport, version: int) -> None:
    route = real(network, to_b(version, transport))
    known = hops(version)
    assert route.is_reached
    assert len(route.hops) == len(known)
    for hop, may_be in zip(route.hops, known, strict=True):
        assert len(hop.addresses) <= 1  # a flow has one path
        assert set(hop.addresses) <= may_be
        assert (hop.sent, hop.answered) == (3, 0 if None in may_be else 3)
        assert not any(each and each.quoted_checksum_differs for each in hop.answers)


@pytest.mark.netns
def test_packets_of_one_flow_on_two_paths_are_a_balancer_by_packet(network: ProbedNetwork) -> None:
    route = real(network, replace(to_b(4, Transport.UDP), destination=B_BY_PACKET))
    assert set(route.hops[1].addresses) == hops(4)[1]
    assert route.is_reached


TOOLS = {
    "traceroute": ("traceroute", "-n", "-q", "1", "-w", "0.5"),
    "mtr": ("mtr", "-n", "--report", "-c", "1", "-G", "0.3", "-Z", "1"),
    "scamper": ("scamper", "-I", "trace -P icmp-paris -q 1 -w 1 {}"),
}


@pytest.fixture(scope="module")
def said(network: ProbedNetwork) -> dict[tuple[str, int], str]:
    """What each tool that is installed prints of the way to b; all at once, since they wait most of the time."""

    def say(tool: str, version: int) -> str:
        words = [word.format(B[version]) for word in TOOLS[tool]]
        return network["a"].run(*words, *([B[version]] if B[version] not in words[-1] else []))

    every = [(tool, version) for tool in TOOLS if shutil.which(tool) for version in (4, 6)]
    with ThreadPoolExecutor(len(every) or 1) as pool:
        return dict(zip(every, pool.map(lambda each: say(*each), every), strict=True))


@pytest.mark.netns
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tool", TOOLS)
def test_other_tools_see_the_same_hops(
    network: ProbedNetwork, said: dict[tuple[str, int], str], tool: str, version: int
) -> None:
    if (tool, version) not in said:
        pytest.skip(f"{tool} is not installed, so nothing is compared with it: `scripts/setup --tests` installs it")
    output = said[tool, version]
    theirs = re.findall(r"^ +\d+\.?(?:\|--)? +([0-9a-f.:]+|\*|\?\?\?)(?: |$)", output, re.MULTILINE)
    ours = real(network, to_b(version, Transport.ICMP))
    assert len(theirs) == len(ours.hops), output
    for number, (hop, name) in enumerate(zip(ours.hops, theirs, strict=True)):
        assert (name in "*???") == hop.is_silent
        # The paths of two tools differ where flows are balanced; both must be of those that there are.
        assert hop.is_silent or {name, *hop.addresses} <= hops(version)[number], output
