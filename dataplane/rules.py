"""What the data plane wants in the kernel, as values, and the one place that brings it there and takes it away again.

Decides: which rules, routes and sysctls a desired state means, in which order they change, and how each is undone.
Refuses to know: what the queued packets are for.
Source: ARCHITECTURE (safety, data-plane pitfalls); iptables-restore(8), iptables-extensions(8), ip-rule(8), nft(8).

An accepted packet continues at the next hook entry, not at the next rule, and so does one that bypasses the queue. So
the NFQUEUE rule is the last of table raw, and the counting rules are the first of table mangle at the same hook:
without our mark bit = bypassed, with it = accepted by us (and the bit is cleared again, so that a user's own rules
never see it).
Multicast is left alone: routing protocols and neighbour discovery do not depend on a reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, assert_never

import msgspec

from billpay.errors import EnvironmentFault, LocalProtocolError
from dataplane import kernel_tools
from dataplane.desired import (
    Chain,
    DesiredState,
    Family,
    PolicyRoute,
    QueueRule,
    RuleCounters,
    Sysctl,
)
from dataplane.links import read_link
from dataplane.port import ACCEPT_BIT
from dataplane.record import (
    ChainUndo,
    QdiscUndo,
    Record,
    RouteUndo,
    RuleUndo,
    ShownRuleUndo,
    SysctlUndo,
    TableUndo,
    Undo,
    VirtualLinkUndo,
)
from dataplane.shaping import qdiscs

__all__ = [
    "Chain",
    "DesiredState",
    "Family",
    "PolicyRoute",
    "QueueRule",
    "RuleCounters",
    "Sysctl",
    "apply",
    "read_kernel_accepts",
    "read_rule_counters",
    "restore",
]

_OWNER: Final = re.compile(r"[A-Za-z0-9-]{1,10}\Z")
_MULTICAST: Final = {4: "224.0.0.0/4", 6: "ff00::/8"}
_PROGRAM: Final[dict[Family, str]] = {4: "iptables", 6: "ip6tables"}
_NFT_FAMILY: Final[dict[Family, str]] = {4: "ip", 6: "ip6"}
_MARK: Final = f"{ACCEPT_BIT:#x}/{ACCEPT_BIT:#x}"
_COUNTED_RULE: Final = re.compile(r"\[(\d+):\d+\] -A (\S+) (.*)\Z")
_SHORT: Final = {Chain.PREROUTING: "PRE", Chain.OUTPUT: "OUT"}


# -- applying --------------------------------------------------------------------------------------------------------


def apply(desired: DesiredState, record_path: Path) -> None:
    """Brings the kernel to `desired`, idempotently; what is there already stays and keeps its counters.

    Each change is on the disk, with what undoes it, before it is made. Another desired state is undone first.
    Raises EnvironmentFault, after undoing what it had done.
    """
    _check(desired)
    record = Record.load(record_path)
    if record is not None and record.desired != desired:
        restore(record_path)
        record = None
    if record is None:
        _check_conflicts(desired)
        record = Record(path=record_path, desired=desired)
    try:
        for sysctl in desired.sysctls:
            _ensure_sysctl(sysctl, record)
        for route in desired.routes:
            _ensure_route(route, record)
        # Packets are queued last, when everything that their verdicts rely on is there.
        for table in ("mangle", "raw"):
            for family in _families(desired.queues):
                _ensure_chains(desired, family, table, record)
    except EnvironmentFault:
        restore(record_path)
        raise


def restore(record_path: Path) -> bool:
    """Undoes everything that the record names, last change first; True if there was a record.

    Idempotent, also after a crash in the middle. Raises EnvironmentFault.
    """
    record = Record.load(record_path)
    if record is None:
        return False
    for undo in reversed(record.undos):
        _undo(undo)
    record.delete()
    return True


def _check(desired: DesiredState) -> None:
    if not _OWNER.match(desired.owner):
        raise LocalProtocolError(f"not an owner's name: {desired.owner!r}")
    for name in [rule.interface for rule in desired.queues] + [route.interface for route in desired.routes]:
        read_link(name)


def _check_conflicts(desired: DesiredState) -> None:
    """What others have in the kernel stays theirs: no queue number, rule priority or route is taken from them."""
    numbers = {rule.queue for rule in desired.queues}
    for family in _families(desired.queues):
        for line in _saved_rules(family, counters=False):
            found = re.search(r"--queue-num (\d+)", line)
            if found and int(found[1]) in numbers and not line.startswith(f"-A {desired.owner}-"):
                cause = f"another {_PROGRAM[family]} rule uses it"
                raise EnvironmentFault("use", f"NFQUEUE {found[1]}", cause, "choose another queue number")
    for route in desired.routes:
        if _ip(route.family, "rule", "show", "priority", str(route.priority)).strip():
            cause = "another rule has it"
            raise EnvironmentFault("use", f"ip rule priority {route.priority}", cause, "choose another priority")
        if _find_route(route.family, route.table, route.prefix):
            target = f"route {route.prefix} in table {route.table}"
            raise EnvironmentFault("add", target, "there is one already", "choose another table")


# -- iptables --------------------------------------------------------------------------------------------------------


def _ensure_chains(desired: DesiredState, family: Family, table: str, record: Record) -> None:
    """Our chains of one table with the wanted rules and a jump to each: one atomic change, or none."""
    present = _saved_rules(family, table=table, counters=False)
    text = [f"*{table}"]
    undos: list[Undo] = [_table_undo(family, table)]
    for chain in Chain:
        wanted = [rule for rule in desired.queues if rule.family == family and rule.chain == chain]
        if not wanted:
            continue
        name = _chain_name(desired.owner, table, chain)
        rules = [line for rule in wanted for line in _rule_lines(name, table, rule)]
        jump = f"{chain} -j {name}"
        if [line for line in present if line.startswith(f"-A {name} ")] != rules:
            text += [f":{name} - [0:0]", *rules]  # declaring a chain empties it
        if f"-A {jump}" not in present:
            # Last in raw, since an accept skips what follows; first in mangle, since an earlier rule might end the way.
            text.append(f"-A {jump}" if table == "raw" else f"-I {chain} 1 -j {name}")
        undos.append(ChainUndo(family=family, table=table, hook=chain, chain=name))
    if len(text) == 1:
        return
    record.add(*undos)
    arguments = [f"{_PROGRAM[family]}-restore", "--noflush", "--wait"]
    target = f"{_PROGRAM[family]} rules of table {table}"
    kernel_tools.run(arguments, operation="install", target=target, text="\n".join([*text, "COMMIT", ""]))


def _chain_name(owner: str, table: str, chain: Chain) -> str:
    return f"{owner}-{'Q' if table == 'raw' else 'C'}{_SHORT[chain]}"


def _rule_lines(name: str, table: str, rule: QueueRule) -> list[str]:
    """As iptables-save prints them, so that what is there can be compared with what is wanted."""
    side = "-i" if rule.chain is Chain.PREROUTING else "-o"
    head = f"-A {name} ! -d {_MULTICAST[rule.family]} {side} {rule.interface}"
    local = " -m addrtype ! --dst-type LOCAL" if rule.skip_local else ""
    if table == "raw":
        return [f"{head}{local} -j NFQUEUE --queue-num {rule.queue} --queue-bypass"]
    return [
        f"{head}{local} -m mark ! --mark {_MARK}",
        f"{head} -m mark --mark {_MARK} -j MARK --set-xmark 0x0/{ACCEPT_BIT:#x}",
    ]


def _saved_rules(family: Family, *, counters: bool, table: str | None = None) -> list[str]:
    """The lines of iptables-save; of all tables when none is named."""
    program = f"{_PROGRAM[family]}-save"
    arguments = [program, *(["-c"] if counters else []), *(["-t", table] if table else [])]
    return kernel_tools.run(arguments, operation="read", target=f"{_PROGRAM[family]} rules").splitlines()


def _table_undo(family: Family, table: str) -> TableUndo:
    """Which chains nft has in that table now; None when there is no such table."""
    return TableUndo(family=family, table=table, chains_before=_nft_chains(family, table))


def _nft_chains(family: Family, table: str) -> list[str] | None:
    """The names of a table's chains, None when there is no such table (without nft there is nothing to undo: [])."""
    if not kernel_tools.is_installed("nft"):
        return []
    listing = kernel_tools.run(["nft", "-j", "list", "tables"], operation="read", target="nft tables")
    tables = [item["table"] for item in msgspec.json.decode(listing)["nftables"] if "table" in item]
    if not any(found["family"] == _NFT_FAMILY[family] and found["name"] == table for found in tables):
        return None
    arguments = ["nft", "-j", "list", "chains", _NFT_FAMILY[family]]
    chains = msgspec.json.decode(kernel_tools.run(arguments, operation="read", target="nft chains"))["nftables"]
    return [item["chain"]["name"] for item in chains if "chain" in item and item["chain"]["table"] == table]


