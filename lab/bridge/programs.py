"""The programs of an experiment: iperf3 and a UDP stream, which know nothing of prices; started, ended, and counted.

Decides: packets of the experiment's size, by TCP's largest segment or the datagram. Refuses to know: results.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import IO, Final

from lab.bridge.layout import Layout, Place
from lab.bridge.refusing import MOST_SECONDS
from lab.namespaces import Network, end_process
from lab.simulator.experiment import ReactorKind
from lab.transfers import IperfServer, wait_until_listening

_IP_AND_TCP_BYTES: Final = {4: 40, 6: 60}
_IP_AND_UDP_BYTES: Final = {4: 28, 6: 48}
_OVERTIME_S: Final = 60
_RENO: Final = "reno"


class Programs:
    """Servers are there from the beginning; `start` and `stop` are of what sends. A context of its own."""

    def __init__(self, layout: Layout, network: Network, errors: IO[bytes], *, family: int = 4) -> None:
        self._layout = layout
        self._network = network
        self._errors = errors
        self._family = family
        self._stack = contextlib.ExitStack()
        self._running: dict[str, Callable[[], None]] = {}

    def serve(self) -> None:
        for place in self._layout.places:
            namespace = self._network[place.receiver]
            address = self._network.plan.address(place.receiver, self._family)
            if not place.is_udp:
                server = IperfServer(namespace, address=address, port=place.port, errors=self._errors)
                self._stack.callback(server.close)
                continue
            command = [sys.executable, "-m", "lab.traffic", "sink", address, str(place.port)]
            process = namespace.start(command, stderr=self._errors)
            self._stack.callback(end_process, process)
            wait_until_listening(namespace, port=place.port, process=process, protocol="udp")

    def start(self, place: Place, *, rate_bit_s: float | None = None) -> None:
        """`rate_bit_s`: of one that answers nothing, if not as the experiment first says."""
        command = self._udp(place, rate_bit_s) if place.is_udp else self._tcp(place)
        process: subprocess.Popen[bytes] = self._network[place.sender].start(
            command, stdout=self._errors, stderr=self._errors
        )
        self._stack.callback(end_process, process)
        self._running[place.flow.name] = lambda: end_process(process)

    def stop(self, name: str) -> None:
        end = self._running.pop(name, None)
        if end is not None:
            end()

    def is_running(self, name: str) -> bool:
        return name in self._running

    def close(self) -> None:
        self._stack.close()

    def _tcp(self, place: Place) -> list[str]:
        plan, flow = self._network.plan, place.flow
        control = flow.program.value if place.has_session else _RENO
        return [
            *("iperf3", "--client", plan.address(place.receiver, self._family)),
            *("--bind", plan.address(place.sender, self._family), "--port", str(place.port)),
            *("--time", str(MOST_SECONDS + _OVERTIME_S), "--congestion", control),
            *("--set-mss", str(flow.packet_bytes - _IP_AND_TCP_BYTES[self._family])),
        ]

    def _udp(self, place: Place, rate_bit_s: float | None) -> list[str]:
        """An elastic program sends as much as the narrowest link takes: its agent holds it back."""
        flow, links = place.flow, {hop.link.name: hop.rate_bit_s for hop in self._layout.hops}
        if flow.reactor.kind is ReactorKind.UNRESPONSIVE:
            sends = flow.reactor.rate_bit_s if rate_bit_s is None else rate_bit_s
        else:
            sends = flow.reactor.max_bit_s or min(links[name] for name in flow.path)
        packets_per_s = max(1, round(sends / (8 * flow.packet_bytes)))
        destination = self._network.plan.address(place.receiver, self._family)
        numbers = [place.port, packets_per_s, flow.packet_bytes - _IP_AND_UDP_BYTES[self._family]]
        command = [sys.executable, "-m", "lab.traffic", "flood", destination, *map(str, numbers)]
        return [*command, str(MOST_SECONDS + _OVERTIME_S)]


def ports(places: Iterable[Place]) -> list[int]:
    return [place.port for place in places]
