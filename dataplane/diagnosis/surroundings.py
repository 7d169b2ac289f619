"""What else is at work in this network namespace: interfaces, qdiscs, rules, queues, programs. Reads only.

Decides: what is looked at. Refuses to know: whether any of it is in our way (`dataplane.diagnosis.conflicts`).
Source: `ip -json`, `tc -json`, `nft -j`, iptables-save(8); proc(5) for net/netfilter/nfnetlink_queue and locks;
bpf(2) for programs at tcx and control groups.

What cannot be read without a privilege is listed in `unseen`. Reading loads no module: rules that would need one to be
listed cannot be there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from billpay.errors import EnvironmentFault
from dataplane import kernel_tools
from dataplane.desired import Family
from dataplane.diagnosis import bpf_probe
from dataplane.diagnosis.features import cgroup_v2_mount
from dataplane.diagnosis.kernel_modules import Module, Modules, read_modules
from dataplane.engines import TRAFFIC_CONTROL_RECORD
from dataplane.nfqueue_engine import RECORD_NAME as SHAPING_RECORD_NAME
from dataplane.record import RECORD_NAME, Record

_FAMILIES: Final[tuple[Family, Family]] = (4, 6)
_KNOWN_PROGRAMS: Final = frozenset({"tailscaled", "openvpn", "tt", "trickled"})
_CGROUP_PLACES: Final = {
    "cgroup/sock_create": bpf_probe.CGROUP_INET_SOCK_CREATE,
    "cgroup/connect4": bpf_probe.CGROUP_INET4_CONNECT,
    "cgroup/connect6": bpf_probe.CGROUP_INET6_CONNECT,
    "sockops": bpf_probe.CGROUP_SOCK_OPS,
}
"""Where the agent's own programs go."""

Value = TypeVar("Value")


class Interface(NamedTuple):
    number: int  # the kernel's index of it
    name: str
    kind: str = ""  # "wireguard", "tun", "bridge" …; "" for a network card


class Qdisc(NamedTuple):
    interface: str
    kind: str
    handle: str  # "0:" for those that the kernel installs itself
    is_root: bool


class Filter(NamedTuple):
    """A classifier at a clsact or ingress qdisc. `redirects`: it takes packets elsewhere, or polices them."""

    interface: str
    kind: str
    name: str
    redirects: bool


class PolicyRule(NamedTuple):
    family: Family
    priority: int
    table: str
    mark: int
    mask: int


class SavedRule(NamedTuple):
    """A rule as iptables-save prints it, without "-A CHAIN"."""

    family: Family
    table: str
    chain: str
    text: str


class NftTable(NamedTuple):
    family: str
    name: str
    chains: tuple[str, ...] = ()


class NftRule(NamedTuple):
    """`expression`: as `nft -j` has it."""

    family: str
    table: str
    chain: str
    expression: tuple[Any, ...]


class BoundQueue(NamedTuple):
    number: int
    process_id: int  # the netlink port, which is the process for its first socket


class PacketProgram(NamedTuple):
    """An eBPF program at an interface."""

    interface: str
    place: str
    name: str


class CgroupProgram(NamedTuple):
    place: str
    name: str
    shares: bool


class RunningAgent(NamedTuple):
    """A daemon that holds the lock of a state directory. `here`: in this network namespace (None: not to be seen)."""

    state_directory: Path
    process_id: int
    here: bool | None


class FoundRecord(NamedTuple):
    path: Path
    state_directory: Path
    owner: str  # whose chains it names, "" for none
    is_sound: bool = True


class Unseen(NamedTuple):
    what: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    interfaces: tuple[Interface, ...] = ()
    qdiscs: tuple[Qdisc, ...] = ()
    filters: tuple[Filter, ...] = ()
    policy_rules: tuple[PolicyRule, ...] = ()
    chains: frozenset[tuple[Family, str, str]] = frozenset()  # family, table, chain
    saved_rules: tuple[SavedRule, ...] = ()
    nft_tables: tuple[NftTable, ...] = ()
    nft_rules: tuple[NftRule, ...] = ()
    queues: tuple[BoundQueue, ...] = ()
    packet_programs: tuple[PacketProgram, ...] = ()
    cgroup_programs: tuple[CgroupProgram, ...] = ()
    processes: frozenset[str] = frozenset()
    agents: tuple[RunningAgent, ...] = ()
    records: tuple[FoundRecord, ...] = ()
    unseen: tuple[Unseen, ...] = ()


