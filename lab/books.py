"""What the books of all nodes say after a run, in one shape for hosts and gateways.

Values only; `lab.daemons` reads them out of the running daemons, `lab.measures` compares them with what the taps saw.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCount:
    """One node's own counters of its link with a neighbour."""

    node: str
    peer: str
    sent_nanodollars: int
    received_nanodollars: int
    sent_packets: int = 0
    received_packets: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LossLine:
    """A difference between two neighbours' counters that the books name, with its statement interval."""

    sender: str
    receiver: str
    interval: int
    nanodollars: int
    kind: str  # `sent − received` grows by "loss" and "withdrawn", shrinks by "found" and "excess"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementLine:
    """A part of a balance that was settled with a real payment."""

    debtor: str
    creditor: str
    number: int
    nanodollars: int
    reason: str  # "threshold" or "period"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBooks:
    node: str
    is_gateway: bool
    links: tuple[LinkCount, ...]
    retained_nanodollars: int  # tolls, or the receiving host's share
    kept_nanodollars: int  # of packets dropped or lost inside
    in_hand_nanodollars: int = 0  # a receiving host's pools: to be returned with packets that have not come yet
    returned_nanodollars: int = 0  # a receiving host's refunds of others' payments: a part of what it sent
    refunded_nanodollars: int = 0  # a paying host's: what came back of its own payments
    losses: tuple[LossLine, ...] = ()
    settlements: tuple[SettlementLine, ...] = ()
    statements_agree: bool = True  # the last comparison with each neighbour covered everything counted
    engine: str = ""  # of payments, and why it is this one

    @property
    def received_nanodollars(self) -> int:
        return sum(link.received_nanodollars for link in self.links)

    @property
    def sent_nanodollars(self) -> int:
        return sum(link.sent_nanodollars for link in self.links)
