"""What acting would change on this machine, before it does: classes, rates and the tree of queues, command by command.

Decides: how the tree is written down, as the `tc` commands that make the same. Refuses to know: what anything is worth;
kinds come from the agent's snapshot, and the tree from the very code that the engine builds it by. Pure.
Where the engine is a packet queue of the agent's own, the commands say in tc's words what it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import click

from cli.results import ClassPreview, LinkPreview, Preview
from cli.show.text import Grid, bit_rate, harmless, per_gb, write
from dataplane.host_engine import EngineName
from dataplane.shaping.htb import HANDLE, Direction, HtbClass, build_tree, needs_tree
from dataplane.shaping.plan import CONTROL, DEFAULT, ShapedLink, ShapingPlan, TrafficClass
from dataplane.shaping.trafficcontrol import IFB_PREFIX
from hostagent import api

_HOW: Final[dict[str, str]] = {
    EngineName.EBPF: "by these commands, and a queue (fq_codel where the kernel has it) in each class",
    EngineName.NFQUEUE: "in the agent's own packet queue, which shares as this would",
}
_LEAST_BIT_S: Final = 64_000


def preview_of(snapshot: api.Snapshot, indexes: Mapping[str, int]) -> Preview:
    """`indexes`: interfaces' numbers, by which the device for arrivals is named."""
    plan = _plan(snapshot)
    return Preview(
        engine=snapshot.status.engine,
        mode=snapshot.status.mode.value,
        kinds=tuple(
            ClassPreview(
                name=each.name,
                worth_nanodollars_per_mb=each.worth_nanodollars_per_mb,
                weight=each.weight,
                minimum_bit_s=each.minimum_bit_s,
                cap_bit_s=each.cap_bit_s,
                state=each.state.value,
            )
            for each in snapshot.kinds
        ),
        links=tuple(
            _preview(snapshot.status, plan, link, direction, f"{IFB_PREFIX}{indexes.get(link.interface, 'N')}")
            for link in plan.links
            for direction in Direction
        ),
    )


def _plan(snapshot: api.Snapshot) -> ShapingPlan:
    """The two classes that are always there come first, as the engine has them."""
    places = {"control": CONTROL, "default": DEFAULT}
    kinds = {each.name: _class(each) for each in snapshot.kinds}
    first = [kinds.pop(name, TrafficClass(name=name)) for name in sorted(places, key=places.__getitem__)]
    return ShapingPlan(
        classes=(*first, *kinds.values()),
        links=tuple(
            ShapedLink(
                interface=each.interface,
                egress_bit_s=_bounded(each.egress_bit_s),
                ingress_bit_s=_bounded(each.ingress_bit_s),
            )
            for each in snapshot.links
        ),
    )


def _class(kind: api.Kind) -> TrafficClass:
    return TrafficClass(
        name=kind.name, weight=kind.weight, minimum_bit_s=kind.minimum_bit_s, cap_bit_s=_bounded(kind.cap_bit_s)
    )


def _bounded(bit_s: int | None) -> int | None:
    return None if bit_s is None else max(_LEAST_BIT_S, bit_s)


def _preview(status: api.Status, plan: ShapingPlan, link: ShapedLink, direction: Direction, ifb: str) -> LinkPreview:
    why_not = _why_not(status, link.interface, direction)
    if not why_not and not needs_tree(plan, link, direction):
        why_not = "its rate is not known, and no kind has a cap or a minimum"
    is_egress = direction is Direction.EGRESS
    device = link.interface if is_egress else ifb
    return LinkPreview(
        interface=link.interface,
        direction="out" if is_egress else "in",
        rate_bit_s=link.egress_bit_s if is_egress else link.ingress_bit_s,
        changes=not why_not,
        why=why_not or _HOW.get(status.engine, ""),
        commands=() if why_not else tuple(_commands(plan, link, direction, device)),
    )


def _why_not(status: api.Status, interface: str, direction: Direction) -> str:
    if status.engine == EngineName.SOCKETS:
        return f"the engine {status.engine} only counts"
    for limit in status.limits:
        if limit.ability == f"shape {direction}" and interface in limit.cause:
            return f"cannot {limit.ability}: {limit.cause}"
    return ""


def _commands(plan: ShapingPlan, link: ShapedLink, direction: Direction, device: str) -> Iterator[str]:
    if direction is Direction.INGRESS:
        yield f"ip link add {device} type ifb"
    yield f"tc qdisc replace dev {device} root handle {HANDLE:x}: htb"
    for each in build_tree(plan, link, direction).classes:
        yield f"tc {class_command(device, each)}"


def class_command(device: str, each: HtbClass) -> str:
    parent = f"{each.parent:x}" if each.parent else ""
    return (
        f"class replace dev {device} parent {HANDLE:x}:{parent} classid {HANDLE:x}:{each.minor:x} htb"
        f" rate {each.rate_bit_s}bit ceil {each.ceil_bit_s}bit burst {each.burst_bytes} cburst {each.cburst_bytes}"
        f" prio {each.prio} quantum {each.quantum_bytes}"
    )


# -- for people ------------------------------------------------------------------------------------------------------


def show_preview(preview: Preview) -> None:
    write(f"engine {preview.engine}; mode now: {preview.mode}. Acting makes this, stopping puts back what was there:")
    grid = Grid("kind", ">worth", ">weight", ">at least", ">at most", "state")
    for kind in preview.kinds:
        cap = "" if kind.cap_bit_s is None else bit_rate(kind.cap_bit_s)
        least = bit_rate(kind.minimum_bit_s) if kind.minimum_bit_s else ""
        grid.add(kind.name, per_gb(kind.worth_nanodollars_per_mb), str(kind.weight), least, cap, kind.state)
    if grid:
        write("", grid)
    for link in preview.links:
        known = "rate not known" if link.rate_bit_s is None else bit_rate(link.rate_bit_s)
        verdict = "changes" if link.changes else "stays as it is"
        write("", f"{link.interface} {link.direction} ({known}): {verdict}: {link.why}")
        for command in link.commands:
            click.echo(harmless(command))  # whole, so that it can be copied
    if not preview.links:
        write("", "no link: this host is on no network, so nothing would change")
