"""One run of a scenario, from nothing to a report and back to nothing.

Order: privilege, namespaces, wires, taps, daemons, steps, quiet, books and taps, report; then everything is taken down,
whatever happened.  Decides: when the network is quiet (two readings of the books, around one of the taps, agree).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from billpay.errors import EnvironmentFault
from dataplane.payment_engines import WantedPaymentEngine
from lab.books import NodeBooks
from lab.daemons import Daemons
from lab.measures import Hop, cable_label, payment_links, tunnel_way
from lab.namespaces import Network, gain_privilege
from lab.noticing import Noticing
from lab.outcome import make_report
from lab.plan import Plan, make_plan
from lab.report import Report
from lab.scenarios import find_scenario
from lab.steps import Interrupted, Steps, swallow_table
from lab.taps import Orders, TapReport, Taps, Watch
from lab.topology import Exchange, Found, Moves, NodeKind, Scenario, Swallow
from lab.wire import Wires
from lab.wiring import start_wires

_SETTLE_INTERVALS = 10  # statement intervals that the books may take to agree
_SETTLE_POLL_S = 0.5
_IN_FLIGHT_S = 0.5
_PREFIX = "hostagent-lab-"
_LONGEST_DIRECTORY = 70  # a unix socket's name has 107 bytes, "/NODENAME/secretary/secretary.sock" 34

Progress = Callable[[str], None]


def run_scenario(
    name_or_path: str | Path,
    *,
    ipv6: bool = False,
    seconds: int | None = None,
    engine: WantedPaymentEngine = "auto",
    pcap: Path | None = None,
    tui: bool = False,
    progress: Progress = print,
    keep: bool = False,
) -> Report:
    """Runs it and returns what came out.

    `seconds`: how long the traffic runs (the scenario's own length otherwise); `engine`: what treats packets that pay,
    at gateways and hosts; `pcap`: a folder for captures of each link end; `tui`: shows the terminal UI of the first
    paying host while it works; `keep`: keeps logs and books.
    Raises ConfigurationError, EnvironmentFault, KeyboardInterrupt (after taking everything down).
    """
    scenario = find_scenario(name_or_path)
    gain_privilege()
    stop = threading.Event()
    run = _Run(
        scenario,
        family=6 if ipv6 else 4,
        seconds=seconds,
        engine=engine,
        pcap=pcap,
        progress=progress,
        keep=keep,
        stop=stop,
    )
    with _ended_by_sigterm(stop):
        if tui:
            from lab.watching import run_with_tui  # textual is slow to import and not always wanted

            return run_with_tui(run, stop)
        return run()


class _Run:
    def __init__(
        self,
        scenario: Scenario,
        *,
        family: int,
        seconds: int | None,
        engine: WantedPaymentEngine,
        pcap: Path | None,
        progress: Progress,
        keep: bool,
        stop: threading.Event,
    ) -> None:
        self.plan = make_plan(scenario)
        self.scenario = scenario
        self.progress = progress
        self.directory = _make_directory()
        self._family = family
        self._engine: WantedPaymentEngine = engine
        self._scale = scenario.scale_for(seconds) if seconds else 1.0
        self._pcap = pcap
        self._keep = keep
        self._stop = stop
        self.daemons: Daemons | None = None
        self.ready = threading.Event()  # the daemons run: there is something to watch

    def __call__(self) -> Report:
        start_s = time.monotonic()
        wanted = True  # its logs: whoever ends a run before its time does not ask what went wrong
        try:
            report = self._work(start_s)
            wanted = not report.ok
            return report
        except KeyboardInterrupt:
            wanted = False
            raise
        finally:
            self.ready.set()
            if self._keep or wanted:
                self.progress(f"logs and books are in {self.directory}")
            else:
                shutil.rmtree(self.directory, ignore_errors=True)

    def _work(self, start_s: float) -> Report:
        with contextlib.ExitStack() as open_things:
            self.progress(f"building {len(self.scenario.nodes)} namespaces and {len(self.scenario.links)} links")
            network = open_things.enter_context(Network(self.plan))
            wires = self._start_wires(network, open_things)
            taps = self._start_taps(network, open_things)
            daemons = Daemons(
                network, family=self._family, directory=self.directory, progress=self.progress, engine=self._engine
            )
            open_things.callback(daemons.close)
            self.daemons = daemons
            daemons.start(self._check)
            self.ready.set()
            steps = open_things.enter_context(
                Steps(
                    network,
                    family=self._family,
                    faults=daemons,
                    wires=wires,
                    directory=self.directory,
                    scale=self._scale,
                    progress=self.progress,
                    stop=self._stop,
                )
            )
            watched = {node: open_things.enter_context(Noticing(daemons.socket_of(node))) for node in self._movers()}
            outcome = steps.run()
            outcome.said |= {node: noticing.said for node, noticing in watched.items()}
            books, tap_report = self._settle(daemons, taps, steps)
            drops = unsent(network)
            wire_reports = wires.report() if wires else []
            self.progress("taking everything down")
        return make_report(
            self.plan,
            outcome,
            books,
            tap_report,
            family=self._family,
            drops=drops,
            wires=wire_reports,
            tracebacks=daemons.tracebacks(),  # those of the way down too
            took_s=time.monotonic() - start_s,
            scale=self._scale,
            directory=str(self.directory) if self._keep else "",
        )

    def _movers(self) -> set[str]:
        """Hosts whose packets are expected to move, or who find something out: their agents say when they know."""
        moving = {item.exchange for item in self.scenario.expect if isinstance(item, Moves)}
        sources = {s.source for s in self.scenario.steps if isinstance(s, Exchange) and s.name in moving}
        sources |= {item.by for item in self.scenario.expect if isinstance(item, Found)}
        return {name for name in sources if self.scenario.node(name).kind is NodeKind.HOST}

    def _check(self) -> None:
        if self._stop.is_set():
            raise Interrupted

    def _start_wires(self, network: Network, open_things: contextlib.ExitStack) -> Wires | None:
        wires = start_wires(network, seed=self.scenario.seed, errors=self._log("wires", open_things))
        if wires is not None:
            open_things.callback(wires.close)
        return wires

    def _start_taps(self, network: Network, open_things: contextlib.ExitStack) -> Taps:
        if self._pcap is not None:
            try:
                self._pcap.mkdir(parents=True, exist_ok=True)
            except OSError as fault:
                raise EnvironmentFault("make folder", str(self._pcap), fault.strerror, "name another") from fault
        directory = str(self._pcap.resolve()) if self._pcap else ""
        taps = Taps(Orders(watches=watches(network), directory=directory), self._log("taps", open_things))
        open_things.callback(taps.close)
        return taps

    def _log(self, name: str, open_things: contextlib.ExitStack) -> IO[bytes]:
        return open_things.enter_context((self.directory / f"{name}.log").open("wb"))

    def _settle(self, daemons: Daemons, taps: Taps, steps: Steps) -> tuple[dict[str, NodeBooks], TapReport]:
        """Waits until the neighbours' statements agree and nothing moves any more; takes books and tallies then."""
        self.progress("traffic has stopped; waiting until the neighbours' statements agree")
        steps.wait(_IN_FLIGHT_S)
        deadline_s = time.monotonic() + _SETTLE_INTERVALS * self.scenario.statement_interval_s
        while True:
            before = daemons.books()
            tally = taps.report()
            books = daemons.books()
            quiet = _counts(before) == _counts(books) and all(node.statements_agree for node in books.values())
            if quiet or time.monotonic() > deadline_s:
                return books, tally
            steps.wait(_SETTLE_POLL_S)


def _make_directory() -> Path:
    """In the usual place for temporary files, unless sockets in there would have too long names."""
    made = Path(tempfile.mkdtemp(prefix=_PREFIX))
    if len(str(made)) <= _LONGEST_DIRECTORY:
        return made
    made.rmdir()
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))


