"""What an answer is worth over the coming month, and which questions are worth their interruption.

Decides: the value of an answer as what the transfers of a month gain by it in the mean (knowledge gradient; exact for
lognormal values, Black and Scholes' formula), and the shadow price of a question, above which only so many questions a
day come as were agreed. Refuses to know: who answers, and the day's hard bound, which is kept outside.

Source: Howard 1966 (value of information); Frazier, Powell and Dayanik 2009 (knowledge gradient).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from secretary.learning.contexts import Floats
from secretary.learning.inference import normal_below
from secretary.learning.model import DAY_S, Belief, Fit, Points

MONTH_DAYS: Final = 30.0
LEAST_SCALE: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class AskingSettings:
    """Rates are questions a day; they fall fast from `first_rate` and slowly from `second_rate` to `last_rate`.

    The interruption is `interruption_nanodollars`, but never more than a share of what a month's transfers bring:
    nobody knows in which unit a person counts. Above both stands the shadow price that keeps to the rates.
    """

    interruption_nanodollars: int = 20_000_000
    stake_share: float = 0.0001
    first_rate: float = 3.1
    second_rate: float = 0.5
    last_rate: float = 0.3
    first_halving_days: float = 4.0
    second_halving_days: float = 42.0
    saved_questions: float = 3.0  # unused questions are saved up so far
    patience_days: float = 1.5  # within which saved questions are spent
    impatience: float = 2.5  # by how much a question saved lowers the bar, in logarithms
    horizon_days: float = MONTH_DAYS
    favour_of_small: float = 0.35  # 0: a gain counts as it is; 1: beside what its program brings at all
    discount: float = 0.2  # what is learnt fades, and other answers would have told a part of it

    def rate(self, age_days: float) -> float:
        age = max(0.0, age_days)
        early = (self.first_rate - self.second_rate) * 0.5 ** (age / self.first_halving_days)
        late = (self.second_rate - self.last_rate) * 0.5 ** (age / self.second_halving_days)
        return float(self.last_rate + early + late)


@dataclass(frozen=True, slots=True)
class Sample:
    """Recent requests that stand for the coming ones: each for `per_day` of them."""

    points: Points
    prices: Floats
    per_day: Floats


@dataclass(frozen=True, slots=True)
class Outlook:
    """A sample with what is believed of it."""

    sample: Sample
    belief: Belief
    values: Floats  # models × requests: mean values
    gains: Floats  # requests: what the best decision brings without an answer
    favours: Mapping[str, float]  # of programs: how much more a gain of theirs counts
    favour: Floats  # the same of each request

    @property
    def month_gain(self) -> float:
        return float(self.gains @ self.sample.per_day) * MONTH_DAYS


def look_ahead(fit: Fit, sample: Sample, programs: Sequence[str], settings: AskingSettings) -> Outlook:
    belief = fit.believe(sample.points)
    values = fit.mean_values(belief)
    middle = fit.weight @ values
    gains = np.maximum(middle - sample.prices, 0.0)
    # A program's own scale: what it brings, and a part of what it costs, for it might bring that.
    scales = (gains + LEAST_SCALE * np.minimum(sample.prices, middle)) * sample.per_day
    by_program: dict[str, float] = {}
    for program, scale in zip(programs, scales.tolist(), strict=True):
        by_program[program] = by_program.get(program, 0.0) + scale
    mean = sum(by_program.values()) / len(by_program) if by_program else 0.0
    favours = {
        program: (mean / scale) ** settings.favour_of_small if scale > 0 else 1.0
        for program, scale in by_program.items()
    }
    return Outlook(sample, belief, values, gains, favours, np.array([favours[program] for program in programs]))


def worth_of_answers(
    fit: Fit,
    outlook: Outlook,
    points: Points,
    belief: Belief,
    prices: Floats,
    missing_per_day: Floats,
    favour: Floats,
    settings: AskingSettings,
) -> Floats:
    """For each of some transfers at its price: what asking about it brings, now and over the coming month.

    `missing_per_day`: transfers like this one to come, for which nothing in the sample stands. `favour`: of their
    programs, see `Outlook`.
    """
    total = belief.variance + fit.noise[:, None]
    spread = np.sqrt(total)
    z = (belief.mean - np.log(prices)[None, :]) / spread
    likely = normal_below(z)
    yes = fit.weight @ likely
    # This transfer: the person knows its very value, noise and all.
    own = fit.mean_values(belief)
    weighed = fit.weight @ own
    at_yes = fit.weight @ (own * normal_below(z + spread))
    now = np.maximum(at_yes - yes * prices, 0.0) - np.maximum(weighed - prices, 0.0)
    # The coming ones: their values move with the effects they share with this one.
    shared = fit.covary(outlook.sample.points, outlook.belief, points, belief)
    shift = normal_below(z[:, None, :] + shared / spread[:, None, :])
    accepted = np.einsum("h,hr,hrm->rm", fit.weight, outlook.values, shift)
    everything = fit.weight @ outlook.values
    cost = outlook.sample.prices[:, None] * yes[None, :]
    gain = np.maximum(accepted - cost, 0.0)
    gain += np.maximum(everything[:, None] - accepted - (outlook.sample.prices[:, None] - cost), 0.0)
    gain -= outlook.gains[:, None]
    later = (outlook.sample.per_day * outlook.favour) @ gain
    known = fit.weight @ (own * normal_below(z + belief.variance / spread))
    alike = np.maximum(known - yes * prices, 0.0) + np.maximum(weighed - known - (1.0 - yes) * prices, 0.0)
    later = later + favour * missing_per_day * (alike - np.maximum(weighed - prices, 0.0))
    return np.asarray(
        favour * np.maximum(now, 0.0) + settings.discount * settings.horizon_days * np.maximum(later, 0.0)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """Questions saved up at a moment."""

    saved: float
    unix_s: int

    def at(self, unix_s: int, born_unix_s: int, settings: AskingSettings, haste: float) -> float:
        days = max(0.0, (unix_s - self.unix_s) / DAY_S)
        middle = (self.unix_s - born_unix_s) / DAY_S + days / 2
        return min(settings.saved_questions, self.saved + days * haste * settings.rate(middle))


def allowance_after(times_unix_s: Sequence[int], born_unix_s: int, settings: AskingSettings, haste: float) -> Allowance:
    """What is left after the questions asked at these times; `haste` scales the agreed rate."""
    left = Allowance(saved=1.0, unix_s=born_unix_s)
    for unix_s in times_unix_s:
        left = Allowance(saved=left.at(unix_s, born_unix_s, settings, haste) - 1.0, unix_s=max(unix_s, left.unix_s))
    return left
