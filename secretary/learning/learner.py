"""The learner of one person: what a transfer is worth to them, and whether to ask.

Decides *pay up to*, *do not*, or *ask*. Its state is a pure function of the requests that it saw, of the answers that
still count, and of what other people's taught (`commons`): an answer undone is as if never given. Refuses to know:
rules, budgets, quiet hours, the day's hard bound of questions; they come before and after it.

The work after an answer (`due_work`, milliseconds) can run elsewhere; until it is taken, opinions rest on the last.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import numpy as np

from secretary.kinds import Kind, shipped_kinds
from secretary.learning.asking import (
    Allowance,
    AskingSettings,
    Outlook,
    Sample,
    allowance_after,
    look_ahead,
    worth_of_answers,
)
from secretary.learning.commons import Commons, Shared
from secretary.learning.contexts import Context, Seer
from secretary.learning.model import DAY_S, Answer, Belief, Fit, Points, log_prior
from secretary.learning.requests import LEAST_WORTH, Ground, Requests, RequestsState
from secretary.opinions import Course, Opinion
from secretary.transfers import Moment, Transfer

ANSWERS_MAX: Final = 150
"""The latest count; what they add to is known well by then."""
KNOWN_MAX: Final = 4096
PRICE_STEPS_PER_E: Final = 4
EARLY_REQUESTS: Final = 512
ERRATIC_RESPITE: Final = 0.8
LOSS_AVERSION: Final = 1.3
"""A nanodollar lost weighs as much as so many missed."""
LIMIT_SPAN: Final = 2.0
LIMIT_STEPS: Final = 10
HIGHEST_LIMIT: Final = 10**18
PPM: Final = 1_000_000
_TENTH_Z: Final = 1.2815515655446004
_ROOT_HALF: Final = 0.7071067811865476


class LearnerState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that must survive a restart."""

    requests: RequestsState
    ground: Ground
    answers: dict[int, Answer]
    shared: Shared = Shared()


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The result of due work."""

    version: int
    ground: Ground
    fit: Fit
    outlook: Outlook
    allowance: Allowance
    haste: float  # of the agreed rate of questions, what this person's answers deserve
    worths: tuple[float, ...]  # of questions about the sample, the greatest first
    reached: tuple[float, ...]  # how many a day are worth that or more
    represented: Mapping[str, float]  # a day's requests of each program in the sample
    about: Mapping[str, int]  # answers about each program


@dataclass(frozen=True, slots=True)
class _Known:
    """What is believed of a context."""

    points: Points
    belief: Belief
    parts: tuple[tuple[float, float, float], ...]  # weight, mean, spread of each model
    limit: int
    low: int
    high: int


class Learner:
    """One person's."""

    def __init__(
        self,
        kinds: Mapping[str, Kind] | None = None,
        *,
        settings: AskingSettings | None = None,
        eager: bool = True,
        commons: Commons | None = None,
    ) -> None:
        """`eager`: due work is done at once; else a driver takes `due_work` and gives its result to `take`."""
        kinds = shipped_kinds() if kinds is None else kinds
        self._seer = Seer(kinds)
        self._log_worths = {
            name: math.log(max(kind.worth_nanodollars_per_mb, LEAST_WORTH)) for name, kind in kinds.items()
        }
        self._settings = AskingSettings() if settings is None else settings
        self._eager = eager
        self._commons = Commons() if commons is None else commons
        self._member = self._commons.join()
        self._requests = Requests(self._log_worths)
        self._answers: dict[int, Answer] = {}
        self._ground = Ground()
        self._version = 0
        self._known: dict[Context, _Known] = {}
        self._asking: dict[tuple[Context, int], float] = {}
        self._fresh = self._work()()

    # --- what is seen ---

    def on_request(self, transfer: Transfer, now: Moment) -> None:
        self._requests.note(self._seer.see(transfer, now), transfer.price_nanodollars, now.unix_s)
        count, ground = self._requests.state.count, self._ground
        grown = count < EARLY_REQUESTS and count >= 2 * ground.count
        if grown or abs(now.unix_s - ground.unix_s) >= DAY_S:
            self._ground = self._requests.ground(now.unix_s)
            self._version += 1
            self._catch_up()

    def on_answer(self, number: int, transfer: Transfer, now: Moment, *, accepted: bool) -> None:
        if transfer.price_nanodollars <= 0:
            return  # that something is welcome for nothing says nothing
        self._answers[number] = Answer(
            context=self._seer.see(transfer, now),
            log_price=math.log(transfer.price_nanodollars),
            accepted=accepted,
            unix_s=now.unix_s,
        )
        self._version += 1
        self._catch_up()

    def forget(self, number: int) -> None:
        if self._answers.pop(number, None) is not None:
            self._version += 1
            self._catch_up()

    # --- due work ---

    def due_work(self) -> Callable[[], Refreshed] | None:
        """What has to be computed anew, if anything; the result is for `take`."""
        return self._work() if self._version != self._fresh.version else None

    def take(self, result: Refreshed) -> None:
        """Results may come late; an older one than the last taken is dropped."""
        if result.version <= self._fresh.version:
            return
        self._fresh = result
        self._commons.teach(self._member, result.fit.taught)
        self._known.clear()
        self._asking.clear()

    def _catch_up(self) -> None:
        if self._eager and (work := self.due_work()) is not None:
            self.take(work())

    def _work(self, shared: Shared | None = None) -> Callable[[], Refreshed]:
        answers = tuple(self._answers[number] for number in sorted(self._answers))
        if shared is None:
            shared = self._commons.shared(self._member, log_prior())
        return partial(refresh, self._version, self._ground, answers, self._log_worths, self._settings, shared)

    # --- opinions ---

    def opinion(self, transfer: Transfer, now: Moment, *, may_ask: bool = True) -> Opinion:
        context = self._seer.see(transfer, now)
        known = self._know(context)
        price = transfer.price_nanodollars
        probability = _accept(known, price)
        otherwise = Course.PAY if price <= known.limit else Course.DECLINE
        course, net = otherwise, 0
        if may_ask and price > 0:
            bar = self._bar(now.unix_s)
            if bar is not None:
                worth = self._worth_of_asking(context, known, price)
                net = round(min(worth - bar, HIGHEST_LIMIT))
                if worth > bar:
                    course = Course.ASK
        about = self._fresh.about.get(transfer.program, 0)
        return Opinion(
            course=course,
            otherwise=otherwise,
            limit_nanodollars=known.limit,
            accept_ppm=round(PPM * probability),
            low_nanodollars=known.low,
            high_nanodollars=known.high,
            answers=about or len(self._fresh.fit.answers),
            basis=self._basis(transfer.program, context.kind, about, probability),
            worth_of_asking_nanodollars=net,
        )

    def accept_probability(self, transfer: Transfer, now: Moment, price_nanodollars: int) -> float:
        return _accept(self._know(self._seer.see(transfer, now)), price_nanodollars)

    def _know(self, context: Context) -> _Known:
        known = self._known.get(context)
        if known is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            known = self._known[context] = _knowledge(self._fresh.fit, context)
        return known

    def _bar(self, unix_s: int) -> float | None:
        """What an answer has to be worth now; None: no question is left."""
        fresh, settings = self._fresh, self._settings
        born = fresh.ground.born_unix_s
        saved = fresh.allowance.at(unix_s, born, settings, fresh.haste)
        if saved < 1.0:
            return None
        rate = fresh.haste * settings.rate((unix_s - born) / DAY_S) + (saved - 1.0) / settings.patience_days
        index = bisect_left(fresh.reached, rate)
        shadow = fresh.worths[index] if index < len(fresh.worths) else 0.0
        # The sample is coarse at its end: what is saved up lowers the bar until something passes it.
        shadow *= math.exp(-settings.impatience * (saved - 1.0))
        interruption = min(float(settings.interruption_nanodollars), settings.stake_share * fresh.outlook.month_gain)
        return max(shadow, interruption)

    def _worth_of_asking(self, context: Context, known: _Known, price: int) -> float:
        step = round(PRICE_STEPS_PER_E * math.log(price))
        worth = self._asking.get((context, step))
        if worth is None:
            fresh = self._fresh
            if len(self._asking) >= KNOWN_MAX:
                self._asking.clear()
            program = context.program
            missing = fresh.ground.rate_of(program) - fresh.represented.get(program, 0.0)
            prices = np.array([math.exp(step / PRICE_STEPS_PER_E)])
            missing_per_day = np.array([max(0.0, missing)])
            worths = worth_of_answers(
                fresh.fit,
                fresh.outlook,
                known.points,
                known.belief,
                prices,
                missing_per_day,
                np.array([fresh.outlook.favours.get(program, 1.0)]),
                self._settings,
            )
            worth = self._asking[context, step] = float(worths[0])
        return worth

    def _basis(self, program: str, kind: str, about: int, probability: float) -> str:
        sure = f"{100 * max(probability, 1.0 - probability):.0f} % sure"
        given = len(self._fresh.fit.answers)
        people = f"what people pay for {kind}" if kind != "default" else "what transfers cost here"
        if about:
            return f"your {about} answer{'s' if about > 1 else ''} about {program}, and {people}: {sure}"
        if given:
            return f"your {given} answer{'s' if given > 1 else ''} about other programs, and {people}: {sure}"
        return f"{people}; you answered nothing yet: {sure}"

    # --- restart ---

    def snapshot(self) -> LearnerState:
        """Shares nothing with the learner: it may be written later."""
        requests = msgspec.msgpack.decode(msgspec.msgpack.encode(self._requests.state), type=RequestsState)
        return LearnerState(
            requests=requests, ground=self._ground, answers=dict(self._answers), shared=self._fresh.fit.shared
        )

    @classmethod
    def restore(
        cls,
        state: LearnerState,
        kinds: Mapping[str, Kind] | None = None,
        *,
        settings: AskingSettings | None = None,
        eager: bool = True,
        commons: Commons | None = None,
    ) -> Learner:
        """The learner of which `state` was taken: it says what that one would say."""
        learner = cls(kinds, settings=settings, eager=eager, commons=commons)
        requests = msgspec.msgpack.decode(msgspec.msgpack.encode(state.requests), type=RequestsState)
        learner._requests = Requests(learner._log_worths, requests)
        learner._ground, learner._answers = state.ground, dict(state.answers)
        learner._version += 1
        learner.take(learner._work(state.shared)())
        return learner


