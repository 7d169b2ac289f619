"""Which other tools on this host touch what the agent touches, and whether that works together. Pure.

Decides: what a foreign interface, qdisc, rule, queue or mark means for us, in words for a person. Refuses to know: how
it was found (`surroundings`). Source: ARCHITECTURE (safety: what others have stays theirs); iptables(8) for
the order of tables; wg-quick(8), the marks of Tailscale and Calico as their documentation gives them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import chain as chained
from pathlib import Path
from typing import Any, Final

import msgspec

from dataplane.diagnosis.surroundings import Qdisc, Surroundings, survey
from dataplane.port import ACCEPT_BIT, OAD_MARK_MASK
from dataplane.shaping.shaper import IN_QUEUE, OUT_QUEUE

OWN_CHAIN: Final = re.compile(r"(billpay-ho|billpay-gw|host-shape)-[QC](PRE|OUT)\Z")
"""Chains of an agent, a gateway, or the agent's packet-queue engine; `dataplane.rules` names them so."""

OWN_QUEUES: Final = frozenset({7414, 7416, 7417, OUT_QUEUE, IN_QUEUE})
"""A gateway's, an agent's two for payments, its two for shaping."""

OWN_HTB_HANDLE: Final = "7414:"
OWN_PROGRAMS: Final = frozenset({"on_leave", "on_arrive", "on_bridge_port"})
"""Packet programs of dataplane/ebpf, by the names that the kernel shows."""

OWN_PRIORITIES: Final = range(7415, 7415 + 11 * 16)
OWN_TABLE_MIN: Final = 74141

MARK_BITS: Final = ACCEPT_BIT | OAD_MARK_MASK
_WHOLE: Final = 0xFFFF_FFFF


class ConflictKind(StrEnum):
    """Stable: docs/spec/doctor.md lists them."""

    VPN = "vpn"
    CONTAINERS = "containers"
    FIREWALL = "firewall"
    QUEUE = "queue"
    SHAPER = "shaper"
    PROGRAM = "program"
    MARK = "mark"
    ROUTING = "routing"
    LEFTOVERS = "leftovers"
    SECOND_AGENT = "second-agent"
    UNSEEN = "unseen"


class Together(StrEnum):
    YES = "works together"
    PARTLY = "works in part"
    NO = "does not work together"
    UNKNOWN = "not known"


_WORST_FIRST: Final = (Together.NO, Together.PARTLY, Together.UNKNOWN, Together.YES)


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """`remedy` is "" when nothing need be done."""

    kind: ConflictKind
    together: Together
    what: str
    consequence: str
    remedy: str = ""


def find_conflicts(state_directories: Iterable[Path]) -> tuple[Conflict, ...]:
    """Looks at this host, and judges. Reads only; raises nothing."""
    return judge(survey(state_directories))


def judge(around: Surroundings) -> tuple[Conflict, ...]:
    """What does not work first; each thing once."""
    found = dict.fromkeys(chained.from_iterable(look(around) for look in _JUDGES))
    return tuple(sorted(found, key=lambda each: _WORST_FIRST.index(each.together)))


# -- VPNs and containers ---------------------------------------------------------------------------------------------

_TUNNELS: Final = {
    "wireguard": ("WireGuard", "as the kernel's own (unattributed)"),
    "tun": ("a tunnel of a program (tun)", "as the VPN program's"),
    "xfrm": ("IPsec", "as the kernel's own (unattributed)"),
    "vti": ("IPsec", "as the kernel's own (unattributed)"),
    "vti6": ("IPsec", "as the kernel's own (unattributed)"),
    "ppp": ("PPP", "as the kernel's own (unattributed)"),
}
_GUEST: Final = re.compile(r"(vnet|tap|macvtap|fwpr|veth|lxc)\d*")
"""Taps of virtual machines are not VPNs."""


def _vpns(around: Surroundings) -> Iterator[Conflict]:
    for interface in around.interfaces:
        if interface.kind not in _TUNNELS or _GUEST.match(interface.name):
            continue
        tool, outside = _TUNNELS[interface.kind]
        if interface.name.startswith("tailscale"):
            tool = "Tailscale"
        yield Conflict(
            kind=ConflictKind.VPN,
            together=Together.YES,
            what=f"{interface.name}: {tool}",
            consequence=f"traffic is named by program on {interface.name}; on the network card the same bytes go out"
            f" once more, encrypted, and count {outside}",
            remedy=f"name {interface.name} or the network card as a link to shape, not both",
        )
    for rule in around.policy_rules:
        if rule.mark == 51820 or rule.table == "51820":
            yield Conflict(
                kind=ConflictKind.VPN,
                together=Together.YES,
                what=f"ip rule {rule.priority}: wg-quick sends everything through a tunnel (mark 51820)",
                consequence="its mark and ours have no bit in common; packets that our marks send to a gateway's"
                " alternative go past the tunnel",
                remedy="configure no alternatives on a host that must send everything through the tunnel",
            )


