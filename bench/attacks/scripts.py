"""The attacks, each a script: what the thief does, how much it may get at most, and who notices.

Decides which lies are told and in which order; refuses to know how they are carried (`bench.attacks.home`).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

from bench.attacks.home import DAY_S, PROGRAM_BUDGET, Home, Outcome, forger
from billpay.messages import Grant, GrantReceipt, Signed
from billpay.signing import SigningKey, sign
from secretary.inbox.questions import Attention
from secretary.messages import (
    AnswerQuestion,
    AskInbox,
    AskStatement,
    DisputeGrant,
    PersonQuestion,
    RaiseBudget,
    Reread,
    RotateKey,
    SetClockRight,
    TellAttention,
    TopUpPurse,
    UndoAnswer,
)
from secretary.ruling.terms import Term
from secretary.transfers import Transfer

MANY: Final = 60
FEW: Final = 15
GAME = Transfer(user="ann", program="game", kind="games", destination="play.example.net", network="Home")
WEB = Transfer(
    user="ann", program="firefox", kind="web", destination="www.example.org", network="Home", foreground=True
)
FAIR: Final = 10_000
"""Nanodollars for a megabyte: what most people pay for the web."""

Attack = Callable[[Home], Awaitable[Outcome]]


async def _all_there_is(home: Home, **asking: object) -> list[Grant]:
    """Grants until the secretary says no three times."""
    found: list[Grant] = []
    noes, before = 0, home.edge.loss_nanodollars
    while noes < 3:
        grant = await home.ask(**asking)  # type: ignore[arg-type]
        if isinstance(grant, str):
            noes += 1
        else:
            found.append(grant)
            assert home.edge.loss_nanodollars - before <= home.edge.open_caps_nanodollars
    return found


async def takes_all(home: Home) -> Outcome:
    """asks for every grant that it can get, and spends all of them"""
    await _all_there_is(home)
    home.drain_all()
    return home.outcome()


async def takes_all_longer(home: Home) -> Outcome:
    """the same, extending each grant as long as it gets more, and waiting for the rate caps"""
    for grant in await _all_there_is(home):
        await home.extend(grant, 0)
        await home.extend(grant, 10**12)
    for _ in range(5):
        home.drain_all()
        home.wait(60)
    return home.outcome()


async def closes_for_nothing(home: Home) -> Outcome:
    """spends a grant, closes it here with 0 spent and no receipt, and asks for the next"""
    codes = set()
    for _ in range(MANY):
        grant = await home.ask()
        if isinstance(grant, str):
            break
        home.edge.drain(grant)
        codes |= {await home.closes(grant.grant, spent) for spent in (0, grant.cap_nanodollars - 1)}
    return home.outcome(found=_refused(codes, "no-receipt"))


async def forges_receipts(home: Home) -> Outcome:
    """the same, with receipts of its own making, for any key that it can name"""
    key, codes = forger(), set()
    for _ in range(MANY):
        grant = await home.ask()
        if isinstance(grant, str):
            break
        home.edge.drain(grant)
        forged = _receipt(key, grant.grant)
        as_gateway = Signed(
            kind=forged.kind, document=forged.document, signer=home.edge.fingerprint, signature=forged.signature
        )
        for receipt, public_key in (
            (forged, key.public_key),
            (forged, home.edge.identity.public_key),
            (as_gateway, home.edge.identity.public_key),
            (as_gateway, key.public_key),
        ):
            codes.add(await home.closes(grant.grant, 0, receipt=receipt, gateway_key=public_key))
    return home.outcome(found=_refused(codes, "other-gateway", "wrong-signer", "bad-signature"))


async def shows_other_receipts(home: Home) -> Outcome:
    """closes with true receipts of another grant, of a grant that is still open, and of another gateway"""
    codes = set()
    unspent = await home.ask()
    assert isinstance(unspent, Grant)
    of_unspent = await home.edge.close(unspent.grant)
    other = home.gateway("other")
    key = home.edge.identity.public_key
    for _ in range(MANY):
        grant = await home.ask()
        if isinstance(grant, str):
            break
        still_open = await home.edge.usage(grant.grant)
        home.edge.drain(grant)
        elsewhere = _receipt(other.identity.key, grant.grant)
        codes.add(await home.closes(grant.grant, 0, receipt=of_unspent.receipt, gateway_key=key))
        codes.add(await home.closes(grant.grant, 0, receipt=still_open.receipt, gateway_key=key))
        codes.add(await home.closes(grant.grant, 0, receipt=elsewhere, gateway_key=other.identity.public_key))
    other.store.close()
    return home.outcome(found=_refused(codes, "other-grant", "not-final", "other-gateway"))


async def reopens_closed(home: Home) -> Outcome:
    """closes grants honestly, and then opens and spends the closed ones again at the gateway"""
    refused = set()
    while not isinstance(grant := await home.ask(), str):
        home.edge.pay(grant, 20_000)
        closed = await home.edge.close(grant.grant)
        await home.closes(grant.grant, 0, receipt=closed.receipt, gateway_key=closed.public_key)
        for document in home.documents[-3:]:
            refused.add(await home.edge.open(document))
        home.drain_all()
        if len(home.documents) > MANY:
            break
    paid_once = len(home.documents) * 20_000
    assert home.edge.loss_nanodollars <= paid_once
    await _all_there_is(home)
    home.drain_all()
    return home.outcome(found=_refused(refused, "grant-closed"))


async def replays_requests(home: Home) -> Outcome:
    """sends the same requests again and again, over new connections, and shows all old documents"""
    flow = home.flow()
    first = await home.ask(flow)
    assert isinstance(first, Grant)
    for _ in range(FEW):
        again = await home.ask(flow)
        assert isinstance(again, Grant)
        assert again.grant == first.grant
        await home.thief.close()
        for document in home.documents:
            await home.edge.open(document)
        home.drain_all()
    assert home.edge.loss_nanodollars <= first.cap_nanodollars
    for _ in range(FEW):
        await home.extend(first, first.cap_nanodollars)
        home.wait(1)
        for document in home.documents:
            await home.edge.open(document)
        home.drain_all()
    return home.outcome()


async def under_reports(home: Home) -> Outcome:
    """says with every extension that nothing was spent yet, or everything"""
    dice = random.Random(1)
    grants = [grant for grant in [await home.ask() for _ in range(3)] if isinstance(grant, Grant)]
    for _ in range(MANY):
        grant = dice.choice(grants)
        await home.extend(grant, dice.choice((0, 1, 10**15)))
        home.wait(1)
        home.drain_all()
    return home.outcome()


async def own_gateway(home: Home) -> Outcome:
    """asks for grants at a gateway of its own, which signs that nothing was spent; shows them at the real one"""
    mine = home.gateway("mine")
    codes = set()
    for _ in range(MANY):
        grant = await home.ask(edge=mine)
        if isinstance(grant, str):
            break
        codes.add(await home.edge.open(home.documents[-1]))
        closed = await mine.close(grant.grant)
        await home.closes(grant.grant, 0, receipt=closed.receipt, gateway_key=closed.public_key)
        home.drain_all()
    found = _refused(codes, "other-gateway")
    assert home.edge.loss_nanodollars == 0
    mine.store.close()
    await _all_there_is(home)
    home.drain_all()
    return home.outcome(found=found)


async def own_gateway_twice(home: Home) -> Outcome:
    """opens each grant at the real gateway, and closes it with the receipt of one of its own"""
    mine = home.gateway("mine")
    codes = set()
    for _ in range(MANY):
        grant = await home.ask()
        if isinstance(grant, str):
            break
        home.edge.drain(grant)
        receipt = _receipt(mine.identity.key, grant.grant)
        codes.add(await home.closes(grant.grant, 0, receipt=receipt, gateway_key=mine.identity.public_key))
    mine.store.close()
    return home.outcome(found=_refused(codes, "other-gateway"))


async def lies_about_context(home: Home) -> Outcome:
    """invents programs, people and places, whatever is paid best, and floods the secretary with them"""
    dice = random.Random(2)
    for number in range(5 * MANY):
        transfer = Transfer(
            user=dice.choice(("ann", "bob", f"user{number}")),
            program=dice.choice(("zoom", "firefox", "sshd", f"program{number}")),
            kind=dice.choice(("call", "web", "games", "interactive", "")),
            destination=f"host{number}.example.net",
            network=dice.choice(("Home", f"net{number}")),
            foreground=dice.choice((True, False, None)),
            size_bytes=dice.choice((0, 10**6, 2**40)),
        )
        flow = home.flow(destination_port=dice.choice((80, 443, 5004)))
        await home.ask(flow, transfer=transfer, price=dice.choice((1, FAIR, 10**7)))
    for _ in range(3):
        home.drain_all()
        home.wait(60)
    return home.outcome()


async def speaks_as_person(home: Home) -> Outcome:
    """answers questions, tops up, raises budgets, rotates the key, reads statements: over the agent's door"""
    flow = home.flow(destination_port=80)
    await home.ask(flow, transfer=WEB, price=10**8)
    questions: tuple[PersonQuestion, ...] = (
        AskInbox(),
        AnswerQuestion(number=1, accept=True, limit_nanodollars=10**15, term=Term.ALWAYS),
        UndoAnswer(),
        TopUpPurse(transfer="mine", nanodollars=10**15),
        RaiseBudget(budget="day", nanodollars=10**15),
        SetClockRight(),
        RotateKey(),
        Reread(),
        AskStatement(first_day="2024-10-01", last_day="2024-10-31"),
        DisputeGrant(grant="0" * 32),
        TellAttention(attention=Attention(full_screen=True)),
    )
    codes = {await home.says(question) for question in questions}
    assert not isinstance(await home.ask(flow, transfer=WEB, price=10**8), Grant)
    return home.outcome(cap_nanodollars=0, found=_refused(codes, "not-permitted"))


