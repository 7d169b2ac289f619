"""Issues grants: what a flow may spend, and what may go back of what arrived.

Decides every grant by rules and budgets; refuses to know sockets, files, clocks and randomness (`draw(n)` gives n
random bytes). Pure, and driven by a journal: a decision is an entry, entries applied in order are the state, so a
secretary that was killed is the same one again.

Source: Bill-Pay 2.4 (the digital secretary authorises each payment); ARCHITECTURE ("grant").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from billpay.messages import FlowSelector, Grant, GrantKind
from secretary.budget import DayBudget
from secretary.rules import Rule, check_exact, find_rule

GRANT_ID_BYTES = 16
KEY_BYTES = 16
EXPIRY_GRACE_S = 120
"""A gateway's clock may be behind: until then a grant that nobody closed counts as open."""
RETURN_RULE = "returns"


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """A grant was issued, or replaced by one with a higher serial; `spent_nanodollars` is what its host said then."""

    grant: Grant
    rule: str
    spent_nanodollars: int = 0
    unix_s: int = 0


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """A grant was closed, or had expired; `unix_s` says on which day what was spent counts."""

    grant: str
    spent_nanodollars: int
    unix_s: int


Entry = Opened | Ended


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


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a flow goes unpaid."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Decided:
    """The grant and its rule (None: a return); `entry` has to be in the journal before anybody hears of it."""

    grant: Grant
    rule: Rule | None
    entry: Opened | None