def _knowledge(fit: Fit, context: Context) -> _Known:
    points = fit.points([context])
    belief = fit.believe(points)
    means, spreads = belief.mean[:, 0], np.sqrt(belief.variance[:, 0] + fit.noise)
    value = float(fit.weight @ fit.mean_values(belief)[:, 0])
    middle = float(fit.weight @ means)
    spread = math.sqrt(float(fit.weight @ (spreads**2 + (means - middle) ** 2)))
    parts = tuple(zip(fit.weight.tolist(), means.tolist(), spreads.tolist(), strict=True))
    return _Known(
        points,
        belief,
        parts,
        _money(_log_limit(math.log(value), parts)) if value > 0 else 0,
        _money(middle - _TENTH_Z * spread),
        _money(middle + _TENTH_Z * spread),
    )


def _log_limit(log_value: float, parts: Sequence[tuple[float, float, float]]) -> float:
    """The highest price at which the mean gain is as great as `LOSS_AVERSION` - 1 mean losses more."""
    low, high = log_value - LIMIT_SPAN, log_value
    for _ in range(LIMIT_STEPS):
        log_price = 0.5 * (low + high)
        gain = math.expm1(log_value - log_price)
        loss = 0.0
        for weight, mean, spread in parts:
            z = (log_price - mean) / spread
            below = math.erfc(-z * _ROOT_HALF) - math.exp(
                min(50.0, mean - log_price + 0.5 * spread * spread)
            ) * math.erfc((spread - z) * _ROOT_HALF)
            loss += 0.5 * weight * max(0.0, below)
        low, high = (log_price, high) if gain > (LOSS_AVERSION - 1.0) * loss else (low, log_price)
    return 0.5 * (low + high)