async def hijacked_program(home: Home) -> Outcome:
    """a hijacked program under an honest agent pays whatever it can: within its own budget"""
    for _ in range(MANY):
        grant = await home.ask(home.flow(), transfer=GAME, price=FAIR)
        if isinstance(grant, str):
            break
        home.edge.drain(grant)
        await home.extend(grant, grant.cap_nanodollars)
        home.drain_all()
        closed = await home.edge.close(grant.grant)
        spent = closed.usage.spent_nanodollars
        await home.closes(grant.grant, spent, receipt=closed.receipt, gateway_key=closed.public_key)
    other = await home.ask(home.flow(), transfer=WEB)
    assert isinstance(other, Grant), "the other programs go on"
    return home.outcome(cap_nanodollars=PROGRAM_BUDGET)


async def poisons_training(home: Home) -> Outcome:
    """asks for thousands of transfers, dear and cheap, to teach that everything is worth much"""
    learner = home.process.secretary.judge.learner_of("ann")
    seen = Transfer(**{name: getattr(WEB, name) for name in WEB.__struct_fields__} | {"size_bytes": 10**6})
    now = home.clock.moment()
    before = learner.opinion(seen, now).limit_nanodollars
    dice = random.Random(3)
    for _ in range(10 * MANY):
        flow = home.flow(destination_port=80)
        grant = await home.ask(flow, transfer=WEB, price=dice.choice((1, 10**5, 10**8)))
        if isinstance(grant, Grant):
            home.edge.drain(grant)
            closed = await home.edge.close(grant.grant)
            spent = closed.usage.spent_nanodollars
            await home.closes(
                grant.grant, spent, receipt=closed.receipt, gateway_key=closed.public_key, size_bytes=2**50
            )
        home.wait(30)
    while (work := learner.due_work()) is not None:
        learner.take(work())
    after = learner.opinion(seen, home.clock.moment()).limit_nanodollars
    return home.outcome(found=f"{home.outcome().found}; a MB is thought worth {after / before:.1f} times as much")


