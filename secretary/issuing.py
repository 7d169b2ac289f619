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
from secretary.rules import Rule, find_rule

GRANT_ID_BYTES = 16
KEY_BYTES = 16
EXPIRY_GRACE_S = 120
"""A gateway's clock may be behind: until then a grant that nobody closed counts as open."""
RETURN_RULE = "returns"


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """A grant was issued, or replaced by one with a higher serial."""

    grant: Grant
    rule: str


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
        self._by_flow: dict[tuple[GrantKind, FlowSelector], str] = {}

    @property
    def open_grants(self) -> list[Grant]:
        return [opened.grant for opened in self._open.values()]

    # --- the journal ------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        match entry:
            case Opened(grant=grant):
                self._open[grant.grant] = entry
                self._by_flow[grant.kind, grant.flow] = grant.grant
                self._budget_of(grant).reserve(grant.grant, grant.cap_nanodollars)
            case Ended():
                opened = self._open.pop(entry.grant, None)
                if opened is None:
                    return
                grant = opened.grant
                self._by_flow.pop((grant.kind, grant.flow), None)
                budget = self._budget_of(grant)
                budget.on_time(entry.unix_s)
                budget.close(entry.grant, entry.spent_nanodollars)

    def on_time(self, unix_s: int) -> list[Ended]:
        """A new day; and the entries for grants that expired without a word: all of them counts as spent."""
        self.budget.on_time(unix_s)
        self.return_budget.on_time(unix_s)
        return [
            Ended(grant=name, spent_nanodollars=opened.grant.cap_nanodollars, unix_s=unix_s)
            for name, opened in self._open.items()
            if unix_s > opened.grant.expires_unix_s + EXPIRY_GRACE_S
        ]

    # --- spending ---------------------------------------------------------------------------------------------------

    def ask(self, flow: FlowSelector, unix_s: int) -> Decided | Denial:
        """The open grant of the flow, or a new one by the first rule that matches."""
        rule = find_rule(self._rules, flow)
        if rule is None:
            return Denial("no-rule", "no rule names this flow")
        known = self._known(GrantKind.SPEND, flow)
        if known is not None and known.expires_unix_s > unix_s + rule.lifetime_s // 4:
            return Decided(known, rule, None)
        if known is not None:
            return self.extend(known.grant, spent_nanodollars=0, unix_s=unix_s)
        cap = min(rule.grant_nanodollars, self.budget.available())
        if cap < max(1, rule.amount_nanodollars):
            return Denial("budget", f"today's budget is used up: {self.budget.available()} n$ are left")
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
        )
        return Decided(grant, rule, Opened(grant=grant, rule=rule.name))

    def extend(self, grant_id: str, *, spent_nanodollars: int, unix_s: int) -> Decided | Denial:
        """A whole grant more on top of what was spent, as far as the budget goes."""
        opened = self._open.get(grant_id)
        if opened is None or opened.grant.kind is not GrantKind.SPEND:
            return Denial("unknown-grant", "no such grant is open")
        old = opened.grant
        rule = next((rule for rule in self._rules if rule.name == opened.rule), None)
        if rule is None:
            return Denial("no-rule", f"rule {opened.rule} is not there any more")
        wanted = max(spent_nanodollars + rule.grant_nanodollars, old.cap_nanodollars)
        cap = min(wanted, self.budget.available(grant_id))
        longer = unix_s + rule.lifetime_s > old.expires_unix_s
        if cap <= old.cap_nanodollars and not longer:
            return Denial("budget", "today's budget is used up")
        grant = msgspec.structs.replace(
            old,
            serial=old.serial + 1,
            cap_nanodollars=max(cap, old.cap_nanodollars),
            expires_unix_s=max(unix_s + rule.lifetime_s, old.expires_unix_s),
        )
        return Decided(grant, rule, Opened(grant=grant, rule=rule.name))

    # --- returning --------------------------------------------------------------------------------------------------

    def ask_return(
        self, flow: FlowSelector, *, received_nanodollars: int, received_packets: int, unix_s: int
    ) -> Decided | Denial:
        """Receipts less our share may go back, and the float ahead of them."""
        policy = self.returns
        due = max(0, received_nanodollars - policy.share_nanodollars * received_packets)
        known = self._known(GrantKind.RETURN, flow)
        name = known.grant if known is not None else ""
        cap = min(due + policy.float_nanodollars, self.return_budget.available(name))
        if known is not None:
            cap = max(cap, known.cap_nanodollars)
            expires = max(unix_s + policy.lifetime_s, known.expires_unix_s)
            if (cap, expires) == (known.cap_nanodollars, known.expires_unix_s):
                return Decided(known, None, None)
            grant = msgspec.structs.replace(known, serial=known.serial + 1, cap_nanodollars=cap, expires_unix_s=expires)
        elif cap <= 0:
            return Denial("budget", "what may go back today has gone back")
        else:
            grant = self._new_return(flow, cap, unix_s)
        return Decided(grant, None, Opened(grant=grant, rule=RETURN_RULE))

    def _new_return(self, flow: FlowSelector, cap_nanodollars: int, unix_s: int) -> Grant:
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
        )

    def _known(self, kind: GrantKind, flow: FlowSelector) -> Grant | None:
        name = self._by_flow.get((kind, flow))
        return self._open[name].grant if name is not None else None

    def _budget_of(self, grant: Grant) -> DayBudget:
        return self.budget if grant.kind is GrantKind.SPEND else self.return_budget