def survey(state_directories: Iterable[Path]) -> Surroundings:
    """Looks once. Raises nothing: what cannot be read is in `unseen`."""
    look = _Look()
    modules = read_modules()
    interfaces = look.at("network interfaces", read_interfaces) or ()
    qdiscs = look.at("qdiscs", read_qdiscs) or ()
    iptables = look.at("iptables rules", lambda: _read_iptables(modules)) or _Iptables()
    nft = look.at("nftables rules", lambda: _read_nft(modules)) or _Nft()
    directories = tuple(state_directories)
    records = [look.at(str(each), partial(_records, each)) or () for each in directories]
    return Surroundings(
        interfaces=interfaces,
        qdiscs=qdiscs,
        filters=look.at("tc filters", lambda: tuple(_read_filters(qdiscs))) or (),
        policy_rules=look.at("ip rules", lambda: tuple(_read_policy_rules())) or (),
        chains=iptables.chains,
        saved_rules=iptables.rules,
        nft_tables=nft.tables,
        nft_rules=nft.rules,
        queues=look.at("packet queues", read_queues) or (),
        packet_programs=look.at("eBPF programs at interfaces", lambda: tuple(_read_tcx(interfaces))) or (),
        cgroup_programs=look.at("eBPF programs at control groups", lambda: tuple(_read_cgroup())) or (),
        processes=frozenset(_processes()),
        agents=look.at("locks", lambda: tuple(_agents(directories))) or (),
        records=tuple(chain.from_iterable(records)),
        unseen=tuple(look.unseen),
    )


@dataclass(slots=True)
class _Look:
    """Collects what could not be looked at."""

    unseen: list[Unseen] = field(default_factory=list)

    def at(self, what: str, read: Callable[[], Value]) -> Value | None:
        try:
            return read()
        except EnvironmentFault as fault:
            self.unseen.append(Unseen(what, str(fault.cause)))
        except OSError as error:
            self.unseen.append(Unseen(what, (error.strerror or str(error)).lower()))
        return None


# -- interfaces, qdiscs, routing -------------------------------------------------------------------------------------


def read_interfaces() -> tuple[Interface, ...]:
    shown = _json(["ip", "-json", "-details", "link", "show"], "network interfaces")
    return tuple(
        Interface(each["ifindex"], each["ifname"], each.get("linkinfo", {}).get("info_kind", ""))
        for each in shown
        if "ifindex" in each
    )


def read_qdiscs() -> tuple[Qdisc, ...]:
    shown = _json(["tc", "-json", "qdisc", "show"], "qdiscs")
    return tuple(Qdisc(each["dev"], each["kind"], each.get("handle", "0:"), bool(each.get("root"))) for each in shown)


def _read_filters(qdiscs: Iterable[Qdisc]) -> Iterator[Filter]:
    for qdisc in qdiscs:
        if qdisc.kind not in ("clsact", "ingress"):
            continue
        for side in ("ingress", "egress") if qdisc.kind == "clsact" else ("ingress",):
            for each in _json(["tc", "-json", "filter", "show", "dev", qdisc.interface, side], "tc filters"):
                options = each.get("options")
                if not options:  # the first entry of each priority has none
                    continue
                actions = [action.get("kind", "") for action in options.get("actions", ())]
                redirects = any(action in ("mirred", "police") for action in actions)
                name = options.get("bpf_name") or options.get("prog", {}).get("name", "")
                yield Filter(qdisc.interface, each["kind"], name, redirects or "police" in options)


def _read_policy_rules() -> Iterator[PolicyRule]:
    for family in _FAMILIES:
        if family == 6 and not Path("/proc/net/if_inet6").exists():
            continue
        for each in _json(["ip", f"-{family}", "-json", "rule", "show"], "ip rules"):
            mark, mask = int(str(each.get("fwmark", "0")), 0), int(str(each.get("fwmask", "0xffffffff")), 0)
            yield PolicyRule(family, int(each["priority"]), str(each.get("table", "")), mark, mask)


def _json(arguments: list[str], target: str) -> Any:
    text = kernel_tools.run(arguments, operation="read", target=target)
    return msgspec.json.decode(text) if text.strip() else []


# -- firewalls -------------------------------------------------------------------------------------------------------


class _Iptables(NamedTuple):
    chains: frozenset[tuple[Family, str, str]] = frozenset()
    rules: tuple[SavedRule, ...] = ()


class _Nft(NamedTuple):
    tables: tuple[NftTable, ...] = ()
    rules: tuple[NftRule, ...] = ()


def _read_iptables(modules: Modules) -> _Iptables:
    chains: set[tuple[Family, str, str]] = set()
    rules: list[SavedRule] = []
    for family in _FAMILIES:
        for program in _save_programs(family, modules):
            table = ""
            for line in kernel_tools.run([program], operation="read", target="iptables rules").splitlines():
                if line.startswith("*"):
                    table = line[1:]
                elif line.startswith(":"):
                    chains.add((family, table, line[1:].split(" ")[0]))
                elif line.startswith("-A "):
                    _, chain, *rest = line.split(" ", 2)
                    rules.append(SavedRule(family, table, chain, rest[0] if rest else ""))
    return _Iptables(frozenset(chains), tuple(rules))


def _save_programs(family: Family, modules: Modules) -> list[str]:
    """Both variants keep rules of their own. Neither is asked where that would load it: then it has none."""
    prefix = "ip" if family == 4 else "ip6"
    nft, legacy, either = (f"{prefix}tables-{variant}save" for variant in ("nft-", "legacy-", ""))
    variants = [nft] if _may_be_listed(modules) else []
    try:
        if Path(f"/proc/net/{prefix}_tables_names").read_text(encoding="ascii").strip():
            variants.append(legacy)
    except OSError:  # not there, or not ours to read: then the rules are not either
        pass
    installed = [each for each in variants if kernel_tools.is_installed(each)]
    return installed or ([either] if variants and kernel_tools.is_installed(either) else [])


