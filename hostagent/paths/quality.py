"""How good each way was, in stretches of five minutes: what is shown as its history.

Decides: which stretch a measurement belongs to, and that a way of which nothing was measured in it has no row. Refuses
to know how anything was measured. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cartographer.values import Estimate, Quantity, WayQuality
from hostagent import api

SLOT_S: Final = 300
NS_PER_S: Final = 1_000_000_000


class QualitySlots:
    """Call `rows` when a stretch is over: `ends` says so."""

    def __init__(self, unix_s: int) -> None:
        self._slot = unix_s // SLOT_S

    def ends(self, unix_s: int) -> bool:
        return unix_s // SLOT_S != self._slot

    def rows(self, qualities: Iterable[WayQuality], *, now_ns: int, unix_s: int) -> tuple[api.QualityRow, ...]:
        """Of the stretch that ended last; ways that were measured since its beginning."""
        since_ns = now_ns - (unix_s - self._slot * SLOT_S) * NS_PER_S
        from_unix_s, self._slot = self._slot * SLOT_S, unix_s // SLOT_S
        found = []
        for each in qualities:
            fresh = {
                quantity: estimate
                for quantity, estimate in each.estimates.items()
                if estimate.measured_ns is not None and estimate.measured_ns >= since_ns
            }
            if fresh:
                found.append(_row(each, fresh, from_unix_s))
        return tuple(found)


def _row(way: WayQuality, fresh: dict[Quantity, Estimate], from_unix_s: int) -> api.QualityRow:
    def value(quantity: Quantity) -> int | None:
        estimate = fresh.get(quantity)
        return None if estimate is None else estimate.value

    delay = fresh.get(Quantity.DELAY_NS)
    return api.QualityRow(
        from_unix_s=from_unix_s,
        seconds=SLOT_S,
        destination=way.destination,
        way=way.way,
        samples=round(max(estimate.samples for estimate in fresh.values())),
        delay_ns=value(Quantity.DELAY_NS),
        delay_spread_ns=None if delay is None else delay.spread,
        jitter_ns=value(Quantity.JITTER_NS),
        loss_ppm=value(Quantity.LOSS_PPM),
        marks_ppm=value(Quantity.MARKS_PPM),
        throughput_bit_s=value(Quantity.THROUGHPUT_BIT_S),
        toll_picodollars=value(Quantity.FORWARD_TOLL_PICODOLLARS),
    )
