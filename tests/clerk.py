"""A secretary in memory: the whole core and its journal, on a virtual clock, driven as the process drives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, date
from itertools import count
from typing import Any, Final

import msgspec

from billpay.messages import FlowSelector, Grant, GrantReceipt, Signed
from billpay.signing import SigningKey, sign, verify
from secretary.archive import spending_of
from secretary.asking import Asker, Role
from secretary.inbox.questions import Asked, Manners
from secretary.issuing import Ended, Opened, ReturnPolicy
from secretary.judging import Policy
from secretary.messages import (
    Answer,
    AskBudget,
    AskGrant,
    AskReturn,
    BudgetLine,
    CloseGrant,
    ExtendGrant,
    Granted,
    PersonQuestion,
    Unpaid,
)
from secretary.money.budgets import BudgetTerms, Unit
from secretary.money.periods import Cycle
from secretary.money.reserving import Dimension, GrantBudget
from secretary.money.spending import SpendingEntry
from secretary.money.statements import Book
from secretary.people import People
from secretary.ruling.precedence import Rulebook
from secretary.ruling.rules import Rule
from secretary.secretary import Entry, Secretary, Settings, grant_of
from secretary.states import restore, states_of
from secretary.transfers import Moment, Transfer

DAY_S: Final = 86_400
NOON: Final = 20_000 * DAY_S + DAY_S // 2
SECRETARY: Final = SigningKey(b"s" * 32)
GATEWAY: Final = SigningKey(b"g" * 32)
OTHER_GATEWAY: Final = SigningKey(b"o" * 32)
NOBODY: Final = Transfer()
ANN = Asker(roles=frozenset({Role.PERSON}), user="ann")
BOB = Asker(roles=frozenset({Role.PERSON}), user="bob")
KEEPER = Asker(roles=frozenset({Role.KEEPER}), user="root")
AGENT = Asker(roles=frozenset({Role.AGENT}))
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


def budget(
    name: str,
    limit: int,
    cycle: Cycle = Cycle.DAY,
    *,
    hard: bool = True,
    about: Dimension = Dimension.ALL,
    who: str = "",
) -> GrantBudget:
    terms = BudgetTerms(name=name, unit=Unit.NANODOLLARS, cycle=cycle, limit=limit, hard=hard)
    return GrantBudget(terms=terms, about=about, who=who)


def settings_for(rules: Iterable[Rule], *, day: int, returns_day: int = 1000, **changes: Any) -> Settings:
    """Without questions and guards, if nothing else is said."""
    given: dict[str, Any] = {
        "policy": Policy(book=Rulebook(own=tuple(rules)), learns=False),
        "manners": Manners(quiet_from=0, quiet_until=0, pause_s=0),
        "budgets": (budget("day", day),),
        "return_budgets": (budget("returns", returns_day),),
        "returns": ReturnPolicy(share_nanodollars=1, float_nanodollars=30, lifetime_s=600),
        "guards": False,
    }
    return Settings(**(given | changes))


class Clerk:
    """A secretary with its journal, as the process drives it; `GATEWAY` signs what is said to be spent."""

    def __init__(self, *rules: Rule, day: int = 1000, returns_day: int = 1000, **changes: Any) -> None:
        self.settings = settings_for(rules or (WEB, CALLS), day=day, returns_day=returns_day, **changes)
        self.journal: list[Entry] = []
        self.states: dict[str, bytes] = {}
        self.draw = drawing()
        self.unix_s = NOON
        self.slept_s = 0
        self.boot = "first"
        self.gateway = GATEWAY
        self.secretary = self._fresh()

    @property
    def now(self) -> Moment:
        """The boot's clock goes on, whatever the wall's is set to."""
        return self.at(self.unix_s)

    def at(self, unix_s: int) -> Moment:
        return Moment(unix_s=unix_s, boot_ns=(unix_s + self.slept_s) * 10**9, boot=self.boot, zone=UTC)

    def set_clock(self, unix_s: int) -> None:
        """As a person does, or whoever owns the machine's time."""
        self.slept_s += self.unix_s - unix_s
        self.unix_s = unix_s

    def _fresh(self) -> Secretary:
        return Secretary(
            self.settings,
            begun=self.now,
            draw=self.draw,
            sign=lambda grant: sign(SECRETARY, grant),
            keep=self.keep,
        )

    def start_again(self, *rules: Rule) -> None:
        """As after a SIGKILL: the journal is all that is left, and the states of the last minute that kept them."""
        if rules:
            policy = replace(self.settings.policy, book=Rulebook(own=rules))
            self.settings = replace(self.settings, policy=policy)
        self.secretary = self._fresh()
        restore(self.secretary, self.states)
        for entry in self.journal:
            self.secretary.apply(msgspec.json.decode(msgspec.json.encode(entry), type=Entry))
        self.secretary.announcements.clear()

    @property
    def people(self) -> People:
        return People(self.secretary, MemoryArchive(self))

    def says(self, question: PersonQuestion, asker: Asker) -> Answer:
        """Raises RemoteProtocolError."""
        self.tick()
        answer = self.people.answer(question, asker, self.now)
        assert answer is not None
        return answer

    def keep_states(self) -> None:
        self.states = dict(states_of(self.secretary, {}))

    def keep(self, entry: Entry) -> None:
        self.journal.append(entry)
        self.secretary.apply(entry)

    def learn(self) -> None:
        """What the process computes beside its loop."""
        for learner in self.secretary.judge.learners.values():
            while (work := learner.due_work()) is not None:
                learner.take(work())

    def tick(self) -> None:
        self.secretary.on_time(self.now)

    def wait(self, seconds: int) -> None:
        self.unix_s += seconds
        self.tick()

    # --- what an agent asks -----------------------------------------------------------------------------------------

    def try_ask(
        self, selector: FlowSelector, transfer: Transfer = NOBODY, *, price: int = 0, gateway: str | None = None
    ) -> Granted | Unpaid:
        self.tick()
        where = self.gateway.fingerprint if gateway is None else gateway
        question = AskGrant(flow=selector, gateway=where, transfer=transfer, price_nanodollars_per_mb=price)
        return self.secretary.ask_grant(question, self.now)

    def try_extend(self, grant: str, spent: int) -> Granted | Unpaid:
        self.tick()
        return self.secretary.extend(ExtendGrant(grant=grant, spent_nanodollars=spent), self.now)

    def try_return(self, selector: FlowSelector, received: int, packets: int) -> Granted | Unpaid:
        self.tick()
        question = AskReturn(
            flow=selector,
            gateway=self.gateway.fingerprint,
            received_nanodollars=received,
            received_packets=packets,
        )
        return self.secretary.ask_return(question, self.now)

    def ask(self, selector: FlowSelector, transfer: Transfer = NOBODY, *, price: int = 0) -> Grant:
        return granted(self.try_ask(selector, transfer, price=price))

    def extend(self, grant: Grant, spent: int) -> Grant:
        return granted(self.try_extend(grant.grant, spent))

    def ask_return(self, selector: FlowSelector, received: int, packets: int) -> Grant:
        return granted(self.try_return(selector, received, packets))

    def close(self, grant: str, spent: int, *, told: int | None = None, size_bytes: int = 0) -> int:
        """With the gateway's receipt for what was spent; gives what was booked."""
        return self.present(
            grant,
            receipt_for(grant, spent, key=self.gateway),
            told=spent if told is None else told,
            size_bytes=size_bytes,
        )

    def present(
        self,
        grant: str,
        receipt: Signed | None,
        *,
        told: int = 0,
        public_key: bytes | None = None,
        size_bytes: int = 0,
    ) -> int:
        """Raises RemoteProtocolError."""
        self.tick()
        key = self.gateway.public_key if public_key is None else public_key
        question = CloseGrant(
            grant=grant,
            spent_nanodollars=told,
            receipt=receipt,
            gateway_key=key if receipt is not None else b"",
            size_bytes=size_bytes,
        )
        return self.secretary.close(question, self.now).spent_nanodollars

    # --- what is seen -----------------------------------------------------------------------------------------------

    @property
    def sums(self) -> tuple[int, int]:
        """Of the first budget: spent and reserved."""
        self.tick()
        told = self.secretary.budget(AskBudget(), self.now)
        return told.spent_today_nanodollars, told.reserved_nanodollars

    @property
    def returned(self) -> tuple[int, int]:
        """Of the returns' budget: spent and reserved."""
        self.tick()
        (standing,) = self.secretary.issuer._return_budgets.standings(self.unix_s)
        return standing.view.used, standing.reserved_nanodollars

    def line(self, name: str) -> BudgetLine:
        self.tick()
        return next(each for each in self.secretary.budget_lines(self.now) if each.name == name)

    @property
    def open_grants(self) -> list[Grant]:
        return [opened.grant for opened in self.secretary.issuer.open_grants]

    def entries(self, kind: type[Entry]) -> list[Any]:
        return [entry for entry in self.journal if isinstance(entry, kind)]

    @property
    def questions(self) -> list[int]:
        return [entry.number for entry in self.journal if isinstance(entry, Asked)]

    @property
    def money_entries(self) -> list[Opened | Ended]:
        return [entry for entry in self.journal if isinstance(entry, Opened | Ended)]