_CONTAINERS: Final = (
    # Tool, interfaces, chains.
    ("Docker", re.compile(r"docker\d+\Z|br-[0-9a-f]{12}\Z"), re.compile(r"DOCKER")),
    ("Podman", re.compile(r"(cni-)?podman\d+\Z"), re.compile(r"NETAVARK|CNI-")),
    ("libvirt", re.compile(r"virbr\d+\Z"), re.compile(r"LIBVIRT_")),
    ("Kubernetes", re.compile(r"cni\d+\Z|flannel|cali|cilium_|kube-"), re.compile(r"KUBE-|cali-|CILIUM_")),
    ("LXC", re.compile(r"(lxdbr|lxcbr|incusbr)\d+\Z"), re.compile(r"lxd_|incus_")),
)


def _containers(around: Surroundings) -> Iterator[Conflict]:
    names = {name for _, _, name in around.chains}
    names |= {name for table in around.nft_tables for name in (table.name, *table.chains)}
    for tool, interface_names, chain_names in _CONTAINERS:
        bridges = [each.name for each in around.interfaces if interface_names.match(each.name)]
        chains = sorted(name for name in names if chain_names.match(name))
        if not bridges and not chains:
            continue
        seen = [*bridges[:3], *(f"chain {name}" for name in chains[:3])]
        yield Conflict(
            kind=ConflictKind.CONTAINERS,
            together=Together.YES,
            what=f"{tool} ({', '.join(seen)})",
            consequence="containers' and guests' packets cross this host: they count as forwarded, by the interface"
            " that they came in by, not by program; our rules stand in tables raw and mangle beside its own",
        )


# -- firewalls -------------------------------------------------------------------------------------------------------

_IPTABLES_TABLES: Final = frozenset({"filter", "nat", "mangle", "raw", "security"})


def _firewalls(around: Surroundings) -> Iterator[Conflict]:
    ports = "let UDP 7416 in (other agents' echoes and probes), where you have peers"
    if any(re.match(r"ufw6?-", name) for _, _, name in around.chains):
        consequence = "its chains are in table filter, ours in raw and mangle; `ufw reload` leaves ours alone"
        yield _firewall("ufw", consequence, ports)
    for table in around.nft_tables:
        if table.name == "firewalld":
            consequence = "it has a table of its own and reloads that alone"
            yield _firewall("firewalld", consequence, ports)
        elif not (table.family in ("ip", "ip6") and table.name in _IPTABLES_TABLES):
            consequence = "its rules stand beside ours; a reload that begins with `flush ruleset` takes ours away,"
            consequence += " and packets then pass unpaid and uncounted"
            remedy = "restart the agent after such a reload, or flush your own tables only"
            yield _firewall(f"nftables table {table.family} {table.name}", consequence, remedy)


def _firewall(what: str, consequence: str, remedy: str) -> Conflict:
    return Conflict(
        kind=ConflictKind.FIREWALL, together=Together.YES, what=what, consequence=consequence, remedy=remedy
    )


# -- packet queues ---------------------------------------------------------------------------------------------------


def _queues(around: Surroundings) -> Iterator[Conflict]:
    ruled: set[int] = set()
    for where, numbers, in_raw in _queue_rules(around):
        ruled |= numbers
        if taken := sorted(numbers & OWN_QUEUES):
            yield Conflict(
                kind=ConflictKind.QUEUE,
                together=Together.NO,
                what=f"{where} uses NFQUEUE {taken[0]}",
                consequence=f"{taken[0]} is our number: the agent does not start its packet queues",
                remedy="give the other program another queue number",
            )
        elif in_raw:
            yield Conflict(
                kind=ConflictKind.QUEUE,
                together=Together.PARTLY,
                what=f"{where} uses NFQUEUE {_show(numbers)}",
                consequence="a packet that it accepts goes on behind table raw, past our queue: unpaid, and with the"
                " nfqueue engine uncounted; the eBPF engine counts it",
                remedy="put its rule in table mangle",
            )
        else:
            yield Conflict(
                kind=ConflictKind.QUEUE,
                together=Together.YES,
                what=f"{where} uses NFQUEUE {_show(numbers)}",
                consequence="both see every packet, one after the other; each adds its delay",
            )
    ours = {agent.process_id for agent in around.agents}
    for queue in around.queues:
        if queue.number in OWN_QUEUES and not ours:
            yield Conflict(
                kind=ConflictKind.QUEUE,
                together=Together.NO,
                what=f"process {queue.process_id} reads NFQUEUE {queue.number}",
                consequence="it is our number, and no agent is known here: a second agent with another state directory,"
                " or another program; ours does not start its packet queues",
                remedy=f"see what it is: ps -p {queue.process_id}",
            )
        elif queue.number not in OWN_QUEUES | ruled:
            yield Conflict(
                kind=ConflictKind.QUEUE,
                together=Together.YES,
                what=f"process {queue.process_id} reads NFQUEUE {queue.number}",
                consequence="not our number; no rule that can be seen leads to it",
            )


