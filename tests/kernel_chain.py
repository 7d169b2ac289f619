"""A host, two gateways and a plain host in a row, with the real programs at their interfaces: a – x – y – b.

The cores are driven in this process, each in its namespace: nothing of them moves unless a test says so.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
from gateway_network import UNIX_S, X, Y, fixed, flow_key, grant_for, header_of, routes, to_gateway, to_host, to_legacy
from netns import Namespace, connect
from one_host import flow_of

from billpay.header import Header
from billpay.messages import Grant
from dataplane.ebpf.kernel_counters import KernelCounters
from gateway.commands import Answer as GatewayAnswer
from gateway.commands import Done as GatewayDone
from gateway.commands import GrantAnswer, OpenGrant, SetLink
from gateway.kernel_datapath import KernelGateway
from gateway.kernel_queue import KernelQueues
from gateway.plan import GatewayPlan
from hostagent.payments.commands import Done, PayFlow, SetUplink
from hostagent.payments.kernel_datapath import KernelPayer
from hostagent.payments.plan import HostPlan, UplinkPlan

Result = TypeVar("Result")
AMOUNT = 20
TO_A = ("10.8.1.0/24", "fd08:1::/64")
TO_B = ("10.8.3.0/24", "fd08:3::/64")
A = {4: "10.8.1.1", 6: "fd08:1::1"}
B = {4: "10.8.3.2", 6: "fd08:3::2"}
CABLES = (("a", "a0", "x", "xa"), ("x", "xy", "y", "yx"), ("y", "yb", "b", "b0"))
"""Number n has 10.8.n.0/24 and fd08:n::/64, its ends .1 and .2."""

A_PORT, B_PORT = 5004, 9000
RATE_BIT_S = 100_000_000
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33  # asm-generic/socket.h


class Chain:
    """`with Chain() as chain:`; `cut_at`: the first cable from which on every packet is as on a wire; `checksums`: but
    for those, which devices there still compute. `queue`: where x keeps what its queue to y replaced; None: no queue.
    """

    def __init__(self, *, cut_at: str = "a0", checksums: bool = False, queue: Path | None = None) -> None:
        self._stack = contextlib.ExitStack()
        self.nodes = {name: self._stack.enter_context(Namespace()) for name in "axyb"}
        for node in self.nodes.values():
            node.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        is_cut = False
        for number, (left, left_name, right, right_name) in enumerate(CABLES, start=1):
            is_cut = is_cut or left_name == cut_at
            connect(self.nodes[left], left_name, self.nodes[right], right_name, offloads=not is_cut or checksums)
            if is_cut and checksums:
                for node, name in ((left, left_name), (right, right_name)):
                    self.nodes[node].run("ethtool", "-K", name, "tso", "off", "gso", "off", "gro", "off")
            self._address(number - 1)
        for node in "xy":
            self.nodes[node].run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self._route()
        self.counters = {name: KernelCounters.in_memory() for name in "axy"}
        self.x = self._gateway("x", self.inside("x", lambda: _plan_of_x(0 if queue is None else RATE_BIT_S)), queue)
        self.y = self._gateway("y", self.inside("y", _plan_of_y), None)
        self.a = self.inside("a", lambda: KernelPayer(_plan_of_a(), self.counters["a"]))
        self._stack.callback(self.a.close)
        self.inside("a", lambda: self.a.on_go(time.monotonic_ns()))
        self.tell_host(SetUplink(uplink="x", agreed=True))

    def _address(self, cable: int) -> None:
        left, left_name, right, right_name = CABLES[cable]
        for node, name, host in ((left, left_name, 1), (right, right_name, 2)):
            self.nodes[node].run("ip", "addr", "replace", f"10.8.{cable + 1}.{host}/24", "dev", name)
            self.nodes[node].run("ip", "addr", "replace", f"fd08:{cable + 1}::{host}/64", "dev", name, "nodad")

    def _route(self) -> None:
        for node, to, cable, by in (
            ("a", ("default", "default"), 1, 2),
            ("b", ("default", "default"), 3, 1),
            ("x", TO_B, 2, 2),
            ("y", TO_A, 2, 1),
        ):
            self.nodes[node].run("ip", "route", "replace", to[0], "via", f"10.8.{cable}.{by}")
            self.nodes[node].run("ip", "-6", "route", "replace", to[1], "via", f"fd08:{cable}::{by}")

    def _gateway(self, name: str, plan: GatewayPlan, record: Path | None) -> KernelGateway:
        queues = None if record is None else KernelQueues(plan.links, record)
        if queues is not None:
            self.inside(name, queues.apply)
        core = self.inside(name, lambda: KernelGateway(plan, self.counters[name], queues=queues))
        self._stack.callback(core.close)
        self._stack.callback(lambda: self.inside(name, lambda: core.on_stop(time.monotonic_ns())))
        self.inside(name, lambda: core.on_go(time.monotonic_ns()))
        for link in plan.links:
            if link.peer.value != "legacy":
                assert self.tell(core, SetLink(link=link.name, agreed=True, in_default=False)) == GatewayDone()
        return core

    def __enter__(self) -> Chain:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        for counters in self.counters.values():
            counters.close()

    # --- what is done in it -----------------------------------------------------------------------------------------

    def inside(self, node: str, function: Callable[[], Result]) -> Result:
        return self.nodes[node].call(function)

    def tell(self, core: KernelGateway, command: Any) -> Any:
        reply = core.on_message(msgspec.json.encode(command), time.monotonic_ns(), UNIX_S)
        return msgspec.json.decode(reply, type=GatewayAnswer)  # type: ignore[arg-type]

    def tell_host(self, command: Any) -> None:
        reply = self.a.on_message(msgspec.json.encode(command), time.monotonic_ns(), UNIX_S)
        assert reply == msgspec.json.encode(Done())

    def pay(self, packet: bytes, *, slots: int = 3) -> Grant:
        """The packet's flow pays from now on."""
        grant = grant_for(packet, not_before_unix_s=0, cap=10**12, rate=10**12, burst=10**12)
        assert isinstance(self.tell(self.x, OpenGrant(link="a", grant=grant)), GrantAnswer)
        blank = ((0, 0, 0),) * slots
        self.tell_host(PayFlow(flow=flow_of(packet), grant=grant, amount_nanodollars=AMOUNT, slots=blank))
        return grant

    def exchange(self, count: int, *, family: int = 4) -> None:
        """So many paid datagrams from a, each of which arrives at b."""
        receiver, sender = self.socket("b", family), self.socket("a", family)
        with receiver, sender:
            receiver.bind((B[family], B_PORT))
            sender.bind((A[family], A_PORT))
            for number in range(count):
                sender.sendto(b"%d" % number, (B[family], B_PORT))
                assert receiver.recv(100) == b"%d" % number

    def assert_alike(self) -> None:
        """What one counted as sent the next one counted as received, and nothing is missing inside."""
        assert self.link_count("a", "x", "sent_nanodollars") == self.link_count("x", "a", "received_nanodollars")
        assert self.link_count("x", "y", "sent_nanodollars") == self.link_count("y", "x", "received_nanodollars")
        for node, links in (("x", "ay"), ("y", "xb")):
            of = {
                name: sum(self.link_count(node, link, f"{name}_nanodollars") for link in links)
                for name in ("received", "sent", "retained", "kept")
            }
            assert of["received"] == of["sent"] + of["retained"] + of["kept"], (node, of)

    def count(self, node: str, name: str) -> int:
        return self.counters[node].committed(name)

    def link_count(self, node: str, link: str, name: str) -> int:
        return self.count(node, f"link/{link}/{name}")

    def socket(self, node: str, family: int, kind: int = socket.SOCK_DGRAM) -> socket.socket:
        """Closed with the chain."""
        version = socket.AF_INET if family == 4 else socket.AF_INET6
        made = self._stack.enter_context(self.inside(node, lambda: socket.socket(version, kind)))
        made.settimeout(10)
        return made

    def lay_again(self, cable: int) -> None:
        """The cable is pulled out, and there is another one: with its addresses and routes, but another index."""
        left, left_name, right, right_name = CABLES[cable]
        self.nodes[left].run("ip", "link", "delete", left_name)
        connect(self.nodes[left], left_name, self.nodes[right], right_name)
        self._address(cable)
        self._route()

    def turn_off_and_on(self, cable: int) -> None:
        left, left_name, _, _ = CABLES[cable]
        for what in ("down", "up"):
            self.nodes[left].run("ip", "link", "set", left_name, what)
        self._address(cable)
        self._route()

    def tap(self, node: str, interface: str) -> Tap:
        """What arrives there from now on, before any program."""
        return self._stack.enter_context(self.inside(node, lambda: Tap(interface)))


