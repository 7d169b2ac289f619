"""Which class a flow belongs to. The same answer must come from every engine; dataplane/ebpf has it in C.

Decides: the first rule that matches; without one, built-in control traffic is CONTROL and everything else DEFAULT.
Refuses to know: how a flow was seen, and whose it is (the caller says both). Pure. Source: `dataplane.shaping.plan`.

What a rule compares, all of what it names:

- program: a value with a leading "/" equals the executable; any other equals the executable's part after the last "/".
- unit: equal, or, with a trailing "*", the unit begins with what stands before it.
- task, user_id: equal. What is not known of a program ("" or None) equals nothing that a rule can name.
- protocol: TCP 6, UDP 17, ICMP 1 or 58.
- remote: same IP version, and the first bits agree.
- ports: the service's port, first <= port <= last. It is the remote port of a flow that we began, and the local one
  (`inbound`) of a flow that the other end began. Protocols without ports, and fragments, have port 0.

Control traffic, by the service's port: DNS (53, 853; TCP and UDP), DHCP (UDP 67, 68, 546, 547), NTP (UDP 123), the
agreements (TCP 7414), a shell (TCP 22); and all of ICMP and ICMPv6. A user's rule comes first: whoever copies files
through ssh gives that a class of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from billpay.messages import CONTROL_PORT
from billpay.packet import TCP, UDP
from dataplane.metering import Program
from dataplane.shaping.plan import CONTROL, DEFAULT, Match, Protocol, Rule, ShapingPlan

ICMP: Final = 1
ICMPV6: Final = 58

PROTOCOL_NUMBERS: Final = {
    Protocol.TCP: frozenset({TCP}),
    Protocol.UDP: frozenset({UDP}),
    Protocol.ICMP: frozenset({ICMP, ICMPV6}),
}
CONTROL_SERVICES: Final = frozenset(
    {(TCP, port) for port in (53, 853, CONTROL_PORT, 22)} | {(UDP, port) for port in (53, 853, 67, 68, 546, 547, 123)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prefix:
    address_bytes: int
    value: int
    shift: int

    def holds(self, remote: bytes) -> bool:
        return len(remote) == self.address_bytes and int.from_bytes(remote) >> self.shift == self.value


class _Condition:
    """A rule, ready to be compared: what it asks of the flow, and what it asks of the program."""

    __slots__ = ("_match", "_ports", "_prefix", "_protocols", "_unit_start", "asks_program", "traffic_class")

    def __init__(self, rule: Rule) -> None:
        match = self._match = rule.match
        self.traffic_class = rule.traffic_class
        self.asks_program = any(each is not None for each in (match.program, match.unit, match.task, match.user_id))
        self._protocols = PROTOCOL_NUMBERS[match.protocol] if match.protocol is not None else None
        self._prefix = _prefix_of(match)
        self._ports = match.ports
        self._unit_start = match.unit[:-1] if match.unit is not None and match.unit.endswith("*") else None

    def holds_for_flow(self, protocol: int, port: int, remote: bytes) -> bool:
        if self._protocols is not None and protocol not in self._protocols:
            return False
        if self._ports is not None and not self._ports[0] <= port <= self._ports[1]:
            return False
        return self._prefix is None or self._prefix.holds(remote)

    def holds_for_program(self, program: Program) -> bool:
        match = self._match
        if match.program is not None:
            whole = match.program.startswith("/")
            name = program.executable if whole else program.executable.rpartition("/")[2]
            if not name or name != match.program:
                return False
        if self._unit_start is not None:
            if not program.unit.startswith(self._unit_start):
                return False
        elif match.unit is not None and (not program.unit or program.unit != match.unit):
            return False
        if match.task is not None and (not program.task or program.task != match.task):
            return False
        return match.user_id is None or program.user_id == match.user_id


class Matcher:
    """A plan's rules, compiled once; asked once a flow."""

    def __init__(self, plan: ShapingPlan) -> None:
        """Raises ValueError for a prefix that is none, and a class that is not there."""
        for rule in plan.rules:
            if not 0 <= rule.traffic_class < len(plan.classes):
                raise ValueError(f"there is no class {rule.traffic_class}")
        self._conditions: Sequence[_Condition] = [_Condition(rule) for rule in plan.rules]

    def class_of(
        self, program: Program, protocol: int, local_port: int, remote: bytes, remote_port: int, inbound: bool
    ) -> int:
        """An index into the plan's classes. `remote` is packed, 4 or 16 bytes."""
        port = local_port if inbound else remote_port
        number = self.rule_of(program, protocol, port, remote)
        return self._conditions[number].traffic_class if number is not None else _unruled(protocol, port)

    def rule_of(self, program: Program, protocol: int, port: int, remote: bytes) -> int | None:
        """Which rule decides, by its place in the plan; None: none does. `port`: the service's."""
        for number, condition in enumerate(self._conditions):
            if condition.holds_for_flow(protocol, port, remote) and (
                not condition.asks_program or condition.holds_for_program(program)
            ):
                return number
        return None

    def class_of_anyone(
        self, protocol: int, local_port: int, remote: bytes, remote_port: int, inbound: bool
    ) -> int | None:
        """The class when it is the same whosever the flow is; None when that has to be known first."""
        port = local_port if inbound else remote_port
        possible: set[int] = set()
        for condition in self._conditions:
            if condition.holds_for_flow(protocol, port, remote):
                possible.add(condition.traffic_class)
                if not condition.asks_program:
                    break
        else:
            possible.add(_unruled(protocol, port))
        return possible.pop() if len(possible) == 1 else None


def class_of(
    plan: ShapingPlan,
    program: Program,
    protocol: int,
    local_port: int,
    remote: bytes,
    remote_port: int,
    inbound: bool,
) -> int:
    """For one flow; `Matcher` for many."""
    return Matcher(plan).class_of(program, protocol, local_port, remote, remote_port, inbound)


def _unruled(protocol: int, port: int) -> int:
    is_control = protocol in (ICMP, ICMPV6) or (protocol, port) in CONTROL_SERVICES
    return CONTROL if is_control else DEFAULT


def _prefix_of(match: Match) -> _Prefix | None:
    """Raises ValueError for what is no address or prefix; bits beyond the prefix do not matter."""
    if match.remote is None:
        return None
    network = ip_network(match.remote, strict=False)
    shift = network.max_prefixlen - network.prefixlen
    value = int(network.network_address) >> shift
    return _Prefix(address_bytes=network.max_prefixlen // 8, value=value, shift=shift)
