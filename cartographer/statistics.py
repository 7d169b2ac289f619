"""What is known of one way: for each quantity its mean, how sure that is, its spread, how many samples and how old.

Decides: how samples become an estimate. New levels are followed within a few samples, single spikes are not; what was
not looked at for long is less sure. Refuses to know: what a quantity is worth (`costing`), and what is chosen.

A level is a discounted mean of samples that are clipped at four deviations, and what was clipped has a mean of its own:
so that one spike moves little, and a way that often has spikes still costs what it costs. A level shift is found by a
two-sided CUSUM on clipped residuals (Page 1954); then the samples since the shift began are the new level. Loss is a
two-state filter (Gilbert 1960): a way either works, losing packets at a rate that is learned, or it is down. So one
loss on a way that never loses says much and one on a way that always loses says little. Descriptions by an ISP are
priors worth 5 samples (C.9).  Pure; a few hundred bytes a way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec

from cartographer.values import Estimate, Quantity

PROMISE_SAMPLES: Final = 5.0
PRIOR_WATCHED_NS: Final = 86_400 * 10**9
PPM: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelTerms:
    """How one quantity is followed. Deviations are standard deviations, `*_share` are parts of the value."""

    discount: float = 0.99  # of each older sample: a window of 100
    clip_deviations: float = 4.0
    slack_deviations: float = 1.0
    alarm_deviations: float = 7.5  # three samples far above; two never suffice
    down_alarm_deviations: float = 4.5  # two far below: delays have a floor, so being early is no accident
    first_spread_share: float = 0.12  # assumed until samples say more
    guess_share: float = 0.05
    least_spread_share: float = 0.01  # never surer than that of what is normal
    spike_power: float = 1.2
    far_deviations: float = 5.0  # a sample so far above is a spike or a new level
    rises_once_in: float = 800.0  # samples: how rare new levels that far above are
    near_deviations: float = 4.0  # and one so far below is a new level, but for this share of all samples
    falls_share: float = 0.001
    most_changed: float = 0.9  # the probability of a new level after a time unwatched
    sure: float = 0.7  # that it is a new level: then it is believed
    before_samples: float = 30.0  # of a new level: then the one before it is history
    over_share: float = 0.5  # the probability that a rise is over in the end
    falls: float = 0.1  # that one that is not looked at is gone again, in its own times between samples
    spike_share: float = 0.02  # of samples, before anything was seen
    tail_discount: float = 0.998
    tail_cap_share: float = 8.0  # of the level: no single spike counts for more
    tail_prior_hits: float = 2.0  # so many spikes count half,
    tail_prior_samples: float = 80.0  # and so many samples without one are assumed;
    tail_prior_size: float = 1.0  # the first is taken to be so many times the level
    tail_doubt: float = 0.3  # of its variance: what is not the same for all ways
    old_samples: float = 1.5  # what they count at least
    drift_share: float = 0.1  # what a level may have moved by in the long run
    drift_ns: int = 43_200 * NS_PER_S  # half of that variance after this time


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """How losses are followed."""

    prior_share: float = 0.0  # lost, of a way that works: nothing is assumed, since a lost packet is dear;
    prior_packets: float = 10.0  # how many packets that is worth
    discount: float = 0.995
    breaks_once_in: float = 500.0  # looks: how rare breakdowns are, before any was seen
    mends: float = 0.001  # that one that is down works again, before each look
    down_share: float = 0.97  # lost of one that is down


LEVEL: Final = LevelTerms()
# A price is said, not measured: a new one is believed at once.
TOLL: Final = LevelTerms(
    alarm_deviations=2.5,
    down_alarm_deviations=2.5,
    first_spread_share=0.02,
    least_spread_share=0.002,
    guess_share=0.0,
    over_share=0.0,
    drift_share=0.05,
)
LOSS: Final = LossTerms()
TERMS: Final = {
    Quantity.DELAY_NS: LEVEL,
    Quantity.JITTER_NS: LEVEL,
    Quantity.THROUGHPUT_BIT_S: LEVEL,
    Quantity.FORWARD_TOLL_PICODOLLARS: TOLL,
    Quantity.RETURN_TOLL_PICODOLLARS: TOLL,
}


class StoredLevel(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A level as it is kept over restarts."""

    mean: float
    samples: float
    deviation: float
    tail_hits: float
    tail_size: float
    tail_samples: float
    measured_ns: int | None


