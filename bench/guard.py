"""The guard against theft, measured: false alarms of honest people, delay and loss of scripted attacks.

`python -m bench.guard [--people N] [--days D] [--json]`; delays in minutes. Each person's guard learns for three weeks,
then goes on honest (false alarms), and is attacked from a copy of the same state. People: "steady" pays every minute
with lognormal noise; "home" has four programs, sessions and hours; "bursty" pays in sessions at two rates thirty times
apart. The delay counts from the attack's first payment to the freeze, reports coming every ten seconds.
The loss is what the attacker got until then, in minutes at the program's usual rate: a tenfold thief who is found after
two minutes got 18. What he could get without a guard is the cap of the grants, for as long as they are renewed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC

import msgspec

from secretary.guard.forest import Forest
from secretary.guard.snapshots import GuardSnapshot
from secretary.guard.values import Alarm, Spend
from secretary.guard.watching import Guard
from secretary.transfers import Moment

START_S = 1_790_553_600  # a Monday, 00:00 UTC
DAY_MINUTES = 1440
SIGMAS = (0.2, 0.45, 0.67)
ATTACK_MINUTES = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """`starts`: chance of a session to begin in a minute of its hours; `ends`: to end. `high`: share of its sessions
    at thirty times the rate.
    """

    name: str
    nanodollars: int
    destinations: int = 5
    hours: range = range(24)
    starts: float = 1.0
    ends: float = 0.0
    foreground: bool | None = None
    high: float = 0.0


@dataclass(frozen=True, slots=True)
class Payment:
    program: str
    destination: str
    nanodollars: int
    foreground: bool | None


STEADY = (Program(name="sync", nanodollars=200_000),)
HOME = (
    Program(
        name="firefox",
        nanodollars=2_000_000,
        destinations=40,
        hours=range(8, 23),
        starts=0.03,
        ends=0.04,
        foreground=True,
    ),
    Program(name="mail", nanodollars=50_000, destinations=2, hours=range(7, 23), starts=0.1, ends=0.5),
    Program(name="zoom", nanodollars=8_000_000, destinations=3, hours=range(9, 18), starts=0.005, ends=0.03),
    Program(name="restic", nanodollars=5_000_000, destinations=1, hours=range(2, 3), starts=0.3, ends=0.02),
)
BURSTY = (
    Program(
        name="firefox",
        nanodollars=1_000_000,
        destinations=40,
        hours=range(8, 23),
        starts=0.03,
        ends=0.03,
        foreground=True,
        high=0.15,
    ),
)
PEOPLE = {"steady": STEADY, "home": HOME, "bursty": BURSTY}


class Person:
    """Honest minutes."""

    def __init__(self, programs: tuple[Program, ...], sigma: float, rng: random.Random) -> None:
        self._programs = programs
        self._sigma = sigma
        self._rng = rng
        self._sessions: dict[str, float] = {}  # program → factor on its rate

    def minute(self, number: int) -> list[Payment]:
        hour = number // 60 % 24
        rng = self._rng
        found = []
        for program in self._programs:
            if program.name in self._sessions:
                if rng.random() < program.ends:
                    del self._sessions[program.name]
            elif hour in program.hours and rng.random() < program.starts:
                self._sessions[program.name] = 30.0 if rng.random() < program.high else 1.0
            factor = self._sessions.get(program.name)
            if factor is not None:
                amount = factor * program.nanodollars * math.exp(rng.gauss(0.0, self._sigma))
                place = min(program.destinations - 1, int(rng.expovariate(3.0 / program.destinations)))
                found.append(Payment(program.name, f"{program.name}-{place}.net", int(amount), program.foreground))
        return found


class Host:
    """Reports of grants, one for each stream, to a guard on a virtual clock."""

    def __init__(self, guard: Guard, minute: int = 0, totals: dict[tuple[str, str], int] | None = None) -> None:
        self.guard = guard
        self.at = minute
        self.totals = totals if totals is not None else {}

    def moment(self, minute: int, second: int) -> Moment:
        passed_s = minute * 60 + second
        return Moment(unix_s=START_S + passed_s, boot_ns=passed_s * 10**9, boot="bench", zone=UTC)

    def play(self, payments: list[Payment], *, parts: int = 1) -> Iterator[tuple[int, int, list[Alarm]]]:
        """One minute in so many reports for each stream: second, what was paid in the part, alarms."""
        for part in range(parts):
            second = 60 * (part + 1) // parts - 1
            for payment in payments:
                if self.guard.check(payment.program, payment.destination) is not None:
                    continue
                key = (payment.program, payment.destination)
                share = payment.nanodollars // parts
                self.totals[key] = self.totals.get(key, 0) + share
                spend = Spend(
                    grant=f"{key[0]} {key[1]}",
                    program=payment.program,
                    destination=payment.destination,
                    foreground=payment.foreground,
                    total_nanodollars=self.totals[key],
                )
                yield second, share, self.guard.on_spend(spend, self.moment(self.at, second))
        self.at += 1
        yield 60, 0, self.guard.on_minute(self.moment(self.at, 0))

    def live(self, person: Person, minutes: int, *, mine: bool = True) -> list[Alarm]:
        """Honest ones; the person thaws whatever was frozen wrongly."""
        found = []
        for _ in range(minutes):
            for _, _, alarms in self.play(person.minute(self.at)):
                found += alarms
                for alarm in alarms:
                    self.guard.thaw(alarm.alarm, is_mine=mine)
        return found


def grow(guard: Guard) -> Forest | None:
    training = guard.training_set(seed=7)
    if training is None:
        return None
    done = subprocess.run(
        [sys.executable, "-m", "secretary.guard.training"],
        input=msgspec.msgpack.encode(training),
        stdout=subprocess.PIPE,
        check=False,
    )
    return msgspec.msgpack.decode(done.stdout, type=Forest) if done.returncode == 0 else None


@dataclass(slots=True)
class Trained:
    """A person three weeks later."""

    programs: tuple[Program, ...]
    sigma: float
    seed: int
    snapshot: GuardSnapshot
    totals: dict[tuple[str, str], int]
    minute: int
    alarms: list[Alarm]

    def host(self, hour: int | None = None) -> tuple[Host, Person]:
        """A copy; at the next such hour, if one is given, after an honest wait."""
        guard = Guard()
        guard.restore(self.snapshot)
        person = Person(self.programs, self.sigma, random.Random(self.seed + 1))
        host = Host(guard, self.minute, dict(self.totals))
        if hour is not None:
            host.live(person, (hour * 60 - self.minute) % DAY_MINUTES)
        return host, person


def train(programs: tuple[Program, ...], sigma: float, seed: int, *, days: int = 21, forest: bool = True) -> Trained:
    host = Host(Guard())
    person = Person(programs, sigma, random.Random(seed))
    alarms = host.live(person, days * DAY_MINUTES)
    if forest and (grown := grow(host.guard)) is not None:
        host.guard.take_forest(grown)
    return Trained(programs, sigma, seed, host.guard.snapshot(), host.totals, host.at, alarms)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`delay_s` None: not found."""

    delay_s: int | None
    lost_nanodollars: int
    alarm: Alarm | None


