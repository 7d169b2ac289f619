"""What every rate reactor is to its caller: once in its interval it hears a price signal and says a rate.

Decides: nothing. The reactors are `elastic`, `streaming`, `transfer`, `timely`; `policies` makes one for a task.
A reactor that was silent for too long lets go: `target_bit_s` None means that the transport has the flow for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pricereactor.signals import PriceSignal


class Verdict(Enum):
    """What is to happen with the session."""

    GO = "go"
    LET_GO = "let go"  # no signal for too long: nobody paces it, its own transport answers congestion
    PAUSE = "pause"  # it costs more than it is worth now: no more than the least rate
    STOP = "stop"  # its budget is used up, or it can no more be worth what it costs


@dataclass(frozen=True, slots=True, kw_only=True)
class RateDecision:
    """Holds until the next one. `reason` is one line for a person. `level`: of a ladder, from 0."""

    target_bit_s: int | None
    verdict: Verdict = Verdict.GO
    level: int | None = None
    reason: str = ""


class RateReactor(Protocol):
    """One for each session. `interval_ns`: how often it wants to be asked; feedback comes exactly so often (DPH-08)."""

    interval_ns: int

    def on_interval(self, now_ns: int, signal: PriceSignal | None) -> RateDecision:
        """`now_ns` never runs backwards. None: nothing was heard in this interval, which proves nothing."""
        ...
