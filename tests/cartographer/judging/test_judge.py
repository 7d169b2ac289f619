"""Who is found out, and who is not: an ISP at a time in small worlds, with noise, shared losses and liars beside it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from greedy_world import MS, WAYS, Isp, S, W, World, X, Y, Z, diamond

from cartographer.judging import Finding, Judge, JudgingTerms, Kind, RememberedAccusation
from cartographer.judging.evidence import Evidence
from cartographer.judging.terms import Odds


def only(findings: tuple[Finding, ...]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


# --- keeps and drops -------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-18")
@pytest.mark.parametrize(("loss", "packets", "most"), [(1.0, 20, 9), (0.3, 40, 12), (0.2, 100, 12), (0.1, 400, 14)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_who_keeps_payments_and_drops_is_found(loss: float, packets: int, most: int, seed: int) -> None:
    world = World(ways=WAYS, isps=diamond(x=Isp(loss=loss)), seed=seed, packets=packets)
    needed = world.epochs_until_found(most)
    assert needed is not None
    found = only(world.judge.findings(world.now_ns))
    assert (found.as_number, found.alternative, found.kind) == (X, 1, Kind.KEEPS_AND_DROPS)
    assert f"of {packets} packets lost that paid enough" in found.evidence
    assert found.numbers["paid_sent"] == packets
    assert found.since_ns <= 2 * S
    assert world.judge.objection(X, 1, world.now_ns).startswith(f"AS{X} keeps payments and drops the packets: ")
    assert world.judge.objection(X, 2, world.now_ns) == ""
    assert world.judge.objection(W, 1, world.now_ns) == ""
    assert not world.judge.believes(X, world.now_ns)
    assert world.judge.believes(Y, world.now_ns)
    assert world.judge.objection_to(WAYS[0], world.now_ns)
    assert not world.judge.objection_to(WAYS[1], world.now_ns)


HONEST = {
    "all is well": diamond(),
    "the shared ISP loses": diamond(w=Isp(loss=0.3)),
    "the shared ISP loses a little": diamond(w=Isp(loss=0.08)),
    "the shared ISP has bad times": diamond(w=Isp(bursty=0.3)),
    "5 % lost, as an honest one may": diamond(x=Isp(loss=0.05)),
    "bad times in one epoch of twenty": diamond(x=Isp(bursty=0.05, burst_loss=0.8)),
    "congestion with a queue": diamond(x=Isp(wobble=5, queue=True)),
    "congestion and bad times": diamond(x=Isp(wobble=5, queue=True, bursty=0.05), w=Isp(loss=0.1)),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_isps_are_not_accused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And their bad epochs stay below what their tests allow: that is all that the error rate hangs on."""
    _stay_honest(name, 120, monkeypatch)


@pytest.mark.deep
@pytest.mark.parametrize("name", HONEST)
def test_honest_isps_are_not_accused_in_long_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _stay_honest(name, 10_000, monkeypatch)


