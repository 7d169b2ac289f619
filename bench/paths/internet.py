"""Matrices with the habits of real round trips: reroutes, days, spikes, bursts of loss, a sender's bad access, gaps.

Decides: the numbers, from a seed alone. The ranges are those that measurements of the Internet show (RIPE Atlas,
PlanetLab, pings between cloud regions); each kind says its own. Refuses to know who plays on it.

Levels shift by 2 to 60 % when routes change; noise is one-sided and persists; 0.1 to 2 % of the samples are spikes of 2
to 20 times the base with a heavy tail; 0 to 1 % are lost, alone or in bursts; values are whole tenths or milliseconds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Final

Column = list[float]  # milliseconds; NaN: lost
LOST: Final = math.nan


def bases(draw: random.Random, count: int, *, least: float = 10.0, most: float = 100.0, apart: float = 3.0) -> Column:
    """The best one is between `least` and `most`, the others up to `apart` times as slow."""
    best = math.exp(draw.uniform(math.log(least), math.log(most)))
    found = [best] + [best * math.exp(draw.uniform(0.05, math.log(apart))) for _ in range(count - 1)]
    draw.shuffle(found)
    return found


def levels(draw: random.Random, steps: int, base: float, *, every: float, stay: float, most: float = 0.6) -> Column:
    """A base that reroutes leave, up mostly, once in `every` steps, for about `stay` steps."""
    found: Column = []
    factor = 1.0
    for _ in range(steps):
        if factor == 1.0:
            if draw.random() * every < 1.0:
                shift = math.exp(draw.uniform(math.log(0.02), math.log(most)))
                factor = 1.0 + shift if draw.random() < 0.8 else 1.0 / (1.0 + shift)
        elif draw.random() * stay < 1.0:
            factor = 1.0
        found.append(base * factor)
    return found


def roughened(
    draw: random.Random,
    column: Sequence[float],
    *,
    noise: float,
    spikes: float,
    spike: float = 20.0,
    persist: float = 0.5,
    sigma: float = 0.8,
    loss: float = 0.0,
    burst: float = 1.0,
    day: float = 0.0,
    period: float = 360.0,
    unit: float = 0.1,
) -> Column:
    """One-sided noise (log-normal, autoregressive), a day's swing, spikes up to `spike` times, losses in bursts."""
    found: Column = []
    state = draw.gauss(0.0, 1.0)
    fresh = math.sqrt(1.0 - persist * persist)
    phase = draw.random() * math.tau
    is_lost = False
    for step, level in enumerate(column):
        state = persist * state + fresh * draw.gauss(0.0, 1.0)
        value = level * (1.0 + noise * math.exp(sigma * state))
        if day:
            value += level * day * max(0.0, math.sin(math.tau * step / period + phase))
        if draw.random() < spikes:
            value = level * min(1.0 + draw.paretovariate(1.2), spike)
        is_lost = draw.random() < (1.0 - 1.0 / burst if is_lost else loss / burst)
        found.append(LOST if is_lost or math.isnan(level) else max(round(value / unit) * unit, unit))
    return found


def _atlas(draw: random.Random, steps: int) -> list[Column]:
    """Pings every 4 minutes over a week: days, reroutes of hours, a few spikes, loss under 0.3 %."""
    return [
        roughened(
            draw,
            levels(draw, steps, base, every=700.0, stay=60.0),
            noise=draw.uniform(0.005, 0.04),
            spikes=draw.uniform(0.001, 0.01),
            loss=draw.choice((0.0, 0.0, 0.0005, 0.002)),
            day=draw.choice((0.0, 0.02, 0.1)),
        )
        for base in bases(draw, draw.randint(4, 8), least=15.0, most=120.0)
    ]


def _cloud(draw: random.Random, steps: int) -> list[Column]:
    """Between cloud regions: 1 to 200 ms, noise under 1 %, rare reroutes, hardly a loss."""
    return [
        roughened(
            draw,
            levels(draw, steps, base, every=2500.0, stay=300.0, most=0.3),
            noise=draw.uniform(0.001, 0.01),
            spikes=draw.uniform(0.001, 0.004),
            spike=6.0,
            loss=draw.choice((0.0, 0.0, 0.0001)),
        )
        for base in bases(draw, draw.randint(3, 8), least=1.0, most=150.0, apart=2.0)
    ]


def _rerouted(draw: random.Random, steps: int) -> list[Column]:
    """Every path shifts often, by 2 to 60 %, for minutes."""
    return [
        roughened(
            draw, levels(draw, steps, base, every=250.0, stay=80.0), noise=draw.uniform(0.005, 0.03), spikes=0.003
        )
        for base in bases(draw, 6, least=20.0, most=100.0, apart=1.8)
    ]


def _spiky(draw: random.Random, steps: int) -> list[Column]:
    """Two spikes in a hundred, up to 20 times the base."""
    return [
        roughened(draw, [base] * steps, noise=0.03, spikes=draw.uniform(0.01, 0.02), persist=0.3)
        for base in bases(draw, 7, least=10.0, most=80.0)
    ]


