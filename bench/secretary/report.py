"""`python -m bench.secretary [--population NAME] [--people N] [--days N] [--seed N] [--quick] [--json]`.

Decides: which populations, how many people, and the goals. Refuses to know: how anybody judges.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.hostplane.hosts import progress
from bench.secretary import latency
from bench.secretary.baselines import ASK_ALWAYS, BASELINES
from bench.secretary.people import DAYS, PEOPLE
from bench.secretary.populations import POPULATIONS, STANDARD
from bench.secretary.trial import JUDGES, LEARNER, Result, Task, run, run_together
from secretary.hindsight import SETTLED_WEEK, Summary

PROCESSES: Final = 2
OTHERS_PEOPLE: Final = 20
QUICK_PEOPLE: Final = 16
RATIO: Final = 0.95
PROGRAM_RATIO: Final = 0.85
QUESTIONS_A_DAY: Final = 0.7
CALIBRATION_PPM: Final = 50_000
LATENCY_P99_US: Final = 200
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Results = Mapping[str, Result]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.secretary", description="what is learnt of people, beside simpler judges"
    )
    parser.add_argument("--population", choices=sorted(POPULATIONS), help="this one alone")
    parser.add_argument("--people", type=int, help=f"default {PEOPLE}; {OTHERS_PEOPLE} of each other population")
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--judge", choices=list(JUDGES), action="append", help="these alone")
    parser.add_argument("--quick", action="store_true", help="fewer people: about a minute")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    options = parser.parse_args(arguments)
    for name in _ONE_THREAD:
        os.environ.setdefault(name, "1")  # of the children: people run side by side already
    judges = tuple(options.judge or JUDGES)
    names = [options.population] if options.population else list(POPULATIONS)
    found: dict[str, Results] = {}
    missed: list[str] = []
    console = Console(width=170)
    for name in names:
        alone = name == STANDARD or options.population
        people = options.people or ((QUICK_PEOPLE if options.quick else PEOPLE) if alone else OTHERS_PEOPLE)
        people = min(people, QUICK_PEOPLE // 4) if options.quick and not alone and not options.people else people
        found[name] = measure(name, people=people, days=options.days, seed=options.seed, judges=judges)
        missed += missed_in(name, found[name])
        if not options.json and alone:
            console.print(judges_table(name, found[name]))
    others = {name: results for name, results in found.items() if name != STANDARD}
    if not options.json and others and not options.population:
        console.print(populations_table(others))
    times = None
    if LEARNER in judges and not options.population:
        times = latency.measure()
        missed += [text for text in [times.missed(LATENCY_P99_US)] if text]
        if not options.json:
            console.print(times.text())
    if options.json:
        print(json.dumps(document(found, times, missed)))
    print(f"{len(missed)} goals missed", *missed, sep="\n  ", file=sys.stderr)
    return 0


def measure(name: str, *, people: int, days: int, seed: int, judges: tuple[str, ...]) -> Results:
    """Each person in one of the processes, and all of them before the secretary in another."""
    alone = tuple(judge for judge in judges if judge != LEARNER)
    tasks = [Task(population=name, person=person, days=days, seed=seed, judges=alone) for person in range(people)]
    merged = {judge: Result() for judge in judges}
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        together = pool.apply_async(run_together, (name, people, days, seed)) if LEARNER in judges else None
        for number, results in enumerate(pool.imap(run, tasks), start=1):
            for judge, result in results.items():
                merged[judge].merge(result)
            if number % max(1, people // 10) == 0:
                progress(f"{name}: {number} of {people} people")
        if together is not None:
            progress(f"{name}: all of them before the secretary")
            merged[LEARNER] = together.get()
    return merged


def missed_in(name: str, results: Results) -> list[str]:
    """Of the learner's goals, which are the standard population's; of the others, that it beats what asks as rarely."""
    if LEARNER not in results:
        return []
    summary = results[LEARNER].summary
    found = []
    for week in range(SETTLED_WEEK, summary.weeks):
        questions = summary.questions_per_day(week)
        if questions is not None and questions > QUESTIONS_A_DAY:
            found.append(f"{name}: {questions:.2f} questions a day in week {week + 1} (goal ≤ {QUESTIONS_A_DAY})")
    if name == STANDARD:
        found += _missed_in_standard(summary)
    own = summary.settled()
    for judge, result in results.items():
        other = result.summary.settled()
        # Who asks always is charged for it. Where any transfer is worth more than a question that is the best there is.
        charged = judge == ASK_ALWAYS
        mine, theirs = (each.ratio_less_questions if charged else each.ratio for each in (own, other))
        counts = judge in BASELINES and (name == STANDARD or not charged)
        if counts and mine is not None and theirs is not None and theirs >= mine:
            found.append(f"{name}: {judge} is as good: {theirs:.3f} against {mine:.3f}")
    return found


def _missed_in_standard(summary: Summary) -> list[str]:
    found = []
    ratio, programs = summary.settled().ratio, summary.program_mean()
    if ratio is not None and ratio < RATIO:
        found.append(f"{ratio:.3f} of the surplus from the third week (goal ≥ {RATIO})")
    if programs is not None and programs < PROGRAM_RATIO:
        found.append(f"{programs:.3f} of the surplus in the mean over programs (goal ≥ {PROGRAM_RATIO})")
    worst = summary.settled_calibration.worst_ppm()
    if worst is not None and worst > CALIBRATION_PPM:
        found.append(
            f"a decile is {worst / 1e4:.1f} points from what was predicted (goal ≤ {CALIBRATION_PPM / 1e4:.0f})"
        )
    return [f"{STANDARD}: {text}" for text in found]


def judges_table(name: str, results: Results) -> Table:
    some = next(iter(results.values())).summary
    table = Table(title=f"{name}: {POPULATIONS[name].title}; {len(some.people)} people, {some.weeks} weeks")
    table.add_column("")
    for title in (
        "of the surplus\nfrom week 3",
        "questions\ncharged",
        "mean over\nprograms",
        "… of each\nperson",
        "questions a day,\nweek 1 / 3 / last",
        "worst decile,\npoints off",
        "unjustified,\na week",
        "… of\nthe surplus",
        "µs a\ndecision",
    ):
        table.add_column(title, justify="right")
    for judge, result in results.items():
        table.add_row(judge, *_cells(result))
    table.caption = (
        "the surplus: of what knowing every worth gives; unjustified: paid without a question though worth less. "
        "A question costs two cents where it is charged"
    )
    return table


def _cells(result: Result) -> list[str]:
    summary = result.summary
    settled = summary.settled()
    last = max(0, summary.weeks - 1)
    worst = summary.settled_calibration.worst_ppm()
    weeks = sum(person.days_in(week) for person in summary.people.values() for week in range(2, summary.weeks)) / 7
    loss = settled.unjustified_loss_nanodollars / settled.best_nanodollars if settled.best_nanodollars else 0.0
    return [
        _ratio(settled.ratio),
        _ratio(settled.ratio_less_questions),
        _ratio(summary.program_mean()),
        _ratio(summary.person_program_mean()),
        " / ".join(_ratio(summary.questions_per_day(week), 2) for week in (0, min(2, last), last)),
        "" if worst is None else f"{worst / 1e4:.1f}",
        f"{settled.unjustified / weeks:.1f}" if weeks else "",
        f"{loss:.1%}",
        f"{result.microseconds_a_decision:.1f}",
    ]


def _ratio(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def populations_table(found: Mapping[str, Results]) -> Table:
    table = Table(title="Other populations: of the surplus from week 3")
    table.add_column("")
    judges = list(next(iter(found.values())))
    for judge in judges:
        table.add_column(judge.replace(" ", "\n"), justify="right")
    table.add_column("learner: mean\nover programs", justify="right")
    table.add_column("questions a day,\nweek 1 / 3 / last", justify="right")
    table.add_column("worst decile,\npoints off", justify="right")
    for name, results in found.items():
        own = _cells(results[LEARNER]) if LEARNER in results else [""] * 9
        ratios = [_ratio(result.summary.settled().ratio) for result in results.values()]
        table.add_row(name, *ratios, own[2], own[4], own[5])
    table.caption = "few people each: the deciles are rough"
    return table


def document(found: Mapping[str, Results], times: latency.Latency | None, missed: Sequence[str]) -> dict[str, Any]:
    return {
        "populations": {
            name: {
                judge: {
                    **result.summary.as_json(),
                    "by_program": {
                        program: tally.as_json() for program, tally in sorted(result.summary.programs().items())
                    },
                    "microseconds_a_decision": round(result.microseconds_a_decision, 2),
                }
                for judge, result in results.items()
            }
            for name, results in found.items()
        },
        "latency": None if times is None else times.as_json(),
        "missed": list(missed),
    }
