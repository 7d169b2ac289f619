"""The book of one data plan: every byte by kind, period and day; the days that were, and what they let expect.

Decides which period and day a byte belongs to, what comes out of a voucher, and the forecast.  Refuses to know: clocks,
interfaces and files (`state` is a value to be stored; a book that is made from it goes on as if nothing had been).

The sum over kinds of what is booked is what was given in, to the byte: a byte is in today, in the period's days before,
or in a period that is closed.

Forecast of a day: the median of the days of that weekday, of the last four weeks, where three are known; otherwise of
the last seven days.  Where some days used nothing: the median of the others times how often there were any (Croston
1972: how much and how often are two questions); one wild day changes neither much.  Before three days are known, those
there are count together with three assumed days that would use half of the bundle evenly: neither plenty nor need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from statistics import median_low
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from hostagent.sharing.dataplan import DataPlan, Judgement, Outlook, PlanKind, PlanMemory, Usage, judge
from secretary.money.budgets import next_period
from secretary.money.periods import Cycle, Period, Schedule, dates_between, day_at, local_date

DAYS_KEPT: Final = 28
DAYS_LOOKED_AT: Final = 7
KNOWN_DAYS: Final = 3
"""So many days, or days of one weekday, say more than an assumption."""
PRIOR_DAYS: Final = 3


class DayUse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a day used, by kind."""

    date: str  # local, "2026-11-30"
    bytes_by_kind: dict[str, int]

    @property
    def weekday(self) -> int:
        return date.fromisoformat(self.date).isoweekday()