Script = Callable[[int, random.Random], list[Payment]]
"""Minutes since the attack began → what the thief pays."""


def attack(trained: Trained, script: Script, *, hour: int | None = None, minutes: int = ATTACK_MINUTES) -> Outcome:
    host, person = trained.host(hour)
    rng = random.Random(trained.seed + 2)
    lost = begun = 0
    for number in range(minutes):
        stolen = script(number, rng)
        names = {(payment.program, payment.destination) for payment in stolen}
        honest = [payment for payment in person.minute(host.at) if (payment.program, payment.destination) not in names]
        begun = begun or (1 if stolen else 0)
        for second, _, alarms in host.play(honest + stolen, parts=6):
            for alarm in alarms:
                if any(alarm.program == name and alarm.destination in {"", place} for name, place in names):
                    lost += sum(payment.nanodollars for payment in stolen) * min(second + 1, 60) // 60
                    return Outcome(number * 60 + second, lost, alarm)
        lost += sum(payment.nanodollars for payment in stolen)
    return Outcome(None, lost, None)


def tenfold(
    program: Program, sigma: float, *, destination: str, factor: float = 10.0, fg: bool | None = None
) -> Script:
    """The stream as a whole pays `factor` times the usual, with the same noise."""

    def script(_: int, rng: random.Random) -> list[Payment]:
        amount = (factor - 1.0) * program.nanodollars * math.exp(rng.gauss(0.0, sigma))
        return [Payment(program.name, destination, int(amount), fg)]

    return script


