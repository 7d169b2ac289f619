"""What a link can carry, found out by watching: how much passes, and how long round trips take meanwhile.

Decides: the estimate for each direction, what to shape to (a little less, so that the queue is ours and not the
modem's), and when to believe neither. Refuses to know: sockets, clocks, classes; nothing is sent to find out. Pure.

Source: the control loop of cake-autorate (README, "Theory of Operation"): a direction that is loaded while round trips
grow is too fast, one that is loaded while they do not may be too slow; at low load drift back to what was good. Its
reflectors are here the remote addresses that programs talk to anyway. What differs, and why:

- Round trips are of nobody's choice: one slow remote host must not slow us down, so the lower median of the remote
  addresses speaks. One that is alone is believed, until sending less does not help (`_is_innocent`).
- A fall goes to what was delivered, not to a fixed part: with a full queue that is what the link carries.
- A rate that was found twice is tried to exceed only now and then, and slowly (as TCP's CUBIC near its plateau): each
  trial costs a call some milliseconds.
- No round trip is no news (expectation 21): the rate is held, then drifts to the last good one. Never to the floor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Final

NS_PER_S: Final = 1_000_000_000
PPM: Final = 1_000_000

LOOK_NS: Final = 500_000_000
"""Looks that come faster are put together: a smoothed round trip needs some acknowledgements to follow."""

SHAPE_PPM: Final = 950_000
"""Of the estimate. cake's manual advises 90 to 95 % of the line's rate."""

DRAIN_PPM: Final = 850_000
DRAIN_NS: Final = 4 * NS_PER_S
"""After a fall the modem's queue has to run empty: 15 % less empties 400 ms of it in under 3 s."""

HIGH_LOAD_PPM: Final = 750_000
"""cake-autorate's high_load_thr, of what is shaped to."""

SOME_LOAD_PPM: Final = 100_000
SOME_LOAD_LOOKS: Final = 5
"""A link that became much slower is not "highly loaded" by its old rate: a longer time at less load tells too."""

RAISE_LOAD_PPM: Final = 850_000
"""Whoever does not use what it has needs no more: more than cake-autorate asks for, as shapers fill to 97 %."""

INFLATED_US: Final = 20_000
"""cake-autorate: 30 ms each way by default; jitter of a good Wi-Fi stays below 10 ms when smoothed."""

TRIAL_US: Final = 8_000
"""While a rate is tried that may be too high, so much more than before tells already: a call pays for every trial."""

CALM_LOOKS: Final = 3
"""At high load, before a trial: else nobody knows what "more than before" is."""

OWN_QUEUE_BYTES: Final = 12_000
"""What a socket keeps in our own queue (TCP small queues: two segments' lumps) adds to its round trip at slow rates."""

WINDOW: Final = 3
VOTES: Final = 2
"""cake-autorate's detection: 3 of 6 samples, which come faster there."""

LEAST_FALL_PPM: Final = 970_000
STEP_FALL_PPM: Final = 500_000
"""A fall takes 3 % at least, and half at most. (cake-autorate: 1 to 25 %, up to three times a second.)"""

SLOW_STEP_PPM: Final = 10_000
FAST_STEP_PPM: Final = 80_000
KNOWN_PPM: Final = 1_080_000
"""Up to so much above where it fell last, a rate rises by 1 % a second, beyond twice as fast each second up to 8 %."""

SAME_PPM: Final = 100_000
HOLD_FIRST_NS: Final = 20 * NS_PER_S
HOLD_SURE_NS: Final = 60 * NS_PER_S
HOLD_MOST_NS: Final = 300 * NS_PER_S
"""Until the next trial: after a first fall, after one to the same rate (within 10 %), and twice as long each time."""

BLIND_NS: Final = 30 * NS_PER_S
DRIFT_PPM: Final = 10_000
"""cake-autorate's adjust_up_load_low and adjust_down_load_low: 1 % a second."""

INNOCENT_NS: Final = 8 * NS_PER_S
INNOCENT_DELAY_PPM: Final = 750_000
INNOCENT_RATE_PPM: Final = 900_000
DEAF_NS: Final = 60 * NS_PER_S
DEAF_MOST_NS: Final = 600 * NS_PER_S

LEAST_SHAPE_BIT_S: Final = 64_000
FLOOR_BIT_S: Final = 128_000
FLOOR_PPM: Final = 50_000
"""Not below 5 % of what was good."""

