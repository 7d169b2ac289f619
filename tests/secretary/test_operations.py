"""Random operations on the whole core with crashes in between: budgets hold, books balance, a replay is the same.

The gateway is a model that counts what was spent and signs receipts; agent and people say anything.
"""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from clerk import ANN, BOB, CALLS, DAY_S, GATEWAY, KEEPER, OTHER_GATEWAY, WEB, Clerk, budget, flow, granted, receipt_for

from billpay.errors import RemoteProtocolError
from billpay.messages import Grant, GrantKind
from secretary.issuing import Ended, ReturnPolicy
from secretary.judging import Policy
from secretary.messages import (
    AnswerQuestion,
    AskStatement,
    Granted,
    RaiseBudget,
    StatementView,
    TellQuit,
    TopUpPurse,
    UndoAnswer,
    Unpaid,
)
from secretary.money.periods import Cycle
from secretary.money.reserving import Dimension
from secretary.ruling.ceilings import Ceiling, place
from secretary.ruling.precedence import Rulebook
from secretary.ruling.rules import Most, Pay, Rule
from secretary.ruling.terms import Term
from secretary.transfers import Transfer

PROGRAMS = ("firefox", "zoom", "game", "backup", "")
USERS = ("ann", "bob", "")
TERMS = tuple(Term)
RULES = (
    WEB,
    CALLS,
    Rule(name="no-games", programs=("game",), users=("bob",), pay=Pay.NEVER),
    Rule(name="ask", kinds=("backup",), pay=Pay.ASK, most=Most(transfer_nanodollars=40)),
)
DAY = 9_000
BUDGETS = (
    budget("day", DAY),
    budget("week", 50_000, Cycle.WEEK),
    budget("soft", 4_500, hard=False),
    budget("game", 600, about=Dimension.PROGRAM, who="game"),
    budget("each", 6_000, about=Dimension.PERSON),
    budget("home", 60_000, Cycle.MONTH, about=Dimension.NETWORK, who="Home"),
)
CEILING = Ceiling(name="calls", kind=("call",), day_nanodollars=2_700, packet_nanodollars=4)