class MemoryArchive:
    """The journal of a clerk, read again."""

    def __init__(self, clerk: Clerk) -> None:
        self._clerk = clerk

    def grants_between(self, since_unix_s: int, until_unix_s: int) -> list[str]:
        found = [grant_of(entry) for entry in self._clerk.journal]
        return list(
            dict.fromkeys(grant for grant, unix_s in filter(None, found) if since_unix_s <= unix_s < until_unix_s)
        )

    def entries_of(self, grant: str) -> list[SpendingEntry]:
        own = [entry for entry in self._clerk.journal if (grant_of(entry) or ("", 0))[0] == grant]
        return [each for entry in own for each in spending_of(entry)]

    def book_of(self, first: date, last: date) -> Book:
        clerk = self._clerk
        again = Secretary(
            replace(clerk.settings, guards=False),
            begun=clerk.now,
            draw=clerk.draw,
            sign=lambda grant: sign(SECRETARY, grant),
            keep=lambda _: None,
            only=(first, last),
        )
        for entry in clerk.journal:
            again.apply(entry)
        return again.treasury.book


def receipt_for(grant: str, spent: int, *, key: SigningKey = GATEWAY, final: bool = True, unix_s: int = NOON) -> Signed:
    """As a gateway signs it when it has closed a grant."""
    receipt = GrantReceipt(
        grant=grant, serial=1, final=final, spent_nanodollars=spent, packets=0, refused_packets=0, unix_s=unix_s
    )
    return sign(key, receipt)


def granted(answer: Granted | Unpaid) -> Grant:
    assert isinstance(answer, Granted), answer
    return verify(answer.signed, SECRETARY.public_key, Grant)


def denied(answer: Granted | Unpaid) -> str:
    assert isinstance(answer, Unpaid), answer
    return answer.code