class Voucher(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes or money that somebody gave: used before the bundle and before the user's own money (MV-44).

    Money does not change what a megabyte costs, only who pays for it: redistribution, not price.
    """

    name: str
    bytes: int = 0
    nanodollars: int = 0
    until_unix_s: int | None = None


class BookState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a book knows; JSON for the store."""

    start_unix_s: int
    end_unix_s: int
    today_start_unix_s: int
    today_end_unix_s: int
    since_unix_s: int
    before: dict[str, int]
    today: dict[str, int]
    days: tuple[DayUse, ...] = ()
    vouchers: tuple[Voucher, ...] = ()
    voucher_bytes: int = 0
    memory: PlanMemory = PlanMemory()


class PlanBook:
    """One for each plan. `kinds` and `plan` may change at any time; the period does not begin anew by that."""

    def __init__(
        self, plan: DataPlan, kinds: Sequence[PlanKind], zone: ZoneInfo, *, unix_s: int, state: BookState | None = None
    ) -> None:
        self._plan = plan
        self._kinds = tuple(kinds)
        self._zone = zone
        self._outlook: Outlook | None = None
        state = state or self._begun(unix_s)
        self._period = Period(start_unix_s=state.start_unix_s, end_unix_s=state.end_unix_s)
        self._today = Period(start_unix_s=state.today_start_unix_s, end_unix_s=state.today_end_unix_s)
        self._since_unix_s = state.since_unix_s
        self._before = dict(state.before)
        self._on_today = dict(state.today)
        self._days = list(state.days)
        self._vouchers = list(state.vouchers)
        self._voucher_bytes = state.voucher_bytes
        self._memory = state.memory

    def _begun(self, unix_s: int) -> BookState:
        period, today = self._schedule().at(unix_s), day_at(unix_s, self._zone)
        return BookState(
            start_unix_s=period.start_unix_s,
            end_unix_s=period.end_unix_s,
            today_start_unix_s=today.start_unix_s,
            today_end_unix_s=today.end_unix_s,
            since_unix_s=unix_s,
            before={},
            today={},
        )

    def _schedule(self) -> Schedule:
        return Schedule(cycle=self._plan.cycle, zone=self._zone, reset_day=self._plan.reset_day)

    @property
    def state(self) -> BookState:
        return BookState(
            start_unix_s=self._period.start_unix_s,
            end_unix_s=self._period.end_unix_s,
            today_start_unix_s=self._today.start_unix_s,
            today_end_unix_s=self._today.end_unix_s,
            since_unix_s=self._since_unix_s,
            before=dict(self._before),
            today=dict(self._on_today),
            days=tuple(self._days),
            vouchers=tuple(self._vouchers),
            voucher_bytes=self._voucher_bytes,
            memory=self._memory,
        )

    # --- what comes in ----------------------------------------------------------------------------------------------

    def change(
        self,
        *,
        plan: DataPlan | None = None,
        kinds: Sequence[PlanKind] | None = None,
        zone: ZoneInfo | None = None,
    ) -> None:
        """Another tariff, other worths, another time zone. What was booked stays."""
        self._plan = plan or self._plan
        self._kinds = tuple(kinds) if kinds is not None else self._kinds
        self._zone = zone or self._zone
        self._outlook = None

    def top_up(self, voucher: Voucher) -> None:
        """From now on, and before everything else; what expires first is used first."""
        self._vouchers.append(voucher)
        self._vouchers.sort(key=lambda each: (each.until_unix_s is None, each.until_unix_s or 0))

    def add(self, moved: Mapping[str, tuple[int, int]], *, unix_s: int) -> None:
        """Bytes sent and received by kind since the last call."""
        self._move_on(unix_s)
        counted = 0
        for kind, (sent, received) in moved.items():
            assert sent >= 0
            assert received >= 0
            count = self._plan.counted(sent_bytes=sent, received_bytes=received)
            self._on_today[kind] = self._on_today.get(kind, 0) + count
            counted += count
        self._draw(counted)

    def _draw(self, count: int) -> None:
        """Out of vouchers, as far as they go."""
        for number, voucher in enumerate(self._vouchers):
            drawn = min(count, voucher.bytes)
            if drawn:
                self._vouchers[number] = msgspec.structs.replace(voucher, bytes=voucher.bytes - drawn)
                self._voucher_bytes += drawn
                count -= drawn

    # --- time -------------------------------------------------------------------------------------------------------

    def _move_on(self, unix_s: int) -> None:
        """Days and periods end; a clock that is set back ends nothing and begins nothing."""
        if self._vouchers:
            self._vouchers = [v for v in self._vouchers if v.until_unix_s is None or unix_s < v.until_unix_s]
        if unix_s < min(self._today.end_unix_s, self._period.end_unix_s):
            return
        self._close_day(unix_s)
        self._today = next_period(self._today, Schedule(cycle=Cycle.DAY, zone=self._zone), unix_s)
        if unix_s >= self._period.end_unix_s:
            self._close_period()
            self._period = next_period(self._period, self._schedule(), unix_s)
            self._since_unix_s = self._period.start_unix_s
        self._outlook = None

    def _close_day(self, unix_s: int) -> None:
        """Days without the machine are days too: they used nothing."""
        for kind, count in self._on_today.items():
            self._before[kind] = self._before.get(kind, 0) + count
        first = local_date(self._today.start_unix_s, self._zone)
        self._remember(first, self._on_today)
        self._on_today = {}
        last = local_date(unix_s, self._zone)
        for day in dates_between(max(first + timedelta(days=1), last - timedelta(days=DAYS_KEPT)), last):
            self._remember(day, {})

    def _remember(self, day: date, used: dict[str, int]) -> None:
        self._days.append(DayUse(date=day.isoformat(), bytes_by_kind=used))
        del self._days[:-DAYS_KEPT]

    def _close_period(self) -> None:
        """The money of vouchers pays what the period cost; the rest of it stays for the next one."""
        used = sum(self._before.values())
        due = self._plan.bill(used, voucher_bytes=self._voucher_bytes).due_nanodollars
        for number, voucher in enumerate(self._vouchers):
            paid = min(due, voucher.nanodollars)
            self._vouchers[number] = msgspec.structs.replace(voucher, nanodollars=voucher.nanodollars - paid)
            due -= paid
        self._vouchers = [voucher for voucher in self._vouchers if voucher.bytes or voucher.nanodollars]
        self._before = {}
        self._voucher_bytes = 0

    # --- what goes out ----------------------------------------------------------------------------------------------

    def usage(self, unix_s: int) -> Usage:
        self._move_on(unix_s)
        return Usage(
            period=self._period,
            today=self._today,
            since_unix_s=self._since_unix_s,
            before=dict(self._before),
            on_today=dict(self._on_today),
            voucher_bytes=self._voucher_bytes,
            voucher_left_bytes=sum(voucher.bytes for voucher in self._vouchers),
            credit_nanodollars=sum(voucher.nanodollars for voucher in self._vouchers),
        )

    def judge(self, unix_s: int) -> Judgement:
        """What the plan says now; remembers what it decided."""
        usage = self.usage(unix_s)
        if self._outlook is None:
            self._outlook = look_ahead(self._plan, self._kinds, self._days, usage, self._zone)
        judgement = judge(self._plan, self._kinds, usage, self._outlook, self._memory, unix_s=unix_s)
        self._memory = judgement.memory
        return judgement


def look_ahead(
    plan: DataPlan, kinds: Sequence[PlanKind], days: Sequence[DayUse], usage: Usage, zone: ZoneInfo
) -> Outlook:
    """`days`: the last ones that are over, the latest last."""
    waiting = {kind.name for kind in kinds if kind.can_wait}
    today = local_date(usage.today.start_unix_s, zone)
    ahead = dates_between(today, local_date(usage.period.end_unix_s - 1, zone) + timedelta(days=1)) or [today]
    period_days = max(1, round(usage.period.seconds / usage.today.seconds))
    prior = plan.bundle_bytes // 2 // period_days if plan.bundle_bytes else None
    need = _by_weekday([(day.weekday, _sum_of(day, waiting, inside=False)) for day in days], prior)
    wait = _by_weekday([(day.weekday, _sum_of(day, waiting, inside=True)) for day in days], None)
    return Outlook(
        need_today_bytes=need[today.isoweekday()],
        need_later_bytes=sum(need[day.isoweekday()] for day in ahead[1:]),
        wait_today_bytes=wait[today.isoweekday()],
        wait_later_bytes=sum(wait[day.isoweekday()] for day in ahead[1:]),
        days_left=len(ahead),
        is_known=len(days) >= KNOWN_DAYS,
    )


def typical_day(counts: Sequence[int]) -> int:
    """The median of the days that used anything, times the part of days that did."""
    used = [count for count in counts if count]
    return median_low(used) * len(used) // len(counts) if used else 0


def _by_weekday(days: Sequence[tuple[int, int]], prior: int | None) -> dict[int, int]:
    counts = [count for _, count in days]
    if len(counts) >= KNOWN_DAYS:
        usual = typical_day(counts[-DAYS_LOOKED_AT:])
    elif prior is not None:
        usual = (prior * PRIOR_DAYS + sum(counts)) // (PRIOR_DAYS + len(counts))
    else:
        usual = sum(counts) // len(counts) if counts else 0
    alike = {weekday: [count for each, count in days if each == weekday] for weekday in range(1, 8)}
    return {weekday: typical_day(same) if len(same) >= KNOWN_DAYS else usual for weekday, same in alike.items()}


def _sum_of(day: DayUse, kinds: set[str], *, inside: bool) -> int:
    return sum(count for kind, count in day.bytes_by_kind.items() if (kind in kinds) == inside)