def _queue_rules(around: Surroundings) -> Iterator[tuple[str, frozenset[int], bool]]:
    """Where, which numbers, and whether it comes before ours: only those of others."""
    for rule in around.saved_rules:
        if OWN_CHAIN.match(rule.chain) or "-j NFQUEUE" not in rule.text:
            continue
        first, last = _numbers(rule.text)
        program = "iptables" if rule.family == 4 else "ip6tables"
        where = f"{program} chain {rule.chain} of table {rule.table}"
        yield where, frozenset(range(first, last + 1)), rule.table == "raw"
    for each in around.nft_rules:
        for part in each.expression:
            if isinstance(part, dict) and "queue" in part:
                where = f"nftables chain {each.chain} of table {each.family} {each.table}"
                yield where, _nft_numbers((part["queue"] or {}).get("num", 0)), False


def _numbers(text: str) -> tuple[int, int]:
    if found := re.search(r"--queue-balance (\d+):(\d+)", text):
        return int(found[1]), int(found[2])
    found = re.search(r"--queue-num (\d+)", text)
    number = int(found[1]) if found else 0
    return number, number


def _nft_numbers(number: Any) -> frozenset[int]:
    if isinstance(number, int):
        return frozenset({number})
    if isinstance(number, dict) and isinstance(number.get("range"), list):
        first, last = number["range"]
        return frozenset(range(first, last + 1))
    return frozenset()  # computed for each packet


def _show(numbers: frozenset[int]) -> str:
    ordered = sorted(numbers)
    if not ordered:
        return "numbers that it computes"
    return str(ordered[0]) if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


# -- shapers and programs --------------------------------------------------------------------------------------------


def _shapers(around: Surroundings) -> Iterator[Conflict]:
    for qdisc in around.qdiscs:
        if not qdisc.is_root or qdisc.handle in ("0:", OWN_HTB_HANDLE) or qdisc.kind in ("mq", "noqueue"):
            continue
        yield Conflict(
            kind=ConflictKind.SHAPER,
            together=Together.PARTLY,
            what=f"{qdisc.interface}: {_shaper(qdisc, around)} has qdisc {qdisc.kind} {qdisc.handle} at the root",
            consequence=f"there is one root qdisc for each interface: the agent counts on {qdisc.interface} and leaves"
            " shaping there to it",
            remedy=f"to let the agent shape: tc qdisc del dev {qdisc.interface} root",
        )
    for name in sorted({each.interface for each in around.filters if each.redirects}):
        yield Conflict(
            kind=ConflictKind.SHAPER,
            together=Together.PARTLY,
            what=f"{name}: tc filters police arrivals, or send them to another interface",
            consequence=f"what arrives at {name} is shaped twice if the agent shapes it, too: the tighter one decides",
            remedy=f"to let the agent shape: tc qdisc del dev {name} ingress",
        )
    if "trickled" in around.processes:
        yield Conflict(
            kind=ConflictKind.SHAPER,
            together=Together.YES,
            what="trickled runs",
            consequence="it slows down programs before they send: both limits hold, the tighter one decides",
        )


def _shaper(qdisc: Qdisc, around: Surroundings) -> str:
    """Who probably made it."""
    if qdisc.interface.startswith("ifb4") or any(each.name == f"ifb4{qdisc.interface}" for each in around.interfaces):
        return "SQM (by the name of an ifb)"
    if "tt" in around.processes and qdisc.kind == "htb":
        return "TrafficToll"
    if qdisc.kind == "htb" and qdisc.handle == "1:":
        return "somebody (so does wondershaper)"
    return "somebody"


