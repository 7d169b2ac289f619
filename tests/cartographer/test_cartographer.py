"""Playbooks of the cartographer against ISPs that choose as our gateways do; and nonsense, which changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.header import ISP_WRITTEN, Slot, alternatives_in, is_isp_written, isp_oad, user_oad
from billpay.messages import OadAlternative, OadDescription
from cartographer.cartographer import Cartographer
from cartographer.choice import FREE_SLOT, PathChoice
from cartographer.policy import PathPolicy
from cartographer.split import SplitTerms
from cartographer.suspicion import Unsuspecting
from cartographer.values import Quantity, Wants
from gateway.routing import Alternative, Route

MS = 1_000_000
S = 1000 * MS
X, Y, Z = 64512, 64513, 64514
NAMES = {X: "X", Y: "Y", Z: "Z"}
B = "10.0.1.1"
Oads = tuple[tuple[int, int, int], ...]


@dataclass
class Way:
    """One alternative of an ISP: where it leads, what the ISP keeps, how long it takes there and back."""

    following: int | None  # None: the destination
    toll: int
    delay_ms: int = 10


@dataclass
class Isp:
    ways: dict[int, Way]  # the first one is the default
    honours: bool = True

    def pass_on(self, as_number: int, slots: list[Slot]) -> Way:
        """As a gateway does it: its own slot or the first free one, the wish, the ISP-OAD."""
        numbers = [slot.as_number for slot in slots]
        index = numbers.index(as_number) if as_number in numbers else numbers.index(0) if 0 in numbers else None
        wish = slots[index] if index is not None and as_number in numbers and self.honours else None
        bitmap = ISP_WRITTEN | sum(1 << (number - 1) for number in self.ways)
        route = Route(tuple(Alternative(number, "link", index) for index, number in enumerate(self.ways)), bitmap)
        chosen = route.choose(wish)
        if index is not None:
            slots[index] = route.isp_oad(as_number, chosen)
        return self.ways[chosen.number]


def figure_1() -> dict[int, Isp]:
    """X reaches Y directly (1, the default; 14 n$ in all) or through Z (2; 12 n$)."""
    return {
        X: Isp({1: Way(Y, 4), 2: Way(Z, 1, 5)}),
        Y: Isp({1: Way(None, 10)}),
        Z: Isp({1: Way(Y, 1, 20)}),
    }


def description(
    *alternatives: OadAlternative, as_number: int = X, serial: int = 1, expires: int = 2000
) -> OadDescription:
    return OadDescription(
        issuer="a" * 64,
        as_number=as_number,
        serial=serial,
        prefix="10.0.0.0/16",
        alternatives=alternatives,
        published_unix_s=1000,
        expires_unix_s=expires,
    )


@dataclass
class Journey:
    """A host that sends to B through these ISPs, on a virtual clock."""

    isps: dict[int, Isp]
    cartographer: Cartographer = field(default_factory=Cartographer)
    amount: int = 50
    now_ns: int = 100 * S
    paths: list[str] = field(default_factory=list)  # one line for each packet: "X1 Y1"
    probes: list[tuple[int, tuple[Slot, ...]]] = field(default_factory=list)  # when, and what they asked
    choices: list[PathChoice] = field(default_factory=list)

    def travel(self, slots: tuple[Slot, ...]) -> tuple[Oads, str, int, int]:
        """ISP-OADs as they arrive, the path in words, what is left, the round trip."""
        left, delay_ns, current, words = self.amount, 0, X, []
        written = list(slots)
        while True:
            way = self.isps[current].pass_on(current, written)
            number = next(number for number, item in self.isps[current].ways.items() if item is way)
            words.append(f"{NAMES[current]}{number}")
            left, delay_ns = max(0, left - way.toll), delay_ns + way.delay_ms * MS
            if way.following is None:
                return (
                    tuple((slot.as_number, slot.alternatives, slot.choice) for slot in written),
                    " ".join(words),
                    left,
                    delay_ns,
                )
            current = way.following

    def packet(self, flow: int = 0) -> PathChoice:
        """One packet of the traffic, and its echo."""
        choice = self.cartographer.choose(B, self.now_ns, flow_number=flow)
        oads, words, left, _ = self.travel(choice.slots)
        self.paths.append(words)
        self.choices.append(choice)
        self.cartographer.on_oads_seen(B, oads, self.amount, left, self.now_ns, packets=10)
        return choice

    def probe(self) -> None:
        for asked in self.cartographer.probes_due(B, self.now_ns):
            self.probes.append((self.now_ns, asked))
            oads, _, left, delay_ns = self.travel(asked)
            toll = self.amount - left if self.amount else None
            self.cartographer.on_probe_reply(B, asked, oads, toll, delay_ns, self.now_ns + delay_ns)

    def run(self, seconds: float, *, probing: bool = True) -> None:
        for _ in range(round(seconds * 10)):
            self.packet()
            if probing:
                self.probe()
            self.now_ns += 100 * MS


def figure_1_journey(**changes: int) -> Journey:
    """A seventh less is enough to move for: the paper's 12 n$ instead of 14."""
    return Journey(figure_1(), Cartographer(PathPolicy(**changes), split_terms=SplitTerms(hysteresis_ppm=100_000)))


