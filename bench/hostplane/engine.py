"""One engine in a process of its own, in the network namespace that it was started in; orders come on standard input.

Decides nothing. Each order is a line of JSON and has a line as its answer; the process ends with its input.
`python -m bench.hostplane.engine DIRECTORY`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from dataplane.ebpf import layout
from dataplane.ebpf.libbpf import AttachType, Link, Program, counting_run_time, library
from dataplane.ebpf_engine import EbpfEngine
from dataplane.engines import makers
from dataplane.host_engine import HostEngine
from dataplane.shaping.plan import ShapingPlan

SCHED_CLS: Final = 3
UDP: Final = 17
GO_ON: Final = b"\xb7\x00\x00\x00\xff\xff\xff\xff\x95\x00\x00\x00\x00\x00\x00\x00"
"""Two instructions: r0 = -1 (the next program); exit."""


class Session:
    """At most one engine at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._engine: HostEngine | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._held: list[Link] = []
        self._empty: tuple[Program, ...] = ()
        self.orders: dict[str, Callable[..., Any]] = {
            "start": self.start,
            "apply": self.apply,
            "stop": self.stop,
            "totals": self.totals,
            "measure_runs": self.measure_runs,
            "runs": self.runs,
            "forget_flows": self.forget_flows,
            "look_at_all": self.look_at_all,
        }

    async def start(self, name: str, plan: dict[str, Any], ticks: bool) -> list[str]:
        """What of it this engine cannot do."""
        engine = next(iter(makers(name, state_directory=self._directory).values()))()
        await engine.start(msgspec.convert(plan, ShapingPlan))
        self._engine = engine
        if ticks:
            self._ticking = asyncio.get_running_loop().create_task(self._tick(engine))
        return [f"{limit.ability}: {limit.cause}" for limit in engine.limits]

    async def _tick(self, engine: HostEngine) -> None:
        while True:
            await asyncio.sleep(1)
            await engine.on_second()

    async def apply(self, plan: dict[str, Any]) -> None:
        await self._running().apply(msgspec.convert(plan, ShapingPlan))

    async def stop(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking
            self._ticking = None
        for link in self._held:
            link.close()
        self._held.clear()
        if self._engine is not None:
            await self._engine.close()
            self._engine = None

    async def totals(self) -> dict[str, int]:
        """Bytes of each program in both directions, by its file's name; and "links", of all links."""
        engine = self._running()
        await engine.on_second()
        reading = await engine.read()
        found: Counter[str] = Counter()
        for meter in reading.programs:
            name = meter.program.executable.rpartition("/")[2] or str(meter.program.kind)
            found[name] += meter.sent.bytes + meter.received.bytes
        found["links"] = sum(link.sent.bytes + link.received.bytes for link in reading.links)
        return dict(found)

    # -- of the engine in the kernel only ----------------------------------------------------------------------------

    async def measure_runs(self, interface_index: int) -> None:
        """Run times are counted until the engine stops; beside each of our programs an empty one runs."""
        self._held.append(counting_run_time())
        self._empty = (_empty_program("leave"), _empty_program("arrive"))
        for program, kind in zip(self._empty, (AttachType.TCX_EGRESS, AttachType.TCX_INGRESS), strict=True):
            self._held.append(program.attach(interface_index, kind, where=str(interface_index)))

    async def runs(self) -> dict[str, tuple[int, int]]:
        """Runs and nanoseconds so far, ours and the empty ones'."""
        ours = [self._in_kernel()._object_or_fail().program(name) for name in ("on_leave", "on_arrive")]
        named = zip(("leave", "arrive", "empty_leave", "empty_arrive"), (*ours, *self._empty), strict=True)
        return {name: program.statistics() for name, program in named}

    async def forget_flows(self) -> None:
        flows = self._in_kernel()._maps["flows"]
        for key in [key for key, _ in flows.items()]:
            flows.delete(key)

    async def look_at_all(self, interface_index: int) -> dict[str, float]:
        """Every flow read once, one sweep, one reading: how long, how much memory, and whether counts add up."""
        engine = self._in_kernel()
        found: dict[str, float] = {"rss_before_bytes": _resident_bytes()}
        times = [time.perf_counter_ns()]
        flows = await engine.flows()
        times.append(time.perf_counter_ns())
        engine._sweep()
        times.append(time.perf_counter_ns())
        await engine.read()
        times.append(time.perf_counter_ns())
        for what, begun_ns, ended_ns in zip(("flows", "sweep", "read"), times, times[1:], strict=False):
            found[f"{what}_ms"] = (ended_ns - begun_ns) / 1e6
        raw = engine._maps["links"].lookup(layout.NUMBER.pack(interface_index))
        assert raw is not None
        link = layout.read_link(raw)
        found |= {
            "flows": len(flows),
            "udp_packets": sum(flow.sent.packets for flow in flows if flow.key.protocol == UDP),
            "flows_packets": sum(flow.sent.packets for flow in flows),
            "link_packets": link.sent.packets,
            "beyond_table": link.beyond_table,
            "maps_bytes": sum(_map_bytes().values()),
            "flow_map_bytes": max(_map_bytes().values()),
            "rss_after_bytes": _resident_bytes(),
        }
        return found

    def _in_kernel(self) -> EbpfEngine:
        engine = self._running()
        assert isinstance(engine, EbpfEngine)
        return engine

    def _running(self) -> HostEngine:
        assert self._engine is not None, "no engine is started"
        return self._engine


def _empty_program(name: str) -> Program:
    instructions = ctypes.create_string_buffer(GO_ON, len(GO_ON))
    descriptor = library().bpf_prog_load(
        SCHED_CLS, name.encode(), b"GPL", instructions, ctypes.c_size_t(len(GO_ON) // 8), None
    )
    assert descriptor >= 0, "the kernel refuses an empty program"
    return Program(descriptor, name)


def _resident_bytes() -> int:
    words = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(words[1]) * 4096


def _map_bytes() -> dict[int, int]:
    """Memory of every eBPF map of this process, by the map's number, as the kernel says it."""
    found = {}
    for path in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            fields = dict(line.split(":", 1) for line in path.read_text(encoding="ascii").splitlines() if ":" in line)
            if "map_id" in fields:
                found[int(fields["map_id"])] = int(fields["memlock"])
    return found


async def serve(directory: Path) -> None:
    session = Session(directory)
    print("ready", flush=True)
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            answer = await session.orders[order.pop("order")](**order)
            print(json.dumps(answer), flush=True)
    finally:
        await session.stop()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
