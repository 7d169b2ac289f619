"""One priced link shared by reactors, on real packets: who gets what, and what the link looks like meanwhile.

    near (10 ms) ──┐
                   r1 ══ bottleneck: a plain FIFO with marks ══ d
    far  (80 ms) ──┘

Decides: the network, and what is measured: bytes and marks of each flow at the receiver (by the kernel's packet filter,
so by nobody who has a part in it), the queue at the gateway, money at the payers' agents. The weights are in the
agents' tasks and nowhere else: the gateway serves packets as they come. Refuses to know: what should come out. Traffic
goes to addresses inside its namespaces only.
Source: M3I scenarios Fig. 3-1; Gibbens and Kelly 1999.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from billpay.sessions import SESSION_PORT
from gateway.admin import change_mark_price
from hostagent import api
from lab.audit import ask_agent, ask_gateway
from lab.configurations import AGENT, GATEWAY, Table
from lab.daemons import Daemons
from lab.namespaces import Namespace, Network, end_process
from lab.plan import make_plan
from lab.priority import before_others, put_sessions_first, waited_ns
from lab.topology import Link, Node, NodeKind, Scenario
from lab.transfers import IperfServer, IperfTransfer, wait_until_listening
from lab.wiring import start_wires

ROUTER, RECEIVER = "r1", "d"
FIRST_PORT = 5301
UDP_PACKET_BYTES = 1500
UDP_EXCESS = 3
"""An unmodified UDP program sends this many times the link's rate at most: its agent holds it back."""

