"""Starts the wire process of a network, for whoever runs one: a wire for each cable that takes time or harms."""

from __future__ import annotations

from typing import IO

from lab.namespaces import Network
from lab.steps import harm_of, wire_name
from lab.wire import WireOrder, Wires


def start_wires(network: Network, *, seed: int, errors: IO[bytes]) -> Wires | None:
    """None where no cable needs one."""
    namespace = network.wire_namespace
    if namespace is None:
        return None
    orders = [
        WireOrder(
            name=wire_name(*(end.node for end in cable.ends)),
            interfaces=network.wire_interfaces(cable),
            harm=harm_of(
                delay_ms=cable.link.delay_ms, loss_ppm=cable.link.loss_ppm, reorder_ppm=cable.link.reorder_ppm
            ),
            seed=seed * 1000 + cable.number,
        )
        for cable in network.plan.cables
        if cable.link.has_wire
    ]
    return Wires(orders, namespace.argv, errors)
