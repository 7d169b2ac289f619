"""What people of one secretary have in common: in what kind of world they live, learnt from everybody's answers.

Each person's answers say, through the evidence of their models, how well each model foretells people here, and in which
direction what all start from should move: the levels and slopes, what names (of programs, networks, ...) are worth to
people here in the mean, and how far people and things differ. Decides what a person starts from: the most probable
such world after everybody else's answers, their own left out, for those count already. Who is alone starts from what
is shipped. Where people differ, the spread that they teach is wide, and nobody is bound by what others said.

Refuses to know: answers, prices, values. What it holds of a person are slopes and curvatures of evidence, in this
process and nowhere else; what is kept with a learner are means over people, of names that two of them have in common.
What one person can teach is bounded by how far people may differ. Pure; what one person taught is replaced as a whole,
so an answer undone is out of it.

Source: empirical Bayes (Robbins 1956; Morris 1983); EM for the models' shares (Dempster, Laird and Rubin 1977); Fisher
scoring for a Gaussian process's parameters (Rasmussen and Williams 2006, 5.4.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from secretary.learning.contexts import POOLED, Floats

NAMES_MAX: Final = 96
EM_STEPS: Final = 25
PSEUDO_PEOPLE: Final = 8.0
"""The shipped shares of the models count as much as so many people's answers."""
PLACES: Final = 2.0**24
RENEWED_SHARE: Final = 16
"""Sums are made anew when one in so many people taught something else."""
LEVEL_AND_SLOPES_SD: Final = (0.8, 0.4, 0.4, 0.4)
_NAME_SD: Final = {"kind": 0.3, "program": 0.4, "domain": 0.1, "destination": 0.2, "network": 0.3, "foreground": 0.3}
LOG_SCALE_SD: Final = 1.0
LOG_SCALE_MIN, LOG_SCALE_MAX = -3.5, 2.0

Key = tuple[int, str]
"""Which of `POOLED`, and the name."""


