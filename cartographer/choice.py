"""Which alternative to ask each ISP for, and why every other one was rejected.

Decides from what is known alone; refuses to know how it became known (map), when to find out more (probing) and how
much is paid.  Cost of a path = toll + value of delay × round trip; one ISP at a time moves, the one where it saves
most, and only if that is worth it and the last move has had time to show its effect.

Two ways to ask.  Known alternatives are asked for by number.  Unknown ones are found by calling the known ones
undesirable: the ISP takes another and says which.  Where its default is accepted nothing is asked at all.  Tolls are
compared as they were measured, else as the ISP's description promises them for both.  Source: Bill-Pay 2.2.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from billpay.header import MAX_OADS, NO_CHOICE, Slot, user_oad
from cartographer.map import ANY_OTHER, AlternativeFacts, IspFacts, Measured
from cartographer.policy import PathPolicy

FREE_SLOT = Slot(0, 0, 0)  # room for an ISP-OAD: an ISP uses the slot with its number, else the first free one
_PPM = 1_000_000
_PICODOLLARS = 1000  # in a nanodollar; also: 1 n$/ms is a picodollar for each 1000 ns
_S = 1_000_000_000
_LEAST = -(2**63)  # below every saving


@dataclass(frozen=True, slots=True, kw_only=True)
class PathChoice:
    """What the packets for a destination should say, and the reasons in words."""

    slots: tuple[Slot, ...]  # user-OADs in path order, free slots for the other ISPs and one to spare
    chosen: tuple[tuple[int, int | None], ...]  # for each AS on the path the number asked for; None: the ISP's default
    reason: str
    rejected: tuple[tuple[int, int, str], ...] = ()  # AS, alternative, why not
    left: tuple[int, int] | None = None  # AS and alternative that the traffic leaves with this choice

    def wishes(self) -> dict[int, Slot]:
        return {slot.as_number: slot for slot in self.slots if slot.as_number}


@dataclass(slots=True, kw_only=True)
class _Deliberation:
    """The choice while it is being made."""

    path: tuple[IspFacts, ...]
    policy: PathPolicy
    now_ns: int
    wishes: dict[int, Slot] = field(default_factory=dict)
    rejected: list[tuple[int, int, str]] = field(default_factory=list)
    left: tuple[int, int] | None = None
    taken: tuple[int, int] | None = None
    reason: str = ""

    def move(self, isp: IspFacts, number: int, reason: str) -> None:
        """The one switch of this choice."""
        wish = find_other(isp) if number == ANY_OTHER else wish_for(isp, number)
        _set(self.wishes, isp.as_number, wish)
        self.left, self.taken = (isp.as_number, isp.current), (isp.as_number, number)
        self.reason = f"AS {isp.as_number}: {reason}"


def choose(
    path: tuple[IspFacts, ...],
    policy: PathPolicy,
    *,
    now_ns: int,
    switched_ns: int | None = None,
    other_path: bool = False,
) -> PathChoice:
    """The choice for the traffic; `other_path`: it is too slow as it is, so move even if that saves nothing."""
    making = _Deliberation(path=path, policy=policy, now_ns=now_ns)
    for isp in path:
        _set(making.wishes, isp.as_number, _kept_wish(isp, now_ns))
    lapsed = [isp for isp in path if isp.wish is not None and isp.as_number not in making.wishes]
    resting = switched_ns is not None and now_ns - switched_ns < policy.dwell_ns
    if lapsed:
        making.reason = "; ".join(_why_lapsed(isp, now_ns) for isp in lapsed)
    elif other_path and not resting:
        _move_anywhere_else(making)
    _weigh(making, may_move=not (resting or lapsed or other_path), resting=resting)
    return PathChoice(
        slots=slots_for(path, making.wishes, policy),
        chosen=tuple((isp.as_number, _number_in(making.wishes.get(isp.as_number))) for isp in path),
        reason=making.reason or _steady_reason(making),
        rejected=tuple(making.rejected),
        left=making.left,
    )


def slots_for(path: tuple[IspFacts, ...], wishes: Mapping[int, Slot], policy: PathPolicy) -> tuple[Slot, ...]:
    """A slot for each ISP on the path, its user-OAD or free, and a spare one, which shows when a path is longer."""
    if not path:
        return (FREE_SLOT,) * policy.first_slots
    return (*(wishes.get(isp.as_number, FREE_SLOT) for isp in path), FREE_SLOT)[:MAX_OADS]


def wish_for(isp: IspFacts, number: int) -> Slot | None:
    """Asks for an alternative by its number; asks nothing for what the ISP does anyway."""
    return None if number == isp.default else user_oad(isp.as_number, choice=number)


def find_other(isp: IspFacts) -> Slot:
    """Asks for none of the known alternatives, so that the ISP shows one that we do not know."""
    undesirable = {number for number in isp.available if isp.alternatives[number].known} | {isp.current}
    return user_oad(isp.as_number, undesirable=undesirable)


def unknown(isp: IspFacts) -> tuple[int, ...]:
    """Alternatives of which nothing is known but that they exist."""
    return tuple(number for number in isp.available if number != isp.current and not isp.alternatives[number].known)


def fresh(measured: Measured | None, policy: PathPolicy, now_ns: int) -> int | None:
    """A measured number that can still be trusted."""
    return measured.value if measured is not None and now_ns - measured.at_ns <= policy.max_age_ns else None


# --- wishes that stay ------------------------------------------------------------------------------------------------


def _kept_wish(isp: IspFacts, now_ns: int) -> Slot | None:
    """The present wish, if it still makes sense; one without a number gets it once the ISP has shown what it takes."""
    wish = isp.wish
    if wish is None:
        return None
    if wish.choice != NO_CHOICE:
        if wish.choice not in isp.available or isp.alternatives[wish.choice].silent_until_ns > now_ns:
            return None
        return wish_for(isp, wish.choice)
    undesirable = {number for number in isp.available if wish.alternatives >> (number - 1) & 1}
    if isp.present in isp.available and isp.present not in undesirable:
        return wish_for(isp, isp.present)
    if isp.any_other.silent_until_ns > now_ns or undesirable.issuperset(isp.available):
        return None
    return wish


def _why_lapsed(isp: IspFacts, now_ns: int) -> str:
    number = isp.wish.choice if isp.wish is not None else NO_CHOICE
    facts = isp.any_other if number == NO_CHOICE else isp.alternatives.get(number)
    if facts is not None and facts.silent_until_ns > now_ns:
        what = f"alternative {number}" if number else "another alternative"
        return f"AS {isp.as_number} ignores the wish for {what}, so its default {isp.default or ''}".rstrip()
    if facts is not None and isp.default is not None:
        return f"AS {isp.as_number}: {isp.default} by default, so that nothing needs to be asked"
    return f"AS {isp.as_number} does not have what was asked for any more, so its default"


# --- moving ----------------------------------------------------------------------------------------------------------


def _move_anywhere_else(making: _Deliberation) -> None:
    """To the cheapest other alternative that is not avoided; else to an unknown one; else the longest avoided."""
    now_ns = making.now_ns
    known: list[tuple[bool, int, IspFacts, int]] = []
    for isp, facts in _candidates(making.path):
        if facts.known and facts.silent_until_ns <= now_ns:
            avoided = facts.avoid_until_ns > now_ns
            saves = saving_picodollars(isp, facts, making.policy, now_ns)
            preference = -facts.avoid_until_ns if avoided else _LEAST if saves is None else saves
            known.append((not avoided, preference, isp, facts.number))
    best = max(known, key=lambda item: item[:2], default=None)
    if best is not None and best[0]:
        making.move(best[2], best[3], f"to alternative {best[3]}, because {best[2].current} was too slow")
        return
    for isp in making.path:
        if unknown(isp) and isp.any_other.silent_until_ns <= now_ns:
            making.move(isp, ANY_OTHER, f"to any alternative but {isp.current}, because that was too slow")
            return
    if best is not None:
        making.move(best[2], best[3], f"back to alternative {best[3]}, because {best[2].current} was too slow too")


def _weigh(making: _Deliberation, *, may_move: bool, resting: bool) -> None:
    """Finds the move that saves most, makes it if it may, and says of every other one why not."""
    best: tuple[int, IspFacts, AlternativeFacts] | None = None
    worth: list[tuple[IspFacts, AlternativeFacts, int]] = []
    for isp, facts in _candidates(making.path):
        objection = _objection(isp, facts, making.policy, making.now_ns)
        if objection is not None:
            making.rejected.append((isp.as_number, facts.number, objection))
            continue
        saves = saving_picodollars(isp, facts, making.policy, making.now_ns) or 0
        worth.append((isp, facts, saves))
        if best is None or saves > best[0]:
            best = (saves, isp, facts)
    if best is not None and may_move:
        saves, isp, facts = best
        of = _money(cost_picodollars(isp, making.policy, making.now_ns))
        making.move(
            isp, facts.number, f"from alternative {isp.current} to {facts.number}, saves {_money(saves)} of {of}"
        )
    why = "the last switch has to show its effect first" if resting else "another one is better"
    for isp, facts, saves in worth:
        if (isp.as_number, facts.number) != making.taken:
            making.rejected.append((isp.as_number, facts.number, f"saves {_money(saves)}, but {why}"))
    if making.left is not None:
        making.rejected.append((*making.left, "the traffic has just left it"))


def _candidates(path: tuple[IspFacts, ...]) -> Iterator[tuple[IspFacts, AlternativeFacts]]:
    for isp in path:
        for number in isp.available:
            if number != isp.current:
                yield isp, isp.alternatives[number]


def _objection(isp: IspFacts, facts: AlternativeFacts, policy: PathPolicy, now_ns: int) -> str | None:
    """Why an alternative cannot be better than the current one; None if it is."""
    if facts.silent_until_ns > now_ns:
        return f"the ISP ignored {policy.ignored_limit} wishes for it"
    if facts.avoid_until_ns > now_ns:
        return "a transfer was too slow over it a moment ago"
    if not facts.known:
        return "nobody has tried it yet"
    saves = saving_picodollars(isp, facts, policy, now_ns)
    if saves is None:
        return _why_incomparable(facts, policy, now_ns)
    if saves <= 0:
        return f"costs {_money(-saves)} more" if saves else "costs as much"
    cost = cost_picodollars(isp, policy, now_ns)
    if saves * _PPM <= cost * policy.better_by_ppm or saves < policy.better_by_nanodollars * _PICODOLLARS:
        return f"saves {_money(saves)} of {_money(cost)}, which is too little for a switch"
    return None


def _why_incomparable(facts: AlternativeFacts, policy: PathPolicy, now_ns: int) -> str:
    measured_ns = facts.measured_ns()
    if measured_ns is not None and now_ns - measured_ns > policy.max_age_ns:
        return f"last measured {(now_ns - measured_ns) // _S} s ago, too long to trust"
    return "too little is known to compare it"


# --- money -----------------------------------------------------------------------------------------------------------


def saving_picodollars(isp: IspFacts, facts: AlternativeFacts, policy: PathPolicy, now_ns: int) -> int | None:
    """What a packet saves over another alternative than the current one of an ISP; None: it cannot be said."""
    base = isp.alternatives.get(isp.current) or AlternativeFacts(number=isp.current)
    tolls = _Pair(
        base.toll_nanodollars,
        facts.toll_nanodollars,
        base.promise.toll_nanodollars if base.promise else None,
        facts.promise.toll_nanodollars if facts.promise else None,
        facts.seen,
    )
    delays = _Pair(
        base.round_trip_ns,
        facts.round_trip_ns,
        base.promise.delay_ns if base.promise else None,
        facts.promise.delay_ns if facts.promise else None,
        facts.seen,
    )
    weights = [(tolls, _PICODOLLARS, 1)]
    if policy.delay_value_nanodollars_per_ms:
        weights.append((delays, policy.delay_value_nanodollars_per_ms, 1000))
    total: int | None = None
    for pair, numerator, denominator in weights:
        if pair.is_blank():
            continue  # neither has it, so it decides nothing
        less = pair.difference(policy, now_ns)
        if less is None:
            return None
        total = (total or 0) + less * numerator // denominator
    return total


@dataclass(frozen=True, slots=True)
class _Pair:
    """One number of the current alternative and of another one, as measured and as promised."""

    base: Measured | None
    other: Measured | None
    base_promise: int | None
    other_promise: int | None
    other_seen: bool

    def is_blank(self) -> bool:
        return all(value is None for value in (self.base, self.other, self.base_promise, self.other_promise))

    def difference(self, policy: PathPolicy, now_ns: int) -> int | None:
        """How much lower the other one is. A promise counts only until somebody has gone there and could measure."""
        if not self.other_seen:
            if self.base_promise is None or self.other_promise is None:
                return None
            return self.base_promise - self.other_promise
        base, other = fresh(self.base, policy, now_ns), fresh(self.other, policy, now_ns)
        return None if base is None or other is None else base - other


def cost_picodollars(isp: IspFacts, policy: PathPolicy, now_ns: int) -> int:
    """What a packet costs over the current alternative, as far as known."""
    facts = isp.alternatives.get(isp.current) or AlternativeFacts(number=isp.current)
    promise = facts.promise
    toll = fresh(facts.toll_nanodollars, policy, now_ns)
    delay_ns = fresh(facts.round_trip_ns, policy, now_ns)
    if toll is None:
        toll = promise.toll_nanodollars if promise else None
    if delay_ns is None:
        delay_ns = promise.delay_ns if promise else None
    return (toll or 0) * _PICODOLLARS + (delay_ns or 0) * policy.delay_value_nanodollars_per_ms // 1000


# --- words -----------------------------------------------------------------------------------------------------------


def _steady_reason(making: _Deliberation) -> str:
    if not making.path:
        return "nothing is known of the path yet"
    lines = []
    for isp in making.path:
        number = _number_in(making.wishes.get(isp.as_number))
        if number is not None:
            lines.append(f"AS {isp.as_number}: {number} as asked for")
        elif isp.as_number in making.wishes:
            lines.append(f"AS {isp.as_number}: any other than {isp.present}, as asked for")
        else:
            lines.append(f"AS {isp.as_number}: {isp.present} by default")
    toll = making.path[0].alternatives.get(making.path[0].current)
    known = fresh(toll.toll_nanodollars, making.policy, making.now_ns) if toll is not None else None
    return "; ".join(lines) + ("" if known is None else f"; the whole toll is {known} n$")


def _money(picodollars: int) -> str:
    whole, rest = divmod(picodollars, _PICODOLLARS)
    return f"{whole} n$" if not rest else f"{whole}.{rest // 100} n$"


def _number_in(wish: Slot | None) -> int | None:
    return wish.choice if wish is not None and wish.choice != NO_CHOICE else None


def _set(wishes: dict[int, Slot], as_number: int, wish: Slot | None) -> None:
    if wish is None:
        wishes.pop(as_number, None)
    else:
        wishes[as_number] = wish
