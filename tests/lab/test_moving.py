"""When traffic left a link after a change: by made-up times of packets and of what an agent said."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from lab.findings import findings_of
from lab.measures import Tallies, exchange_result
from lab.moving import HELD_NS, alternatives_by, found_results, move_results, moved_after_ns, noticed_ns
from lab.noticing import Best, Said
from lab.outcome import make_report
from lab.plan import make_plan
from lab.scenarios import find_scenario
from lab.steps import Outcome
from lab.taps import EndReport, TallyReport, TapReport
from lab.topology import Exchange, Found
from lab.traffic import Counted
from lab.witness import MOMENT_NS, Seen, Tally

S = 1_000_000_000
START = 1_790_000_000 * S
PLAN = make_plan(find_scenario("greedy-toll"))
STREAM = 1
BY_Y: Best = frozenset({("10.77.200.2", "AS64512", 1)})
BY_Z: Best = frozenset({("10.77.200.2", "AS64512", 2)})


def moments(*spans: tuple[float, float, int]) -> dict[int, int]:
    """So many packets in each moment from one second after START to another one."""
    counts: dict[int, int] = {}
    for since_s, until_s, packets in spans:
        for at in range(round((START + since_s * S) // MOMENT_NS), round((START + until_s * S) // MOMENT_NS)):
            counts[at] = counts.get(at, 0) + packets
    return counts


def ms(at_ns: int | None) -> int | None:
    return None if at_ns is None else (at_ns - START) // 1_000_000


SENT = moments((-1, 4, 2))


def test_it_is_gone_from_when_it_stays_away() -> None:
    gone = moments((-1, 0.5, 2), (0.6, 0.8, 2))  # a lull, and once more
    assert ms(moved_after_ns(gone, SENT, START, None, percent=10, back=False)) == pytest.approx(780, abs=20)
    assert moved_after_ns(SENT, SENT, START, None, percent=10, back=False) is None
    assert moved_after_ns(gone, SENT, START, START + HELD_NS, percent=10, back=False) is None, "the next change ends it"
    assert moved_after_ns({}, {}, START, None, percent=10, back=False) is None


def test_it_is_back_from_when_it_has_so_much_again() -> None:
    assert ms(moved_after_ns(moments((1, 2, 1), (2, 4, 2)), SENT, START, None, percent=90, back=True)) == pytest.approx(
        1950, abs=20
    )


def test_silence_is_no_departure() -> None:
    lull = moments((-1, 0, 2), (3, 4, 2))
    assert ms(moved_after_ns({}, lull, START, None, percent=10, back=False)) == 2750, "ten packets were sent again"


def said(*answers: tuple[float, Best]) -> list[Said]:
    return [Said(START + round(at_s * S), chosen, {}) for at_s, chosen in answers]


@pytest.mark.parametrize(
    ("answers", "back", "expected_ms"),
    [
        (said((-2, BY_Y), (0.3, BY_Z)), False, 300),
        (said((-2, BY_Y)), False, None),
        (said((-2, BY_Z)), False, 0),  # it never was there
        (said((-2, BY_Z), (-1, BY_Y), (5, BY_Z)), False, None),  # after the next change
        (said((-2, BY_Z), (1, BY_Y | BY_Z)), True, 1000),
        (said((-2, BY_Y), (-1, frozenset())), True, None),
        ([], False, None),
    ],
)
def test_the_agent_knows_when_it_chooses_otherwise(answers: list[Said], back: bool, expected_ms: int | None) -> None:
    assert ms(noticed_ns(answers, BY_Y, START, START + 4 * S, back=back)) == expected_ms


def test_a_link_is_an_alternative_of_its_isp() -> None:
    step = next(step for step in PLAN.scenario.steps if isinstance(step, Exchange))
    assert alternatives_by(PLAN, step, ("X", "Y")) >= BY_Y
    assert alternatives_by(PLAN, step, ("X", "Z")) >= BY_Z
    assert alternatives_by(PLAN, step, ("A", "X")) == frozenset()


def taps(counts: dict[tuple[str, str], dict[int, int]]) -> TapReport:
    empty = TallyReport(packets=0, nanodollars=0, passed_packets=0, passed_nanodollars=0, malformed=0, followed=())

    def ends() -> Iterable[EndReport]:
        for cable in PLAN.cables:
            for end in cable.ends:
                seen = counts.get((end.node, end.peer), {})
                sent = msgspec.structs.replace(empty, moments=tuple((STREAM, at, n) for at, n in seen.items()))
                label = f"{cable.ends[0].node}-{cable.ends[1].node}@{end.node}"
                yield EndReport(label=label, sent=sent, received=empty, captured=0, dropped=0)

    return TapReport(ends=tuple(ends()))


def outcome(**times: int) -> Outcome:
    return Outcome(
        exchanges=[("it", STREAM, Counted(sent=10, received=10, median_us=50_000))],
        changed_ns=times,
        said={"A": said((-2, BY_Y), (0.5, BY_Z), (4.2, BY_Y))},
    )


def test_a_report_says_both_in_round_trips() -> None:
    sent = moments((-1, 8, 2))
    by_y = moments((-1, 1, 2), (5, 8, 2))
    report = taps({("A", "X"): sent, ("X", "Y"): by_y})
    done = outcome(doubled=START, repaired=START + 4 * S)
    tallies = Tallies(PLAN, report)
    exchange = exchange_result("it", STREAM, "AXYB", tallies, done.exchanges[0][2])
    left, back = move_results(PLAN, done, tallies, [exchange])
    assert (left.before_percent, back.before_percent) == (100, 0)
    assert left.noticed_ms == 500
    assert left.moved_ms == pytest.approx(980, abs=20)
    assert left.round_trips == pytest.approx(9.6, abs=0.5)
    assert back.noticed_ms == pytest.approx(200)
    assert back.moved_ms == pytest.approx(980, abs=30)


def test_who_had_nothing_cannot_lose_it() -> None:
    report = taps({("A", "X"): moments((-1, 8, 2))})
    whole = make_report(
        PLAN,
        outcome(doubled=START, repaired=START + 4 * S),
        {},
        report,
        family=4,
        drops={},
        wires=(),
        tracebacks=(),
        took_s=1.0,
        scale=1.0,
        directory="",
    )
    assert whole.moves[0].moved_ms is None
    failed = [finding for finding in findings_of(PLAN.scenario, whole) if not finding.ok]
    assert any("the share before the step was 0 %" in finding.detail for finding in failed)


def test_what_was_said_before_the_step_was_not_about_it() -> None:
    scenario = find_scenario("liar")
    found = Found(by="A", isp="X", kind="lies", after="lies", within_s=5)
    plan = make_plan(msgspec.structs.replace(scenario, expect=(*scenario.expect, found)))
    key = ("AS64512", "lies")

    def first(*answers: Said) -> float | None:
        done = Outcome(changed_ns={"lies": START}, said={"A": list(answers)})
        return next(one for one in found_results(plan, done) if one.kind == "lies").found_ms

    nothing = Said(START - S, BY_Y, {})
    assert first(nothing, Said(START + S, BY_Y, {key: "why"})) == 1000
    assert first(Said(START - S, BY_Y, {key: "why"}), Said(START + S, BY_Z, {key: "why"})) is None
    assert first(nothing) is None


def test_the_witness_counts_moments_of_numbered_packets_only() -> None:
    tally = Tally(expected_as=0)
    numbered = Seen(5, (), 1, b"", False, (STREAM, 9), False)
    tally.count(numbered, 7 * MOMENT_NS)
    tally.count(numbered._replace(number=(STREAM, 10)), 7 * MOMENT_NS + 1)
    tally.count(numbered._replace(number=None), 7 * MOMENT_NS)
    assert tally.moments == {STREAM: {7: 2}}
