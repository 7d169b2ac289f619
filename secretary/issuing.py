"""Issues grants: what a flow may spend, and what may go back of what arrived.

Decides every grant's document by terms that were judged and by what budgets and purse have left; refuses to know how
terms come about (`secretary.judging`), sockets, files, clocks and randomness (`draw(n)` gives n random bytes). Pure,
and driven by a journal: a decision is an entry, entries applied in order are the state, so a secretary that was killed
is the same one again.

A grant that is open counts whole, whatever its host says: what it did not spend is free only by its gateway's receipt,
or else never. So whoever has the host's agent in hand can spend the open grants, and not a nanodollar more.

Source: Bill-Pay 2.4 (the digital secretary authorises each payment); ARCHITECTURE ("grant").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from billpay.header import MAX_AMOUNT_NANODOLLARS
from billpay.messages import ECHO_PORT, FlowSelector, Grant, GrantKind
from secretary.money.budgets import Announcement
from secretary.money.purse import VoucherExpired
from secretary.money.reserving import Budgets, GrantScope, PeriodsMoved, scope_of
from secretary.money.spending import GrantContext, Reserved, Settled, SpendTold, Word
from secretary.money.treasury import Treasury
from secretary.ruling.rules import Rule, check_exact
from secretary.transfers import Transfer

GRANT_ID_BYTES: Final = 16
KEY_BYTES: Final = 16
EXPIRY_GRACE_S: Final = 120
"""A gateway's clock may be behind: until then a grant that nobody closed counts as open."""
ASSUMED_MAX: Final = 4096
RETURN_RULE: Final = "returns"
RETURNS: Final = GrantScope()
PROBES: Final = " (probes)"
TEXT_MAX: Final = 240
UDP: Final = 17
NO_TRANSFER: Final = Transfer()