def switches(paths: list[str]) -> list[int]:
    return [index for index in range(1, len(paths)) if paths[index] != paths[index - 1]]


# --- the paper's discovery example ------------------------------------------------------------------------------------


@pytest.mark.row("BP-28")
def test_discovery_with_knowledge_of_the_topology() -> None:
    """Packet 1 asks nothing and collects X's and Y's ISP-OADs; packet 2 asks X for choice 2 and goes through Z."""
    journey = figure_1_journey()
    told = description(
        OadAlternative(number=1, title="direct", toll_nanodollars=4),
        OadAlternative(number=2, title="through Z", toll_nanodollars=2),
    )
    assert journey.cartographer.on_description(told, 1500, journey.now_ns)
    assert journey.packet().slots == (FREE_SLOT,) * 4
    second = journey.packet()
    assert second.slots == (user_oad(X, choice=2), FREE_SLOT, FREE_SLOT)
    assert second.reason == f"AS {X}: 2 as asked for; AS {Y}: 1 by default; costs least: 12 n$ a packet"
    assert [(as_number, number) for as_number, number, _ in second.rejected] == [(X, 1)]
    assert journey.paths == ["X1 Y1", "X2 Z1 Y1"]
    third = journey.packet()
    assert third.slots == (user_oad(X, choice=2), FREE_SLOT, FREE_SLOT, FREE_SLOT)
    assert third.chosen == ((X, 2), (Z, None), (Y, None))


@pytest.mark.row("BP-28")
def test_discovery_without_knowledge_of_the_topology() -> None:
    """Packet 2 says that 1 is undesirable; X takes another and says which; packet 3 asks for that by its number."""
    journey = figure_1_journey()
    journey.packet()
    assert journey.cartographer.ask_for_other_path(B, journey.now_ns)
    assert journey.packet().slots == (user_oad(X, undesirable=[1]), FREE_SLOT, FREE_SLOT)
    assert journey.packet().slots == (user_oad(X, choice=2), FREE_SLOT, FREE_SLOT, FREE_SLOT)
    assert journey.paths == ["X1 Y1", "X2 Z1 Y1", "X2 Z1 Y1"]


@pytest.mark.row("BP-28")
def test_discovery_by_probes() -> None:
    journey = figure_1_journey()
    journey.run(5)
    assert journey.probes[0][1] == (user_oad(X, undesirable=[1]), FREE_SLOT, FREE_SLOT)
    assert journey.paths[0] == "X1 Y1"
    assert journey.paths[-1] == "X2 Z1 Y1"
    assert len(switches(journey.paths)) == 1, "found by a probe, moved once, and it stays"


def test_of_three_alternatives_each_is_found() -> None:
    isps = {X: Isp({1: Way(None, 9), 2: Way(None, 8), 3: Way(None, 2), 11: Way(None, 20)})}
    journey = Journey(isps)
    journey.run(8)
    asked = [slots[0] for _, slots in journey.probes if slots[0].alternatives][:3]
    assert asked == [user_oad(X, undesirable=[1]), user_oad(X, undesirable=[1, 2]), user_oad(X, undesirable=[1, 2, 3])]
    assert journey.paths[-1] == "X3"


# --- following the toll -----------------------------------------------------------------------------------------------


@pytest.mark.row("BP-03")
def test_traffic_leaves_an_isp_that_doubles_its_toll() -> None:
    isps = {
        X: Isp({1: Way(Y, 2), 2: Way(Z, 2)}),
        Y: Isp({1: Way(None, 8)}),
        Z: Isp({1: Way(None, 9)}),
    }
    journey = Journey(isps)
    journey.run(20)
    assert set(journey.paths) == {"X1 Y1"}
    isps[Y].ways[1] = Way(None, 16)
    del journey.paths[:]
    journey.run(20)
    assert journey.paths[-1] == "X2 Z1"
    assert len(switches(journey.paths)) == 1, "and it stays away"
    isps[Y].ways[1] = Way(None, 8)
    journey.run(30)
    assert journey.paths[-1] == "X2 Z1", "1 of 11 n$ less is not worth moving back"
    isps[Y].ways[1] = Way(None, 6)
    journey.run(30)
    assert journey.paths[-1] == "X1 Y1", "the probes went on, so the repaired way was found again"
    assert journey.choices[-1].slots == (FREE_SLOT,) * 3, "the default again, so nothing is asked"


