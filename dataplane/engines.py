"""How each engine is made, the best first. An engine's modules are loaded only when it is tried.

Decides: the order. Refuses to know: which of them works here: `start` tells.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from dataplane.host_engine import EngineName, HostEngine
from dataplane.metering import FlowKey, Program

TRAFFIC_CONTROL_RECORD = "traffic-control.json"
ECN_RECORD = "ecn.json"
SHAPING_RECORD = "shaping-rules.json"
"""In the state directory, beside the record of what the packet reader needs; `hostagent restore` undoes them all."""


def makers(wanted: str, *, state_directory: Path) -> dict[EngineName, Callable[[], HostEngine]]:
    """All of them for "auto", else the one that is named."""
    made: dict[EngineName, Callable[[], HostEngine]] = {
        EngineName.EBPF: lambda: _make_ebpf(state_directory),
        EngineName.NFQUEUE: lambda: _make_nfqueue(state_directory),
        EngineName.SOCKETS: _make_sockets,
    }
    return made if wanted == "auto" else {EngineName(wanted): made[EngineName(wanted)]}


def _make_ebpf(state_directory: Path) -> HostEngine:
    from dataplane.ebpf_engine import EbpfEngine
    from dataplane.shaping.trafficcontrol import TrafficControl

    control = TrafficControl(state_directory / TRAFFIC_CONTROL_RECORD)
    return EbpfEngine(control=control, ecn_record_path=state_directory / ECN_RECORD, now_ns=time.monotonic_ns)


def _make_nfqueue(state_directory: Path) -> HostEngine:
    from dataplane.attribution.processes import Processes
    from dataplane.attribution.socket_owners import SocketOwners
    from dataplane.nfqueue_engine import NfqueueEngine

    owners: list[SocketOwners] = []

    async def owner_of(key: FlowKey) -> Program | None:
        if not owners:  # when the first packet is there: the engine may not work here at all
            owners.append(SocketOwners(Processes()))
        return await asyncio.to_thread(owners[0].owner_of, key)

    def close_owners() -> None:
        while owners:
            owners.pop().close()

    return NfqueueEngine(state_directory, owner_of, close_owners=close_owners)


def _make_sockets() -> HostEngine:
    from dataplane.sockets_engine import SocketsEngine

    return SocketsEngine()
