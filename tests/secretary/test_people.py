"""The synthetic people of the bench: the same seed draws the same; the standard ones leave room for learning."""

from __future__ import annotations

import io
import itertools
import json

import msgspec
import pytest

from bench.secretary import people
from bench.secretary.baselines import QUESTIONS_IN_A_DAY_MAX, Allowance, questions_by
from bench.secretary.populations import POPULATIONS, STANDARD
from bench.secretary.report import document, judges_table, missed_in, populations_table
from bench.secretary.trial import ALONE, KNOWS_ALL, KNOWS_ALL_BUT_NOISE, LEARNER, Result, Task, run, run_together
from secretary.replay import Event, Recording

RULES = "rules only"
DAY_S = 86_400


@pytest.mark.parametrize("name", POPULATIONS)
def test_every_population_gives_events_in_order_that_the_replay_takes(name: str) -> None:
    events = list(people.events(name, people=3, days=8, seed=5))
    assert events == list(people.events(name, people=3, days=8, seed=5))
    assert events != list(people.events(name, people=3, days=8, seed=6))
    assert all(before.t <= after.t for before, after in itertools.pairwise(events))
    assert len({event.user for event in events}) == 3
    assert {event.truth_nanodollars >= event.price_nanodollars for event in events} == {True, False}
    text = b"\n".join(msgspec.json.encode(event) for event in events)
    assert [event for _, event in Recording(io.BytesIO(text), name)] == events


def test_a_person_does_not_depend_on_who_else_there_is() -> None:
    alone = [request.event for request in people.requests_of(STANDARD, 1, days=5, seed=1)]
    among = [event for event in people.events(STANDARD, people=3, days=5, seed=1) if event.user == alone[0].user]
    assert among == alone


def test_programs_appear_later() -> None:
    events = list(people.events(STANDARD, people=10, days=42, seed=1))
    first: dict[tuple[str, str], float] = {}
    for event in events:
        first.setdefault((event.user, event.app), event.t)
    assert sum(t > 7 * DAY_S for t in first.values()) >= len(first) / 10


def test_the_command_writes_a_line_for_each_event(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    people.main(["--population", "sparse", "--people", "2", "--days", "3", "--seed", "4"])
    lines = capfdbinary.readouterr().out.splitlines()
    assert len(lines) == len(list(people.events("sparse", people=2, days=3, seed=4)))
    assert set(json.loads(lines[0])) == set(Event.__struct_fields__)


def test_the_shipped_table_alone_leaves_a_fifth_of_the_surplus_to_learning() -> None:
    rules, knowing = Result(), Result()
    for person in range(60):
        found = run(
            Task(population=STANDARD, person=person, days=42, seed=1, judges=(RULES, KNOWS_ALL_BUT_NOISE, KNOWS_ALL))
        )
        rules.merge(found[RULES])
        knowing.merge(found[KNOWS_ALL_BUT_NOISE])
        assert found[KNOWS_ALL].summary.whole().ratio == 1
    assert rules.summary.settled().ratio == pytest.approx(0.79, abs=0.05)
    assert (knowing.summary.settled().ratio or 0) > 0.97


def test_no_judge_asks_more_than_it_may_and_the_report_shows_them_all() -> None:
    results = run(Task(population=STANDARD, person=0, days=15, seed=1, judges=tuple(ALONE)))
    results |= {LEARNER: run_together(STANDARD, 1, 15, 1)}
    bound = questions_by(15)
    for name, result in results.items():
        asked = result.summary.whole().questions
        assert asked <= bound or name == "ask always", name
    for results_of_few in (results, {LEARNER: results[LEARNER]}):
        assert judges_table(STANDARD, results_of_few).row_count == len(results_of_few)
        assert populations_table({STANDARD: results_of_few}).row_count == 1
    missed = missed_in(STANDARD, results)
    assert json.loads(json.dumps(document({STANDARD: results}, None, missed)))["missed"] == missed


def test_an_allowance_is_three_a_day_and_saved_up_slowly() -> None:
    allowance = Allowance()
    asked = []
    for hour in range(24 * 42):
        while allowance.permits(hour * 3600):
            allowance.take()
            asked.append(hour // 24)
    assert max(asked.count(day) for day in range(42)) == QUESTIONS_IN_A_DAY_MAX
    assert len(asked) == pytest.approx(questions_by(42), abs=1.5)