class Issuer:
    """The state that the journal's entries make."""

    def __init__(
        self,
        rules: Sequence[Rule],
        returns: ReturnPolicy,
        *,
        day_nanodollars: int,
        returns_day_nanodollars: int,
        draw: Callable[[int], bytes],
    ) -> None:
        self._rules = rules
        self.returns = returns
        self.budget = DayBudget(day_nanodollars)
        self.return_budget = DayBudget(returns_day_nanodollars)
        self._draw = draw
        self._open: dict[str, Opened] = {}
        self._by_flow: dict[tuple[GrantKind, FlowSelector, str], str] = {}

    @property
    def open_grants(self) -> list[Grant]:
        return [opened.grant for opened in self._open.values()]

    def is_open(self, grant: str) -> bool:
        return grant in self._open

    # --- the journal ------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        self._on_day(entry.unix_s)
        match entry:
            case Opened(grant=grant):
                self._open[grant.grant] = entry
                self._by_flow[grant.kind, grant.flow, grant.gateway] = grant.grant
                budget = self._budget_of(grant)
                budget.reserve(grant.grant, grant.cap_nanodollars, spent_nanodollars=entry.spent_nanodollars)
            case Ended():
                opened = self._open.pop(entry.grant, None)
                if opened is not None:
                    grant = opened.grant
                    self._by_flow.pop((grant.kind, grant.flow, grant.gateway), None)
                    self._budget_of(grant).close(entry.grant, entry.spent_nanodollars)

    def on_time(self, unix_s: int) -> list[Ended]:
        """A new day; and the entries for grants that expired without a word: all of them counts as spent."""
        self._on_day(unix_s)
        return [
            Ended(grant=name, spent_nanodollars=opened.grant.cap_nanodollars, unix_s=unix_s)
            for name, opened in self._open.items()
            if unix_s > opened.grant.expires_unix_s + EXPIRY_GRACE_S
        ]

    def _on_day(self, unix_s: int) -> None:
        self.budget.on_time(unix_s)
        self.return_budget.on_time(unix_s)

    # --- spending ---------------------------------------------------------------------------------------------------

    def ask(self, flow: FlowSelector, unix_s: int, *, gateway: str = "") -> Decided | Denial:
        """The open grant of the flow at this gateway (by fingerprint), or a new one by the first rule that matches.
        Raises RemoteProtocolError.
        """
        check_exact(flow)
        rule = find_rule(self._rules, flow)
        if rule is None:
            return Denial("no-rule", "no rule names this flow")
        opened = self._known(GrantKind.SPEND, flow, gateway)
        if opened is None:
            return self._new(flow, rule, unix_s, gateway)
        if opened.rule == rule.name and opened.grant.expires_unix_s > unix_s + rule.lifetime_s // 4:
            return Decided(opened.grant, rule, None)
        return self._longer(opened.grant, rule, cap_nanodollars=0, spent_nanodollars=0, unix_s=unix_s)

    def extend(self, grant_id: str, *, spent_nanodollars: int, unix_s: int) -> Decided | Denial:
        """A whole grant more on top of what was spent, as far as the budget goes, by the rule of today's file."""
        opened = self._open.get(grant_id)
        if opened is None or opened.grant.kind is not GrantKind.SPEND:
            return Denial("unknown-grant", "no such grant is open")
        old = opened.grant
        rule = find_rule(self._rules, old.flow)
        if rule is None:
            return Denial("no-rule", "no rule names this flow any more")
        spent = self.budget.told(grant_id, spent_nanodollars)
        wanted = spent + rule.grant_nanodollars
        cap = min(wanted, self.budget.highest_cap(grant_id))
        if cap <= old.cap_nanodollars < wanted and old.expires_unix_s - unix_s > rule.lifetime_s // 2:
            return Denial("budget", "today's budget is used up")  # asked for more, not for a later end
        return self._longer(old, rule, cap_nanodollars=cap, spent_nanodollars=spent, unix_s=unix_s)

    def _new(self, flow: FlowSelector, rule: Rule, unix_s: int, gateway: str) -> Decided | Denial:
        left = self.budget.left_nanodollars
        cap = min(rule.grant_nanodollars, left)
        if cap < max(1, rule.amount_nanodollars):
            return Denial("budget", f"today's budget is used up: {left} n$ are left")
        grant = Grant(
            grant=self._draw(GRANT_ID_BYTES).hex(),
            serial=1,
            kind=GrantKind.SPEND,
            flow=flow,
            cap_nanodollars=cap,
            rate_nanodollars_per_s=rule.rate_nanodollars_per_s,
            burst_nanodollars=rule.burst_nanodollars,
            not_before_unix_s=unix_s - EXPIRY_GRACE_S,
            expires_unix_s=unix_s + rule.lifetime_s,
            key=self._draw(KEY_BYTES).hex(),
            gateway=gateway,
        )
        return Decided(grant, rule, Opened(grant=grant, rule=rule.name, unix_s=unix_s))

    def _longer(self, old: Grant, rule: Rule, *, cap_nanodollars: int, spent_nanodollars: int, unix_s: int) -> Decided:
        """The next document of a grant. Neither its cap nor its end is ever taken back: a gateway has them signed."""
        grant = msgspec.structs.replace(
            old,
            serial=old.serial + 1,
            cap_nanodollars=max(cap_nanodollars, old.cap_nanodollars),
            rate_nanodollars_per_s=rule.rate_nanodollars_per_s,
            burst_nanodollars=rule.burst_nanodollars,
            not_before_unix_s=max(unix_s - EXPIRY_GRACE_S, old.not_before_unix_s),
            expires_unix_s=max(unix_s + rule.lifetime_s, old.expires_unix_s),
        )
        entry = Opened(grant=grant, rule=rule.name, spent_nanodollars=spent_nanodollars, unix_s=unix_s)
        return Decided(grant, rule, entry)

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
            cap = min(wanted, self.return_budget.left_nanodollars)
            if cap <= 0:
                return Denial("budget", "what may go back today has gone back")
            grant = self._new_return(flow, cap, unix_s, gateway)
        else:
            known = opened.grant
            cap = max(known.cap_nanodollars, min(wanted, self.return_budget.highest_cap(known.grant)))
            expires = max(unix_s + policy.lifetime_s, known.expires_unix_s)
            if (cap, expires) == (known.cap_nanodollars, known.expires_unix_s):
                return Decided(known, None, None)
            not_before = max(unix_s - EXPIRY_GRACE_S, known.not_before_unix_s)
            grant = msgspec.structs.replace(
                known,
                serial=known.serial + 1,
                cap_nanodollars=cap,
                not_before_unix_s=not_before,
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
            rate_nanodollars_per_s=self.return_budget.limit_nanodollars,
            burst_nanodollars=self.return_budget.limit_nanodollars,
            not_before_unix_s=unix_s - EXPIRY_GRACE_S,
            expires_unix_s=unix_s + self.returns.lifetime_s,
            key=self._draw(KEY_BYTES).hex(),
            gateway=gateway,
        )

    def _known(self, kind: GrantKind, flow: FlowSelector, gateway: str) -> Opened | None:
        name = self._by_flow.get((kind, flow, gateway))
        return self._open[name] if name is not None else None

    def _budget_of(self, grant: Grant) -> DayBudget:
        return self.budget if grant.kind is GrantKind.SPEND else self.return_budget