@pytest.mark.row("BP-03", "BP-31")
@pytest.mark.parametrize("round_trip_ms", [20, 100, 400])
@pytest.mark.parametrize("draws", [1, 2, 3])
def test_the_whole_traffic_leaves_within_ten_round_trips(round_trip_ms: int, draws: int) -> None:
    """A hundred flows; a packet and its echo each round trip. From the first dear echo on."""
    isps = {X: Isp({1: Way(None, 10, round_trip_ms), 2: Way(None, 11, round_trip_ms)})}
    journey = Journey(isps, Cartographer(draw=Random(draws).random))
    for _ in range(200):
        journey.packet()
        journey.probe()
        journey.now_ns += round_trip_ms * MS
    flows = [number * 0x9E3779B97F4A7C15 % 2**64 for number in range(100)]

    def on_2() -> int:
        now_ns = journey.now_ns
        return sum(journey.cartographer.choose(B, now_ns, flow_number=flow).way == f"AS{X}:2" for flow in flows)

    assert on_2() <= 10, "at most the part that finds out"
    isps[X].ways[1] = Way(None, 20, round_trip_ms)
    moved = []
    for at in range(11):
        for flow in flows[4 * at : 4 * at + 4]:
            journey.packet(flow)
            journey.probe()
            journey.now_ns += round_trip_ms * MS // 4
        moved.append(on_2())
    assert max(later - earlier for earlier, later in pairwise(moved)) <= 25, "a part in each round trip, not all"
    assert moved[10] >= 90, "one round trip for the probe that confirms it, ten to move"


def test_delay_counts_by_what_a_millisecond_is_worth() -> None:
    isps = {X: Isp({1: Way(None, 10, 10), 2: Way(None, 5, 30)})}
    patient = Journey(isps)
    hasty = Journey(isps, Cartographer(PathPolicy(delay_value_nanodollars_per_ms=1)))
    for journey in (patient, hasty):
        journey.run(20)
    assert patient.paths[-1] == "X2"
    assert set(hasty.paths) == {"X1"}
    assert hasty.choices[-1].rejected[0][:2] == (X, 2)
    assert "15 n$ more" in hasty.choices[-1].rejected[0][2]


@pytest.mark.row("BP-29")
def test_what_a_class_of_flows_minds_decides_its_alternative() -> None:
    """Dear and quick, cheap and slow, cheap and lossy: one destination, three classes, three answers."""
    isps = {X: Isp({1: Way(None, 20, 10), 2: Way(None, 4, 60), 3: Way(None, 1, 60)})}
    quick = Wants(name="quick", delay_nanodollars_per_ms=10)
    cheap = Wants(name="cheap", delay_nanodollars_per_ms=0)
    whole = Wants(name="whole", delay_nanodollars_per_ms=0, loss_nanodollars=1000)
    wants = {item.name: item for item in (quick, cheap, whole)}
    journey = Journey(isps, Cartographer(PathPolicy(delay_value_nanodollars_per_ms=1), wants=wants))
    for _ in range(600):
        for name in wants:
            journey.cartographer.choose(B, journey.now_ns, wants=name)
        journey.packet()
        for asked in journey.cartographer.probes_due(B, journey.now_ns):
            oads, words, left, delay_ns = journey.travel(asked)
            journey.cartographer.on_probe_reply(B, asked, oads, journey.amount - left, delay_ns, journey.now_ns)
            if words == "X3":
                journey.cartographer.on_traffic(B, f"AS{X}:3", sent=100, lost=5, now_ns=journey.now_ns)
        journey.now_ns += 100 * MS
    taken = {name: journey.cartographer.choose(B, journey.now_ns, wants=name).way for name in wants}
    assert taken == {"quick": f"AS{X}:1", "cheap": f"AS{X}:3", "whole": f"AS{X}:2"}
    assert journey.cartographer.choose(B, journey.now_ns, wants="unheard-of").way == f"AS{X}:1", "as the default does"


def test_two_isps_with_alternatives_are_improved_one_after_the_other() -> None:
    isps = {
        X: Isp({1: Way(Y, 8), 2: Way(Y, 3)}),
        Y: Isp({1: Way(None, 9), 2: Way(None, 2), 3: Way(None, 30)}),
    }
    journey = Journey(isps)
    journey.run(60)
    assert journey.paths[-1] == "X2 Y2"
    assert len(switches(journey.paths)) <= 4


def test_however_the_tolls_jump_the_shares_do_not() -> None:
    """The dear way is always the one with most of the traffic: the worst there is."""
    isps = {X: Isp({1: Way(None, 10), 2: Way(None, 10)})}
    journey = Journey(isps)
    shares: list[int] = []
    for step in range(300):
        journey.run(0.1)
        if step % 5 == 0:
            known = {fact.way: fact.share_ppm for fact in journey.cartographer.ways(journey.now_ns)}
            dear = 1 if known.get(f"AS{X}:1", 0) >= known.get(f"AS{X}:2", 0) else 2
            isps[X].ways = {number: Way(None, 40 if number == dear else 1) for number in (1, 2)}
        facts = journey.cartographer.ways(journey.now_ns)
        shares.append(next((fact.share_ppm for fact in facts if fact.way == f"AS{X}:2"), 0))
    assert max(abs(later - earlier) for earlier, later in pairwise(shares)) <= 150_000


# --- defaults and disobedience ----------------------------------------------------------------------------------------