class Tap:
    """IP packets that an interface received."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        self._socket.bind((interface, ETH_P_ALL))
        self._socket.setblocking(False)

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def frames(self) -> Iterator[bytes]:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, packet_type, *_) = self._socket.recvfrom(1 << 17)
                if packet_type != socket.PACKET_OUTGOING:
                    yield frame

    def packets(self) -> list[bytes]:
        return [frame[14:] for frame in self.frames() if frame[12:14] in (b"\x08\x00", b"\x86\xdd")]

    def of_flow(self, packet: bytes) -> list[bytes]:
        return [seen for seen in self.packets() if flow_key(seen) == flow_key(packet)]


def amounts(packets: list[bytes]) -> set[int | None]:
    """In their headers; None of a packet without one."""
    headers: list[Header | None] = [header_of(packet) for packet in packets]
    return {None if header is None else header.amount for header in headers}


def _plan_of_a() -> HostPlan:
    return HostPlan(uplinks=(UplinkPlan(name="x", interface_index=socket.if_nametoindex("a0"), gateway_as=X),))


def _plan_of_x(rate_bit_s: int) -> GatewayPlan:
    links = (
        to_host("a", socket.if_nametoindex("xa"), toll=fixed(1)),
        to_gateway(
            "y",
            socket.if_nametoindex("xy"),
            Y,
            toll=fixed(1, cap_nanodollars=1000),
            rate_bit_s=rate_bit_s,
            congestion=bool(rate_bit_s),
        ),
    )
    return GatewayPlan(as_number=X, links=links, routes=routes(TO_A, "a") + routes(TO_B, "y"))


def _plan_of_y() -> GatewayPlan:
    toll = fixed(1)
    links = (
        to_gateway("x", socket.if_nametoindex("yx"), X, toll=toll),
        to_legacy("b", socket.if_nametoindex("yb"), toll=toll),
    )
    return GatewayPlan(as_number=Y, links=links, routes=routes(TO_A, "x") + routes(TO_B, "b"))