LEAST_LOAD_BIT_S: Final = 500_000
"""A link of unknown rate with less on it is not full."""

ACKNOWLEDGEMENTS: Final = 8
"""A direction with so many times less than the other one carries acknowledgements: it is not what is full."""

LEAST_KEPT_NS: Final = 600 * NS_PER_S
"""A route may become longer for good. Twice the kernel's own window of tcpi_min_rtt."""

REMOTES_MAX: Final = 256
MOST_S: Final = 2
"""After a pause (the machine slept) no step is bigger than that of so many seconds."""


class Source(Enum):
    UNKNOWN = "unknown"
    REMEMBERED = "remembered"  # what this network carried when we were here last
    MEASURED = "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """Round trips to a remote address as of now; None: nothing new. See `dataplane.round_trips`.

    receiving_us: of data that arrived. It has our own queue for arrivals in it, so it counts while we have none.
    is_near: on the link's own network, so it may not cross the modem; it counts when there is no other.
    """

    remote: bytes
    now_us: int | None
    least_us: int | None
    receiving_us: int | None = None
    is_near: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Bytes at the IP layer since the interface is there. acts: whether links are shaped to what we said."""

    now_ns: int
    sent_bytes: int
    received_bytes: int
    trips: Sequence[Trip] = ()
    acts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """shape_bit_s None: do not shape."""

    rate_bit_s: int | None
    shape_bit_s: int | None
    source: Source
    confidence_ppm: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEstimate:
    egress: Estimate
    ingress: Estimate