@pytest.mark.row("BP-27")
def test_nothing_is_asked_where_there_is_no_alternative_or_the_default_is_best() -> None:
    isps = {X: Isp({1: Way(Y, 1), 2: Way(Y, 5)}), Y: Isp({1: Way(None, 1)})}
    journey = Journey(isps)
    journey.run(20)
    assert all(slot == FREE_SLOT for choice in journey.choices for slot in choice.slots)
    assert journey.choices[-1].chosen == ((X, None), (Y, None))
    assert [len(choice.slots) for choice in journey.choices[:2]] == [4, 3], (
        "the header shrinks to the path and one more"
    )
    assert not any(slot.as_number == Y for _, slots in journey.probes for slot in slots)


def test_a_path_longer_than_the_slots_is_found_out() -> None:
    numbers = range(1, 7)
    journey = Journey({})
    for _ in range(10):
        slots = list(journey.cartographer.choose(B, journey.now_ns).slots)
        for index, number in zip(range(len(slots)), numbers, strict=False):
            slots[index] = isp_oad(number, available=[1], choice=1)
        journey.cartographer.on_oads_seen(B, slots, 10, 5, journey.now_ns)
        journey.now_ns += 100 * MS
    assert len(journey.cartographer.choose(B, journey.now_ns).chosen) == 6
    assert len(slots) == 7


@pytest.mark.row("BP-26")
def test_an_isp_that_ignores_wishes_is_not_asked_again_for_a_minute() -> None:
    isps = figure_1()
    isps[X].honours = False
    journey = Journey(isps)
    journey.packet()
    assert journey.cartographer.ask_for_other_path(B, journey.now_ns)
    start_ns = journey.now_ns
    journey.run(60)
    asked = sum(any(slot.as_number for slot in choice.slots) for choice in journey.choices)
    assert 5 <= asked <= 16, "a second to settle, then five echoes, of traffic or probes"
    assert set(journey.paths) == {"X1 Y1"}
    late = [slots for at_ns, slots in journey.probes if at_ns - start_ns > 4 * S]
    assert len(late) >= 5
    assert all(slot == FREE_SLOT for slots in late for slot in slots)
    assert any(f"AS {X} ignored 5 wishes for it" in choice.reason for choice in journey.choices)
    journey.run(15)
    assert any(slot.as_number == X for _, slots in journey.probes[-30:] for slot in slots), "asked again after a minute"


@pytest.mark.row("BP-26")
def test_an_isp_that_stops_to_obey_loses_its_wish_and_the_truth_is_shown() -> None:
    journey = figure_1_journey()
    journey.run(10)
    assert journey.paths[-1] == "X2 Z1 Y1"
    journey.isps[X].honours = False
    journey.run(10)
    assert journey.choices[-1].chosen == ((X, None), (Y, None))
    assert (X, 2, f"AS {X} ignored 5 wishes for it") in journey.choices[-1].rejected
    shown = {(fact.as_number, fact.alternative): fact for fact in journey.cartographer.view(journey.now_ns)}
    assert shown[X, 1].chosen
    assert not shown[X, 2].chosen


def test_an_alternative_that_disappears_is_left_at_once() -> None:
    journey = figure_1_journey()
    journey.run(10)
    del journey.isps[X].ways[2]
    journey.packet()
    choice = journey.packet()
    assert choice.slots == (FREE_SLOT,) * 3
    assert journey.paths[-1] == "X1 Y1"


class Judge(Unsuspecting):
    """Has something against an alternative, or not."""

    bad: tuple[int, int] | None = None

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def objection(self, as_number: int, alternative: int, now_ns: int, destination: str = "") -> str:
        return "it keeps payments and drops" if (as_number, alternative) == self.bad else ""

    def on_wish(self, as_number: int, alternative: int, *, followed: bool, **_: object) -> None:
        self.heard.append((f"AS{as_number}:{alternative}", "followed" if followed else "ignored"))

    def on_paid_packets(self, way: str, *, sent: int, arrived: int, **_: object) -> None:
        self.heard.append((way, f"{arrived} of {sent}"))


@pytest.mark.row("BP-31")
def test_an_isp_that_is_found_greedy_loses_the_traffic_and_may_win_it_back() -> None:
    judge = Judge()
    isps = {X: Isp({1: Way(Y, 4), 2: Way(Z, 9)}), Y: Isp({1: Way(None, 4)}), Z: Isp({1: Way(None, 9)})}
    journey = Journey(isps, Cartographer(judge=judge))
    journey.run(10)
    assert journey.paths[-1] == "X1 Y1"
    judge.bad = (Y, 1)
    start = len(journey.paths)
    journey.run(2)
    assert journey.paths[-1] == "X2 Z1"
    assert switches(journey.paths)[-1] - start <= 10
    assert (X, 1, "it keeps payments and drops") in journey.choices[-1].rejected
    probes = len(journey.probes)
    journey.run(20)
    assert any(not slots[0].as_number for _, slots in journey.probes[probes:]), "it is still looked at"
    judge.bad = None
    journey.run(20)
    assert journey.paths[-1] == "X1 Y1"


