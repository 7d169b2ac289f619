"""A data plan is spent like money: who cannot wait is never stopped, who can keeps to a share, every byte is booked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.messages import Timescale
from billpay.tariffs import PerByte
from billpay.tariffs import Usage as TariffUsage
from hostagent.api import KindState
from hostagent.sharing.dataplan import (
    ASSUMED_PICODOLLARS_PER_BYTE,
    DWELL_S,
    FLOOR_BIT_S,
    LEAST_BIT_S,
    Beyond,
    DataPlan,
    Directions,
    Judgement,
    Outlook,
    PlanKind,
    PlanMemory,
    Usage,
    judge,
    risk_of_need,
    show_month,
)
from hostagent.sharing.planbook import BookState, DayUse, PlanBook, Voucher, look_ahead, typical_day
from hostagent.sharing.policy import KindTerms
from secretary.kinds import shipped_kinds
from secretary.money.periods import Cycle, Period, Schedule, day_at

BERLIN = ZoneInfo("Europe/Berlin")
HOUR, DAY = 3600, 86_400
KB, MB, GB = 10**3, 10**6, 10**9
KINDS = tuple(PlanKind.of(KindTerms.of(kind)) for kind in shipped_kinds().values())
WAITING = {kind.name for kind in KINDS if kind.can_wait}
MONTHLY = DataPlan(
    scope="phone",
    beyond=Beyond.COSTS,
    bundle_bytes=GB,
    picodollars_per_byte=10_000,
    monthly_fee_nanodollars=9_990_000_000,
)
DAILY = replace(MONTHLY, cycle=Cycle.DAY)


def unix(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


MIDNIGHT = unix("2026-11-10T00:00+01:00")


def kind(name: str) -> PlanKind:
    return next(each for each in KINDS if each.name == name)


def usage(
    plan: DataPlan,
    unix_s: int,
    *,
    before: Mapping[str, int] | None = None,
    today: Mapping[str, int] | None = None,
    **more: int,
) -> Usage:
    period = Schedule(cycle=plan.cycle, zone=BERLIN, reset_day=plan.reset_day).at(unix_s)
    return Usage(
        period=period,
        today=day_at(unix_s, BERLIN),
        since_unix_s=period.start_unix_s,
        before=before or {},
        on_today=today or {},
        **more,
    )


def look(
    plan: DataPlan,
    unix_s: int,
    *,
    kinds: tuple[PlanKind, ...] = KINDS,
    memory: PlanMemory | None = None,
    need_a_day: int | None = None,
    before: Mapping[str, int] | None = None,
    today: Mapping[str, int] | None = None,
) -> Judgement:
    """A judgement without a book; `need_a_day` of those that cannot wait, None: nothing is known."""
    about = usage(plan, unix_s, before=before, today=today)
    days = (
        []
        if need_a_day is None
        else [DayUse(date=f"2026-10-{number:02}", bytes_by_kind={"web": need_a_day}) for number in range(4, 32)]
    )
    outlook = look_ahead(plan, kinds, days, about, BERLIN)
    return judge(plan, kinds, about, outlook, memory or PlanMemory(), unix_s=unix_s)


# --- a day on a laptop, second by second ------------------------------------------------------------------------------


@dataclass(slots=True)
class Laptop:
    """What its programs want in a second; updates and the backup take what they are given."""

    begun_unix_s: int
    owed: dict[str, int] = field(default_factory=lambda: {"update": 600 * MB, "backup": 5 * GB})
    credit_bits: Counter[str] = field(default_factory=Counter)
    link_bit_s: int = 40_000_000

    def wants(self, second: int) -> dict[str, tuple[int, int]]:
        """Sent and received bytes of those that cannot wait."""
        hour = second / HOUR
        wants = {"control": (60, 90)} if second % 7 == 0 else {}
        if 9.5 <= hour < 10.0 or 15.0 <= hour < 15.25:
            wants["call"] = (8_000 + second % 97, 8_200)
        if 8.0 <= hour < 18.0 and second % 240 < 2:  # a page
            wants["web"] = (20 * KB, 350 * KB + second % 1000)
        if 8.0 <= hour < 22.0 and second % 900 == 0:  # mail
            wants["web"] = (4 * KB, 60 * KB)
        if 20.0 <= hour < 20.5:  # music
            wants["stream"] = (300, 16 * KB)
        return wants

    def takes(self, name: str, cap_bit_s: int | None) -> int:
        """Whole bytes of one second under a cap; what is less stays for the next."""
        rate = self.link_bit_s if cap_bit_s is None else min(cap_bit_s, self.link_bit_s)
        self.credit_bits[name] += rate
        taken = min(self.credit_bits[name] // 8, self.owed[name])
        self.credit_bits[name] -= 8 * taken
        self.owed[name] -= taken
        return taken


@dataclass(slots=True)
class Day:
    """What came of a day."""

    given: Counter[str] = field(default_factory=Counter)
    verdicts: dict[str, set[tuple[KindState, bool]]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    overdrawn: int = 0  # bytes beyond the shares of their second
    largest_shares: dict[str, int] = field(default_factory=dict)
    most_in_a_minute: Counter[str] = field(default_factory=Counter)
    last: Judgement | None = None


def replay(book: PlanBook, laptop: Laptop, *, seconds: int = DAY) -> Day:
    """The verdicts of a second are the rates of the next."""
    day, begun = Day(), laptop.begun_unix_s
    judgement = book.judge(begun)
    minute: Counter[str] = Counter()
    for second in range(seconds):
        if second % 60 == 0:
            minute.clear()
        moved = laptop.wants(second)
        for name in ("update", "backup"):
            taken = laptop.takes(name, judgement.verdicts[name].cap_bit_s)
            moved[name] = (taken // 3, taken - taken // 3)
            share = judgement.shares_bytes[name]
            day.overdrawn += max(0, taken - max(0, share - day.given[name]))
            day.largest_shares[name] = max(day.largest_shares.get(name, 0), share)
            minute[name] += taken
            day.most_in_a_minute[name] = max(day.most_in_a_minute[name], minute[name])
        book.add(moved, unix_s=begun + second)
        judgement = book.judge(begun + second)
        for name, (sent, received) in moved.items():
            day.given[name] += sent + received
        for name, verdict in judgement.verdicts.items():
            day.verdicts.setdefault(name, set()).add((verdict.state, verdict.cap_bit_s is None))
        day.told += [each.code for each in judgement.announcements]
    day.last = judgement
    return day


USUAL_DAYS = tuple(
    DayUse(date=f"2026-11-{number:02}", bytes_by_kind={"web": 10 * MB + number, "call": 5 * MB})
    for number in range(1, 10)
)


@pytest.mark.expectation(15)
@pytest.mark.row("UD-09")
@pytest.mark.parametrize(
    ("plan", "days"),
    [
        pytest.param(MONTHLY, (), id="1 GB a month, new"),
        pytest.param(DAILY, USUAL_DAYS, id="1 GB a day, known"),
        pytest.param(MONTHLY, USUAL_DAYS, id="1 GB a month, known", marks=pytest.mark.deep),
        pytest.param(DAILY, (), id="1 GB a day, new", marks=pytest.mark.deep),
    ],
)
def test_a_day_under_a_gigabyte(plan: DataPlan, days: tuple[DayUse, ...]) -> None:
    fresh = PlanBook(plan, KINDS, BERLIN, unix_s=MIDNIGHT).state
    book = PlanBook(plan, KINDS, BERLIN, unix_s=MIDNIGHT, state=msgspec.structs.replace(fresh, days=days))
    laptop = Laptop(begun_unix_s=MIDNIGHT)
    day = replay(book, laptop)
    assert day.last is not None
    booked = book.usage(MIDNIGHT + DAY - 1)
    assert dict(booked.on_today) == dict(day.given), "to the byte"
    assert day.last.budget.used == sum(day.given.values())
    assert day.verdicts["call"] == day.verdicts["web"] == day.verdicts["control"] == {(KindState.RUNS, True)}
    assert day.overdrawn <= 2 * DAY * LEAST_BIT_S // 8
    assert day.given["update"] > day.given["backup"] > 0
    for name in ("update", "backup"):
        assert day.given[name] <= day.largest_shares[name]
        assert day.most_in_a_minute[name] <= day.largest_shares[name] // 40
    assert len(day.told) == len(set(day.told))
    if plan is DAILY:  # a day's bundle that is left is lost: updates get a good part of theirs
        assert day.given["update"] > 100 * MB
    else:
        assert day.given["update"] < 15 * MB


# --- months -----------------------------------------------------------------------------------------------------------


def days_of(
    book_for: Callable[[int], str], *, begun: int, days: int
) -> Iterator[tuple[int, str, dict[str, tuple[int, int]]]]:
    """Ten-minute steps: when, on which network, and what moved."""
    for step in range(days * DAY // 600):
        unix_s = begun + step * 600
        number, hour = divmod(step * 600, DAY)
        awake = 8 * HOUR <= hour < 23 * HOUR
        web = (MB // 10, MB // 2 + step % 11) if awake and number % 7 < 5 else (0, 0)
        yield unix_s, book_for(unix_s), {"web": web, "call": (step % 3, step % 5)}


@pytest.mark.expectation(13)
def test_a_month_with_roaming_and_restarts_loses_no_byte() -> None:
    """A phone plan that resets on the 17th and a hotel's pass of a day; the agent restarts every few hours."""
    begun = unix("2026-10-10T00:00+02:00")
    plans = {"phone": replace(MONTHLY, reset_day=17), "hotel": replace(DAILY, scope="hotel", bundle_bytes=200 * MB)}
    stored: dict[str, bytes] = {}
    given: dict[str, Counter[str]] = {name: Counter() for name in plans}
    kept: dict[str, Counter[str]] = {name: Counter() for name in plans}
    codes: Counter[tuple[str, int, str]] = Counter()

    def network(unix_s: int) -> str:
        return "hotel" if (unix_s - begun) // DAY in (9, 10, 11) else "phone"

    def wake(name: str, unix_s: int) -> PlanBook:
        state = msgspec.json.decode(stored[name], type=BookState) if name in stored else None
        return PlanBook(plans[name], KINDS, BERLIN, unix_s=unix_s, state=state)

    books = {name: wake(name, begun) for name in plans}
    starts: dict[str, int] = {}
    for step, (unix_s, name, moved) in enumerate(days_of(network, begun=begun, days=60)):
        if step % 17 == 0:
            stored = {each: msgspec.json.encode(book.state) for each, book in books.items()}
            books = {each: wake(each, unix_s) for each in plans}
        before = books[name].state
        judgement = books[name].judge(unix_s)
        roaming_update = (0, judgement.verdicts["update"].cap_bit_s or 0)
        moved = {**moved, "update": (0, min(roaming_update[1] // 8 * 60, MB))}
        books[name].add(moved, unix_s=unix_s)
        for each, (sent, received) in moved.items():
            given[name][each] += sent + received
        used = books[name].usage(unix_s)
        if starts.setdefault(name, used.period.start_unix_s) != used.period.start_unix_s:
            kept[name].update(before.before)
            kept[name].update(before.today)
            starts[name] = used.period.start_unix_s
        for announcement in judgement.announcements:
            codes[(name, used.period.start_unix_s, announcement.code)] += 1
    for name, book in books.items():
        total = kept[name] + Counter(book.state.before) + Counter(book.state.today)
        assert total == +given[name]
    assert set(codes.values()) == {1}
    assert ("phone", unix("2026-10-17T00:00+02:00"), "data-plan-50") in codes
    assert len({start for name, start, _ in codes if name == "phone"}) >= 2


def test_days_without_the_machine_are_days_that_used_nothing() -> None:
    book = PlanBook(MONTHLY, KINDS, BERLIN, unix_s=MIDNIGHT)
    book.add({"web": (0, 6 * MB)}, unix_s=MIDNIGHT + 9 * HOUR)
    book.add({"web": (0, 1)}, unix_s=MIDNIGHT + 3 * DAY + HOUR)
    assert [(day.date, day.bytes_by_kind) for day in book.state.days] == [
        ("2026-11-10", {"web": 6 * MB}),
        ("2026-11-11", {}),
        ("2026-11-12", {}),
    ]
    assert book.usage(MIDNIGHT + 3 * DAY + HOUR).before == {"web": 6 * MB}


def test_a_clock_that_is_set_back_renews_no_plan() -> None:
    book = PlanBook(DAILY, KINDS, BERLIN, unix_s=MIDNIGHT)
    book.add({"web": (0, GB)}, unix_s=MIDNIGHT + HOUR)
    for unix_s in (MIDNIGHT - 2 * HOUR, MIDNIGHT - 40 * DAY, MIDNIGHT + 2 * HOUR):
        assert book.judge(unix_s).left_bytes == 0
    assert book.judge(MIDNIGHT + DAY).left_bytes == GB


# --- price ------------------------------------------------------------------------------------------------------------


def test_the_price_is_what_a_later_byte_costs_times_the_chance_that_it_will_be_missing() -> None:
    """20 days with today are left and each needs 20 MB: nothing is scarce with 600 MB left, everything with 200 MB."""
    at = unix("2026-11-11T00:00+01:00")
    prices = {
        left: look(MONTHLY, at, need_a_day=20 * MB, before={"web": GB - left}).price_nanodollars_per_mb
        for left in (600 * MB, 500 * MB, 400 * MB, 300 * MB, 200 * MB, 0)
    }
    assert prices == {
        600 * MB: 0,
        500 * MB: 2_500_000,
        400 * MB: 5_000_000,
        300 * MB: 7_500_000,
        200 * MB: 10_000_000,
        0: 10_000_000,
    }


def test_where_nothing_can_be_bought_a_byte_costs_what_would_be_lost() -> None:
    at = unix("2026-11-11T00:00+01:00")
    for plan in (
        replace(MONTHLY, beyond=Beyond.THROTTLED, picodollars_per_byte=0),
        replace(MONTHLY, beyond=Beyond.CUT_OFF, picodollars_per_byte=0),
        replace(MONTHLY, hard=True),
    ):
        found = look(plan, at, need_a_day=20 * MB, before={"web": 800 * MB})
        assert found.price_nanodollars_per_mb == kind("default").worth_nanodollars_per_mb


@given(need=st.integers(0, 10**12), left=st.integers(0, 10**12), more=st.integers(0, 10**12))
def test_more_left_is_never_dearer(need: int, left: int, more: int) -> None:
    assert risk_of_need(need, left + more) <= risk_of_need(need, left)


@pytest.mark.expectation(21)
def test_a_new_month_is_neither_dear_nor_stopped() -> None:
    for plan in (MONTHLY, DAILY, replace(MONTHLY, beyond=Beyond.CUT_OFF, picodollars_per_byte=0)):
        found = look(plan, unix("2026-11-01T00:00+01:00"))
        assert found.price_nanodollars_per_mb == 0
        assert found.verdicts["update"].state is KindState.SLOWED
        assert found.verdicts["call"].state is KindState.RUNS
        assert found.allowance_bytes == pytest.approx(GB / 2 / (1 if plan is DAILY else 30), rel=0.01)


def test_a_metered_link_of_which_nobody_says_more_has_an_assumed_price() -> None:
    plan = DataPlan.assumed("hotspot")
    found = look(plan, MIDNIGHT + 9 * HOUR, today={"web": 10 * MB})
    assert found.price_nanodollars_per_mb == ASSUMED_PICODOLLARS_PER_BYTE * 1000
    assert found.verdicts["web"].state is KindState.RUNS
    assert found.verdicts["backup"].state is KindState.WAITS
    assert found.verdicts["backup"].cap_bit_s == kind("backup").trickle_bit_s
    assert found.budget.limit == 0


def test_a_flat_rate_stops_nobody_and_costs_nothing_more() -> None:
    plan = DataPlan(scope="home", beyond=Beyond.FREE, monthly_fee_nanodollars=30 * GB)
    found = look(plan, MIDNIGHT + HOUR, today={"backup": 50 * GB})
    assert found.price_nanodollars_per_mb == 0
    assert {verdict.state for verdict in found.verdicts.values()} == {KindState.RUNS}
    assert found.budget.flat_nanodollars_per_month == 30 * GB
    assert found.announcements == ()


# --- who waits --------------------------------------------------------------------------------------------------------


def test_worth_decides_who_waits_and_swapping_it_swaps_them_at_once() -> None:
    plan = replace(MONTHLY, picodollars_per_byte=300)  # 0.30 for a gigabyte, a chance of one half: a price of 0.15
    at = unix("2026-11-11T00:00+01:00")
    used = {"web": 600 * MB}
    first = look(plan, at, need_a_day=20 * MB, before=used)
    assert first.price_nanodollars_per_mb == 150_000
    assert first.verdicts["backup"].state is KindState.WAITS
    assert "worth 100 µUSD" in first.verdicts["backup"].reason
    assert "is worth" not in first.verdicts["update"].reason
    worths = {"update": kind("backup").worth_nanodollars_per_mb, "backup": kind("update").worth_nanodollars_per_mb}
    swapped = tuple(
        replace(each, worth_nanodollars_per_mb=worths.get(each.name, each.worth_nanodollars_per_mb)) for each in KINDS
    )
    second = look(plan, at + 1, kinds=swapped, memory=first.memory, need_a_day=20 * MB, before=used)
    assert "worth 100 µUSD" in second.verdicts["update"].reason
    assert "is worth" not in second.verdicts["backup"].reason


def test_beyond_the_bundle_what_is_worth_its_price_runs_and_the_rest_waits() -> None:
    plan = replace(MONTHLY, picodollars_per_byte=150)
    found = look(plan, MIDNIGHT, before={"web": GB})
    assert found.price_nanodollars_per_mb == 150_000
    assert (found.verdicts["update"].state, found.verdicts["update"].cap_bit_s) == (KindState.RUNS, None)
    assert found.verdicts["backup"].state is KindState.WAITS
    assert found.verdicts["call"].state is KindState.RUNS
    assert "150 µUSD" in found.verdicts["call"].reason


@pytest.mark.expectation(15)
def test_a_hard_plan_slows_to_a_floor_and_never_control_traffic() -> None:
    plan = replace(MONTHLY, hard=True)
    found = look(plan, MIDNIGHT, before={"web": GB})
    assert found.verdicts["control"].cap_bit_s is None
    for name in ("call", "web", "game"):
        assert (found.verdicts[name].state, found.verdicts[name].cap_bit_s) == (KindState.SLOWED, FLOOR_BIT_S)
        assert "top-up" in found.verdicts[name].reason
    topped_up = judge(
        plan,
        KINDS,
        usage(plan, MIDNIGHT, before={"web": GB}, voucher_left_bytes=GB),
        OUTLOOK,
        found.memory,
        unix_s=MIDNIGHT,
    )
    assert topped_up.verdicts["call"].cap_bit_s is None, "at once"


def test_a_hard_price_without_a_bundle_stops_nobody() -> None:
    found = look(replace(MONTHLY, bundle_bytes=0, hard=True), MIDNIGHT, today={"web": MB})
    assert found.verdicts["call"].cap_bit_s is None
    assert found.price_nanodollars_per_mb == MONTHLY.beyond_nanodollars_per_mb


OUTLOOK = Outlook(
    need_today_bytes=10 * MB,
    need_later_bytes=200 * MB,
    wait_today_bytes=0,
    wait_later_bytes=0,
    days_left=20,
    is_known=True,
)


def test_a_price_that_trembles_moves_nobody_to_and_fro() -> None:
    """Around a price of 0.10 for a gigabyte, the backup's worth."""
    plan = replace(MONTHLY, picodollars_per_byte=200)
    at = unix("2026-11-11T00:00+01:00")
    memory = PlanMemory()
    runs = []
    for second in range(10 * DWELL_S):
        left = 400 * MB + (4 * MB if second % 2 else -4 * MB)
        found = look(plan, at + second, memory=memory, need_a_day=20 * MB, before={"web": GB - left})
        memory = found.memory
        runs.append(memory.kinds["backup"].runs)
    assert sum(one != other for one, other in pairwise(runs)) <= 1


def test_caps_change_seldom() -> None:
    """An engine is told another cap some dozens of times a day."""
    book = PlanBook(DAILY, KINDS, BERLIN, unix_s=MIDNIGHT)
    laptop = Laptop(begun_unix_s=MIDNIGHT)
    caps = []
    for second in range(2 * HOUR):
        cap = book.judge(MIDNIGHT + second).verdicts["update"].cap_bit_s
        book.add({"update": (0, laptop.takes("update", cap))}, unix_s=MIDNIGHT + second)
        caps.append(cap)
    assert sum(one != other for one, other in pairwise(caps)) < 20


def test_what_is_not_used_is_there_on_the_next_days_and_all_of_it_on_the_last() -> None:
    days = [unix(f"2026-11-{number:02}T00:00+01:00") for number in (2, 12, 22, 30)]
    allowances = [look(MONTHLY, at, need_a_day=10 * MB).allowance_bytes for at in days]
    assert allowances == sorted(allowances)
    assert allowances[0] == (GB - 29 * 10 * MB) // 29
    assert allowances[-1] == GB - 10 * MB


def test_shares_of_more_than_all_shrink_alike() -> None:
    kinds = tuple(replace(each, share_ppm=1_000_000) if each.can_wait else each for each in KINDS)
    found = look(MONTHLY, MIDNIGHT, kinds=kinds, need_a_day=MB)
    assert sum(found.shares_bytes.values()) <= found.allowance_bytes
    assert set(found.shares_bytes.values()) == {found.allowance_bytes // 3}


def test_a_kind_that_nobody_names_counts_as_one_that_cannot_wait() -> None:
    named = look(MONTHLY, MIDNIGHT, need_a_day=10 * MB, today={"web": 100 * MB})
    unnamed = look(MONTHLY, MIDNIGHT, need_a_day=10 * MB, today={"word:telnet": 100 * MB})
    assert unnamed.allowance_bytes == named.allowance_bytes
    assert unnamed.budget.used == 100 * MB


# --- money ------------------------------------------------------------------------------------------------------------


@pytest.mark.row("MV-44")
def test_vouchers_come_first() -> None:
    """Bytes before the bundle; money before the user's own, and without changing what a megabyte costs."""
    book = PlanBook(MONTHLY, KINDS, BERLIN, unix_s=MIDNIGHT)
    book.top_up(Voucher(name="school", bytes=100 * MB))
    book.top_up(Voucher(name="town", bytes=50 * MB, until_unix_s=MIDNIGHT + HOUR))
    book.add({"web": (0, 120 * MB)}, unix_s=MIDNIGHT + 1)
    assert book.judge(MIDNIGHT + 1).bill.bundle_bytes == 0
    assert [(each.name, each.bytes) for each in book.state.vouchers] == [("town", 0), ("school", 30 * MB)]
    book.add({"web": (0, 40 * MB)}, unix_s=MIDNIGHT + 2)
    bill = book.judge(MIDNIGHT + 2).bill
    assert (bill.voucher_bytes, bill.bundle_bytes, bill.beyond_bytes) == (150 * MB, 10 * MB, 0)
    book.add({"web": (0, GB)}, unix_s=MIDNIGHT + 3)
    dear = book.judge(MIDNIGHT + 3)
    book.top_up(Voucher(name="lump sum", nanodollars=50_000_000))
    relieved = book.judge(MIDNIGHT + 3)
    assert relieved.price_nanodollars_per_mb == dear.price_nanodollars_per_mb == MONTHLY.beyond_nanodollars_per_mb
    assert relieved.bill.beyond_bytes == 10 * MB
    assert (dear.bill.due_nanodollars, dear.bill.credit_nanodollars) == (100_000_000, 0)
    assert (relieved.bill.due_nanodollars, relieved.bill.credit_nanodollars) == (50_000_000, 50_000_000)
    next_month = unix("2026-12-01T00:00+01:00")
    assert book.usage(next_month).credit_nanodollars == 0, "it has paid"


def test_an_expired_voucher_is_worth_nothing() -> None:
    book = PlanBook(MONTHLY, KINDS, BERLIN, unix_s=MIDNIGHT)
    book.top_up(Voucher(name="day pass", bytes=GB, until_unix_s=MIDNIGHT + HOUR))
    book.add({"web": (0, 10 * MB)}, unix_s=MIDNIGHT + 1)
    assert book.judge(MIDNIGHT + 1).left_bytes == 2 * GB - 10 * MB
    assert book.judge(MIDNIGHT + HOUR).left_bytes == GB


def test_the_bill_is_the_tariffs() -> None:
    tariff = PerByte(
        issuer="isp",
        serial=1,
        timescale=Timescale.LONG_TERM,
        valid_from_unix_s=0,
        picodollars_per_byte=7_777,
        bundle_bytes=GB,
        monthly_fee_nanodollars=5 * GB,
        reset_day=9,
    )
    plan = DataPlan.of(tariff, scope="phone")
    for used in (0, GB, GB + 1, 3 * GB + 123_457):
        bill = plan.bill(used)
        assert bill.bundle_bytes + bill.beyond_bytes == used
        assert tariff.price(TariffUsage(volume_bytes=used)) == plan.monthly_fee_nanodollars + bill.due_nanodollars
    unpriced = replace(tariff, picodollars_per_byte=0)
    assert DataPlan.of(unpriced, scope="phone").beyond is Beyond.THROTTLED
    assert DataPlan.of(replace(unpriced, bundle_bytes=0), scope="phone").beyond is Beyond.FREE


def test_at_this_pace_so_much_a_month() -> None:
    """40 MB a day in a month of 30 days: 200 MB beyond the bundle, at 0.01 a megabyte."""
    at = unix("2026-11-16T00:00+01:00")
    found = look(MONTHLY, at, need_a_day=40 * MB, before={"web": 600 * MB})
    assert found.budget.burn_per_day == 40 * MB
    assert found.budget.forecast == 1200 * MB
    assert found.budget.flat_nanodollars_per_month == 9_990_000_000 + 2_000_000_000
    assert "at this pace 1.2 GB by the reset, 11.99 USD a month" in found.budget.reason
    assert show_month(14_195_000_000, "EUR") == "14.20 EUR"


@pytest.mark.parametrize(
    ("directions", "counted"), [(Directions.BOTH, 30), (Directions.SENT, 10), (Directions.RECEIVED, 20)]
)
def test_a_plan_counts_the_directions_that_it_names(directions: Directions, counted: int) -> None:
    book = PlanBook(replace(MONTHLY, directions=directions), KINDS, BERLIN, unix_s=MIDNIGHT)
    book.add({"web": (10, 20)}, unix_s=MIDNIGHT)
    assert book.usage(MIDNIGHT).used_bytes == counted


@pytest.mark.expectation(14)
def test_a_plan_tells_each_threshold_once_and_that_it_will_not_last() -> None:
    book = PlanBook(MONTHLY, KINDS, BERLIN, unix_s=MIDNIGHT)
    codes = []
    for second in range(110):
        book = PlanBook(MONTHLY, KINDS, BERLIN, unix_s=MIDNIGHT, state=book.state)
        book.add({"web": (0, 10 * MB)}, unix_s=MIDNIGHT + second)
        codes += [each.code for each in book.judge(MIDNIGHT + second).announcements]
    assert codes == ["data-plan-50", "data-plan-tight", "data-plan-80", "data-plan-100"]
    book.top_up(Voucher(name="day pass", bytes=GB))
    assert [each.code for each in book.judge(MIDNIGHT + 110).announcements] == []
    book.add({"web": (0, 700 * MB)}, unix_s=MIDNIGHT + 111)
    assert [each.code for each in book.judge(MIDNIGHT + 111).announcements] == ["data-plan-80"], "of the new limit"


def test_words_and_tariffs_change_without_a_new_period() -> None:
    book = PlanBook(MONTHLY, KINDS, BERLIN, unix_s=MIDNIGHT)
    book.add({"web": (0, 900 * MB)}, unix_s=MIDNIGHT)
    assert book.judge(MIDNIGHT).verdicts["web"].cap_bit_s is None
    book.change(plan=replace(MONTHLY, bundle_bytes=800 * MB, hard=True), kinds=(*KINDS, replace(kind("web"), name="x")))
    assert book.judge(MIDNIGHT).verdicts["web"].cap_bit_s == book.judge(MIDNIGHT).verdicts["x"].cap_bit_s == FLOOR_BIT_S
    assert book.judge(MIDNIGHT).budget.used == 900 * MB


@pytest.mark.row("MV-45")
def test_a_byte_shows_in_the_next_judgement() -> None:
    book = PlanBook(MONTHLY, KINDS, BERLIN, unix_s=MIDNIGHT)
    for count in range(1, 5):
        book.add({"web": (1, 0)}, unix_s=MIDNIGHT)
        assert book.judge(MIDNIGHT).budget.used == count


# --- what is expected -------------------------------------------------------------------------------------------------


def test_a_typical_day_ignores_a_wild_one_and_knows_days_off() -> None:
    assert typical_day([10, 11, 12, 5000, 11, 10, 12]) == 11
    assert typical_day([0, 0, 0, 0, 0, 210, 280]) == 60
    assert typical_day([0, 0]) == typical_day([]) == 0


def test_weekdays_are_expected_like_themselves() -> None:
    """Four weeks with quiet Sundays; on Saturday evening the rest of the month is one Sunday and one Monday."""
    days = [
        DayUse(date=f"2026-11-{number:02}", bytes_by_kind={"web": MB if number % 7 == 1 else 30 * MB})
        for number in range(1, 29)
    ]
    about = usage(MONTHLY, unix("2026-11-29T00:00+01:00"))
    outlook = look_ahead(MONTHLY, KINDS, days, about, BERLIN)
    assert (outlook.need_today_bytes, outlook.need_later_bytes, outlook.days_left) == (MB, 30 * MB, 2)


def test_one_heavy_first_day_is_not_the_month() -> None:
    about = usage(MONTHLY, unix("2026-11-02T00:00+01:00"))
    days = [DayUse(date="2026-11-01", bytes_by_kind={"web": 200 * MB})]
    outlook = look_ahead(MONTHLY, KINDS, days, about, BERLIN)
    assert outlook.need_today_bytes == (3 * (GB // 2 // 30) + 200 * MB) // 4
    assert not outlook.is_known


# --- whatever happens -------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["call", "web", "update", "backup", "sync", "control", "nobody's"])
MOVES = st.lists(
    st.tuples(NAMES, st.integers(0, 30 * MB), st.integers(0, 30 * MB), st.integers(-HOUR, 20 * HOUR)), max_size=60
)
PLANS = st.builds(
    lambda bundle, price, cycle, beyond: DataPlan(
        scope="any",
        beyond=Beyond.COSTS if price else beyond,
        bundle_bytes=bundle,
        picodollars_per_byte=price,
        cycle=cycle,
    ),
    bundle=st.integers(1, 2 * GB),
    price=st.sampled_from([0, 1, 150, 10_000]),
    cycle=st.sampled_from([Cycle.DAY, Cycle.MONTH]),
    beyond=st.sampled_from([Beyond.THROTTLED, Beyond.CUT_OFF]),
)


@given(plan=PLANS, moves=MOVES)
def test_the_call_is_never_capped_and_every_byte_is_booked(
    plan: DataPlan, moves: list[tuple[str, int, int, int]]
) -> None:
    book = PlanBook(plan, KINDS, BERLIN, unix_s=MIDNIGHT)
    unix_s, given_bytes, closed, start = MIDNIGHT, 0, 0, 0
    for name, sent, received, passed_s in moves:
        unix_s = max(unix_s + passed_s, MIDNIGHT)
        held = book.usage(unix_s)
        closed = given_bytes if held.period.start_unix_s != start else closed
        start = held.period.start_unix_s
        book.add({name: (sent, received)}, unix_s=unix_s)
        given_bytes += sent + received
        found = book.judge(unix_s)
        assert found.budget.used == given_bytes - closed
        assert sum((found.bill.voucher_bytes, found.bill.bundle_bytes, found.bill.beyond_bytes)) == found.budget.used
        assert found.price_nanodollars_per_mb >= 0
        assert sum(found.shares_bytes.values()) <= found.allowance_bytes
        for each in KINDS:
            verdict = found.verdicts[each.name]
            assert verdict.reason
            if not each.can_wait:
                assert (verdict.state, verdict.cap_bit_s) == (KindState.RUNS, None)
            elif verdict.cap_bit_s is not None and found.left_bytes:
                left = max(0, found.shares_bytes[each.name] - book.usage(unix_s).on_today.get(each.name, 0))
                assert LEAST_BIT_S <= verdict.cap_bit_s <= max(LEAST_BIT_S, left * 8 * 125 // 100 // 60)
        resumed = PlanBook(plan, KINDS, BERLIN, unix_s=unix_s, state=book.state)
        assert resumed.judge(unix_s).verdicts == book.judge(unix_s).verdicts, "a restart changes nothing"


@given(
    bundle=st.integers(1, 3 * GB),
    more=st.integers(0, 3 * GB),
    used=st.integers(0, 2 * GB),
    hour=st.integers(0, 23),
    need=st.none() | st.integers(0, 100 * MB),
)
def test_a_larger_bundle_is_never_dearer(bundle: int, more: int, used: int, hour: int, need: int | None) -> None:
    at = MIDNIGHT + hour * HOUR
    small, large = (
        look(replace(MONTHLY, bundle_bytes=size), at, need_a_day=need, before={"web": used})
        for size in (bundle, bundle + more)
    )
    assert large.price_nanodollars_per_mb <= small.price_nanodollars_per_mb
    assert large.left_bytes >= small.left_bytes


def test_periods_are_those_of_the_plan() -> None:
    plan = replace(MONTHLY, reset_day=17)
    found = PlanBook(plan, KINDS, BERLIN, unix_s=MIDNIGHT).usage(MIDNIGHT)
    assert found.period == Period(
        start_unix_s=unix("2026-10-17T00:00+02:00"), end_unix_s=unix("2026-11-17T00:00+01:00")
    )
