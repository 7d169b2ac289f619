"""The guard of one person: hears what grants spend, and says which stream looks stolen.

Decides which stream an alarm freezes: the program at one destination where most of the odd money went, else all of the
program. Refuses to know clocks, files and answers other than "it was me". Pure; every call takes microseconds, but for
the fit of one series at a time (some 20 ms, a few times in the first week and then weekly for each program).

While a program has no baseline (its first day, and fewer than 120 minutes with payments) its own charts are silent: the
caps of its grants are the guarantee. From the second day on a surge is looked for, from the second week on everything;
by then the person's total is watched too, and with it programs that are new.
False alarms are shared out among the detectors by Bonferroni (`values.SHARES`).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable

from secretary.guard.baseline import cell_of
from secretary.guard.forest import Forest, TrainingSet
from secretary.guard.freezes import WHOLE, Freezes
from secretary.guard.patterns import WINDOW_MINUTES, Patterns, Window, has_sign_of_theft, row_of
from secretary.guard.series import Excess, Series
from secretary.guard.snapshots import GuardPulse, GuardSnapshot, Heard
from secretary.guard.streams import LATE_MAX, TOTAL_SLACK, OpenMinute, Stream, new_series
from secretary.guard.telling import Sight, tell
from secretary.guard.values import (
    HOURS_PER_MONTH,
    MINUTES_PER_MONTH,
    SHARES,
    Alarm,
    Detector,
    Freeze,
    GuardSettings,
    Spend,
)
from secretary.transfers import Moment

OTHERS = ""
"""The stream of all programs beyond the maximum, and of those without a name."""
DAY_MINUTES = 1440
BACKGROUND_GAIN = 0.01
RARE_HOUR_SHARE = 0.01


class Guard:
    """`on_minute` every minute, `on_spend` whenever a grant says what it spent, `check` before a grant is issued."""

    def __init__(self, settings: GuardSettings | None = None) -> None:
        self.settings = settings or GuardSettings()
        self._clock_s: int | None = None
        self._last: Moment | None = None
        self._restored_unix_s: int | None = None
        self._minute = self._hour = self._day = 0
        self._grants: OrderedDict[str, Heard] = OrderedDict()
        self._streams: OrderedDict[str, Stream] = OrderedDict()
        self._freezes = Freezes()
        growth = self.settings.growth_per_week
        self._total_minutes, self._total_hours = new_series(
            Detector.TOTAL_SURGE, Detector.TOTAL_DRIFT, Detector.TOTAL_HOURS, growth, TOTAL_SLACK
        )
        self._total_hour_paid = 0
        self._patterns = Patterns()
        self._samples_per_month = float(MINUTES_PER_MONTH)
        self._samples_today = 0
        self._alarms = 0

    @property
    def freezes(self) -> list[Freeze]:
        return [frozen.freeze for frozen in self._freezes.all]

    @property
    def has_forest(self) -> bool:
        return self._patterns.has_forest

    def is_learning(self, program: str) -> bool:
        """No baseline yet: nothing but the caps of its grants, and the person's total, stops it."""
        stream = self._streams.get(program)
        return stream is None or stream.minutes.baseline is None

    # --- what was paid ----------------------------------------------------------------------------------------------

    def on_spend(self, spend: Spend, now: Moment) -> list[Alarm]:
        alarms = self.on_minute(now)
        heard = self._grants.get(spend.grant)
        clock_s = self._clock()
        nanodollars = spend.total_nanodollars - (heard.total_nanodollars if heard is not None else 0)
        if nanodollars <= 0:
            return alarms
        self._grants[spend.grant] = Heard(total_nanodollars=spend.total_nanodollars, clock_s=clock_s)
        self._grants.move_to_end(spend.grant)
        if len(self._grants) > self.settings.grants_max:
            self._grants.popitem(last=False)
        program = self._stream_name(spend.program)
        if self._freezes.find(program, spend.destination) is not None:
            return alarms  # the rest of a grant that was open; nothing is learnt from it
        stream = self._stream(program)
        if stream.open is None:
            stream.open = OpenMinute()
        covers_s = 0 if heard is None else min(spend.covers_s, clock_s - heard.clock_s)
        minutes = min(LATE_MAX, max(1, (covers_s + 30) // 60))
        stream.open.add(nanodollars, minutes)
        stream.open.pay(spend.destination, nanodollars, spend.foreground)
        if stream.meet(spend.destination, self._minute):
            stream.open.new.add(spend.destination)
        alarm = self._foresee(program, stream, now)
        return [*alarms, alarm] if alarm is not None else alarms

    def _foresee(self, program: str, stream: Stream, now: Moment) -> Alarm | None:
        """The minute need not end first, if it is too much already."""
        opened = stream.open
        assert opened is not None
        cell = cell_of(now.local.hour, opened.is_foreground)
        value = math.log1p(opened.fresh)
        length = self._run_length(Detector.SURGE)
        excess = stream.minutes.foresee(value, cell, self._minute, opened.fresh, length)
        if excess is not None:
            return self._raise(excess, program, now)
        fresh = sum(other.open.fresh for other in self._streams.values() if other.open is not None)
        length = self._run_length(Detector.TOTAL_SURGE)
        usual = self._usual_total(now.local.hour)
        if not usual:
            return None
        value = math.log1p(fresh) - math.log1p(usual)
        excess = self._total_minutes.foresee(value, now.local.hour, self._minute, fresh, length)
        return self._raise(excess, self._largest_excess(excess.since), now) if excess is not None else None

    def on_minute(self, now: Moment) -> list[Alarm]:
        """Closes the minute that is over, if one is."""
        clock_s = self._advance(now)
        if clock_s // 60 == self._minute:
            return []
        alarms = self._close_minute(now)
        if clock_s // 3600 != self._hour:
            alarms += self._close_hour(now, clock_s // 3600)
        if clock_s // 60 // DAY_MINUTES != self._day:
            self._close_day(clock_s // 60 // DAY_MINUTES)
        self._minute = clock_s // 60
        self._refit_one()
        return alarms

    def _advance(self, now: Moment) -> int:
        """A clock of our own that never goes back: it counts with the boot clock, and over a restart with the date."""
        last, self._last = self._last, now
        if self._clock_s is None:
            self._clock_s = now.unix_s
            self._minute, self._hour = now.unix_s // 60, now.unix_s // 3600
            self._day = self._minute // DAY_MINUTES
        elif last is not None:
            same = last.boot == now.boot
            passed_s = now.boot_ns // 10**9 - last.boot_ns // 10**9 if same else now.unix_s - last.unix_s
            self._clock_s += max(0, passed_s)
        elif self._restored_unix_s is not None:
            self._clock_s += max(0, now.unix_s - self._restored_unix_s)
        return self._clock_s

    def _clock(self) -> int:
        assert self._clock_s is not None
        return self._clock_s

    # --- the end of a minute ----------------------------------------------------------------------------------------

    def _close_minute(self, now: Moment) -> list[Alarm]:
        active = [(name, stream) for name, stream in self._streams.items() if stream.open is not None]
        alarms: list[Alarm] = []
        total_late = [0] * LATE_MAX
        total = 0
        usual = self._usual_total(now.local.hour)
        for name, stream in active:
            opened = stream.open
            assert opened is not None
            total += opened.fresh
            for i, late in enumerate(opened.late):
                total_late[i] += late
            excess = self._close_open(name, stream, opened, now)
            if excess is not None:
                alarms.append(self._raise(excess, name, now))
        self._total_hour_paid += total + sum(total_late)
        if usual and not alarms:  # else the odd money is in the total too
            alarms += self._step_total((*reversed(total_late), total), usual, now)
        return alarms

    def _usual_total(self, hour: int) -> float:
        """What the programs that are paying now usually pay together; with one that is not known yet, what all that
        are known would. 0: none is.
        """
        known = active = 0.0
        is_new = False
        for stream in self._streams.values():
            baseline = stream.minutes.baseline
            if baseline is None:
                is_new = is_new or stream.open is not None
                continue
            known += math.exp(baseline.middle)
            if stream.open is not None:
                active += math.exp(baseline.at(cell_of(hour, stream.open.is_foreground)))
        return max(known, active) if is_new else active

    def _step_total(self, minutes: Iterable[int], usual: float, now: Moment) -> list[Alarm]:
        lengths = [self._run_length(Detector.TOTAL_SURGE), self._run_length(Detector.TOTAL_DRIFT)]
        for paid in minutes:
            if not paid:
                continue
            value = math.log1p(paid) - math.log1p(usual)
            excess = self._total_minutes.step(value, now.local.hour, self._minute, paid, lengths)
            if excess is not None:
                return [self._raise(excess, self._largest_excess(excess.since), now)]
        return []

    def _close_open(self, name: str, stream: Stream, opened: OpenMinute, now: Moment) -> Excess | None:
        hour = now.local.hour
        cell = cell_of(hour, opened.is_foreground)
        lengths = [self._run_length(Detector.SURGE), self._run_length(Detector.DRIFT)]
        found = None
        for paid in (*reversed(opened.late), opened.fresh):
            if paid:
                self._samples_today += 1
                found = stream.minutes.step(math.log1p(paid), cell, self._minute, paid, lengths) or found
        stream.recent.append((self._minute, opened.by_destination))
        stream.hour_paid += sum(opened.by_destination.values())
        stream.hours_of_day[hour] += 1.0
        stream.open = None
        if stream.window is not None and self._minute - stream.window.start >= WINDOW_MINUTES:
            found = self._close_window(name, stream, cell) or found
        if stream.window is None:
            stream.window = Window(start=self._minute)
        stream.window.add(opened.by_destination, opened.new, opened.largest, opened.is_foreground)
        return found

    def _close_window(self, name: str, stream: Stream, cell: int) -> Excess | None:
        window, stream.window = stream.window, None
        assert window is not None
        baseline = stream.minutes.baseline
        row = row_of(window, baseline=baseline, cell=cell, hours=stream.hours_of_day)
        if baseline is None:
            return None  # what is usual is a feature
        evidence = self._patterns.judge(name, row, window.start)
        limit = self._patterns.limit(name, self._run_length(Detector.PATTERN))
        in_background = stream.in_background
        if evidence <= limit or not has_sign_of_theft(row, in_background=in_background):
            self._patterns.keep(name, row, window.start)
            stream.in_background += BACKGROUND_GAIN * (row[6] - in_background)
            return None
        since = self._patterns.since.get(name, window.start)
        paid, _ = stream.paid_since(since)
        return Excess(
            detector=Detector.PATTERN,
            statistic=evidence,
            threshold=limit,
            since=since,
            paid=sum(paid.values()),
        )

    def _close_hour(self, now: Moment, hour: int) -> list[Alarm]:
        alarms: list[Alarm] = []
        cell = now.local.hour
        for name, stream in list(self._streams.items()):
            paid, stream.hour_paid = stream.hour_paid, 0
            if not paid or self._freezes.find(name, WHOLE) is not None:
                continue
            lengths = [self._run_length(Detector.HOURS)]
            excess = stream.hours.step(math.log1p(paid), cell, self._minute, paid, lengths)
            if excess is not None:
                alarms.append(self._raise(excess, name, now))
        paid, self._total_hour_paid = self._total_hour_paid, 0
        if paid:
            lengths = [self._run_length(Detector.TOTAL_HOURS)]
            excess = self._total_hours.step(math.log1p(paid), cell, self._minute, paid, lengths)
            if excess is not None and not alarms:
                alarms.append(self._raise(excess, self._largest_excess(excess.since), now))
        self._hour = hour
        return alarms

    def _close_day(self, day: int) -> None:
        """How many samples a month has, from the last days: more programs, more chances to be wrong."""
        measured = 1.2 * 30 * self._samples_today / max(1, day - self._day)
        self._samples_per_month = max(MINUTES_PER_MONTH, 0.9 * self._samples_per_month, measured)
        self._samples_today, self._day = 0, day

    def _refit_one(self) -> None:
        for series in self._all_series():
            if series.is_due(self._minute):
                series.refit(self._minute, [self._run_length(detector) for detector in series.detectors])
                return

    def _all_series(self) -> Iterable[Series]:
        yield self._total_minutes
        yield self._total_hours
        for stream in self._streams.values():
            yield stream.minutes
            yield stream.hours

    def _run_length(self, detector: Detector) -> float:
        """Samples between two false alarms, for all streams of this detector to keep their share together."""
        programs = max(1, len(self._streams))
        samples = {
            Detector.SURGE: self._samples_per_month,
            Detector.DRIFT: self._samples_per_month,
            Detector.HOURS: float(HOURS_PER_MONTH * programs),
            Detector.PATTERN: min(self._samples_per_month, programs * MINUTES_PER_MONTH / WINDOW_MINUTES),
            Detector.TOTAL_SURGE: MINUTES_PER_MONTH,
            Detector.TOTAL_DRIFT: MINUTES_PER_MONTH,
            Detector.TOTAL_HOURS: HOURS_PER_MONTH,
        }[detector]
        return samples / self._rate(detector)

    def _rate(self, detector: Detector) -> float:
        return self.settings.false_alarms_per_month * SHARES[detector]

    # --- alarms -----------------------------------------------------------------------------------------------------

    def _raise(self, excess: Excess, program: str, now: Moment) -> Alarm:
        stream = self._streams[program]
        by_destination, minutes = stream.paid_since(excess.since)
        destination = self._concentrated(by_destination)
        if self._freezes.must_be_whole(program, now.unix_s):
            destination = WHOLE
        self._alarms += 1
        age_s = max(0, (self._minute - excess.since) * 60)
        alarm = Alarm(
            alarm=f"guard-{self._alarms}",
            program=program,
            destination=destination,
            detector=excess.detector,
            why=tell(self._sight(excess, program, destination, by_destination, minutes, now)),
            statistic=excess.statistic,
            threshold=excess.threshold,
            false_alarms_per_month=self._rate(excess.detector),
            since_unix_s=max(0, now.unix_s - age_s),
            unix_s=now.unix_s,
            paid_nanodollars=sum(by_destination.values()),
        )
        self._quarantine(alarm, excess)
        return alarm

    def _concentrated(self, by_destination: dict[str, int]) -> str:
        total = sum(by_destination.values())
        largest = max(by_destination, key=lambda name: by_destination[name], default=WHOLE)
        return largest if total and by_destination[largest] >= self.settings.concentrated * total else WHOLE

    def _sight(
        self,
        excess: Excess,
        program: str,
        destination: str,
        by_destination: dict[str, int],
        minutes: int,
        now: Moment,
    ) -> Sight:
        stream = self._streams[program]
        foreground = stream.open.is_foreground if stream.open is not None else None
        hours = excess.detector in {Detector.HOURS, Detector.TOTAL_HOURS}
        baseline = stream.hours.baseline if hours else stream.minutes.baseline
        paid = sum(by_destination.values())
        per_sample = paid / max(1, -(-(self._minute - excess.since) // 60) if hours else minutes)
        cell = now.local.hour if hours else cell_of(now.local.hour, foreground)
        usual = math.expm1(baseline.at(cell)) if baseline is not None else 0.0
        of_day = stream.hours_of_day
        return Sight(
            program=program,
            destination=destination,
            detector=excess.detector,
            ratio=per_sample / usual if usual > 0 else 0.0,
            is_new=stream.known.get(destination, 0) >= excess.since,
            is_rare_hour=sum(of_day) >= DAY_MINUTES and of_day[now.local.hour] < RARE_HOUR_SHARE * sum(of_day),
            foreground=foreground,
            clock=now.local.strftime("%H:%M"),
            minutes=minutes,
            paid_nanodollars=paid,
        )

    def _quarantine(self, alarm: Alarm, excess: Excess) -> None:
        """The odd stretch teaches nothing, until the person says that it was them."""
        stream = self._streams[alarm.program]
        minutes = stream.minutes.forget_since(excess.since)
        hours = stream.hours.forget_since(excess.since)
        if stream.open is not None:
            cell = cell_of(0, stream.open.is_foreground)
            minutes.append((math.log1p(stream.open.fresh), cell, self._minute))
            stream.open = None
        stream.window = None
        stream.hour_paid = 0
        totals = self._total_minutes.forget_since(excess.since)
        self._total_hours.clear()
        self._patterns.forget(alarm.program)
        self._freezes.add(alarm, minutes=minutes, hours=hours, totals=totals)

    def _largest_excess(self, since: int) -> str:
        """The program that paid most beyond its usual since then."""

        def beyond(name: str) -> float:
            stream = self._streams[name]
            paid, minutes = stream.paid_since(since)
            baseline = stream.minutes.baseline
            usual = math.expm1(baseline.middle) * minutes if baseline is not None else 0.0
            return sum(paid.values()) - usual

        return max(self._streams, key=beyond)

    # --- freezes and answers ----------------------------------------------------------------------------------------

    def check(self, program: str, destination: str) -> Freeze | None:
        """Why nothing may be granted to this stream, if so."""
        return self._freezes.find(self._stream_name(program), destination)

    def thaw(self, alarm: str, *, is_mine: bool) -> bool:
        """The person's answer: it was me (learn it), or not (it stays frozen). False: there is no such freeze."""
        if not is_mine:
            return self._freezes.refuse(alarm)
        frozen = self._freezes.lift(alarm)
        if frozen is None:
            return False
        minute = self._minute
        stream = self._streams.get(frozen.freeze.alarm.program)
        if stream is not None:
            excess = stream.minutes.accept(frozen.minutes, minute)
            stream.hours.lend(max(excess, stream.hours.accept(frozen.hours, minute)), minute)
        self._total_hours.lend(self._total_minutes.accept(frozen.totals, minute), minute)
        return True

    def adopt(self, alarm: Alarm) -> None:
        """An alarm that a journal has and the last snapshot has not."""
        self._freezes.add(alarm)
        number = alarm.alarm.removeprefix("guard-")
        self._alarms = max(self._alarms, int(number) if number.isdigit() else 0)

    # --- streams ----------------------------------------------------------------------------------------------------

    def _stream_name(self, program: str) -> str:
        """Frozen streams are never pushed out; where only they are left, new programs share one stream."""
        if program in self._streams or self._freezes.has(program):
            return program
        has_room = len(self._streams) < self.settings.programs_max
        return program if has_room or self._evictable() is not None else OTHERS

    def _stream(self, program: str) -> Stream:
        found = self._streams.get(program)
        if found is None:
            if len(self._streams) >= self.settings.programs_max and (leaves := self._evictable()) is not None:
                del self._streams[leaves]
                self._patterns.forget(leaves)
            found = self._streams[program] = Stream(
                growth_per_week=self.settings.growth_per_week, destinations_max=self.settings.destinations_max
            )
        self._streams.move_to_end(program)
        return found

    def _evictable(self) -> str | None:
        """The one that has not paid for longest: of programs still without a baseline first, so that inventing names
        does not push out what is known.
        """
        free = [name for name, stream in self._streams.items() if stream.open is None and not self._freezes.has(name)]
        return next((name for name in free if self._streams[name].minutes.baseline is None), free[0] if free else None)

    # --- the forest -------------------------------------------------------------------------------------------------

    def training_set(self, *, seed: int) -> TrainingSet | None:
        """Windows for `secretary.guard.training`, if it is time for new trees: to be asked now and then."""
        return self._patterns.training_set(self._minute, seed)

    def take_forest(self, forest: Forest) -> None:
        self._patterns.take(forest)

    # --- restarts ---------------------------------------------------------------------------------------------------

    def pulse(self) -> GuardPulse:
        return GuardPulse(
            clock_s=self._clock_s or 0,
            unix_s=self._last.unix_s if self._last is not None else self._restored_unix_s or 0,
            grants=dict(self._grants),
            freezes=self._freezes.all,
            gauges={name: stream.minutes.snapshot_gauges() for name, stream in self._streams.items()},
            total_gauges=self._total_minutes.snapshot_gauges(),
            evidence=dict(self._patterns.evidence),
            alarms=self._alarms,
        )

    def snapshot(self) -> GuardSnapshot:
        return GuardSnapshot(
            pulse=self.pulse(),
            streams={name: stream.snapshot() for name, stream in self._streams.items()},
            total_minutes=self._total_minutes.snapshot(),
            total_hours=self._total_hours.snapshot(),
            total_hour_paid=self._total_hour_paid,
            patterns=self._patterns.snapshot(),
            samples_per_month=self._samples_per_month,
            samples_today=self._samples_today,
            day=self._day,
            hour=self._hour,
        )

    def restore(self, snapshot: GuardSnapshot, pulse: GuardPulse | None = None) -> None:
        """`pulse`: a later one than the snapshot's own, if there is."""
        for name, state in snapshot.streams.items():
            self._stream(name).restore(state)
        self._total_minutes.restore(snapshot.total_minutes)
        self._total_hours.restore(snapshot.total_hours)
        self._total_hour_paid = snapshot.total_hour_paid
        self._patterns.restore(snapshot.patterns)
        self._samples_per_month, self._samples_today = snapshot.samples_per_month, snapshot.samples_today
        self._day, self._hour = snapshot.day, snapshot.hour
        self._take_pulse(pulse or snapshot.pulse)

    def _take_pulse(self, pulse: GuardPulse) -> None:
        self._clock_s, self._minute = pulse.clock_s, pulse.clock_s // 60
        self._last = None
        self._restored_unix_s = pulse.unix_s
        self._grants = OrderedDict(pulse.grants)
        self._freezes = Freezes()
        for frozen in pulse.freezes:
            self._freezes.put(frozen)
        for name, gauges in pulse.gauges.items():
            self._stream(name).minutes.take_gauges(gauges)
        self._total_minutes.take_gauges(pulse.total_gauges)
        self._patterns.evidence = dict(pulse.evidence)
        self._alarms = pulse.alarms