def boil(trained: Trained, daily: float, *, days: int) -> Outcome:
    """The thief's part of the stream grows day by day, from a tenth of the usual."""
    host, person = trained.host()
    program = trained.programs[0]
    lost = 0
    for number in range(days * DAY_MINUTES):
        honest = person.minute(host.at)
        day = number / DAY_MINUTES
        stolen = [
            replace(payment, destination="thief.net", nanodollars=int(payment.nanodollars * (0.1 * daily**day)))
            for payment in honest
            if payment.program == program.name
        ]
        for _, _, alarms in host.play(honest + stolen):
            if any(alarm.program == program.name for alarm in alarms):
                return Outcome(number * 60, lost, alarms[0])
        lost += sum(payment.nanodollars for payment in stolen)
    return Outcome(None, lost, None)


def _attacks(trained: Trained) -> dict[str, Outcome]:
    program, sigma = trained.programs[0], trained.sigma
    usual = f"{program.name}-0.net"
    return {
        "tenfold, usual destination": attack(trained, tenfold(program, sigma, destination=usual), hour=12),
        "tenfold, new destination": attack(trained, tenfold(program, sigma, destination="thief.net"), hour=12),
        "tenfold at night, background": attack(
            trained, tenfold(program, sigma, destination="thief.net", fg=False), hour=3
        ),
        "twofold at night, background": attack(
            trained, tenfold(program, sigma, destination="thief.net", factor=2.0, fg=False), hour=3
        ),
        "slow boil, x1.2 a day": boil(trained, 1.2, days=21),
        "poisoning, x1.03 a day": boil(trained, 1.03, days=28),
    }


@dataclass(slots=True)
class Row:
    """One line of the table. Delays in minutes."""

    people: str
    sigma: float
    attack: str
    runs: int
    found: int
    median: float | None
    mean: float | None
    p90: float | None
    lost_minutes: float  # the loss, in minutes at the usual rate
    false_alarms_per_month: float


def measure(name: str, sigma: float, *, people: int, days: int) -> list[Row]:
    outcomes: dict[str, list[Outcome]] = {}
    wrong = 0
    for seed in range(people):
        trained = train(PEOPLE[name], sigma, 1000 * seed + 1)
        host, person = trained.host()
        wrong += len(host.live(person, days * DAY_MINUTES))
        for script, outcome in _attacks(trained).items():
            outcomes.setdefault(script, []).append(outcome)
    rate = PEOPLE[name][0].nanodollars
    return [
        Row(
            people=name,
            sigma=sigma,
            attack=script,
            runs=len(found),
            found=sum(outcome.delay_s is not None for outcome in found),
            **_delays([outcome.delay_s / 60 for outcome in found if outcome.delay_s is not None]),
            lost_minutes=statistics.mean(outcome.lost_nanodollars for outcome in found) / rate,
            false_alarms_per_month=wrong * 30 / (people * days),
        )
        for script, found in outcomes.items()
    ]


def _delays(minutes: list[float]) -> dict[str, float | None]:
    minutes.sort()
    if not minutes:
        return {"median": None, "mean": None, "p90": None}
    return {
        "median": statistics.median(minutes),
        "mean": statistics.mean(minutes),
        "p90": minutes[min(len(minutes) - 1, int(0.9 * len(minutes)))],
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Detection delay and false alarms of the guard against theft.")
    parser.add_argument("--people", type=int, default=1, help="of each sort and sigma")
    parser.add_argument("--days", type=int, default=30, help="of honest life after the three weeks of learning")
    parser.add_argument("--sort", choices=[*PEOPLE], help="only these people")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments if arguments is not None else [])
    if not options.json:
        print(f"{'people':8}{'sigma':>6}  {'attack':30}{'found':>7}{'median':>9}{'mean':>9}{'90 %':>9}", end="")
        print(f"{'lost, min':>11}{'false/month':>13}")
    for name in [options.sort] if options.sort else PEOPLE:
        for sigma in SIGMAS:
            for row in measure(name, sigma, people=options.people, days=options.days):
                print(json.dumps(asdict(row)) if options.json else _line(row), flush=True)


def _line(row: Row) -> str:
    delays = "".join(f"{value:9.1f}" if value is not None else f"{'-':>9}" for value in (row.median, row.mean, row.p90))
    start = f"{row.people:8}{row.sigma:6.2f}  {row.attack:30}{row.found:4}/{row.runs:<2}{delays}"
    return f"{start}{row.lost_minutes:11.1f}{row.false_alarms_per_month:13.2f}"


if __name__ == "__main__":
    main(sys.argv[1:])