def _money(log_nanodollars: float) -> int:
    return min(HIGHEST_LIMIT, int(math.exp(min(log_nanodollars, 45.0))))


def _accept(known: _Known, price: int) -> float:
    if price <= 0:
        return 1.0
    log_price = math.log(price)
    return sum(
        weight * 0.5 * math.erfc((log_price - mean) / spread * _ROOT_HALF) for weight, mean, spread in known.parts
    )


def refresh(
    version: int,
    ground: Ground,
    answers: tuple[Answer, ...],
    log_worths: Mapping[str, float],
    settings: AskingSettings,
    shared: Shared,
) -> Refreshed:
    """Everything that opinions rest on. Pure; some milliseconds."""
    expected = ground.expected
    counted = answers[-ANSWERS_MAX:]
    contexts = [one.context for one in expected]
    fit = Fit(counted, ground.levels, log_worths, ground.unix_s, contexts, shared)
    sample = Sample(
        fit.points(contexts),
        np.array([float(one.price_nanodollars) for one in expected]),
        np.array([one.per_day for one in expected]),
    )
    programs = [context.program for context in contexts]
    outlook = look_ahead(fit, sample, programs, settings)
    nothing = np.zeros(len(expected))
    worths = worth_of_answers(
        fit, outlook, sample.points, outlook.belief, sample.prices, nothing, outlook.favour, settings
    )
    order = np.argsort(-worths, kind="stable")
    represented: dict[str, float] = {}
    for one in expected:
        represented[one.context.program] = represented.get(one.context.program, 0.0) + one.per_day
    about: dict[str, int] = {}
    for answer in counted:
        about[answer.context.program] = about.get(answer.context.program, 0) + 1
    haste = 1.0 - ERRATIC_RESPITE * fit.erratic
    # An answer from a future that a wrong clock made must not end all questions.
    times = [min(answer.unix_s, ground.unix_s + DAY_S) for answer in answers]
    return Refreshed(
        version,
        ground,
        fit,
        outlook,
        allowance_after(times, ground.born_unix_s, settings, haste),
        haste,
        tuple(worths[order].tolist()),
        tuple(np.cumsum(sample.per_day[order]).tolist()),
        represented,
        about,
    )