def _programs(around: Surroundings) -> Iterator[Conflict]:
    for program in around.packet_programs:
        if program.name in OWN_PROGRAMS:
            continue
        maker = " (Cilium)" if program.name.startswith("cil_") else ""
        yield Conflict(
            kind=ConflictKind.PROGRAM,
            together=Together.YES,
            what=f"{program.interface}: eBPF program {program.name}{maker} at {program.place}",
            consequence="the kernel runs it and ours one after the other; what it drops or redirects before ours, we do"
            " not count",
        )
    for each in around.filters:
        if each.kind == "bpf":
            yield Conflict(
                kind=ConflictKind.PROGRAM,
                together=Together.YES,
                what=f"{each.interface}: eBPF filter {each.name or 'without a name'} of tc",
                consequence="it runs after our programs, on whatever they let pass",
            )
    for held in around.cgroup_programs:
        if not held.shares:
            yield Conflict(
                kind=ConflictKind.PROGRAM,
                together=Together.NO,
                what=f"eBPF program {held.name} holds {held.place} of the root control group for itself alone",
                consequence="the eBPF engine cannot attach its programs: sockets are not known from their making",
                remedy="attach the other program with BPF_F_ALLOW_MULTI",
            )


# -- marks and routing -----------------------------------------------------------------------------------------------


def _marks(around: Surroundings) -> Iterator[Conflict]:
    for where, bits in _mark_users(around):
        common = bits & MARK_BITS
        if common & ACCEPT_BIT:
            yield Conflict(
                kind=ConflictKind.MARK,
                together=Together.NO,
                what=f"{where} uses mark bits {bits:#x}",
                consequence=f"{ACCEPT_BIT:#x} is ours: packets that it marks before table mangle count as accepted by"
                " our queues, and lose that mark",
                remedy=f"let the other tool use bits outside {MARK_BITS:#x}",
            )
        elif common:
            yield Conflict(
                kind=ConflictKind.MARK,
                together=Together.PARTLY,
                what=f"{where} uses mark bits {bits:#x}{_mark_owner(bits)}",
                consequence=f"no harm on a host; a gateway with alternatives routes by {OAD_MARK_MASK:#x}, so that each"
                " would take the other's marks for its own",
                remedy=f"on a gateway, let the other tool use bits outside {MARK_BITS:#x}",
            )


def _mark_owner(bits: int) -> str:
    """Calico's are configured, 0xffff0000 when they are not."""
    return {0xFF0000: " (Tailscale's)", 0xFFFF0000: " (Calico's)"}.get(bits, "")


def _mark_users(around: Surroundings) -> Iterator[tuple[str, int]]:
    for rule in around.policy_rules:
        ours = rule.mask == OAD_MARK_MASK and rule.table.isdecimal() and int(rule.table) >= OWN_TABLE_MIN
        if rule.mark and not ours:
            yield f"ip rule {rule.priority}", _named(rule.mark, rule.mask)
    for saved in around.saved_rules:
        if not OWN_CHAIN.match(saved.chain) and (bits := _text_bits(saved.text)):
            yield f"chain {saved.chain} of table {saved.table}", bits
    for each in around.nft_rules:
        if not OWN_CHAIN.match(each.chain) and (bits := _json_bits(each.expression)):
            yield f"chain {each.chain} of table {each.table}", bits


_MARK_ARGUMENT: Final = re.compile(
    r"(?:--mark|--set-xmark|--set-mark) (0x[0-9a-f]+|\d+)(?:/(0x[0-9a-f]+|\d+))?|--nfmask (0x[0-9a-f]+)()"
)


def _text_bits(text: str) -> int:
    """Which bits a rule of iptables-save names. The connection's own mark (connmark) is another number."""
    bits = 0
    for match in re.finditer(_MARK_ARGUMENT, re.sub(r"-m connmark (! )?--mark \S+", "", text)):
        value, mask, field_mask, _ = match.groups()
        if field_mask is not None:
            bits |= _named(0, int(field_mask, 0))
        else:
            bits |= _named(int(value, 0), int(mask, 0) if mask else _WHOLE)
    return bits


def _named(mark: int, mask: int) -> int:
    """The bits that somebody cares about: the mask, or those of the value where no mask singles some out."""
    return mark if mask == _WHOLE else mask


def _json_bits(expression: Iterable[Any]) -> int:
    bits = 0
    for part in expression:
        if not isinstance(part, dict):
            continue
        if "match" in part and _is_mark(part["match"].get("left")):
            masks = _integers(part["match"]["left"])
            bits |= masks or _integers(part["match"].get("right"))
        elif "mangle" in part and _is_mark(part["mangle"].get("key")):
            bits |= _integers(part["mangle"].get("value"), kept=True)
    return bits


