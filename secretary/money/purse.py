"""The purse of a host: what was paid in, what was spent of it, and what open grants still hold. Double entry.

Decides how much a grant may hold, and whose money pays: vouchers first (MV-44), of these the one that expires first,
then money; refuses to know budgets, rules and clocks. Pure, and driven by journalled entries.

- Every amount leaves one account and enters another, so the sum of all is zero, always. The same transfer told twice is
  booked once; the same id for something else is a conflict.
- A grant reserves its cap. What is told as spent is posted at once; its closing posts or gives back the difference and
  voids the rest. So balance = topped up - spent - fees at every moment, also while grants are open.
- A prepaid purse is never below zero. A postpaid one goes down to its credit limit.
- A voucher expires by an entry (`on_time` gives it). What open grants hold of it stays until they are closed.
"""

from __future__ import annotations

import enum
from bisect import insort
from dataclasses import dataclass, field
from typing import Annotated, Final, NamedTuple

import msgspec

from billpay.messages import UnixSeconds

NEVER_UNIX_S: Final = 2**62
UNCONFIRMED_MAX: Final = 1024
"""So many grants that ended without a receipt are remembered, in case that one comes late."""

Paid = Annotated[int, msgspec.Meta(ge=1, le=10**18)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Note = Annotated[str, msgspec.Meta(max_length=256)]


class _Entry(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Base: the type's name travels with it."""


class TopUp(_Entry, frozen=True, kw_only=True):
    """Money came in."""

    transfer: Name
    nanodollars: Paid
    unix_s: UnixSeconds
    note: Note = ""


class VoucherAdded(_Entry, frozen=True, kw_only=True):
    """A lump sum that is spent before money. `expires_unix_s`: 0 for never."""

    transfer: Name
    voucher: Name
    nanodollars: Paid
    unix_s: UnixSeconds
    expires_unix_s: UnixSeconds = 0
    note: Note = ""


class VoucherExpired(_Entry, frozen=True, kw_only=True):
    """What was left of it, and held by no grant."""

    voucher: Name
    nanodollars: Paid
    unix_s: UnixSeconds


class Fee(_Entry, frozen=True, kw_only=True):
    """Of a network or a gateway: not for packets."""

    transfer: Name
    what: Name
    nanodollars: Paid
    unix_s: UnixSeconds


class Refund(_Entry, frozen=True, kw_only=True):
    """Money that was spent came back. `grant`: for which, if for one."""

    transfer: Name
    nanodollars: Paid
    unix_s: UnixSeconds
    grant: Note = ""
    note: Note = ""


Transferred = TopUp | VoucherAdded | Fee | Refund
PurseEntry = Transferred | VoucherExpired


class PurseResult(enum.Enum):
    """Why a transfer is booked or not."""

    APPLIED = "booked"
    DUPLICATE = "it was booked before"  # success: nothing happens twice
    CONFLICT = "its id was used for something else"
    VOUCHER_KNOWN = "a voucher of that name came in before"
    EXPIRED = "the voucher has expired"
    NOT_COVERED = "there is not so much in the purse: top it up"

    @property
    def holds(self) -> bool:
        return self in (PurseResult.APPLIED, PurseResult.DUPLICATE)


class PurseAccount(enum.Enum):
    """Debits less credits: what we have is above zero, and so is what we spent."""

    MONEY = "money"
    VOUCHERS = "vouchers"
    TOP_UPS = "top-ups"
    VOUCHERS_ISSUED = "vouchers issued"
    REFUNDS = "refunds"
    EXPIRED = "expired"
    SPENT = "spent"
    FEES = "fees"


class Posting(NamedTuple):
    """What was paid, and of what; below zero for what a gateway's receipt gave back."""

    voucher_nanodollars: int = 0
    money_nanodollars: int = 0

    @property
    def nanodollars(self) -> int:
        return self.voucher_nanodollars + self.money_nanodollars


NOTHING_POSTED: Final = Posting()


@dataclass(slots=True, order=True)
class _Voucher:
    """Ordered as they are spent."""

    expires_unix_s: int
    name: str
    left_nanodollars: int = field(compare=False)


@dataclass(slots=True)
class _Held:
    """An open grant. `parts`: what paid for it, in order; None is money."""

    cap_nanodollars: int = 0
    told_nanodollars: int = 0
    parts: list[tuple[_Voucher | None, int]] = field(default_factory=list)


class HeldKept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`parts`: a voucher's place in `PurseKept.vouchers`, or -1 for money, and how much of it."""

    grant: str
    is_open: bool
    cap_nanodollars: int
    told_nanodollars: int
    parts: tuple[tuple[int, int], ...]


class PurseKept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state at an entry. `vouchers`: expiry, name, what is left; also used ones that a grant may give back to."""

    balances: dict[PurseAccount, int]
    vouchers: tuple[tuple[int, str, int], ...]
    held: tuple[HeldKept, ...]
    known: tuple[Transferred, ...]


class Purse:
    """The state that entries make. `credit_nanodollars`: how far below zero it may go; 0: prepaid."""

    def __init__(self, *, credit_nanodollars: int = 0) -> None:
        self.credit_nanodollars = credit_nanodollars
        self.balances = dict.fromkeys(PurseAccount, 0)
        self.reserved_nanodollars = 0
        self._vouchers: list[_Voucher] = []
        self._open: dict[str, _Held] = {}
        self._unconfirmed: dict[str, _Held] = {}
        self._known: dict[str, Transferred] = {}
        self._voucher_names: set[str] = set()

    # --- asking -----------------------------------------------------------------------------------------------------

    @property
    def balance_nanodollars(self) -> int:
        """Money and vouchers, of which open grants hold a part."""
        return self.balances[PurseAccount.MONEY] + self.balances[PurseAccount.VOUCHERS]

    @property
    def voucher_nanodollars(self) -> int:
        return self.balances[PurseAccount.VOUCHERS]

    def left_nanodollars(self, unix_s: int) -> int:
        """For grants that are not open yet."""
        expired = sum(nanodollars for _, nanodollars in self._expired(unix_s))
        return max(0, self.balance_nanodollars + self.credit_nanodollars - self.reserved_nanodollars - expired)

    def highest_cap(self, grant: str, unix_s: int) -> int:
        """The cap that an open grant could have; never below the one that it has."""
        return self._open[grant].cap_nanodollars + self.left_nanodollars(unix_s)

    def is_open(self, grant: str) -> bool:
        return grant in self._open

    def is_unconfirmed(self, grant: str) -> bool:
        """It ended without its gateway's receipt, which may still come."""
        return grant in self._unconfirmed

    def vouchers(self) -> tuple[tuple[str, int, int], ...]:
        """Name, what is left, and when it expires (0: never), in the order in which they are spent."""
        return tuple((v.name, v.left_nanodollars, v.expires_unix_s % NEVER_UNIX_S) for v in self._vouchers)

    def judge(self, entry: Transferred) -> PurseResult:
        """What becomes of a transfer; only what is APPLIED belongs in the journal."""
        same_id = self._known.get(entry.transfer)
        if same_id is not None:
            return PurseResult.DUPLICATE if _about(same_id) == _about(entry) else PurseResult.CONFLICT
        match entry:
            case VoucherAdded() if entry.voucher in self._voucher_names:
                return PurseResult.VOUCHER_KNOWN
            case VoucherAdded() if 0 < entry.expires_unix_s <= entry.unix_s:
                return PurseResult.EXPIRED
            case Fee() if entry.nanodollars > self.left_nanodollars(entry.unix_s):
                return PurseResult.NOT_COVERED
        return PurseResult.APPLIED

    # --- entries ----------------------------------------------------------------------------------------------------

    def on_time(self, unix_s: int) -> tuple[VoucherExpired, ...]:
        """The entries for vouchers that have expired, as far as no grant holds them."""
        return tuple(
            VoucherExpired(voucher=voucher.name, nanodollars=nanodollars, unix_s=unix_s)
            for voucher, nanodollars in self._expired(unix_s)
        )

    def apply(self, entry: PurseEntry) -> Posting | None:
        """None: it was there before. What is paid for a fee; nothing for what came in.

        A fee that is not covered is booked all the same: it is in the journal, since it was covered by the terms of
        that day.
        """
        if isinstance(entry, VoucherExpired):
            return self._expire(entry)
        if entry.transfer in self._known:
            return None
        self._known[entry.transfer] = entry
        match entry:
            case TopUp():
                self._move(PurseAccount.MONEY, PurseAccount.TOP_UPS, entry.nanodollars)
            case Refund():
                self._move(PurseAccount.MONEY, PurseAccount.REFUNDS, entry.nanodollars)
            case VoucherAdded():
                self._voucher_names.add(entry.voucher)
                insort(self._vouchers, _Voucher(entry.expires_unix_s or NEVER_UNIX_S, entry.voucher, entry.nanodollars))
                self._move(PurseAccount.VOUCHERS, PurseAccount.VOUCHERS_ISSUED, entry.nanodollars)
            case Fee():
                return self._pay(PurseAccount.FEES, self._take(entry.nanodollars))
        return NOTHING_POSTED

    def reserve(self, grant: str, cap_nanodollars: int) -> None:
        """Opens a grant, or raises its cap; the caller has asked how much is left."""
        held = self._open.setdefault(grant, _Held())
        more = max(0, cap_nanodollars - held.cap_nanodollars)
        held.cap_nanodollars += more
        self.reserved_nanodollars += more

    def told(self, grant: str, spent_nanodollars: int) -> Posting:
        """So much was spent of an open grant in all: at most its cap, and never less than before."""
        held = self._open.get(grant)
        if held is None:
            return NOTHING_POSTED
        return self._settle(held, max(held.told_nanodollars, min(spent_nanodollars, held.cap_nanodollars)))

    def close(self, grant: str, spent_nanodollars: int, *, confirmed: bool = True) -> Posting:
        """What was told beyond it comes back to where it came from, and what was not spent is free again.

        `confirmed`: its gateway's receipt says so. A receipt that comes late gives back what was assumed too much; it
        cannot take more. A grant that is neither open nor unconfirmed changes nothing.
        """
        held = self._open.pop(grant, None)
        if held is None:
            return self._confirm(grant, spent_nanodollars) if confirmed else NOTHING_POSTED
        posting = self._settle(held, min(max(0, spent_nanodollars), held.cap_nanodollars))
        self.reserved_nanodollars -= held.cap_nanodollars - held.told_nanodollars
        if not confirmed:
            self._unconfirmed[grant] = held
            if len(self._unconfirmed) > UNCONFIRMED_MAX:
                del self._unconfirmed[next(iter(self._unconfirmed))]
        return posting

    def _confirm(self, grant: str, spent_nanodollars: int) -> Posting:
        held = self._unconfirmed.pop(grant, None)
        if held is None:
            return NOTHING_POSTED
        too_much = held.told_nanodollars - max(0, spent_nanodollars)
        return self._pay(PurseAccount.SPENT, self._give_back(held, max(0, too_much)))

    def keep(self) -> PurseKept:
        grants = [(True, *each) for each in self._open.items()] + [(False, *each) for each in self._unconfirmed.items()]
        vouchers = list(self._vouchers)
        vouchers += [source for _, _, held in grants for source, _ in held.parts if source is not None]
        distinct = list({id(voucher): voucher for voucher in vouchers}.values())
        places = {id(voucher): place for place, voucher in enumerate(distinct)}
        return PurseKept(
            balances=dict(self.balances),
            vouchers=tuple((each.expires_unix_s, each.name, each.left_nanodollars) for each in distinct),
            held=tuple(
                HeldKept(
                    grant=grant,
                    is_open=is_open,
                    cap_nanodollars=held.cap_nanodollars,
                    told_nanodollars=held.told_nanodollars,
                    parts=tuple((places[id(source)] if source else -1, paid) for source, paid in held.parts),
                )
                for is_open, grant, held in grants
            ),
            known=tuple(self._known.values()),
        )

    def restore(self, kept: PurseKept) -> None:
        """Of the same credit; into a new one."""
        self.balances.update(kept.balances)
        vouchers = [_Voucher(*each) for each in kept.vouchers]
        self._vouchers = sorted(each for each in vouchers if each.left_nanodollars)
        for each in kept.held:
            parts = [(vouchers[place] if place >= 0 else None, paid) for place, paid in each.parts]
            held = _Held(each.cap_nanodollars, each.told_nanodollars, parts)
            (self._open if each.is_open else self._unconfirmed)[each.grant] = held
            self.reserved_nanodollars += each.is_open * (each.cap_nanodollars - each.told_nanodollars)
        self._known = {each.transfer: each for each in kept.known}
        self._voucher_names = {each.voucher for each in kept.known if isinstance(each, VoucherAdded)}

    def state(self) -> tuple[object, ...]:
        """All of it, comparable."""
        vouchers = [(each.name, each.left_nanodollars, each.expires_unix_s) for each in self._vouchers]
        grants = [
            (grant, held.cap_nanodollars, held.told_nanodollars, [(v.name if v else "", n) for v, n in held.parts])
            for grant, held in (*self._open.items(), *self._unconfirmed.items())
        ]
        return dict(self.balances), self.reserved_nanodollars, vouchers, grants, dict(self._known)

    # --- double entry -----------------------------------------------------------------------------------------------

    def _move(self, debit: PurseAccount, credit: PurseAccount, nanodollars: int) -> None:
        self.balances[debit] += nanodollars
        self.balances[credit] -= nanodollars

    def _settle(self, held: _Held, told_nanodollars: int) -> Posting:
        more = told_nanodollars - held.told_nanodollars
        held.told_nanodollars = told_nanodollars
        self.reserved_nanodollars -= more
        if more >= 0:
            parts = self._take(more)
            for part in parts:
                _append(held.parts, part)
            return self._pay(PurseAccount.SPENT, parts)
        return self._pay(PurseAccount.SPENT, self._give_back(held, -more))

    def _pay(self, account: PurseAccount, parts: list[tuple[_Voucher | None, int]]) -> Posting:
        vouchers = sum(nanodollars for voucher, nanodollars in parts if voucher is not None)
        money = sum(nanodollars for voucher, nanodollars in parts if voucher is None)
        self._move(account, PurseAccount.VOUCHERS, vouchers)
        self._move(account, PurseAccount.MONEY, money)
        return Posting(vouchers, money)

    def _take(self, nanodollars: int) -> list[tuple[_Voucher | None, int]]:
        """Of vouchers in their order, then of money."""
        parts: list[tuple[_Voucher | None, int]] = []
        while nanodollars and self._vouchers:
            first = self._vouchers[0]
            part = min(first.left_nanodollars, nanodollars)
            first.left_nanodollars -= part
            nanodollars -= part
            parts.append((first, part))
            if not first.left_nanodollars:
                del self._vouchers[0]
        if nanodollars:
            parts.append((None, nanodollars))
        return parts

    def _give_back(self, held: _Held, nanodollars: int) -> list[tuple[_Voucher | None, int]]:
        """The last that was taken goes back first; amounts below zero."""
        back: list[tuple[_Voucher | None, int]] = []
        while nanodollars:
            source, paid = held.parts.pop()
            part = min(paid, nanodollars)
            nanodollars -= part
            back.append((source, -part))
            if paid > part:
                held.parts.append((source, paid - part))
            if source is not None:
                if not source.left_nanodollars:
                    insort(self._vouchers, source)
                source.left_nanodollars += part
        return back

    def _expired(self, unix_s: int) -> list[tuple[_Voucher, int]]:
        """What has expired and is not held: grants hold what expires first before what expires later."""
        expired = []
        held = self.reserved_nanodollars
        for voucher in self._vouchers:
            if voucher.expires_unix_s > unix_s:
                break
            kept = min(held, voucher.left_nanodollars)
            held -= kept
            if voucher.left_nanodollars > kept:
                expired.append((voucher, voucher.left_nanodollars - kept))
        return expired

    def _expire(self, entry: VoucherExpired) -> Posting | None:
        for number, voucher in enumerate(self._vouchers):
            if voucher.name == entry.voucher:
                gone = min(entry.nanodollars, voucher.left_nanodollars)
                voucher.left_nanodollars -= gone
                if not voucher.left_nanodollars:
                    del self._vouchers[number]
                self._move(PurseAccount.EXPIRED, PurseAccount.VOUCHERS, gone)
                return Posting(gone, 0)
        return None


def _about(entry: Transferred) -> tuple[object, ...]:
    """What makes it the same transfer: not when it was told, nor what is noted beside it."""
    fields = [each for each in entry.__struct_fields__ if each not in ("transfer", "unix_s", "note")]
    return type(entry).__name__, *(getattr(entry, each) for each in fields)


def _append(parts: list[tuple[_Voucher | None, int]], part: tuple[_Voucher | None, int]) -> None:
    if parts and parts[-1][0] is part[0]:
        part = (part[0], parts.pop()[1] + part[1])
    parts.append(part)
