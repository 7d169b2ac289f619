"""A secretary in memory: its issuer and its journal, on a virtual clock, driven as the process drives them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec

from billpay.messages import FlowSelector, Grant
from secretary.budget import DAY_S
from secretary.issuing import Decided, Denial, Ended, Entry, Issuer, ReturnPolicy
from secretary.rules import Rule

NOON = 20_000 * DAY_S + DAY_S // 2
WEB = Rule(
    name="web",
    protocol=6,
    ports=frozenset({443}),
    amount_nanodollars=20,
    willingness_nanodollars=20,
    grant_nanodollars=100,
    rate_nanodollars_per_s=50,
    burst_nanodollars=40,
    lifetime_s=600,
)
CALLS = Rule(name="calls", protocol=17, amount_nanodollars=5, grant_nanodollars=300, lifetime_s=60)


def flow(port: int = 40_000, **changes: Any) -> FlowSelector:
    given: dict[str, Any] = {
        "source": "10.0.1.1",
        "destination": "10.0.2.1",
        "protocol": 6,
        "source_port": port,
        "destination_port": 443,
    }
    return FlowSelector(**(given | changes))


def drawing() -> Callable[[int], bytes]:
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


class Clerk:
    """An issuer with its journal, as the process drives it."""

    def __init__(self, *rules: Rule, day: int = 1000, returns_day: int = 1000, **policy: int) -> None:
        self.rules = rules or (WEB, CALLS)
        self.policy = ReturnPolicy(**({"share_nanodollars": 1, "float_nanodollars": 30, "lifetime_s": 600} | policy))
        self.limits = {"day_nanodollars": day, "returns_day_nanodollars": returns_day}
        self.journal: list[Entry] = []
        self.draw = drawing()
        self.issuer = Issuer(self.rules, self.policy, draw=self.draw, **self.limits)
        self.unix_s = NOON

    def start_again(self, *rules: Rule) -> None:
        """As after a SIGKILL: the journal is all that is left."""
        self.issuer = Issuer(rules or self.rules, self.policy, draw=self.draw, **self.limits)
        for entry in self.journal:
            self.issuer.apply(msgspec.json.decode(msgspec.json.encode(entry), type=Entry))

    def keep(self, entry: Entry) -> None:
        self.journal.append(entry)
        self.issuer.apply(entry)

    def tick(self) -> None:
        for entry in self.issuer.on_time(self.unix_s):
            self.keep(entry)

    def decided(self, answer: Decided | Denial) -> Decided | Denial:
        if isinstance(answer, Decided) and answer.entry is not None:
            self.keep(answer.entry)
        return answer

    def try_ask(self, selector: FlowSelector) -> Decided | Denial:
        self.tick()
        return self.decided(self.issuer.ask(selector, self.unix_s))

    def try_extend(self, grant: str, spent: int) -> Decided | Denial:
        self.tick()
        return self.decided(self.issuer.extend(grant, spent_nanodollars=spent, unix_s=self.unix_s))

    def try_return(self, selector: FlowSelector, received: int, packets: int) -> Decided | Denial:
        self.tick()
        answer = self.issuer.ask_return(
            selector, received_nanodollars=received, received_packets=packets, unix_s=self.unix_s
        )
        return self.decided(answer)

    def ask(self, selector: FlowSelector) -> Grant:
        return granted(self.try_ask(selector))

    def extend(self, grant: Grant, spent: int) -> Grant:
        return granted(self.try_extend(grant.grant, spent))

    def ask_return(self, selector: FlowSelector, received: int, packets: int) -> Grant:
        return granted(self.try_return(selector, received, packets))

    def close(self, grant: str, spent: int) -> None:
        self.tick()
        if self.issuer.is_open(grant):
            self.keep(Ended(grant=grant, spent_nanodollars=spent, unix_s=self.unix_s))

    @property
    def sums(self) -> tuple[int, int]:
        return self.issuer.budget.spent_nanodollars, self.issuer.budget.reserved_nanodollars


def granted(answer: Decided | Denial) -> Grant:
    assert isinstance(answer, Decided), answer
    return answer.grant


def denied(answer: Decided | Denial) -> str:
    assert isinstance(answer, Denial), answer
    return answer.code
