"""What is believed of the value of transfers before any answer, and after some: a mixture of hierarchical models.

In each model the logarithm of a transfer's value is a sum: a level of the person's own; slopes in the worth of its
kind, in its size, and in what is charged for its program; an effect each of kind, program, destination, network, hour
and foreground, and of some pairs of them; effects that wander with time, a program's faster once it surprised; and
noise. All are normal, so the values of any transfers are jointly normal (a Gaussian process). The models differ in how
large effects and noise are, and in what the level rests on (prices seen, or the shipped table); they weigh what they
foretold of the answers (empirical Bayes). Where all of them start, other people's answers say (`commons`).

Refuses to know: what a question costs, and the time. Money is in logarithms of nanodollars throughout; a change of
all prices and answers by one factor changes all values by that factor, as far as the level rests on prices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import msgspec
import numpy as np

from secretary.learning.commons import Lesson, Shared, Taught
from secretary.learning.contexts import (
    HOURS,
    NAMED,
    PROGRAM,
    Codebook,
    Context,
    Floats,
    Integers,
    pooled_names,
)
from secretary.learning.inference import Posterior, infer

DAY_S: Final = 86_400
MEGABYTE: Final = 1e6
PRICE_LEVEL: Final = 0
TABLE_LEVEL: Final = 1
PROGRAM_PRICE_LEVEL: Final = 2
ANCHORS: Final = (PRICE_LEVEL, TABLE_LEVEL, PROGRAM_PRICE_LEVEL)
DISAGREEMENT_SD: Final = 1.5
"""How far apart, in logarithms, what the table says and what is charged may be before the table is doubted."""
DOUBT_PEOPLE: Final = 3.0
"""What so many people answered halves that doubt."""
TAUGHT_SHARE: Final = 0.02
SURPRISE: Final = 0.1
"""An answer that all others made less probable than this, of a program that was known, is a sign that it changed."""
SURPRISE_DAYS: Final = 14.0
SURPRISE_ANSWERS: Final = 4
UNREST: Final = 4.0
"""So many times more than usual such a program wanders, and fast, until its answers foretell each other again."""
UNREST_DAYS: Final = 10.0
KEPT_SHARE: Final = 0.015
KEPT_MODELS: Final = 12
RISK_VARIANCE_MAX: Final = 0.4
"""The mean of a lognormal lies above its median; of what is only not known, not more than this counts."""

# Standard deviations of the effects, as factors of a model's scales.
_NAMED_SD: Final = {
    "kind": 0.4,
    "program": 0.75,
    "domain": 0.15,
    "destination": 0.3,
    "network": 0.35,
    "foreground": 0.4,
    "program on network": 0.12,
    "program in foreground": 0.12,
    "program to destination": 0.12,
}
_PROGRAM_SCALED: Final = frozenset({"kind", "program"})
_HOUR_SD: Final = 0.3
_HOUR_SMOOTHNESS: Final = 1.0
_LEVEL_SD: Final = {PRICE_LEVEL: 1.2, TABLE_LEVEL: 0.6, PROGRAM_PRICE_LEVEL: 1.0}
_ANCHOR_PRIOR: Final = {PRICE_LEVEL: 0.35, TABLE_LEVEL: 0.4, PROGRAM_PRICE_LEVEL: 0.25}
_WANDER_LEVEL_SD: Final = 0.2
_WANDER_PROGRAM_SD: Final = 0.4
_WANDER_DAYS: Final = 40.0
# Slopes: mean and standard deviation, by what the level rests on.
_SLOPES: Final = {
    PRICE_LEVEL: ((0.4, 0.4), (0.5, 0.4), (0.3, 0.4)),
    TABLE_LEVEL: ((1.0, 0.2), (1.0, 0.2), (0.0, 0.2)),
    PROGRAM_PRICE_LEVEL: ((0.1, 0.2), (0.4, 0.5), (1.0, 0.2)),
}
_PROGRAM_SCALE: Final = {PRICE_LEVEL: 1.0, TABLE_LEVEL: 0.8, PROGRAM_PRICE_LEVEL: 0.4}
_NOISES: Final = (0.2, 0.45, 0.9, 2.0)
_ERRATIC_VARIANCE: Final = 2.0
_NOISE_PRIOR: Final = (0.25, 0.4, 0.25, 0.1)
_SCALES: Final = (0.5, 1.0, 1.8)
_SCALE_PRIOR: Final = (0.25, 0.5, 0.25)


class Levels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the requests so far say: logarithms of prices, table values and sizes in the mean.

    `priced`: how many of them had a price. Where none had, only the table says something.
    """

    priced: int = 0
    log_price: float = 0.0
    log_table: float = -math.log(MEGABYTE)
    log_worth: float = 0.0
    log_bytes: float = 0.0
    program_log_price: dict[str, float] = {}  # less `log_price`, shrunken

    def features(self, context: Context, worths: Mapping[str, float]) -> tuple[float, float, float]:
        """Kind's worth, size and program's price, each less what is usual."""
        log_bytes = context.log_bytes
        return (
            worths[context.kind] - self.log_worth,
            0.0 if log_bytes is None else log_bytes - self.log_bytes,
            self.program_log_price.get(context.program, 0.0),
        )


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One yes or no, and when it came."""

    context: Context
    log_price: float
    accepted: bool
    unix_s: int


@dataclass(frozen=True, slots=True)
class _Grid:
    """Models side by side: one row each."""

    variances: Floats  # models × components
    noise: Floats
    anchor: Integers
    slopes: Floats  # models × features
    level: Floats  # models: added to what the level rests on
    log_prior: Floats


@cache
def _grid() -> _Grid:
    variances, noises, anchors, slopes, priors = [], [], [], [], []
    for anchor in ANCHORS:
        for scale, scale_prior in zip(_SCALES, _SCALE_PRIOR, strict=True):
            for noise, noise_prior in zip(_NOISES, _NOISE_PRIOR, strict=True):
                row = [_LEVEL_SD[anchor]]
                row += [
                    _NAMED_SD[name] * (scale * _PROGRAM_SCALE[anchor] if name in _PROGRAM_SCALED else math.sqrt(scale))
                    for name in NAMED
                ]
                row += [
                    _HOUR_SD * math.sqrt(scale),
                    _WANDER_LEVEL_SD,
                    _WANDER_PROGRAM_SD,
                ]
                row += [sd for _, sd in _SLOPES[anchor]]
                variances.append([sd * sd for sd in row])
                noises.append(noise * noise)
                anchors.append(anchor)
                slopes.append([mean for mean, _ in _SLOPES[anchor]])
                priors.append(math.log(_ANCHOR_PRIOR[anchor] * scale_prior * noise_prior))
    return _Grid(
        np.array(variances),
        np.array(noises),
        np.array(anchors),
        np.array(slopes),
        np.zeros(len(anchors)),
        np.array(priors),
    )


def log_prior() -> Floats:
    return _grid().log_prior


def _started(shared: Shared) -> _Grid:
    """The grid, moved to where other people's answers put it."""
    grid = _grid()
    if not shared.people:
        return grid
    slopes, level, variances = (
        grid.slopes.copy(),
        grid.level.copy(),
        grid.variances.copy(),
    )
    for anchor, start in enumerate(shared.starts):
        rows = grid.anchor == anchor
        if start.level_and_slopes:
            level[rows] += start.level_and_slopes[0]
            slopes[rows] += start.level_and_slopes[1:]
            variances[rows] *= np.exp(start.log_scales)
    return _Grid(variances, grid.noise, grid.anchor, slopes, level, np.array(shared.log_shares))


