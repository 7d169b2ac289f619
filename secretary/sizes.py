"""How large a transfer will be, from those that were: an agent that asks for a grant does not know it yet.

Decides: the estimate (the median of what such transfers moved, in logarithms, the later ones counting more). Refuses to
know: what a byte is worth. Pure; bounded.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Annotated, Final

import msgspec

from secretary.transfers import Text, Transfer

UNKNOWN_BYTES: Final = 1_000_000
PLACES_MAX: Final = 4096
MEMORY: Final = 0.8
"""What an estimate keeps of itself when another transfer has ended; the first few count as their mean."""
PRIOR_TRANSFERS: Final = 2.0
"""So many transfers of the program weigh as much as what is known of all programs of its kind."""


class SizeState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`place`: a kind and a program ("" for all of a kind). `log_bytes`: natural logarithm."""

    kind: Text
    program: Text
    log_bytes: float
    weight: Annotated[float, msgspec.Meta(ge=0)]


class Sizes:
    """`kept`: what `state` gave."""

    def __init__(self, kept: tuple[SizeState, ...] = ()) -> None:
        self._places: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict(
            ((each.kind, each.program), (each.log_bytes, each.weight)) for each in kept
        )

    def expected_bytes(self, transfer: Transfer) -> int:
        """At least 1."""
        if transfer.size_bytes:
            return transfer.size_bytes
        log_kind, weight_kind = self._places.get((transfer.kind, ""), (0.0, 0.0))
        base = (log_kind * weight_kind + math.log(UNKNOWN_BYTES)) / (weight_kind + 1)
        log_own, weight_own = self._places.get((transfer.kind, transfer.program), (0.0, 0.0))
        return max(1, round(math.exp((log_own * weight_own + base * PRIOR_TRANSFERS) / (weight_own + PRIOR_TRANSFERS))))

    def ended(self, transfer: Transfer, size_bytes: int) -> None:
        if size_bytes <= 0:
            return
        for place in {(transfer.kind, transfer.program), (transfer.kind, "")}:
            mean, weight = self._places.pop(place, (0.0, 0.0))
            kept = weight * MEMORY if weight * (1 - MEMORY) >= 1 else weight  # the first few count alike
            self._places[place] = ((mean * kept + math.log(size_bytes)) / (kept + 1), kept + 1)
        while len(self._places) > PLACES_MAX:
            self._places.popitem(last=False)

    def state(self) -> tuple[SizeState, ...]:
        return tuple(
            SizeState(kind=kind, program=program, log_bytes=mean, weight=weight)
            for (kind, program), (mean, weight) in self._places.items()
        )
