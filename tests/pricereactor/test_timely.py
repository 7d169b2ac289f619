"""The timely strategy: known in advance, enough for what is usual, twice where one path is not enough, never more."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import LocalProtocolError
from pricereactor.bulk import BulkPayment, BulkPolicy
from pricereactor.payments import Observation
from pricereactor.timely import Leg, Path, TimelyPayment, TimelyPolicy, quantile

S = 1_000_000_000
WILLING = 1000


def path(name: str, *networks: str) -> Path:
    return Path(name=name, networks=frozenset(networks or (name,)))


def task(**changes: object) -> TimelyPayment:
    fields = {"willingness_nanodollars": WILLING, "probe_budget_nanodollars": 100 * WILLING}
    return TimelyPayment(TimelyPolicy(**(fields | changes)))  # type: ignore[arg-type]


def knows(timely: TimelyPayment, name: str, *, lost: int, sent: int = 1000, tolls: range = range(1, 101)) -> None:
    """So much was lost some time ago; the last report is a clean one."""
    timely.on_packets(name, sent=sent, lost=lost, tolls_nanodollars=tuple(tolls))
    timely.on_packets(name, sent=1, lost=0)


def test_quantile_is_the_least_value_that_the_part_does_not_exceed() -> None:
    assert quantile(range(1, 101), 950_000) == 95
    assert quantile([7], 950_000) == 7
    assert quantile([3, 1, 2], 0) == 1
    assert quantile([3, 1, 2], 1_000_000) == 3


@pytest.mark.row("BP-46")
def test_pays_past_the_usual_congestion_with_a_margin() -> None:
    timely = task()
    knows(timely, "a", lost=0, tolls=range(100, 0, -1))
    decision = timely.plan(0, [path("a")])
    assert decision.legs == (Leg(path="a", amount_nanodollars=109),)  # 99 and a tenth, rounded up
    assert decision.reason == "over a, 99 % of the last 100 tolls were 99 n$ or less: loses 0.0499 %"
    timely.on_packets("a", sent=1, lost=0, tolls_nanodollars=(400,))
    assert timely.plan(0, [path("a")]).amount_nanodollars == 440, "the last one was more than is usual"
    timely.on_packets("a", sent=1, lost=0, tolls_nanodollars=(5000,))
    assert timely.plan(0, [path("a")]).amount_nanodollars == WILLING


@pytest.mark.row("BP-46", "BP-14")
def test_where_somebody_else_chooses_the_path_each_has_its_own_tolls() -> None:
    """A dearer path is known from its probes before the packets take it; a rising toll is followed, up and down."""
    timely = task()
    timely.follow("near")
    timely.on_packets("near", sent=0, lost=0, tolls_nanodollars=(10,) * 20)
    timely.on_packets("far", sent=20, lost=0, tolls_nanodollars=(50,) * 20)

    def amount(toll: int | None = None) -> int:
        observed = Observation(now_ns=0, goodput_bit_s=None, toll_nanodollars=toll, round_trip_ns=None)
        return timely.on_observation(observed).amount_nanodollars

    assert amount(toll=999) == 11, "whose toll that is nobody says"
    timely.follow("far")
    assert amount() == 55
    timely.on_packets("far", sent=0, lost=0, tolls_nanodollars=(200,))
    assert amount() == 220
    timely.on_packets("far", sent=0, lost=0, tolls_nanodollars=(50,) * 200)
    assert amount() == 55
    timely.on_packets("far", sent=1, lost=1)
    assert amount() == WILLING, "a probe was lost"
    timely.on_packets("far", sent=1, lost=0)
    assert amount() == 55


@pytest.mark.row("BP-46")
def test_what_an_earlier_task_learned_is_known_in_advance() -> None:
    earlier, timely = task(), task()
    earlier.follow("near")
    earlier.on_packets("near", sent=0, lost=0, tolls_nanodollars=(10,) * 30)
    timely.adopt(earlier)
    observed = Observation(now_ns=0, goodput_bit_s=None, toll_nanodollars=None, round_trip_ns=None)
    assert timely.on_observation(observed).amount_nanodollars == 11
    for number in range(100):
        timely.follow(f"way {number}")
    assert len(timely._seen) == 16


@pytest.mark.row("BP-47")
def test_probes_are_paid_until_their_budget_is_used_up() -> None:
    timely = task(probe_budget_nanodollars=2 * WILLING + 1)
    assert [timely.take_probe() for _ in range(3)] == [WILLING, WILLING, None]
    assert (timely.has_probes, timely.may_probe, timely.probes_nanodollars) == (True, False, 2 * WILLING)
    assert task(probe_budget_nanodollars=0).take_probe() is None
    observed = Observation(now_ns=0, goodput_bit_s=None, toll_nanodollars=None, round_trip_ns=None)
    assert timely.on_observation(observed).reason.endswith("; probes 2000 of 2001 n$")


def test_carries_what_it_is_worth_while_nothing_is_known_and_while_it_loses() -> None:
    timely = task()
    assert timely.plan(0, [path("a")]).amount_nanodollars == WILLING
    timely.on_packets("a", sent=19, lost=0, tolls_nanodollars=(1,) * 19)
    assert timely.plan(0, [path("a")]).amount_nanodollars == WILLING
    timely.on_packets("a", sent=1, lost=0, tolls_nanodollars=(1,))
    assert timely.plan(0, [path("a")]).amount_nanodollars == 2
    timely.on_packets("a", sent=10, lost=1)
    assert timely.plan(0, [path("a")]).amount_nanodollars == WILLING
    timely.on_packets("a", sent=10, lost=0)
    assert timely.plan(0, [path("a")]).amount_nanodollars == 2


@pytest.mark.row("BP-46")
def test_two_disjoint_paths_where_one_loses_too_much_and_both_together_do_not() -> None:
    """5 % x 5 % = 0.25 %."""
    timely = task()
    knows(timely, "a", lost=50)
    knows(timely, "b", lost=50)
    decision = timely.plan(0, [path("a"), path("b")])
    assert [leg.path for leg in decision.legs] == ["a", "b"]
    assert decision.amount_nanodollars <= WILLING
    assert decision.reason == "over a and b: alone a loses 5.04 %, both lose 0.254 %"


def test_no_duplicates_over_a_shared_network_or_beyond_the_limit_or_beyond_the_willingness() -> None:
    timely = task()
    knows(timely, "a", lost=50)
    knows(timely, "b", lost=50)
    assert len(timely.plan(0, [path("a", "as1", "as2"), path("b", "as2", "as3")]).legs) == 1
    knows(timely, "b", lost=900)
    assert "no two disjoint" in timely.plan(0, [path("a"), path("b")]).reason
    dear = task()
    knows(dear, "a", lost=50, tolls=range(600, 700))
    knows(dear, "b", lost=50, tolls=range(600, 700))
    decision = dear.plan(0, [path("a"), path("b")])
    assert len(decision.legs) == 1
    assert "cost more than a packet is worth" in decision.reason
    clean = task()
    knows(clean, "a", lost=0)
    knows(clean, "b", lost=0)
    assert len(clean.plan(0, [path("a"), path("b")]).legs) == 1, "one is enough"


def test_another_path_has_to_be_clearly_better() -> None:
    timely = task()
    knows(timely, "a", lost=10, sent=10_000)
    knows(timely, "b", lost=11, sent=10_000)
    assert timely.plan(0, [path("a"), path("b")]).legs[0].path == "a"
    knows(timely, "a", lost=12, sent=10_000)  # 11 of 10,000 in the mean now
    knows(timely, "b", lost=10, sent=10_000)
    assert timely.plan(0, [path("a"), path("b")]).legs[0].path == "a"
    knows(timely, "a", lost=40, sent=10_000)
    assert timely.plan(0, [path("a"), path("b")]).legs[0].path == "b"


@pytest.mark.row("BP-47")
def test_probes_are_paid_in_advance_of_any_traffic_and_end_with_their_budget() -> None:
    timely = task(probe_budget_nanodollars=50 * WILLING)
    paths = [path("a"), path("b")]
    sent = [(t, leg) for t in range(600) for leg in timely.plan(t * S, paths).probes]
    assert {leg.path for _, leg in sent} == {"a", "b"}
    assert [t for t, leg in sent if leg.path == "a"][:22] == [*range(20), 29, 39], "a second apart, later ten"
    assert all(leg.amount_nanodollars == WILLING for _, leg in sent)
    assert timely.probes_nanodollars == sum(leg.amount_nanodollars for _, leg in sent) == 50 * WILLING
    assert task(probe_budget_nanodollars=0).plan(0, paths).probes == ()


def test_no_path_no_packet_and_paths_that_are_gone_are_forgotten() -> None:
    timely = task()
    knows(timely, "a", lost=0)
    assert timely.plan(0, []).legs == ()
    assert timely.plan(0, [path("a")]).amount_nanodollars == WILLING


def test_as_a_payment_reactor_of_one_path_it_follows_the_tolls() -> None:
    timely = task()

    def sees(toll: int | None) -> tuple[int, bool]:
        observation = Observation(now_ns=0, goodput_bit_s=None, toll_nanodollars=toll, round_trip_ns=None)
        decision = timely.on_observation(observation)
        assert "\n" not in decision.reason
        return decision.amount_nanodollars, decision.try_other_path

    assert sees(None) == (WILLING, False)
    assert [sees(10) for _ in range(20)][-1] == (11, False)
    assert sees(None) == (11, False)
    assert sees(WILLING) == (WILLING, True)


def test_what_cannot_be_is_refused() -> None:
    for changes in ({"margin_ppm": 999_999}, {"quantile_ppm": 1_000_001}, {"probe_budget_nanodollars": -1}):
        with pytest.raises(LocalProtocolError):
            task(**changes)
    with pytest.raises(LocalProtocolError):
        task().on_packets("a", sent=1, lost=2)


@pytest.mark.row("BP-46")
def test_sudden_congestion_loses_few_packets_of_a_timely_task_and_many_of_a_bulk_one() -> None:
    """A path whose toll jumps to what it had before now and then; a packet that carries less is dropped."""
    source = random.Random(7)

    def toll(t: int) -> int:
        return source.randint(30, 60) if t % 100 < 10 else source.randint(0, 3)

    timely = task(probe_every_ns=S)
    for t in range(300):  # in advance, a probe a second
        for probe in timely.plan(t * S, [path("a")]).probes:
            timely.on_packets("a", sent=1, lost=0, tolls_nanodollars=(min(toll(t), probe.amount_nanodollars),))
    bulk = BulkPayment(BulkPolicy(willingness_nanodollars=WILLING, target_bit_s=1_000_000))
    lost = {"timely": 0, "bulk": 0}
    arrived = True
    for t in range(1000):
        needed = toll(t)
        amount = timely.plan((300 + t) * S, [path("a")]).amount_nanodollars
        lost["timely"] += amount < needed
        seen = (needed,) if amount >= needed else ()
        timely.on_packets("a", sent=1, lost=int(amount < needed), tolls_nanodollars=seen)
        observation = Observation(
            now_ns=(300 + t) * S,
            goodput_bit_s=2_000_000 if arrived else 0,
            toll_nanodollars=needed if arrived else None,
            round_trip_ns=S // 20,
        )
        arrived = bulk.on_observation(observation).amount_nanodollars >= needed
        lost["bulk"] += not arrived
    assert lost["timely"] <= 10, "1 % of what is important"
    assert lost["bulk"] > 5 * lost["timely"]


reports = st.lists(
    st.tuples(
        st.sampled_from("abcd"), st.integers(0, 50), st.integers(0, 50), st.lists(st.integers(0, 10**6), max_size=30)
    ),
    max_size=40,
)


@pytest.mark.row("BP-48")
@given(willing=st.integers(0, 10**6), seen=reports, budget=st.integers(0, 10**7))
def test_no_packet_with_its_copies_is_above_the_willingness_and_no_probe_beyond_its_budget(
    willing: int, seen: list[tuple[str, int, int, list[int]]], budget: int
) -> None:
    timely = TimelyPayment(TimelyPolicy(willingness_nanodollars=willing, probe_budget_nanodollars=budget))
    paths = [path("a", "1"), path("b", "2"), path("c", "1", "2"), path("d", "3")]
    probes = 0
    for now, (name, delivered, lost, tolls) in enumerate(seen):
        timely.on_packets(name, sent=delivered + lost, lost=lost, tolls_nanodollars=tolls)
        decision = timely.plan(now * S, paths)
        assert decision.amount_nanodollars <= willing
        assert 1 <= len(decision.legs) <= 2
        assert len({leg.path for leg in decision.legs}) == len(decision.legs)
        assert "\n" not in decision.reason
        probes += sum(leg.amount_nanodollars for leg in decision.probes)
    assert probes == timely.probes_nanodollars <= budget