@cache
def _hour_table() -> Floats:
    hours = np.arange(HOURS)
    turn = 2.0 * np.pi * (hours[:, None] - hours[None, :]) / HOURS
    return np.asarray(np.exp((np.cos(turn) - 1.0) / _HOUR_SMOOTHNESS))


@dataclass(frozen=True, slots=True)
class Points:
    """Contexts as arrays."""

    codes: Integers
    hours: Integers
    days: Floats
    features: Floats
    said: Floats  # anchors × transfers: what names are worth to others in the mean
    restless: Floats  # 1: of a program that surprised, else 0

    def __len__(self) -> int:
        return len(self.hours)


def components(left: Points, right: Points) -> Floats:
    """What pairs of transfers have in common: left × right × components, in the order of the grid's variances."""
    same = (left.codes[:, None, :] == right.codes[None, :, :]) & (left.codes[:, None, :] >= 0)
    near = np.exp(-np.abs(left.days[:, None] - right.days[None, :]) / _WANDER_DAYS)
    parts = np.empty((len(left), len(right), len(NAMED) + 7))
    parts[:, :, 0] = 1.0
    parts[:, :, 1 : 1 + len(NAMED)] = same
    parts[:, :, -6] = _hour_table()[left.hours[:, None], right.hours[None, :]]
    parts[:, :, -5] = near
    parts[:, :, -4] = near * same[:, :, PROGRAM]
    if left.restless.any() and right.restless.any():
        fast = UNREST * np.exp(-np.abs(left.days[:, None] - right.days[None, :]) / UNREST_DAYS)
        unrest = left.restless[:, None] * right.restless[None, :]
        parts[:, :, -4] += unrest * fast * same[:, :, PROGRAM]
    parts[:, :, -3:] = left.features[:, None, :] * right.features[None, :, :]
    return parts