def _stay_honest(name: str, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: Counter[tuple[Odds, bool]] = Counter()
    add = Evidence.add

    def counting(
        self: Evidence, is_bad: bool, odds: Odds, *, looks_: Counter[tuple[Odds, bool]] = looks, **more: int
    ) -> float:
        looks_[odds, is_bad] += 1
        return add(self, is_bad, odds, looks=more["looks"], now_ns=more["now_ns"])

    monkeypatch.setattr(Evidence, "add", counting)
    world = World(ways=WAYS, isps=HONEST[name], seed=5, jitter_ms=0.5, access_loss=0.01)
    for _ in range(epochs):
        world.epoch()
        assert world.judge.findings(world.now_ns) == ()
    for odds in {odds for odds, _ in looks}:
        assert looks[odds, True] <= odds.honest * (looks[odds, True] + looks[odds, False]), odds


def test_loss_on_all_ways_accuses_nobody() -> None:
    """The access, the receiver, or an ISP that all ways share: nothing is fine, so nothing can be told apart."""
    world = World(ways=WAYS, isps=diamond(), access_loss=0.5)
    assert world.epochs_until_found(60) is None
    alone = World(ways=WAYS[:1], isps=diamond(x=Isp(loss=1.0)))
    assert alone.epochs_until_found(60) is None


def test_an_isp_from_which_traffic_fled_is_not_blamed_for_what_made_it_flee() -> None:
    """W, on both ways, has a bad time; the traffic goes to the other way, which is fine since that is over."""
    judge = Judge()
    for second in range(1, 600):
        at_ns = second * S
        used = WAYS[second // 2 % 2]
        for part in range(10):
            lost = 2 if part < 3 and second % 2 == 0 else 0
            judge.on_paid_packets(used, sent=4, arrived=4 - lost, now_ns=at_ns + part * S // 10)
    assert judge.findings(600 * S) == ()
    assert judge.nats(X, 1, Kind.KEEPS_AND_DROPS) < 0


def test_a_way_that_is_only_probed_is_judged_by_the_minute() -> None:
    judge = Judge()
    found_s = 0
    for second in range(1, 900):
        judge.on_paid_packets(WAYS[1], sent=40, arrived=40, now_ns=second * S)
        if second % 5 == 0:
            judge.on_probe(WAYS[0], paid=True, arrived=False, marked=False, now_ns=second * S + 1)
        if judge.findings(second * S):
            found_s = second
            break
    assert 300 < found_s <= 480
    assert only(judge.findings(found_s * S)).as_number == X


def test_two_suspects_are_no_finding_until_one_is_cleared() -> None:
    isps = diamond(x=Isp(loss=0.5)) | {f"AS{Z}:1": Isp(), f"AS{X}:2": Isp()}
    ways = [f"AS{X}:1 AS{Z}:1 AS{W}:1", f"AS{Y}:1 AS{W}:1"]
    world = World(ways=list(ways), isps=isps)
    assert world.epochs_until_found(30) is None
    world.ways.append(f"AS{X}:2 AS{Z}:1 AS{W}:1")
    assert world.epochs_until_found(14) is not None
    found = only(world.judge.findings(world.now_ns))
    assert (found.as_number, found.alternative) == (X, 1)


def test_packets_that_paid_less_than_twice_the_toll_say_nothing() -> None:
    judge = Judge()
    for second in range(1, 60):
        for way, arrived in ((WAYS[0], 0), (WAYS[1], 20)):
            for part in range(3):
                judge.on_way_measured(way, round_trip_ns=MS, toll_picodollars=10_000, now_ns=second * S + part)
            judge.on_paid_packets(way, sent=20, arrived=arrived, now_ns=second * S, amount_nanodollars=15)
    assert judge.findings(60 * S) == ()


def test_an_isp_that_turns_greedy_late_is_found_and_a_repaired_one_recovers() -> None:
    terms = JudgingTerms(penalty_ns=20 * S)
    world = World(ways=WAYS, isps=diamond(), judge=Judge(terms))
    world.run(300)
    assert world.judge.findings(world.now_ns) == ()
    world.isps[f"AS{X}:1"].loss = 0.5
    assert (world.epochs_until_found(14) or 99) <= 12
    world.isps[f"AS{X}:1"].loss = 0.0
    world.run(21)
    assert world.judge.findings(world.now_ns) == ()
    assert world.judge.objection(X, 1, world.now_ns) == ""
    world.run(60)
    assert world.judge.findings(world.now_ns) == ()


def test_penalties_double_while_it_goes_on_and_are_bounded() -> None:
    terms = JudgingTerms(penalty_ns=4 * S, penalty_at_most_ns=16 * S)
    world = World(ways=WAYS, isps=diamond(x=Isp(loss=0.6)), judge=Judge(terms))
    lengths, before = [], 0
    for _ in range(120):
        world.epoch()
        for found in world.judge.findings(world.now_ns):
            if found.until_ns != before:
                lengths.append(found.until_ns - world.now_ns)
                before = found.until_ns
    assert lengths[0] <= 4 * S < lengths[1] <= 8 * S < lengths[2]
    assert max(lengths) <= 16 * S


# --- fakes congestion ------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-17")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_congestion_toll_without_congestion_is_found(seed: int) -> None:
    world = World(ways=WAYS, isps=diamond(x=Isp(wobble=5)), seed=seed)
    assert world.epochs_until_found(40) is not None
    found = only(world.judge.findings(world.now_ns))
    assert (found.as_number, found.kind) == (X, Kind.FAKES_CONGESTION)
    assert "nothing was marked" in found.evidence


def test_marks_lost_unpaid_packets_and_a_queue_are_signs_of_congestion() -> None:
    for sign in ("marks", "unpaid", "queue"):
        world = World(ways=WAYS, isps=diamond(x=Isp(wobble=5, queue=sign == "queue")))
        for _ in range(60):
            world.epoch()
            if sign == "marks":
                world.judge.on_marks(WAYS[0], marked=1, now_ns=world.now_ns)
            if sign == "unpaid":
                world.judge.on_unpaid_packets(WAYS[0], sent=2, arrived=1, now_ns=world.now_ns)
        assert world.judge.findings(world.now_ns) == (), sign


def test_a_toll_that_was_raised_and_stays_is_a_price_unless_its_isp_calls_it_congestion() -> None:
    for claims in (False, True):
        world = World(ways=WAYS, isps=diamond())
        world.run(30)
        world.isps[f"AS{X}:1"].toll = 12.0
        found = None
        for number in range(40):
            if claims:
                world.judge.on_congestion_claimed(X, 1, congestion_picodollars=11_000, now_ns=world.now_ns)
            world.epoch()
            if world.judge.findings(world.now_ns):
                found = number
                break
        assert (found is not None) is claims


# --- lies ------------------------------------------------------------------------------------------------------------


def promise(world: World, **tolls: int) -> None:
    numbers = {"x": X, "y": Y, "w": W}
    for serial, (name, toll) in enumerate(tolls.items(), 1):
        world.judge.on_promise(
            numbers[name], 1, serial=serial, delay_ns=10 * MS, toll_picodollars=toll * 1000, now_ns=world.now_ns
        )


def test_a_promised_toll_that_was_never_true_is_a_lie() -> None:
    world = World(ways=WAYS, isps=diamond(x=Isp(toll=12.0)))
    promise(world, x=2, y=1, w=1)
    assert (world.epochs_until_found(14) or 99) <= 12
    found = only(world.judge.findings(world.now_ns))
    assert (found.as_number, found.kind) == (X, Kind.LIES)
    assert "promised a toll of" in found.evidence
    assert not world.judge.believes(X, world.now_ns)


def test_a_lie_shows_beside_another_way_also_where_others_promise_nothing() -> None:
    world = World(ways=WAYS, isps=diamond(x=Isp(toll=12.0)))
    promise(world, x=2)
    assert (world.epochs_until_found(14) or 99) <= 12
    assert only(world.judge.findings(world.now_ns)).as_number == X


def test_a_promised_delay_is_a_lie_when_it_is_longer_than_another_way_by_more_than_all_that_was_promised() -> None:
    world = World(ways=WAYS, isps=diamond(x=Isp(delay_ms=60.0)))
    promise(world, x=1)
    assert (world.epochs_until_found(14) or 99) <= 12
    found = only(world.judge.findings(world.now_ns))
    assert (found.as_number, found.kind) == (X, Kind.LIES)
    assert "promised a delay of 10.0 ms, and takes 50" in found.evidence


@pytest.mark.parametrize(("others", "broken"), [({"y": 0, "w": 0}, "y"), ({}, "")])
def test_whoever_promises_too_little_cannot_make_another_one_a_liar(others: dict[str, int], broken: str) -> None:
    """What Y and W say of themselves is never held against X, whose own promise is true."""
    world = World(ways=WAYS, isps=diamond(y=Isp(toll=8.0), x=Isp(toll=5.0)))
    promise(world, x=5, **others)
    world.run(60)
    assert {found.as_number for found in world.judge.findings(world.now_ns)} <= ({Y} if broken else set())


def test_a_promise_that_was_true_is_stale_before_it_is_a_lie() -> None:
    world = World(ways=WAYS, isps=diamond(), judge=Judge(JudgingTerms(renewal_ns=60 * S)))
    promise(world, x=1, y=1, w=1)
    world.run(10)
    world.isps[f"AS{X}:1"].toll = 10.0
    world.run(55)
    assert world.judge.findings(world.now_ns) == ()
    world.judge.on_promise(X, 1, serial=9, delay_ns=10 * MS, toll_picodollars=10_000, now_ns=world.now_ns)
    world.run(60)
    assert world.judge.findings(world.now_ns) == ()
    world.isps[f"AS{X}:1"].toll = 20.0
    world.run(58)
    assert world.judge.findings(world.now_ns) == ()
    assert world.epochs_until_found(30) is not None
    assert only(world.judge.findings(world.now_ns)).kind is Kind.LIES


def test_a_proportional_toll_is_no_lie_where_terms_allow_for_it() -> None:
    for proportional_ppm in (0, 20_000):
        judge = Judge(JudgingTerms(proportional_ppm=proportional_ppm))
        judge.on_promise(X, 1, serial=1, delay_ns=None, toll_picodollars=1000, now_ns=0)
        for second in range(1, 120):
            for part in range(3):
                judge.on_way_measured(
                    f"AS{X}:1",
                    round_trip_ns=None,
                    toll_picodollars=11_000,
                    now_ns=second * S + part,
                    amount_nanodollars=1000,
                )
        assert bool(judge.findings(120 * S)) is (proportional_ppm == 0)


# --- ignores wishes --------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-26")
def test_an_isp_that_says_it_can_and_does_not_is_not_asked_any_more_but_still_believed() -> None:
    judge = Judge()
    for second in range(110):
        judge.on_wish(X, 2, followed=False, now_ns=second * S, way=WAYS[0])
        judge.on_wish(Y, 2, followed=second % 5 != 0, now_ns=second * S, way=WAYS[1])
    now_ns = 111 * S
    found = only(judge.findings(now_ns))
    assert (found.as_number, found.alternative, found.kind) == (X, 2, Kind.IGNORES)
    assert judge.objection(X, 2, now_ns)
    assert judge.objection(X, 1, now_ns) == ""
    assert judge.believes(X, now_ns)


# --- what cannot be made up ------------------------------------------------------------------------------------------


def two_destinations(*, first: list[str], second: list[str], isps: dict[str, Isp]) -> tuple[Judge, int]:
    judge = Judge(JudgingTerms(access=frozenset({Z})))
    worlds = [
        World(ways=ways, isps=isps, judge=judge, destination=name, seed=number)
        for number, (name, ways) in enumerate((("192.0.2.1", first), ("198.51.100.1", second)))
    ]
    for _ in range(14):
        for world in worlds:
            world.epoch()
    return judge, worlds[0].now_ns


def test_what_one_other_isp_or_receiver_could_make_up_holds_for_that_destination_alone() -> None:
    """W is on the bad way to each destination: it could have dropped what X sent on."""
    isps = diamond(x=Isp(loss=0.5))
    judge, now_ns = two_destinations(first=WAYS, second=WAYS[1:], isps=isps)
    found = only(judge.findings(now_ns))
    assert not found.confirmed
    assert found.destinations == ("192.0.2.1",)
    assert judge.objection(X, 1, now_ns, "192.0.2.1")
    assert judge.objection(X, 1, now_ns, "203.0.113.9") == ""
    assert judge.believes(X, now_ns, "203.0.113.9")
    judge, now_ns = two_destinations(first=WAYS, second=WAYS, isps=isps)
    found = only(judge.findings(now_ns))
    assert len(found.destinations) == 2
    assert not found.confirmed
    assert judge.objection(X, 1, now_ns, "203.0.113.9") == ""


def test_with_different_isps_behind_it_a_finding_is_confirmed_and_holds_everywhere() -> None:
    isps = diamond(x=Isp(loss=0.5)) | {f"AS{Z}:1": Isp(), f"AS{100}:1": Isp()}
    other = [way.replace(str(W), "100") for way in WAYS]
    through_access = [f"AS{Z}:1 {way}" for way in WAYS], [f"AS{Z}:1 {way}" for way in other]
    judge, now_ns = two_destinations(first=through_access[0], second=through_access[1], isps=isps)
    found = only(judge.findings(now_ns))
    assert found.confirmed
    assert judge.objection(X, 1, now_ns, "203.0.113.9")
    assert not judge.believes(X, now_ns, "203.0.113.9")


def test_a_number_that_is_written_on_packets_elsewhere_accuses_nobody() -> None:
    """M writes X's number instead of its own while it drops: X is cleared where it really is, on a fine way."""
    isps = {f"AS{X}:1": Isp(), f"AS{Y}:1": Isp(), f"AS{W}:1": Isp()}
    world = World(ways=[f"AS{X}:1 AS{W}:1", f"AS{Y}:1 AS{W}:1"], isps=isps)
    for _ in range(40):
        world.epoch()
        way = f"AS{X}:1 AS{Y}:1 AS{W}:1"
        world.judge.on_paid_packets(way, sent=40, arrived=0, now_ns=world.now_ns)
    assert world.judge.findings(world.now_ns) == ()


@pytest.mark.parametrize(
    "way",
    ["", "asking nothing", "asking AS1:2", "AS1", "AS1:0", "AS1:12", "AS0:1", "AS65536:1", "AS1:1 AS1:2", "AS1:x"],
)
def test_what_is_no_way_is_not_heard(way: str) -> None:
    judge = Judge()
    for second in range(60):
        judge.on_paid_packets(way, sent=20, arrived=0, now_ns=second * S)
        judge.on_paid_packets(WAYS[1], sent=20, arrived=20, now_ns=second * S)
    assert judge.findings(60 * S) == ()


def test_memory_is_bounded_and_invented_numbers_do_not_free_the_accused() -> None:
    terms = JudgingTerms(ways=4, hops=8, destinations=3, accusations=5)
    world = World(ways=WAYS, isps=diamond(x=Isp(loss=0.6)), judge=Judge(terms))
    for number in range(40):
        world.epoch()
        at, there = world.now_ns, "203.0.113.9"
        for other in range(20):
            invented = f"AS{1 + (number * 20 + other) % 60000}:1 AS{W}:1"
            world.judge.on_paid_packets(invented, sent=20, arrived=0, now_ns=world.now_ns)
            world.judge.on_promise(1 + other, 1, serial=1, delay_ns=1, toll_picodollars=1, now_ns=at, destination=there)
            for fine in (0, 20):
                world.judge.on_paid_packets(
                    f"AS{9 + other}:{1 + fine // 20}", sent=20, arrived=fine, now_ns=at, destination=there
                )
            world.judge.on_wish(1 + other, 1, followed=False, now_ns=at, destination=there)
    assert X in {found.as_number for found in world.judge.findings(world.now_ns)}
    assert 2 <= len(world.judge.remembered(world.now_ns)) <= 5
    for number in range(10):
        world.judge.on_paid_packets(WAYS[0], sent=1, arrived=1, now_ns=world.now_ns, destination=str(number))


# --- over restarts ---------------------------------------------------------------------------------------------------


def test_findings_outlive_a_restart_with_the_time_that_they_have_left() -> None:
    import msgspec

    world = World(ways=WAYS, isps=diamond(x=Isp(loss=0.6)))
    assert world.epochs_until_found(14) is not None
    stored = msgspec.json.encode(world.judge.remembered(world.now_ns))
    items = msgspec.json.decode(stored, type=tuple[RememberedAccusation, ...])
    for elapsed_ns, is_left in ((0, True), (30 * S, True), (90 * S, False)):
        judge = Judge()
        judge.recall(items, 5 * S, elapsed_ns)
        assert bool(judge.objection(X, 1, 5 * S)) is is_left
        assert len(judge.remembered(5 * S)) == 1  # a second time it is longer
    judge.recall(items, 5 * S, 0)
    assert len(judge.findings(5 * S)) <= 1


def test_the_words_are_one_plain_line_and_numbers_fit_json() -> None:
    import msgspec

    world = World(ways=WAYS, isps=diamond(x=Isp(loss=0.6)))
    world.run(14)
    found = only(world.judge.findings(world.now_ns))
    assert "\n" not in found.evidence
    assert msgspec.json.decode(msgspec.json.encode(found.numbers)) == found.numbers
    assert all(a <= b for a, b in pairwise((found.since_ns, world.now_ns, found.until_ns)))