@pytest.mark.row("BP-26")
def test_the_judge_hears_what_became_of_wishes_and_of_paid_packets() -> None:
    judge = Judge()
    isps = figure_1()
    isps[X].honours = False
    journey = Journey(isps, Cartographer(judge=judge))
    journey.run(5)
    assert (f"AS{X}:0", "ignored") in judge.heard
    assert (f"AS{X}:1 AS{Y}:1", "10 of 10") in judge.heard
    assert (f"AS{X}:1 AS{Y}:1", "1 of 1") in judge.heard, "probes are paid packets, too"


# --- the price reactor's wish -----------------------------------------------------------------------------------------


def test_other_paths_are_taken_in_turn_and_those_left_are_avoided() -> None:
    isps = {X: Isp({1: Way(None, 1), 2: Way(None, 5), 3: Way(None, 9)})}
    journey = Journey(isps)
    journey.run(5)
    for expected in ("X2", "X3", "X1"):
        assert journey.cartographer.ask_for_other_path(B, journey.now_ns)
        assert not journey.cartographer.ask_for_other_path(B, journey.now_ns), "the move has to show its effect first"
        journey.run(4)
        assert journey.paths[-1] == expected


def test_after_a_while_the_cheaper_path_is_no_longer_avoided() -> None:
    journey = Journey({X: Isp({1: Way(None, 1), 2: Way(None, 5)})})
    journey.run(5)
    journey.cartographer.ask_for_other_path(B, journey.now_ns)
    journey.run(29)
    assert journey.paths[-1] == "X2"
    assert (X, 1, "this transfer was too slow over it a moment ago") in journey.choices[-1].rejected
    assert journey.choices[-1].reason.endswith(f"here because AS{X}:1 was too slow")
    other = journey.cartographer.choose(B, journey.now_ns, flow_number=1)
    assert other.way == f"AS{X}:1", "no other flow was moved"
    journey.run(3)
    assert journey.paths[-1] == "X1"


def test_there_may_be_no_other_path() -> None:
    journey = Journey({X: Isp({1: Way(None, 1)})})
    assert not journey.cartographer.ask_for_other_path(B, journey.now_ns)
    journey.run(1)
    assert not journey.cartographer.ask_for_other_path(B, journey.now_ns)


# --- probes -----------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-31", "BP-47")
def test_probes_reach_every_alternative_each_ten_seconds_and_are_one_in_a_hundred_packets_else() -> None:
    isps = {X: Isp({number: Way(None, number) for number in range(1, 9)})}
    journey = Journey(isps)
    journey.run(60)
    times = [at_ns for at_ns, _ in journey.probes]
    late = [(at_ns, slots[0].choice) for at_ns, slots in journey.probes if at_ns > times[0] + 10 * S]
    assert {choice for _, choice in late} == {0, 2, 3, 4, 5, 6, 7, 8}
    for number in range(2, 9):
        asked = [at_ns for at_ns, choice in late if choice == number]
        assert max(later - earlier for earlier, later in pairwise(asked)) <= 10 * S + 8 * 500 * MS
    packets = 10 * len(journey.paths)
    assert len(times) <= packets // 100 + 8 * (60 // 10 + 1) + 4


@pytest.mark.row("BP-31")
def test_a_way_that_gets_slower_loses_the_traffic_soon() -> None:
    """Its packets do not show the delay, so their share of probes goes to it, once a second."""
    isps = {X: Isp({1: Way(None, 5, 20), 2: Way(None, 5, 30)})}
    journey = Journey(isps, Cartographer(PathPolicy(delay_value_nanodollars_per_ms=1)))
    journey.run(60)
    assert journey.paths[-1] == "X1"
    isps[X].ways[1] = Way(None, 5, 90)
    start, probes = len(journey.paths), len(journey.probes)
    journey.run(20)
    assert journey.paths[-1] == "X2"
    assert switches(journey.paths)[-1] - start <= 60, "three probes to be sure, and some round trips to move"
    assert len(journey.probes) - probes <= 20 + 2 * 3 + 8
    isps[X].ways[1] = Way(None, 5, 20)
    journey.run(60)
    assert journey.paths[-1] == "X1", "repaired"


@pytest.mark.row("BP-47")
def test_probes_stay_within_the_hours_budget_and_what_they_cost_is_shown() -> None:
    journey = Journey({X: Isp({1: Way(None, 10), 2: Way(None, 10)})}, Cartographer(PathPolicy(
        probe_nanodollars_per_hour=36)))  # fmt: skip
    journey.run(300)
    spent = journey.cartographer.probes()
    assert spent.spent_nanodollars == 10 * len(journey.probes)
    assert 30 <= spent.spent_nanodollars <= 36 + 3 + 10, "of an hour, of five minutes, and one that was under way"
    assert journey.cartographer.probes_due(B, journey.now_ns + S) == []
    assert journey.cartographer.probes_due(B, journey.now_ns + S, own_budget=True), "who cannot wait has his own"


def test_a_destination_without_traffic_is_not_probed() -> None:
    journey = figure_1_journey()
    assert journey.cartographer.probes_due(B, journey.now_ns) == []
    journey.run(5)
    assert journey.cartographer.probes_due(B, journey.now_ns + 11 * S) == []
    assert journey.cartographer.probes_due("10.9.9.9", journey.now_ns) == []


