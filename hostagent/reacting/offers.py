"""Senders that would keep to a target rate, until somebody here pays for their flows.

Decides: how many offers are remembered, of whom, and how long. Refuses to know: sockets, clocks, policies. Pure.
Source: `docs/spec/session-protocol.md` ("Terms").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from billpay.sessions import SessionTerms
from dataplane.metering import FlowKey

KEPT_NS: Final = 60_000_000_000
MOST_KEPT: Final = 1_024
MOST_OF_ONE: Final = 256
"""Of one agent: nobody can fill the table alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    peer: str  # the fingerprint of the agent that made it
    terms: SessionTerms
    heard_ns: int


class Offers:
    """By flow, as this host's engine has it."""

    def __init__(self) -> None:
        self._offers: dict[FlowKey, _Offer] = {}

    def __len__(self) -> int:
        return len(self._offers)

    def on_terms(self, terms: SessionTerms, *, peer: str, key: FlowKey, now_ns: int) -> None:
        """Terms for a flow that another agent has offered change nothing."""
        known = self._offers.get(key)
        if known is not None and known.peer != peer:
            return
        if terms.ends:
            if known is not None and known.terms.session == terms.session:
                del self._offers[key]
            return
        if known is None and (len(self._offers) >= MOST_KEPT or self._of(peer) >= MOST_OF_ONE):
            return
        self._offers[key] = _Offer(peer=peer, terms=terms, heard_ns=now_ns)

    def take(self, key: FlowKey, now_ns: int) -> SessionTerms | None:
        """The flow's, once."""
        offer = self._offers.pop(key, None)
        return offer.terms if offer is not None and now_ns - offer.heard_ns < KEPT_NS else None

    def forget_old(self, now_ns: int) -> None:
        self._offers = {key: each for key, each in self._offers.items() if now_ns - each.heard_ns < KEPT_NS}

    def _of(self, peer: str) -> int:
        return sum(each.peer == peer for each in self._offers.values())
