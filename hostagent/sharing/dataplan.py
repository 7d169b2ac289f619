"""A metered link's data plan, spent like money: what a megabyte costs now, and which kinds of traffic run or wait.

Decides a price and a verdict for each kind.  Refuses to know: clocks, interfaces, files, who counted.  A pure function
of the counters and of what it remembers, so a screen shows every byte as soon as it is counted (MV-45).

The price is an opportunity cost.  A byte of a bundle costs nothing when it is sent; it costs what a later byte costs
for which nothing is left: `value beyond` x `risk`, the shadow price of a tariff with an allowance (Nevo, Turner and
Williams 2016: the overage price times the probability that the allowance runs out; a bid price as in Gallego and van
Ryzin 1994).

- `value beyond`: the price of a byte beyond the bundle; where the ISP throttles or cuts off, or the user wants no byte
  beyond, it is what would be lost: the worth of the least worthy kind that cannot wait.
- `risk`: the chance that the kinds that cannot wait need more until the reset than is left.  Their need is taken as
  uniform within half and one and a half of the forecast N (`planbook`), so with L left it is (1.5 N - L) / N, within 0
  and 1.  0 while there is one and a half times what they need.

Kinds that cannot wait are never stopped or slowed.  (Under a `hard` plan, by the user's wish, they are slowed to a
floor when the bundle is gone; control traffic never.)  A kind that can wait has a share of each day's allowance:

    allowance = (left at the day's start - what the others used today - what they need until the reset) / days left

What it leaves stays in the bundle, and so in the next days' allowances; on the last day all of it is today's.  Within
its share it may use each second 1/3600 of what is left of it: a token bucket whose rate follows its level, which cannot
be emptied in a minute and needs no state.  It waits while its worth is below the price; its trickle is a part of its
share.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from billpay.money import PICODOLLARS_PER_NANODOLLAR, show_nanodollars
from billpay.tariffs import PerByte
from hostagent import api
from hostagent.sharing.policy import KindTerms, Verdict
from secretary.money.budgets import (
    THRESHOLDS_PERCENT,
    Announcement,
    per_month,
    reached_percent,
    show_bytes,
    still_told,
)
from secretary.money.periods import PPM, Cycle, Period

BYTES_PER_MB: Final = 1_000_000
BITS_PER_BYTE: Final = 8
DRAIN_S: Final = 3600
"""A kind that can wait uses in a second this part of what is left of its share."""
SHORTEST_DRAIN_S: Final = 60
"""Towards the end of the day a share may go faster, and never all of it within a second."""
UNCAPPED_BIT_S: Final = 1_000_000_000
"""A cap that no metered link reaches is none."""
LEAST_BIT_S: Final = 8
"""What waits without any share left still has a byte a second, kept back out of the share: no engine can stop a class.
(HTB lets one packet a minute go, whatever the rate: a class owes at most a minute.)
"""
TRICKLE_BIT_S: Final = 1_000
FLOOR_BIT_S: Final = 64_000
DWELL_S: Final = 60
"""For so long a kind stays stopped or let through by the price."""
PRICE_MARGIN_PERCENT: Final = 10
"""A kind that waits runs again when the price is so far below its worth."""
CAP_STEP_PERCENT: Final = 20
"""A cap changes when it is wrong by so much: engines need not be told every second."""
NEED_SPREAD_PERCENT: Final = 50
LIKELY_PPM: Final = 500_000
"""That the plan will not last is told when it is more likely than not."""
ASSUMED_PICODOLLARS_PER_BYTE: Final = 5_000
"""Where a link is metered and nobody says how: 5.00 for a gigabyte."""
ESSENTIAL_KINDS: Final = frozenset({"control"})
"""DNS, the agent's own agreements and top-ups, an interactive shell: no plan slows them."""


class Beyond(enum.Enum):
    """What the ISP does with bytes beyond the bundle."""

    COSTS = "costs"
    THROTTLED = "throttled"
    CUT_OFF = "cut off"
    FREE = "free"  # a flat rate: nothing is metered


