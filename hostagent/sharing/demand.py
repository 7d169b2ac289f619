"""What each kind of traffic wants of each link, out of an engine's cumulative counts of flows.

Decides: what is new since the last look, and what a rate is. A count that fell is a new start (another engine, a flow's
place used again) and counts whole. Refuses to know: engines, clocks, prices. Pure; times are the readings' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from dataplane.metering import FlowKey, FlowMeter, Reading, Tally

NS_PER_S: Final = 1_000_000_000


class Moved(NamedTuple):
    """Bytes of one look."""

    sent_bytes: int = 0
    received_bytes: int = 0

    def plus(self, other: Moved) -> Moved:
        return Moved(self.sent_bytes + other.sent_bytes, self.received_bytes + other.received_bytes)


class RateOf(NamedTuple):
    sent_bit_s: int = 0
    received_bit_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What moved between two looks. `kinds`: by interface index and class number; `flows` are those that moved."""

    kinds: Mapping[tuple[int, int], Moved]
    new_flows: tuple[FlowMeter, ...]


class Demands:
    """One for an engine's life, or longer."""

    def __init__(self) -> None:
        self._flows: dict[FlowKey, tuple[int, int]] = {}
        self._flows_ns: int | None = None
        self._rates: dict[tuple[int, int], RateOf] = {}
        self.kind_totals: dict[int, Moved] = {}

    def look(self, reading: Reading, flows: Iterable[FlowMeter] | None) -> Moves:
        """`flows` None: they were not read this time; rates of kinds stay as they were."""
        kinds, new = self._look_at_flows(flows, reading.now_ns) if flows is not None else ({}, ())
        return Moves(kinds=kinds, new_flows=new)

    def rate(self, interface_index: int, traffic_class: int) -> RateOf:
        return self._rates.get((interface_index, traffic_class), RateOf())

    def _look_at_flows(
        self, flows: Iterable[FlowMeter], now_ns: int
    ) -> tuple[dict[tuple[int, int], Moved], tuple[FlowMeter, ...]]:
        before, self._flows = self._flows, {}
        kinds: dict[tuple[int, int], Moved] = {}
        new = []
        for flow in flows:
            self._flows[flow.key] = (flow.sent.bytes, flow.received.bytes)
            last = before.get(flow.key)
            if last is None:
                new.append(flow)
            if moved := _grown(last, _moved(flow.sent, flow.received)):
                place = (flow.key.interface_index, flow.traffic_class)
                kinds[place] = kinds.get(place, Moved()).plus(moved)
        for (_, traffic_class), moved in kinds.items():
            self.kind_totals[traffic_class] = self.kind_totals.get(traffic_class, Moved()).plus(moved)
        self._set_rates(kinds, now_ns)
        return kinds, tuple(new)

    def _set_rates(self, kinds: Mapping[tuple[int, int], Moved], now_ns: int) -> None:
        elapsed = now_ns - self._flows_ns if self._flows_ns is not None else 0
        self._flows_ns = now_ns
        if elapsed <= 0:
            return
        rates = {}
        for place in self._rates.keys() | kinds.keys():
            old, moved = self._rates.get(place, RateOf()), kinds.get(place, Moved())
            now = (count * 8 * NS_PER_S // elapsed for count in moved)
            mixed = RateOf(*(_follow(was, rate) for was, rate in zip(old, now, strict=True)))
            if any(mixed):
                rates[place] = mixed
        self._rates = rates


def _follow(before: int, now: int) -> int:
    """Up at once, so that a price is seen within a second; down by half, so that a pause is not an end."""
    return now if now >= before else (before + now) // 2


def _moved(sent: Tally, received: Tally) -> Moved:
    return Moved(sent.bytes, received.bytes)


def _grown(before: tuple[int, ...] | None, now: Moved) -> Moved | None:
    """None when nothing moved."""
    was = before or (0, 0)
    grown = Moved(*(new - old if new >= old else new for new, old in zip(now, was, strict=True)))
    return grown if any(grown) else None
