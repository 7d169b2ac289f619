"""The shaping core: counts by flow and program, asks whose a flow is, delays or drops what its class may not send now.

Decides: which packets wait for a name, for an answer, or for their turn, and how long. Refuses to know: how a program
is found (the main process is asked), what a class is worth, kernels. Pure: time is an argument, and what the machine
says of an interface index is asked of a callable. Sources: ARCHITECTURE (data plane); `dataplane.shaping.pipe` for the
order of service; `dataplane.shaping.matching` for classes.

- A flow's first packets wait for its name, `NAME_WAIT_NS` at most: a program that closes its socket at once could not
  be found afterwards. Where no rule asks for the program this is for the counts alone: then control traffic does not
  wait, nor what no socket sends, nor anything when `HELD_FOR_COUNTS_MAX` packets wait already.
- `inner` is a core that pays. What leaves is shaped before it, so that a payment is for a packet that goes; what
  arrives goes through it first, so that a payment that came is taken even if the packet is dropped here.
- Sent is counted when a packet goes, without what `inner` adds to it; received is counted when it arrives, also if it
  is dropped afterwards: the link has carried it.
- Too much waiting: see `dataplane.shaping.pipe` for classes. A nameless flow for which no room is left goes on by the
  rules that need no program; one that waits for an answer loses what comes beyond its room.
- A flow may have a pace of its own, and somebody who answers its congestion marks: `dataplane.shaping.marks`. What is
  rewritten when it leaves is rewritten before it is counted, and before `inner`.
- Order within a flow and direction is kept, also when its class changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, assert_never

import msgspec

from billpay.packet import TCP, UDP, flow_key
from billpay.packet import FlowKey as Ends
from dataplane.host_engine import PacedFlow, Question
from dataplane.metering import UNATTRIBUTED, FlowKey, Program
from dataplane.port import Action, Counters, Packet, PacketCore, Verdict
from dataplane.shaping.flowtable import (
    FLOWS_MAX,
    NOT_YET,
    Flow,
    FlowTable,
    Held,
    Interface,
    Item,
    Link,
    Permission,
    State,
    is_opened_by_remote,
    wire_size,
)
from dataplane.shaping.marks import make_capable
from dataplane.shaping.matching import Matcher
from dataplane.shaping.messages import (
    FLOWS_IN_PAGE,
    Answer,
    Asked,
    AskFlows,
    AskMeters,
    Attribute,
    Command,
    Done,
    Event,
    FlowsPage,
    Meters,
    NewFlow,
    Refused,
    Reply,
    SetPaced,
    SetPlan,
    Settled,
    Tick,
    decode_command,
    encode,
    is_ours,
)
from dataplane.shaping.pipe import FlowQueue, Pipe
from dataplane.shaping.plan import CONTROL, DEFAULT, ShapingPlan
from dataplane.shaping.rewriting import Rewritten, without_echo

OUT_QUEUE: Final = 7418
IN_QUEUE: Final = 7419
QUEUE_LENGTH: Final = 4096
"""Of each NFQUEUE. What it has no room for passes unshaped, so what we hold stays well below."""

PIPE_PACKETS_MAX: Final = 2048
"""Packets that wait for their turn in one direction, over all links."""

NAME_WAIT_NS: Final = 300_000_000
ANSWER_WAIT_NS: Final = 30_000_000_000
DENIED_IDLE_NS: Final = 60_000_000_000
QUESTIONS_MAX: Final = 64
HELD_MAX: Final = 1024
"""Packets that wait for a name or an answer, over all flows."""

HELD_FOR_COUNTS_MAX: Final = 128
HELD_IN_FLOW_MAX: Final = 32
EVENTS_MAX: Final = 1024
LOOK_AGAIN_NS: Final = 10_000_000_000
"""A flow's owner is asked for again: sockets change hands."""

LOOK_AGAIN_NAMELESS_NS: Final = 1_000_000_000
LOOKS_IN_SECOND: Final = 32

_new = tuple.__new__