class World:
    """A secretary, a gateway that counts, and everybody else."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        policy = Policy(book=Rulebook(own=RULES), ceilings=place((), (CEILING,)), own_ceilings=(CEILING,))
        self.prepaid = seed % 2 == 0
        self.clerk = Clerk(
            policy=policy,
            budgets=BUDGETS,
            returns_day=500,
            returns=ReturnPolicy(share_nanodollars=1, float_nanodollars=30, lifetime_s=600),
            credit_nanodollars=0 if self.prepaid else 10**9,
            unjustified_nanodollars=50,
            guards=True,
        )
        self.grants: dict[str, Grant] = {}
        self.spent: dict[str, int] = {}  # at the gateway, by grant
        self.closed: set[str] = set()  # at the gateway
        self.transfers = 0
        self.top_up()

    # --- operations -------------------------------------------------------------------------------------------------

    def transfer(self) -> Transfer:
        dice = self.dice
        return Transfer(
            user=dice.choice(USERS),
            program=dice.choice(PROGRAMS),
            kind=dice.choice(("web", "call", "backup", "")),
            destination=dice.choice(("a.example", "b.example", "")),
            network=dice.choice(("Home", "phone")),
            size_bytes=dice.choice((0, 1_000, 10**6)),
            price_nanodollars=dice.choice((0, 1, 30, 200)),
        )

    def take(self, answer: Granted | Unpaid) -> None:
        if isinstance(answer, Granted):
            grant = granted(answer)
            self.grants[grant.grant] = grant

    def ask(self) -> None:
        port = self.dice.randrange(1, 30)
        selector = flow(port, destination_port=self.dice.choice((443, 443, 80)), protocol=self.dice.choice((6, 6, 17)))
        self.take(self.clerk.try_ask(selector, self.transfer(), price=self.dice.choice((0, 100, 10**4))))

    def extend(self) -> None:
        self.take(self.clerk.try_extend(self.any_grant(), self.dice.choice((0, self.dice.randrange(300), 10**9))))

    def ask_return(self) -> None:
        port, received = self.dice.randrange(1, 6), self.dice.randrange(400)
        self.take(self.clerk.try_return(flow(port), received, self.dice.randrange(20)))

    def spend(self) -> None:
        """As the gateway lets it: up to the cap of the last document, and nothing of what is closed or over."""
        name = self.any_grant()
        grant = self.grants.get(name)
        if grant is None or name in self.closed or self.clerk.unix_s >= grant.expires_unix_s:
            return
        spent = self.spent.get(name, 0)
        self.spent[name] = min(grant.cap_nanodollars, spent + self.dice.randrange(120))

    def close(self) -> None:
        """Honestly: first at the gateway."""
        name = self.any_grant()
        self.closed.add(name)
        with contextlib.suppress(RemoteProtocolError):
            self.clerk.close(name, self.spent.get(name, 0), size_bytes=self.dice.choice((0, 5_000)))

    def lie(self) -> None:
        name, dice = self.any_grant(), self.dice
        other = self.any_grant()
        receipt, key = dice.choice(
            [
                (None, b""),
                (receipt_for(name, 0, key=OTHER_GATEWAY), OTHER_GATEWAY.public_key),
                (receipt_for(name, 0, key=OTHER_GATEWAY), GATEWAY.public_key),
                (receipt_for(name, 0, final=False), GATEWAY.public_key),
                (receipt_for(other, self.spent.get(other, 0)) if other in self.closed else None, GATEWAY.public_key),
            ]
        )
        with contextlib.suppress(RemoteProtocolError):
            self.clerk.present(name, receipt, told=dice.choice((0, 50, 10**6)), public_key=key)

    def say(self) -> None:
        number = self.dice.choice((*self.clerk.questions[-8:], 1))
        asker = self.dice.choice((ANN, BOB, KEEPER))
        accept = self.dice.random() < 0.6
        limit = self.dice.choice((None, 10, 100)) if accept else None
        question: Any = AnswerQuestion(
            number=number, accept=accept, limit_nanodollars=limit, term=self.dice.choice(TERMS)
        )
        with contextlib.suppress(RemoteProtocolError):
            self.clerk.says(self.dice.choice((question, question, UndoAnswer())), asker)

    def top_up(self) -> None:
        self.transfers += self.dice.random() < 0.8  # else the same transfer again
        voucher = self.dice.choice(("", "", f"v{self.transfers}"))
        ends = self.clerk.unix_s + self.dice.randrange(1, DAY_S) if voucher else 0
        question = TopUpPurse(
            transfer=f"t{self.transfers}",
            nanodollars=self.dice.randrange(1, 4_000),
            voucher=voucher,
            expires_unix_s=ends,
        )
        with contextlib.suppress(RemoteProtocolError):
            self.clerk.says(question, KEEPER)

    def raise_budget(self) -> None:
        if self.dice.random() < 0.1:
            self.clerk.says(RaiseBudget(budget=self.dice.choice(("day", "week")), nanodollars=100), KEEPER)

    def wait(self) -> None:
        self.clerk.wait(self.dice.choice((1, 1, 30, 30, 200, 200, 700, 3_600, DAY_S // 3)))

    def turn_back(self) -> None:
        if self.dice.random() < 0.2:
            self.clerk.set_clock(self.clerk.unix_s - self.dice.choice((1, 60, 3_600, DAY_S // 2)))

    def quit(self) -> None:
        self.clerk.tick()
        self.clerk.secretary.on_quit(TellQuit(programs=(self.dice.choice(PROGRAMS),)))

    def learn(self) -> None:
        if self.dice.random() < 0.05:
            self.clerk.learn()

    def die(self) -> None:
        """At any moment: entries are whole or not there."""
        if self.dice.random() > 0.05:
            return
        clerk = self.clerk
        clerk.tick()
        if self.dice.random() < 0.5:
            clerk.keep_states()
        before = self.state()
        clerk.start_again()
        assert self.state() == before

    def any_grant(self) -> str:
        """Often one that is open."""
        names = [grant.grant for grant in self.clerk.open_grants] if self.dice.random() < 0.7 else []
        names = names or list(self.grants)[-25:]
        return self.dice.choice(names) if names else "f" * 32

    # --- what always holds ------------------------------------------------------------------------------------------

    def state(self) -> tuple[object, ...]:
        core, now = self.clerk.secretary, self.clerk.now
        inbox = [*core.inbox.questions(now), *core.inbox.history(now, take=1_000)]
        return core.treasury.state(), self.clerk.returned, core.issuer.open_grants, inbox, core.answers

    def check(self) -> None:
        core, clerk = self.clerk.secretary, self.clerk
        clerk.tick()
        for line in core.budget_lines(clerk.now):
            assert line.spent_nanodollars >= 0
            assert line.reserved_nanodollars >= 0
            if line.hard:
                assert line.spent_nanodollars + line.reserved_nanodollars <= line.limit_nanodollars, line
        assert sum(clerk.returned) <= 500
        open_caps = 0
        for grant in clerk.open_grants:
            assert self.spent.get(grant.grant, 0) <= grant.cap_nanodollars
            open_caps += grant.cap_nanodollars if grant.kind is GrantKind.SPEND else 0
        purse = core.treasury.purse
        if self.prepaid:
            assert purse.balance_nanodollars - purse.reserved_nanodollars >= 0
        assert purse.reserved_nanodollars <= open_caps

    def check_books(self) -> None:
        """All that the gateway counted is booked, or held by an open grant; and the statement adds up."""
        clerk = self.clerk
        view = clerk.says(AskStatement(first_day="2024-01-01", last_day="2026-12-31", by=("user", "day")), KEEPER)
        assert isinstance(view, StatementView)
        assert view.statement.adds_up
        purse = clerk.secretary.treasury.purse
        assert view.statement.closing_nanodollars == purse.balance_nanodollars
        open_now = {grant.grant for grant in clerk.open_grants}
        settled = {
            name: spent
            for name, spent in self.spent.items()
            if name not in open_now and self.grants[name].kind is GrantKind.SPEND
        }
        booked: dict[str, int] = {}
        for entry in clerk.money_entries:
            if isinstance(entry, Ended):
                booked[entry.grant] = entry.spent_nanodollars
        assert all(spent <= booked[name] for name, spent in settled.items())


OPERATIONS = (
    *(("ask",) * 9),
    *(("spend",) * 6),
    *(("extend",) * 3),
    *(("close",) * 3),
    *(("lie", "lie", "ask_return", "say", "say", "top_up", "raise_budget", "wait", "wait", "turn_back", "quit")),
    *(("learn", "die")),
)


def live(seed: int, operations: int) -> World:
    world = World(seed)
    for number in range(operations):
        getattr(world, world.dice.choice(OPERATIONS))()
        world.check()
        if number % 250 == 0:
            world.check_books()
    world.check_books()
    return world


@pytest.mark.row("BP-44")
@pytest.mark.expectation(16)
def test_5_000_operations_with_crashes_in_between() -> None:
    seen = 0
    for seed in range(4):
        world = live(seed, 1_250)
        seen += sum(world.spent.values())
    assert seen > DAY // 2  # it does spend


@pytest.mark.deep
@pytest.mark.row("BP-44")
def test_a_million_operations_with_crashes_in_between() -> None:
    for seed in range(100, 900):
        live(seed, 1_250)
