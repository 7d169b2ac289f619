"""Who decides about a transfer: the person's answer, their rules, the organisation's, what was learned, the table.

Decides: the order (see `secretary.ruling.rules`), the shipped default bids, and what an outcome means for one price:
paid when the price is at most the maximum, declined when it is more. Refuses to know: ceilings and budgets, which come
after it; how anything is learned; files and clocks. Pure.

Source: MacKie-Mason and Varian, "Pricing the Internet" (default bids by application: file transfer, then e-mail, then
remote shells, then sound; the user overrides them; the organisation limits both).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from billpay.messages import FlowSelector
from secretary.kinds import shipped_kinds
from secretary.opinions import Course, Opinion
from secretary.ruling.rules import Most, Pay, Rule, Source, condition_text, find_rule, outcome_text
from secretary.transfers import Moment, Transfer

SHELL_NANODOLLARS_PER_MB: Final = 10_000_000
"""Bid for a remote shell. For sharing a link the shells are of the kind "control", which goes before all since it is
small; that is no reason to pay more for them than for a call.
"""
DEFAULT_KIND: Final = "default"
CONTROL_KIND: Final = "control"
_ACCEPT_PPM: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What was said of one transfer, and by whom. `limit_nanodollars` None: no bound was said.

    `pay` LEARN: the learner says, at most up to the limit.
    """

    source: Source
    pay: Pay
    most: Most
    limit_nanodollars: int | None
    basis: str  # one line
    rule: Rule | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rulebook:
    """All that has a say, without what was learned."""

    own: Sequence[Rule] = ()
    organisation: Sequence[Rule] = ()

    def ruling(self, transfer: Transfer, now: Moment, flow: FlowSelector | None = None) -> Ruling | None:
        """None: nobody said anything, so that what was learned decides, or the table of kinds."""
        for rules in (self.own, self.organisation):
            rule = find_rule(rules, flow, transfer, now)
            if rule is not None:
                return _of_rule(rule, transfer)
        return None

    def opinion(
        self,
        transfer: Transfer,
        now: Moment,
        flow: FlowSelector | None = None,
        *,
        learned: Callable[[Transfer], Opinion | None] | None = None,
    ) -> tuple[Opinion, Source, Rule | None]:
        """The whole order. `learned` is asked only where it may decide; None from it: it has nothing to say."""
        ruling = self.ruling(transfer, now, flow)
        if ruling is not None and ruling.pay is not Pay.LEARN:
            return opinion_of(ruling, transfer), ruling.source, ruling.rule
        rule = ruling.rule if ruling is not None else None
        source, found = Source.LEARNED, learned(transfer) if learned is not None else None
        if found is None:
            source, found = Source.KINDS, opinion_of(ruling_of_kind(transfer), transfer)
        if ruling is not None and ruling.limit_nanodollars is not None:
            found = _bounded(found, ruling.limit_nanodollars, ruling.basis, transfer)
        return found, source, rule


def default_most(transfer: Transfer) -> tuple[Most, str]:
    """The shipped bid, and the title of the kind it is for. A program of no kind is of the default one."""
    kinds = shipped_kinds()
    name = transfer.program.rpartition("/")[2]
    kind = kinds.get(transfer.kind) or kinds.get(_kind_names().get(name, DEFAULT_KIND)) or kinds[DEFAULT_KIND]
    if kind.name == CONTROL_KIND and name in kind.programs:
        return Most(mb_nanodollars=SHELL_NANODOLLARS_PER_MB), "remote shells"
    return Most(mb_nanodollars=kind.worth_nanodollars_per_mb), kind.title


def ruling_of_kind(transfer: Transfer) -> Ruling:
    """By the shipped table: what people pay for such traffic."""
    most, title = default_most(transfer)
    return Ruling(
        source=Source.KINDS,
        pay=Pay.UP_TO,
        most=most,
        limit_nanodollars=most.of_transfer(transfer.size_bytes),
        basis=f"what people pay for {title}",
    )


def opinion_of(ruling: Ruling, transfer: Transfer) -> Opinion:
    """Of anything but LEARN, which has no opinion of its own: its caller asks who has."""
    limit = ruling.limit_nanodollars or 0
    affordable = Course.PAY if limit > 0 and transfer.price_nanodollars <= limit else Course.DECLINE
    course = affordable
    if ruling.pay is Pay.NEVER:
        course, limit = Course.DECLINE, 0
    elif ruling.pay is Pay.ASK:
        course = Course.ASK
    elif not transfer.price_nanodollars and transfer.size_bytes:
        course = Course.PAY  # it costs nothing
    return Opinion(
        course=course,
        otherwise=affordable if course is Course.ASK else course,
        limit_nanodollars=limit,
        accept_ppm=_ACCEPT_PPM if course is Course.PAY else 0,
        low_nanodollars=limit,
        high_nanodollars=limit,
        answers=0,
        basis=ruling.basis,
    )


def _of_rule(rule: Rule, transfer: Transfer) -> Ruling:
    whose = "your rule" if rule.source is Source.PERSON else "your organisation's rule"
    where = f" in {rule.file}" if rule.file else ""
    most = rule.maximum
    return Ruling(
        source=rule.source,
        pay=rule.pay,
        most=most,
        limit_nanodollars=most.of_transfer(transfer.size_bytes),
        basis=f"{whose} {rule.name}{where} ({condition_text(rule)}): {outcome_text(rule)}",
        rule=rule,
    )


def _bounded(opinion: Opinion, limit_nanodollars: int, basis: str, transfer: Transfer) -> Opinion:
    """What was learned, under the limit of the rule that left it to the learner."""
    if opinion.limit_nanodollars <= limit_nanodollars:
        return opinion
    basis = f"{opinion.basis}; {basis}"
    if transfer.price_nanodollars > limit_nanodollars:
        opinion = replace(opinion, course=Course.DECLINE, otherwise=Course.DECLINE)
    return replace(opinion, limit_nanodollars=limit_nanodollars, basis=basis)


@cache
def _kind_names() -> Mapping[str, str]:
    """By program's file name."""
    return {program: kind.name for kind in shipped_kinds().values() for program in kind.programs}