# -- routes and sysctls ----------------------------------------------------------------------------------------------


def _ensure_route(route: PolicyRoute, record: Record) -> None:
    """The route first, then the rule that leads to it."""
    if not _find_route(route.family, route.table, route.prefix):
        record.add(RouteUndo(family=route.family, table=route.table, prefix=route.prefix))
        via = ["via", route.via] if route.via else []
        _ip(route.family, "route", "add", route.prefix, *via, "dev", route.interface, "table", str(route.table))
    undo = RuleUndo(family=route.family, priority=route.priority, mark=route.mark, mask=route.mask, table=route.table)
    if not _rule_exists(undo):
        record.add(undo)
        _ip(route.family, "rule", "add", *_rule_arguments(undo))


def _rule_arguments(undo: RuleUndo) -> list[str]:
    mark = f"{undo.mark:#x}/{undo.mask:#x}"
    return ["priority", str(undo.priority), "fwmark", mark, "lookup", str(undo.table)]


def _rule_exists(undo: RuleUndo) -> bool:
    shown = _ip(undo.family, "rule", "show", "priority", str(undo.priority))
    return f"fwmark {undo.mark:#x}/{undo.mask:#x} lookup {undo.table}" in " ".join(shown.split())


def _find_route(family: Family, table: int, prefix: str) -> bool:
    try:
        shown = _ip(family, "route", "show", "table", str(table), "exact", prefix)
    except EnvironmentFault as fault:
        if "table does not exist" in str(fault.cause):
            return False
        raise
    return bool(shown.strip())


