"""How long a whole decision takes in the process: guard, answers, rules, learner, ceilings; 100,000 decisions past.

Decides nothing. One process, one thread, in memory: what the socket and the journal's fsync add is not counted. The
baseline is the request written as JSON and read again, in the same run.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC
from ipaddress import ip_network
from itertools import count
from typing import Final

import msgspec

from bench.hostplane.hosts import progress
from bench.secretary.people import requests_of
from bench.secretary.populations import STANDARD
from billpay.messages import FlowSelector
from billpay.signing import SigningKey, sign
from secretary.inbox.questions import Manners
from secretary.judging import Policy
from secretary.kinds import shipped_kinds
from secretary.messages import AskGrant, Request
from secretary.money.budgets import BudgetTerms, Unit
from secretary.money.periods import Cycle
from secretary.money.reserving import GrantBudget
from secretary.replay import BOOT, Event, kind_of, transfer_of
from secretary.ruling.ceilings import Ceiling, place
from secretary.ruling.precedence import Rulebook
from secretary.ruling.rules import Rule
from secretary.secretary import Entry, Secretary, Settings
from secretary.transfers import Moment

PAST: Final = 100_000
ROUNDS: Final = 20_000
DAYS: Final = 60
KNOWN: Final = 50
RULES: Final = 50
GATEWAY: Final = "ab" * 32
GOAL_P99_US: Final = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Microseconds."""

    what: str
    p50_us: float
    p99_us: float


class Core:
    """A secretary with rules, a ceiling and budgets, and one person's requests over and over."""

    def __init__(self) -> None:
        own = tuple(
            Rule(name=f"r{number}", destinations=(ip_network(f"10.{number}.0.0/16"),), amount_nanodollars=1)
            for number in range(RULES)
        )
        ceiling = Ceiling(name="day", day_nanodollars=10**15, packet_nanodollars=10**6)
        day = BudgetTerms(name="day", unit=Unit.NANODOLLARS, cycle=Cycle.DAY, limit=10**14, hard=True)
        numbers = count(1)
        key = SigningKey(b"b" * 32)
        self._kinds = shipped_kinds()
        self._events: list[Event] = [each.event for each in requests_of(STANDARD, 0, days=DAYS, seed=1)]
        self.secretary = Secretary(
            Settings(
                policy=Policy(book=Rulebook(own=own), ceilings=place((), (ceiling,)), own_ceilings=(ceiling,)),
                manners=Manners(per_day=3),
                budgets=(GrantBudget(terms=day),),
            ),
            begun=self.asked(0)[1],
            draw=lambda size: next(numbers).to_bytes(size, "big"),
            sign=lambda grant: sign(key, grant),
            keep=self.keep,
        )

    def keep(self, entry: Entry) -> None:
        self.secretary.apply(entry)

    def asked(self, number: int) -> tuple[AskGrant, Moment]:
        again, place_ = divmod(number, len(self._events))
        event = self._events[place_]
        unix_s = int(event.t) + again * DAYS * 86_400
        transfer = transfer_of(event, kind_of(event.app, self._kinds))
        flow = FlowSelector(
            source="198.51.100.10",
            destination="203.0.113.20",
            protocol=6,
            source_port=1 + number % 60_000,
            destination_port=443,
        )
        now = Moment(unix_s=unix_s, boot_ns=unix_s * 10**9, boot=BOOT, zone=UTC)
        return AskGrant(flow=flow, gateway=GATEWAY, transfer=transfer), now

    def live(self, past: int) -> None:
        progress(f"deciding: {past:,} past decisions")
        judge = self.secretary.judge
        for number in range(past):
            question, now = self.asked(number)
            self.secretary.on_time(now)
            judgement = judge.judge(question.transfer, now, question.flow)
            judge.count(judgement, now)
            for entry in judge.ask(judgement, now):
                self.keep(entry)
            if number % 1000 == 0:
                self._answer(now)
        for learner in judge.learners.values():
            while (work := learner.due_work()) is not None:
                learner.take(work())

    def _answer(self, now: Moment) -> None:
        for waiting in self.secretary.inbox.questions(now)[:1]:
            entry = self.secretary.inbox.answer(waiting.number, now, accept=waiting.number % 3 > 0)
            if entry is not None:
                self.secretary.answered(waiting.number, entry, now)


def measure(past: int = PAST, rounds: int = ROUNDS) -> list[Row]:
    core = Core()
    core.live(past)
    known = [core.asked(number) for number in range(past - KNOWN, past)]
    now = known[-1][1]
    judge = core.secretary.judge
    core.secretary.on_time(now)
    for question, _ in known:  # their contexts, and their flows, are known from here on
        core.secretary.ask_grant(question, now)
    decode, encode = msgspec.json.Decoder(Request).decode, msgspec.json.Encoder().encode
    judging, new_flows, asking, baseline = [], [], [], []
    gc.disable()  # of the bench's own garbage
    try:
        for number in range(rounds):
            question, _ = known[number % KNOWN]
            new = _new_flow(question, number)
            judging.append(_ns(lambda: judge.judge(question.transfer, now, question.flow)))  # noqa: B023
            new_flows.append(_ns(lambda: _first(core.secretary, new, now)))  # noqa: B023
            asking.append(_ns(lambda: core.secretary.ask_grant(question, now)))  # noqa: B023
            baseline.append(_ns(lambda: decode(encode(Request(number=1, question=question)))))  # noqa: B023
    finally:
        gc.enable()
    return [
        _row("judgement of a known context", judging),
        _row("judgement of a new flow, counted", new_flows),
        _row("the same flow asked again, its grant signed", asking),
        _row("baseline: the request as JSON and back", baseline),
    ]


def _first(secretary: Secretary, question: AskGrant, now: Moment) -> None:
    """What a flow's first question takes beside its grant."""
    transfer = secretary.sized(question.transfer, question.price_nanodollars_per_mb, question.flow.destination)
    judgement = secretary.judge.judge(transfer, now, question.flow)
    secretary.judge.count(judgement, now)
    secretary.terms_for(judgement)


def _new_flow(question: AskGrant, number: int) -> AskGrant:
    flow = msgspec.structs.replace(question.flow, source_port=1 + number % 60_000, destination="203.0.113.21")
    return msgspec.structs.replace(question, flow=flow)


def _row(what: str, samples: Sequence[int]) -> Row:
    ordered = sorted(samples)
    p50, p99 = (round(ordered[int(share * (len(ordered) - 1))] / 1000, 2) for share in (0.5, 0.99))
    return Row(what=what, p50_us=p50, p99_us=p99)


def _ns(call: Callable[[], object]) -> int:
    begun_ns = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - begun_ns


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if a judgement's p99 is over the goal."""
    parser = argparse.ArgumentParser(description="Latency of the secretary's decisions, in the process.")
    parser.add_argument("--past", type=int, default=PAST)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments if arguments is not None else [])
    rows = measure(options.past, options.rounds)
    for row in rows:
        line = f"{row.what:48}{row.p50_us:9.1f} µs p50{row.p99_us:9.1f} µs p99"
        print(json.dumps(asdict(row)) if options.json else line)
    return int(rows[0].p99_us > GOAL_P99_US)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