def test_lost_probes_do_not_keep_the_others_waiting() -> None:
    journey = Journey({X: Isp({1: Way(None, 1), 2: Way(None, 2), 3: Way(None, 3)})})
    journey.packet()
    kinds = []
    for _ in range(150):
        journey.packet()
        for slots in journey.cartographer.probes_due(B, journey.now_ns):
            kinds.append(slots[0])
            journey.cartographer.on_probe_lost(B, slots, journey.now_ns)
        journey.now_ns += 100 * MS
    assert {user_oad(X, undesirable=[1]), FREE_SLOT} == set(kinds)
    assert kinds.count(FREE_SLOT) >= 2


@pytest.mark.row("BP-31")
def test_a_way_that_loses_its_probes_loses_the_traffic() -> None:
    """Nothing else tells of a way that swallows all: no echo comes."""
    isps = {X: Isp({1: Way(None, 10), 2: Way(None, 20)})}
    journey = Journey(isps, Cartographer(PathPolicy(delay_value_nanodollars_per_ms=1)))
    journey.run(20)
    assert journey.paths[-1] == "X1"
    for _ in range(60):
        choice = journey.cartographer.choose(B, journey.now_ns)
        if choice.way == f"AS{X}:1":
            journey.cartographer.on_silence(B, choice.way, journey.now_ns)
        for asked in journey.cartographer.probes_due(B, journey.now_ns):
            oads, words, left, delay_ns = journey.travel(asked)
            if words == "X1":
                journey.cartographer.on_probe_lost(B, asked, journey.now_ns, amount_nanodollars=50)
            else:
                journey.cartographer.on_probe_reply(B, asked, oads, 50 - left, delay_ns, journey.now_ns)
        journey.now_ns += 100 * MS
    assert journey.cartographer.choose(B, journey.now_ns).way == f"AS{X}:2"
    lost = journey.cartographer.probes().lost
    assert 1 <= lost <= 10
    journey.run(60)
    assert journey.paths[-1] == "X1", "it was repaired, and the probes went on"


@pytest.mark.row("BP-31")
def test_what_is_known_gets_less_sure_with_age() -> None:
    journey = Journey({X: Isp({1: Way(None, 10), 2: Way(None, 10)})})
    journey.run(5)
    now = {fact.alternative: fact for fact in journey.cartographer.view(journey.now_ns)}
    journey.cartographer.choose(B, journey.now_ns + 600 * S)  # it is in use again
    later = {fact.alternative: fact for fact in journey.cartographer.view(journey.now_ns + 600 * S)}
    for number in (1, 2):
        toll = Quantity.FORWARD_TOLL_PICODOLLARS
        assert now[number].estimates[toll].uncertainty < later[number].estimates[toll].uncertainty
        assert later[number].ages_s[toll] >= 600


# --- descriptions -----------------------------------------------------------------------------------------------------


def test_newer_serials_replace_and_expired_descriptions_are_dropped() -> None:
    journey = figure_1_journey()
    cheap = OadAlternative(number=2, title="through Z", toll_nanodollars=1)
    direct = OadAlternative(number=1, title="direct", toll_nanodollars=4)
    now_ns = journey.now_ns
    learn = journey.cartographer.on_description
    assert not learn(description(cheap, direct, expires=1500), 1500, now_ns)
    assert learn(description(cheap, direct, serial=5, expires=1510), 1500, now_ns)
    assert not learn(description(cheap, direct, serial=5), 1500, now_ns)
    assert not learn(description(serial=4), 1500, now_ns)
    assert learn(description(direct, serial=6, expires=1510), 1500, now_ns)
    journey.packet()
    assert journey.packet().slots == (FREE_SLOT,) * 3, "the newer one does not promise anything of 2"
    promised = {fact.alternative: fact for fact in journey.cartographer.view(now_ns) if fact.as_number == X}
    assert promised[1].promised_toll_nanodollars == 4
    assert (promised[1].signed_by, promised[1].serial, promised[1].title) == ("a" * 64, 6, "direct")
    assert promised[2].promised_toll_nanodollars is None
    later_ns = now_ns + 11 * S
    assert learn(description(cheap, direct, serial=1), 1511, later_ns), "the others have expired"
    journey.cartographer.choose(B, later_ns)
    promised = {fact.alternative: fact for fact in journey.cartographer.view(later_ns) if fact.as_number == X}
    assert promised[2].promised_toll_nanodollars == 1
    assert journey.cartographer.on_published("b" * 64, X, []) == 0, "not this issuer's"
    assert journey.cartographer.on_published("a" * 64, X, ["10.0.0.0/16"]) == 0
    assert journey.cartographer.on_published("a" * 64, X, []) == 1
    assert not journey.cartographer.on_withdrawn("a" * 64, X, "10.0.0.0/16"), "it is not there any more"


def test_an_alternative_described_as_unavailable_is_neither_probed_nor_chosen() -> None:
    journey = figure_1_journey()
    closed = OadAlternative(number=2, title="through Z", toll_nanodollars=0, available=False)
    journey.cartographer.on_description(description(closed), 1500, journey.now_ns)
    journey.run(10)
    assert set(journey.paths) == {"X1 Y1"}
    assert all(slot == FREE_SLOT for _, slots in journey.probes for slot in slots)