def _ip(family: Family, *arguments: str) -> str:
    target = " ".join(arguments)
    return kernel_tools.run(["ip", f"-{family}", *arguments], operation="run ip", target=target)


def _ensure_sysctl(sysctl: Sysctl, record: Record) -> None:
    before = _read_sysctl(sysctl.name)
    if before == sysctl.value:
        return
    record.add(SysctlUndo(before=Sysctl(name=sysctl.name, value=before), ours=sysctl.value))
    _write_sysctl(sysctl)


def _sysctl_path(name: str) -> Path:
    return Path("/proc/sys", *(part.replace("/", ".") for part in name.split(".")))


def _read_sysctl(name: str) -> str:
    try:
        return " ".join(_sysctl_path(name).read_text(encoding="ascii").split())
    except OSError as error:
        raise EnvironmentFault("read sysctl", name, error.strerror, "this kernel or interface has none") from error


def _write_sysctl(sysctl: Sysctl) -> None:
    try:
        _sysctl_path(sysctl.name).write_text(sysctl.value, encoding="ascii")
    except OSError as error:
        remedy = "run as root or with CAP_NET_ADMIN"
        raise EnvironmentFault("set sysctl", f"{sysctl.name}={sysctl.value}", error.strerror, remedy) from error


# -- undoing ---------------------------------------------------------------------------------------------------------


def _undo(undo: Undo) -> None:
    """Looks first: what is gone already (with its interface, or undone before a crash) is no fault."""
    match undo:
        case ChainUndo():
            _undo_chain(undo)
        case TableUndo():
            _undo_table(undo)
        case RuleUndo():
            if _rule_exists(undo):
                _ip(undo.family, "rule", "del", *_rule_arguments(undo))
        case ShownRuleUndo():
            if _is_shown(undo):
                _ip(undo.family, "rule", "del", "priority", str(undo.priority), *undo.shown.split())
        case RouteUndo():
            if _find_route(undo.family, undo.table, undo.prefix):
                _ip(undo.family, "route", "del", undo.prefix, "table", str(undo.table))
        case SysctlUndo():
            path = _sysctl_path(undo.before.name)
            if path.exists() and _read_sysctl(undo.before.name) == undo.ours:
                _write_sysctl(undo.before)
        case QdiscUndo():
            qdiscs.restore_root(undo)
        case VirtualLinkUndo():
            qdiscs.delete_link(undo.name)
        case _:
            assert_never(undo)


def _is_shown(undo: ShownRuleUndo) -> bool:
    lines = _ip(undo.family, "-N", "rule", "show", "priority", str(undo.priority)).splitlines()
    return undo.shown in (" ".join(line.partition(":")[2].split()) for line in lines)


