"""By which of several accesses new flows leave, without touching what the user has in the main table.

Decides: the rules and tables that say it, when others' rules stand in the way, and how all of it is undone. Refuses to
know: which access is the best (`cartographer.access`). Source: ip-rule(8), ip-route(8), RFC 3704 (multihoming).

For each family three priorities, just before the main table's own:

    32700  lookup main suppress_prefixlength 0   every route but the default ones keeps its word, VPNs' included
    32701  from ADDRESS lookup OURS + its index  flows that have an address keep their ISP: another would refuse it
    32702  lookup OURS                           all others that this host begins: by the chosen access

All three hold for packets of this host (`iif lo`); what it forwards goes as ever. When an interface goes, the kernel
takes its routes out of our tables too, the lookups find nothing, and the main table decides as if we were not there.
A VPN that begins later puts its rules before ours: it has its way, and ours are taken away at the next look.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from billpay.errors import EnvironmentFault
from dataplane import kernel_tools
from dataplane.desired import AccessRoute, DesiredState, Family
from dataplane.record import Record, RouteUndo, ShownRuleUndo, Undo
from dataplane.rules import restore

OWNER: Final = "access"
FAMILIES: Final[tuple[Family, ...]] = (4, 6)
SPECIFIC, BY_SOURCE, CHOSEN = 32700, 32701, 32702
LAST_OF_OTHERS: Final = 32766
"""The main table's own rule, and the default table's behind it."""
OURS: Final = 0x4250_0000
"""The first of our tables; the index of an interface is added."""
OUR_TABLES: Final = range(OURS, OURS + (1 << 20))
ADDRESSES_MAX: Final = 32
_MAIN: Final = 254
_NARROW: Final = ("to", "oif", "fwmark", "uidrange", "ipproto", "sport", "dport", "tos", "dsfield")
_WIDE_BITS: Final = 3
"""A route for so few bits is as good as a default route: VPNs write two halves, or 2000::/3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessApplied:
    """What holds now. `families`: in which the chosen access is in force; `obstacles`: why not in the others."""

    families: tuple[int, ...] = ()
    obstacles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShownRule:
    """A line of `ip -N rule show`."""

    priority: int
    text: str


class _Metric(msgspec.Struct, frozen=True):
    mtu: int | None = None


class _Via(msgspec.Struct, frozen=True):
    host: str = ""


class _Route(msgspec.Struct, frozen=True):
    """What we read of an `ip -N -j route show` entry."""

    dst: str = ""
    dev: str = ""
    gateway: str = ""
    via: _Via = _Via()
    table: str = "254"
    prefsrc: str = ""
    metric: int = 0
    flags: tuple[str, ...] = ()
    metrics: tuple[_Metric, ...] = ()


class _Address(msgspec.Struct, frozen=True):
    family: str = ""
    local: str = ""
    scope: str = ""
    tentative: bool = False
    dadfailed: bool = False