class Terms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a flow gets a grant for. `limit_nanodollars`: in all, however often the grant is raised; None: as far as
    budgets go. `unasked`: on the learner's word alone. `probes_of`: the grant of the timely flow whose ways are probed.
    """

    rule: str
    strategy: str = "fixed"
    amount_nanodollars: int = 0
    willingness_nanodollars: int = 0
    target_bit_s: int = 0
    probes_nanodollars: int = 0
    probes_of: str = ""
    grant_nanodollars: int
    rate_nanodollars_per_s: int
    burst_nanodollars: int
    lifetime_s: int = 600
    limit_nanodollars: int | None = None
    unasked: bool = False
    why: str = ""

    @property
    def least_nanodollars(self) -> int:
        """One packet."""
        return max(1, self.amount_nanodollars)

    def wanted_cap(self, spent_nanodollars: int) -> int:
        wanted = spent_nanodollars + self.grant_nanodollars
        return wanted if self.limit_nanodollars is None else min(wanted, self.limit_nanodollars)


def terms_of(rule: Rule, why: str = "") -> Terms:
    """Of a rule that says how a grant is made out."""
    return Terms(
        rule=rule.name,
        strategy=rule.strategy,
        amount_nanodollars=rule.amount_nanodollars,
        willingness_nanodollars=rule.willingness_nanodollars,
        target_bit_s=rule.target_bit_s,
        probes_nanodollars=rule.probes_nanodollars,
        grant_nanodollars=rule.grant_nanodollars,
        rate_nanodollars_per_s=rule.rate_nanodollars_per_s,
        burst_nanodollars=rule.burst_nanodollars,
        lifetime_s=rule.lifetime_s,
        why=why,
    )


def probes_of(flow: FlowSelector, opened: Opened | None, gateway: str) -> tuple[Terms, Transfer] | Denial:
    """What probes of an open timely flow's ways get: for each as much as the flow itself may carry, in all no more than
    its rule gives for them. On statements they are lines of their own, by their destination.
    """
    terms = opened.terms if opened is not None else None
    if opened is None or terms is None:
        return Denial("unknown-grant", "the grant whose ways are to be probed is not open")
    of = opened.grant
    is_probe = (flow.protocol, flow.destination_port) == (UDP, ECHO_PORT)
    if not is_probe or (flow.source, flow.destination, gateway) != (of.flow.source, of.flow.destination, of.gateway):
        return Denial("other-flow", "these are no probes of that flow's ways")
    if not terms.probes_nanodollars or not terms.willingness_nanodollars:
        return Denial("no-rule", f"rule {terms.rule} pays for no probes")
    probing = msgspec.structs.replace(
        terms,
        strategy="fixed",
        amount_nanodollars=terms.willingness_nanodollars,
        target_bit_s=0,
        probes_nanodollars=0,
        probes_of=of.grant,
        grant_nanodollars=terms.probes_nanodollars,
        limit_nanodollars=terms.probes_nanodollars,
        burst_nanodollars=max(terms.burst_nanodollars, terms.willingness_nanodollars),
        unasked=False,
        why=f"probes for {terms.rule}",
    )
    destination = f"{opened.transfer.destination[:TEXT_MAX]}{PROBES}"
    return probing, msgspec.structs.replace(opened.transfer, destination=destination, size_bytes=0, price_nanodollars=0)


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """A grant was issued, or replaced by one with a higher serial; `spent_nanodollars` is what its host said then."""

    grant: Grant
    rule: str
    spent_nanodollars: int = 0
    unix_s: int = 0
    terms: Terms | None = None  # None: of a return
    transfer: Transfer = NO_TRANSFER


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """A grant was closed, or had expired; `unix_s` says on which day what was spent counts."""

    grant: str
    spent_nanodollars: int
    unix_s: int
    word: Word = Word.ASSUMED
    counted_nanodollars: int | None = None  # by the host itself


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnPolicy:
    """What this host keeps of each paid packet that arrives, and the bounds for what goes back.

    `float_nanodollars`: a return grant's cap runs ahead of the receipts by so much, so that no reply has to wait for
    the next document.
    """

    share_nanodollars: int = 0
    float_nanodollars: int = 1_000_000
    ceiling_nanodollars: int = 1_000_000
    lifetime_s: int = 600
    day_nanodollars: int = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a flow goes unpaid."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Decided:
    """The grant and its terms (None: a return); `entry` has to be in the journal before anybody hears of it."""

    grant: Grant
    terms: Terms | None
    entry: Opened | None


class Issuer:
    """The state that the journal's entries make."""

    def __init__(
        self,
        *,
        treasury: Treasury,
        return_budgets: Budgets,
        returns: ReturnPolicy,
        draw: Callable[[int], bytes],
    ) -> None:
        self._treasury = treasury
        self._return_budgets = return_budgets
        self.returns = returns
        self._draw = draw
        self._open: dict[str, Opened] = {}
        self._assumed: dict[str, Opened] = {}
        self._by_flow: dict[tuple[GrantKind, FlowSelector, str], str] = {}

    @property
    def open_grants(self) -> list[Opened]:
        return list(self._open.values())

    def opened(self, grant: str) -> Opened | None:
        """As it stands; None: it is not open."""
        return self._open.get(grant)

    def assumed(self, grant: str) -> Opened | None:
        """One that ended without its gateway's word."""
        return self._assumed.get(grant)

    def known(self, flow: FlowSelector, gateway: str) -> Opened | None:
        """The open grant with which the flow pays at this gateway (by fingerprint)."""
        return self._known(GrantKind.SPEND, flow, gateway)

    # --- the journal ------------------------------------------------------------------------------------------------

    def apply(self, entry: Opened | Ended) -> tuple[Announcement, ...]:
        """Gives what is to be told of budgets."""
        self._return_budgets.move(entry.unix_s)
        if isinstance(entry, Opened):
            return self._apply_opened(entry)
        opened = self._open.pop(entry.grant, None)
        if opened is not None:
            self._remember(opened, entry)
            grant = opened.grant
            self._by_flow.pop((grant.kind, grant.flow, grant.gateway), None)
            if grant.kind is GrantKind.RETURN:
                self._return_budgets.close(entry.grant, entry.spent_nanodollars, entry.unix_s)
                return ()
        elif entry.word is Word.CONFIRMED:
            self._assumed.pop(entry.grant, None)
        return self._treasury.apply(settled_of(entry))

    def _remember(self, opened: Opened, entry: Ended) -> None:
        """A receipt may still come."""
        if entry.word is Word.ASSUMED:
            self._assumed[entry.grant] = opened
            if len(self._assumed) > ASSUMED_MAX:
                del self._assumed[next(iter(self._assumed))]

    def _apply_opened(self, entry: Opened) -> tuple[Announcement, ...]:
        grant = entry.grant
        self._open[grant.grant] = entry
        self._by_flow[grant.kind, grant.flow, grant.gateway] = grant.grant
        if grant.kind is GrantKind.RETURN:
            self._return_budgets.reserve(grant.grant, grant.cap_nanodollars, RETURNS, entry.unix_s)
            return ()
        cap, unix_s = grant.cap_nanodollars, entry.unix_s
        self._treasury.apply(Reserved(grant=grant.grant, cap_nanodollars=cap, context=context_of(entry), unix_s=unix_s))
        told = SpendTold(grant=grant.grant, spent_nanodollars=entry.spent_nanodollars, unix_s=unix_s)
        return self._treasury.apply(told) if self._treasury.changes(told) else ()

    def move(self, entry: PeriodsMoved) -> None:
        self._return_budgets.move(entry.unix_s)
        self._treasury.apply(entry)

    def on_time(self, unix_s: int) -> Iterator[PeriodsMoved | VoucherExpired | Ended]:
        """What time brought, each to be applied before the next: a new period; grants that expired without a word."""
        if (moved := self._return_budgets.on_time(unix_s)) is not None:
            yield moved
        yield from self._treasury.on_time(unix_s)
        over = [opened.grant for opened in self._open.values() if unix_s > opened.grant.expires_unix_s + EXPIRY_GRACE_S]
        for grant in over:
            yield Ended(grant=grant.grant, spent_nanodollars=grant.cap_nanodollars, unix_s=unix_s)

    # --- spending ---------------------------------------------------------------------------------------------------

    def still_good(self, opened: Opened, rule: str, unix_s: int) -> bool:
        """Whether an open grant answers the question again as it is."""
        grant = opened.grant
        lifetime_s = opened.terms.lifetime_s if opened.terms is not None else self.returns.lifetime_s
        return opened.rule == rule and grant.expires_unix_s > unix_s + lifetime_s // 4

    def issue(
        self,
        flow: FlowSelector,
        terms: Terms,
        unix_s: int,
        *,
        gateway: str = "",
        transfer: Transfer = NO_TRANSFER,
        implied: bool = False,
    ) -> Decided | Denial:
        """The flow's open grant at this gateway with a later end, or a new one. Raises RemoteProtocolError.

        `implied`: it says itself what a packet pays: what its rule pays, else the most that it is worth.
        """
        check_exact(flow)
        opened = self.known(flow, gateway)
        if opened is not None:
            return self._longer(opened, terms, cap_nanodollars=0, spent_nanodollars=0, unix_s=unix_s)
        room = self._treasury.room(scope_of(transfer), unix_s, needed_nanodollars=terms.least_nanodollars)
        if room.refused:
            return Denial("budget" if room.over is not None else "purse", room.refused)
        cap = min(terms.wanted_cap(0), room.cap_nanodollars)
        pressed = _pressed(terms, room.press.percent)
        grant = Grant(
            grant=self._draw(GRANT_ID_BYTES).hex(),
            serial=1,
            kind=GrantKind.SPEND,
            flow=flow,
            cap_nanodollars=cap,
            rate_nanodollars_per_s=pressed.rate_nanodollars_per_s,
            burst_nanodollars=pressed.burst_nanodollars,
            not_before_unix_s=unix_s - EXPIRY_GRACE_S,
            expires_unix_s=unix_s + terms.lifetime_s,
            key=self._draw(KEY_BYTES).hex(),
            gateway=gateway,
            implied_nanodollars=_implied(pressed) if implied else msgspec.UNSET,
        )
        entry = Opened(grant=grant, rule=terms.rule, unix_s=unix_s, terms=pressed, transfer=transfer)
        return Decided(grant, pressed, entry)

    def extend(self, grant_id: str, terms: Terms, *, spent_nanodollars: int, unix_s: int) -> Decided | Denial:
        """A whole grant more on top of what was spent, as far as limit, budgets and purse go."""
        opened = self._open[grant_id]
        old = opened.grant
        spent = self._treasury.budgets.told_nanodollars(grant_id, spent_nanodollars)
        wanted = terms.wanted_cap(spent)
        room = self._treasury.room_to_extend(grant_id, scope_of(opened.transfer), unix_s, cap_nanodollars=wanted)
        cap = min(wanted, room.cap_nanodollars)
        if old.expires_unix_s - unix_s > terms.lifetime_s // 2:  # asked for more, not for a later end
            if cap <= old.cap_nanodollars < wanted:
                return Denial("budget" if room.over is not None else "purse", room.refused)
            if wanted <= old.cap_nanodollars:
                return Denial("limit", f"the whole flow is worth {wanted} n$, and has them: {terms.why}")
        return self._longer(opened, terms, cap_nanodollars=cap, spent_nanodollars=spent, unix_s=unix_s)

    def _longer(
        self, opened: Opened, terms: Terms, *, cap_nanodollars: int, spent_nanodollars: int, unix_s: int
    ) -> Decided:
        """The next document of a grant. Neither its cap nor its end is ever taken back: a gateway has them signed."""
        old = opened.grant
        press = self._treasury.budgets.press(scope_of(opened.transfer), unix_s)
        pressed = _pressed(terms, press.percent)
        grant = msgspec.structs.replace(
            old,
            serial=old.serial + 1,
            cap_nanodollars=max(cap_nanodollars, old.cap_nanodollars),
            rate_nanodollars_per_s=pressed.rate_nanodollars_per_s,
            burst_nanodollars=pressed.burst_nanodollars,
            not_before_unix_s=max(unix_s - EXPIRY_GRACE_S, old.not_before_unix_s),
            expires_unix_s=max(unix_s + terms.lifetime_s, old.expires_unix_s),
        )
        entry = Opened(
            grant=grant,
            rule=terms.rule,
            spent_nanodollars=spent_nanodollars,
            unix_s=unix_s,
            terms=pressed,
            transfer=opened.transfer,
        )
        return Decided(grant, pressed, entry)

    # --- returning --------------------------------------------------------------------------------------------------

    def ask_return(
        self,
        flow: FlowSelector,
        *,
        received_nanodollars: int,
        received_packets: int,
        unix_s: int,
        gateway: str = "",
    ) -> Decided | Denial:
        """Receipts less our share may go back, and the float ahead of them. Raises RemoteProtocolError."""
        check_exact(flow)
        policy = self.returns
        due = max(0, received_nanodollars - policy.share_nanodollars * received_packets)
        wanted = due + policy.float_nanodollars
        opened = self._known(GrantKind.RETURN, flow, gateway)
        if opened is None:
            cap = min(wanted, self._return_budgets.left_nanodollars(RETURNS, unix_s))
            if cap <= 0:
                return Denial("budget", "what may go back today has gone back")
            grant = self._new_return(flow, cap, unix_s, gateway)
        else:
            known = opened.grant
            highest = self._return_budgets.highest_cap(known.grant, unix_s)
            cap = max(known.cap_nanodollars, min(wanted, highest))
            expires = max(unix_s + policy.lifetime_s, known.expires_unix_s)
            if (cap, expires) == (known.cap_nanodollars, known.expires_unix_s):
                return Decided(known, None, None)
            grant = msgspec.structs.replace(
                known,
                serial=known.serial + 1,
                cap_nanodollars=cap,
                not_before_unix_s=max(unix_s - EXPIRY_GRACE_S, known.not_before_unix_s),
                expires_unix_s=expires,
            )
        return Decided(grant, None, Opened(grant=grant, rule=RETURN_RULE, unix_s=unix_s))

    def _new_return(self, flow: FlowSelector, cap_nanodollars: int, unix_s: int, gateway: str) -> Grant:
        return Grant(
            grant=self._draw(GRANT_ID_BYTES).hex(),
            serial=1,
            kind=GrantKind.RETURN,
            flow=flow,
            cap_nanodollars=cap_nanodollars,
            rate_nanodollars_per_s=self.returns.day_nanodollars,
            burst_nanodollars=self.returns.day_nanodollars,
            not_before_unix_s=unix_s - EXPIRY_GRACE_S,
            expires_unix_s=unix_s + self.returns.lifetime_s,
            key=self._draw(KEY_BYTES).hex(),
            gateway=gateway,
        )

    def _known(self, kind: GrantKind, flow: FlowSelector, gateway: str) -> Opened | None:
        name = self._by_flow.get((kind, flow, gateway))
        return self._open[name] if name is not None else None


