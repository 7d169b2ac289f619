"""Carries out a scenario's steps: traffic, faults, impairments, one after another, some in the background.

Decides: nothing but the order that the scenario gives.  Servers for all traffic are up before the first step.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, assert_never

import msgspec

from lab.changing import after, said
from lab.namespaces import Network, end_process
from lab.noticing import Said
from lab.plan import Plan
from lab.topology import (
    AnyStep,
    Charge,
    Describe,
    Exchange,
    Fetch,
    Flood,
    Heed,
    Impair,
    Kill,
    Pause,
    Restart,
    Scenario,
    Stop,
    Swallow,
    Transfers,
)
from lab.traffic import Counted
from lab.transfers import FileServer, Goodput, IperfServer, IperfTransfer, Receipt, fetch, wait_until_listening
from lab.wire import Harm, Wires

_IP_AND_UDP_BYTES = {4: 28, 6: 48}
_SAMPLE_S = 0.5
_FLOOD_S = 86_400
_TICK_S = 0.05
_ANSWER_S = 3.0  # an asker has this long to print its count once it should have ended
_FETCH_S = 60.0
_ALL_PPM = 1_000_000

Progress = Callable[[str], None]


class Interrupted(KeyboardInterrupt):
    """The run was asked to end: Ctrl-C, SIGTERM, or the terminal UI was told to quit everything."""


class Faults(Protocol):
    """What steps do to daemons."""

    def kill(self, node: str, signal_name: str) -> None: ...

    def restart(self, node: str) -> None: ...

    def change(self, node: str, scenario: Scenario) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """A transfer's goodput, and from where to where it went."""

    goodput: Goodput
    source: str
    destination: str
    port: int
    congestion_control: str = ""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What the steps brought."""

    exchanges: list[tuple[str, int, Counted]] = field(default_factory=list)  # name, stream, counts
    transfers: list[Transferred] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    changed_ns: dict[str, int] = field(default_factory=dict)  # named changes, in unix nanoseconds as the taps count
    said: dict[str, list[Said]] = field(default_factory=dict)  # by node: what its agent had chosen, and since when


class Steps:
    """A context manager; leaving it ends all traffic."""

    def __init__(
        self,
        network: Network,
        *,
        family: int,
        faults: Faults,
        wires: Wires | None,
        directory: Path,
        scale: float,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._network = network
        self._plan: Plan = network.plan
        self._scenario = network.plan.scenario  # as it is now, after the steps that changed it
        self._family = family
        self._faults = faults
        self._wires = wires
        self._directory = directory
        self._scale = scale
        self._progress = progress
        self._stop = stop
        self._log: IO[bytes] = (directory / "traffic.log").open("wb")
        self._processes = contextlib.ExitStack()
        self._floods: dict[str, subprocess.Popen[bytes]] = {}
        self._asking: list[tuple[str, int, float, subprocess.Popen[bytes]]] = []
        self.outcome = Outcome()
        self.start_s = time.monotonic()

    def __enter__(self) -> Steps:
        try:
            self._start_servers()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self) -> Outcome:
        """All steps.  Raises Interrupted when the run is asked to end."""
        self.start_s = time.monotonic()
        for number, step in enumerate(self._plan.scenario.steps, start=1):
            self._do(step, number)
        for asking in list(self._asking):
            self._await_exchange(asking)
        for name in list(self._floods):
            self._stop_flood(name)
        return self.outcome

    def wait(self, seconds: float) -> None:
        deadline_s = time.monotonic() + seconds
        while (left_s := deadline_s - time.monotonic()) > 0:
            if self._stop.wait(min(left_s, _TICK_S)):
                raise Interrupted

    def _do(self, step: AnyStep, number: int) -> None:
        match step:
            case Pause():
                seconds = step.seconds * self._scale if step.stretches else step.seconds
                self._progress(f"waiting {seconds:.0f} s")
                self.wait(seconds)
            case Flood():
                self._start_flood(step)
            case Stop():
                self._stop_flood(step.name)
            case Exchange():
                self._exchange(step, number)
            case Transfers():
                self._transfer(step)
            case Fetch():
                self._fetch(step)
            case Impair():
                self._impair(step)
            case Charge() | Describe() | Heed():
                self._scenario = after(self._scenario, step)
                self._changed(step.name, lambda: self._faults.change(step.node, self._scenario))
                self._event(said(step))
            case Swallow():
                self._changed(step.name, lambda: self._swallow(step))
                self._event(
                    f"{step.share_ppm / 1e4:g} % of what {step.link[0]} was paid to carry on to {step.link[1]} vanishes"
                )
            case Kill():
                self._faults.kill(step.node, step.signal)
                self._event(f"SIG{step.signal} to the daemon of {step.node}")
            case Restart():
                self._faults.restart(step.node)
                self._event(f"daemon of {step.node} started again, its neighbours have agreed with it")
            case _:
                assert_never(step)

    # --- servers ------------------------------------------------------------------------------------------------------

    def _start_servers(self) -> None:
        wanted: dict[tuple[str, int], AnyStep] = {}
        for step in self._plan.scenario.steps:
            if isinstance(step, Flood | Exchange | Fetch):
                wanted.setdefault((step.destination, step.port), step)
            elif isinstance(step, Transfers):
                for flow in step.flows:
                    wanted.setdefault((flow.destination, flow.port), step)
        for (node, port), step in wanted.items():
            self._serve(node, port, step)

    def _serve(self, node: str, port: int, step: AnyStep) -> None:
        namespace, address = self._network[node], self._plan.address(node, self._family)
        match step:
            case Exchange() | Flood():
                does = "answer" if isinstance(step, Exchange) else "sink"
                process = self._program(node, does, address, str(port))
                wait_until_listening(namespace, port=port, process=process, protocol="udp")
            case Fetch():
                files = self._directory / f"files-{node}-{port}"
                server = FileServer(
                    namespace,
                    address=address,
                    port=port,
                    directory=files,
                    megabytes=step.megabytes,
                    errors=self._log,
                )
                self._processes.callback(server.close)
            case _:
                iperf = IperfServer(namespace, address=address, port=port, errors=self._log)
                self._processes.callback(iperf.close)

    def _program(self, node: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = self._network[node].start(
            [sys.executable, "-m", "lab.traffic", *arguments], stdout=subprocess.PIPE, stderr=self._log
        )
        self._processes.callback(end_process, process)
        return process

    # --- UDP ----------------------------------------------------------------------------------------------------------

    def _start_flood(self, step: Flood) -> None:
        payload_bytes = step.packet_bytes - _IP_AND_UDP_BYTES[self._family]
        packets_per_s = max(1, step.rate_bit_s // (8 * step.packet_bytes))
        destination = self._plan.address(step.destination, self._family)
        arguments = [destination, str(step.port), str(packets_per_s), str(payload_bytes), str(_FLOOD_S)]
        self._progress(
            f"{step.name}: {step.rate_bit_s / 1e6:g} Mbit/s of UDP from {step.source} to {step.destination}, unpaid"
        )
        self._floods[step.name] = self._program(step.source, "flood", *arguments)

    def _stop_flood(self, name: str) -> None:
        process = self._floods.pop(name, None)
        if process is not None:
            end_process(process)

    def _exchange(self, step: Exchange, number: int) -> None:
        seconds = step.seconds * self._scale
        self._progress(
            f"exchange “{step.name}”: {step.packets_per_s} requests a second from {step.source} to {step.destination} "
            f"for {seconds:.0f} s"
        )
        payload_bytes = step.packet_bytes - _IP_AND_UDP_BYTES[self._family]
        destination = self._plan.address(step.destination, self._family)
        numbers = [step.port, step.packets_per_s, payload_bytes, round(seconds, 3), number, step.flows]
        process = self._program(step.source, "ask", destination, *map(str, numbers))
        asking = (step.name, number, time.monotonic() + seconds + _ANSWER_S, process)
        self._asking.append(asking)
        if not step.background:
            self._await_exchange(asking)

    def _await_exchange(self, asking: tuple[str, int, float, subprocess.Popen[bytes]]) -> None:
        name, stream, deadline_s, process = asking
        self._asking.remove(asking)
        while process.poll() is None and time.monotonic() < deadline_s:
            self.wait(_TICK_S)
        if process.poll() is None:
            process.terminate()
        output, _ = process.communicate()
        counted = msgspec.json.decode(output, type=Counted) if output else Counted()
        self.outcome.exchanges.append((name, stream, counted))

    # --- TCP ----------------------------------------------------------------------------------------------------------

    def _transfer(self, step: Transfers) -> None:
        seconds = step.seconds * self._scale
        names = " and ".join(f"“{flow.name}”" for flow in step.flows)
        self._progress(f"TCP transfers {names} ({step.congestion_control}) for {seconds:.0f} s")
        receipts = {flow.name: Receipt(self._network[flow.destination], flow.port) for flow in step.flows}
        with contextlib.ExitStack() as running:
            for flow in step.flows:
                transfer = IperfTransfer(
                    self._network[flow.source],
                    source=self._plan.address(flow.source, self._family),
                    destination=self._plan.address(flow.destination, self._family),
                    port=flow.port,
                    seconds=seconds,
                    congestion_control=step.congestion_control,
                    rate_bit_s=flow.rate_bit_s,
                    errors=self._log,
                )
                running.callback(transfer.close)
            start_s = time.monotonic()
            received = dict.fromkeys(receipts, 0)
            while (passed_s := time.monotonic() - start_s) < seconds:
                self.wait(min(_SAMPLE_S, seconds - passed_s))
                received = {name: receipt.bytes() for name, receipt in receipts.items()}
            passed_s = time.monotonic() - start_s
        for flow in step.flows:
            count = received[flow.name]
            trouble = "" if count else "nothing arrived"
            goodput = Goodput(
                name=flow.name, bit_s=int(count * 8 / passed_s), bytes=count, seconds=passed_s, trouble=trouble
            )
            self._progress(f"  “{flow.name}”: {goodput.bit_s / 1e6:.2f} Mbit/s")
            self.outcome.transfers.append(
                Transferred(
                    goodput=goodput,
                    source=flow.source,
                    destination=flow.destination,
                    port=flow.port,
                    congestion_control=step.congestion_control,
                )
            )

    def _fetch(self, step: Fetch) -> None:
        self._progress(
            f"“{step.name}”: {step.source} downloads {step.megabytes:g} MB from {step.destination} with curl"
        )
        host = self._plan.address(step.destination, self._family)
        goodput = fetch(self._network[step.source], name=step.name, host=host, port=step.port, at_most_s=_FETCH_S)
        self._progress(f"  “{step.name}”: {goodput.bit_s / 1e6:.2f} Mbit/s")
        self.outcome.transfers.append(
            Transferred(goodput=goodput, source=step.source, destination=step.destination, port=step.port)
        )

    # --- faults -------------------------------------------------------------------------------------------------------

    def _impair(self, step: Impair) -> None:
        if self._wires is None:
            return
        cable = self._plan.cable(*step.link)
        harm = harm_of(delay_ms=step.delay_ms, loss_ppm=step.loss_ppm, reorder_ppm=step.reorder_ppm)
        wires, name = self._wires, wire_name(*(end.node for end in cable.ends))
        self._changed(step.name, lambda: wires.change(name, harm))
        self._event(
            f"link {'–'.join(step.link)}: {step.delay_ms:g} ms, {step.loss_ppm / 1e4:g} % lost, "
            f"{step.reorder_ppm / 1e4:g} % overtaken"
        )

    def _changed(self, name: str, change: Callable[[], object]) -> None:
        if name:
            self.outcome.changed_ns[name] = time.time_ns()
        change()

    def _swallow(self, step: Swallow) -> None:
        """Where the sender has counted them and before the wire; what was said there of it before goes, its count
        stays."""
        sender, receiver = step.link
        table = f"inet {swallow_table(step)}"
        rules = [
            f"add table {table}",
            f"add counter {table} swallowed",
            f"add chain {table} leaving {{ type filter hook forward priority 0; }}",
            f"flush chain {table} leaving",
        ]
        if step.share_ppm:
            lot = f'oifname "{self._plan.end(sender, receiver).interface}"'
            if step.share_ppm < _ALL_PPM:
                lot += f" numgen random mod {_ALL_PPM} < {step.share_ppm}"
            rules += [
                f"add rule {table} leaving ip hdrlength > 5 {lot} counter name swallowed drop",
                f"add rule {table} leaving ip6 nexthdr 0 {lot} counter name swallowed drop",
            ]
        self._network[sender].run(["nft", "-f", "-"], stdin="\n".join(rules) + "\n")

    def _event(self, what: str) -> None:
        line = f"{time.monotonic() - self.start_s:.1f} s: {what}"
        self.outcome.events.append(line)
        self._progress(line)

    def _end(self) -> None:
        self._processes.close()
        self._log.close()


def swallow_table(step: Swallow) -> str:
    """Of the sender's packet filter, with a counter `swallowed`."""
    sender, receiver = step.link
    return f"lab_swallow_{sender}_{receiver}"


def wire_name(one: str, other: str) -> str:
    return f"{one}-{other}"


def harm_of(*, delay_ms: float, loss_ppm: int, reorder_ppm: int) -> Harm:
    return Harm(delay_ns=int(delay_ms * 1e6), loss_ppm=loss_ppm, reorder_ppm=reorder_ppm)
