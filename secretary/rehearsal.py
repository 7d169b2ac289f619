"""The whole secretary over recorded or synthetic requests, on a virtual clock: what it would have decided.

Decides nothing: the judge does, with its rules, its learner and its inbox, as in the process; what is asked is answered
at once. Money has no end here, and the guard is out of it: a replay is about what transfers are worth.
"""

from __future__ import annotations

from collections.abc import Callable

from secretary.inbox.inbox import Inbox
from secretary.inbox.questions import Asked, Manners
from secretary.judging import Judge, Policy
from secretary.learning.learner import Learner
from secretary.replay import Decided
from secretary.ruling.terms import Term
from secretary.transfers import Moment, Transfer


class Rehearsal:
    """A `secretary.replay.Decider`. What people are asked about is theirs: nobody sees more than their yes or no."""

    def __init__(self, policy: Policy | None = None, manners: Manners | None = None) -> None:
        self.judge = Judge(
            policy if policy is not None else Policy(),
            Inbox(manners if manners is not None else Manners()),
            make_learner=lambda: Learner(commons=self.judge.commons),
            make_guard=None,
        )

    def on_request(self, transfer: Transfer, now: Moment, ask: Callable[[], bool]) -> Decided:
        judge = self.judge
        for over in judge.inbox.on_time(now):
            judge.apply(over, now)
        judgement = judge.judge(transfer, now)
        judge.count(judgement, now)
        accept_ppm = judgement.opinion.accept_ppm if judgement.opinion is not None else None
        asked = None
        for entry in judge.ask(judgement, now):
            judge.apply(entry, now)
            if isinstance(entry, Asked):
                asked = entry
        if asked is None:
            return Decided(
                pay=judgement.pays,
                limit_nanodollars=judgement.limit_nanodollars,
                asked=False,
                accept_ppm=accept_ppm,
                why=judgement.why,
            )
        accepted = ask()
        answered = judge.inbox.answer(asked.number, now, accept=accepted, term=Term.ONCE)
        if answered is not None:
            judge.apply(answered, now)
        return Decided(
            pay=accepted,
            limit_nanodollars=transfer.price_nanodollars if accepted else 0,
            asked=True,
            accept_ppm=accept_ppm,
            why=f"you were asked: {asked.proposal.why}",
        )