class Start(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one anchor, beside what is shipped: means, and logarithms of the variances' factors."""

    level_and_slopes: tuple[float, ...] = ()
    log_scales: tuple[float, ...] = ()
    names: dict[str, float] = {}  # "number name", the number of `POOLED`


class Shared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person starts from. `log_shares`: of the models; empty: the shipped ones."""

    people: int = 0
    log_shares: tuple[float, ...] = ()
    starts: tuple[Start, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """How the evidence of one person's answers changes about what they started from, under one anchor."""

    weight: float
    keys: tuple[Key, ...]
    mean_at: Floats  # level, slopes, then a name for each key
    mean_slope: Floats
    mean_curvature: Floats
    scale_at: Floats
    scale_slope: Floats
    scale_curvature: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """By one person."""

    log_evidence: Floats  # of each model
    lessons: tuple[Lesson | None, ...]  # of each anchor


@dataclass(frozen=True, slots=True)
class _Sum:
    """Of one anchor."""

    place: Mapping[Key, int]
    mean: Floats
    mean_curvature: Floats
    scale: Floats
    scale_curvature: Floats


class Commons:
    """Learners join it; each teaches what its answers say, and starts from what the others taught."""

    def __init__(self) -> None:
        self._members = 0
        self._taught: dict[int, Taught] = {}
        self._counted: dict[int, Taught] = {}  # what the sums hold
        self._sums: tuple[_Sum | None, ...] = ()
        self._changes = 0

    def join(self) -> int:
        self._members += 1
        return self._members

    def teach(self, member: int, taught: Taught | None) -> None:
        """None: nothing any more."""
        if taught is None:
            if self._taught.pop(member, None) is None:
                return
        else:
            self._taught[member] = taught
        self._changes += 1

    def shared(self, member: int, log_prior: Floats) -> Shared:
        """What a person starts from, by all others."""
        others = len(self._taught) - (member in self._taught)
        if others == 0:
            return Shared()
        if self._changes * RENEWED_SHARE >= len(self._taught):
            self._renew()
        own = self._counted.get(member)
        starts = []
        for anchor, total in enumerate(self._sums):
            lesson = own.lessons[anchor] if own is not None else None
            starts.append(_start(total, lesson))
        return Shared(people=others, log_shares=self._shares(member, log_prior), starts=tuple(starts))

    def _shares(self, member: int, log_prior: Floats) -> tuple[float, ...]:
        evidence = np.array([self._taught[other].log_evidence for other in sorted(self._taught) if other != member])
        likelihood = np.exp(evidence - evidence.max(axis=1, keepdims=True))
        prior = np.exp(log_prior - log_prior.max())
        prior /= prior.sum()
        share = prior
        for _ in range(EM_STEPS):
            each = likelihood * share
            counted = (each / each.sum(axis=1, keepdims=True)).sum(axis=0)
            share = (PSEUDO_PEOPLE * prior + counted) / (PSEUDO_PEOPLE + len(evidence))
        return tuple(np.log(np.maximum(share, 1e-12)).tolist())

    def _renew(self) -> None:
        self._counted, self._changes = dict(sorted(self._taught.items())), 0
        anchors = max(len(taught.lessons) for taught in self._counted.values())
        self._sums = tuple(
            _sum([lesson for taught in self._counted.values() if (lesson := taught.lessons[anchor]) is not None])
            for anchor in range(anchors)
        )


def _sum(lessons: list[Lesson]) -> _Sum | None:
    if not lessons:
        return None
    counts: dict[Key, int] = {}
    for lesson in lessons:
        for key in lesson.keys:
            counts[key] = counts.get(key, 0) + 1
    names = sorted((key for key in counts if counts[key] > 1), key=lambda key: (-counts[key], key))[:NAMES_MAX]
    place = {key: len(LEVEL_AND_SLOPES_SD) + index for index, key in enumerate(names)}
    size = len(LEVEL_AND_SLOPES_SD) + len(names)
    total = _Sum(
        place,
        np.zeros(size),
        np.zeros((size, size)),
        np.zeros(len(lessons[0].scale_at)),
        np.zeros((len(lessons[0].scale_at),) * 2),
    )
    for lesson in lessons:
        _add(total, lesson, 1.0)
    return total


def _add(total: _Sum, lesson: Lesson, sign: float) -> None:
    fixed = len(LEVEL_AND_SLOPES_SD)
    kept = [*range(fixed), *(fixed + i for i, key in enumerate(lesson.keys) if key in total.place)]
    to = [*range(fixed), *(total.place[key] for key in lesson.keys if key in total.place)]
    curvature, weight = lesson.mean_curvature[np.ix_(kept, kept)], lesson.weight
    total.mean[to] += sign * _exact(weight * (lesson.mean_slope[kept] + curvature @ lesson.mean_at[kept]))
    total.mean_curvature[np.ix_(to, to)] += sign * _exact(weight * curvature)
    total.scale[:] += sign * _exact(weight * (lesson.scale_slope + lesson.scale_curvature @ lesson.scale_at))
    total.scale_curvature[:] += sign * _exact(weight * lesson.scale_curvature)


def _exact(values: Floats) -> Floats:
    """In so few binary places that sums are exact: in any order the same, and what is taken out leaves nothing."""
    return np.asarray(np.round(values * PLACES) / PLACES)


def _start(total: _Sum | None, own: Lesson | None) -> Start:
    if total is None:
        return Start()
    if own is not None:
        total = _Sum(
            total.place,
            total.mean.copy(),
            total.mean_curvature.copy(),
            total.scale.copy(),
            total.scale_curvature.copy(),
        )
        _add(total, own, -1.0)
    fixed = len(LEVEL_AND_SLOPES_SD)
    sd = np.array([*LEVEL_AND_SLOPES_SD, *(_NAME_SD[POOLED[number]] for number, _ in total.place)])
    mean = np.linalg.solve(total.mean_curvature + np.diag(sd**-2.0), total.mean)
    size = len(total.scale)
    scale = np.linalg.solve(total.scale_curvature + np.eye(size) / LOG_SCALE_SD**2, total.scale)
    return Start(
        level_and_slopes=tuple(mean[:fixed].tolist()),
        log_scales=tuple(np.clip(scale, LOG_SCALE_MIN, LOG_SCALE_MAX).tolist()),
        names={f"{number} {name}": float(mean[place]) for (number, name), place in total.place.items()},
    )
