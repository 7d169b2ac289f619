"""How much each packet of a flow carries now: the reactor for a rule.

Decides which reactor a rule's strategy means; refuses to know who allowed the amount (secretary), which path it takes
(cartographer) and what time it is (the caller gives it). Pure. Source: Bill-Pay 3.1.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pricereactor.bulk import BulkPayment, BulkPolicy
from pricereactor.payments import Decision, Observation, Reactor, require_amount
from pricereactor.timely import TimelyPayment, TimelyPolicy

__all__ = [
    "BulkPayment",
    "BulkPolicy",
    "Decision",
    "FixedPayment",
    "Observation",
    "Reactor",
    "Strategy",
    "TimelyPayment",
    "reactor_for",
]


_ENOUGH_ECHOES = 10
"""Each tells the toll of all packets since the one before it: some seconds of a flow."""


class Strategy(enum.Enum):
    """The ways of paying that a rule can name."""

    UNPAID = "unpaid"
    FIXED = "fixed"
    BULK = "bulk"
    TIMELY = "timely"


@dataclass(frozen=True, slots=True)
class FixedPayment:
    """The same amount in every packet, whatever happens."""

    amount_nanodollars: int

    def __post_init__(self) -> None:
        require_amount("amount", self.amount_nanodollars)

    def on_observation(self, observation: Observation) -> Decision:  # noqa: ARG002 - nothing moves it
        amount = self.amount_nanodollars
        return Decision(
            amount_nanodollars=amount,
            try_other_path=False,
            reason=f"the rule fixes {amount} n$ for each packet" if amount else "the rule pays nothing",
        )


def reactor_for(
    strategy: Strategy | str,
    *,
    amount_nanodollars: int,
    willingness_nanodollars: int,
    target_bit_s: int,
    probes_nanodollars: int = 0,
) -> Reactor:
    """The reactor for a rule; what a strategy does not use is ignored. ValueError: no such strategy.

    A fixed amount is bounded by the willingness to pay too: whoever states both means the lower one.
    """
    match Strategy(strategy):
        case Strategy.UNPAID:
            return FixedPayment(0)
        case Strategy.FIXED:
            return FixedPayment(min(amount_nanodollars, willingness_nanodollars))
        case Strategy.BULK:
            return BulkPayment(BulkPolicy(willingness_nanodollars=willingness_nanodollars, target_bit_s=target_bit_s))
        case Strategy.TIMELY:
            return TimelyPayment(
                TimelyPolicy(
                    willingness_nanodollars=willingness_nanodollars,
                    probe_budget_nanodollars=probes_nanodollars,
                    enough_tolls=_ENOUGH_ECHOES,
                )
            )
