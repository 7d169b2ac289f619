"""Two session cores, one at each end, over a lossy wire and a scripted link."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest
from session_worlds import (
    ARRIVES,
    FLOW,
    MS,
    SECRET_POLICY,
    SESSION,
    STEP_MS,
    T0,
    Fixed,
    Kelly,
    Wire,
    World,
    plain_policy,
)

from billpay.markprices import MarkReading
from billpay.messages import Signed
from billpay.sessions import MarkPrice, MarkReport, Payer, SessionTerms, TargetRate
from dataplane.marks_seen import SenderView
from hostagent.reacting.prices import Prices, Provider
from hostagent.reacting.session import ANEW_NS, FORGET_NS, HOLD_NS, Readings, Session
from pricereactor.policies import reactor_for_task
from pricereactor.policy import TaskPolicy
from pricereactor.rates import RateDecision, RateReactor, Verdict
from pricereactor.signals import PriceSignal, Source


def bad_wire(seed: int = 2) -> Wire:
    return Wire(random.Random(seed), loss=0.2, repeats=0.2, delay_ms=(5, 180))


def near(value: float, wanted: float, part: float) -> bool:
    return abs(value - wanted) <= part * wanted


def verdict_of(session: Session) -> str:
    return session.view().verdict


def every(interval_ms: int) -> Callable[[TaskPolicy], Kelly]:
    return lambda policy: Kelly(policy, interval_ns=interval_ms * MS)


def told(reactor: Fixed) -> Callable[[TaskPolicy], Fixed]:
    return lambda policy: reactor


class Stopping(Fixed):
    """Stops for good when it is told to."""

    def __init__(self, policy: TaskPolicy) -> None:
        super().__init__(policy.willingness_nanodollars_per_s * 5)
        self.has_stopped = False

    def on_interval(self, now_ns: int, signal: PriceSignal | None) -> RateDecision:
        if self.has_stopped:
            return RateDecision(target_bit_s=0, verdict=Verdict.STOP, reason="its budget is spent")
        return super().on_interval(now_ns, signal)


@pytest.mark.row("DPH-06")
def test_sender_pays_by_the_receivers_feedback_alone() -> None:
    world = World(Kelly)
    world.run(20_000)
    # 1,000 nanodollars a mark and 100,000 a second: a hundred marked packets of 10,000 bits above the link's rate.
    assert near(world.rate_bit_s, 3_000_000, 0.05)
    view = world.sender.view()
    assert (view.source, view.billed, view.verdict) == (Source.RECEIVER_MARKS.value, True, "go")
    assert view.spent_nanodollars == 1_000 * view.marks
    assert near(view.price_nanodollars_per_mb or 0, 100_000 / 0.375, 0.1)
    assert view.spent_today_nanodollars == view.spent_nanodollars


@pytest.mark.row("DPH-05")
def test_receiver_pays_with_the_reactor_at_the_receiver() -> None:
    world = World(Kelly, sender_pays=False)
    world.run(20_000)
    assert world.receiver is not None
    assert near(world.rate_bit_s, 3_000_000, 0.05)
    assert world.sender.view().target_bit_s == world.sender.decision.target_bit_s
    view = world.receiver.view()
    assert (view.verdict, view.billed, view.spent_nanodollars) == ("go", True, 1_000 * view.marks)
    assert not world.sender.view().pays
    assert world.sender.view().spent_nanodollars == 0


@pytest.mark.parametrize("sender_pays", [True, False])
def test_the_elastic_reactor_of_a_task_comes_to_the_same_over_a_bad_wire(sender_pays: bool) -> None:
    def elastic(policy: TaskPolicy) -> RateReactor:
        return reactor_for_task(policy, now_ns=0, round_trip_ns=100 * MS)

    world = World(elastic, sender_pays=sender_pays, wire=bad_wire(), own_rate_bit_s=50_000_000)
    world.run(15_000)
    assert near(world.rate_bit_s, 3_000_000, 0.05)


@pytest.mark.parametrize("sender_pays", [True, False])
def test_a_bad_wire_costs_time_and_nothing_else(sender_pays: bool) -> None:
    world = World(Kelly, sender_pays=sender_pays, wire=bad_wire())
    world.run(30_000)
    assert near(world.rate_bit_s, 3_000_000, 0.25)
    payer = world.sender if sender_pays else world.receiver
    assert payer is not None
    view = payer.view()
    assert view.verdict == "go"
    assert view.spent_nanodollars == 1_000 * view.marks
    if sender_pays:
        assert view.marks == max(report.ce_packets for _, report in world.reports if report.ce_packets <= view.marks)
        assert world.disbelieved, "repeated and overtaken messages changed nothing"


@pytest.mark.row("DPH-08")
def test_feedback_comes_exactly_at_the_reactors_interval() -> None:
    for interval_ms in (100, 250, 500):
        world = World(every(interval_ms))
        world.run(10_000)
        times = [at_ms for at_ms, _ in world.reports]
        assert {after - before for before, after in pairwise(times)} == {interval_ms}
        kelly = world.reactor
        assert isinstance(kelly, Kelly)
        late = [now - before for before, now in pairwise(kelly.asked_ns[5:])]
        assert set(late) == {interval_ms * MS}, "the reactor recalculates when its feedback comes"


@pytest.mark.row("DPH-05")
def test_target_rates_come_exactly_at_the_reactors_interval() -> None:
    world = World(Kelly, sender_pays=False)
    world.run(5_000)
    times = sorted({at_ms for at_ms, _ in world.targets})  # one that falls is said three times at once
    assert {after - before for before, after in pairwise(times)} == {100}


# --- secrecy ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("DPH-07", "DPH-08")
@pytest.mark.parametrize("sender_pays", [True, False])
def test_no_number_of_the_policy_is_in_any_message(sender_pays: bool) -> None:
    world = World(Kelly, sender_pays=sender_pays, policy=SECRET_POLICY, wire=bad_wire())
    world.run(10_000)
    world.wire.is_cut = True
    world.run(5_000)
    secrets = {number for number in msgspec.to_builtins(SECRET_POLICY).values() if isinstance(number, int)}
    secrets -= {True, False, 8_000, 12}  # what every policy has, whoever made it
    assert len(secrets) == 6
    documents = [msgspec.json.decode(datagram, type=Signed).document for datagram in world.wire.recorded]
    assert len(documents) > 100
    for datagram, document in zip(world.wire.recorded, documents, strict=True):
        for secret in secrets:
            assert str(secret).encode() not in document
            assert str(secret).encode() not in datagram
        assert b"film" not in document, "not even what the task is called"


@pytest.mark.row("DPH-07", "DPH-08")
def test_no_message_has_a_field_for_what_a_session_is_worth() -> None:
    fields = {name for message in (SessionTerms, MarkReport, TargetRate) for name in message.__struct_fields__}
    assert fields == {
        *("session", "sequence", "flow", "payer", "interval_ms", "ends"),
        *("counted_ms", "packets", "bytes", "ce_packets", "ect_packets"),
        *("target_bit_s", "lets_go"),
    }
    world = World(Kelly)
    world.run(3_000)
    for datagram in world.wire.recorded:
        assert set(json.loads(msgspec.json.decode(datagram, type=Signed).document)) <= fields


# --- obedience --------------------------------------------------------------------------------------------------------


@pytest.mark.row("DPH-05")
@pytest.mark.parametrize(
    ("target_bit_s", "stubborn_bit_s", "intervals"),
    [(1_000_000, 2_200_000, 2), (4_000_000, 6_600_000, 2), (4_000_000, 6_000_000, 3)],
)
@pytest.mark.parametrize("after_ms", [0, 35, 50, 95])
def test_a_sender_that_stops_obeying_is_cut_within_two_intervals(
    after_ms: int, target_bit_s: int, stubborn_bit_s: int, intervals: int
) -> None:
    """At half as much again it takes one more: a queue that empties looks like that for two (`obedience`)."""
    world = World(told(Fixed(target_bit_s)), sender_pays=False)
    world.run(3_000 + after_ms)
    assert world.receiver is not None
    assert verdict_of(world.receiver) == "go"
    world.stubborn_bit_s = stubborn_bit_s
    first = world.receiver.next_ns // MS - world.now_ms  # the interval that it begins in
    world.run(first + intervals * 100 + STEP_MS)
    assert verdict_of(world.receiver) == "stop"
    assert "cut" in world.receiver.view().reason
    spent = world.receiver.view().spent_nanodollars
    world.run(3_000)
    heard = [target.target_bit_s for _, target in world.targets]
    assert heard[-4:] == [target_bit_s, 0, 0, 0], "it is told to stop, and then nothing any more"
    assert len(heard) < 45
    assert world.receiver.view().spent_nanodollars == spent


def test_an_obedient_sender_is_never_cut_however_the_target_jumps() -> None:
    for seed in range(3):
        draw, reactor = random.Random(seed), Fixed(1_000_000)
        world = World(told(reactor), sender_pays=False)
        for _ in range(150):
            world.run(100)
            reactor.rate_bit_s = draw.randint(200_000, 5_000_000)
        assert world.receiver is not None
        assert verdict_of(world.receiver) == "go"


# --- feedback that ends -----------------------------------------------------------------------------------------------


@pytest.mark.row("DPH-06")
def test_without_feedback_the_sender_holds_and_then_lets_go() -> None:
    world = World(Kelly)
    world.run(15_000)
    held = world.rate_bit_s
    world.wire.is_cut = True
    world.run(600)
    assert near(world.rate_bit_s, held, 0.05), "it holds at first"
    world.run(5_000)
    assert world.sender.paced is None, "its transport answers marks itself again"
    assert verdict_of(world.sender) == "let go"
    assert world.rate_bit_s == world.own_rate_bit_s
    world.wire.is_cut = False
    world.run(20_000)
    assert verdict_of(world.sender) == "go"
    assert near(world.rate_bit_s, 3_000_000, 0.1), "and it comes back with the feedback"


@pytest.mark.row("DPH-05")
def test_who_obeys_holds_and_then_lets_go_when_its_receiver_is_silent() -> None:
    world = World(told(Fixed(1_000_000)), sender_pays=False)
    world.run(3_000)
    world.wire.is_cut = True
    world.run(HOLD_NS // MS - 200)
    assert world.rate_bit_s == 1_000_000
    world.run(1_000)
    assert world.sender.paced is None
    assert world.sender.view().target_bit_s is None


def test_a_far_end_without_an_agent_is_estimated_and_said_to_be() -> None:
    world = World(Kelly)
    world.has_agent = False
    for turn in range(80):
        world.view = SenderView(100 * turn, turn, 0, 0, 20_000, 20_000, True, True)
        world.run(100)
    view = world.sender.view()
    # What is hidden from the transport it cannot count: the delay says that there is no congestion.
    assert (view.source, view.billed) == (Source.ACCURATE_ECN.value, False)
    assert view.spent_nanodollars > 0


def test_terms_are_said_again_until_they_are_answered_and_then_each_ten_seconds() -> None:
    world = World(Kelly)
    world.has_agent = False
    world.run(5_000)
    unanswered = len(world.wire.recorded)
    assert 6 <= unanswered <= 9
    world.has_agent = True
    world.run(40_000)
    terms = [1 for each in world.wire.recorded if msgspec.json.decode(each, type=Signed).kind == "session-terms"]
    assert 4 <= len(terms) - unanswered <= 6


# --- money ------------------------------------------------------------------------------------------------------------


def changing_prices() -> Prices:
    own = Prices([Provider(name="p2")])
    for serial, (after_ms, price) in enumerate(((0, 1_000), (4_130, 2_500), (7_777, 300)), start=1):
        own.on_push(
            MarkPrice(
                provider="p2",
                serial=serial,
                nanodollars_per_mark=price,
                valid_from_unix_ms=T0 + after_ms,
                published_unix_s=T0 // 1000 - 60,
            )
        )
    return own


@pytest.mark.row("DPH-21", "DPH-02")
def test_a_bill_is_marks_times_price_exactly_across_changes_of_the_price() -> None:
    prices = changing_prices()
    world = World(told(Fixed(4_000_000)), prices=prices)
    marks_at: dict[int, int] = {}
    for change_ms in (4_130, 7_775, 12_000):  # the world's clock is in steps of 5 ms: the reading is at the next one
        world.run(change_ms - world.now_ms)
        if change_ms != 12_000:
            world.now_ms += change_ms == 7_775 and 2
            world.report(extra=True)
            marks_at[change_ms] = world.reports[-1][1].ce_packets
            world.now_ms -= change_ms == 7_775 and 2
    world.report(extra=True)
    world.run(100)
    view = world.sender.view()
    first, second = marks_at[4_130], marks_at[7_775]
    assert 0 < first < second < view.marks
    assert view.spent_nanodollars == 1_000 * first + 2_500 * (second - first) + 300 * (view.marks - second)
    readings = [MarkReading(unix_ms=each.sequence, marks=each.ce_packets) for _, each in world.reports]
    readings = [MarkReading(unix_ms=T0, marks=0), *(each for each in readings if each.marks <= view.marks)]
    assert prices.bill_nanodollars(readings) == view.spent_nanodollars, "the provider asks for the same"


@pytest.mark.row("DPH-21")
def test_who_pays_as_receiver_reads_its_own_meter_at_the_change() -> None:
    prices = changing_prices()
    world = World(told(Fixed(4_000_000)), prices=prices, sender_pays=False)
    assert world.receiver is not None
    marks: list[int] = []
    for change_ms in (4_130, 7_780):
        world.run(change_ms - world.now_ms)
        world.receiver.at_price_change(world.moment, Readings(meter=world.meter(ARRIVES)))
        marks.append(world.receiver.view().marks)
    world.run(3_000)
    view = world.receiver.view()
    late = 0  # the second change is 3 ms before the reading: those belong to the dearer price
    expected = 1_000 * marks[0] + 2_500 * (marks[1] - marks[0]) + 300 * (view.marks - marks[1]) + late
    assert view.spent_nanodollars == expected


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sender_pays", [True, False])
def test_spending_stays_within_the_budgets_whatever_the_wire_does(seed: int, sender_pays: bool) -> None:
    budgets = {"session_budget_nanodollars": 700_000} if seed % 2 else {"day_budget_nanodollars": 700_000}
    world = World(Kelly, sender_pays=sender_pays, policy=plain_policy(**budgets), wire=bad_wire(seed))
    world.path.rate_bit_s = 500_000 if seed < 4 else 8_000  # what is left buys some, or nothing
    for _ in range(20):
        world.wire.is_cut = world.wire.draw.random() < 0.2
        world.run(1_000)
        assert 1_000 * world.path.received.ce_packets <= 700_000, "all marks of its packets, told of or not"
    payer = world.sender if sender_pays else world.receiver
    assert payer is not None
    assert payer.view().spent_nanodollars <= 700_000
    assert 1_000 * world.path.received.ce_packets > 150_000


def test_what_is_used_up_stops_and_is_marked_no_more() -> None:
    world = World(Kelly, policy=plain_policy(session_budget_nanodollars=500_000))
    world.path.rate_bit_s = 8_000
    world.run(15_000)
    marks = world.path.received.ce_packets
    assert 450_000 < 1_000 * marks <= 500_000
    assert world.rate_bit_s < 100_000
    world.run(30_000)
    assert 1_000 * world.path.received.ce_packets <= 500_000


def test_a_new_day_has_a_new_budget() -> None:
    world = World(Kelly, policy=plain_policy(day_budget_nanodollars=500_000))
    world.path.rate_bit_s = 8_000
    world.run(15_000)
    assert verdict_of(world.sender) != "go"
    spent = world.sender.view().spent_nanodollars
    world.book.on_day("2026-11-22")
    world.days.begin_day(2)
    world.run(1_000)
    assert verdict_of(world.sender) == "go"
    view = world.sender.view()
    assert view.spent_nanodollars == spent + view.spent_today_nanodollars


def test_a_new_day_begins_a_reactor_anew_that_had_stopped_for_good() -> None:
    world = World(Stopping, policy=plain_policy(day_budget_nanodollars=10**9))
    world.run(1_000)
    stopped = world.reactor
    world.sender.on_new_day(world.moment)
    assert world.reactor is stopped, "it had not stopped"
    assert isinstance(stopped, Stopping)
    stopped.has_stopped = True
    world.run(1_000)
    assert verdict_of(world.sender) == "stop"
    world.sender.on_new_day(world.moment)
    assert world.reactor is not stopped
    world.run(1_000)
    assert verdict_of(world.sender) == "go"


def test_a_report_of_packets_that_never_left_costs_nothing() -> None:
    world = World(Kelly, policy=plain_policy(day_budget_nanodollars=10**9))
    world.run(3_000)
    _, last = world.reports[-1]
    spent = world.book.spent("film")
    lie = msgspec.structs.replace(last, sequence=last.sequence + 1, packets=2**60, ce_packets=2**60, ect_packets=0)
    world.sender.on_report(lie, world.moment)
    assert world.sender.spent_nanodollars == spent
    world.run(3_000)
    assert spent < world.book.spent("film") == 1_000 * world.sender.view().marks < 10**6
    assert verdict_of(world.sender) == "go"


def begun_anew(world: World, session: str) -> SessionTerms:
    """The agent of the sender was started again."""
    return SessionTerms(session=session, sequence=T0 + world.now_ms, flow=FLOW, payer=Payer.RECEIVER, interval_ms=200)


def test_a_senders_agent_that_begins_anew_does_not_make_the_guard_forget_what_is_under_way() -> None:
    world = World(Kelly, sender_pays=False, policy=plain_policy(session_budget_nanodollars=10**9))
    assert world.receiver is not None
    world.run(ANEW_NS // MS + 1_000)
    assert world.receiver._purse is not None
    guard = world.receiver._purse._guard
    assert guard is not None
    asked, total, holds_ns = world.receiver._asked, guard._total, guard._settings.reaction_ns
    packets = asked.packets(world.now_ms * MS)
    world._make = every(200)
    world.receiver.on_terms(begun_anew(world, "7" * 32), world.moment)
    world.run(500)
    assert world.receiver._asked.packets(world.now_ms * MS) > packets
    assert guard._total > total
    assert guard._settings.reaction_ns == 1_600 * MS > holds_ns, "the new one obeys longer in silence"


def test_a_sender_cannot_begin_anew_again_and_again_instead_of_obeying() -> None:
    world = World(Kelly, sender_pays=False)
    assert world.receiver is not None
    world.run(ANEW_NS // MS + 1_000)
    world.stubborn_bit_s = 8_000_000
    for number in range(20):
        world.receiver.on_terms(begun_anew(world, f"{number:032x}"), world.moment)
        world.run(100)
    assert verdict_of(world.receiver) == "stop"
    assert "cut" in world.receiver.view().reason


def test_a_sender_whose_terms_are_not_heard_any_more_is_forgotten_and_comes_back() -> None:
    world = World(Kelly, sender_pays=False, policy=plain_policy(session_budget_nanodollars=10**9))
    assert world.receiver is not None
    world.run(5_000)
    spent = world.receiver.spent_nanodollars
    world.wire.is_cut, world.stubborn_bit_s = True, 0
    world.run(FORGET_NS // MS + 1_000)
    told = len(world.targets)
    world.run(2_000)
    assert len(world.targets) == told, "nobody is there to be told"
    assert "not been heard" in world.receiver.view().reason
    world.wire.is_cut, world.stubborn_bit_s = False, None
    world.run(15_000)
    assert len(world.targets) > told
    assert world.receiver.spent_nanodollars > spent > 0
    assert verdict_of(world.receiver) == "go"


def test_an_unknown_price_is_neither_0_nor_infinite() -> None:
    world = World(Kelly, prices=Prices([Provider(name="p2")]))
    world.run(10_000)
    view = world.sender.view()
    assert verdict_of(world.sender) == "let go"
    assert (view.nanodollars_per_mark, view.price_nanodollars_per_mb, view.spent_nanodollars) == (None, None, 0)


def test_the_end_is_said_and_nobody_paces_any_more() -> None:
    world = World(Kelly)
    world.run(1_000)
    (message,) = world.sender.end()
    assert isinstance(message, SessionTerms)
    assert message.ends
    assert message.session == SESSION
    assert world.sender.paced is None