def _whole_ms(draw: random.Random, steps: int) -> list[Column]:
    """Rounded to whole milliseconds, some paths the same."""
    return [
        roughened(draw, [base] * steps, noise=0.02, spikes=0.002, unit=1.0)
        for base in bases(draw, 8, least=5.0, most=40.0, apart=2.0)
    ]


def _constant(draw: random.Random, steps: int) -> list[Column]:
    """Whole milliseconds that never change, two paths the same."""
    found = [[float(round(base))] * steps for base in bases(draw, 7, least=5.0, most=100.0)]
    return [*found, list(draw.choice(found))]


def _twins(draw: random.Random, steps: int) -> list[Column]:
    """Pairs of the same column, as two names of one path."""
    found = [
        roughened(draw, [base] * steps, noise=0.03, spikes=0.004) for base in bases(draw, 4, least=10.0, most=100.0)
    ]
    return [*found, *(list(column) for column in found)]


def _own_access(draw: random.Random, steps: int) -> list[Column]:
    """The sender's own access has bad minutes: all paths get dearer at once, by as many milliseconds."""
    found = [
        roughened(draw, [base] * steps, noise=0.03, spikes=0.004) for base in bases(draw, 6, least=15.0, most=100.0)
    ]
    step = draw.randint(50, 300)
    while step < steps:
        stay, extra = draw.randint(3, 60), draw.uniform(5.0, 80.0)
        for place in range(step, min(step + stay, steps)):
            more = extra * draw.uniform(0.6, 1.4)
            for column in found:
                column[place] += more
        step += stay + draw.randint(50, 400)
    return found


def _gaps(draw: random.Random, steps: int) -> list[Column]:
    """Data is missing for long stretches of some paths, the best one among them; missing is lost."""
    found = [
        roughened(draw, [base] * steps, noise=0.02, spikes=0.004) for base in bases(draw, 6, least=20.0, most=120.0)
    ]
    for column in found:
        if draw.random() < 0.5:
            stay = draw.randint(100, 500)
            begin = draw.randint(100, steps - stay)
            column[begin : begin + stay] = [LOST] * stay
    return found


def _bursts(draw: random.Random, steps: int) -> list[Column]:
    """Losses of 0 to 1 % that come in bursts of about 5."""
    return [
        roughened(draw, [base] * steps, noise=0.03, spikes=0.003, loss=draw.uniform(0.0, 0.01), burst=5.0)
        for base in bases(draw, 6, least=40.0, most=150.0)
    ]


def _some_loss(draw: random.Random, steps: int) -> list[Column]:
    """Losses of 0 to 0.5 %, each alone."""
    return [
        roughened(draw, [base] * steps, noise=0.03, spikes=0.003, loss=draw.choice((0.0, 0.0005, 0.002, 0.005)))
        for base in bases(draw, 8, least=30.0, most=150.0)
    ]


def _wireless(draw: random.Random, steps: int) -> list[Column]:
    """Wi-Fi and mobile: half of the base is noise, with a heavy tail."""
    return [
        roughened(draw, [base] * steps, noise=draw.uniform(0.1, 0.4), spikes=0.01, spike=8.0, persist=0.7, sigma=1.0)
        for base in bases(draw, 6, least=15.0, most=60.0)
    ]


def _satellite(draw: random.Random, steps: int) -> list[Column]:
    """Every 15 steps another satellite: the level jumps by up to 40 %."""
    found = []
    for base in bases(draw, 4, least=25.0, most=60.0, apart=2.5):
        jumps = [base * draw.uniform(0.9, 1.4) for _ in range(steps // 15 + 1)]
        found.append(roughened(draw, [jumps[step // 15] for step in range(steps)], noise=0.06, spikes=0.005, spike=5.0))
    return found


def _near(draw: random.Random, steps: int) -> list[Column]:
    """One city: 1 to 5 ms with noise of a tenth."""
    return [
        roughened(draw, [base] * steps, noise=draw.uniform(0.03, 0.15), spikes=0.01, unit=0.01)
        for base in bases(draw, 8, least=1.0, most=5.0)
    ]


def _far_apart(draw: random.Random, steps: int) -> list[Column]:
    """One path of 10 to 30 ms, the others up to 10 times as slow."""
    return [
        roughened(draw, [base] * steps, noise=0.04, spikes=0.005)
        for base in bases(draw, 8, least=10.0, most=30.0, apart=10.0)
    ]


INTERNET: Final[dict[str, Callable[[random.Random, int], list[Column]]]] = {
    "atlas": _atlas,
    "cloud": _cloud,
    "rerouted": _rerouted,
    "spiky": _spiky,
    "whole-ms": _whole_ms,
    "constant": _constant,
    "twins": _twins,
    "own-access": _own_access,
    "gaps": _gaps,
    "bursts": _bursts,
    "some-loss": _some_loss,
    "wireless": _wireless,
    "satellite": _satellite,
    "near": _near,
    "far-apart": _far_apart,
}
