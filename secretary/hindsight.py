"""How good decisions were, once it is known what each transfer was worth: surplus, regret, questions, calibration.

Decides what counts as missed, unjustified and regretted. Refuses to know how anybody decided. Grows with each decision
and keeps sums only. Pure.

Surplus: worth less price, of what was paid. The best: that of paying exactly where worth ≥ price; regret is how far the
surplus stays below it. Unjustified: paid without a question though worth < price. A week is seven days since the
person's first event; from the third week on a person counts as known ("settled").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

DAY_S: Final = 86_400
WEEK_S: Final = 7 * DAY_S
SETTLED_WEEK: Final = 2  # weeks count from 0
QUESTION_NANODOLLARS: Final = 20_000_000
"""Two cents: what interrupting a person costs."""
PPM: Final = 1_000_000
BINS: Final = 1000
DECILES: Final = 10
DECILE_REQUESTS_MIN: Final = 100
"""A decile with fewer requests says nothing about calibration within five points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One request as it was decided. `accept_ppm`: the judge's own probability that the user accepts the price."""

    t: float
    user: str
    program: str
    price_nanodollars: int
    pay: bool
    asked: bool
    accept_ppm: int | None


@dataclass(slots=True, kw_only=True)
class Tally:
    """Sums over decisions. Money in nanodollars."""

    requests: int = 0
    paid: int = 0
    questions: int = 0
    best_nanodollars: int = 0
    surplus_nanodollars: int = 0
    unjustified: int = 0
    unjustified_price_nanodollars: int = 0
    unjustified_loss_nanodollars: int = 0
    missed: int = 0
    missed_nanodollars: int = 0

    def add(self, outcome: Outcome, truth_nanodollars: int) -> None:
        gain = truth_nanodollars - outcome.price_nanodollars
        self.requests += 1
        self.questions += outcome.asked
        self.best_nanodollars += max(gain, 0)
        if outcome.pay:
            self.paid += 1
            self.surplus_nanodollars += gain
            if gain < 0 and not outcome.asked:
                self.unjustified += 1
                self.unjustified_price_nanodollars += outcome.price_nanodollars
                self.unjustified_loss_nanodollars -= gain
        elif gain > 0:
            self.missed += 1
            self.missed_nanodollars += gain

    def merge(self, other: Tally) -> None:
        self.requests += other.requests
        self.paid += other.paid
        self.questions += other.questions
        self.best_nanodollars += other.best_nanodollars
        self.surplus_nanodollars += other.surplus_nanodollars
        self.unjustified += other.unjustified
        self.unjustified_price_nanodollars += other.unjustified_price_nanodollars
        self.unjustified_loss_nanodollars += other.unjustified_loss_nanodollars
        self.missed += other.missed
        self.missed_nanodollars += other.missed_nanodollars

    @property
    def ratio(self) -> float | None:
        """Of the surplus that knowing every worth would give; None where that would give nothing."""
        return self.surplus_nanodollars / self.best_nanodollars if self.best_nanodollars > 0 else None

    @property
    def ratio_less_questions(self) -> float | None:
        """As `ratio`, each question charged."""
        less = self.surplus_nanodollars - self.questions * QUESTION_NANODOLLARS
        return less / self.best_nanodollars if self.best_nanodollars > 0 else None

    def as_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "paid": self.paid,
            "questions": self.questions,
            "surplus_nanodollars": self.surplus_nanodollars,
            "best_nanodollars": self.best_nanodollars,
            "surplus_ratio": _rounded(self.ratio),
            "surplus_ratio_less_questions": _rounded(self.ratio_less_questions),
            "regret_nanodollars": self.best_nanodollars - self.surplus_nanodollars,
            "missed": self.missed,
            "missed_nanodollars": self.missed_nanodollars,
            "unjustified": self.unjustified,
            "unjustified_price_nanodollars": self.unjustified_price_nanodollars,
            "unjustified_loss_nanodollars": self.unjustified_loss_nanodollars,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Decile:
    """Requests whose predicted probability lay in one tenth of the range, or in one tenth of the requests."""

    from_ppm: int
    to_ppm: int
    requests: int
    predicted_ppm: int
    accepted_ppm: int

    @property
    def gap_ppm(self) -> int:
        return abs(self.predicted_ppm - self.accepted_ppm)

    def as_json(self) -> dict[str, int]:
        return {
            "from_ppm": self.from_ppm,
            "to_ppm": self.to_ppm,
            "requests": self.requests,
            "predicted_ppm": self.predicted_ppm,
            "accepted_ppm": self.accepted_ppm,
        }