def test_a_broken_promise_does_not_call_the_traffic_back() -> None:
    journey = figure_1_journey()
    journey.isps[X].ways[2] = Way(Z, 40)
    told = description(
        OadAlternative(number=1, title="direct", toll_nanodollars=4),
        OadAlternative(number=2, title="through Z", toll_nanodollars=1),
    )
    journey.cartographer.on_description(told, 1500, journey.now_ns)
    journey.run(2, probing=False)
    journey.run(58)
    assert journey.paths[1] == "X2 Z1 Y1"
    assert set(journey.paths[60:]) == {"X1 Y1"}
    assert len(switches(journey.paths)) == 2


def test_unreadable_and_foreign_prefixes_are_no_description_of_the_path() -> None:
    journey = figure_1_journey()
    learn = journey.cartographer.on_description
    told = description(OadAlternative(number=2, title="", available=False))
    for prefix, held in (("10.0.0.1/16", False), ("nonsense", False), ("fd00::/8", True), ("192.0.2.0/24", True)):
        changed = type(told)(**{name: getattr(told, name) for name in told.__struct_fields__} | {"prefix": prefix})
        assert learn(changed, 1500, journey.now_ns) is held
    journey.run(5)
    assert journey.paths[-1] == "X2 Z1 Y1"


def test_another_issuer_does_not_replace_a_description() -> None:
    cartographer = Cartographer()
    told = description(OadAlternative(number=2, title=""))
    other = type(told)(
        **{name: getattr(told, name) for name in told.__struct_fields__} | {"issuer": "b" * 64, "serial": 9}
    )
    assert cartographer.on_description(told, 1500, 0)
    assert not cartographer.on_description(other, 1500, 0)


# --- what people see --------------------------------------------------------------------------------------------------


def test_view_shows_what_is_known_and_why() -> None:
    journey = figure_1_journey()
    journey.run(10)
    shown = {(fact.as_number, fact.alternative): fact for fact in journey.cartographer.view(journey.now_ns)}
    assert set(shown) == {(X, 1), (X, 2), (Z, 1), (Y, 1)}
    taken, left = shown[X, 2], shown[X, 1]
    assert (taken.chosen, taken.toll_nanodollars, taken.delay_ns, taken.age_s) == (True, 12, 35 * MS, 0)
    asked = f"AS {X}: 2 as asked for; AS {Z}: 1 by default; AS {Y}: 1 by default; "
    assert taken.reason.startswith(asked + "costs least: 12 n$ a packet")
    assert (left.chosen, left.toll_nanodollars, left.delay_ns) == (False, 14, 20 * MS)
    assert "2 n$ more" in left.reason
    assert taken.destination == B
    assert (taken.share_ppm, left.share_ppm) == (1_000_000, 0)
    assert (left.is_default, taken.is_default) == (True, False)


def test_the_ways_show_what_each_costs_and_why_not() -> None:
    journey = figure_1_journey()
    journey.run(10)
    ways = {fact.way: fact for fact in journey.cartographer.ways(journey.now_ns)}
    taken, left = ways[f"AS{X}:2 AS{Z}:1 AS{Y}:1"], ways[f"AS{X}:1 AS{Y}:1"]
    assert (taken.chosen, taken.share_ppm, taken.wants, taken.seen) == (True, 1_000_000, "default", True)
    assert (taken.cost_picodollars, left.cost_picodollars) == (12_000, 14_000)
    assert "2 n$ more" in left.reason
    assert left.estimates[Quantity.DELAY_NS].value == 20 * MS
    assert left.probed_s is not None
    qualities = {item.way: item for item in journey.cartographer.quality(journey.now_ns)}
    assert qualities.keys() == {taken.way, left.way}
    assert qualities[left.way].estimates[Quantity.FORWARD_TOLL_PICODOLLARS].value == 14_000


# --- whatever arrives -------------------------------------------------------------------------------------------------

NONSENSE = [
    (0, ISP_WRITTEN | 1, 1),  # a free slot's number
    (70_000, ISP_WRITTEN | 1, 1),
    (-1, ISP_WRITTEN | 1, 1),
    (X, 0, 0),  # nobody wrote it
    (X, 3, 1),  # the sender wrote it
    (X, ISP_WRITTEN, 1),  # no alternative at all
    (X, ISP_WRITTEN | 1, 2),  # a choice that it does not have
    (X, ISP_WRITTEN | 1, 0),
    (X, ISP_WRITTEN | 0x7FF, 12),
    (X, 0x1FFF, 1),
    (X, -1, 1),
]


@pytest.mark.parametrize("oad", NONSENSE)
def test_nonsense_changes_nothing(oad: tuple[int, int, int]) -> None:
    journey = figure_1_journey()
    cartographer = journey.cartographer
    cartographer.on_oads_seen(B, [oad], 10, 5, journey.now_ns)
    assert not tuple(cartographer.view(journey.now_ns))
    journey.run(10)
    before = tuple(cartographer.view(journey.now_ns))
    cartographer.on_oads_seen(B, [oad], 10, 5, journey.now_ns)
    cartographer.on_probe_reply(B, (), [oad], 5, 5, journey.now_ns)
    assert tuple(cartographer.view(journey.now_ns)) == before


