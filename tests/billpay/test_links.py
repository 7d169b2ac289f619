"""Two counters of a link: what is agreed, and what is called a loss, since when, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import RemoteProtocolError
from billpay.links import (
    Agreed,
    ComparisonState,
    DifferenceLine,
    Direction,
    LineKind,
    Reading,
    Round,
    agreed,
    check_successor,
    compare,
    reading_of,
)
from billpay.messages import Closing, Statement

EARLIER = Statement(
    link="X/toA",
    issuer="a" * 64,
    peer="b" * 64,
    interval=4,
    sampled_unix_s=1000,
    sent_nanodollars=10,
    received_nanodollars=20,
    sent_packets=1,
    received_packets=2,
)


def quiet(interval: int, *, sent: int, received: int) -> Round:
    """A round with nothing on the wire: forward traffic only."""
    caller, answerer = Reading(sent_nanodollars=sent), Reading(received_nanodollars=received)
    return Round(interval=interval, opening=caller, answer=answerer, closing=caller)


def run(rounds: Sequence[Round]) -> tuple[ComparisonState, list[DifferenceLine]]:
    state = ComparisonState()
    lines: list[DifferenceLine] = []
    for current in rounds:
        state, new = compare(state, current)
        lines += new
    return state, lines


# --- agreed -----------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-35")
def test_the_smaller_of_both_counters_is_agreed() -> None:
    caller = Reading(sent_nanodollars=100, received_nanodollars=7)
    answerer = Reading(sent_nanodollars=9, received_nanodollars=90)
    assert agreed(caller, answerer) == Agreed(forward_nanodollars=90, backward_nanodollars=7)


def test_a_claim_beyond_what_was_sent_earns_nothing() -> None:
    caller, liar = Reading(sent_nanodollars=100), Reading(received_nanodollars=10**6)
    assert agreed(caller, liar).forward_nanodollars == 100


# --- what can follow a statement --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"link": "X/toB"}, "wrong-link"),
        ({"issuer": "c" * 64}, "wrong-link"),
        ({"peer": "c" * 64}, "wrong-link"),
        ({"interval": 4}, "old-interval"),
        ({"interval": 3}, "old-interval"),
        ({"sent_nanodollars": 9}, "counter-went-back"),
        ({"received_nanodollars": 19}, "counter-went-back"),
        ({"sent_packets": 0}, "counter-went-back"),
        ({"received_packets": 1}, "counter-went-back"),
        ({"link": "X/toB", "interval": 3, "sent_packets": 0}, "wrong-link"),
        ({"interval": 3, "sent_packets": 0}, "old-interval"),
    ],
)
def test_a_statement_that_cannot_follow_is_refused(changes: dict[str, Any], code: str) -> None:
    statement = msgspec.structs.replace(EARLIER, **{"interval": 5, **changes})
    with pytest.raises(RemoteProtocolError) as caught:
        check_successor(statement, EARLIER)
    assert caught.value.code == code


def test_the_first_statement_and_any_later_one_with_equal_or_higher_counters_follow() -> None:
    check_successor(EARLIER, None)
    check_successor(msgspec.structs.replace(EARLIER, interval=5), EARLIER)
    check_successor(msgspec.structs.replace(EARLIER, interval=99, sent_nanodollars=11), EARLIER)


def test_a_reading_is_the_four_counters_of_statement_and_closing() -> None:
    closing = Closing(interval=4, sent_nanodollars=10, received_nanodollars=20, sent_packets=1, received_packets=2)
    expected = Reading(sent_nanodollars=10, received_nanodollars=20, sent_packets=1, received_packets=2)
    assert reading_of(EARLIER) == reading_of(closing) == expected


# --- what is missing --------------------------------------------------------------------------------------------------


def test_a_difference_that_stays_is_a_loss_of_the_interval_in_which_it_arose() -> None:
    state, lines = run([quiet(1, sent=10, received=10), quiet(2, sent=30, received=25), quiet(3, sent=40, received=35)])
    assert lines == [
        DifferenceLine(direction=Direction.FORWARD, kind=LineKind.LOSS, since_interval=1, interval=2, nanodollars=5)
    ]
    assert state.forward.named_nanodollars == 5
    assert state.forward.clear_interval == state.backward.clear_interval == 3


def test_a_difference_that_is_gone_in_the_next_interval_is_none() -> None:
    state, lines = run([quiet(1, sent=10, received=10), quiet(2, sent=30, received=25), quiet(3, sent=40, received=40)])
    assert lines == []
    assert state.forward.clear_interval == 3


def test_every_loss_is_named_once_in_its_own_interval() -> None:
    received = [10, 18, 28, 38, 41, 51, 61]  # 2 lost in the second interval, 7 in the fifth
    _, lines = run([quiet(number, sent=10 * number, received=got) for number, got in enumerate(received, 1)])
    assert [(line.since_interval, line.interval, line.nanodollars) for line in lines] == [(1, 2, 2), (4, 5, 7)]


def test_the_other_direction_is_compared_with_the_answer_and_the_closing() -> None:
    rounds = [
        Round(
            interval=interval,
            opening=Reading(received_nanodollars=received),
            answer=Reading(sent_nanodollars=sent),
            closing=Reading(received_nanodollars=received),
        )
        for interval, (sent, received) in enumerate([(10, 10), (20, 17), (20, 17)], 1)
    ]
    _, (line,) = run(rounds)
    assert (line.direction, line.kind, line.interval, line.nanodollars) == (Direction.BACKWARD, LineKind.LOSS, 2, 3)


def test_what_is_on_the_wire_hides_a_loss_until_it_has_arrived() -> None:
    hidden = [
        Round(
            interval=interval,
            opening=Reading(sent_nanodollars=100 * interval),
            answer=Reading(received_nanodollars=100 * interval + 50 - 20),  # 50 sent meanwhile, 20 lost since the first
            closing=Reading(sent_nanodollars=100 * interval + 50),
        )
        for interval in (2, 3, 4)
    ]
    _, lines = run([quiet(1, sent=100, received=100), *hidden])
    assert lines == []
    _, (line,) = run([quiet(1, sent=100, received=100), *hidden, *(quiet(n, sent=500, received=480) for n in (5, 6))])
    assert (line.nanodollars, line.since_interval, line.interval) == (20, 1, 5)


def test_an_excess_is_disputed_and_withdrawn_when_it_turns_out_wrong() -> None:
    received = [10, 25, 35, 40, 50]  # 5 too many from the second interval on, corrected in the fourth
    state, lines = run([quiet(number, sent=10 * number, received=got) for number, got in enumerate(received, 1)])
    assert [(line.kind, line.interval, line.nanodollars) for line in lines] == [
        (LineKind.EXCESS, 2, 5),
        (LineKind.WITHDRAWN, 4, 5),
    ]
    assert state.forward.named_nanodollars == 0


def test_a_step_through_zero_is_two_lines() -> None:
    sent, received = [10, 10, 10, 30, 30], [7, 7, 7, 34, 34]
    _, lines = run([quiet(n, sent=s, received=r) for n, (s, r) in enumerate(zip(sent, received, strict=True), 1)])
    assert [(line.kind, line.nanodollars) for line in lines] == [
        (LineKind.LOSS, 3),
        (LineKind.FOUND, 3),
        (LineKind.EXCESS, 4),
    ]


def test_the_end_of_a_wide_bracket_does_not_move_what_is_named() -> None:
    state, _ = run([quiet(1, sent=10, received=8), quiet(2, sent=10, received=8)])
    wide = replace(quiet(3, sent=10, received=15), closing=Reading(sent_nanodollars=30))
    after, lines = compare(state, wide)
    assert lines == ()
    assert after.forward.named_nanodollars == 2
    assert after.forward.clear_interval == 2


# --- any traffic ------------------------------------------------------------------------------------------------------

STEP = st.tuples(
    st.integers(0, 50),  # sent and arrived before the opening
    st.sampled_from([0, 0, 0, 1, 9]),  # lost before the opening
    st.integers(0, 50),  # sent between opening and answer …
    st.integers(0, 50),  # … of which at most so much arrives by then
    st.integers(0, 50),  # sent between answer and closing
)


@given(steps=st.lists(STEP, max_size=12))
def test_lines_add_up_to_what_is_missing_and_are_never_early(steps: list[tuple[int, int, int, int, int]]) -> None:
    sent = received = lost = wire = 0
    rounds: list[Round] = []
    lost_at = {0: 0}
    quiet_end = [(0, 0, 0, 0, 0)] * 2
    for interval, (arrives, loses, overlaps, in_time, late) in enumerate(steps + quiet_end, 1):
        sent += arrives + loses
        lost += loses
        received, wire = received + arrives + wire, 0
        opening = Reading(sent_nanodollars=sent)
        sent, wire = sent + overlaps, overlaps
        received, wire = received + min(in_time, wire), wire - min(in_time, wire)
        answer = Reading(received_nanodollars=received)
        sent, wire = sent + late, wire + late
        lost_at[interval] = lost
        rounds.append(Round(interval=interval, opening=opening, answer=answer, closing=Reading(sent_nanodollars=sent)))
    state, lines = run(rounds)
    assert all(line.kind is LineKind.LOSS and line.direction is Direction.FORWARD for line in lines)
    assert state.forward.named_nanodollars == sum(line.nanodollars for line in lines) == lost
    assert state.forward.clear_interval == len(rounds)
    named = 0
    for line in lines:
        named += line.nanodollars
        assert lost_at[line.since_interval] < named <= lost_at[line.interval]
