"""Two of the gateway's engines: its packet core alone, and the same behind the real code of the NFQUEUE engine.

Nothing waits in these cores' queues: `OpenScheduler` stands in for the real one, so that every packet's fate is decided
when it arrives. Whether packets wait is not what is compared here.
"""

from __future__ import annotations

import struct
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from differential.events import CLASS_LOOKED_AT, DROPPED, Arrival, Books, Order, Outcome
from differential.harness import Chance, decoded

from billpay.tolls import CLASS_UNPAID
from dataplane.counters import CounterFile
from dataplane.nfqueue import NfqueueSocket
from dataplane.port import ACCEPT_BIT, Action, Packet, PacketCore, Verdict
from gateway.commands import AskReport
from gateway.datapath import GatewayCore
from gateway.plan import GatewayPlan, Queueing

ASK_REPORT = msgspec.json.encode(AskReport())


class OpenScheduler:
    """A queue in which nothing ever waits."""

    backlog_bytes = backlog_packets = 0

    def passes_at_once(self, _size_bytes: int, _now_ns: int) -> bool:
        return True

    def release(self, _now_ns: int) -> list[Any]:
        return []

    def drain(self) -> list[Any]:
        return []

    def next_deadline_ns(self) -> None:
        return None


class WatchedCore(GatewayCore):
    """Says in which class the last packet left, -1 if its link has no queue."""

    service_class = -1

    def _leave(self, packet: Any, alternative: Any, egress: Any, *rest: Any) -> None:
        if egress.scheduler is not None:
            self.service_class = CLASS_UNPAID if egress.plan.queueing is Queueing.FIFO else rest[3]
        super()._leave(packet, alternative, egress, *rest)


def gateway_core(plan: GatewayPlan, counters: CounterFile, chance: Chance) -> WatchedCore:
    core = WatchedCore(plan, counters, chance)
    for link in core.links.values():
        if link.scheduler is not None:
            link.scheduler = OpenScheduler()  # type: ignore[assignment]
    return core


class CoreEngine:
    """A packet core, one packet at a time."""

    name = "core"

    def __init__(self, core: PacketCore, counters: CounterFile, *, leaving_queue: int = 1) -> None:
        self.core = core
        self._counters = counters
        self._leaving_queue = leaving_queue
        self._alarms: Counter[str] = Counter()
        self._unix_s = 0

    def close(self) -> None:
        self._counters.close()

    def advance(self, at_ns: int) -> None:
        due_ns = self.core.next_deadline_ns()
        if due_ns is not None and at_ns >= due_ns:
            assert not self.core.on_timer(at_ns)

    def arrive(self, batch: Sequence[Arrival]) -> list[Outcome]:
        at_ns = batch[0].at_ns
        self.advance(at_ns)
        outcomes = []
        for number, arrival in enumerate(batch, start=1):
            queue = self._leaving_queue if arrival.leaving else self._leaving_queue + 1
            packet = Packet(
                number, queue, arrival.interface, arrival.mark, arrival.payload, False, arrival.segment_bytes
            )
            (verdict,) = self.core.on_batch([packet], at_ns)
            assert isinstance(verdict, Verdict)
            outcomes.append(outcome_of(verdict, arrival.payload))
        return outcomes

    def order(self, order: Order) -> Any:
        self.advance(order.at_ns)
        self._unix_s = max(self._unix_s, order.unix_s)
        return decoded(self.core.on_message(order.body, order.at_ns, order.unix_s))

    def look(self, at_ns: int) -> Books:
        self.advance(at_ns)
        self._counters.begin(0)
        self._counters.commit()
        self.core.on_message(ASK_REPORT, at_ns, self._unix_s)  # alarms are told by the time of the last message
        return books(self._counters.snapshot(), self._told(), self._report(at_ns))

    def _report(self, at_ns: int) -> Any:
        return decoded(self.core.on_message(ASK_REPORT, at_ns, self._unix_s))

    def _told(self) -> Counter[str]:
        for event in self.core.take_events():
            alarm = decoded(event)
            self._alarms[f"event {alarm['kind']} {alarm['link']}"] += alarm["count"]
        return self._alarms


class WatchedCoreEngine(CoreEngine):
    """Shows service classes."""

    core: WatchedCore
    _packets = 0

    def arrive(self, batch: Sequence[Arrival]) -> list[Outcome]:
        outcomes = []
        for arrival in batch:
            self.core.service_class = -1
            (outcome,) = super().arrive([arrival])
            self._packets += 1
            if self._packets % CLASS_LOOKED_AT == 0:
                outcome = outcome._replace(service_class=self.core.service_class)
            outcomes.append(outcome)
        return outcomes


def outcome_of(verdict: Verdict, payload: bytes) -> Outcome:
    if not verdict.accept:
        return DROPPED
    return Outcome(True, verdict.mark, payload if verdict.payload is None else verdict.payload)