SAMPLE_S = 0.25
PRICE_KNOWN_S = 1.2
"""A gateway says its price each second: by then every agent has heard it."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFlow:
    """A program that knows nothing of prices: TCP with that congestion control, or "udp". Starts after `start_s`."""

    name: str
    program: str  # "reno", "cubic", "bbr", "udp"
    willingness_nanodollars_per_s: int
    round_trip_ms: int = 10
    family: int = 4
    start_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """`rate_bit_s`: of the wire; the gateway's own queue is 5 % slower, so it is the bottleneck. `reacts` False: the
    agents only count, and the flows are their transports' own.
    """

    flows: tuple[SharedFlow, ...]
    rate_bit_s: int = 10_000_000
    nanodollars_per_mark: int = 3_000
    marking: str = "virtual-queue"
    virtual_ppm: int = 960_000
    limit_bytes: int = 90_000
    virtual_limit_bytes: int = 15_000
    reacts: bool = True
    senders_pay: bool = True  # else the receiver does, and says the rates
    engine: str = "auto"  # of the senders' agents


class FlowShare(msgspec.Struct, frozen=True, kw_only=True):
    """What one flow got in the measured time. Rates at the IP layer, where they arrive."""

    name: str
    program: str
    willingness_nanodollars_per_s: int
    round_trip_ms: int
    family: int
    rate_bit_s: int
    marked_packets: int
    packets: int
    spent_nanodollars: int
    series_bit_s: tuple[int, ...]


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """`queue_bytes`: samples of what waited at the gateway, which knows no weights."""

    seconds: float
    capacity_bit_s: int
    flows: tuple[FlowShare, ...]
    queue_bytes: tuple[int, ...]
    dropped_packets: int
    marked_packets: int
    nanodollars_per_mark: int

    @property
    def utilisation(self) -> float:
        return sum(flow.rate_bit_s for flow in self.flows) / self.capacity_bit_s

    @property
    def mean_queue_ms(self) -> float:
        return sum(self.queue_bytes) / max(1, len(self.queue_bytes)) * 8_000 / self.capacity_bit_s

    def per_willingness(self) -> dict[str, float]:
        """Rate over willingness of each flow, in units of their mean: 1 for all where shares are as they are worth."""
        each = {flow.name: flow.rate_bit_s / flow.willingness_nanodollars_per_s for flow in self.flows}
        mean = sum(each.values()) / len(each)
        return {name: value / mean if mean else 0.0 for name, value in each.items()}


@dataclass(slots=True, kw_only=True)
class _Point:
    """Readings of one instant."""

    at_s: float
    flows: dict[int, tuple[int, int, int]]  # by port: bytes, packets, marks at the receiver
    backlog_bytes: int
    dropped_packets: int
    marked_packets: int
    spent: dict[int, int] = field(default_factory=dict)


class Arrivals:
    """What arrives in a namespace for each port: bytes at the IP layer, packets, and those with CE."""

    def __init__(self, namespace: Namespace, ports: Iterable[int]) -> None:
        self._namespace = namespace
        counters, rules = [], []
        for port in ports:
            counters += [f"counter all{port} {{}}", f"counter ce{port} {{}}"]
            rules += [f"th dport {port} {version} ecn ce counter name ce{port}" for version in ("ip", "ip6")]
            rules.append(f"th dport {port} counter name all{port}")
        chain = ["chain arrivals {", "type filter hook prerouting priority -500;", *rules, "}"]
        namespace.run(["nft", "-f", "-"], stdin="\n".join(["table inet witness {", *counters, *chain, "}"]) + "\n")

    def read(self) -> dict[int, tuple[int, int, int]]:
        """By port: bytes, packets, packets with CE, since the start."""
        listing = msgspec.json.decode(
            self._namespace.run(["nft", "-j", "list", "counters", "table", "inet", "witness"])
        )
        found = {each["counter"]["name"]: each["counter"] for each in listing["nftables"] if "counter" in each}
        return {
            int(name[3:]): (counter["bytes"], counter["packets"], found[f"ce{name[3:]}"]["packets"])
            for name, counter in found.items()
            if name.startswith("all")
        }


class SharedLink:
    """The network of a `Sharing`, with its daemons and its traffic; a context manager."""

    def __init__(self, sharing: Sharing, directory: Path, progress: Progress = lambda _line: None) -> None:
        self.sharing = sharing
        self._directory = directory
        self._progress = progress
        self._stack = contextlib.ExitStack()
        self._ports = {flow.name: FIRST_PORT + number for number, flow in enumerate(sharing.flows)}
        self.scenario = scenario_of(sharing)
        self.network: Network
        self.daemons: Daemons

    def __enter__(self) -> SharedLink:
        try:
            with before_others():
                self._build()
            put_sessions_first()
            self._waited_ns, self._up_ns = waited_ns(self.daemons.main_pid(ROUTER)), time.monotonic_ns()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        plan = make_plan(self.scenario)
        self.network = self._stack.enter_context(Network(plan))
        self._log = self._stack.enter_context((self._directory / "traffic.log").open("wb"))
        wires = start_wires(self.network, seed=1, errors=self._log)
        if wires is not None:
            self._stack.callback(wires.close)
        self.daemons = Daemons(
            self.network, family=4, directory=self._directory, progress=self._progress, more=self._more()
        )
        self._stack.callback(self.daemons.close)
        self.daemons.start(lambda: None)
        self._witness = Arrivals(self.network[RECEIVER], self._ports.values())
        for flow in self.sharing.flows:
            self._serve(flow)

    def _more(self) -> dict[tuple[str, str], Table]:
        """The tasks of the payers, and the price that their provider pushes."""
        sharing, plan = self.sharing, make_plan(self.scenario)
        senders = sorted({sender_of(flow.round_trip_ms) for flow in sharing.flows})
        targets = [plan.address(node, 4) for node in (*senders, RECEIVER)]
        more: dict[tuple[str, str], Table] = {
            (ROUTER, GATEWAY): {
                "tariff": {"kind": "per-mark", "nanodollars_per_mark": sharing.nanodollars_per_mark},
                "marks": {"push_to": targets, "announced_ms": 200},
            }
        }
        for sender in senders:
            flows = [flow for flow in sharing.flows if sender_of(flow.round_trip_ms) == sender]
            more[sender, AGENT] = {"agent": {"engine": sharing.engine}, **self._sender_table(flows)}
        more[RECEIVER, AGENT] = self._receiver_table() if sharing.reacts and not sharing.senders_pay else {}
        return more

    def _sender_table(self, flows: Sequence[SharedFlow]) -> Table:
        if not self.sharing.reacts:
            return {}
        if not self.sharing.senders_pay:
            return {"sessions": [{"pays": False, **self._match(flow, sends=True)} for flow in flows]}
        return {
            "providers": [self._provider()],
            "tasks": [_task(flow) for flow in flows],
            "sessions": [{"task": flow.name, **self._match(flow, sends=True)} for flow in flows],
        }

    def _receiver_table(self) -> Table:
        flows = self.sharing.flows
        return {
            "providers": [self._provider()],
            "tasks": [_task(flow) for flow in flows],
            "sessions": [{"task": flow.name, **self._match(flow, sends=False), "sends": False} for flow in flows],
        }

    def _provider(self) -> Table:
        return {"name": ROUTER, "certificate": str(self._directory / ROUTER / GATEWAY / "node.pem")}

    def _match(self, flow: SharedFlow, *, sends: bool) -> Table:
        remote = RECEIVER if sends else sender_of(flow.round_trip_ms)
        return {
            "protocol": "udp" if flow.program == "udp" else "tcp",
            "remote": make_plan(self.scenario).address(remote, flow.family),
            "ports": str(self._ports[flow.name]),
        }

    # --- traffic ----------------------------------------------------------------------------------------------------

    def _serve(self, flow: SharedFlow) -> None:
        address, port = self.network.plan.address(RECEIVER, flow.family), self._ports[flow.name]
        if flow.program != "udp":
            server = IperfServer(self.network[RECEIVER], address=address, port=port, errors=self._log)
            self._stack.callback(server.close)
            return
        command = [sys.executable, "-m", "lab.traffic", "sink", address, str(port)]
        process = self.network[RECEIVER].start(command, stderr=self._log)
        self._stack.callback(end_process, process)
        wait_until_listening(self.network[RECEIVER], port=port, process=process, protocol="udp")

    def start(self, flow: SharedFlow, *, seconds: float) -> Callable[[], None]:
        """Its program runs from now on; what is returned ends it."""
        plan, port = self.network.plan, self._ports[flow.name]
        sender = sender_of(flow.round_trip_ms)
        destination = plan.address(RECEIVER, flow.family)
        if flow.program != "udp":
            transfer = IperfTransfer(
                self.network[sender],
                source=plan.address(sender, flow.family),
                destination=destination,
                port=port,
                seconds=seconds,
                congestion_control=flow.program,
                rate_bit_s=None,
                errors=self._log,
            )
            self._stack.callback(transfer.close)
            return transfer.close
        payload_bytes = UDP_PACKET_BYTES - (28 if flow.family == 4 else 48)
        packets_per_s = self.sharing.rate_bit_s // UDP_EXCESS // (8 * UDP_PACKET_BYTES)
        if self.sharing.reacts:
            packets_per_s = self.sharing.rate_bit_s // (8 * UDP_PACKET_BYTES)
        command = [sys.executable, "-m", "lab.traffic", "flood", destination, str(port), str(packets_per_s)]
        process: subprocess.Popen[bytes] = self.network[sender].start(
            [*command, str(payload_bytes), str(seconds + 60)], stderr=self._log
        )
        self._stack.callback(end_process, process)
        return lambda: end_process(process)

    # --- measuring --------------------------------------------------------------------------------------------------

    def run(self, *, seconds: float, settle_s: float) -> Shares:
        """All flows, each from its own start; measured from `settle_s` after the first start on."""
        time.sleep(PRICE_KNOWN_S)
        begun_s = time.monotonic()
        waiting = sorted(self.sharing.flows, key=lambda flow: flow.start_s)
        points: list[_Point] = []
        while (now_s := time.monotonic() - begun_s) < settle_s + seconds:
            while waiting and waiting[0].start_s <= now_s:
                self.start(waiting.pop(0), seconds=settle_s + seconds)
            points.append(self.look())
            time.sleep(max(0.0, begun_s + now_s + SAMPLE_S - time.monotonic()))
        points.append(self.look())
        return self.shares(points, since_s=begun_s + settle_s)

    def start_all(self, *, seconds: float) -> None:
        """Every flow at once, once the price is known; they run for `seconds` at least, or until the end."""
        time.sleep(PRICE_KNOWN_S)
        for flow in self.sharing.flows:
            self.start(flow, seconds=seconds)

    def watch(self, seconds: float) -> Shares:
        """What happens in the next seconds."""
        points, end_s = [self.look()], time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(SAMPLE_S, left_s))
            points.append(self.look())
        return self.shares(points, since_s=points[0].at_s)

    def set_mark_price(self, nanodollars: int) -> None:
        """As the provider's operator does."""
        asyncio.run(change_mark_price(self._directory / ROUTER / GATEWAY / "admin.sock", nanodollars))

    def cut_feedback(self) -> None:
        """No report reaches a sender any more."""
        lines = ["table inet cut {", "chain in {", "type filter hook input priority 0;"]
        for node in self.scenario.nodes:
            if node.kind is NodeKind.AGENT and node.name != RECEIVER:
                ruleset = "\n".join([*lines, f"udp dport {SESSION_PORT} drop", "}", "}", ""])
                self.network[node.name].run(["nft", "-f", "-"], stdin=ruleset)

    @property
    def waited_share(self) -> float:
        """Of the time since everything was up, for which the gateway waited for a processor. Where that is much, the
        link was slower than its virtual queue believes, and marks too little: the run shows the machine.
        """
        waited = waited_ns(self.daemons.main_pid(ROUTER)) - self._waited_ns
        return waited / max(1, time.monotonic_ns() - self._up_ns)

    def look(self) -> _Point:
        status = ask_gateway(self._directory / ROUTER / GATEWAY / "admin.sock")
        link = next(each for each in status.links if each.name == RECEIVER)
        at_s = time.monotonic()
        flows = self._witness.read()
        spent: dict[int, int] = {}  # iperf3 has a connection for its own talk beside
        for session in self.sessions():
            if port := _service_port(session.flow):
                spent[port] = spent.get(port, 0) + session.spent_nanodollars
        return _Point(
            at_s=at_s,
            flows=flows,
            backlog_bytes=link.backlog_bytes,
            dropped_packets=link.dropped_packets,
            marked_packets=link.marked_packets,
            spent=spent,
        )

    def sessions(self) -> list[api.Session]:
        """Of those who pay."""
        agents = [node.name for node in self.scenario.nodes if node.kind is NodeKind.AGENT]
        found = [each for node in agents for each in ask_agent(self.daemons.socket_of(node)).sessions]
        return [session for session in found if session.pays]

    def shares(self, points: Sequence[_Point], *, since_s: float) -> Shares:
        measured = [point for point in points if point.at_s >= since_s]
        first, last = measured[0], measured[-1]
        took_s = last.at_s - first.at_s
        return Shares(
            seconds=took_s,
            capacity_bit_s=self.sharing.rate_bit_s * 95 // 100,
            flows=tuple(self._share(flow, points, first, last, took_s) for flow in self.sharing.flows),
            queue_bytes=tuple(point.backlog_bytes for point in measured),
            dropped_packets=last.dropped_packets - first.dropped_packets,
            marked_packets=last.marked_packets - first.marked_packets,
            nanodollars_per_mark=self.sharing.nanodollars_per_mark,
        )

    def _share(
        self, flow: SharedFlow, points: Sequence[_Point], first: _Point, last: _Point, took_s: float
    ) -> FlowShare:
        port = self._ports[flow.name]
        before, after = first.flows.get(port, (0, 0, 0)), last.flows.get(port, (0, 0, 0))
        series = [
            int((b.flows.get(port, (0,))[0] - a.flows.get(port, (0,))[0]) * 8 / (b.at_s - a.at_s))
            for a, b in pairwise(points)
        ]
        return FlowShare(
            name=flow.name,
            program=flow.program,
            willingness_nanodollars_per_s=flow.willingness_nanodollars_per_s,
            round_trip_ms=flow.round_trip_ms,
            family=flow.family,
            rate_bit_s=int((after[0] - before[0]) * 8 / took_s),
            packets=after[1] - before[1],
            marked_packets=after[2] - before[2],
            spent_nanodollars=last.spent.get(port, 0) - first.spent.get(port, 0),
            series_bit_s=tuple(series),
        )


