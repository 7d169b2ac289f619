"""What a step that changes an ISP makes of the scenario: the ISP's configuration then follows from it as at the start.

Decides nothing but that.  Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import msgspec

from lab.topology import Alternative, Changing, Charge, Describe, Heed, Node, Scenario


def after(scenario: Scenario, step: Changing) -> Scenario:
    """The scenario as if it had been so from the start."""
    match step:
        case Charge():
            return _with_node(scenario, step.node, lambda node: _charging(node, step))
        case Heed():
            return _with_node(
                scenario, step.node, lambda node: msgspec.structs.replace(node, ignores_wishes=not step.wishes)
            )
        case Describe():
            alternatives = tuple(_described(item, step) for item in scenario.alternatives)
            return msgspec.structs.replace(scenario, alternatives=alternatives)
        case _:
            assert_never(step)


def _with_node(scenario: Scenario, name: str, change: Callable[[Node], Node]) -> Scenario:
    nodes = tuple(change(node) if node.name == name else node for node in scenario.nodes)
    return msgspec.structs.replace(scenario, nodes=nodes)


def _charging(node: Node, step: Charge) -> Node:
    others = tuple(toll for toll in node.tolls if toll.towards != step.toll.towards)
    return msgspec.structs.replace(node, tolls=(*others, step.toll))


def _described(item: Alternative, step: Describe) -> Alternative:
    if (item.node, item.to) != (step.node, step.to):
        return item
    if item.number != step.number:
        return msgspec.structs.replace(item, default=item.default and not step.default)
    return msgspec.structs.replace(
        item,
        delay_ms=step.delay_ms,
        toll_nanodollars=step.toll_nanodollars,
        available=step.available,
        default=step.default,
    )


def said(step: Changing) -> str:
    """For the list of events."""
    match step:
        case Charge():
            toll = step.toll
            where = f" towards {toll.towards}" if toll.towards else ""
            return f"{step.node} charges {toll.fixed_nanodollars} n$ and {toll.proportional_ppm / 1e4:g} %{where}"
        case Heed():
            return f"{step.node} {'follows' if step.wishes else 'ignores'} wishes"
        case Describe():
            if not step.available:
                return f"{step.node} withdraws alternative {step.number} to {step.to}"
            promises = [f"{step.delay_ms:g} ms"] if step.delay_ms is not None else []
            promises += [f"{step.toll_nanodollars} n$"] if step.toll_nanodollars is not None else []
            default = ", its default" if step.default else ""
            return f"{step.node} promises {' and '.join(promises) or 'nothing'} for alternative {step.number}{default}"
        case _:
            assert_never(step)
