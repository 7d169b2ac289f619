"""All paths: every interface and link of known networks, who balances how, and where paths part and meet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from probed_network import B_BY_PACKET, B, Node, ProbedNetwork, ToldNetwork, address, hops

from cartographer.measuring.multipath import (
    Balancing,
    Diamond,
    Link,
    Multipath,
    MultipathTerms,
    diamonds_of,
    discover,
    flows_needed,
)
from cartographer.measuring.packets import ProbePacket, Transport
from cartographer.measuring.tracing import End
from cartographer.measuring.wire import WireProber, WireTerms

PROBE = ProbePacket(destination="z", transport=Transport.UDP, ttl=1)
SURE = 0.0001
"""Tests are not for being wrong in one of twenty."""

TERMS = MultipathTerms(probe=PROBE, miss=SURE)


def told(text: str, **nodes: Node) -> dict[str, Node]:
    """ "start>a a>b,c b>d c>d": who leads to whom; `nodes` are changed as given."""
    found = {}
    for word in text.split():
        name, _, towards = word.partition(">")
        found[name] = Node(towards=tuple(towards.split(",")))
    last = {name for node in found.values() for name in node.towards} - set(found)
    return found | {name: Node() for name in last} | nodes


def links_of(nodes: Mapping[str, Node]) -> set[tuple[str, str]]:
    return {(name, far) for name, node in nodes.items() if name != "start" for far in node.towards}


def found_links(paths: Multipath) -> set[tuple[str | None, str | None]]:
    return {(link.near, link.far) for link in paths.links}


def test_the_stopping_rule_is_the_published_table() -> None:
    """Augustin et al. 2007 and Veitch et al. 2009: 95 %, for each balancer."""
    published = [6, 11, 16, 21, 27, 33, 38, 44, 51, 57, 63, 70, 76, 83, 90, 96]
    assert [flows_needed(known) for known in range(1, 17)] == published
    assert flows_needed(1, 0.01) == 8
    assert flows_needed(96) > flows_needed(95)


CHAIN = "start>a a>b b>c c>z"
DIAMOND = "start>a a>b,c b>d c>d d>z"
WIDE = "start>a a>b,c,d,e,f,g,h,i b>j c>j d>j e>j f>j g>j h>j i>j j>z"
LONG = "start>a a>b,c b>d c>e d>f e>f f>z"
MESHED = "start>a a>b,c b>d,e c>d,e d>f e>f f>z"
TWO = "start>a a>b,c b>d c>d d>e,f e>g f>g g>z"
ASYMMETRIC = "start>a a>b,c b>d c>e e>d d>f f>z"
AT_THE_END = "start>a a>b,c b>z c>z"
EVERY = [CHAIN, DIAMOND, WIDE, LONG, MESHED, TWO, ASYMMETRIC, AT_THE_END]


@pytest.mark.parametrize("transport", Transport)
@pytest.mark.parametrize("text", EVERY)
async def test_every_interface_and_link_is_found_and_no_other(text: str, transport: Transport) -> None:
    nodes = told(text)
    terms = replace(TERMS, probe=replace(PROBE, transport=transport))
    paths = await discover(terms, ToldNetwork(nodes))
    assert found_links(paths) == links_of(nodes)
    assert {each.address for hop in paths.hops for each in hop.interfaces} == set(nodes) - {"start"}
    assert (paths.end, paths.is_complete) == (End.REACHED, True)
    assert {each.balancing for each in paths.balancers} <= {Balancing.BY_FLOW}
    assert {each.address for each in paths.balancers} == {name for name, node in nodes.items() if len(node.towards) > 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CHAIN, []),
        (DIAMOND, [("a", "d", 2, 2, 2)]),
        (WIDE, [("a", "j", 8, 2, 2)]),
        (LONG, [("a", "f", 2, 3, 3)]),
        (MESHED, [("a", "f", 2, 3, 3)]),
        (TWO, [("a", "d", 2, 2, 2), ("d", "g", 2, 2, 2)]),
        (ASYMMETRIC, [("a", "d", 2, 2, 3)]),
        (AT_THE_END, [("a", "z", 2, 2, 2)]),
    ],
)
async def test_diamonds_are_measured(text: str, expected: list[tuple[str, str, int, int, int]]) -> None:
    paths = await discover(TERMS, ToldNetwork(told(text)))
    assert [(d.divergence, d.convergence, d.width, d.least_hops, d.most_hops) for d in paths.diamonds] == expected
    assert [diamond.is_asymmetric for diamond in paths.diamonds] == [each[3] != each[4] for each in expected]


async def test_two_ways_of_unequal_length_to_the_end_are_one_diamond() -> None:
    paths = await discover(TERMS, ToldNetwork(told("start>a a>b,c b>z c>d d>z")))
    (diamond,) = paths.diamonds
    assert (diamond.convergence, diamond.least_hops, diamond.most_hops) == ("z", 2, 3)
    assert paths.end is End.REACHED


async def test_without_a_balancer_n_of_one_flows_are_asked_at_each_hop() -> None:
    network = ToldNetwork(told(CHAIN))
    paths = await discover(replace(TERMS, miss=0.05), network)
    assert network.sent == paths.sent == 4 * 6


async def test_a_balancer_by_packet_is_told_from_one_by_flow() -> None:
    nodes = told(DIAMOND, a=Node(towards=("b", "c"), by_packet=True))
    paths = await discover(TERMS, ToldNetwork(nodes))
    (balancer,) = paths.balancers
    assert (balancer.address, balancer.balancing, set(balancer.towards)) == ("a", Balancing.BY_PACKET, {"b", "c"})
    assert found_links(paths) == links_of(nodes)


async def test_behind_a_balancer_by_packet_another_is_not_guessed_at() -> None:
    nodes = told("start>a a>b,c b>d,e c>d,e d>z e>z", a=Node(towards=("b", "c"), by_packet=True))
    paths = await discover(TERMS, ToldNetwork(nodes))
    assert {each.address: each.balancing for each in paths.balancers} == {
        "a": Balancing.BY_PACKET,
        "b": Balancing.UNKNOWN,
        "c": Balancing.UNKNOWN,
    }
    assert {"d", "e"} <= {each.address for hop in paths.hops for each in hop.interfaces}


@pytest.mark.parametrize("transport", Transport)
async def test_a_balancer_may_look_at_some_transports_only(transport: Transport) -> None:
    nodes = told(DIAMOND, a=Node(towards=("b", "c"), hashes=(Transport.TCP,)))
    paths = await discover(replace(TERMS, probe=replace(PROBE, transport=transport)), ToldNetwork(nodes))
    assert len(paths.diamonds) == (transport is Transport.TCP)
    assert paths.is_complete


async def test_a_silent_hop_is_passed_and_a_silent_branch_invents_nothing() -> None:
    hop = await discover(TERMS, ToldNetwork(told(CHAIN, b=Node(towards=("c",), is_silent=True))))
    assert found_links(hop) == {("a", None), (None, "c"), ("c", "z")}
    assert (hop.hops[1].interfaces, hop.hops[1].silent_flows > 0, hop.is_complete) == ((), True, True)
    branch = await discover(TERMS, ToldNetwork(told(LONG, b=Node(towards=("d",), is_silent=True))))
    assert {"a", "c", "d", "e", "f", "z"} == {each.address for hop in branch.hops for each in hop.interfaces}
    assert {("a", "c"), ("c", "e"), ("e", "f"), (None, "d"), ("d", "f")} <= found_links(branch)
    assert branch.hops[1].silent_flows > 0


async def test_silence_ends_it() -> None:
    paths = await discover(TERMS, ToldNetwork(told("start>a a>b b>z", z=Node(is_silent=True))))
    assert paths.end is End.SILENT
    assert found_links(paths) >= {("a", "b"), ("b", None)}


async def test_a_destination_that_limits_its_answers_is_no_branch() -> None:
    """Linux: six ICMP errors, then one a second."""
    paths = await discover(replace(TERMS, miss=0.05), ToldNetwork(told(CHAIN, z=Node(answers_first=3))))
    assert (paths.end, paths.diamonds, len(paths.hops)) == (End.REACHED, (), 4)


@pytest.mark.parametrize("answers", [1, 3, 5, 7])
async def test_a_router_that_limits_its_answers_is_no_branch(answers: int) -> None:
    """Flows that were answered before are not either when they are asked again."""
    nodes = told(CHAIN, b=Node(towards=("c",), answers_first=answers))
    paths = await discover(replace(TERMS, miss=0.05), ToldNetwork(nodes))
    assert found_links(paths) == links_of(nodes)
    assert paths.diamonds == ()


async def test_loss_is_asked_again() -> None:
    paths = await discover(TERMS, ToldNetwork(told(DIAMOND), lose_every=9))
    assert found_links(paths) == links_of(told(DIAMOND))
    assert paths.is_complete


async def test_it_is_bounded_and_says_when_it_was() -> None:
    network = ToldNetwork(told(WIDE))
    paths = await discover(replace(TERMS, most_probes=60), network)
    assert network.sent == paths.sent <= 60
    assert not paths.is_complete
    seen: list[int] = []
    await discover(TERMS, ToldNetwork(told(DIAMOND)), on_change=lambda paths: seen.append(paths.sent))
    assert seen == sorted(seen)
    assert seen


async def test_a_loop_in_the_way_comes_to_an_end() -> None:
    nodes = told("start>a a>b b>a", z=Node())
    paths = await discover(replace(TERMS, last_ttl=9), ToldNetwork(nodes))
    assert (paths.end, len(paths.hops)) == (End.FAR, 9)


def test_a_diamond_whose_end_is_not_known_is_open() -> None:
    links = [Link(ttl=1, near="a", far="b"), Link(ttl=1, near="a", far="c")]
    assert diamonds_of(links) == [
        Diamond(divergence="a", convergence=None, ttl=1, width=2, least_hops=1, most_hops=1),
    ]


# --- real packets -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> Iterator[ProbedNetwork]:
    made = ProbedNetwork()
    yield made
    made.close()


def real(network: ProbedNetwork, destination: str, transport: Transport) -> Multipath:
    async def work() -> Multipath:
        with WireProber(WireTerms(packets_per_s=1000)) as prober:
            port = 80 if transport is Transport.TCP else 33_434
            probe = ProbePacket(destination=destination, transport=transport, ttl=1, port=port)
            return await discover(MultipathTerms(probe=probe, miss=0.001), prober)

    return network["a"].call(lambda: asyncio.run(work()))


@pytest.mark.netns
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP])
def test_a_real_balanced_network_is_as_it_was_built(network: ProbedNetwork, transport: Transport, version: int) -> None:
    paths = real(network, B[version], transport)
    found: list[set[str | None]] = [{each.address for each in hop.interfaces} or {None} for hop in paths.hops]
    assert found == hops(version)
    (balancer,) = paths.balancers
    assert (balancer.address, balancer.balancing) == (address(1, 2, version), Balancing.BY_FLOW)
    (diamond,) = paths.diamonds
    assert (diamond.divergence, diamond.width) == (address(1, 2, version), 2)
    # IPv6 answers from where the probe came in: its paths do not meet before b.
    assert diamond.convergence == (address(4, 2) if version == 4 else B[6])
    assert (paths.end, paths.is_complete, diamond.is_asymmetric) == (End.REACHED, True, False)


@pytest.mark.netns
def test_linux_does_not_balance_icmp_by_flow_and_that_is_what_is_found(network: ProbedNetwork) -> None:
    paths = real(network, B[4], Transport.ICMP)
    assert [len(hop.interfaces) for hop in paths.hops] == [1, 1, 1, 0, 1]
    assert (paths.diamonds, paths.is_complete) == ((), True)


@pytest.mark.netns
def test_a_real_balancer_by_packet_is_one(network: ProbedNetwork) -> None:
    paths = real(network, B_BY_PACKET, Transport.UDP)
    assert [each.balancing for each in paths.balancers] == [Balancing.BY_PACKET]
    assert {each.address for each in paths.hops[1].interfaces} == hops(4)[1]
