"""Matrices of round trips over time: made ones, some near the documented statistics of real ones.

Decides: the numbers, from a seed alone. A matrix knows its change points; between two of them the best path does not
change by design, so the best sequence of paths is the best path of each part. Refuses to know who plays on it.

Documented (MV-54): Norway 16 links of 174 to 333 ms; transatlantic 2,487 samples of 156 to 425 ms with a standard
deviation of 24.6; Nova Scotia 2,467 samples with mean 226.2, standard deviation 340.5, maximum 4,878 ms.
"""

from __future__ import annotations

import itertools
import math
import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.paths.internet import INTERNET
from cartographer.replay import Matrix, Prices

Column = list[float]  # milliseconds; NaN: lost
LOST: Final = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A matrix with its name, the steps at which the paths' roles change, and its prices."""

    name: str
    matrix: Matrix
    changes: tuple[int, ...] = ()
    prices: Prices = field(default_factory=Prices)

    def best_fixed(self) -> float:
        return min(math.fsum(self.matrix.costs(path, self.prices)) for path in self.matrix.paths)

    def best_sequence(self) -> float:
        """The best path of each part between change points."""
        edges = (0, *self.changes, len(self.matrix))
        costs = [self.matrix.costs(path, self.prices) for path in self.matrix.paths]
        parts = itertools.pairwise(edges)
        return math.fsum(min(math.fsum(column[begin:end]) for column in costs) for begin, end in parts)


def matrix_of(columns: Sequence[Column], *, step_s: float = 1.0, tolls: Sequence[Sequence[float]] = ()) -> Matrix:
    paths = tuple(f"AS{64512 + number}:1" for number in range(len(columns)))
    steps = len(columns[0])
    found = Matrix(times=[step * step_s for step in range(steps)], paths=paths)
    for number, path in enumerate(paths):
        found.rtts_ms[path] = array("d", columns[number])
        found.tolls_nanodollars[path] = array("d", tolls[number] if tolls else [0.0] * steps)
    return found


def permuted(columns: Sequence[Column], changes: Sequence[int], draw: random.Random) -> list[Column]:
    """At each change point the columns change places, so that another path is the best one from there on."""
    order = list(range(len(columns)))
    found: list[Column] = [[] for _ in columns]
    edges = (0, *changes, len(columns[0]))
    for begin, end in itertools.pairwise(edges):
        means = [mean_of(column[begin:end]) for column in columns]
        best = min(range(len(columns)), key=means.__getitem__)
        held = order.index(best)
        if begin:
            while order.index(best) == held:
                draw.shuffle(order)
        for place, column in enumerate(order):
            found[place].extend(columns[column][begin:end])
    return found


def mean_of(column: Sequence[float]) -> float:
    return math.fsum(2000.0 if math.isnan(value) else value for value in column) / len(column)


def link(
    draw: random.Random,
    steps: int,
    *,
    base: float,
    noise: float,
    spikes: float = 0.01,
    spike: float = 2.0,
    swing: float = 0.0,
    period: float = 1000.0,
    persist: float = 0.8,
    loss: float = 0.0,
) -> Column:
    """A floor, congestion that persists (autoregressive, one-sided), heavy-tailed spikes, a daily swing and losses."""
    found: Column = []
    level = 0.0
    phase = draw.random() * math.tau
    for step in range(steps):
        level = persist * level + math.sqrt(1.0 - persist * persist) * draw.gauss(0.0, 1.0)
        value = (
            base
            + noise * base * math.exp(0.7 * level)
            + swing * base * (1.0 + math.sin(math.tau * step / period + phase))
        )
        if draw.random() < spikes:
            value += spike * base * (draw.paretovariate(1.5) - 0.5)
        found.append(LOST if draw.random() < loss else min(value, 5000.0))
    return found


def norway(draw: random.Random, steps: int, links: int = 8) -> list[Column]:
    """Links of 174 to 333 ms on average, as the 16 of the paper lie."""
    bases = sorted(draw.sample([174.0 + 159.0 * place / 15 for place in range(16)], links))
    draw.shuffle(bases)
    return [link(draw, steps, base=base * 0.96, noise=0.03, spikes=0.01, spike=0.5) for base in bases]


def transatlantic(draw: random.Random, steps: int) -> Column:
    """Within 156 to 425 ms; the standard deviation is 17, less than the documented 24.6."""
    found = []
    level = 0.0
    for _ in range(steps):
        level = 0.9 * level + 0.436 * draw.gauss(0.0, 1.0)
        value = 158.0 + 13.0 * math.exp(0.65 * level) + (draw.expovariate(1 / 45.0) if draw.random() < 0.06 else 0.0)
        found.append(min(max(value, 156.0), 425.0))
    return found