class StoredRate(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Losses or marks as they are kept over restarts."""

    hits: float
    packets: float
    down: float
    measured_ns: int | None


class StoredWay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All statistics of a way as they are kept. The times are of the clock that was in use then."""

    levels: dict[str, StoredLevel] = {}
    rates: dict[str, StoredRate] = {}


class Level:
    """One quantity of one way."""

    __slots__ = (
        "_before",
        "_deviation",
        "_down",
        "_down_count",
        "_down_sum",
        "_far",
        "_far_count",
        "_far_sum",
        "_first_ns",
        "_looks",
        "_mean",
        "_measured_ns",
        "_pace_ns",
        "_risen_ns",
        "_samples",
        "_spikes",
        "_tail_hits",
        "_tail_samples",
        "_tail_size",
        "_terms",
        "_up",
        "_up_count",
        "_up_sum",
    )

    def __init__(self, terms: LevelTerms) -> None:
        self._terms = terms
        self._mean = 0.0
        self._samples = 0.0
        self._deviation = 0.0  # a standard deviation of clipped residuals
        self._tail_hits = self._tail_samples = 0.0  # how many were clipped, of how many,
        self._tail_size = terms.tail_prior_size  # and by how much
        self._up = self._up_sum = 0.0
        self._down = self._down_sum = 0.0
        self._up_count = self._down_count = 0
        self._before: tuple[float, float, float] | None = None  # mean, deviation, samples of the level before a rise
        self._far = 0.0  # the probability that the last far samples are a new level
        self._far_sum = 0.0
        self._far_count = 0
        self._spikes = terms.spike_share
        self._measured_ns: int | None = None
        self._risen_ns = 0  # when the level before was left
        self._first_ns = 0  # the first sample,
        self._looks = 0  # and how many there were
        self._pace_ns = 0.0  # its usual time between samples; 0: not known

    def on_sample(self, value: float, now_ns: int) -> None:
        terms = self._terms
        changed = 1.0 / terms.rises_once_in
        if self._measured_ns is None:
            # Who made the prior has watched as well.
            self._first_ns = now_ns - (PRIOR_WATCHED_NS if self._samples >= 0.5 else 0)
        elif now_ns > self._measured_ns:
            gap = float(now_ns - self._measured_ns)
            changed = self._changed(gap)
            self._samples = self._fresh(gap)
            self._pace_ns = min(gap, self._pace_ns * 1.1) if self._pace_ns else gap
        self._measured_ns = now_ns
        if self._samples < 0.5:
            self._start(value)
            return
        deviation = max(self._deviation, abs(self._mean) * terms.least_spread_share, 1e-9)
        residual = value - self._mean
        bound = terms.clip_deviations * deviation
        clipped = min(max(residual, -bound), bound)
        if self._is_back(value) or self._is_new(value, residual, deviation, changed):
            return
        if self._shifted(value, clipped / deviation):
            return
        samples = self._samples = self._samples * terms.discount + 1.0
        step = 1.0 / samples
        self._mean += clipped * step
        # Clipping makes a variance too small, and a first guess of it must be able to shrink fast.
        pace = max(step, 0.02)
        self._deviation = math.sqrt((1.0 - pace) * deviation * deviation + pace * clipped * clipped)
        self._feel_tail(residual - clipped)

    def _start(self, value: float) -> None:
        """The first sample, or one that replaces all that was."""
        terms = self._terms
        if self._samples < 0.5:
            self._deviation = abs(value) * terms.first_spread_share
        self._mean, self._samples = value, 1.0

    def _feel_tail(self, beyond: float) -> None:
        """How many samples were clipped, and by how much on average, as a share of the level."""
        terms = self._terms
        self._tail_samples = self._tail_samples * terms.tail_discount + 1.0
        self._tail_hits *= terms.tail_discount
        if beyond > 0.0 and self._mean > 0.0:
            self._tail_hits += 1.0
            size = min(beyond / self._mean, terms.tail_cap_share)
            self._tail_size += (size - self._tail_size) / (self._tail_hits + 1.0)

    def _tail(self) -> float:
        """What spikes add to the level on average, as a share of it."""
        terms = self._terms
        hits = self._tail_hits
        if not hits:
            return 0.0
        # The first ones may be chance, and the other ways, less looked at, have had no chance to show theirs.
        rate = hits * hits / (hits + terms.tail_prior_hits) / (self._tail_samples + terms.tail_prior_samples)
        return rate * self._tail_size

    def _changed(self, gap_ns: float) -> float:
        """The probability of a new level in a time unwatched: as long as it was watched, it holds again."""
        terms = self._terms
        if self._looks >= 3 and gap_ns <= 1.5 * self._pace_ns:
            return 1.0 / terms.rises_once_in
        watched = float((self._measured_ns or 0) - self._first_ns)
        return min(gap_ns / (gap_ns + watched), terms.most_changed)

    def _fresh(self, age_ns: float) -> float:
        """How many samples the old ones still count for."""
        samples, least = self._samples, self._terms.old_samples
        if samples <= least:
            return samples
        return samples + (least - samples) * self._changed(age_ns)

    def _is_new(self, value: float, residual: float, deviation: float, changed: float) -> bool:
        """Bayes on a sample that is far off: is it a spike, or a level that stays? Below there are hardly spikes."""
        terms = self._terms
        self._looks += 1
        prior = self._far + (1.0 - self._far) * changed
        score = residual / deviation
        if -terms.near_deviations < score < terms.far_deviations and not self._far_count and changed < 0.1:
            self._spikes = max(self._spikes * 0.99, 0.001)
            return False
        # Densities of the sample times itself: another level is anything from a fifth to five times as high.
        size = abs(value) / deviation
        held = 0.4 * size * math.exp(-0.5 * min(score * score, 200.0))
        if score > 0.0:
            # Spikes are rarer the larger they are (Pareto), in the size of those that were seen.
            times = residual / (max(self._tail_size, 1.0) * abs(self._mean) + 1e-9)
            held += self._spikes * min(0.33, max(times, 1.0) ** -terms.spike_power + 0.02)
        else:
            held += terms.falls_share * 0.33
        is_far = score > terms.far_deviations or score < -terms.near_deviations
        if self._far_count:
            about = self._far_sum / self._far_count
            new = 4.0 if abs(value - about) < 0.15 * abs(about) else 0.31 if is_far else 0.01
        else:
            new = 0.31
        if is_far or changed >= 0.1:
            odds = prior / max(1.0 - prior, 1e-6) * new / max(held, 1e-9)
        else:
            odds = prior / max(1.0 - prior, 1e-6) * 0.05
        self._far = min(odds / (1.0 + odds), 0.999)
        if is_far or self._far > 0.5:
            self._far_sum += value
            self._far_count += 1
        self._spikes += 0.01 * ((score > terms.far_deviations) * (1.0 - self._far) - self._spikes)
        self._spikes = max(self._spikes, 0.001)
        if self._far > terms.sure and (self._far_count > 1 or score < 0.0 or changed >= 0.1):
            self._restart(self._far_sum, self._far_count)
            return True
        if self._far < 0.05:
            self._far, self._far_sum, self._far_count = 0.0, 0.0, 0
        return False

    def _shifted(self, value: float, score: float) -> bool:
        """CUSUM: whether the level is another one since some samples; then those are its mean."""
        slack = self._terms.slack_deviations
        up = self._up + score - slack
        if up > 0.0:
            self._up, self._up_sum, self._up_count = up, self._up_sum + value, self._up_count + 1
            if up > self._terms.alarm_deviations:
                self._restart(self._up_sum, self._up_count)
                return True
        elif self._up:
            self._up, self._up_sum, self._up_count = 0.0, 0.0, 0
        down = self._down - score - slack
        if down > 0.0:
            self._down, self._down_sum, self._down_count = down, self._down_sum + value, self._down_count + 1
            if down > self._terms.down_alarm_deviations:
                self._restart(self._down_sum, self._down_count)
                return True
        elif self._down:
            self._down, self._down_sum, self._down_count = 0.0, 0.0, 0
        return False

    def _is_back(self, value: float) -> bool:
        """Whether a rise is over, so that the level before is believed again: congestion ends as it began."""
        if self._before is None:
            return False
        mean, deviation, samples = self._before
        if self._samples > max(samples, self._terms.before_samples):
            self._before = None
            return False
        if abs(value - mean) > 2.5 * deviation or value - mean > 0.5 * (self._mean - mean):
            return False
        self._mean, self._deviation, self._samples = mean, deviation, min(samples, 10.0)
        self._mean += (value - mean) / (self._samples + 1.0)
        self._before = None
        self._settle()
        return True

    def _restart(self, total: float, count: int) -> None:
        before = self._mean
        risen = total > count * before
        if not risen:
            if self._before is not None and self._mean < 1.1 * self._before[0]:
                self._before = None
        elif self._before is None:
            self._before = (before, self._deviation, self._samples)
            self._risen_ns = self._measured_ns or 0
        self._mean = total / count
        self._samples = float(count)
        share = self._terms.first_spread_share
        # The noise of the old level, in proportion, is the best guess of the new one's; not less than was seen.
        ratio = abs(self._mean / before) if before else 1.0
        self._deviation = max(self._deviation * min(max(ratio, 0.2), 5.0), abs(self._mean) * share * 0.2)
        self._settle()

    def _settle(self) -> None:
        """Nothing points to another level."""
        self._up = self._up_sum = self._down = self._down_sum = 0.0
        self._up_count = self._down_count = 0
        self._far = self._far_sum = 0.0
        self._far_count = 0

    def believe(self, value: float, uncertainty: float, spread: float, samples: float) -> None:
        """A prior: what an ISP promises or a pool says. It adds to nothing that was measured."""
        if self._measured_ns is not None:
            return
        self._mean, self._samples = value, samples
        self._deviation = max(spread, uncertainty * math.sqrt(samples))

    def moments(self, now_ns: int) -> tuple[float, float, float, float, int | None] | None:
        """Value, variance of the value, variance of single samples, samples, newest sample; None: nothing is known."""
        samples = self._samples
        if samples <= 0.0:
            return None
        terms = self._terms
        measured_ns = self._measured_ns
        age = max(now_ns - measured_ns, 0) if measured_ns is not None else 0
        if age:
            samples = self._fresh(age)
        tail = self._mean * self._tail()
        value = self._mean + tail
        doubt = 0.0
        if self._far_count:
            risen = self._far_sum / self._far_count - value
            far = self._far
            if age and self._pace_ns:
                far *= math.exp(-age * terms.falls / self._pace_ns)
            value += far * risen
            doubt = far * (1.0 - far) * risen * risen
        single = self._deviation * self._deviation
        if self._before is not None and age:
            # A rise that was not looked at for as long as it was seen may well be over.
            high = self._mean - self._before[0]
            seen_ns = max((measured_ns or 0) - self._risen_ns, 0) + self._pace_ns
            over = terms.over_share * age / (age + seen_ns)
            value -= over * high
            doubt += over * (1.0 - over) * high * high
        # What few samples say of the spread is little; a promise says itself how sure it is.
        guess = 0.0 if measured_ns is None else terms.guess_share * self._mean / samples
        variance = doubt + single / samples + guess * guess + tail * tail * terms.tail_doubt / (self._tail_hits + 1.0)
        if age:
            drift = terms.drift_share * self._mean
            variance += drift * drift * (age / (age + terms.drift_ns))
        return value, variance, single + tail * self._mean * self._tail_size, samples, measured_ns

    def remembered(self) -> StoredLevel:
        return StoredLevel(
            mean=self._mean,
            samples=self._samples,
            deviation=self._deviation,
            tail_hits=self._tail_hits,
            tail_size=self._tail_size,
            tail_samples=self._tail_samples,
            measured_ns=self._measured_ns,
        )

    @classmethod
    def recalled(cls, stored: StoredLevel, terms: LevelTerms) -> Level:
        level = cls(terms)
        level._mean, level._samples, level._deviation = stored.mean, stored.samples, stored.deviation
        level._tail_hits, level._tail_size, level._tail_samples = (
            stored.tail_hits,
            stored.tail_size,
            stored.tail_samples,
        )
        if stored.measured_ns is not None:
            level._first_ns, level._looks = stored.measured_ns, 1
        level._measured_ns = stored.measured_ns
        return level


class Rate:
    """How many packets are hit: lost, or marked. `down`: whether the way is down, a probability."""

    __slots__ = (
        "_breakdowns",
        "_down",
        "_hits",
        "_looks",
        "_measured_ns",
        "_pace_ns",
        "_packets",
        "_pending",
        "_prior",
        "_prior_packets",
        "_terms",
    )

    def __init__(self, terms: LossTerms) -> None:
        self._terms = terms
        self._hits = 0.0
        self._packets = 0.0
        self._looks = terms.breaks_once_in
        self._breakdowns = 1.0
        self._pending = 0.0  # losses in a row that were put down to chance
        self._pace_ns = 0.0
        self._down = self._breakdowns / self._looks
        self._prior = terms.prior_share
        self._prior_packets = terms.prior_packets
        self._measured_ns: int | None = None

    def on_packets(self, packets: int, hits: int, now_ns: int) -> None:
        terms = self._terms
        breaks = self._breakdowns / self._looks
        down = self._down
        if self._measured_ns is not None and now_ns > self._measured_ns:
            gap = float(now_ns - self._measured_ns)
            down = self._still_down(gap)
            self._pace_ns = min(gap, self._pace_ns * 1.1) if self._pace_ns else gap
        self._measured_ns = now_ns
        before = down
        down = down * (1.0 - terms.mends) + (1.0 - down) * breaks
        # Half a loss more than was seen (Jeffreys): the first one proves no breakdown.
        working = min(max(self._working() + 0.5 / (self._packets + self._prior_packets), 1e-4), 0.95)
        passed = packets - hits
        # Odds by Bayes, in logarithms: a batch may be large.
        log_odds = math.log(down / (1.0 - down))
        log_odds += hits * math.log(terms.down_share / working)
        log_odds += passed * math.log((1.0 - terms.down_share) / (1.0 - working))
        self._down = 1.0 / (1.0 + math.exp(min(max(-log_odds, -9.0), 9.0)))
        self._looks += 1.0
        if before < 0.9 <= self._down:
            self._breakdowns += self._down
        works = 1.0 - self._down
        fade = terms.discount ** min(packets, 1000)
        self._hits = self._hits * fade + hits * works
        self._pending = (0.0 if passed else self._pending) + hits * works
        if self._down >= 0.9 and self._pending:
            # It was a breakdown from the first of them on: they say nothing of the way while it works.
            self._hits = max(self._hits - self._pending, 0.0)
            self._pending = 0.0
        self._packets = self._packets * fade + packets * works

    def _still_down(self, age_ns: float) -> float:
        """A way that is down mends while nobody looks; the time is measured in its own looks."""
        rare = self._breakdowns / self._looks
        if self._down <= rare or not self._pace_ns:
            return self._down
        return rare + (self._down - rare) * math.exp(-age_ns * self._terms.mends / self._pace_ns)

    def _working(self) -> float:
        return (self._hits + self._prior * self._prior_packets) / (self._packets + self._prior_packets)

    def believe(self, share: float, samples: float) -> None:
        self._prior = min(max(share, 0.0), 1.0)
        self._prior_packets = max(samples, 1.0)

    def moments(self, now_ns: int) -> tuple[float, float, float, float, int | None]:
        """As a level's, as shares of 1."""
        terms = self._terms
        working = self._working()
        weight = self._packets + self._prior_packets
        down = 0.0
        if self._measured_ns is not None:
            # What is as rare as ever is as rare on any way, and says nothing of this one.
            down = self._still_down(max(now_ns - self._measured_ns, 0)) - 1.5 * self._breakdowns / self._looks
            down = max(down, 0.0)
        value = down * terms.down_share + (1.0 - down) * working
        variance = down * (1.0 - down) * (terms.down_share - working) ** 2
        variance += working * (1.0 - working) / (weight + 1.0)
        return value, variance, value * (1.0 - value), self._packets, self._measured_ns

    def remembered(self) -> StoredRate:
        return StoredRate(hits=self._hits, packets=self._packets, down=self._down, measured_ns=self._measured_ns)

    @classmethod
    def recalled(cls, stored: StoredRate, terms: LossTerms) -> Rate:
        rate = cls(terms)
        rate._hits, rate._packets, rate._down = stored.hits, stored.packets, stored.down
        rate._measured_ns = stored.measured_ns
        return rate


RATES: Final = (Quantity.LOSS_PPM, Quantity.MARKS_PPM)
# Marks do not stop a way: nothing there is ever "down".
MARKS: Final = LossTerms(breaks_once_in=1e12, mends=0.5)


class WayStatistics:
    """Everything measured, promised or heard of one way."""

    __slots__ = ("_last_delay_ns", "_levels", "_rates")

    def __init__(self) -> None:
        self._levels: dict[Quantity, Level] = {}
        self._rates: dict[Quantity, Rate] = {}
        self._last_delay_ns: float | None = None

    def on_sample(self, quantity: Quantity, value: float, now_ns: int) -> None:
        """A round trip, a toll, a throughput. Jitter follows out of round trips; a rate comes as packets, too."""
        if quantity in RATES:
            self._rate(quantity).on_packets(1, 1 if value * 2 >= PPM else 0, now_ns)
            return
        self._level(quantity).on_sample(value, now_ns)
        if quantity is Quantity.DELAY_NS:
            if self._last_delay_ns is not None:
                self._level(Quantity.JITTER_NS).on_sample(abs(value - self._last_delay_ns), now_ns)
            self._last_delay_ns = value

    def on_packets(self, *, sent: int, lost: int, marked: int, now_ns: int) -> None:
        """`sent` counts the lost ones; only those that arrived can be marked."""
        if sent <= 0:
            return
        lost = min(max(lost, 0), sent)
        self._rate(Quantity.LOSS_PPM).on_packets(sent, lost, now_ns)
        arrived = sent - lost
        if arrived and (marked or Quantity.MARKS_PPM in self._rates):
            self._rate(Quantity.MARKS_PPM).on_packets(arrived, min(max(marked, 0), arrived), now_ns)

    def on_promise(self, quantity: Quantity, value: float) -> None:
        """What the ISP publishes, worth 5 samples; the spread is not published, so it is assumed."""
        if quantity in RATES:
            self._rate(quantity).believe(value / PPM, PROMISE_SAMPLES)
            return
        spread = abs(value) * TERMS[quantity].first_spread_share
        self._level(quantity).believe(value, spread / math.sqrt(PROMISE_SAMPLES), spread, PROMISE_SAMPLES)

    def on_prior(self, quantity: Quantity, estimate: Estimate) -> None:
        """What a pool of other hosts believes."""
        samples = max(estimate.samples, 0.5)
        if quantity in RATES:
            self._rate(quantity).believe(estimate.value / PPM, samples)
            return
        self._level(quantity).believe(estimate.value, estimate.uncertainty, estimate.spread, samples)

    def moments(self, quantity: Quantity, now_ns: int) -> tuple[float, float, float, float, int | None] | None:
        """Value, variance of the value, variance of single samples, samples, newest sample. Rates are shares of 1."""
        if quantity in RATES:
            rate = self._rates.get(quantity)
            return rate.moments(now_ns) if rate is not None else None
        level = self._levels.get(quantity)
        return level.moments(now_ns) if level is not None else None

    def estimate(self, quantity: Quantity, now_ns: int) -> Estimate | None:
        """None: nothing is known."""
        moments = self.moments(quantity, now_ns)
        if moments is None:
            return None
        value, variance, single, samples, measured_ns = moments
        scale = PPM if quantity in RATES else 1
        return Estimate(
            value=round(value * scale),
            uncertainty=round(math.sqrt(variance) * scale),
            spread=round(math.sqrt(single) * scale),
            samples=samples,
            measured_ns=measured_ns,
        )

    def _level(self, quantity: Quantity) -> Level:
        level = self._levels.get(quantity)
        if level is None:
            level = self._levels[quantity] = Level(TERMS[quantity])
        return level

    def _rate(self, quantity: Quantity) -> Rate:
        rate = self._rates.get(quantity)
        if rate is None:
            rate = self._rates[quantity] = Rate(LOSS if quantity is Quantity.LOSS_PPM else MARKS)
        return rate

    def remembered(self) -> StoredWay:
        return StoredWay(
            levels={quantity.value: level.remembered() for quantity, level in self._levels.items()},
            rates={quantity.value: rate.remembered() for quantity, rate in self._rates.items()},
        )

    @classmethod
    def recall(cls, stored: StoredWay) -> WayStatistics:
        """As it was; quantities that this version does not know are left out."""
        statistics = cls()
        for quantity, terms in TERMS.items():
            if (level := stored.levels.get(quantity.value)) is not None:
                statistics._levels[quantity] = Level.recalled(level, terms)
        for quantity in RATES:
            if (rate := stored.rates.get(quantity.value)) is not None:
                terms_of = LOSS if quantity is Quantity.LOSS_PPM else MARKS
                statistics._rates[quantity] = Rate.recalled(rate, terms_of)
        return statistics
