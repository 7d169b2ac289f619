"""Synthetic people: what they transfer, at which price, and what it is worth to them. Events for the replay.

Decides how worths, prices and hours are drawn; everything follows from the population's name, the person's number and
the seed. A worth is lognormal by person, program, destination, network, hour and foreground, drifts, steps, and has
noise that nobody can foresee. Refuses to know who judges the transfers.

    python -m bench.secretary.people --population NAME --people N --days D --seed S > events.jsonl
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

import msgspec

from bench.secretary.populations import POPULATIONS, STANDARD, Naming, Population, Pricing
from secretary.kinds import shipped_kinds
from secretary.replay import Event

DAY_S: Final = 86_400
PEOPLE: Final = 200
DAYS: Final = 42
NANODOLLARS_MAX: Final = 10**18
_NETWORKS: Final = ("home-wifi", "office-lan", "lte", "cafe-wifi")
_NETWORK_PRICES: Final = {"home-wifi": 0.7, "office-lan": 0.7, "lte": 2.0, "cafe-wifi": 1.3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """How a kind of traffic is used. `weight`: how often, beside others. `foreground`: how probable."""

    kind: str
    word: str
    size_mb: float
    size_spread: float
    weight: float
    foreground: float


HABITS: Final = (
    Habit(kind="call", word="video-call", size_mb=40.0, size_spread=0.9, weight=1.0, foreground=0.95),
    Habit(kind="game", word="game", size_mb=20.0, size_spread=0.8, weight=0.7, foreground=0.95),
    Habit(kind="web", word="browser", size_mb=8.0, size_spread=1.2, weight=3.0, foreground=0.8),
    Habit(kind="stream", word="video", size_mb=120.0, size_spread=1.0, weight=1.2, foreground=0.7),
    Habit(kind="default", word="assistant", size_mb=20.0, size_spread=1.2, weight=0.8, foreground=0.4),
    Habit(kind="sync", word="cloud-sync", size_mb=30.0, size_spread=1.3, weight=1.0, foreground=0.1),
    Habit(kind="update", word="updates", size_mb=150.0, size_spread=1.0, weight=0.6, foreground=0.05),
    Habit(kind="backup", word="backup", size_mb=300.0, size_spread=1.0, weight=0.5, foreground=0.05),
)
_CHOSEN: Final = (3.0, 1.0, 6.0, 2.0, 1.5, 1.5, 1.0, 0.7)
"""How often a person has a program of each habit."""


_STRANGE: Final = (
    "bodega",
    "dikuro",
    "fenomi",
    "galeti",
    "kosavu",
    "lumire",
    "mazoka",
    "nepitu",
    "ravelo",
    "sotimu",
    "tuvane",
    "zibolo",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An event, and what nobody may see but the bench's own rows: its worth to the person without this time's noise."""

    event: Event
    middle_nanodollars: int


@dataclass(slots=True, kw_only=True)
class _Program:
    name: str
    habit: Habit
    weight: float
    level: float  # the logarithm of what it is worth beside what the table says, as it drifts
    noise: float
    peak_hour: float
    from_day: int
    destinations: list[tuple[str, float, float]]  # name, how often, level
    networks: dict[str, float]
    step: tuple[int, float] | None = None  # at this day, by so much