def scenario_of(sharing: Sharing) -> Scenario:
    """Each round trip has a sender of its own."""
    trips = sorted({flow.round_trip_ms for flow in sharing.flows})
    senders = tuple(Node(name=sender_of(trip), kind=NodeKind.AGENT) for trip in trips)
    access = tuple(Link(ends=(sender_of(trip), ROUTER), delay_ms=trip / 2) for trip in trips)
    bottleneck = Link(
        ends=(ROUTER, RECEIVER),
        rate_bit_s=sharing.rate_bit_s,
        marking=sharing.marking,
        virtual_ppm=sharing.virtual_ppm,
        queueing="fifo",
        limit_bytes=sharing.limit_bytes,
        virtual_limit_bytes=sharing.virtual_limit_bytes,
    )
    router = Node(name=ROUTER, kind=NodeKind.ISP, as_number=64512)
    return Scenario(
        name="sharing",
        title="one priced link, shared by what transfers are worth",
        nodes=(*senders, router, Node(name=RECEIVER, kind=NodeKind.AGENT)),
        links=(*access, bottleneck),
    )


def _task(flow: SharedFlow) -> Table:
    return {"name": flow.name, "willingness_nanodollars_per_s": flow.willingness_nanodollars_per_s}


def sender_of(round_trip_ms: int) -> str:
    return f"s{round_trip_ms}"


def _service_port(flow: str) -> int:
    """Of "tcp 10.77.200.1:40000 → 10.77.200.3:5301", seen from either end."""
    ends = flow.split(" ")
    ports = (int(end.rpartition(":")[2]) for end in (ends[-1], ends[1]))
    return next((port for port in ports if FIRST_PORT <= port < FIRST_PORT + 100), 0)


def share_link(sharing: Sharing, *, seconds: float, settle_s: float = 3.0, progress: Progress = print) -> Shares:
    """The whole run in a directory of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="hostagent-lab-") as directory,
        SharedLink(sharing, Path(directory), progress) as link,
    ):
        return link.run(seconds=seconds, settle_s=settle_s)
