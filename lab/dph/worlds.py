"""The networks of experiment B.2 as experiments of the simulator: one bottleneck of 4 Mbit/s with 60 packets of buffer.

Decides: what a sweep leaves alone. Refuses to know: how they are run. The willingness of all users together bears 160
marks/s, a third of the packets, whatever their number: so that a sweep over users does not change the price.

Rules have the simulator's usual parameters, which are ALTQ's for RED, but for REM: its usual ones are for links of many
thousands of packets in a second, and would need three minutes until a third of 500 is marked (the price grows by 2.5 a
second, and 430 is needed). ALTQ's RED remembers 512 packets, so it answers a second late here; `RED-16`, with a memory
of 16, is measured beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from lab.simulator.experiment import Experiment, Marking, MarkingKind, decode

CAPACITY_BIT_S: Final = 4_000_000
BUFFER_PACKETS: Final = 60
PRICE: Final = 1_000
ALL_WILLING: Final = 160_000
"""Nanodollars per second of all users together."""

Table = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A marking rule with the parameters that differ from the simulator's usual ones."""

    name: str
    kind: MarkingKind
    parameters: tuple[tuple[str, float], ...] = ()

    @property
    def has_theta(self) -> bool:
        return self.kind is not MarkingKind.REM


RED: Final = Rule(name="RED", kind=MarkingKind.RED)
RED_16: Final = Rule(name="RED-16", kind=MarkingKind.RED, parameters=(("average_weight", 1 / 16),))
VQ: Final = Rule(name="VQ", kind=MarkingKind.VIRTUAL_QUEUE)
AVQ: Final = Rule(name="AVQ", kind=MarkingKind.AVQ)
REM: Final = Rule(
    name="REM",
    kind=MarkingKind.REM,
    parameters=(("gain", 0.002), ("phi", 1.05), ("reference_packets", 10.0)),
)
STEP: Final = Rule(name="step", kind=MarkingKind.STEP)
RULES: Final = (RED, RED_16, VQ, AVQ, REM, STEP)


def experiment_of(table: Table, marking: Table | None = None) -> Experiment:
    """Of packets; `marking`: parameters of the first link's rule."""
    read = decode(msgspec.json.encode({"mode": "packets", **table}).decode(), file="dph.json")
    if not marking:
        return read
    first, *rest = read.links
    rule: Marking = msgspec.structs.replace(first.marking, **marking)
    return msgspec.structs.replace(read, links=(msgspec.structs.replace(first, marking=rule), *rest))


def bottleneck(
    flows: Sequence[Table],
    *,
    rule: Rule = VQ,
    seed: int = 1,
    seconds: float,
    warm_up_s: float,
    theta: float | None = None,
    price_nanodollars_per_mark: int = PRICE,
    events: Sequence[Table] = (),
    rate_bit_s: float = CAPACITY_BIT_S,
) -> Experiment:
    """`theta`: the virtual capacity over the real one; of AVQ the utilisation that it wants."""
    marking: Table = dict(rule.parameters)
    if theta is not None and rule.has_theta:
        marking["gamma" if rule.kind is MarkingKind.AVQ else "theta"] = theta
    link = {
        "name": "r1-r2",
        "rate_bit_s": rate_bit_s,
        "delay_ms": 5,
        "buffer_packets": BUFFER_PACKETS,
        "marking": {"kind": rule.kind.value},
    }
    table: Table = {
        "name": "dph",
        "seed": seed,
        "seconds": seconds,
        "warm_up_s": warm_up_s,
        "price_nanodollars_per_mark": price_nanodollars_per_mark,
        "links": [link],
        "flows": [{"path": ["r1-r2"], **flow} for flow in flows],
        "events": list(events),
    }
    return experiment_of(table, marking)


def one_to_three(users: int, *, rtt_ms: float | Sequence[float], ratio: float = 3.0) -> list[Table]:
    """Users in turn of willingness 1 and `ratio`; `rtt_ms`: the same for all, or in turn by pairs."""
    unit = ALL_WILLING / (users / 2 * (1 + ratio))
    trips = [rtt_ms] if isinstance(rtt_ms, int | float) else list(rtt_ms)
    return [
        {
            "name": f"u{number}",
            "willingness_nanodollars_per_s": unit * (ratio if number % 2 else 1.0),
            "rtt_ms": trips[number // 2 % len(trips)],
        }
        for number in range(users)
    ]