def _undo_chain(undo: ChainUndo) -> None:
    """All jumps and the chain in one atomic change."""
    present = _saved_rules(undo.family, table=undo.table, counters=False)
    if not any(line.startswith(f":{undo.chain} ") for line in present):
        return
    jumps = [line for line in present if re.search(rf" -j {re.escape(undo.chain)}\Z", line)]
    removals = [f"-D{jump.removeprefix('-A')}" for jump in jumps]
    text = [f"*{undo.table}", *removals, f"-F {undo.chain}", f"-X {undo.chain}", "COMMIT", ""]
    program = _PROGRAM[undo.family]
    arguments = [f"{program}-restore", "--noflush", "--wait"]
    target = f"{program} chain {undo.chain} of table {undo.table}"
    kernel_tools.run(arguments, operation="remove", target=target, text="\n".join(text))


def _undo_table(undo: TableUndo) -> None:
    """iptables-nft leaves its base chains and tables behind; those that came with us go, if nobody uses them now."""
    if not kernel_tools.is_installed("nft"):
        return
    family = _NFT_FAMILY[undo.family]
    target = f"nft table {family} {undo.table}"
    before = undo.chains_before
    for chain in _nft_chains(undo.family, undo.table) or []:
        if chain in (before or ()) or not _is_unused_base_chain(family, undo.table, chain):
            continue
        kernel_tools.run(["nft", "delete", "chain", family, undo.table, chain], operation="remove", target=target)
    if before is None and _nft_chains(undo.family, undo.table) == [] and _is_empty_table(family, undo.table):
        kernel_tools.run(["nft", "delete", "table", family, undo.table], operation="remove", target=target)


def _is_unused_base_chain(family: str, table: str, chain: str) -> bool:
    arguments = ["nft", "-j", "list", "chain", family, table, chain]
    listing = msgspec.json.decode(kernel_tools.run(arguments, operation="read", target=f"nft chain {chain}"))
    entries = listing["nftables"]
    described: dict[str, object] = next((entry["chain"] for entry in entries if "chain" in entry), {})
    return (
        not any("rule" in entry for entry in entries)
        and "hook" in described
        and described.get("policy", "accept") == "accept"
    )


def _is_empty_table(family: str, table: str) -> bool:
    arguments = ["nft", "-j", "list", "table", family, table]
    entries = msgspec.json.decode(kernel_tools.run(arguments, operation="read", target=f"nft table {table}"))[
        "nftables"
    ]
    return all(entry.keys() <= {"metainfo", "table"} for entry in entries)


# -- counting --------------------------------------------------------------------------------------------------------


def read_rule_counters(owner: str) -> dict[QueueRule, RuleCounters]:
    """The kernel's counters of all rules of that owner; empty when there are none. Raises EnvironmentFault."""
    counters: dict[QueueRule, RuleCounters] = {}
    for family in _PROGRAM:
        lines = _saved_rules(family, counters=True)
        counts = {(found[2], found[3]): int(found[1]) for line in lines if (found := _COUNTED_RULE.match(line))}
        for (name, rest), queued in counts.items():
            rule = _parse_queue_rule(owner, family, name, rest)
            if rule is None:
                continue
            chain = _chain_name(owner, "mangle", rule.chain)
            bypassed, accepted = (
                counts.get((chain, line.removeprefix(f"-A {chain} ")), 0) for line in _rule_lines(chain, "mangle", rule)
            )
            counters[rule] = RuleCounters(queued_packets=queued, accepted_packets=accepted, bypassed_packets=bypassed)
    return counters


def _parse_queue_rule(owner: str, family: Family, name: str, rest: str) -> QueueRule | None:
    for chain in Chain:
        if name == _chain_name(owner, "raw", chain):
            found = re.search(r" -[io] (\S+) .*--queue-num (\d+)", rest)
            if found:
                return QueueRule(
                    family=family,
                    chain=chain,
                    interface=found[1],
                    queue=int(found[2]),
                    skip_local="addrtype" in rest,
                )
    return None


def read_kernel_accepts(owner: str) -> int | None:
    """All packets that the rules of that owner counted as accepted, for `CounterFile.recover`; None without rules."""
    counters = read_rule_counters(owner)
    return sum(found.accepted_packets for found in counters.values()) if counters else None


def _families(rules: Iterable[QueueRule]) -> list[Family]:
    wanted = {rule.family for rule in rules}
    return [family for family in _PROGRAM if family in wanted]