def nova_scotia(draw: random.Random, steps: int) -> Column:
    """Mean 211, standard deviation 337, up to 4,878 ms: most are quick and a few very slow."""
    found = []
    for _ in range(steps):
        value = 115.0 + draw.expovariate(1 / 25.0)
        if draw.random() < 0.12:
            value += 160.0 * draw.paretovariate(1.0) ** 0.9
        found.append(min(value, 4878.0))
    return found


def _points(draw: random.Random, steps: int, least: int = 300, most: int = 1000) -> tuple[int, ...]:
    found: list[int] = []
    place = draw.randint(least, most)
    while place < steps - least // 2:
        found.append(place)
        place += draw.randint(least, most)
    return tuple(found)


def _mixed(draw: random.Random, steps: int) -> list[Column]:
    return [
        link(
            draw,
            steps,
            base=draw.uniform(20.0, 250.0),
            noise=draw.uniform(0.02, 0.2),
            spikes=draw.choice((0.002, 0.01, 0.03)),
            loss=draw.choice((0.0, 0.0, 0.002, 0.01)),
        )
        for _ in range(draw.randint(3, 8))
    ]


def _same(draw: random.Random, steps: int) -> list[Column]:
    return [link(draw, steps, base=80.0 + place, noise=0.1) for place in range(5)]


def _daily(draw: random.Random, steps: int) -> list[Column]:
    return [link(draw, steps, base=draw.uniform(60, 160), noise=0.05, swing=draw.uniform(0.05, 0.3)) for _ in range(6)]


def _local(draw: random.Random, steps: int) -> list[Column]:
    return [link(draw, steps, base=draw.uniform(0.1, 2.0), noise=0.1) for _ in range(6)]


def _slow(draw: random.Random, steps: int) -> list[Column]:
    return [link(draw, steps, base=draw.uniform(500, 1800), noise=0.1, spike=0.5) for _ in range(6)]


def _lossy(draw: random.Random, steps: int) -> list[Column]:
    return [link(draw, steps, base=draw.uniform(40, 120), noise=0.05, loss=draw.uniform(0.02, 0.2)) for _ in range(6)]


def _ocean(draw: random.Random, steps: int) -> list[Column]:
    return [transatlantic(draw, steps), nova_scotia(draw, steps), *norway(draw, steps, 6)]


def _one_bad(draw: random.Random, steps: int) -> list[Column]:
    good = [link(draw, steps, base=draw.uniform(30, 60), noise=0.1) for _ in range(4)]
    return [*good, link(draw, steps, base=900.0, noise=0.3, loss=0.1), [LOST] * steps]


KINDS: Final[dict[str, Callable[[random.Random, int], list[Column]]]] = {
    "norway": norway,
    "ocean": _ocean,
    "mixed": _mixed,
    "near-equal": _same,
    "daily": _daily,
    "local": _local,
    "slow": _slow,
    "lossy": _lossy,
    "one-bad": _one_bad,
    **INTERNET,
}


def made(kind: str, seed: int, steps: int, *, changing: bool, step_s: float = 1.0) -> Case:
    draw = random.Random(f"{kind} {seed} {steps}")
    columns = KINDS[kind](draw, steps)
    changes: tuple[int, ...] = ()
    if changing:
        changes = _points(draw, steps)
        columns = permuted(columns, changes, draw)
    name = f"{kind}{' changing' if changing else ''}"
    return Case(name=name, matrix=matrix_of(columns, step_s=step_s), changes=changes)


def unseen(seed: int, steps: int) -> Case:
    """The path in use stays as it is; another one becomes the better one, unseen."""
    draw = random.Random(f"unseen {seed} {steps}")
    columns = [link(draw, steps, base=base, noise=0.08) for base in (80.0, 100.0, 120.0, 150.0, 200.0)]
    middle = steps // 2
    columns[3][middle:] = [value * 0.35 for value in columns[3][middle:]]
    return Case(name="unseen", matrix=matrix_of(columns), changes=(middle,))


def outage(seed: int, steps: int) -> Case:
    """The best path is dead for a while, then it is back."""
    draw = random.Random(f"outage {seed} {steps}")
    columns = [link(draw, steps, base=base, noise=0.08) for base in (60.0, 70.0, 90.0, 150.0)]
    begin, end = steps // 3, steps // 3 + steps // 5
    columns[0][begin:end] = [LOST] * (end - begin)
    return Case(name="outage", matrix=matrix_of(columns), changes=(begin, end))


def priced(seed: int, steps: int) -> Case:
    """Tolls differ, and one doubles."""
    draw = random.Random(f"priced {seed} {steps}")
    columns = [link(draw, steps, base=base, noise=0.05) for base in (60.0, 70.0, 90.0, 150.0)]
    middle = steps // 2
    levels = (30_000.0, 50_000.0, 20_000.0, 0.0)
    tolls = [[level] * steps for level in levels]
    tolls[0][middle:] = [120_000.0] * (steps - middle)
    return Case(name="priced", matrix=matrix_of(columns, tolls=tolls), changes=(middle,))
