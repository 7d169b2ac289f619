"""What every payment reactor is to its caller: it hears what became of a flow and says what each packet carries.

Decides: nothing. The reactors are `bulk`, `timely` and the fixed amount of `reactor`; `policies` makes one for a task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from billpay.errors import LocalProtocolError
from billpay.header import MAX_AMOUNT_NANODOLLARS


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What is known of a flow at `now_ns` (any monotonic clock)."""

    now_ns: int
    goodput_bit_s: int | None  # what the far end received; None: not known, or the program had nothing to send
    toll_nanodollars: int | None  # what the path keeps of one packet, from the last echo
    round_trip_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What every packet carries until the next decision; `reason` is one line for a person."""

    amount_nanodollars: int
    try_other_path: bool
    reason: str


class Reactor(Protocol):
    """One for each flow."""

    def on_observation(self, observation: Observation) -> Decision:
        """The decision that holds from `observation.now_ns` on; times never run backwards."""
        ...


def require_amount(what: str, amount: int) -> None:
    """Our own fault if no packet can carry it."""
    if not 0 <= amount <= MAX_AMOUNT_NANODOLLARS:
        raise LocalProtocolError(f"{what} {amount} n$ does not fit the header")