def _implied(terms: Terms) -> int:
    return min(terms.amount_nanodollars or terms.willingness_nanodollars, MAX_AMOUNT_NANODOLLARS)


def _pressed(terms: Terms, percent: int) -> Terms:
    """A soft limit is reached: less of everything that goes by the second or by the packet, and never nothing."""
    if percent >= 100 or not percent:
        return terms

    def part(amount: int) -> int:
        return max(1, amount * percent // 100) if amount else 0

    return msgspec.structs.replace(
        terms,
        amount_nanodollars=part(terms.amount_nanodollars),
        willingness_nanodollars=part(terms.willingness_nanodollars),
        rate_nanodollars_per_s=part(terms.rate_nanodollars_per_s),
        burst_nanodollars=max(part(terms.burst_nanodollars), part(terms.amount_nanodollars)),
    )


def context_of(opened: Opened) -> GrantContext:
    terms = opened.terms
    return GrantContext(
        transfer=opened.transfer,
        gateway=opened.grant.gateway,
        flow=opened.grant.flow,
        rule=opened.rule,
        why=terms.why[:256] if terms is not None else "",
    )


def settled_of(ended: Ended) -> Settled:
    return Settled(
        grant=ended.grant,
        spent_nanodollars=ended.spent_nanodollars,
        unix_s=ended.unix_s,
        word=ended.word,
        counted_nanodollars=ended.counted_nanodollars,
    )
