"""The replay: what an event must say, who sees what a transfer is worth, and what the summary makes of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import UTC
from typing import Any

import msgspec
import pytest

from billpay.errors import ConfigurationError, LocalProtocolError
from secretary.hindsight import Calibration, Outcome, Summary
from secretary.kinds import shipped_kinds
from secretary.replay import Decided, Line, Recording, SealedTruth, kind_of, replay
from secretary.transfers import Moment, Transfer

DAY_S = 86_400
CENT = 10_000_000


def event(t: float, *, price: int = 100, truth: int = 100, **fields: Any) -> dict[str, Any]:
    return {
        "t": t,
        "user": "ada",
        "app": "firefox",
        "dest": "example.net",
        "network": "home",
        "bytes": 1000,
        "foreground": True,
        "price_nanodollars": price,
        "truth_nanodollars": truth,
    } | fields


def recording(*events: dict[str, Any]) -> Recording:
    return Recording(io.BytesIO(b"".join(msgspec.json.encode(each) + b"\n" for each in events)), "events.jsonl")


class Scripted:
    """Asks where the price is above a bound, and learns from the answers alone: pays what was once accepted."""

    def __init__(self, ask_above: int = 50) -> None:
        self.ask_above = ask_above
        self.accepted = 0
        self.seen: list[tuple[Transfer, Moment]] = []

    def on_request(self, transfer: Transfer, now: Moment, ask: Callable[[], bool]) -> Decided:
        self.seen.append((transfer, now))
        price = transfer.price_nanodollars
        asked = price > max(self.ask_above, self.accepted)
        pay = ask() if asked else True
        if asked and pay:
            self.accepted = price
        return Decided(pay=pay, limit_nanodollars=self.accepted, asked=asked, accept_ppm=500_000, why="scripted")


class Fixed:
    def __init__(self, pay: bool, accept_ppm: int | None = None) -> None:
        self.pay, self.accept_ppm = pay, accept_ppm

    def on_request(self, transfer: Transfer, now: Moment, ask: Callable[[], bool]) -> Decided:
        limit = transfer.price_nanodollars if self.pay else 0
        return Decided(pay=self.pay, limit_nanodollars=limit, asked=False, accept_ppm=self.accept_ppm, why="fixed")


def run(decider: Any, *events: dict[str, Any]) -> tuple[list[Line], Summary]:
    summary = Summary()
    return list(replay(recording(*events), decider, summary)), summary


def test_the_judge_gets_a_transfer_and_a_moment_and_nothing_of_what_it_is_worth() -> None:
    judge = Scripted()
    run(judge, event(1000.25, price=7, truth=987_654_321), event(1002.5, app="strange", foreground=None))
    (first, now), (second, later) = judge.seen
    assert first == Transfer(
        user="ada",
        program="firefox",
        kind="web",
        destination="example.net",
        network="home",
        foreground=True,
        size_bytes=1000,
        price_nanodollars=7,
    )
    assert (now.unix_s, now.boot_ns, now.zone) == (1000, 0, UTC)
    assert (second.kind, second.foreground) == ("", None)
    assert (later.unix_s, later.boot_ns) == (1002, 2_250_000_000)
    assert "987654321" not in repr(judge.seen)


def test_an_asked_request_is_decided_by_its_answer() -> None:
    lines, _ = run(
        Scripted(), event(0, price=100, truth=100), event(1, price=200, truth=199), event(2, price=90, truth=1)
    )
    assert [(line.i, line.decision, line.asked) for line in lines] == [
        (0, "pay", True),
        (1, "decline", True),
        (2, "pay", False),
    ]
    assert msgspec.json.decode(msgspec.json.encode(lines[0])) == {
        "i": 0,
        "decision": "pay",
        "limit_nanodollars": 100,
        "asked": True,
        "why": "scripted",
    }


def test_changing_truths_without_changing_any_answer_given_changes_nothing() -> None:
    prices = [(7 * place) % 300 for place in range(200)]
    truths = [(13 * place) % 250 for place in range(200)]

    def lines(truths: list[int]) -> list[Line]:
        pairs = zip(prices, truths, strict=True)
        return run(Scripted(), *(event(t, price=price, truth=truth) for t, (price, truth) in enumerate(pairs)))[0]

    before = lines(truths)
    other = [
        (price + truth * 1000 if truth >= price else price - 1) if line.asked else 10**15 - truth
        for line, price, truth in zip(before, prices, truths, strict=True)
    ]
    after = lines(other)
    assert sum(line.asked for line in before) > 3
    assert after == before


def test_who_says_that_it_asked_must_have_asked() -> None:
    class Liar(Fixed):
        def on_request(self, transfer: Transfer, now: Moment, ask: Callable[[], bool]) -> Decided:
            ask()
            return super().on_request(transfer, now, ask)

    with pytest.raises(LocalProtocolError, match="event 0"):
        run(Liar(True), event(0))


def test_a_sealed_truth_shows_itself_to_nobody() -> None:
    assert "123" not in repr(SealedTruth(123))


def test_events_are_put_in_the_order_of_time_and_keep_their_numbers() -> None:
    lines, summary = run(
        Fixed(True), event(30, user="b"), event(10, price=1), event(20, user="b"), event(10, price=2), event(5)
    )
    assert [line.i for line in lines] == [4, 1, 3, 2, 0]
    assert [line.limit_nanodollars for line in lines[1:3]] == [1, 2]
    assert summary.whole().requests == 5


def test_blank_lines_are_passed_over_and_a_last_line_needs_no_end() -> None:
    text = b"\n" + msgspec.json.encode(event(1)) + b"\n  \n" + msgspec.json.encode(event(0) | {"more": 1})
    found = Recording(io.BytesIO(text), "x")
    assert len(found) == 2
    assert [(index, each.t) for index, each in found] == [(1, 0.0), (0, 1.0)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"bytes": "many"}, "events.jsonl:2: bytes: Expected `int`, got `str` (a whole number of bytes)"),
        ({"price_nanodollars": -1}, "events.jsonl:2: price_nanodollars: Expected `int` >= 0"),
        ({"t": -5}, "events.jsonl:2: t: Expected `float` >= 0.0"),
        ({"user": None}, "events.jsonl:2: user: Expected `str`, got `null`"),
        ({"truth_nanodollars": 1.5}, "events.jsonl:2: truth_nanodollars: Expected `int`, got `float`"),
    ],
)
def test_a_bad_field_is_one_line_with_file_line_field_and_remedy(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        recording(event(0), event(1) | change)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"t": 1}', "x:1: user: is missing"),
        (b"[]", "x:1: Expected `object`, got `array`"),
        (b"{", "x:1: not JSON"),
        (b'{"user": "\xff"}', "x:1: not JSON"),
        (b" " + b"[" * 70_000, "x:1: longer than 65536 bytes"),
    ],
)
def test_a_line_that_is_no_event_is_one_line_too(line: bytes, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Recording(io.BytesIO(line), "x")
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_regret_is_what_was_missed_and_what_was_lost_without_a_question() -> None:
    judged = [  # price, truth, pay, asked
        (100, 150, True, False),  # +50
        (100, 70, True, False),  # unjustified, -30
        (100, 400, False, False),  # missed 300
        (100, 90, False, False),  # rightly declined
        (100, 120, True, True),  # asked, +20
    ]
    summary = Summary()
    for place, (price, truth, pay, asked) in enumerate(judged):
        summary.add(
            Outcome(
                t=float(place), user="u", program="p", price_nanodollars=price, pay=pay, asked=asked, accept_ppm=None
            ),
            truth,
        )
    told = summary.as_json()
    assert told["best_nanodollars"] == 370
    assert told["surplus_nanodollars"] == 40
    assert told["regret_nanodollars"] == 330 == told["missed_nanodollars"] + told["unjustified_loss_nanodollars"]
    assert (told["unjustified"], told["unjustified_price_nanodollars"], told["missed"]) == (1, 100, 1)
    assert told["surplus_ratio"] == pytest.approx(40 / 370, abs=1e-6)
    assert told["surplus_ratio_less_questions"] == pytest.approx((40 - 2 * CENT) / 370, rel=1e-6)


def test_an_overpaid_question_is_not_unjustified_and_questions_are_counted_by_the_persons_own_week() -> None:
    """One person begins ten days after the other: each has weeks of their own."""
    rows = [event(day * DAY_S, user="a") for day in range(21)] + [
        event((10 + day) * DAY_S, user="b", price=10) for day in range(8)
    ]
    _, summary = run(Scripted(ask_above=99), *rows)
    told = summary.as_json(with_people=True)
    assert [week["person_days"] for week in told["weeks"]] == [14, 8, 7]
    assert [week["questions"] for week in told["weeks"]] == [1, 0, 0]
    assert told["weeks"][0]["questions_per_day"] == pytest.approx(1 / 14, abs=1e-6)
    assert told["weeks"][0]["questions_per_day_most_asked"] == pytest.approx(1 / 7, abs=1e-6)
    assert told["by_person"]["a"]["questions_per_day_by_week"] == [pytest.approx(1 / 7, abs=1e-6), 0.0, 0.0]
    assert told["by_person"]["b"]["from_third_week"]["requests"] == 0
    assert told["from_third_week"]["requests"] == 7
    json.dumps(told)


def test_the_mean_over_programs_counts_each_alike_from_the_third_week_on() -> None:
    rows = [event(0, truth=10**9)]
    rows += [event(15 * DAY_S, app="big", price=1, truth=10**6), event(15 * DAY_S, app="small", price=10, truth=5)]
    rows += [event(16 * DAY_S, app="small", price=10, truth=20), event(16 * DAY_S, app="never", price=10, truth=1)]
    _, summary = run(Fixed(True), *rows)
    assert summary.program_mean() == pytest.approx((1.0 + (10 - 5) / 10) / 2)
    assert summary.settled().best_nanodollars == 10**6 - 1 + 10
    assert summary.settled().surplus_nanodollars == 10**6 - 1 + 10 - 5 - 9


def test_calibration_by_tenths_of_the_range_and_of_the_requests() -> None:
    calibration = Calibration()
    for place in range(1000):
        calibration.add(850_000, accepted=place % 4 != 0)
        calibration.add(120_000, accepted=place % 10 == 0)
    calibration.add(1_000_000, accepted=False)
    low, high, top = calibration.by_range()
    assert (low.from_ppm, low.to_ppm, low.requests, low.predicted_ppm, low.accepted_ppm) == (
        100_000,
        200_000,
        1000,
        120_000,
        100_000,
    )
    assert (high.gap_ppm, top.requests, top.gap_ppm) == (100_000, 1, 1_000_000)
    assert calibration.worst_ppm() == 100_000, "one request says nothing"
    assert sum(decile.requests for decile in calibration.by_count()) == 2001


def test_tenths_of_the_requests_are_equal_where_probabilities_differ() -> None:
    calibration = Calibration()
    for place in range(5000):
        calibration.add(place * 200, accepted=True)
    assert [decile.requests for decile in calibration.by_count()] == [500] * 10


def test_summaries_of_different_people_merge_into_the_whole() -> None:
    rows = [event(place * DAY_S / 3, user=f"u{place % 2}", price=place % 17, truth=place % 13) for place in range(90)]
    _, together = run(Fixed(True, 700_000), *rows)
    merged = Summary()
    for user in ("u0", "u1"):
        merged.merge(run(Fixed(True, 700_000), *(row for row in rows if row["user"] == user))[1])
    assert merged.as_json(with_people=True) == together.as_json(with_people=True)
    with pytest.raises(ValueError, match="same person"):
        merged.merge(together)


def test_no_events_are_a_summary_too() -> None:
    lines, summary = run(Fixed(True))
    assert lines == []
    told = summary.as_json()
    assert (told["people"], told["requests"], told["surplus_ratio"], told["questions_per_day"]) == (0, 0, None, None)


def test_kinds_come_from_the_table() -> None:
    assert kind_of("zoom", shipped_kinds()) == "call"
    assert kind_of("zoomer", shipped_kinds()) == ""