def books(counters: dict[str, int], alarms: Counter[str], report: Any) -> Books:
    """Zeros are left out, and what engines count of themselves."""
    found: Books = {name: value for name, value in counters.items() if value and not name.startswith("dataplane.")}
    found["report"] = report
    return found | dict(alarms)


# --- the NFQUEUE engine ----------------------------------------------------------------------------------------------

MSG_PACKET, MSG_VERDICT = 0x300, 0x301
HEADER, MARK, INDEV, OUTDEV, PAYLOAD, SKB_INFO = 1, 3, 5, 6, 10, 14
VERDICT_HEADER = 2
NF_DROP, NF_ACCEPT = 0, 1


class SilentSocket(NfqueueSocket):
    """The engine's own code without a kernel behind it: what it would send is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self._send = self._keep

    def _keep(self, data: Any, _flags: int = 0) -> int:
        self.sent.append(bytes(data))
        return len(self.sent[-1])

    def parsed(self, message: bytes) -> list[Packet]:
        packets: list[Packet] = []
        self._parse(message, 0, len(message), packets)
        return packets


class NfqueueEngine(CoreEngine):
    """A packet core between kernel messages, with the counters of each batch made durable as the reader does it."""

    name = "nfqueue"

    def __init__(self, core: PacketCore, counters: CounterFile, *, leaving_queue: int = 1) -> None:
        super().__init__(core, counters, leaving_queue=leaving_queue)
        self._socket = SilentSocket()

    def close(self) -> None:
        self._socket.close()
        super().close()

    def arrive(self, batch: Sequence[Arrival]) -> list[Outcome]:
        at_ns = batch[0].at_ns
        self.advance(at_ns)
        packets: list[Packet] = []
        for number, arrival in enumerate(batch, start=1):
            packets += self._socket.parsed(self._message(number, arrival))
        actions: Sequence[Action] = self.core.on_batch(packets, at_ns)
        made = self._socket.build(actions)
        self._counters.begin(made.accepts)
        self._socket.sent.clear()
        self._socket.send(made)
        self._counters.commit()
        verdicts = _verdicts(b"".join(self._socket.sent))
        assert len(verdicts) == len(batch) == made.accepts + made.drops
        return [_without_bit(verdicts[number], arrival.payload) for number, arrival in enumerate(batch, start=1)]

    def _message(self, number: int, arrival: Arrival) -> bytes:
        """As nfnetlink_queue writes it: what is zero is not said."""
        queue = self._leaving_queue if arrival.leaving else self._leaving_queue + 1
        version = 10 if arrival.payload[:1] >= b"\x60" else 2
        parts = [
            struct.pack("!BBH", version, 0, queue),
            _attribute(HEADER, struct.pack("!IHB", number, 0x86DD if version == 10 else 0x800, 0)),
            _attribute(OUTDEV if arrival.leaving else INDEV, struct.pack("!I", arrival.interface)),
        ]
        if arrival.mark or number & 1:
            parts.append(_attribute(MARK, struct.pack("!I", arrival.mark | (ACCEPT_BIT if number & 2 else 0))))
        if number & 4:
            parts.append(_attribute(SKB_INFO, struct.pack("!I", 0)))
        parts.append(_attribute(PAYLOAD, arrival.payload))
        body = b"".join(parts)
        return struct.pack("=IHHII", 16 + len(body), MSG_PACKET, 0, 0, 0) + body


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) & 3)


def _verdicts(messages: bytes) -> dict[int, Outcome]:
    """By packet id; the payload is b"" where the packet goes on as it is."""
    found: dict[int, Outcome] = {}
    at = 0
    while at < len(messages):
        length, kind = struct.unpack_from("=IH", messages, at)
        assert kind == MSG_VERDICT
        inner, end = at + 20, at + length
        verdict = number = mark = 0
        payload = b""
        while inner + 4 <= end:
            size, attribute = struct.unpack_from("=HH", messages, inner)
            data = messages[inner + 4 : inner + size]
            if attribute == VERDICT_HEADER:
                verdict, number = struct.unpack("!II", data)
            elif attribute == MARK:
                (mark,) = struct.unpack("!I", data)
            elif attribute == PAYLOAD:
                payload = data
            inner += size + 3 & ~3
        assert number not in found, "one verdict for each packet"
        found[number] = Outcome(verdict == NF_ACCEPT, mark, payload)
        at += length + 3 & ~3
    return found


def _without_bit(outcome: Outcome, payload: bytes) -> Outcome:
    """As the kernel's counting rule leaves it: without the bit that the engine set."""
    if not outcome.accept:
        return DROPPED
    assert outcome.mark & ACCEPT_BIT
    return Outcome(True, outcome.mark & ~ACCEPT_BIT, outcome.payload or payload)


def counter_file() -> CounterFile:
    """A real one, whose name is gone at once."""
    with tempfile.TemporaryDirectory() as directory:
        return CounterFile.open(Path(directory) / "counters")


def in_memory() -> CounterFile:
    return CounterFile.in_memory(capacity=8192)