def own_components(points: Points) -> Floats:
    """The same of each transfer with itself."""
    parts = np.ones((len(points), len(NAMED) + 7))
    parts[:, -4] += UNREST * points.restless
    parts[:, -3:] = points.features**2
    return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """Values of some transfers: models × transfers; and how they go with the answers, models × answers × transfers."""

    mean: Floats
    variance: Floats
    with_answers: Floats  # models × answers × transfers


class Fit:
    """What is believed after some answers, as of a moment. Never changed once it is made."""

    def __init__(
        self,
        answers: Sequence[Answer],
        levels: Levels,
        worths: Mapping[str, float],
        unix_s: int,
        others: Sequence[Context] = (),
        shared: Shared | None = None,
    ) -> None:
        self.levels, self.worths, self.unix_s = levels, worths, unix_s
        is_fitting = shared is not None and len(shared.log_shares) == len(log_prior())  # another release's may not be
        self.shared = shared if shared is not None and is_fitting else Shared()
        self.answers = tuple(answers)
        self._book = Codebook([answer.context for answer in answers] + list(others))
        self.restless: frozenset[str] = frozenset()
        grid = _started(self.shared)
        posterior, weight, parts = self._infer(grid)
        self.taught = self._teach(grid, posterior, weight, parts) if answers else None
        self.restless = self._surprised(posterior, weight)
        if self.restless:
            posterior, weight, _ = self._infer(grid)
        self._prune(grid, posterior, weight)

    def _infer(self, grid: _Grid) -> tuple[Posterior, Floats, Floats]:
        answers = self.answers
        self._points = self.points(
            [answer.context for answer in answers],
            [answer.unix_s for answer in answers],
        )
        parts = components(self._points, self._points)
        covariance = np.moveaxis(parts @ grid.variances.T, 2, 0)
        prior_mean = self._prior_mean(self._points, grid.anchor, grid.slopes, grid.level)
        prices = np.array([answer.log_price for answer in answers])
        signs = np.array([1.0 if answer.accepted else -1.0 for answer in answers])
        posterior = infer(covariance, prices[None, :] - prior_mean, signs, grid.noise)
        return posterior, self._weigh(grid, posterior), parts

    def _surprised(self, posterior: Posterior, weight: Floats) -> frozenset[str]:
        """Programs of which one of the latest answers is not like the others."""
        counts: dict[str, int] = {}
        for answer in self.answers:
            counts[answer.context.program] = counts.get(answer.context.program, 0) + 1
        told = weight @ np.exp(posterior.log_told)
        return frozenset(
            answer.context.program
            for answer, probability in zip(self.answers, told.tolist(), strict=True)
            if probability < SURPRISE
            and self.unix_s - answer.unix_s < SURPRISE_DAYS * DAY_S
            and counts[answer.context.program] >= SURPRISE_ANSWERS
        )

    def _weigh(self, grid: _Grid, posterior: Posterior) -> Floats:
        far = (self.levels.log_table - self.levels.log_price) / DISAGREEMENT_SD
        doubt = np.where(
            grid.anchor == TABLE_LEVEL,
            -0.5 * far * far / (1.0 + self.shared.people / DOUBT_PEOPLE),
            0.0,
        )
        if self.levels.priced == 0:
            doubt = np.where(grid.anchor == TABLE_LEVEL, 0.0, -1e9)
        score = grid.log_prior + doubt + posterior.log_evidence
        weight = np.exp(score - score.max())
        return np.asarray(weight / weight.sum())

    def _prune(self, grid: _Grid, posterior: Posterior, weight: Floats) -> None:
        order = np.argsort(-weight, kind="stable")[:KEPT_MODELS]
        keep = np.sort(order[weight[order] >= KEPT_SHARE])
        self.weight = weight[keep] / weight[keep].sum()
        self.noise = grid.noise[keep]
        self.erratic = float(self.weight[self.noise >= _ERRATIC_VARIANCE].sum())
        self._variances = grid.variances[keep]
        self._anchor, self._slopes, self._level = (
            grid.anchor[keep],
            grid.slopes[keep],
            grid.level[keep],
        )
        self._posterior = Posterior(
            weights=posterior.weights[keep],
            precision=posterior.precision[keep],
            log_evidence=posterior.log_evidence[keep],
            log_told=posterior.log_told[keep],
        )

    def _teach(self, grid: _Grid, posterior: Posterior, weight: Floats, parts: Floats) -> Taught:
        """How the evidence changes with what people start from: of each anchor, at its best model."""
        lessons: list[Lesson | None] = []
        for anchor in ANCHORS:
            rows = np.flatnonzero(grid.anchor == anchor)
            total, best = float(weight[rows].sum()), rows[np.argmax(weight[rows])]
            if total < TAUGHT_SHARE or self.levels.priced == 0:
                lessons.append(None)
                continue
            pull, precision, variances = (
                posterior.weights[best],
                posterior.precision[best],
                grid.variances[best],
            )
            names, columns = self._mean_columns(self._points)
            start = self.shared.starts[anchor] if self.shared.people else None
            fixed = start.level_and_slopes if start is not None and start.level_and_slopes else (0.0,) * 4
            said = start.names if start is not None else {}
            mean_at = np.array([*fixed, *(said.get(f"{number} {name}", 0.0) for number, name in names)])
            scale_at = np.zeros(len(variances))
            if start is not None and start.log_scales:
                scale_at = np.array(start.log_scales)
            through = np.einsum("ij,jkc->cik", precision, parts) * variances[:, None, None]
            slope = 0.5 * (np.einsum("i,ijc,j->c", pull, parts, pull) * variances - np.einsum("cii->c", through))
            curvature = 0.5 * np.einsum("aij,bji->ab", through, through)
            lessons.append(
                Lesson(
                    weight=total,
                    keys=names,
                    mean_at=mean_at,
                    mean_slope=columns.T @ pull,
                    mean_curvature=columns.T @ precision @ columns,
                    scale_at=scale_at,
                    scale_slope=slope,
                    scale_curvature=curvature,
                )
            )
        return Taught(log_evidence=posterior.log_evidence, lessons=tuple(lessons))

    def _mean_columns(self, points: Points) -> tuple[tuple[tuple[int, str], ...], Floats]:
        """What a shared level, slope or name adds to each answered transfer."""
        each = [pooled_names(answer.context) for answer in self.answers]
        names = tuple(sorted({name for one in each for name in one}))
        has = np.array([[name in one for name in names] for one in each], dtype=np.float64)
        columns = [np.ones((len(points), 1)), points.features, has]
        return names, np.concatenate(columns, axis=1)

    def points(self, contexts: Sequence[Context], times_unix_s: Sequence[int] | None = None) -> Points:
        times = [self.unix_s] * len(contexts) if times_unix_s is None else times_unix_s
        features = [self.levels.features(context, self.worths) for context in contexts]
        return Points(
            self._book.codes(contexts),
            np.array([context.hour for context in contexts], dtype=np.int64),
            np.array([(time - self.unix_s) / DAY_S for time in times]),
            np.array(features, dtype=np.float64).reshape(len(contexts), 3),
            self._said(contexts),
            np.array([1.0 if context.program in self.restless else 0.0 for context in contexts]),
        )

    def _said(self, contexts: Sequence[Context]) -> Floats:
        said = np.zeros((len(ANCHORS), len(contexts)))
        if self.shared.people:
            for index, context in enumerate(contexts):
                keys = [f"{number} {name}" for number, name in pooled_names(context)]
                for anchor, start in enumerate(self.shared.starts):
                    said[anchor, index] = sum(start.names.get(key, 0.0) for key in keys)
        return said

    def _prior_mean(self, points: Points, anchors: Integers, slopes: Floats, level: Floats) -> Floats:
        bases = np.where(anchors == TABLE_LEVEL, self.levels.log_table, self.levels.log_price)
        return np.asarray((bases + level)[:, None] + slopes @ points.features.T + points.said[anchors])

    def believe(self, points: Points) -> Belief:
        own = self._variances @ own_components(points).T
        mean = self._prior_mean(points, self._anchor, self._slopes, self._level)
        if not self.answers:
            return Belief(
                mean=mean,
                variance=own,
                with_answers=np.zeros((len(self.weight), 0, len(points))),
            )
        cross = np.moveaxis(components(self._points, points) @ self._variances.T, 2, 0)
        mean = mean + np.einsum("hn,hnm->hm", self._posterior.weights, cross)
        told = np.matmul(self._posterior.precision, cross)
        variance = np.maximum(own - np.einsum("hnm,hnm->hm", cross, told), 1e-6)
        return Belief(mean=mean, variance=variance, with_answers=cross)

    def covary(self, left: Points, told: Belief, right: Points, right_told: Belief) -> Floats:
        """Posterior covariance: models × left × right."""
        prior = np.moveaxis(components(left, right) @ self._variances.T, 2, 0)
        if not self.answers:
            return np.asarray(prior)
        through = np.matmul(self._posterior.precision, right_told.with_answers)
        return np.asarray(prior - np.matmul(np.swapaxes(told.with_answers, 1, 2), through))

    def mean_values(self, belief: Belief) -> Floats:
        """Mean values in nanodollars relative to e^0, models × transfers, with the bounded risk term."""
        risk = np.minimum(belief.variance + self.noise[:, None], RISK_VARIANCE_MAX)
        return np.asarray(np.exp(belief.mean + 0.5 * risk))
