"""The pure parts of a choice on records written by hand: what can be had, what is believed, what is asked."""

from __future__ import annotations

import pytest

from billpay.errors import LocalProtocolError
from billpay.header import Slot, isp_oad, user_oad
from billpay.messages import OadAlternative
from cartographer.cartographer import Cartographer
from cartographer.choice import FREE_SLOT, Candidate, Place, beliefs_of, candidates, slots_for
from cartographer.map import Destination, PathMap, expected_way
from cartographer.policy import PathPolicy, shipped_wants
from cartographer.suspicion import Unsuspecting
from cartographer.values import Belief, Quantity, Wants

MS = 1_000_000
S = 1000 * MS
NOW = 100 * S
X, Y, Z = 64512, 64513, 64514
B = "10.0.1.1"
POLICY = PathPolicy()
MONEY = Wants(name="money", delay_nanodollars_per_ms=0)
HASTE = Wants(name="haste", delay_nanodollars_per_ms=2)
TOLL, DELAY = Quantity.FORWARD_TOLL_PICODOLLARS, Quantity.DELAY_NS


class Suspicious(Unsuspecting):
    """Knows something about one alternative, and believes one ISP nothing."""

    def __init__(self, as_number: int, alternative: int) -> None:
        self.bad = as_number, alternative

    def believes(self, as_number: int, now_ns: int, destination: str = "") -> bool:
        return as_number != self.bad[0]

    def objection(self, as_number: int, alternative: int, now_ns: int, destination: str = "") -> str:
        return "it drops what it was paid for" if (as_number, alternative) == self.bad else ""


def met(*hops: tuple[int, int, int]) -> tuple[Slot, ...]:
    """(AS, how many alternatives, the one taken)."""
    return tuple(isp_oad(number, available=range(1, count + 1), choice=choice) for number, count, choice in hops)


class Known:
    """A destination of which this is known: X:1 Y:1 is the default."""

    def __init__(self) -> None:
        self.map = PathMap(POLICY)
        self.promises: dict[int, dict[int, OadAlternative]] = {}
        self.judge = Unsuspecting()
        self.saw(met((X, 3, 1), (Y, 1, 1)), ())

    def saw(self, slots: tuple[Slot, ...], asked: tuple[Slot, ...]) -> None:
        self.map.on_traffic(B, slots, NOW, asked=asked, settled=True)

    @property
    def record(self) -> Destination:
        found = self.map.get(B)
        assert found is not None
        return found

    @property
    def place(self) -> Place:
        return Place(destination=B, promises=self.promises, judge=self.judge, now_ns=NOW)

    def promise(self, number: int, toll: int | None, delay_ms: int | None = None, *, available: bool = True) -> None:
        delay_ns = None if delay_ms is None else delay_ms * MS
        self.promises.setdefault(X, {})[number] = OadAlternative(
            number=number, title="", toll_nanodollars=toll, delay_ns=delay_ns, available=available
        )

    def measure(self, way: str, toll: int | None, rtt_ms: int | None = None) -> None:
        statistics = self.record.ways[way].statistics
        if toll is not None:
            statistics.on_sample(TOLL, toll * 1000, NOW)
        if rtt_ms is not None:
            statistics.on_sample(DELAY, rtt_ms * MS, NOW)

    def candidates(self, base: str = f"AS{X}:1 AS{Y}:1") -> dict[str, Candidate]:
        found = candidates(self.record, self.record.ways[base], self.place, POLICY)
        return {candidate.way: candidate for candidate in found}

    def beliefs(self, wants: Wants, base: str = f"AS{X}:1 AS{Y}:1") -> dict[str, Belief]:
        found = self.candidates(base).values()
        beliefs = beliefs_of(found, self.record, self.record.ways[base], self.place, wants, probe_picodollars=None)
        return {belief.way: belief for belief in beliefs}


DEFAULT_WAY = f"AS{X}:1 AS{Y}:1"
BY_2 = f"AS{X}:2 AS{Z}:1 AS{Y}:1"
ASK_2 = (user_oad(X, choice=2),)
NOT_1 = (user_oad(X, undesirable=[1]),)


# --- what there is to choose from -------------------------------------------------------------------------------------