def watches(network: Network) -> tuple[Watch, ...]:
    """Both ends of every cable on which payments can travel, with the gateways that they should come from."""
    plan = network.plan
    numbers = {node.name: node.as_number for node in plan.scenario.nodes}
    far_ends = {  # (node, neighbour) -> the gateway at the other end of a tunnel that leaves by that neighbour
        (one, tunnel_way(plan.scenario, one, other)): other
        for tunnel in plan.scenario.tunnels
        for one, other in (tunnel.ends, tunnel.ends[::-1])
    }
    hops = payment_links(plan.scenario)
    hops += [(node, via) for node, via in far_ends if via]
    return tuple(
        Watch(
            label=cable_label(cable.ends[0].node, cable.ends[1].node, end.node),
            pid=network[end.node].pid,
            interface=end.interface,
            sender_as=numbers[end.node],
            peer_as=numbers[far_ends.get((end.node, end.peer), end.peer)],
        )
        for cable in plan.cables
        for end in cable.ends
        if (end.node, end.peer) in hops
    )


def _counts(books: Mapping[str, NodeBooks]) -> list[tuple[str, int, int]]:
    return [(name, node.sent_nanodollars, node.received_nanodollars) for name, node in sorted(books.items())]


def unsent(network: Network) -> dict[Hop, int]:
    """Packets that the lab dropped between a node's count and the wire, by direction: by its rate limits, and what it
    swallowed."""
    drops: dict[Hop, int] = {}
    plan: Plan = network.plan
    for cable in plan.cables:
        if cable.link.rate_bit_s:
            for end in cable.ends:
                shown = network[end.node].run(["tc", "-s", "-j", "qdisc", "show", "dev", end.interface])
                drops[end.node, end.peer] = sum(queue.get("drops", 0) for queue in json.loads(shown))
    steps = {step.link: step for step in plan.scenario.steps if isinstance(step, Swallow)}
    for hop, step in steps.items():
        shown = network[hop[0]].run(["nft", "-j", "list", "counters", "table", "inet", swallow_table(step)])
        counted = [entry["counter"]["packets"] for entry in json.loads(shown)["nftables"] if "counter" in entry]
        drops[hop] = drops.get(hop, 0) + sum(counted)
    return drops


@contextlib.contextmanager
def _ended_by_sigterm(stop: threading.Event) -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: object) -> None:
        stop.set()

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
