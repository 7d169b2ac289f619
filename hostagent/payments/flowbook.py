"""All flows of this host, both directions, and the decisions of one turn.

Decides: which flows need something told to the packet core, out of what the price reactors and the cartographer say.
Refuses to know: sockets, the secretary, clocks. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import ip_address

import msgspec

from billpay.header import Slot
from billpay.messages import Echo, FlowSelector, OadObservation
from cartographer.cartographer import Cartographer
from cartographer.choice import PathChoice
from cartographer.policy import PathPolicy
from hostagent.payments.arrivals import Arrivals, Became, ReturnTolls
from hostagent.payments.commands import FlowReport, Oads, Observed
from hostagent.payments.flows import Flow
from hostagent.payments.flowtable import MAX_OBSERVED
from pricereactor.reactor import TimelyPayment

FORGET_NS = 300_000_000_000
MAX_FLOWS = 12_288
MAX_DESTINATIONS = 256
KNOWN_NS = 600_000_000_000
"""What a path took then may say what it takes now."""
SILENCE_NS = 1_500_000_000
"""Six echoes: when a far end that spoke says nothing for so long, its way is asked about."""
SETTLE_NS = 1_000_000_000
"""What arrives so soon after the user-OADs have changed may have left with the ones before."""
ROUND_TRIP_NS = 100_000_000
"""Until one was measured."""
CLASSES = ("timely", "bulk")
"""Strategies whose flows want something else of a way than all others do."""
CUMULATIVE = (
    "out_packets",
    "out_bytes",
    "out_paid_packets",
    "sent_returned_nanodollars",
    "in_packets",
    "in_bytes",
    "in_paid_packets",
    "in_ce_packets",
    "received_nanodollars",
    "refunded_nanodollars",
)
"""What a packet core counts of a flow since it knows it."""


@dataclass(slots=True)
class _Trace:
    """What the cartographer wants to know of a flow that leaves."""

    number: int
    arrivals: Arrivals = field(default_factory=Arrivals)
    return_tolls: ReturnTolls = field(default_factory=ReturnTolls)
    slots_since_ns: int = 0  # its user-OADs are as they are since then
    left: str = ""  # the way that it took before
    asked_about_ns: int = 0  # when its way was last asked about for its silence


class FlowBook:
    """`flows`: those that leave; `arriving`: reports of those that come in."""

    def __init__(
        self,
        *,
        delay_value_nanodollars_per_ms: int,
        cartographer: Cartographer | None = None,
        draw: Callable[[], float] = lambda: 0.5,
    ) -> None:
        """`cartographer`: another than one with the shipped policy; `draw`: its chance, uniform in [0, 1)."""
        self.flows: dict[FlowSelector, Flow] = {}
        self.arriving: dict[FlowSelector, FlowReport] = {}
        self._raw: dict[FlowSelector, FlowReport] = {}
        self._before: dict[FlowSelector, FlowReport] = {}
        self._probes_of: dict[FlowSelector, str] = {}
        self._timely: dict[str, tuple[int, TimelyPayment]] = {}  # destination → when last, who knows its ways
        self._traces: dict[FlowSelector, _Trace] = {}
        self.cartographer = cartographer or Cartographer(
            PathPolicy(delay_value_nanodollars_per_ms=delay_value_nanodollars_per_ms), draw=draw
        )

    def on_reports(self, reports: Iterable[FlowReport], now_ns: int) -> None:
        """What the packet core counted. A record can be both: a reply flow that leaves, seen with what arrives on
        it.
        """
        room_was_made = False
        for raw in reports:
            report = self._continued(raw)
            if report.out_packets or report.pool_nanodollars:
                flow = self.flows.get(report.flow)
                if flow is None and len(self.flows) >= MAX_FLOWS and not room_was_made:
                    self._make_room(now_ns)
                    room_was_made = True
                if flow is None and len(self.flows) < MAX_FLOWS:
                    flow = self.flows[report.flow] = Flow(report)
                    flow.probes_of = self._probes_of.get(report.flow, "")
                if flow is not None:
                    flow.on_report(report, now_ns)
                    self._trace(flow).arrivals.on_report(report.out_packets, now_ns)
            if report.in_packets and (report.flow in self.arriving or len(self.arriving) < MAX_FLOWS):
                self.arriving[report.flow] = report
                self._note_refunds(report, now_ns)

    def _note_refunds(self, report: FlowReport, now_ns: int) -> None:
        trace = self._traces.get(reverse(report.flow)) if report.refunded_nanodollars else None
        if trace is not None:
            trace.return_tolls.on_report(
                refunded_nanodollars=report.refunded_nanodollars, packets=report.in_paid_packets, now_ns=now_ns
            )

    def _continued(self, raw: FlowReport) -> FlowReport:
        """The report with what earlier packet cores had counted of the flow: a new one begins at 0."""
        last = self._raw.get(raw.flow)
        if last is not None and (raw.in_packets < last.in_packets or raw.out_packets < last.out_packets):
            self._before[raw.flow] = added(last, self._before.get(raw.flow))
        if last is not None or len(self._raw) < 2 * MAX_FLOWS:
            self._raw[raw.flow] = raw
        return added(raw, self._before.get(raw.flow))

    def _make_room(self, now_ns: int) -> None:
        """Silent flows without a grant go first; without any the newcomer goes unpaid."""
        for selector, flow in list(self.flows.items()):
            if not flow.busy and not flow.is_active(now_ns) and flow.grant is None and flow.return_grant is None:
                del self.flows[selector]
                self._traces.pop(selector, None)

    def forget_old(self, now_ns: int) -> None:
        for selector, flow in list(self.flows.items()):
            if now_ns - flow.report.last_ns > FORGET_NS and not flow.busy:
                del self.flows[selector]
                self._traces.pop(selector, None)
        for selector, report in list(self.arriving.items()):
            if now_ns - report.last_ns > FORGET_NS and reverse(selector) not in self.flows:  # its returns go by these
                del self.arriving[selector]
        for selector, raw in list(self._raw.items()):
            if now_ns - raw.last_ns > FORGET_NS and selector not in self.flows and selector not in self.arriving:
                del self._raw[selector]
                self._before.pop(selector, None)
                self._probes_of.pop(selector, None)

    def opposite(self, flow: Flow) -> FlowReport | None:
        """What arrives with the reverse direction of a flow."""
        return self.arriving.get(reverse(flow.selector))

    def on_echo(self, echo: Echo, now_ns: int) -> Flow | None:
        """What the far end says of a flow of ours; None when we know no such flow."""
        flow = self.flows.get(echo.flow)
        if flow is None:
            return None
        before = flow.far_end.echo
        fresh_toll = flow.far_end.on_echo(echo, amount_nanodollars=flow.amount_nanodollars, now_ns=now_ns)
        if flow.is_probe:
            return flow
        fresh = _since(before, echo)
        became = self._became(flow, echo, now_ns)
        if fresh:
            flow.path = path_text(max(fresh, key=lambda seen: seen.packets).oads)
            for seen in fresh:
                self._tell_traffic(flow, seen, fresh, became, now_ns, is_settled=fresh_toll is not None)
            self._tell_flow(flow, echo, became, now_ns)
        if flow.timely is not None:
            flow.timely.follow(way := _way(flow.path))
            if fresh_toll is not None and len(fresh) == 1:  # else it is of several ways
                flow.timely.on_packets(way, sent=0, lost=0, tolls_nanodollars=(fresh_toll,))
        return flow

    # --- what the cartographer hears --------------------------------------------------------------------------------

    def _trace(self, flow: Flow) -> _Trace:
        trace = self._traces.get(flow.selector)
        if trace is None:
            trace = self._traces[flow.selector] = _Trace(flow_number(flow.selector))
        return trace

    def _became(self, flow: Flow, echo: Echo, now_ns: int) -> Became:
        return self._trace(flow).arrivals.on_echo(
            packets=echo.packets,
            marked=echo.ce_packets,
            round_trip_ns=flow.round_trip_ns or ROUND_TRIP_NS,
            now_ns=now_ns,
        )

    def _tell_traffic(
        self,
        flow: Flow,
        seen: OadObservation,
        fresh: list[OadObservation],
        became: Became,
        now_ns: int,
        *,
        is_settled: bool,
    ) -> None:
        """What packets met on one way; marks in proportion, and losses to the way that most of them took: those that
        are heard of soon after a flow has moved are of where it was before.

        `is_settled`: all of them left with the same amount, so what is left of it shows the way's toll.
        """
        trace, packets, most = self._trace(flow), seen.packets, max(fresh, key=lambda seen: seen.packets)
        amount, remaining = flow.amount_nanodollars, (seen.received_nanodollars + packets // 2) // packets
        is_steady = now_ns - trace.slots_since_ns >= SETTLE_NS
        lost = became.lost if seen is most else 0
        if lost and not is_steady and trace.left:
            self.cartographer.on_traffic(
                flow.selector.destination, trace.left, sent=lost, lost=lost, amount_sent=amount, now_ns=now_ns
            )
            lost = 0
        self.cartographer.on_oads_seen(
            flow.selector.destination,
            seen.oads,
            amount,
            remaining if is_settled and 0 <= remaining <= amount else None,
            now_ns,
            packets=packets,
            lost=lost,
            marked=became.marked * packets // sum(each.packets for each in fresh),
            asked=[Slot(*slot) for slot in flow.slots],
            settled=len(fresh) == 1 and is_steady,
        )

    def _tell_flow(self, flow: Flow, echo: Echo, became: Became, now_ns: int) -> None:
        """What is known of the whole flow, credited to the way that it takes."""
        destination = flow.selector.destination
        goodput = flow.far_end.goodput_bit_s()
        if goodput is not None and flow.strategy == "bulk" and flow.rate_bit_s(now_ns) and became.arrived:
            self.cartographer.on_goodput(destination, flow.path, goodput, now_ns)
        if echo.returned_nanodollars:
            toll = self._trace(flow).return_tolls.on_echo(returned_nanodollars=echo.returned_nanodollars, now_ns=now_ns)
            if toll is not None:
                self.cartographer.on_return_toll(destination, flow.path, toll, now_ns)

    def _ask_about_silent(self, flow: Flow, now_ns: int) -> None:
        """Nothing is heard of what it sends: the far end may be gone, or the way; a probe will tell."""
        trace = self._trace(flow)
        patience_ns = SILENCE_NS + 4 * (flow.round_trip_ns or ROUND_TRIP_NS)
        if now_ns - trace.asked_about_ns >= patience_ns and trace.arrivals.is_silent(now_ns, patience_ns):
            trace.asked_about_ns = now_ns
            self.cartographer.on_silence(flow.selector.destination, flow.path, now_ns)

    # --- probes for what cannot wait --------------------------------------------------------------------------------

    def pay_probes_by(self, selector: FlowSelector, grant: str) -> None:
        """Whose ways the probes of a flow are for from now on; "": no timely flow's, so a rule has to name them."""
        if self._probes_of.get(selector, "") == grant:
            return
        if grant:
            self._probes_of[selector] = grant
        else:
            del self._probes_of[selector]
        flow = self.flows.get(selector)
        if flow is not None:
            flow.probes_of, flow.judged = grant, flow.judged and not grant

    def on_probe(self, destination: str, path: str, toll_nanodollars: int | None) -> None:
        """What a probe of ours met; no toll: it was lost on the way."""
        for flow in self.flows.values():
            if flow.timely is None or flow.selector.destination != destination:
                continue
            if toll_nanodollars is None:
                flow.timely.on_packets(_way(path), sent=1, lost=1)
            else:
                flow.timely.on_packets(_way(path), sent=1, lost=0, tolls_nanodollars=(toll_nanodollars,))

    def _know_ways(self, flow: Flow, timely: TimelyPayment, now_ns: int) -> None:
        """A flow begins with what the last one to the same destination learned, if that is not long ago."""
        destination = flow.selector.destination
        when_ns, earlier = self._timely.pop(destination, (now_ns, timely))
        if not flow.knows and earlier is not timely and now_ns - when_ns < KNOWN_NS:
            timely.adopt(earlier)
        flow.knows = True
        self._timely[destination] = (now_ns, timely)
        if len(self._timely) > MAX_DESTINATIONS:
            del self._timely[next(iter(self._timely))]

    # --- turns ------------------------------------------------------------------------------------------------------

    def decide(self, now_ns: int) -> list[Flow]:
        """Asks reactors and cartographer; gives the flows of which the packet core does not know the latest."""
        changed = []
        for flow in self.flows.values():
            if flow.is_probe:  # each probe is told by itself (`hostagent.payments.measuring`)
                if flow.is_to_be_dropped():
                    changed.append(flow)
                continue
            if flow.reactor is not None and flow.is_active(now_ns):
                self._decide_one(flow, now_ns)
            if flow.is_news():
                changed.append(flow)
        return changed

    def _decide_one(self, flow: Flow, now_ns: int) -> None:
        if flow.timely is not None:
            self._know_ways(flow, flow.timely, now_ns)
        decision = flow.decide(now_ns)
        assert decision is not None
        self._ask_about_silent(flow, now_ns)
        destination, trace = flow.selector.destination, self._trace(flow)
        wants = flow.strategy if flow.strategy in CLASSES else "default"
        if decision.try_other_path:
            self.cartographer.ask_for_other_path(destination, now_ns, flow_number=trace.number, wants=wants)
        choice: PathChoice = self.cartographer.choose(destination, now_ns, flow_number=trace.number, wants=wants)
        slots = tuple((slot.as_number, slot.alternatives, slot.choice) for slot in choice.slots)
        if slots != flow.slots:
            flow.slots, trace.slots_since_ns, trace.left = slots, now_ns, flow.path
        flow.reason = f"{decision.reason}; {choice.reason}" if choice.reason else decision.reason
        if flow.is_used_up:  # best effort, at once and visibly
            flow.amount_nanodollars, flow.reason = 0, flow.refusal