@pytest.mark.row("BP-25", "BP-27")
def test_unknown_alternatives_are_found_by_calling_the_known_one_undesirable() -> None:
    known = Known()
    found = known.candidates()
    assert {way: item.ask for way, item in found.items()} == {DEFAULT_WAY: (), expected_way(NOT_1): NOT_1}
    assert (found[expected_way(NOT_1)].as_number, found[expected_way(NOT_1)].number) == (X, 0)


@pytest.mark.row("BP-25", "BP-30")
def test_a_known_alternative_is_asked_for_by_its_number_and_leads_where_it_led() -> None:
    known = Known()
    known.saw(met((X, 3, 2), (Z, 1, 1), (Y, 1, 1)), NOT_1)
    found = known.candidates()
    assert found[BY_2].ask == ASK_2
    assert (found[BY_2].as_number, found[BY_2].number) == (X, 2)
    assert expected_way((user_oad(X, undesirable=[1, 2]),)) in found, "the third is still to be found"


def test_described_alternatives_are_asked_for_before_anybody_was_there() -> None:
    known = Known()
    for number in (1, 2, 3):
        known.promise(number, 5)
    asks = {item.ask for item in known.candidates().values()}
    assert asks == {(), ASK_2, (user_oad(X, choice=3),)}


def test_from_another_way_the_default_is_reached_by_asking_nothing() -> None:
    known = Known()
    known.saw(met((X, 3, 2), (Z, 1, 1), (Y, 1, 1)), ASK_2)
    found = known.candidates(BY_2)
    assert next(iter(found)) == BY_2, "the present way comes first"
    assert found[DEFAULT_WAY].ask == ()


def test_what_is_behind_an_alternative_may_change() -> None:
    """X's alternative 2 leads through Z no more: the ask leads where it led last."""
    known = Known()
    known.saw(met((X, 3, 2), (Z, 1, 1), (Y, 1, 1)), ASK_2)
    known.saw(met((X, 3, 2), (Y, 1, 1)), ASK_2)
    found = known.candidates()
    assert f"AS{X}:2 AS{Y}:1" in found
    assert BY_2 not in found


def test_there_are_at_most_sixteen_candidates() -> None:
    known = Known()
    for hop in range(3):
        for choice in range(1, 9):
            slots = met(*((X + 100 + other, 8, choice if other == hop else 1) for other in range(3)))
            known.saw(slots, tuple(user_oad(X + 100 + hop, choice=choice) for _ in range(choice > 1)))
    assert len(known.candidates("AS64612:1 AS64613:1 AS64614:1")) == POLICY.max_candidates


@pytest.mark.row("BP-26")
def test_an_alternative_that_is_withdrawn_ignored_or_suspected_is_objected_to() -> None:
    known = Known()
    known.saw(met((X, 3, 2), (Z, 1, 1), (Y, 1, 1)), ASK_2)
    known.judge = Suspicious(Z, 1)
    found = known.candidates()[BY_2]
    assert found.objection == "it drops what it was paid for"
    assert found.may_be_probed, "it may mend its ways"
    for _ in range(POLICY.ignored_limit):
        known.saw(met((X, 3, 1), (Y, 1, 1)), ASK_2)
    found = next(item for item in known.candidates().values() if item.ask == ASK_2)
    assert (found.objection, found.may_be_probed) == (f"AS {X} ignored 5 wishes for it", False)
    known.promise(2, 1, available=False)
    assert all(item.ask != ASK_2 or item.objection for item in known.candidates().values())


# --- what is believed -------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-29")
def test_a_cost_is_toll_and_delay_at_what_they_are_worth() -> None:
    known = Known()
    known.measure(DEFAULT_WAY, 10, 50)
    assert known.beliefs(MONEY)[DEFAULT_WAY].cost_picodollars == 10_000
    assert known.beliefs(HASTE)[DEFAULT_WAY].cost_picodollars == 10_000 + 2 * 50_000


def test_a_way_of_which_nothing_is_known_is_to_be_found_out() -> None:
    known = Known()
    known.measure(DEFAULT_WAY, 10, 50)
    assert known.beliefs(HASTE)[expected_way(NOT_1)].samples == 0