class _Link(msgspec.Struct, frozen=True):
    ifindex: int = 0
    ifname: str = ""
    addr_info: tuple[_Address, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One family as it is now. `ours`: the default routes in our tables, by table."""

    family: Family
    rules: tuple[ShownRule, ...]
    defaults: Mapping[str, AccessRoute]  # the main table's best one of each interface
    ours: Mapping[int, AccessRoute]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One family as it should be; routes by table."""

    routes: Mapping[int, AccessRoute]
    rules: tuple[ShownRule, ...]


NOTHING: Final = Wanted(routes={}, rules=())


class AccessRoutes:
    """One for an agent; belongs to the network namespace of the thread that calls it."""

    def __init__(self, record_path: Path) -> None:
        self._path = record_path

    def apply(self, chosen: str, accesses: Collection[str]) -> AccessApplied:
        """Idempotent. `accesses`: interfaces that may be chosen; addresses of all of them keep their own way.

        Each change is on the disk, with what undoes it, before it is made. Raises EnvironmentFault, after undoing all.
        """
        record = Record.load(self._path) or Record(path=self._path, desired=DesiredState(owner=OWNER))
        families: list[int] = []
        obstacles: list[str] = []
        try:
            links = _read_links()
            for family in FAMILIES:
                ground = read_ground(family)
                obstacle = _obstacle(ground, chosen, accesses)
                wanted = NOTHING if obstacle else wanted_of(ground, chosen, accesses, links)
                if obstacle:
                    obstacles.append(f"IPv{family}: {obstacle}")
                else:
                    families.append(family)
                _bring_about(ground, wanted, record)
        except EnvironmentFault:
            self.restore()
            raise
        if not families:
            self.restore()
        return AccessApplied(families=tuple(families), obstacles=tuple(obstacles))

    def restore(self) -> bool:
        """Takes all of it away; True if there was something. Raises EnvironmentFault."""
        return restore(self._path)


# --- what is wanted ---------------------------------------------------------------------------------------------------


def wanted_of(ground: Ground, chosen: str, accesses: Collection[str], links: Mapping[str, _Link]) -> Wanted:
    """Pure."""
    routes = {OURS: ground.defaults[chosen]}
    rules = [ShownRule(SPECIFIC, f"from all iif lo lookup {_MAIN} suppress_prefixlength 0")]
    for name in sorted(accesses):
        link = links.get(name)
        if name not in ground.defaults or link is None or OURS + link.ifindex not in OUR_TABLES:
            continue
        addresses = _own_addresses(link, ground.family)
        if addresses:
            routes[OURS + link.ifindex] = ground.defaults[name]
        rules += [ShownRule(BY_SOURCE, f"from {each} iif lo lookup {OURS + link.ifindex}") for each in addresses]
    rules.append(ShownRule(CHOSEN, f"from all iif lo lookup {OURS}"))
    return Wanted(routes=routes, rules=tuple(rules))


def _own_addresses(link: _Link, family: Family) -> list[str]:
    """Also those that are deprecated: flows that have them go on."""
    kind = "inet" if family == 4 else "inet6"
    found = [
        each.local
        for each in link.addr_info
        if each.family == kind and each.scope in ("global", "site") and not each.tentative and not each.dadfailed
    ]
    return [each for each in dict.fromkeys(found) if each][:ADDRESSES_MAX]


# --- what stands in the way -------------------------------------------------------------------------------------------


def _obstacle(ground: Ground, chosen: str, accesses: Collection[str]) -> str:
    """Why nothing is to be done in that family; "" if nothing is in the way."""
    if chosen not in ground.defaults:
        return f"{chosen} has no default route"
    if len([name for name in accesses if name in ground.defaults]) < 2:
        return "there is nothing to choose"
    for rule in ground.rules:
        if is_ours(rule) or rule.priority in (0, LAST_OF_OTHERS, LAST_OF_OTHERS + 1):
            continue
        if rule.priority >= SPECIFIC:
            return f"somebody's rule {rule.priority} ({rule.text}) stands where ours would"
        table = takes_default(rule.text)
        if table is None:
            return f"somebody's rule {rule.priority} ({rule.text}) decides where packets go"
        if table and _has_default(ground.family, table):
            return f"somebody's rule {rule.priority} sends everything by table {table}: a VPN, perhaps"
    return ""


def is_ours(rule: ShownRule) -> bool:
    words = rule.text.split()
    table = int(words[words.index("lookup") + 1]) if "lookup" in words[:-1] and words[-1].isdigit() else -1
    if rule.priority == SPECIFIC:
        return rule.text == f"from all iif lo lookup {_MAIN} suppress_prefixlength 0"
    return rule.priority in (BY_SOURCE, CHOSEN) and table in OUR_TABLES


def takes_default(text: str) -> int | None:
    """The table where a rule for everybody looks; 0: it is for some packets only, or harmless; None: who knows."""
    words = text.split()
    if "not" not in words:
        source = words[words.index("from") + 1] if "from" in words[:-1] else "all"
        incoming = words[words.index("iif") + 1] if "iif" in words[:-1] else "lo"
        if source != "all" or incoming != "lo" or any(word in _NARROW for word in words):
            return 0
    if "suppress_prefixlength" in words or "nop" in words or "[l3mdev-table]" in words:
        return 0
    if "lookup" not in words[:-1]:
        return None
    table = words[words.index("lookup") + 1]
    return int(table) if table.isdigit() else None


def _has_default(family: Family, table: int) -> bool:
    try:
        routes = _routes(family, "table", str(table))
    except EnvironmentFault as fault:
        if "table does not exist" in str(fault.cause):
            return False
        raise
    return any(_bits(route.dst) <= _WIDE_BITS for route in routes)


def _bits(prefix: str) -> int:
    if prefix == "default":
        return 0
    _, slash, bits = prefix.partition("/")
    return int(bits) if slash else 128


# --- bringing it about ------------------------------------------------------------------------------------------------


def _bring_about(ground: Ground, wanted: Wanted, record: Record) -> None:
    """What is there already stays. Routes before the rules that lead to them; rules go before their routes."""
    family, lines = ground.family, []
    present = [rule for rule in ground.rules if is_ours(rule)]
    undos: list[Undo] = [RouteUndo(family=family, table=table, prefix="default") for table in wanted.routes]
    undos += [_rule_undo(family, rule) for rule in wanted.rules]
    if wanted.rules:
        record.add(*undos)
    for table, route in wanted.routes.items():
        if ground.ours.get(table) != route:
            lines.append(f"route replace default {' '.join(_route_words(route))} table {table}")
    lines += [f"rule add priority {rule.priority} {rule.text}" for rule in wanted.rules if rule not in present]
    gone = [rule for rule in present if rule not in wanted.rules]
    # The chosen access's rule goes first, the specific routes' last: in between nothing is lost.
    gone.sort(key=lambda rule: -rule.priority)
    lines += [f"rule del priority {rule.priority} {rule.text}" for rule in gone]
    emptied = [table for table in ground.ours if table not in wanted.routes]
    lines += [f"route del default table {table}" for table in emptied]
    if lines:
        _batch(family, lines)
    record.discard(
        *(_rule_undo(family, rule) for rule in gone),
        *(RouteUndo(family=family, table=table, prefix="default") for table in emptied),
    )


def _rule_undo(family: Family, rule: ShownRule) -> ShownRuleUndo:
    return ShownRuleUndo(family=family, priority=rule.priority, shown=rule.text)


def _route_words(route: AccessRoute) -> Iterable[str]:
    if route.via:
        yield from ("via", *(("inet6",) if route.is_foreign_router else ()), route.via)
    yield from ("dev", route.interface)
    if route.is_onlink:
        yield "onlink"
    if route.source:
        yield from ("src", route.source)
    if route.mtu is not None:
        yield from ("mtu", str(route.mtu))


# --- reading ----------------------------------------------------------------------------------------------------------


def read_ground(family: Family) -> Ground:
    """Raises EnvironmentFault."""
    shown = kernel_tools.run(["ip", "-N", f"-{family}", "rule", "show"], operation="read", target="ip rules")
    rules = []
    for line in shown.splitlines():
        priority, _, text = line.partition(":")
        rules.append(ShownRule(int(priority), " ".join(text.split())))
    defaults: dict[str, tuple[int, AccessRoute]] = {}
    ours: dict[int, AccessRoute] = {}
    for route in _routes(family, "table", "all", "exact", "default"):
        table = int(route.table) if route.table.isdigit() else 0
        if not route.dev or "dead" in route.flags or "linkdown" in route.flags:
            continue
        if table in OUR_TABLES:
            ours[table] = _access_route(family, route)
        elif table == _MAIN and (route.dev not in defaults or route.metric < defaults[route.dev][0]):
            defaults[route.dev] = (route.metric, _access_route(family, route))
    return Ground(
        family=family, rules=tuple(rules), defaults={name: each for name, (_, each) in defaults.items()}, ours=ours
    )


def _access_route(family: Family, route: _Route) -> AccessRoute:
    return AccessRoute(
        family=family,
        interface=route.dev,
        via=route.gateway or route.via.host,
        is_foreign_router=not route.gateway and bool(route.via.host),
        is_onlink="onlink" in route.flags,
        source=route.prefsrc,
        mtu=next((each.mtu for each in route.metrics if each.mtu is not None), None),
    )


def _routes(family: Family, *selection: str) -> Sequence[_Route]:
    arguments = ["ip", "-N", "-j", f"-{family}", "route", "show", *selection]
    text = kernel_tools.run(arguments, operation="read", target=" ".join(("routes", *selection)))
    return msgspec.json.decode(text or "[]", type=list[_Route])


def _read_links() -> Mapping[str, _Link]:
    text = kernel_tools.run(["ip", "-j", "address", "show"], operation="read", target="interfaces")
    return {each.ifname: each for each in msgspec.json.decode(text, type=list[_Link]) if each.ifindex}


def _batch(family: Family, lines: Sequence[str]) -> None:
    text = "\n".join((*lines, ""))
    kernel_tools.run(["ip", f"-{family}", "-batch", "-"], operation="change", target="rules of the accesses", text=text)