class Calibration:
    """Predicted probability of acceptance against worth ≥ price, over all requests, asked or not."""

    def __init__(self) -> None:
        self._requests = [0] * BINS
        self._predicted_ppm = [0] * BINS
        self._accepted = [0] * BINS

    def add(self, accept_ppm: int, *, accepted: bool) -> None:
        place = min(BINS - 1, max(0, accept_ppm * BINS // PPM))
        self._requests[place] += 1
        self._predicted_ppm[place] += accept_ppm
        self._accepted[place] += accepted

    def merge(self, other: Calibration) -> None:
        for mine, theirs in (
            (self._requests, other._requests),
            (self._predicted_ppm, other._predicted_ppm),
            (self._accepted, other._accepted),
        ):
            mine[:] = [one + another for one, another in zip(mine, theirs, strict=True)]

    def by_range(self) -> list[Decile]:
        """Tenths of the range of probability; empty ones are left out."""
        width = BINS // DECILES
        return self._deciles([range(first, first + width) for first in range(0, BINS, width)])

    def by_count(self) -> list[Decile]:
        """Tenths of the requests, as far as equal probabilities can be parted."""
        total, seen, first = sum(self._requests), 0, 0
        spans: list[range] = []
        for place, count in enumerate(self._requests):
            seen += count
            if seen * DECILES >= total * (len(spans) + 1) and count:
                spans.append(range(first, place + 1))
                first = place + 1
                while len(spans) < DECILES and seen * DECILES >= total * (len(spans) + 1):
                    spans.append(range(0))
        return self._deciles(spans)

    def worst_ppm(self) -> int | None:
        """The greatest gap among the tenths of the range that hold enough requests."""
        gaps = [decile.gap_ppm for decile in self.by_range() if decile.requests >= DECILE_REQUESTS_MIN]
        return max(gaps, default=None)

    def as_json(self) -> dict[str, Any]:
        return {
            "worst_gap_ppm": self.worst_ppm(),
            "deciles": [decile.as_json() for decile in self.by_range()],
            "deciles_of_requests": [decile.as_json() for decile in self.by_count()],
        }

    def _deciles(self, spans: Iterable[range]) -> list[Decile]:
        found = []
        for span in spans:
            requests = sum(self._requests[place] for place in span)
            if requests:
                found.append(
                    Decile(
                        from_ppm=span.start * PPM // BINS,
                        to_ppm=span.stop * PPM // BINS,
                        requests=requests,
                        predicted_ppm=sum(self._predicted_ppm[place] for place in span) // requests,
                        accepted_ppm=sum(self._accepted[place] for place in span) * PPM // requests,
                    )
                )
        return found


@dataclass(slots=True, kw_only=True)
class Person:
    first_t: float
    last_t: float
    weeks: list[Tally] = field(default_factory=list)
    programs: dict[str, Tally] = field(default_factory=dict)  # from the third week on

    def days_in(self, week: int) -> int:
        """Days of that week until the person's last event, begun ones counted whole."""
        days = int((self.last_t - self.first_t) // DAY_S) + 1
        return max(0, min(7, days - 7 * week))

    def settled(self) -> Tally:
        return total(self.weeks[SETTLED_WEEK:])


class Summary:
    """Everything that the replay says at the end. Takes decisions in any order of people, each person's in time's."""

    def __init__(self) -> None:
        self.people: dict[str, Person] = {}
        self.calibration = Calibration()
        self.settled_calibration = Calibration()

    def add(self, outcome: Outcome, truth_nanodollars: int) -> None:
        person = self.people.get(outcome.user)
        if person is None:
            person = self.people[outcome.user] = Person(first_t=outcome.t, last_t=outcome.t)
        person.last_t = max(person.last_t, outcome.t)
        week = max(0, int((outcome.t - person.first_t) // WEEK_S))
        while len(person.weeks) <= week:
            person.weeks.append(Tally())
        person.weeks[week].add(outcome, truth_nanodollars)
        accepted = truth_nanodollars >= outcome.price_nanodollars
        if outcome.accept_ppm is not None:
            self.calibration.add(outcome.accept_ppm, accepted=accepted)
        if week >= SETTLED_WEEK:
            if outcome.accept_ppm is not None:
                self.settled_calibration.add(outcome.accept_ppm, accepted=accepted)
            person.programs.setdefault(outcome.program, Tally()).add(outcome, truth_nanodollars)

    def merge(self, other: Summary) -> None:
        """Of other people, who must not be known here yet."""
        if self.people.keys() & other.people.keys():
            raise ValueError("the same person in two summaries")
        self.people.update(other.people)
        self.calibration.merge(other.calibration)
        self.settled_calibration.merge(other.settled_calibration)

    @property
    def weeks(self) -> int:
        return max((len(person.weeks) for person in self.people.values()), default=0)

    def week(self, number: int) -> Tally:
        return total(person.weeks[number] for person in self.people.values() if number < len(person.weeks))

    def whole(self) -> Tally:
        return total(week for person in self.people.values() for week in person.weeks)

    def settled(self) -> Tally:
        return total(week for person in self.people.values() for week in person.weeks[SETTLED_WEEK:])

    def questions_per_day(self, week: int | None = None) -> float | None:
        """Of a person, on the mean over the days of all people; None: in all weeks."""
        weeks = range(self.weeks) if week is None else [week]
        days = sum(person.days_in(each) for person in self.people.values() for each in weeks)
        questions = sum(self.week(each).questions for each in weeks)
        return questions / days if days else None

    def programs(self) -> dict[str, Tally]:
        """By program's name over all people, from the third week on."""
        found: dict[str, Tally] = {}
        for person in self.people.values():
            for program, tally in person.programs.items():
                found.setdefault(program, Tally()).merge(tally)
        return found

    def program_mean(self) -> float | None:
        """The surplus ratio's mean over programs, each counting alike."""
        return _mean(self.programs().values())

    def person_program_mean(self) -> float | None:
        """The surplus ratio's mean over each person's programs, each counting alike."""
        return _mean(tally for person in self.people.values() for tally in person.programs.values())

    def person_mean(self) -> float | None:
        """The surplus ratio's mean over people, each counting alike."""
        return _mean(person.settled() for person in self.people.values())

    def as_json(self, *, with_people: bool = False) -> dict[str, Any]:
        whole = self.whole()
        told: dict[str, Any] = {
            "people": len(self.people),
            **whole.as_json(),
            "questions_per_day": _rounded(self.questions_per_day()),
            "weeks": [self._week_as_json(week) for week in range(self.weeks)],
            "from_third_week": {
                **self.settled().as_json(),
                "surplus_ratio_mean_over_programs": _rounded(self.program_mean()),
                "surplus_ratio_mean_over_people": _rounded(self.person_mean()),
                "surplus_ratio_mean_over_people_and_programs": _rounded(self.person_program_mean()),
                "calibration": self.settled_calibration.as_json(),
            },
            "calibration": self.calibration.as_json(),
        }
        if with_people:
            told["by_person"] = {user: self._person_as_json(person) for user, person in self.people.items()}
        return told

    def _week_as_json(self, week: int) -> dict[str, Any]:
        days = [person.days_in(week) for person in self.people.values()]
        return {
            "week": week + 1,
            "person_days": sum(days),
            **self.week(week).as_json(),
            "questions_per_day": _rounded(self.questions_per_day(week)),
            "questions_per_day_most_asked": _rounded(
                max(
                    (
                        person.weeks[week].questions / person.days_in(week)
                        for person in self.people.values()
                        if week < len(person.weeks)
                    ),
                    default=None,
                )
            ),
            "questions_per_day_all_people": _rounded(self.week(week).questions / max(days) if max(days) else None),
        }

    def _person_as_json(self, person: Person) -> dict[str, Any]:
        return {
            **total(person.weeks).as_json(),
            "from_third_week": person.settled().as_json(),
            "questions_per_day_by_week": [
                _rounded(week.questions / person.days_in(number)) for number, week in enumerate(person.weeks)
            ],
            "surplus_ratio_by_week": [_rounded(week.ratio) for week in person.weeks],
        }


def total(tallies: Iterable[Tally]) -> Tally:
    found = Tally()
    for tally in tallies:
        found.merge(tally)
    return found


def _mean(tallies: Iterable[Tally]) -> float | None:
    ratios: Sequence[float] = [ratio for tally in tallies if (ratio := tally.ratio) is not None]
    return sum(ratios) / len(ratios) if ratios else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