def test_delay_alone_decides_for_unpaid_traffic() -> None:
    known = Known()
    known.saw(met((X, 3, 2), (Z, 1, 1), (Y, 1, 1)), ASK_2)
    known.measure(DEFAULT_WAY, None, 50)
    known.measure(BY_2, None, 10)
    costs = {way: belief.cost_picodollars for way, belief in known.beliefs(HASTE).items() if belief.samples}
    assert costs == {DEFAULT_WAY: 100_000, BY_2: 20_000}
    assert all(belief.samples == 0 for belief in known.beliefs(MONEY).values()), "nothing that it minds is known"


def test_a_number_that_only_one_of_them_has_is_taken_to_be_the_same_and_is_unsure() -> None:
    """Else the way of which less is known would look cheaper for that alone."""
    known = Known()
    known.saw(met((X, 3, 2), (Z, 1, 1), (Y, 1, 1)), ASK_2)
    known.measure(DEFAULT_WAY, 50, 10)
    known.measure(BY_2, 5)
    found = known.beliefs(HASTE)
    assert found[BY_2].cost_picodollars == 5_000 + 20_000
    assert found[BY_2].uncertainty_picodollars > found[DEFAULT_WAY].uncertainty_picodollars // 2
    assert known.record.ways[BY_2].statistics.estimate(DELAY, NOW) is None, "it is not kept"


@pytest.mark.row("BP-31")
def test_promises_count_as_a_difference_to_the_present_way_until_somebody_was_there() -> None:
    known = Known()
    known.measure(DEFAULT_WAY, 14, 20)
    known.promise(1, 4, 8)
    known.promise(2, 2, 3)
    way = expected_way(ASK_2)
    belief = known.beliefs(HASTE)[way]
    assert belief.cost_picodollars == (14 - 2) * 1000 + 2 * 15_000
    assert belief.measured_ns is None
    known.judge = Suspicious(X, 9)
    assert known.beliefs(HASTE)[way].samples == 0, "who lies is not believed"
    known.judge = Unsuspecting()
    known.saw(met((X, 3, 2), (Z, 1, 1), (Y, 1, 1)), ASK_2)
    known.measure(BY_2, 40, 20)
    assert known.beliefs(HASTE)[BY_2].cost_picodollars == 40_000 + 40_000


def test_a_promise_for_one_of_them_alone_says_nothing() -> None:
    known = Known()
    known.measure(DEFAULT_WAY, 14, 20)
    known.promise(2, 2, 3)
    assert known.beliefs(HASTE)[expected_way(ASK_2)].samples == 0


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-27")
def test_slots_are_in_path_order_with_one_to_spare() -> None:
    assert slots_for((X, Z, Y), ASK_2, POLICY) == (ASK_2[0], FREE_SLOT, FREE_SLOT, FREE_SLOT)
    assert slots_for((), (), POLICY) == (FREE_SLOT,) * 4
    assert len(slots_for(range(1, 8), (), POLICY)) == 7
    assert slots_for((Y,), ASK_2, POLICY) == (FREE_SLOT, ASK_2[0], FREE_SLOT), "for an ISP that may come again"


def test_a_destination_that_is_no_address_has_no_descriptions() -> None:
    cartographer = Cartographer()
    cartographer.on_oads_seen("host.example", [(X, 0x803, 1)], 5, 1, NOW)
    assert cartographer.choose("host.example", NOW).chosen == ((X, None),)


def test_the_shipped_classes_want_different_things() -> None:
    wants = shipped_wants(1)
    assert wants["default"].delay_nanodollars_per_ms == 1
    assert wants["timely"].delay_nanodollars_per_ms > 1
    assert wants["timely"].jitter_nanodollars_per_ms
    assert wants["timely"].loss_nanodollars > wants["default"].loss_nanodollars
    assert (wants["bulk"].delay_nanodollars_per_ms, wants["bulk"].jitter_nanodollars_per_ms) == (0, 0)
    assert wants["bulk"].target_bit_s
    assert all(name == item.name for name, item in wants.items())


def test_impossible_policies_are_refused() -> None:
    for change in ({"first_slots": 8}, {"dwell_ns": -1}, {"probe_ppm": 2_000_000}, {"max_destinations": 0}):
        with pytest.raises(LocalProtocolError):
            PathPolicy(**change)
