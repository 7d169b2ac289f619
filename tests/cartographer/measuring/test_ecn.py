"""What becomes of ECN and the DSCP: by what routers quote, and by what is answered at all."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from scripted_path import ScriptedPath, path

from cartographer.measuring.ecn import (
    BLACK_HOLE_ROUNDS,
    DscpVerdict,
    EcnVerdict,
    Findings,
    PeerVerdict,
    Rounds,
    check,
    syn_answer,
)
from cartographer.measuring.packets import Answer, AnswerKind, ProbePacket, Transport
from cartographer.measuring.testimony import CE, ECT_0, Target

ICMP, UDP, TCP = Transport.ICMP, Transport.UDP, Transport.TCP


async def checked(way: ScriptedPath, transport: Transport = ICMP, *, reaches: bool = True) -> Findings:
    count = len(way.routers)
    destination = way.routers[-1].address
    target = Target(
        destination=destination,
        transport=transport,
        port=443,
        last_ttl=count if reaches else count - 1,
        reaches=reaches,
    )
    addresses = {number: router.address for number, router in enumerate(way.routers, 1) if not router.silent}
    draw = random.Random(2).randrange
    return await check(way, target, wait_ns=10**9, draw=draw, pause=way.second, addresses=addresses)


def bleach(traffic_class: int) -> int:
    return traffic_class & ~3


def always_ce(traffic_class: int) -> int:
    return traffic_class | 3 if traffic_class & 3 else traffic_class


@pytest.mark.expectation(19)
@pytest.mark.parametrize("transport", [ICMP, UDP, TCP])
async def test_a_path_that_brings_everything_is_trusted_and_costs_few_packets(transport: Transport) -> None:
    way = path()
    found = await checked(way, transport)
    assert found.verdict is EcnVerdict.TRUSTED
    assert found.may_trust_marks
    assert found.dscp_verdict is DscpVerdict.KEPT
    assert found.words.startswith("whole at the destination")
    assert found.hop_ecn == {1: 2, 2: 2, 3: 2, 4: 2, 5: 2}
    assert found.hop_dscp == {1: 46, 2: 46, 3: 46, 4: 46, 5: 46}
    assert found.peer is (PeerVerdict.AGREES if transport is TCP else PeerVerdict.UNKNOWN)
    assert found.returns is EcnVerdict.TRUSTED
    assert way.sent < 40


@pytest.mark.expectation(19)
@pytest.mark.parametrize("transport", [ICMP, UDP, TCP])
async def test_bleaching_is_found_between_two_hops(transport: Transport) -> None:
    way = path()
    way.routers[1].change = bleach
    found = await checked(way, transport)
    assert found.verdict is EcnVerdict.BLEACHED
    assert not found.may_trust_marks
    assert found.change is not None
    assert (found.change.after_ttl, found.change.before_ttl) == (2, 3)
    assert found.words == "ECT(0) is cleared between hop 2 (192.0.2.2) and hop 3 (192.0.2.3)"
    assert found.dscp_verdict is DscpVerdict.KEPT


async def test_a_remarked_dscp_is_said_with_its_new_value_and_does_not_harm_ecn() -> None:
    way = path()
    way.routers[2].change = lambda traffic_class: 10 << 2 | traffic_class & 3
    found = await checked(way)
    assert found.verdict is EcnVerdict.TRUSTED
    assert found.dscp_verdict is DscpVerdict.REMARKED
    assert found.dscp_words == "DSCP 46 becomes 10 between hop 3 (192.0.2.3) and hop 4 (192.0.2.4)"


async def test_a_router_that_clears_the_whole_byte_bleaches_both() -> None:
    way = path()
    way.routers[0].change = lambda traffic_class: 0
    found = await checked(way, TCP)
    assert found.verdict is EcnVerdict.BLEACHED
    assert found.dscp_verdict is DscpVerdict.BLEACHED
    assert found.change is not None
    assert found.change.where == "between hop 1 (192.0.2.1) and hop 2 (192.0.2.2)"


async def test_one_that_makes_ect_1_of_ect_0_remarks() -> None:
    way = path()
    way.routers[1].change = lambda traffic_class: (
        traffic_class & ~3 | 1 if traffic_class & 3 == ECT_0 else traffic_class
    )
    found = await checked(way, UDP)
    assert found.verdict is EcnVerdict.REMARKED
    assert "ECT(0) becomes ECT(1) between hop 2" in found.words


@pytest.mark.parametrize("quotes", [lambda _: 0, bleach])
async def test_a_router_that_quotes_what_did_not_arrive_makes_no_verdict(quotes: object) -> None:
    way = path()
    way.routers[2].quotes = quotes  # type: ignore[assignment]
    found = await checked(way)
    assert found.verdict is EcnVerdict.TRUSTED
    assert found.words == "whole at the destination (what 192.0.2.3 quotes is not believed)"
    assert found.dscp_verdict is DscpVerdict.KEPT


async def test_one_caught_with_the_dscp_is_not_believed_about_ecn_either() -> None:
    way = path()
    way.routers[1].quotes = lambda _: 0
    way.routers[1].change = bleach
    found = await checked(way)
    assert found.verdict is EcnVerdict.BLEACHED
    assert found.change is not None
    assert (found.change.after_ttl, found.change.before_ttl) == (1, 3)


async def test_the_last_witness_alone_makes_no_verdict_either() -> None:
    way = path(answers_udp=False, reflects=False)
    way.routers[3].quotes = bleach
    found = await checked(way, TCP)
    assert found.verdict is EcnVerdict.UNKNOWN
    assert found.words == "only 192.0.2.4 (hop 4) saw it changed, nobody confirms it"


async def test_the_destination_s_own_word_suffices_for_what_happens_behind_the_last_router() -> None:
    way = path()
    way.routers[3].change = bleach
    found = await checked(way, TCP)
    assert found.verdict is EcnVerdict.BLEACHED
    assert found.change is not None
    assert (found.change.after_ttl, found.change.before_ttl) == (4, 5)


async def test_echoes_that_come_back_bare_prove_nothing_but_leave_a_doubt() -> None:
    way = path(answers_udp=False, reflects=False)
    found = await checked(way, ICMP)
    assert found.verdict is EcnVerdict.UNKNOWN
    assert "answers come back without it" in found.words
    way = path(reflects=False)  # here the destination itself says how it arrived
    found = await checked(way, ICMP)
    assert found.verdict is EcnVerdict.TRUSTED
    assert found.returns is EcnVerdict.UNKNOWN


async def test_congestion_marks_are_no_fault_and_a_mark_on_everything_is() -> None:
    way = path()
    marking = random.Random(7)
    way.routers[1].change = lambda traffic_class: always_ce(traffic_class) if marking.random() < 0.5 else traffic_class
    assert (await checked(way, UDP)).verdict is EcnVerdict.TRUSTED
    way = path()
    way.routers[1].change = always_ce
    found = await checked(way, UDP)
    assert found.verdict is EcnVerdict.REMARKED
    assert found.words == "every packet becomes CE between hop 2 (192.0.2.2) and hop 3 (192.0.2.3)"


@pytest.mark.expectation(19)
@pytest.mark.parametrize("transport", [ICMP, UDP, TCP])
async def test_a_black_hole_for_ect_is_found_with_its_place_and_chance(transport: Transport) -> None:
    way = path()
    way.routers[2].drops = lambda probe: probe.ecn != 0
    found = await checked(way, transport)
    assert found.verdict is EcnVerdict.DROPPED
    assert "ECT(0), ECT(1), CE dropped between hop 3 (192.0.2.3) and hop 4 (192.0.2.4)" in found.words
    assert "by chance once in" in found.words
    assert found.dscp_verdict is DscpVerdict.KEPT


async def test_a_black_hole_for_one_dscp_is_told_from_ecn() -> None:
    way = path()
    way.routers[1].drops = lambda probe: probe.dscp == 46
    found = await checked(way)
    assert found.verdict is EcnVerdict.TRUSTED
    assert found.dscp_verdict is DscpVerdict.DROPPED


async def test_plain_loss_and_limits_are_never_a_black_hole() -> None:
    wronged = 0
    for seed in range(150):
        way = path(seed=seed)
        way.routers[1].loss = 0.5
        way.routers[4].answers_per_s, way.routers[4].burst = 2, 1
        found = await checked(way)
        wronged += found.verdict in (EcnVerdict.DROPPED, EcnVerdict.BLEACHED, EcnVerdict.REMARKED)
        wronged += found.dscp_verdict not in (DscpVerdict.KEPT, DscpVerdict.UNKNOWN)
    assert wronged <= 2  # the stated rate: once in 256 at most


async def test_a_server_that_refuses_ecn_and_one_whose_syn_vanishes() -> None:
    refusing = await checked(path(accepts_ecn=False), TCP)
    assert refusing.verdict is EcnVerdict.REFUSED
    assert refusing.peer is PeerVerdict.REFUSES
    vanishing = await checked(path(drops_ecn_syn=True), TCP)
    assert vanishing.verdict is EcnVerdict.DROPPED
    assert vanishing.peer is PeerVerdict.SYN_DROPPED


@pytest.mark.parametrize(
    ("flags", "verdict"),
    [
        (0x52, PeerVerdict.AGREES),
        (0x12, PeerVerdict.REFUSES),
        (0xD2, PeerVerdict.REFUSES),  # repeats what it does not know
        (0x14, PeerVerdict.UNKNOWN),  # closed
    ],
)
def test_what_a_syn_ack_says(flags: int, verdict: PeerVerdict) -> None:
    assert syn_answer(Answer(kind=AnswerKind.REPLY, address="::1", round_trip_ns=1, tcp_flags=flags)) is verdict


async def test_a_path_that_ends_in_silence_is_unknown_but_says_how_far_it_is_whole() -> None:
    way = path()
    way.routers[4].silent = True
    found = await checked(way, TCP, reaches=False)
    assert found.verdict is EcnVerdict.UNKNOWN
    assert found.words == "whole as far as hop 4; nobody behind it says"


async def test_silent_hops_widen_the_place() -> None:
    way = path(6)
    way.routers[2].silent = way.routers[3].silent = True
    way.routers[2].change = bleach
    found = await checked(way)
    assert found.change is not None
    assert (found.change.after_ttl, found.change.before_ttl) == (2, 5)


def test_rounds_settle_with_one_answer_or_ten_silences() -> None:
    rounds = Rounds()
    for _ in range(BLACK_HOLE_ROUNDS - 1):
        rounds.add(plain=True, marked=False)
    assert rounds.is_open
    assert not replace(rounds, answered=1).is_open
    rounds.add(plain=True, marked=False)
    assert rounds.is_black_hole


async def test_ce_that_never_arrives_is_not_trusted() -> None:
    way = path()
    way.routers[1].change = lambda traffic_class: traffic_class & ~3 | 2 if traffic_class & 3 == CE else traffic_class
    found = await checked(way, UDP)
    assert found.verdict is EcnVerdict.REMARKED
    assert "CE becomes ECT(0)" in found.words


def test_probes_at_the_end_have_hops_to_spare() -> None:
    target = Target(destination="192.0.2.9", transport=TCP, port=80, last_ttl=3, reaches=True)
    assert target.probe().ttl == 7
    assert replace(target, reaches=False).probe().ttl == 3
    assert isinstance(target.probe(ttl=1), ProbePacket)


@pytest.mark.expectation(19)
@pytest.mark.parametrize("transport", [ICMP, UDP, TCP])
async def test_whatever_else_goes_wrong_a_verdict_is_right_or_none(transport: Transport) -> None:
    """Silent and limited hops, loss, and routers that quote nonsense; all that is asked is that nothing is made up."""
    changes = {
        EcnVerdict.TRUSTED: lambda traffic_class: traffic_class,
        EcnVerdict.BLEACHED: bleach,
        EcnVerdict.REMARKED: always_ce,
    }
    settled = 0
    for seed in range(120):
        draw = random.Random(seed)
        way = path(draw.randint(3, 9), seed=seed)
        truth = draw.choice(list(changes))
        way.routers[draw.randrange(len(way.routers) - 1)].change = changes[truth]
        for router in way.routers[:-1]:
            router.silent = draw.random() < 0.2
            router.answers_per_s = draw.choice([None, None, None, 0.3, 1, 3])
            router.loss = draw.choice([0.0] * 6 + [0.05, 0.2])
            router.quotes = draw.choice([router.quotes] * 12 + [bleach])
        found = await checked(way, transport)
        assert found.verdict in (truth, EcnVerdict.UNKNOWN), (seed, truth, found.words)
        settled += found.verdict is truth
    assert settled > 80
