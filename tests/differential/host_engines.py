"""Two of the host's engines: its packet core alone, and the same behind the real code of the NFQUEUE engine."""

from __future__ import annotations

from typing import Any

import msgspec
from differential.events import Books, Order
from differential.gateway_engines import CoreEngine, NfqueueEngine, in_memory
from differential.harness import decoded

from dataplane.counters import CounterFile
from hostagent.payments.commands import AskFlows
from hostagent.payments.datapath import HostCore
from hostagent.payments.flowtable import IDLE_NS, FlowRecord, FlowTable
from hostagent.payments.plan import OUTPUT_QUEUE, HostPlan


def flows_by_name(answer: Any) -> Any:
    """Reports of flows in the order of their names: which flow changed last is not a promise."""
    if isinstance(answer, dict) and "flows" in answer:
        return {"type": answer["type"], "turn": answer["turn"], "flows": sorted(answer["flows"], key=str)}
    return answer


def host_books(counters: dict[str, int], events: list[Any], flows: Any) -> Books:
    found: Books = {name: value for name, value in counters.items() if value and not name.startswith("dataplane.")}
    for event in sorted(events, key=str):
        found.setdefault(f"event {event['type']}", []).append(event)
    for flow in flows["flows"]:
        found[f"flow {flow[0]}"] = flow
    return found


class HostBooks:
    """What both engines tell of themselves."""

    core: Any
    _counters: CounterFile
    _unix_s: int

    _turn = 0

    def order(self, order: Order) -> Any:
        self._unix_s = order.unix_s
        answer = flows_by_name(super().order(order))  # type: ignore[misc]
        if "turn" in answer:
            self._turn = answer["turn"]
        return answer

    def look(self, at_ns: int) -> Books:
        self._counters.begin(0)
        self._counters.commit()
        return self._books(self._counters.snapshot(), at_ns)

    def _books(self, counters: dict[str, int], at_ns: int) -> Books:
        events = [decoded(event) for event in self.core.take_events()]
        question = msgspec.json.encode(AskFlows(since_turn=self._turn))
        flows = decoded(self.core.on_message(question, at_ns, self._unix_s))
        self._turn = flows["turn"]
        return host_books(counters, events, flows)


class HostCoreEngine(HostBooks, CoreEngine):
    """A packet core, one packet at a time."""


class HostNfqueueEngine(HostBooks, NfqueueEngine):
    """A packet core between kernel messages."""


class PunctualFlows(FlowTable):
    """The core's table keeps flows in the order of the turns in which they changed, so an idle one may be forgotten a
    turn too late, behind one that was used later in the same turn. The kernel's programs have no such order.
    """

    def forget_idle(self, now_ns: int) -> list[FlowRecord]:
        idle = [key for key, record in self._flows.items() if now_ns - record.last_ns >= IDLE_NS]
        return [self._flows.pop(key) for key in idle]


def host_core(plan: HostPlan, *, punctual: bool = False) -> HostCoreEngine:
    """`punctual`: forgets idle flows when it is time."""
    counters = in_memory()
    core = HostCore(plan, counters)
    if punctual:
        core.flows = PunctualFlows()
    return HostCoreEngine(core, counters, leaving_queue=OUTPUT_QUEUE)


def host_nfqueue(plan: HostPlan, counters: CounterFile) -> HostNfqueueEngine:
    return HostNfqueueEngine(HostCore(plan, counters), counters, leaving_queue=OUTPUT_QUEUE)