def test_impossible_money_and_times_change_nothing() -> None:
    journey = figure_1_journey()
    journey.run(10)
    cartographer, now_ns = journey.cartographer, journey.now_ns
    before = tuple(cartographer.view(now_ns))
    good = isp_oad(X, available=[1, 2, 3], choice=3)
    cartographer.on_oads_seen(B, [good], 5, 6, now_ns)
    cartographer.on_oads_seen(B, [good], -5, -6, now_ns)
    cartographer.on_oads_seen(B, [good] * 8, 5, 5, now_ns)
    cartographer.on_oads_seen(B, [good, good], 5, 5, now_ns)
    cartographer.on_probe_reply(B, (), [good], -1, 5, now_ns)
    cartographer.on_probe_reply(B, (), [good], 1, -5, now_ns)
    cartographer.on_probe_reply("10.9.9.9", (), [good], 1, 5, now_ns)
    assert tuple(cartographer.view(now_ns)) == before


def test_sizes_are_bounded() -> None:
    cartographer = Cartographer(PathPolicy(max_destinations=3, max_descriptions=2))
    for number in range(1, 200):
        cartographer.on_oads_seen(f"10.0.0.{number}", [isp_oad(X, available=[1], choice=1)], 1, 1, number)
        cartographer.choose(f"10.0.0.{number}", number)
        cartographer.on_oads_seen(B, [isp_oad(number, available=[1], choice=1)], 1, 1, number)
    assert {fact.destination for fact in cartographer.view(200)} == {"10.0.0.198", "10.0.0.199", B}
    assert [cartographer.on_description(description(as_number=number), 1500, 200) for number in (1, 2, 3)] == [
        True,
        True,
        False,
    ]


slots = st.one_of(
    st.builds(
        Slot,
        st.sampled_from([X, Y, Z]),
        st.integers(0, 0xFFF).map(lambda bitmap: bitmap | ISP_WRITTEN),
        st.integers(0, 11),
    ),
    st.tuples(st.integers(-1, 70_000), st.integers(-1, 0x1FFF), st.integers(-1, 16)),
)
small = st.integers(-2, 100)
events = st.lists(
    st.tuples(
        st.sampled_from(["traffic", "probe", "choose", "other", "describe"]),
        st.lists(slots, max_size=7),
        small,
        small,
        st.integers(0, 4 * S),
    ),
    max_size=40,
)


@given(happenings=events)
def test_never_asks_for_an_alternative_that_is_known_to_be_unavailable(
    happenings: list[tuple[str, list[tuple[int, int, int]], int, int, int]],
) -> None:
    cartographer = Cartographer()
    now_ns = 0
    closed: set[int] = set()
    for serial, (kind, oads, one, two, gap_ns) in enumerate(happenings):
        now_ns += gap_ns
        match kind:
            case "traffic":
                cartographer.on_oads_seen(B, oads, one, two, now_ns)
            case "probe":
                asked = [Slot(*oad) for oad in oads[:1]]
                cartographer.on_probe_reply(B, asked, oads, one, two, now_ns)
            case "other":
                cartographer.ask_for_other_path(B, now_ns)
            case "describe":
                number = abs(one) % 11 + 1
                item = OadAlternative(number=number, title="", toll_nanodollars=abs(two), available=two % 2 == 0)
                assert cartographer.on_description(description(item, serial=serial), 0, now_ns)
                closed = set() if item.available else {number}
        choice = cartographer.choose(B, now_ns)
        available = {(fact.as_number, fact.alternative) for fact in cartographer.view(now_ns)}
        assert not {(X, number) for number in closed} & available
        record = cartographer._map.get(B)  # the traffic may be asked to go another way than it went last
        assert record is not None
        isps = record.isps.items()
        offered = {(number, item) for number, isp in isps for item in alternatives_in(isp.bitmap)}
        offered -= {(X, number) for number in closed}
        asked_for = [*choice.slots]
        for probe in cartographer.probes_due(B, now_ns):
            asked_for += probe
        assert len(choice.slots) <= 7
        for slot in asked_for:
            assert not is_isp_written(slot)
            assert slot.choice == 0 or (slot.as_number, slot.choice) in offered


@pytest.mark.row("BP-17", "BP-18")
def test_who_takes_a_raise_back_is_found_again_in_half_the_time_that_it_lasted() -> None:
    """By probes alone: no traffic goes there any more."""
    isps = {X: Isp({1: Way(None, 20, 10), 2: Way(None, 28, 10)})}
    journey = Journey(isps)
    journey.run(10)
    isps[X].ways[1] = Way(None, 40, 10)
    journey.run(6)
    assert journey.paths[-1] == "X2"
    isps[X].ways[1] = Way(None, 20, 10)
    journey.run(6)
    assert journey.paths[-1] == "X1"