class ShapingCore:
    """A `PacketCore` (dataplane.port). `allow_unanswered`: what becomes of a flow whose question times out."""

    def __init__(
        self,
        plan: ShapingPlan,
        inner: PacketCore | None,
        counters: Counters,
        *,
        interface_of: Callable[[int], Interface | None],
        out_queue: int = OUT_QUEUE,
        allow_unanswered: bool = True,
        flows_max: int = FLOWS_MAX,
    ) -> None:
        self._inner = inner
        self._counters = counters
        self._interface_of = interface_of
        self._out_queue = out_queue
        self._allow_unanswered = allow_unanswered
        self._table = FlowTable(counters, flows_max)
        self._links: dict[int, Link | None] = {}
        self._pipes: dict[tuple[str, bool], Pipe[Item]] = {}
        self._busy: list[Pipe[Item]] = []
        self._nameless: deque[tuple[int, Flow]] = deque()
        self._questions: dict[int, tuple[int, Flow]] = {}
        self._resumed: list[Flow] = []  # open again, and their packets wait for the next call that may answer
        self._paced: dict[FlowKey, PacedFlow] = {}
        self._accurate: frozenset[FlowKey] = frozenset()
        self._rewritten = Rewritten(out_queue)
        self._held = 0
        self._looks = LOOKS_IN_SECOND
        self._draining = False
        self._listing: list[Flow] = []
        self._events: list[Event] = []
        self._actions: list[Action] = []  # of the call that runs
        self._leaving: list[Packet] = []  # packets of this call that go on to `inner`
        self._touched: list[Flow] = []
        self._asked = counters.index("shaping.questions")
        self._unasked = counters.index("shaping.questions_without_room")
        self._unnamed = counters.index("shaping.flows_without_name")
        self._overflow = counters.index("shaping.dropped_overflow")
        self._denied = counters.index("shaping.dropped_denied")
        self._adopt(plan, 0)

    # -- packets -----------------------------------------------------------------------------------------------------

    def on_batch(self, batch: list[Packet], now_ns: int) -> Sequence[Action]:
        if self._resumed:
            self._resume(now_ns)
        verdicts = self._through_inner(batch, now_ns) if self._inner is not None else None
        links, out_queue, actions, touched = self._links, self._out_queue, self._actions, self._touched
        for packet in batch:
            packet_id, queue, index, mark, payload, _, _ = packet
            leaving = queue == out_queue
            item: Item = packet
            if not leaving:
                if verdicts is None:
                    item = _new(Verdict, (packet_id, queue, True, mark, None))
                else:
                    arrived = verdicts.get(packet_id)
                    if arrived is None:
                        continue
                    item = arrived
            link = links[index] if index in links else self._new_link(index)
            if link is None:
                self._pass(leaving, item)
                continue
            ends = flow_key(payload)
            found = (link.leaving if leaving else link.arriving).get(ends) if ends is not None else link.stray
            flow = found or self._new_flow(link, ends, packet, leaving, now_ns)
            flow.last_ns = now_ns
            if not flow.touched:
                flow.touched = True
                touched.append(flow)
            packets, size = (1, len(payload)) if len(payload) <= link.mtu else wire_size(payload, link.mtu)
            if not leaving:
                self._count_received(flow, payload, packets, size)
                if flow.hides_marks:
                    item = without_echo(packet, item)
            if flow.ask_ns <= now_ns:
                self._look_again(flow, now_ns)
            if flow.state:
                self._hold(flow, Held(leaving, size, item), now_ns)
                continue
            flow_queue = flow.out_queue if leaving else flow.in_queue
            if flow_queue is not None:
                self._shape(flow_queue, size, item, now_ns)
            elif not leaving:
                actions.append(item)  # type: ignore[arg-type]  # a Verdict
            else:
                self._leave(flow, packet, packets, size)
        return self._finish(now_ns)

    def _through_inner(self, batch: list[Packet], now_ns: int) -> dict[int, Verdict]:
        """What arrived, decided by the paying core; what that drops or adds goes at once."""
        assert self._inner is not None
        arrived = [packet for packet in batch if packet.queue != self._out_queue]
        verdicts: dict[int, Verdict] = {}
        for action in self._inner.on_batch(arrived, now_ns) if arrived else ():
            if isinstance(action, Verdict) and action.accept and action.queue != self._out_queue:
                verdicts[action.packet_id] = action
            else:
                self._actions.append(action)
        return verdicts

    def _count_received(self, flow: Flow, payload: bytes, packets: int, size: int) -> None:
        flow.received_packets += packets
        flow.received_bytes += size
        first = payload[0] if payload else 0
        mark = (payload[1] if first < 0x60 else payload[1] >> 4) & 3 if len(payload) > 1 else 0
        if mark:
            if mark == 3:
                flow.received_ce += packets
            else:
                flow.received_ect += packets

    def _leave(self, flow: Flow, packet: Packet, packets: int, size: int) -> None:
        """A packet goes: counted, and on to `inner` where there is one."""
        flow.sent_packets += packets
        flow.sent_bytes += size
        payload = packet[4]
        mark = (payload[1] if payload[0] < 0x60 else payload[1] >> 4) & 3 if len(payload) > 1 else 0
        if mark:
            if mark == 3:
                flow.sent_ce += packets
            else:
                flow.sent_ect += packets
        elif flow.answers_marks and (changed := make_capable(payload)) is not None:
            flow.sent_ect += packets
            if self._inner is None:
                self._actions.append(Verdict(packet.packet_id, packet.queue, True, packet.mark, changed))
            else:
                self._leaving.append(self._rewritten.hand_on(packet, changed))
            return
        if self._inner is None:
            self._actions.append(_new(Verdict, (packet[0], packet[1], True, packet[3], None)))
        else:
            self._leaving.append(packet)

    def _pass(self, leaving: bool, item: Item) -> None:
        """Goes on uncounted: its interface is none of ours."""
        if not isinstance(item, Packet):
            self._actions.append(item)
        elif leaving and self._inner is not None:
            self._leaving.append(item)
        else:
            self._actions.append(Verdict(item.packet_id, item.queue, True, item.mark))

    def _shape(self, flow_queue: FlowQueue[Item], size: int, item: Item, now_ns: int) -> None:
        class_queue = flow_queue.class_queue
        if self._draining or (not flow_queue.packets and class_queue.passes_at_once(flow_queue, size, now_ns)):
            self._let_go(flow_queue, item)
            return
        pipe = class_queue.pipe
        if pipe not in self._busy:
            self._busy.append(pipe)
        for dropped in pipe.offer(flow_queue, size, item, now_ns):
            self._counters.add(self._overflow, 1)
            self._drop(dropped.item)

    def _let_go(self, flow_queue: FlowQueue[Item], item: Item) -> None:
        """One that had its turn."""
        if isinstance(item, Packet):
            flow = _flow_of(flow_queue)
            self._touch(flow)
            self._leave(flow, item, *wire_size(item.payload, flow.link.mtu))
        else:
            self._actions.append(item)

    def _touch(self, flow: Flow) -> None:
        if not flow.touched:
            flow.touched = True
            self._touched.append(flow)

    def _drop(self, item: Item) -> None:
        self._actions.append(Verdict(item.packet_id, item.queue, False, item.mark))

    def _finish(self, now_ns: int) -> Sequence[Action]:
        """Serves the links, hands what leaves to `inner`, and counts."""
        if self._busy:
            self._serve(now_ns)
        if self._leaving:
            assert self._inner is not None
            self._actions += self._rewritten.of_inner(self._inner.on_batch(self._leaving, now_ns))
            self._leaving = []
        if self._touched:
            self._table.touch(self._touched)
            self._touched.clear()
        actions, self._actions = self._actions, []
        return actions

    def _serve(self, now_ns: int) -> None:
        for pipe in self._busy:
            if pipe.deadline_ns <= now_ns:
                for flow_queue, _, item in pipe.release(now_ns):
                    self._let_go(flow_queue, item)
        self._busy = [pipe for pipe in self._busy if pipe.backlog_packets]

    # -- flows -------------------------------------------------------------------------------------------------------

    def _new_flow(self, link: Link, ends: Ends | None, packet: Packet, leaving: bool, now_ns: int) -> Flow:
        if ends is None:
            return link.stray
        own = ends if leaving else ends.reversed()
        inbound = is_opened_by_remote(packet.payload, own, leaving=leaving)
        flow = self._table.add(link, own, packet.interface_index, inbound=inbound, now_ns=now_ns)
        if flow is None:
            self._counters.add(self._table.beyond, 1)
            return link.stray
        flow.ask_ns = now_ns + LOOK_AGAIN_NS
        if self._paced:
            self._set_pace(flow, now_ns)
        if len(self._events) < EVENTS_MAX:
            self._events.append(NewFlow(key=flow.key))
            self._nameless.append((now_ns + NAME_WAIT_NS, flow))
            self._judge(flow, now_ns)
        else:
            self._go_nameless(flow, now_ns)
        return flow

    def _go_nameless(self, flow: Flow, now_ns: int) -> None:
        """Nobody waits for its name any more; when that comes, it holds from then on."""
        if flow.number == NOT_YET:
            self._counters.add(self._unnamed, 1)
            self._table.settle(flow, 0)
            flow.program = flow.program or UNATTRIBUTED
            flow.ask_ns = min(flow.ask_ns, now_ns + LOOK_AGAIN_NAMELESS_NS)
            self._judge(flow, now_ns)

    def _look_again(self, flow: Flow, now_ns: int) -> None:
        """Its class, after another plan; its owner, now and then."""
        if flow is flow.link.stray:
            flow.ask_ns = now_ns + LOOK_AGAIN_NS
            return
        is_new_plan = flow.ask_ns == 0
        flow.ask_ns = now_ns + LOOK_AGAIN_NS
        if is_new_plan:
            self._judge(flow, now_ns)
            if self._resumed:
                self._resume(now_ns)
        elif self._looks and len(self._events) < EVENTS_MAX:
            self._looks -= 1
            self._events.append(NewFlow(key=flow.key))

    def _judge(self, flow: Flow, now_ns: int) -> None:
        """Finds its class, and what it may do in it."""
        found = self._class_of(flow)
        if found is None and (self._draining or self._held >= HELD_MAX):
            self._go_nameless(flow, now_ns)
            return
        if found is None or (flow.number == NOT_YET and self._is_worth_waiting(flow, found)):
            flow.state = State.NAMELESS
            return
        flow.traffic_class = found
        if self._plan.classes[found].ask_first and flow.permission is not Permission.ALLOWED:
            self._ask_first(flow, now_ns)
        else:
            self._withdraw(flow)
            self._open(flow)

    def _is_worth_waiting(self, flow: Flow, traffic_class: int) -> bool:
        """For the counts alone: the class is the same whosever the flow is."""
        if self._draining or self._held >= HELD_FOR_COUNTS_MAX:
            return False
        return traffic_class != CONTROL and flow.leaving_ends.protocol in (TCP, UDP)

    def _class_of(self, flow: Flow) -> int | None:
        """None: it depends on whose it is."""
        ends = flow.leaving_ends
        facts = (ends.protocol, ends.source_port, ends.destination, ends.destination_port, flow.inbound)
        if flow.program is None:
            return self._matcher.class_of_anyone(*facts)
        return self._matcher.class_of(flow.program, *facts)

    def _open(self, flow: Flow) -> None:
        """Its packets go to their class from now on; those that waited elsewhere go before all others."""
        flow.state = State.OPEN
        flow.out_queue = self._moved(flow, flow.out_queue, flow.link.outgoing)
        flow.in_queue = self._moved(flow, flow.in_queue, flow.link.incoming)
        if flow.held:
            self._resumed.append(flow)

    def _moved(self, flow: Flow, flow_queue: FlowQueue[Item] | None, pipe: Pipe[Item]) -> FlowQueue[Item] | None:
        """The flow's queue in its class; None when nothing limits that."""
        pace, room = (flow.pace_bit_s, flow.room_bytes) if pipe is flow.link.outgoing else (0, 0)
        path = pipe.path(flow.traffic_class, paced=pace > 0)
        if flow_queue is None:
            if path is None:
                return None
            made: FlowQueue[Item] = FlowQueue(flow, path)
            made.enter(path, pace, room)
            return made
        if flow_queue.class_queue is path:
            return flow_queue
        waiting = flow_queue.class_queue.detach(flow_queue)
        flow.held[:0] = [Held(isinstance(item, Packet), size, item) for size, item in waiting]
        self._held += len(waiting)
        if path is None:
            return None
        flow_queue.enter(path, pace, room)
        return flow_queue

    # -- held packets ------------------------------------------------------------------------------------------------

    def _hold(self, flow: Flow, held: Held, now_ns: int) -> None:
        if flow.state is State.DENIED:
            if now_ns - flow.quiet_ns < DENIED_IDLE_NS:
                flow.quiet_ns = now_ns
                self._counters.add(self._denied, 1)
                self._drop(held.item)
                return
            flow.permission = Permission.NONE
            self._judge(flow, now_ns)
        has_room = self._held < HELD_MAX and len(flow.held) < HELD_IN_FLOW_MAX
        if flow.state is State.NAMELESS and not has_room:
            self._go_nameless(flow, now_ns)
        if flow.state is State.ASKED and not has_room:
            self._counters.add(self._overflow, 1)
            self._drop(held.item)
            return
        if flow.state is State.DENIED:
            self._drop(held.item)
            return
        flow.held.append(held)
        self._held += 1
        if flow.state is State.OPEN:
            self._resumed.append(flow)
            self._resume(now_ns)

    def _resume(self, now_ns: int) -> None:
        """Packets of flows that are open, or denied, by now."""
        resumed, self._resumed = self._resumed, []
        for flow in resumed:
            if flow.state in (State.NAMELESS, State.ASKED):
                continue  # by another plan they wait again
            held, flow.held = flow.held, []
            self._held -= len(held)
            for leaving, size, item in held:
                flow_queue = flow.out_queue if leaving else flow.in_queue
                if flow.state is State.DENIED:
                    self._counters.add(self._denied, 1)
                    self._drop(item)
                elif flow_queue is not None:
                    self._shape(flow_queue, size, item, now_ns)
                elif isinstance(item, Packet):
                    self._leave(flow, item, *wire_size(item.payload, flow.link.mtu))
                else:
                    self._actions.append(item)
            self._touch(flow)

    # -- questions ---------------------------------------------------------------------------------------------------

    def _ask_first(self, flow: Flow, now_ns: int) -> None:
        if flow.permission is Permission.DENIED:
            flow.state = State.DENIED
        elif self._draining:
            self._open(flow)
        elif flow.question:
            flow.state = State.ASKED
        elif len(self._questions) >= QUESTIONS_MAX:
            self._counters.add(self._unasked, 1)
            self._decide(flow, self._allow_unanswered, now_ns)
        else:
            self._counters.add(self._asked, 1)
            flow.question = number = self._counters.value(self._asked)
            flow.state = State.ASKED
            expires_ns = now_ns + ANSWER_WAIT_NS
            self._questions[number] = (expires_ns, flow)
            question = Question(
                number=number,
                key=flow.key,
                program=flow.program or UNATTRIBUTED,
                traffic_class=flow.traffic_class,
                expires_ns=expires_ns,
            )
            self._events.append(Asked(question=question))

    def _decide(self, flow: Flow, allow: bool, now_ns: int) -> None:
        flow.permission = Permission.ALLOWED if allow else Permission.DENIED
        if allow:
            self._open(flow)
            return
        flow.state = State.DENIED
        flow.quiet_ns = now_ns
        if flow.held:
            self._resumed.append(flow)

    def _answer(self, number: int, allow: bool, now_ns: int) -> None:
        asked = self._questions.get(number)
        if asked is not None:
            self._withdraw(asked[1])
            self._decide(asked[1], allow, now_ns)

    def _withdraw(self, flow: Flow) -> None:
        """Its question, if there is one, needs no answer any more."""
        if flow.question:
            self._questions.pop(flow.question, None)
            self._events.append(Settled(number=flow.question))
            flow.question = 0

    # -- time --------------------------------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        inner_ns = self._inner.next_deadline_ns() if self._inner is not None else None
        if not (self._busy or self._nameless or self._questions or self._resumed or self._actions):
            return inner_ns
        deadlines = [pipe.deadline_ns for pipe in self._busy]
        if inner_ns is not None:
            deadlines.append(inner_ns)
        if self._nameless:
            deadlines.append(self._nameless[0][0])
        if self._questions:
            deadlines.append(next(iter(self._questions.values()))[0])  # they expire in the order of their numbers
        if self._resumed or self._actions:  # of a command, which cannot answer packets
            deadlines.append(0)
        return min(deadlines)

    def on_timer(self, now_ns: int) -> Sequence[Action]:
        self._expire(now_ns)
        if self._resumed:
            self._resume(now_ns)
        if self._inner is not None:
            due_ns = self._inner.next_deadline_ns()
            if due_ns is not None and due_ns <= now_ns:
                self._actions += self._rewritten.of_inner(self._inner.on_timer(now_ns))
        return self._finish(now_ns)

    def _expire(self, now_ns: int) -> None:
        while self._nameless and self._nameless[0][0] <= now_ns:
            self._go_nameless(self._nameless.popleft()[1], now_ns)
        for number, (expires_ns, _) in list(self._questions.items()):
            if expires_ns > now_ns:
                break
            self._answer(number, self._allow_unanswered, now_ns)

    def on_drain(self, now_ns: int) -> Sequence[Action]:
        """Everything goes: what waits for a name or an answer too, as it would if nobody answered."""
        self._draining = True
        while self._nameless:
            self._go_nameless(self._nameless.popleft()[1], now_ns)
        for number in list(self._questions):
            self._answer(number, self._allow_unanswered, now_ns)
        for pipe in self._busy:
            for flow_queue, _, item in pipe.drain():
                self._let_go(flow_queue, item)
        self._busy = []
        self._resume(now_ns)
        actions = list(self._finish(now_ns))
        if self._inner is not None:
            actions += self._rewritten.of_inner(self._inner.on_drain(now_ns))
        return actions

    # -- plan and links ----------------------------------------------------------------------------------------------

    def _adopt(self, plan: ShapingPlan, now_ns: int) -> None:
        """Another plan: what waits is judged and queued anew at once, other flows with their next packet."""
        self._matcher = Matcher(plan)  # raises before anything has changed
        self._plan = plan
        waiting: dict[Flow, list[Held]] = {}
        for pipe in self._busy:
            for flow_queue, size, item in pipe.drain():
                waiting.setdefault(_flow_of(flow_queue), []).append(Held(isinstance(item, Packet), size, item))
        self._busy = []
        old, self._pipes = self._pipes, {}
        limit_packets = PIPE_PACKETS_MAX // max(len(plan.links), 1)
        for link in plan.links:
            for leaving, rate in ((True, link.egress_bit_s), (False, link.ingress_bit_s)):
                pipe = self._pipes[(link.interface, leaving)] = Pipe(plan.classes, rate, limit_packets=limit_packets)
                if (link.interface, leaving) in old:
                    pipe.inherit(old[(link.interface, leaving)])
        for flow in self._table:
            flow.ask_ns = 0
        for flow, packets in waiting.items():
            flow.held[:0] = packets
            self._held += len(packets)
        self._relink()
        for flow in [each for each in self._table if each.held]:
            flow.ask_ns = now_ns + LOOK_AGAIN_NS
            self._judge(flow, now_ns)

    def _new_link(self, index: int) -> Link | None:
        """What an index that we did not see before stands for; None: no link of the plan."""
        interface = self._interface_of(index)
        link = None
        if interface is not None and (interface.name, True) in self._pipes:
            link = Link(index, interface, self._table.link_indexes(interface.name))
            link.outgoing = self._pipes[(interface.name, True)]
            link.incoming = self._pipes[(interface.name, False)]
        self._links[index] = link
        return link

    def _relink(self) -> None:
        """Interfaces go, come back under another index, and change their names; plans name others."""
        for index, link in list(self._links.items()):
            interface = self._interface_of(index)
            is_ours = link is not None and (link.name, True) in self._pipes
            if link is not None and is_ours and interface is not None and interface.name == link.name:
                link.mtu = interface.mtu
                link.outgoing = self._pipes[(link.name, True)]
                link.incoming = self._pipes[(link.name, False)]
                continue
            for flow in list(link.leaving.values()) if link is not None else ():
                self._withdraw(flow)
                self._decide(flow, True, 0)  # whatever it is: not ours any more
                self._table.forget(flow)
            del self._links[index]

    # -- commands ----------------------------------------------------------------------------------------------------

    def on_message(self, data: bytes, now_ns: int, unix_s: int) -> bytes | None:
        if self._inner is not None and not is_ours(data):
            return self._inner.on_message(data, now_ns, unix_s)
        try:
            reply = self._obey(decode_command(data), now_ns)
        except (msgspec.DecodeError, ValueError) as error:  # ValueError: a prefix that is none
            reply = Refused(message=str(error)[:200])
        return encode(reply)

    def _obey(self, command: Command, now_ns: int) -> Reply:
        match command:
            case SetPlan():
                self._adopt(command.plan, now_ns)
            case Attribute():
                for each in command.flows:
                    flow = self._table.find(self._links, each.key)
                    if flow is not None:
                        self._name(flow, each.number, each.program, now_ns)
            case Answer():
                self._answer(command.number, command.allow, now_ns)
            case Tick():
                self._looks = LOOKS_IN_SECOND
                self._relink()
                self._table.forget_idle(now_ns)
            case AskFlows():
                return self._page(command.first)
            case AskMeters():
                return Meters(flows=tuple(self._table.meter(self._links, key, now_ns) for key in command.keys))
            case SetPaced():
                self._accurate = frozenset(command.accurate)
                self._set_paces(command.flows, now_ns)
            case _:
                assert_never(command)
        return Done()

    def _set_paces(self, flows: Sequence[PacedFlow], now_ns: int) -> None:
        before, self._paced = self._paced, {each.key: each for each in flows}
        for key in before | self._paced:
            if before.get(key) != self._paced.get(key):
                for flow in self._table.find_all(self._links, key):
                    self._set_pace(flow, now_ns)

    def _set_pace(self, flow: Flow, now_ns: int) -> None:
        key = flow.key
        found = self._paced.get(key) or self._paced.get(key._replace(interface_index=0))
        flow.answers_marks = found is not None and found.answers_marks
        flow.hides_marks = found is not None and found.answers_marks and found.key not in self._accurate
        flow.pace_bit_s = (found.pace_bit_s or 0) if found is not None else 0
        queue, pipe = flow.out_queue, flow.link.outgoing
        stays = pipe.path(flow.traffic_class, paced=flow.pace_bit_s > 0)
        if queue is not None and queue.class_queue is stays:
            stays.change_pace(queue, flow.pace_bit_s, flow.room_bytes, now_ns)
        elif flow.state is State.OPEN:
            self._open(flow)

    def _name(self, flow: Flow, number: int, program: Program, now_ns: int) -> None:
        self._table.settle(flow, number)
        if flow.program != program:
            flow.program = program
            self._judge(flow, now_ns)

    def _page(self, first: int) -> FlowsPage:
        if first == 0:
            self._listing = list(self._table)
        following = first + FLOWS_IN_PAGE
        page = self._listing[first:following]
        for flow in page:
            if flow.ask_ns == 0:  # not judged since the plan changed
                found = self._class_of(flow)
                flow.traffic_class = DEFAULT if found is None else found
        if following >= len(self._listing):
            following = 0
            self._listing = []
        return FlowsPage(flows=tuple(flow.meter() for flow in page), tracked=len(self._table), following=following)

    def take_events(self) -> list[bytes]:
        events = [encode(event) for event in self._events]
        self._events.clear()
        if self._inner is not None:
            events += self._inner.take_events()
        return events


def _flow_of(flow_queue: FlowQueue[Item]) -> Flow:
    flow = flow_queue.owner
    assert isinstance(flow, Flow)
    return flow