class Directions(enum.Enum):
    """Which bytes the plan counts."""

    BOTH = "both"
    SENT = "sent"
    RECEIVED = "received"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlan:
    """What the ISP sells for one network. `scope`: its key. `hard`: the user wants no byte beyond the bundle."""

    scope: str
    beyond: Beyond
    bundle_bytes: int = 0
    picodollars_per_byte: int = 0
    monthly_fee_nanodollars: int = 0
    cycle: Cycle = Cycle.MONTH
    reset_day: int = 1
    currency: str = "USD"
    directions: Directions = Directions.BOTH
    hard: bool = False
    floor_bit_s: int = FLOOR_BIT_S

    def __post_init__(self) -> None:
        assert (self.picodollars_per_byte > 0) == (self.beyond is Beyond.COSTS)
        assert self.bundle_bytes >= 0
        if self.beyond is Beyond.FREE:
            assert self.bundle_bytes == 0, "a flat rate has no bundle"
        if self.beyond in (Beyond.THROTTLED, Beyond.CUT_OFF):
            assert self.bundle_bytes > 0, "nothing would be sold"

    @classmethod
    def of(cls, tariff: PerByte, *, scope: str, beyond: Beyond = Beyond.THROTTLED, hard: bool = False) -> DataPlan:
        """`beyond` holds where the tariff has a bundle and no price for what is beyond it."""
        unpriced = Beyond.FREE if tariff.bundle_bytes == 0 else beyond
        return cls(
            scope=scope,
            beyond=Beyond.COSTS if tariff.picodollars_per_byte else unpriced,
            bundle_bytes=tariff.bundle_bytes,
            picodollars_per_byte=tariff.picodollars_per_byte,
            monthly_fee_nanodollars=tariff.monthly_fee_nanodollars,
            reset_day=tariff.reset_day,
            currency=tariff.currency,
            hard=hard,
        )

    @classmethod
    def assumed(cls, scope: str) -> DataPlan:
        """For a link that is said to be metered, when nobody said what it costs."""
        return cls(scope=scope, beyond=Beyond.COSTS, picodollars_per_byte=ASSUMED_PICODOLLARS_PER_BYTE)

    @property
    def beyond_nanodollars_per_mb(self) -> int:
        return self.picodollars_per_byte * BYTES_PER_MB // PICODOLLARS_PER_NANODOLLAR

    @property
    def is_hard(self) -> bool:
        """Without a bundle there is nothing to be beyond of."""
        return self.hard and self.bundle_bytes > 0

    @property
    def pays_beyond(self) -> bool:
        return self.beyond is Beyond.COSTS and not self.is_hard

    def counted(self, *, sent_bytes: int, received_bytes: int) -> int:
        """The bytes that the plan counts."""
        if self.directions is Directions.SENT:
            return sent_bytes
        return received_bytes if self.directions is Directions.RECEIVED else sent_bytes + received_bytes

    def bill(self, used_bytes: int, *, voucher_bytes: int = 0, credit_nanodollars: int = 0) -> Bill:
        """What a period's bytes cost. Vouchers come first: bytes before the bundle, money before the user's own."""
        from_voucher = min(used_bytes, voucher_bytes)
        from_bundle = min(used_bytes - from_voucher, self.bundle_bytes)
        beyond = used_bytes - from_voucher - from_bundle
        cost = beyond * self.picodollars_per_byte // PICODOLLARS_PER_NANODOLLAR
        return Bill(
            voucher_bytes=from_voucher,
            bundle_bytes=from_bundle,
            beyond_bytes=beyond,
            credit_nanodollars=min(cost, credit_nanodollars),
            due_nanodollars=cost - min(cost, credit_nanodollars),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """Of one period, without the fee. The bytes sum up to what was used."""

    voucher_bytes: int
    bundle_bytes: int
    beyond_bytes: int
    credit_nanodollars: int  # paid by vouchers
    due_nanodollars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanKind:
    """A kind of traffic under a plan. `share_ppm`: of a day's allowance, if it can wait."""

    name: str
    worth_nanodollars_per_mb: int
    can_wait: bool = False
    share_ppm: int = 0
    trickle_bit_s: int = TRICKLE_BIT_S
    essential: bool = False

    @classmethod
    def of(cls, kind: KindTerms) -> PlanKind:
        return cls(
            name=kind.name,
            worth_nanodollars_per_mb=kind.worth_nanodollars_per_mb,
            can_wait=kind.can_wait,
            share_ppm=kind.plan_share_ppm,
            essential=kind.name in ESSENTIAL_KINDS,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a period used, by kind: before today, and today. `voucher_bytes`: drawn from vouchers in this period."""

    period: Period
    today: Period
    since_unix_s: int  # when counting began in this period
    before: Mapping[str, int]
    on_today: Mapping[str, int]
    voucher_bytes: int = 0
    voucher_left_bytes: int = 0
    credit_nanodollars: int = 0

    @property
    def used_bytes(self) -> int:
        return sum(self.before.values()) + sum(self.on_today.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is expected, made once a day (`planbook.look_ahead`): of kinds that cannot wait, and of the others."""

    need_today_bytes: int  # of the whole day
    need_later_bytes: int  # from tomorrow to the reset
    wait_today_bytes: int
    wait_later_bytes: int
    days_left: int  # until the reset, today with them
    is_known: bool  # from days that were seen, rather than assumed


class KindMemory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last verdict about a kind that can wait. `runs`: its worth was not below the price."""

    runs: bool
    since_unix_s: int
    worth_nanodollars_per_mb: int
    cap_bit_s: int | None = None


class PlanMemory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The caller keeps it for the next judgement, and over restarts."""

    start_unix_s: int = 0
    told_percent: int = 0
    told_limit: int = 0
    told_tight: bool = False
    kinds: dict[str, KindMemory] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a plan says now. `allowance_bytes`: today's, of all kinds that can wait; `shares_bytes`: each one's part."""

    price_nanodollars_per_mb: int
    risk_ppm: int
    left_bytes: int
    allowance_bytes: int
    shares_bytes: Mapping[str, int]
    verdicts: Mapping[str, Verdict]
    budget: api.Budget
    bill: Bill
    announcements: tuple[Announcement, ...]
    memory: PlanMemory
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """What every part of a judgement looks at."""

    plan: DataPlan
    usage: Usage
    outlook: Outlook
    unix_s: int
    limit: int  # the bundle and the vouchers
    used: int
    left: int
    need: int  # of those that cannot wait, from now to the reset
    allowance: int
    risk_ppm: int
    price: int
    currency_price: str

    @property
    def is_metered(self) -> bool:
        return self.plan.beyond is not Beyond.FREE


def judge(
    plan: DataPlan,
    kinds: Sequence[PlanKind],
    usage: Usage,
    outlook: Outlook,
    memory: PlanMemory,
    *,
    unix_s: int,
) -> Judgement:
    """Bytes of kinds that `kinds` does not name count as of one that cannot wait."""
    scene = _look(plan, kinds, usage, outlook, unix_s)
    renewed = memory.start_unix_s != usage.period.start_unix_s
    shares = _shares(kinds, scene.allowance)
    verdicts: dict[str, Verdict] = {}
    remembered: dict[str, KindMemory] = {}
    for kind in kinds:
        if not kind.can_wait:
            verdicts[kind.name] = _never_stopped(kind, scene)
            continue
        before = None if renewed else memory.kinds.get(kind.name)
        verdicts[kind.name], remembered[kind.name] = _can_wait(kind, shares[kind.name], scene, before)
    told = PlanMemory() if renewed else memory
    budget = _budget(scene)
    announcements, kept = _announce(scene, budget, told)
    return Judgement(
        price_nanodollars_per_mb=scene.price,
        risk_ppm=scene.risk_ppm,
        left_bytes=scene.left,
        allowance_bytes=scene.allowance,
        shares_bytes=shares,
        verdicts=verdicts,
        budget=msgspec.structs.replace(budget, noticed_percent=kept.told_percent),
        bill=_bill(scene, scene.used),
        announcements=announcements,
        memory=msgspec.structs.replace(kept, kinds=remembered),
        reason=budget.reason,
    )


# --- price and allowance ----------------------------------------------------------------------------------------------


def risk_of_need(need_bytes: int, left_bytes: int) -> int:
    """The chance, in ppm, that more is needed than is left; it never rises when more is left."""
    if left_bytes <= 0:
        return PPM
    if need_bytes <= 0:
        return 0
    most = need_bytes * (100 + NEED_SPREAD_PERCENT)
    width = need_bytes * 2 * NEED_SPREAD_PERCENT
    return min(max(0, (most - left_bytes * 100) * PPM // width), PPM)


def _look(plan: DataPlan, kinds: Sequence[PlanKind], usage: Usage, outlook: Outlook, unix_s: int) -> _Scene:
    limit = plan.bundle_bytes + usage.voucher_bytes + usage.voucher_left_bytes
    used = usage.used_bytes
    left = max(0, limit - used)
    waiting = {kind.name for kind in kinds if kind.can_wait}
    need = outlook.need_today_bytes * _part_of_day_ppm(usage.today, unix_s) // PPM + outlook.need_later_bytes
    waited_today = sum(count for name, count in usage.on_today.items() if name in waiting)
    allowance = max(0, limit - (used - waited_today) - need) // outlook.days_left
    risk_ppm = 0 if plan.beyond is Beyond.FREE else risk_of_need(need, left)
    price = _value_beyond(plan, kinds) * risk_ppm // PPM
    return _Scene(
        plan=plan,
        usage=usage,
        outlook=outlook,
        unix_s=unix_s,
        limit=limit,
        used=used,
        left=left,
        need=need,
        allowance=allowance,
        risk_ppm=risk_ppm,
        price=price,
        currency_price=show_nanodollars(price, plan.currency),
    )


def _part_of_day_ppm(today: Period, unix_s: int) -> int:
    """How much of a day's need may still come: all of it until noon, since people use little in the night, and then
    less and less.
    """
    return min(PPM, 2 * today.left_s(unix_s) * PPM // today.seconds)


def _value_beyond(plan: DataPlan, kinds: Sequence[PlanKind]) -> int:
    if plan.pays_beyond:
        return plan.beyond_nanodollars_per_mb
    return min((kind.worth_nanodollars_per_mb for kind in kinds if not kind.can_wait), default=0)


def _shares(kinds: Sequence[PlanKind], allowance: int) -> dict[str, int]:
    """Shares that are more than the whole together shrink alike."""
    waiting = [kind for kind in kinds if kind.can_wait]
    whole_ppm = max(PPM, sum(kind.share_ppm for kind in waiting))
    return {kind.name: allowance * kind.share_ppm // whole_ppm for kind in waiting}


# --- verdicts ---------------------------------------------------------------------------------------------------------


def _never_stopped(kind: PlanKind, scene: _Scene) -> Verdict:
    if not scene.is_metered:
        return Verdict(reason="nothing is metered here")
    if scene.left > 0:
        return Verdict(reason="cannot wait: the plan is kept for it")
    if scene.plan.is_hard and not kind.essential:
        return Verdict(
            state=api.KindState.SLOWED,
            cap_bit_s=scene.plan.floor_bit_s,
            reason="the plan is used up and you want nothing beyond it: the least rate until the reset or a top-up",
        )
    if scene.plan.beyond is Beyond.COSTS:
        return Verdict(reason=f"cannot wait: it goes on, at {scene.currency_price} for a megabyte")
    return Verdict(reason=f"cannot wait: it goes on as far as the provider lets it ({scene.plan.beyond.value})")


def _can_wait(kind: PlanKind, share: int, scene: _Scene, before: KindMemory | None) -> tuple[Verdict, KindMemory]:
    runs = _is_worth_it(kind, scene, before)
    verdict = _within(kind, share, scene, before) if runs else _below_price(kind, share, scene)
    moved = before is None or before.runs != runs
    remembered = KindMemory(
        runs=runs,
        since_unix_s=scene.unix_s if moved or before is None else min(before.since_unix_s, scene.unix_s),
        worth_nanodollars_per_mb=kind.worth_nanodollars_per_mb,
        cap_bit_s=verdict.cap_bit_s,
    )
    return verdict, remembered


def _is_worth_it(kind: PlanKind, scene: _Scene, before: KindMemory | None) -> bool:
    """Worth decides; what was decided stays for a while, unless the worth is another one or nothing is scarce."""
    worth = kind.worth_nanodollars_per_mb
    if scene.price == 0:
        return True
    if before is None or before.worth_nanodollars_per_mb != worth:
        return worth >= scene.price
    if 0 <= scene.unix_s - before.since_unix_s < DWELL_S:
        return before.runs
    return worth >= scene.price if before.runs else worth * 100 >= scene.price * (100 + PRICE_MARGIN_PERCENT)


def _below_price(kind: PlanKind, share: int, scene: _Scene) -> Verdict:
    """Its trickle comes out of its share; without a bundle there are no shares, and it is what the user allows."""
    cap = kind.trickle_bit_s
    if scene.limit > 0:
        left = max(0, share - scene.usage.on_today.get(kind.name, 0))
        cap = min(cap, left * BITS_PER_BYTE // max(SHORTEST_DRAIN_S, scene.usage.today.left_s(scene.unix_s)))
    worth = show_nanodollars(kind.worth_nanodollars_per_mb, scene.plan.currency)
    reason = f"can wait: a megabyte costs {scene.currency_price} now and is worth {worth}"
    return Verdict(state=api.KindState.WAITS, cap_bit_s=max(LEAST_BIT_S, cap), reason=reason)


def _within(kind: PlanKind, share: int, scene: _Scene, before: KindMemory | None) -> Verdict:
    plan = scene.plan
    if not scene.is_metered:
        return Verdict(reason="nothing is metered here")
    if scene.left == 0 and plan.pays_beyond:
        return Verdict(reason=f"can wait, but is worth the {scene.currency_price} that a megabyte costs")
    used = scene.usage.on_today.get(kind.name, 0)
    left = max(0, share - used)
    day_left_s = scene.usage.today.left_s(scene.unix_s)
    spare = max(0, left - LEAST_BIT_S * day_left_s // BITS_PER_BYTE)
    drain_s = max(SHORTEST_DRAIN_S, min(DRAIN_S, day_left_s))
    cap = _settled(spare * BITS_PER_BYTE // drain_s, before)
    if cap >= UNCAPPED_BIT_S:
        return Verdict(reason="can wait, but there is plenty")
    of_share = f"{show_bytes(used)} of {show_bytes(share)} of today's share used"
    if left == 0 or cap < kind.trickle_bit_s:
        reason = (
            f"can wait: {of_share}; more tomorrow" if share else "can wait: the plan is needed for worthier traffic"
        )
        return Verdict(state=api.KindState.WAITS, cap_bit_s=max(LEAST_BIT_S, cap), reason=reason)
    return Verdict(state=api.KindState.SLOWED, cap_bit_s=cap, reason=f"can wait: {of_share}")


def _settled(cap_bit_s: int, before: KindMemory | None) -> int:
    """The cap of before while it is about right."""
    was = before.cap_bit_s if before is not None else None
    if was is None or cap_bit_s == 0:
        return cap_bit_s
    is_right = was * (100 - CAP_STEP_PERCENT) <= cap_bit_s * 100 <= was * (100 + CAP_STEP_PERCENT)
    return was if is_right else cap_bit_s


# --- what people see --------------------------------------------------------------------------------------------------


def _bill(scene: _Scene, used_bytes: int) -> Bill:
    usage = scene.usage
    return scene.plan.bill(
        used_bytes,
        voucher_bytes=usage.voucher_bytes + usage.voucher_left_bytes,
        credit_nanodollars=usage.credit_nanodollars,
    )


def _budget(scene: _Scene) -> api.Budget:
    plan, usage, outlook = scene.plan, scene.usage, scene.outlook
    rest = _rest(scene)
    cost = _bill(scene, scene.used + rest).due_nanodollars
    flat = plan.monthly_fee_nanodollars + per_month(cost, usage.period.seconds)
    return api.Budget(
        name=plan.scope,
        unit="bytes",
        period=plan.cycle.value,
        limit=scene.limit,
        used=scene.used,
        resets_unix_s=usage.period.end_unix_s,
        hard=plan.is_hard,
        burn_per_day=rest // outlook.days_left if outlook.is_known else _pace_per_day(scene),
        forecast=scene.used + rest,
        flat_nanodollars_per_month=flat,
        currency=plan.currency,
        reason=_reason(scene, scene.used + rest, flat),
    )


def _pace_per_day(scene: _Scene) -> int:
    """Over a day at least: the first minute says nothing about a month."""
    day_s = scene.usage.today.seconds
    return scene.used * day_s // max(day_s, scene.unix_s - scene.usage.since_unix_s)


def _rest(scene: _Scene) -> int:
    """What will be used from now to the reset, at this pace; who can wait gets no more than his allowance."""
    usage, outlook = scene.usage, scene.outlook
    if not outlook.is_known:
        return _pace_per_day(scene) * usage.period.left_s(scene.unix_s) // usage.today.seconds
    part_ppm = _part_of_day_ppm(usage.today, scene.unix_s)
    waiting = outlook.wait_today_bytes * part_ppm // PPM + outlook.wait_later_bytes
    return scene.need + (min(waiting, max(0, scene.left - scene.need)) if scene.limit else waiting)


def _reason(scene: _Scene, forecast: int, flat_nanodollars: int) -> str:
    currency = scene.plan.currency
    pace = f"at this pace {show_bytes(forecast)} by the reset, {show_month(flat_nanodollars, currency)} a month"
    if scene.limit == 0:
        return pace
    if scene.left == 0:
        beyond = {
            Beyond.COSTS: "nothing beyond it is wanted"
            if scene.plan.is_hard
            else f"a megabyte costs {show_nanodollars(scene.plan.beyond_nanodollars_per_mb, currency)}",
            Beyond.THROTTLED: "the provider throttles",
            Beyond.CUT_OFF: "the provider cuts off",
        }[scene.plan.beyond]
        return f"used up: {beyond} until the reset; {pace}"
    return f"{show_bytes(scene.left)} left; {pace}"


def show_month(nanodollars: int, currency: str) -> str:
    """As on a bill, with hundredths, rounded to the nearest: "14.20 USD"."""
    hundredths = (nanodollars + 5_000_000) // 10_000_000
    return f"{hundredths // 100}.{hundredths % 100:02} {currency}"


def _announce(scene: _Scene, budget: api.Budget, memory: PlanMemory) -> tuple[tuple[Announcement, ...], PlanMemory]:
    """Each once in a period: 50, 80 and 100 % (the highest that is new), and that it will not last."""
    name = scene.plan.scope
    found = []
    reached = reached_percent(scene.used, scene.limit) if scene.limit else 0
    told = still_told(scene.used, scene.limit, told_percent=memory.told_percent, told_limit=memory.told_limit)
    if reached > told:
        text = f"{name}: {reached} % of {show_bytes(scene.limit)} used; {budget.reason}"
        found.append(Announcement(code=f"data-plan-{reached}", message=text))
    is_tight = scene.limit > 0 and scene.risk_ppm >= LIKELY_PPM
    if is_tight and not memory.told_tight and reached < THRESHOLDS_PERCENT[-1]:
        text = f"{name}: at this pace the plan will not last; what can wait slows down or waits; {budget.reason}"
        found.append(Announcement(code="data-plan-tight", message=text))
    kept = PlanMemory(
        start_unix_s=scene.usage.period.start_unix_s,
        told_percent=max(told, reached),
        told_limit=scene.limit,
        told_tight=memory.told_tight or is_tight,
    )
    return tuple(found), kept