class LinkCapacity:
    """Both directions of one link on one network. `remembered`: what was found here before."""

    def __init__(self, *, egress_bit_s: int | None = None, ingress_bit_s: int | None = None) -> None:
        self._out = _Direction(egress_bit_s)
        self._in = _Direction(ingress_bit_s)
        self._last: Look | None = None
        self._trips: dict[bytes, Trip] = {}
        self._leasts: dict[bytes, tuple[int, int]] = {}  # microseconds, and since when

    @property
    def estimate(self) -> LinkEstimate:
        return LinkEstimate(egress=self._out.estimate(), ingress=self._in.estimate())

    def on_look(self, look: Look) -> LinkEstimate:
        """Once a second or more often."""
        for trip in look.trips:
            self._note(trip, look.now_ns)
        last = self._last
        if last is None or look.sent_bytes < last.sent_bytes or look.received_bytes < last.received_bytes:
            self._last = look  # the first one, or another interface of that name
            return self.estimate
        passed_ns = look.now_ns - last.now_ns
        if passed_ns < LOOK_NS:
            return self.estimate
        self._last = look
        sent = (look.sent_bytes - last.sent_bytes) * 8 * NS_PER_S // passed_ns
        received = (look.received_bytes - last.received_bytes) * 8 * NS_PER_S // passed_ns
        delay_us = self._delay_us()
        self._trips.clear()
        suspect = self._suspect(sent, received, look.now_ns)
        for direction, rate in ((self._out, sent), (self._in, received)):
            direction.acts = look.acts
            direction.on_look(look.now_ns, passed_ns, rate, delay_us, is_suspect=direction is suspect)
        return self.estimate

    def _suspect(self, sent: int, received: int, now_ns: int) -> _Direction:
        """Whose queue it is if round trips are long: one of the two. If that proves wrong, the other is next."""
        used = [(self._out, sent), (self._in, received)]
        heard = [each for each in used if not each[0].is_deaf(now_ns)]
        if len(heard) == 1:
            return heard[0][0]
        (one, rate), (other, other_rate) = used
        if one.rate_bit_s is not None and other.rate_bit_s is not None:
            return one if one.used_ppm(rate) >= other.used_ppm(other_rate) else other
        if one.rate_bit_s is None and other.rate_bit_s is None:
            return one if rate >= other_rate else other
        if one.rate_bit_s is None:
            one, rate, other, other_rate = other, other_rate, one, rate
        # The known one, unless it has hardly anything to do, or only acknowledges what the other one carries.
        is_other = one.used_ppm(rate) < SOME_LOAD_PPM or other_rate >= rate * ACKNOWLEDGEMENTS
        return other if is_other else one

    def _note(self, trip: Trip, now_ns: int) -> None:
        if trip.now_us is not None or trip.receiving_us is not None:
            self._trips[trip.remote] = trip
        if trip.least_us is None:
            return
        kept = self._leasts.pop(trip.remote, None)
        if kept is None or trip.least_us <= kept[0] or now_ns - kept[1] > LEAST_KEPT_NS:
            kept = (trip.least_us, now_ns)
        self._leasts[trip.remote] = kept  # the latest last
        if len(self._leasts) > REMOTES_MAX:
            del self._leasts[next(iter(self._leasts))]

    def _delay_us(self) -> int | None:
        """How much longer round trips are than they might be: the lower median of the remote addresses."""
        for near in (False, True):
            longer = []
            for remote, trip in self._trips.items():
                now_us = trip.now_us
                if now_us is None and self._in.rate_bit_s is None:
                    now_us = trip.receiving_us
                if trip.is_near is near and now_us is not None and remote in self._leasts:
                    longer.append(max(0, now_us - self._leasts[remote][0]))
            if longer:
                return sorted(longer)[(len(longer) - 1) // 2]
        return None


@dataclass(frozen=True, slots=True)
class _Seen:
    """carried_bit_s: what the link did while we sent `rate_bit_s`, by how the queue before it changed."""

    rate_bit_s: int
    carried_bit_s: int
    delay_us: int
    is_loaded: bool
    is_busy: bool
    is_inflated: bool
    is_suspect: bool


@dataclass(frozen=True, slots=True)
class _Episode:
    """From the first fall until round trips are short again."""

    begun_ns: int
    delay_us: int
    sent_bit_s: int
    rate_bit_s: int | None
    good_bit_s: int | None


class _Direction:
    def __init__(self, remembered_bit_s: int | None) -> None:
        self.acts = True
        self.rate_bit_s = remembered_bit_s
        self._good_bit_s = remembered_bit_s
        self._source = Source.UNKNOWN if remembered_bit_s is None else Source.REMEMBERED
        self._fell_to = remembered_bit_s
        self._same_falls = 0
        self._seen: deque[_Seen] = deque(maxlen=SOME_LOAD_LOOKS)
        self._delay_us: int | None = None  # at the last look
        self._calm_us: int | None = None  # at high load, before a trial
        self._calm_looks = 0
        self._is_trying = False
        self._episode: _Episode | None = None
        self._drains_until_ns = 0
        self._now_ns = 0
        self._hold_until_ns = 0
        self._hold_ns = 0
        self._step_ppm = SLOW_STEP_PPM
        self._heard_ns: int | None = None
        self._deaf_until_ns = 0
        self._deaf_ns = DEAF_NS
        self._reason = "nothing filled the link yet" if remembered_bit_s is None else "as it was here last time"

    def estimate(self) -> Estimate:
        if self.rate_bit_s is None:
            return Estimate(
                rate_bit_s=None, shape_bit_s=None, source=Source.UNKNOWN, confidence_ppm=0, reason=self._reason
            )
        measured = min(950_000, 500_000 + 150_000 * self._same_falls)
        return Estimate(
            rate_bit_s=self.rate_bit_s,
            shape_bit_s=self._shape_bit_s(self.rate_bit_s),
            source=self._source,
            confidence_ppm=300_000 if self._source is Source.REMEMBERED else measured,
            reason=self._reason,
        )

    def is_deaf(self, now_ns: int) -> bool:
        return now_ns < self._deaf_until_ns

    def used_ppm(self, rate_bit_s: int) -> int:
        """Of what it is shaped to."""
        assert self.rate_bit_s is not None
        return rate_bit_s * PPM // self._shape_bit_s(self.rate_bit_s)

    def on_look(self, now_ns: int, passed_ns: int, rate: int, delay_us: int | None, *, is_suspect: bool) -> None:
        if not self._now_ns and self.rate_bit_s is not None:
            self._hold_until_ns = now_ns + HOLD_FIRST_NS  # what was remembered is probably right
        self._now_ns = now_ns
        passed_ns = min(passed_ns, MOST_S * NS_PER_S)
        if self._heard_ns is None or delay_us is not None:
            self._heard_ns = now_ns
        if delay_us is None:
            self._seen.clear()
            self._delay_us = None
            self._go_on_blindly(now_ns, passed_ns, rate)
            return
        seen = self._judge(rate, delay_us, passed_ns, is_suspect=is_suspect)
        self._seen.append(seen)
        if self._episode is not None and self._is_innocent(self._episode, seen):
            self._give_back(now_ns, self._episode)
        elif not self.is_deaf(now_ns) and self._is_bloated():
            self._fall(now_ns, seen)
        else:
            if self._episode is not None and not seen.is_inflated:
                self._episode = None
                self._hold_until_ns -= max(0, self._drains_until_ns - now_ns)
                self._drains_until_ns = min(self._drains_until_ns, now_ns)  # the queue is empty
            self._go_on(now_ns, passed_ns, seen)

    def _go_on(self, now_ns: int, passed_ns: int, seen: _Seen) -> None:
        if self.rate_bit_s is None:
            return
        if not seen.is_loaded:
            self._step_ppm = SLOW_STEP_PPM
            self._forget_calm()
            self._drift(self.rate_bit_s, passed_ns, upwards_only=True)
        elif not seen.is_inflated:
            self._rise(now_ns, self.rate_bit_s, seen.rate_bit_s, passed_ns)

    def _go_on_blindly(self, now_ns: int, passed_ns: int, rate: int) -> None:
        if self.rate_bit_s is None or self._heard_ns is None:
            return
        if self.used_ppm(rate) < HIGH_LOAD_PPM:
            self._drift(self.rate_bit_s, passed_ns, upwards_only=True)
        elif now_ns - self._heard_ns > BLIND_NS:
            self._drift(self.rate_bit_s, passed_ns, upwards_only=False)
            self._reason = "no round trip is known: back to the last good rate"

    # -- what was seen -----------------------------------------------------------------------------------------------

    def _judge(self, rate: int, delay_us: int, passed_ns: int, *, is_suspect: bool) -> _Seen:
        threshold_us = INFLATED_US
        if self.rate_bit_s is not None:
            threshold_us += OWN_QUEUE_BYTES * 8_000_000 // self._shape_bit_s(self.rate_bit_s)
            is_loaded, is_busy = self.used_ppm(rate) >= HIGH_LOAD_PPM, self.used_ppm(rate) >= SOME_LOAD_PPM
        else:
            is_loaded = is_busy = rate >= LEAST_LOAD_BIT_S
        carried = rate
        if self._delay_us is not None:
            # A queue that grows by a tenth of a second in a second: a tenth more was sent than carried.
            grown_ns = min(max((delay_us - self._delay_us) * 1000, -passed_ns // 2), passed_ns)
            carried = rate * passed_ns // (passed_ns + grown_ns)
        self._delay_us = delay_us
        if self._calm_us is not None and self._is_trying:
            threshold_us = min(threshold_us, self._calm_us + TRIAL_US)
        return _Seen(rate, carried, delay_us, is_loaded, is_busy, delay_us > threshold_us, is_suspect)

    def _is_bloated(self) -> bool:
        """The latest look and another one of the last three, at high load; at some load a longer row."""
        blamed = [each.is_inflated and each.is_suspect for each in self._seen]
        if not blamed[-1]:
            return False
        votes = [is_blamed and each.is_loaded for is_blamed, each in zip(blamed, self._seen, strict=True)]
        if sum(votes[-WINDOW:]) >= VOTES:
            return True
        return all(blamed) and len(blamed) == SOME_LOAD_LOOKS and all(each.is_busy for each in self._seen)

    def _carried(self) -> int:
        """Of the latest looks that began and ended with a queue: the link was never idle then. The mean, so that a
        jitter that comes and goes leaves no trace."""
        latest = list(self._seen)[-WINDOW:]
        full = [each for before, each in pairwise(latest) if before.is_inflated and each.is_inflated]
        counted = full or [each for each in latest if each.is_inflated]
        return sum(each.carried_bit_s for each in counted) // len(counted)

    def _shape_bit_s(self, rate: int) -> int:
        part_ppm = DRAIN_PPM if self._now_ns < self._drains_until_ns else SHAPE_PPM
        return max(rate * part_ppm // PPM, LEAST_SHAPE_BIT_S)

    # -- down --------------------------------------------------------------------------------------------------------

    def _fall(self, now_ns: int, seen: _Seen) -> None:
        before = self.rate_bit_s
        if self._episode is None and self.acts:
            self._episode = _Episode(now_ns, seen.delay_us, seen.rate_bit_s, before, self._good_bit_s)
        carried = self._carried()
        if before is None:
            rate = carried
        elif not self.acts:
            # It goes on as it is: the same queue is seen again and again, and says the same.
            rate = max(carried, before * STEP_FALL_PPM // PPM)
            rate = min(rate, before + before * FAST_STEP_PPM // PPM)
        else:
            rate = min(max(carried, before * STEP_FALL_PPM // PPM), before * LEAST_FALL_PPM // PPM)
        rate = max(rate, FLOOR_BIT_S, (self._good_bit_s or 0) * FLOOR_PPM // PPM)
        self.rate_bit_s, self._source = rate, Source.MEASURED
        is_same = self._fell_to is not None and abs(rate - self._fell_to) * PPM <= self._fell_to * SAME_PPM
        self._same_falls = self._same_falls + 1 if is_same else 0
        self._hold_ns = min(max(HOLD_SURE_NS, 2 * self._hold_ns), HOLD_MOST_NS) if is_same else HOLD_FIRST_NS
        self._fell_to = rate
        # A weak moment is not the end: at low load it drifts back, but not for ever to where it does not hold.
        self._good_bit_s = rate if self._good_bit_s is None else max(rate, (rate + self._good_bit_s) // 2)
        self._drains_until_ns = now_ns + DRAIN_NS * self.acts
        self._hold_until_ns = self._drains_until_ns + self._hold_ns
        self._step_ppm = SLOW_STEP_PPM
        self._forget_calm()
        self._seen.clear()  # the next fall is for what happens from now on
        self._reason = f"round trips were {seen.delay_us // 1000} ms longer while {_mbit(seen.rate_bit_s)} passed"

    def _is_innocent(self, episode: _Episode, seen: _Seen) -> bool:
        """We send less than before, and it did not help: the queue is somewhere else."""
        return (
            self._now_ns - episode.begun_ns > INNOCENT_NS
            and seen.is_inflated
            and seen.delay_us * PPM >= episode.delay_us * INNOCENT_DELAY_PPM
            and seen.rate_bit_s * PPM <= episode.sent_bit_s * INNOCENT_RATE_PPM
        )

    def _give_back(self, now_ns: int, episode: _Episode) -> None:
        self.rate_bit_s, self._good_bit_s = episode.rate_bit_s, episode.good_bit_s
        if self.rate_bit_s is None:
            self._source = Source.UNKNOWN
        self._episode, self._fell_to, self._same_falls = None, None, 0
        self._drains_until_ns = 0
        self._deaf_until_ns = self._hold_until_ns = now_ns + self._deaf_ns
        self._deaf_ns = min(2 * self._deaf_ns, DEAF_MOST_NS)
        self._seen.clear()
        self._reason = "sending less made round trips no shorter: what is full is not this link"

    # -- up ----------------------------------------------------------------------------------------------------------

    def _rise(self, now_ns: int, before: int, sent_bit_s: int, passed_ns: int) -> None:
        if now_ns < self._drains_until_ns:
            return
        if now_ns < self._hold_until_ns or self._calm_looks < CALM_LOOKS:
            calm_us = self._delay_us or 0
            self._calm_us = calm_us if self._calm_us is None else (3 * self._calm_us + calm_us) // 4
            self._calm_looks += 1
            self._reason = "full, and round trips are short"
            return
        if self.used_ppm(sent_bit_s) < RAISE_LOAD_PPM:
            return
        self._is_trying = True
        if self._fell_to is not None and before * PPM > self._fell_to * KNOWN_PPM:
            self._step_ppm = min(2 * self._step_ppm, FAST_STEP_PPM)
            self._hold_ns = 0  # it is another link than it was
        elif self._fell_to is None:
            self._step_ppm = min(2 * self._step_ppm, FAST_STEP_PPM)
        self.rate_bit_s = before + before * self._step_ppm // PPM * passed_ns // NS_PER_S
        self._good_bit_s = max(self._good_bit_s or 0, before)
        self._reason = "full, and round trips are short: tries more"

    def _forget_calm(self) -> None:
        self._calm_us, self._calm_looks, self._is_trying = None, 0, False

    def _drift(self, before: int, passed_ns: int, *, upwards_only: bool) -> None:
        good = self._good_bit_s
        if good is None or (upwards_only and before >= good):
            return
        self._reason = "little load: back to the last good rate"
        step = before * DRIFT_PPM // PPM * passed_ns // NS_PER_S
        self.rate_bit_s = min(before + step, good) if before < good else max(before - step, good)


def _mbit(rate_bit_s: int) -> str:
    return f"{rate_bit_s / 1e6:.1f} Mbit/s"