async def clock_set_back(home: Home) -> Outcome:
    """spends the day's budget, and has the host's clock set back: by an hour, a day, to 1970"""
    await _all_there_is(home)
    home.drain_all()
    for seconds in (3600, DAY_S, home.clock.now_s - 10 * DAY_S):
        home.clock.now_s = max(0, home.clock.now_s - seconds)
        home.wait(1)
        await _all_there_is(home)
        home.drain_all()
    return home.outcome()


async def packet_core_wild(home: Home) -> Outcome:
    """only the packet core is taken over: it pays with the keys of all open grants, for any flow"""
    grants = [grant for grant in [await home.ask() for _ in range(3)] if isinstance(grant, Grant)]
    for _ in range(3):
        home.drain_all()
        home.wait(60)
    return home.outcome(cap_nanodollars=sum(grant.cap_nanodollars for grant in grants))


async def restarts_it(home: Home) -> Outcome:
    """asks and spends while the secretary is stopped and started again all the time"""
    for number in range(10):
        await _one_and_restart(home, number)
    home.drain_all()
    await _all_there_is(home)
    home.drain_all()
    return home.outcome()


async def _one_and_restart(home: Home, number: int) -> None:
    grant = await home.ask()
    if isinstance(grant, Grant):
        home.edge.drain(grant)
        if number % 2:
            await home.extend(grant, 0)
    await home.thief.close()
    await home.restart()


def _receipt(key: SigningKey, grant: str) -> Signed:
    """That nothing was spent."""
    receipt = GrantReceipt(
        grant=grant, serial=1, final=True, spent_nanodollars=0, packets=0, refused_packets=0, unix_s=0
    )
    return sign(key, receipt)


def _refused(codes: set[str], *expected: str) -> str:
    """All of it was refused at once, and for these reasons only."""
    assert codes == set(expected), (codes, expected)
    return f"refused at once ({', '.join(expected)})"


ATTACKS: Final[dict[str, Attack]] = {
    attack.__name__.replace("_", "-"): attack
    for attack in (
        takes_all,
        takes_all_longer,
        packet_core_wild,
        closes_for_nothing,
        forges_receipts,
        shows_other_receipts,
        reopens_closed,
        replays_requests,
        under_reports,
        own_gateway,
        own_gateway_twice,
        lies_about_context,
        speaks_as_person,
        hijacked_program,
        poisons_training,
        clock_set_back,
        restarts_it,
    )
}