@dataclass(slots=True)
class _Prices:
    """The price of a megabyte, but for the population's level."""

    pricing: Pricing
    spread: float
    tariffs: dict[tuple[str, int], float] = field(default_factory=dict)

    def factor(self, random: Random, network: str, t_s: float) -> float:
        place = _NETWORK_PRICES[network]
        if self.pricing is Pricing.PLAIN:
            return math.exp(random.gauss(0.0, self.spread))
        if self.pricing is Pricing.TARIFF:
            week = (network, int(t_s // (7 * DAY_S)))
            if week not in self.tariffs:
                self.tariffs[week] = place * math.exp(random.gauss(0.0, self.spread))
            return self.tariffs[week]
        if self.pricing is Pricing.CONGESTION:
            hour = t_s % DAY_S / 3600
            return math.exp(0.9 * math.cos((hour - 20) * math.pi / 12) + random.gauss(0.0, self.spread))
        return place * math.exp(random.gauss(0.0, self.spread))


def requests_of(name: str, number: int, *, days: int, seed: int) -> Iterator[Request]:
    """One person's, in the order of time. The same arguments give the same requests."""
    population = POPULATIONS[name]
    random = Random(f"{name}/{seed}/{number}")
    programs = _programs(population, random, days)
    prices = _Prices(population.pricing, population.price_spread)
    user = f"person-{number:04d}"
    for day in range(days):
        for program in programs:
            program.level += random.gauss(0.0, population.drift_a_month / math.sqrt(30))
            if program.step is not None and program.step[0] == day:
                program.level += program.step[1]
        here = [program for program in programs if program.from_day <= day]
        chosen = random.choices(
            here, [program.weight for program in here], k=_poisson(random, population.requests_a_day)
        )
        moments = sorted(
            ((_second_of_day(random, program.habit.foreground), program) for program in chosen),
            key=lambda moment: moment[0],
        )
        for second, program in moments:
            t_s = population.start_s + day * DAY_S + second
            yield _request(population, random, prices, user, program, t_s)


def events(name: str, *, people: int, days: int, seed: int) -> Iterator[Event]:
    """Of all people, as they come."""
    each = (requests_of(name, number, days=days, seed=seed) for number in range(people))
    for request in heapq.merge(*each, key=lambda request: request.event.t):
        yield request.event


def _programs(population: Population, random: Random, days: int) -> list[_Program]:
    count = random.randint(*population.programs)
    person = random.gauss(0.0, population.person_spread)
    taken: set[str] = set()
    programs = []
    for number in range(count):
        habit = random.choices(HABITS, _CHOSEN)[0]
        name = _name(population, random, habit, number, taken)
        taken.add(name)
        level = person + random.gauss(0.0, population.program_spread)
        # Where a program does not follow the table, it is worth what the middle of the table is.
        level += (1 - population.kind_weight) * (math.log(2.0) - math.log(shipped_kinds()[habit.kind].worth))
        later = number > 0 and random.random() < population.later_share
        programs.append(
            _Program(
                name=name,
                habit=habit,
                weight=habit.weight * math.exp(random.gauss(0.0, 0.6)),
                level=level,
                noise=population.noise,
                peak_hour=random.uniform(0.0, 24.0),
                from_day=random.randint(min(7, days), max(7, days * 2 // 3)) if later else 0,
                destinations=_destinations(population, random, name),
                networks={network: random.gauss(0.0, population.network_spread) for network in _NETWORKS},
            )
        )
    if random.random() < population.step_share:
        size = random.choice((-1, 1)) * population.step_size
        random.choice(programs).step = (random.randint(min(10, days), max(10, days - 7)), size)
    if random.random() < population.erratic_share:
        random.choice(programs).noise = population.erratic_noise
    return programs


def _name(population: Population, random: Random, habit: Habit, number: int, taken: set[str]) -> str:
    """One that the person has no other program of."""
    if population.naming is Naming.PLAIN:
        return habit.word if habit.word not in taken else f"{habit.word}-{number}"
    if population.naming is Naming.STRANGE:
        return f"app-{number:02d}"
    known = [name for name in shipped_kinds()[habit.kind].programs if name not in taken]
    strange = [name for name in _STRANGE if name not in taken]
    return random.choice(strange if not known or random.random() < population.unknown_share else known)


def _destinations(population: Population, random: Random, program: str) -> list[tuple[str, float, float]]:
    count = random.randint(*population.destinations)
    word = program.rsplit("/", 1)[-1].split(".")[0].lower()
    return [
        (
            f"{word}-{number}.example.net" if random.random() < 0.8 else f"198.51.100.{random.randint(1, 254)}",
            math.exp(random.gauss(0.0, 0.7)),
            random.gauss(0.0, population.destination_spread),
        )
        for number in range(count)
    ]


def _second_of_day(random: Random, foreground: float) -> float:
    """People are awake from seven to midnight; what works by itself does so at any hour."""
    if random.random() < 0.15 + 0.85 * foreground:
        return random.triangular(7.0, 24.0, 19.0) * 3600 % DAY_S
    return random.uniform(0.0, DAY_S)


def _network(random: Random, second: float) -> str:
    at_work = 9 <= second / 3600 < 17
    return random.choices(_NETWORKS, (1.0, 5.0, 2.0, 0.5) if at_work else (6.0, 0.2, 2.0, 0.8))[0]


def _poisson(random: Random, mean: float) -> int:
    """Knuth's way, which serves for a few dozens."""
    limit, product, count = math.exp(-mean), random.random(), 0
    while product > limit:
        product *= random.random()
        count += 1
    return count


def _request(
    population: Population, random: Random, prices: _Prices, user: str, program: _Program, t_s: float
) -> Request:
    habit, second = program.habit, t_s % DAY_S
    destination, _, destination_level = random.choices(
        program.destinations, [weight for _, weight, _ in program.destinations]
    )[0]
    network = _network(random, second)
    is_foreground = random.random() < habit.foreground
    size_mb = habit.size_mb * math.exp(random.gauss(0.0, habit.size_spread))
    exponent = population.size_exponent
    price_exponent = exponent if population.price_size_exponent is None else population.price_size_exponent
    # A dollar for a gigabyte is 10^6 nanodollars for a megabyte.
    unit = 1e6 * population.scale
    level = program.level + destination_level + program.networks[network]
    level += population.hour_spread * math.cos((second / 3600 - program.peak_hour) * math.pi / 12)
    level += population.foreground_effect * (1 if is_foreground else -1)
    worth = shipped_kinds()[habit.kind].worth
    middle = unit * worth * habit.size_mb * (size_mb / habit.size_mb) ** exponent * math.exp(level)
    truth = middle * math.exp(random.gauss(0.0, program.noise))
    price = unit * population.price_dollars_per_gb * prices.factor(random, network, t_s)
    price *= (worth / 2.0) ** population.price_kind_weight * habit.size_mb * (size_mb / habit.size_mb) ** price_exponent
    event = Event(
        t=round(t_s, 3),
        user=user,
        app=program.name,
        dest=destination,
        network=network,
        bytes=max(1, round(size_mb * 1e6)),
        foreground=is_foreground,
        price_nanodollars=_nanodollars(price),
        truth_nanodollars=_nanodollars(truth),
    )
    return Request(event=event, middle_nanodollars=_nanodollars(middle))


def _nanodollars(value: float) -> int:
    return min(NANODOLLARS_MAX, max(1, round(value)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.secretary.people", description="events for `hostagent secretary replay`"
    )
    parser.add_argument("--population", choices=sorted(POPULATIONS), default=STANDARD)
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    encoder = msgspec.json.Encoder()
    for event in events(options.population, people=options.people, days=options.days, seed=options.seed):
        sys.stdout.buffer.write(encoder.encode(event) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