def _may_be_listed(modules: Modules) -> bool:
    return modules.state("nf_tables") in (Module.READY, Module.UNKNOWN)


def _read_nft(modules: Modules) -> _Nft:
    if not _may_be_listed(modules) or not kernel_tools.is_installed("nft"):
        return _Nft()
    text = kernel_tools.run(["nft", "-j", "-t", "list", "ruleset"], operation="read", target="nftables rules")
    entries = msgspec.json.decode(text)["nftables"]
    chains = [entry["chain"] for entry in entries if "chain" in entry]
    tables = tuple(
        NftTable(
            table["family"],
            table["name"],
            tuple(
                chain["name"]
                for chain in chains
                if (chain["family"], chain["table"]) == (table["family"], table["name"])
            ),
        )
        for table in (entry["table"] for entry in entries if "table" in entry)
    )
    rules = tuple(
        NftRule(rule["family"], rule["table"], rule["chain"], tuple(rule.get("expr", ())))
        for rule in (entry["rule"] for entry in entries if "rule" in entry)
    )
    return _Nft(tables, rules)


def read_queues(proc: Path = Path("/proc")) -> tuple[BoundQueue, ...]:
    """NFQUEUEs that somebody reads. A kernel without them has no such file."""
    try:
        lines = (proc / "net/netfilter/nfnetlink_queue").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return ()
    return tuple(BoundQueue(int(line.split()[0]), int(line.split()[1])) for line in lines if line.strip())


# -- eBPF ------------------------------------------------------------------------------------------------------------


def _read_tcx(interfaces: Iterable[Interface]) -> Iterator[PacketProgram]:
    for interface in interfaces:
        for place, attach in (("ingress", bpf_probe.TCX_INGRESS), ("egress", bpf_probe.TCX_EGRESS)):
            try:
                found = bpf_probe.attached(interface.number, attach)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOSYS, errno.ENODEV):  # no tcx here; gone meanwhile
                    continue
                raise
            for identifier in found.identifiers:
                yield PacketProgram(interface.name, place, bpf_probe.program_name(identifier) or f"number {identifier}")


def _read_cgroup() -> Iterator[CgroupProgram]:
    mount = cgroup_v2_mount()
    if mount is None:
        return
    root = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for place, number in _CGROUP_PLACES.items():
            try:
                found = bpf_probe.attached(root, number)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOSYS):
                    continue
                raise
            shares = bool(found.flags & bpf_probe.ALLOW_MULTI)
            for identifier in found.identifiers:
                name = bpf_probe.program_name(identifier) or f"number {identifier}"
                yield CgroupProgram(place, name, shares)
    finally:
        os.close(root)


# -- processes -------------------------------------------------------------------------------------------------------


def _processes() -> Iterator[str]:
    """Those of the known programs that run, by the names that the kernel shows."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:  # gone meanwhile
            continue
        if name in _KNOWN_PROGRAMS:
            yield name


def _agents(directories: Iterable[Path]) -> Iterator[RunningAgent]:
    """Who holds the lock of a state directory. It is not tried: a daemon that starts right now would find it taken."""
    locks = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    held = [(int(parts[5].rpartition(":")[2]), int(parts[4])) for parts in locks if parts[1:2] == ["FLOCK"]]
    for directory in directories:
        try:
            inode = (directory / "lock").stat().st_ino
        except OSError:
            continue
        for locked, process_id in held:
            if locked == inode and _has_open(process_id, directory / "lock"):
                yield RunningAgent(directory, process_id, _is_here(process_id))


def _has_open(process_id: int, path: Path) -> bool:
    """Inodes repeat between file systems; a process that may not be looked into is believed to have it."""
    try:
        return any(os.path.realpath(link) == str(path.resolve()) for link in Path(f"/proc/{process_id}/fd").iterdir())
    except OSError:
        return True


def _is_here(process_id: int) -> bool | None:
    try:
        return Path(f"/proc/{process_id}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()
    except OSError:
        return None


def _records(directory: Path) -> tuple[FoundRecord, ...]:
    """Raises OSError where the directory is not ours to look into."""
    found = []
    for name in (RECORD_NAME, SHAPING_RECORD_NAME, TRAFFIC_CONTROL_RECORD):
        path = directory / name
        try:
            path.stat()
        except FileNotFoundError:
            continue
        owner, is_sound = "", True
        if name != TRAFFIC_CONTROL_RECORD:  # which has a form of its own, and no chains
            try:
                record = Record.load(path)
            except EnvironmentFault:
                is_sound = False
            else:
                owner = record.desired.owner if record else ""
        found.append(FoundRecord(path, directory, owner, is_sound))
    return tuple(found)