def _since(before: Echo | None, echo: Echo) -> list[OadObservation]:
    """What an echo says beyond an earlier one, by ways."""
    known = {seen.oads: seen for seen in before.observations} if before is not None else {}
    found = []
    for seen in echo.observations:
        last = known.get(seen.oads)
        if last is not None and last.packets <= seen.packets:
            seen = msgspec.structs.replace(
                seen,
                packets=seen.packets - last.packets,
                received_nanodollars=max(0, seen.received_nanodollars - last.received_nanodollars),
            )
        if seen.packets:
            found.append(seen)
    return found


def added(report: FlowReport, before: FlowReport | None) -> FlowReport:
    """All that is counted from the beginning, of both; a grant's sum and a pool are the report's."""
    if before is None:
        return report
    counts = {name: getattr(report, name) + getattr(before, name) for name in CUMULATIVE}
    earlier = {seen.oads: seen for seen in before.observed}
    observed = []
    for seen in report.observed:
        known = earlier.pop(seen.oads, None)
        observed.append(seen if known is None else _both(seen, known))
    observed += earlier.values()
    return msgspec.structs.replace(report, observed=tuple(observed[:MAX_OBSERVED]), **counts)


def _both(seen: Observed, known: Observed) -> Observed:
    return msgspec.structs.replace(
        seen,
        packets=seen.packets + known.packets,
        received_nanodollars=seen.received_nanodollars + known.received_nanodollars,
        lowest_amount=min(seen.lowest_amount, known.lowest_amount),
    )


def flow_number(selector: FlowSelector) -> int:
    """64 bits, the same whenever the flow is met: it decides which way it goes where several share the traffic."""
    return int.from_bytes(blake2b(flow_text(selector).encode(), digest_size=8).digest(), "big")


def reverse(selector: FlowSelector) -> FlowSelector:
    return FlowSelector(
        source=selector.destination,
        destination=selector.source,
        protocol=selector.protocol,
        source_port=selector.destination_port,
        destination_port=selector.source_port,
    )


def _way(path: str) -> str:
    """A path without alternatives has no name of its own."""
    return path or "the only way"


def path_text(oads: Oads) -> str:
    """ "AS64512:1 AS64513:1": the choice of each ISP that wrote its slot."""
    return " ".join(f"AS{as_number}:{choice}" for as_number, bitmap, choice in oads if bitmap & 0x800)


def flow_text(selector: FlowSelector) -> str:
    """As people write it."""
    protocol = {6: "tcp", 17: "udp"}.get(selector.protocol, str(selector.protocol))
    source = _endpoint(selector.source, selector.source_port)
    return f"{protocol} {source} → {_endpoint(selector.destination, selector.destination_port)}"


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ip_address(address).version == 6 else f"{address}:{port}"