def _is_mark(value: Any) -> bool:
    """Whether the packet's mark is in it."""
    if isinstance(value, dict):
        return value.get("meta") == {"key": "mark"} or any(_is_mark(each) for each in value.values())
    return isinstance(value, list) and any(_is_mark(each) for each in value)


def _integers(value: Any, *, kept: bool = False) -> int:
    """All numbers in it. `kept`: what an `&` leaves alone is not among them."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return 0
    if isinstance(value, int):
        return value & _WHOLE
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    return _or(_integers(each, kept=kept) for key, each in parts if not (kept and key == "&"))


def _or(numbers: Iterable[int]) -> int:
    bits = 0
    for number in numbers:
        bits |= number
    return bits


def _routing(around: Surroundings) -> Iterator[Conflict]:
    for rule in around.policy_rules:
        ours = rule.mask == OAD_MARK_MASK and rule.table.isdecimal() and int(rule.table) >= OWN_TABLE_MIN
        if rule.priority in OWN_PRIORITIES and not ours:
            yield Conflict(
                kind=ConflictKind.ROUTING,
                together=Together.PARTLY,
                what=f"ip rule {rule.priority} (table {rule.table})",
                consequence="no harm on a host; a gateway with as many alternatives does not start: its rules have the"
                f" priorities from {OWN_PRIORITIES.start}",
                remedy="give the rule another priority",
            )


# -- ourselves -------------------------------------------------------------------------------------------------------


def _agents(around: Surroundings) -> Iterator[Conflict]:
    for agent in around.agents:
        elsewhere = agent.here is False
        yield Conflict(
            kind=ConflictKind.SECOND_AGENT,
            together=Together.PARTLY if elsewhere else Together.NO,
            what=f"process {agent.process_id} works in {agent.state_directory}"
            + (", in another network namespace" if elsewhere else ""),
            consequence="a second one needs a state directory of its own"
            if elsewhere
            else "a second agent or gateway does not start in this network namespace",
            remedy="nothing, if it is the one that you mean",
        )


def _leftovers(around: Surroundings) -> Iterator[Conflict]:
    running = {agent.state_directory for agent in around.agents}
    for record in around.records:
        if record.state_directory not in running:
            unreadable = "" if record.is_sound else ", which cannot be understood"
            yield Conflict(
                kind=ConflictKind.LEFTOVERS,
                together=Together.YES,
                what=f"{record.path}{unreadable}: what an agent or gateway changed that was killed",
                consequence="packets pass, unpaid; the next start takes it over",
                remedy=f"hostagent restore --state-directory {record.state_directory}",
            )
    if running or any(queue.number in OWN_QUEUES for queue in around.queues):
        return  # whoever runs uses them, wherever it keeps its record
    recorded = {record.owner for record in around.records}
    for family, table, name in sorted(around.chains):
        found = OWN_CHAIN.match(name)
        if found and found[1] not in recorded:
            yield _leftover_chain(family, table, name)
    for qdisc in around.qdiscs:
        if qdisc.is_root and qdisc.handle == OWN_HTB_HANDLE and qdisc.kind == "htb" and not around.records:
            yield Conflict(
                kind=ConflictKind.LEFTOVERS,
                together=Together.PARTLY,
                what=f"{qdisc.interface}: HTB {OWN_HTB_HANDLE} of an agent, without its record",
                consequence="it goes on to limit what is sent",
                remedy=f"tc qdisc del dev {qdisc.interface} root",
            )


def _leftover_chain(family: int, table: str, name: str) -> Conflict:
    program = "iptables" if family == 4 else "ip6tables"
    hook = "PREROUTING" if name.endswith("PRE") else "OUTPUT"
    on_table = f"{program} -t {table}"
    return Conflict(
        kind=ConflictKind.LEFTOVERS,
        together=Together.YES,
        what=f"{program} chain {name} of table {table}, without its record",
        consequence="packets pass; an agent with the same interfaces takes it over",
        remedy=f"{on_table} -D {hook} -j {name}; {on_table} -F {name}; {on_table} -X {name}",
    )


def _unseen(around: Surroundings) -> Iterator[Conflict]:
    for each in around.unseen:
        yield Conflict(
            kind=ConflictKind.UNSEEN,
            together=Together.UNKNOWN,
            what=each.what,
            consequence=f"not looked at: {each.cause}",
            remedy="run doctor as root" if "permi" in each.cause else "",
        )


_JUDGES: Final[tuple[Callable[[Surroundings], Iterator[Conflict]], ...]] = (
    *(_agents, _leftovers, _queues, _marks, _shapers, _programs),
    *(_routing, _vpns, _containers, _firewalls, _unseen),
)
"""In this order among equals."""
