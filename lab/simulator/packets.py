"""An experiment on packets: every packet of every flow through FIFO links that mark, on a virtual clock, from a seed.

Decides: how links, flows and events of an experiment become sources, loops and timers, and what is read off them.
Refuses to know: sockets and the time of day; what a mark is worth and what follows from one (the product's own cores:
`billpay.marking`, `pricereactor`). Chance is drawn from one stream for each role and name, so that changing one flow
leaves the traffic of the others as it was.

A mark costs what the last link of its path charges: it is the receiver's provider that bills (M3I 3.3.2). Provider's
price controller: ln π ← ln π + g (ρ − ρ*), at most times 2 in a period (Siris and Courcoubetis; algorithms C.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from billpay.markprices import PriceSchedule
from billpay.sessions import MarkPrice, Payer
from lab.simulator.chance import stream
from lab.simulator.equilibrium import Routing, equilibrium
from lab.simulator.events import Hop, Timeline
from lab.simulator.experiment import Event, Experiment, Flow, Link, Pattern, ReactorKind
from lab.simulator.feedback import FeedbackLoop, Guarded, LoopSettings
from lab.simulator.gains import gains_of
from lab.simulator.handlers import Handler, StreamSource, Terms, handler_of, interval_ns_of, is_windowed, window_of
from lab.simulator.links import FifoLink, LinkSettings
from lab.simulator.measuring import TICK_NS, TICKS_PER_S, LinkReadings
from lab.simulator.packetresults import PacketFlow, PacketRecord
from lab.simulator.playback import Playback
from lab.simulator.results import Results
from lab.simulator.rules import rule_of
from lab.simulator.sources import PacedSource, PoissonSource, Receiver
from lab.simulator.windows import WindowSource
from pricereactor.spending import GuardSettings, SpendingGuard

_NS_PER_S = 1_000_000_000
_SPREAD = 0.5  # of a paced flow's gaps: two flows of one rate are not to meet at a link again and again
_LEAST_PRICE_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How one session departs from an honest one in which the sender pays, without a budget; for studies and tests."""

    payer: Payer = Payer.SENDER
    reported_ppm: int = 1_000_000
    lost_reports: float = 0.0
    obeys: bool = True
    budget_nanodollars: int | None = None


HONEST = Behaviour()


def run_packets(experiment: Experiment, *, behaviours: dict[str, Behaviour] | None = None) -> Results:
    """Runs it. `behaviours`: by name of the flow. ConfigurationError: its reactor refuses the gain, or the rate."""
    return PacketRun(experiment, behaviours=behaviours).run()


class PacketRun:
    """One run; `flows` and `links` are there to be looked at afterwards."""

    def __init__(self, experiment: Experiment, *, behaviours: dict[str, Behaviour] | None = None) -> None:
        self.experiment = experiment
        self.line = Timeline()
        self._behaviours = behaviours or {}
        self.links = [self._link(link) for link in experiment.links]
        self.link_readings = [LinkReadings(link=link) for link in experiment.links]
        self.prices = [experiment.price_of(link) for link in experiment.links]
        self._index = experiment.index_of()
        self._unit = experiment.weight_mbit_s or 1.0
        self._longest_rtt_ns = _ns(max(flow.rtt_ms for flow in experiment.flows) / 1000)
        self._gains, self._of_bound = self._find_gains()
        self.flows = [self._flow(flow) for flow in experiment.flows]
        self._ticks = round(experiment.seconds * TICKS_PER_S)
        for event in experiment.events:
            self.line.schedule(_ns(event.at_s), self._happen, event)
        for number, link in enumerate(experiment.links):
            if link.target_utilisation is not None:
                self.line.schedule(self._price_period_ns(link), self._reprice, (number, 0))

    def run(self) -> Results:
        measured_ns = _ns(self.experiment.measured_from_s)
        self.line.schedule(measured_ns, self._forget)
        self._read()
        for tick in range(1, self._ticks + 1):
            self.line.run_until(tick * TICK_NS)
            self._read()
        record = PacketRecord(
            experiment=self.experiment,
            flows=self.flows,
            links=self.links,
            link_readings=self.link_readings,
            prices=self.prices,
            ticks=self._ticks,
        )
        return record.results()

    def _find_gains(self) -> tuple[dict[str, float], dict[str, float]]:
        """κ by flow, and the part of the bound; the delay is a round trip and the interval of counting."""
        experiment = self.experiment
        delays = [flow.rtt_ms / 1000 + interval_ns_of(flow) / _NS_PER_S for flow in experiment.flows]
        slots = np.maximum(1, np.round(np.array(delays) * 1000)).astype(np.intp)
        found = gains_of(
            experiment, equilibrium(experiment), dt_s=0.001, delay_slots=slots, routing=Routing.of(experiment)
        )
        names = [flow.name for flow in experiment.flows]
        return (
            dict(zip(names, (float(gain) for gain in found.per_s), strict=True)),
            {name: float(part) for name, part in zip(names, found.of_bound, strict=True) if not math.isnan(part)},
        )

    # --- building ---------------------------------------------------------------------------------------------------

    def _chance(self, role: str, name: str) -> Callable[[], float]:
        return stream(self.experiment.seed, role, name).random

    def _link(self, link: Link) -> FifoLink:
        settings = LinkSettings(
            rate_bit_s=round(link.rate_bit_s),
            delay_ns=_ns(link.delay_ms / 1000),
            buffer_bytes=link.buffer_packets * self.experiment.packet_bytes,
        )
        rule = rule_of(link, packet_bytes=self.experiment.packet_bytes)
        return FifoLink(self.line, settings, rule, self._chance("marking", link.name))

    def _flow(self, flow: Flow) -> PacketFlow:
        numbers = [self._index[name] for name in flow.path]
        forward_ns = sum(_ns(self.experiment.links[number].delay_ms / 1000) for number in numbers)
        receiver = Receiver(self.line, nanodollars_per_mark=self.prices[numbers[-1]])
        found = PacketFlow(flow, receiver, max(0, _ns(flow.rtt_ms / 1000) - forward_ns))
        route: tuple[Hop, ...] = (*(self.links[number] for number in numbers), receiver)
        if flow.reactor.kind is ReactorKind.UNRESPONSIVE:
            self._unresponsive(found, route)
        elif is_windowed(flow):
            self._windowed(found, route)
        else:
            self._paced(found, route)
        return found

    def _paced(self, found: PacketFlow, route: tuple[Hop, ...]) -> None:
        flow = found.flow
        behaviour = self._behaviours.get(flow.name, HONEST)
        # A guard reckons with a pacer that is never ahead of its rate.
        source = self._paced_source(flow, route, spread=_SPREAD if behaviour.budget_nanodollars is None else 0.0)
        bottleneck = min(self.experiment.links[self._index[name]].rate_bit_s for name in flow.path)
        access = round(flow.reactor.max_bit_s or bottleneck)
        if flow.reactor.kind is ReactorKind.STREAMING:
            found.playback = Playback(self.line)
            found.receiver.play = found.playback.arrive
        terms = Terms(
            access_bit_s=access,
            fair_bit_s=self._fair_bit_s(flow),
            nanodollars_per_mark=found.receiver.nanodollars_per_mark,
            longest_rtt_ns=self._longest_rtt_ns,
            end_s=self.experiment.seconds if flow.stop_s is None else flow.stop_s,
            gain_per_s=self._gains[flow.name],
            gain_of_bound=self._of_bound.get(flow.name),
            weight_mbit_s=self._unit,
        )
        handler = handler_of(flow, terms)
        found.source, found.handler = source, handler
        ladder = flow.reactor.ladder_bit_s
        settings = LoopSettings(
            start_bit_s=handler.start_bit_s,
            let_go_bit_s=access,
            return_ns=found.return_ns,
            payer=behaviour.payer,
            reported_ppm=behaviour.reported_ppm,
            lost_reports=behaviour.lost_reports,
            obeys=behaviour.obeys,
            phase_ns=int(self._chance("phase", flow.name)() * handler.reactor.interval_ns),
        )
        found.loop = FeedbackLoop(
            self.line,
            StreamSource(source, ladder) if ladder else source,
            found.receiver,
            handler.reactor,
            settings,
            draw=self._chance("reports", flow.name) if behaviour.lost_reports else None,
            start_ns=_ns(flow.start_s),
            before=None if found.playback is None else self._tell_buffer(found.playback, handler),
            guarded=self._guarded(flow, behaviour, handler, found.return_ns, source),
        )
        if flow.stop_s is not None:
            self.line.schedule(_ns(flow.stop_s), found.loop.stop)

    def _guarded(
        self, flow: Flow, behaviour: Behaviour, handler: Handler, return_ns: int, source: PacedSource
    ) -> Guarded | None:
        if behaviour.budget_nanodollars is None:
            return None
        guard = SpendingGuard(
            self._published(self._index[flow.path[-1]]),
            began_unix_ms=round(flow.start_s * 1000),
            session_budget_nanodollars=behaviour.budget_nanodollars,
            settings=GuardSettings(reaction_ns=2 * handler.reactor.interval_ns + return_ns),
        )
        sent = None if behaviour.payer is Payer.RECEIVER else lambda: source.sent_packets
        return Guarded(guard=guard, packet_bytes=flow.packet_bytes, sent_packets=sent)

    def _published(self, number: int) -> PriceSchedule:
        """All prices of a link that its events set, known long before; not those of a price controller."""
        price, schedule = self.prices[number], PriceSchedule()
        changes = [Event(at_s=0.0), *sorted(self.experiment.events, key=lambda event: event.at_s)]
        for serial, event in enumerate(changes, start=1):
            if event.link in (None, self.experiment.links[number].name):
                price = event.price_nanodollars_per_mark if event.price_nanodollars_per_mark is not None else price
                price = round(price * (event.price_factor or 1))
            push = MarkPrice(
                provider="provider",
                serial=serial,
                nanodollars_per_mark=price,
                valid_from_unix_ms=round(event.at_s * 1000),
                published_unix_s=0,
            )
            schedule.on_push(push)
        return schedule

    def _fair_bit_s(self, flow: Flow) -> int:
        users = {name: sum(name in other.path for other in self.experiment.flows) for name in flow.path}
        return min(round(self.experiment.links[self._index[name]].rate_bit_s) // users[name] for name in flow.path)

    @staticmethod
    def _tell_buffer(playback: Playback, handler: Handler) -> Callable[[], None]:
        def tell() -> None:
            if handler.tell_buffer is not None:
                handler.tell_buffer(playback.buffer_ns())

        return tell

    def _windowed(self, found: PacketFlow, route: tuple[Hop, ...]) -> None:
        flow = found.flow
        found.window = WindowSource(
            self.line,
            route,
            found.receiver,
            window_of(flow, nanodollars_per_mark=found.receiver.nanodollars_per_mark),
            return_ns=found.return_ns,
            packet_bytes=flow.packet_bytes,
            start_ns=_ns(flow.start_s),
        )
        if flow.stop_s is not None:
            self.line.schedule(_ns(flow.stop_s), found.window.stop)

    def _unresponsive(self, found: PacketFlow, route: tuple[Hop, ...]) -> None:
        flow, reactor = found.flow, found.flow.reactor
        start_ns, rate = _ns(flow.start_s), round(reactor.rate_bit_s)
        stop_ns = None if flow.stop_s is None else _ns(flow.stop_s)
        if reactor.pattern is Pattern.POISSON:
            steps = [(start_ns, rate)] if stop_ns is None else [(start_ns, rate), (stop_ns, 0)]
            found.source = PoissonSource(
                self.line, route, steps, self._chance("traffic", flow.name), packet_bytes=flow.packet_bytes
            )
            return
        source = self._paced_source(flow, route)
        found.source = source
        self.line.schedule(start_ns, source.set_rate, rate)
        if reactor.pattern is Pattern.ON_OFF:
            end_ns = _ns(self.experiment.seconds) if stop_ns is None else stop_ns
            on_ns, cycle_ns = _ns(reactor.on_s), _ns(reactor.on_s + reactor.off_s)
            for begins_ns in range(start_ns, end_ns, max(1, cycle_ns)):
                self.line.schedule(begins_ns, source.set_rate, rate)
                self.line.schedule(begins_ns + on_ns, source.set_rate, 0)
        if stop_ns is not None:
            self.line.schedule(stop_ns, source.set_rate, 0)

    def _paced_source(self, flow: Flow, route: tuple[Hop, ...], *, spread: float = _SPREAD) -> PacedSource:
        draw = self._chance("traffic", flow.name)
        return PacedSource(self.line, route, packet_bytes=flow.packet_bytes, draw=draw, spread=spread)

    # --- what happens meanwhile -------------------------------------------------------------------------------------

    def _happen(self, event: Event) -> None:
        for number, link in enumerate(self.experiment.links):
            if event.link not in (None, link.name) or (event.flow is not None and event.link is None):
                continue
            if event.price_nanodollars_per_mark is not None:
                self._set_price(number, event.price_nanodollars_per_mark)
            if event.price_factor is not None:
                self._set_price(number, round(self.prices[number] * event.price_factor))
            if event.rate_bit_s is not None and event.link is not None:
                self._set_link_rate(number, event.rate_bit_s)
        if event.link is not None:
            return
        for found in self.flows:
            if event.flow in (None, found.flow.name):
                self._change_flow(found, event)

    def _change_flow(self, found: PacketFlow, event: Event) -> None:
        source = found.source
        if event.rate_bit_s is not None and found.flow.reactor.kind is ReactorKind.UNRESPONSIVE and source is not None:
            source.set_rate(round(event.rate_bit_s))
        willingness = event.willingness_nanodollars_per_s
        if event.weight is not None and found.flow.weight:
            willingness = found.flow.willingness_nanodollars_per_s * event.weight / found.flow.weight
        handler, loop = found.handler, found.loop
        if willingness is not None and found.window is not None:
            found.window.set_willingness(round(willingness))
        elif willingness is not None and handler is not None and loop is not None and handler.remake is not None:
            loop.replace_reactor(handler.remake(round(willingness), loop.last_target_bit_s or handler.start_bit_s))

    def _set_link_rate(self, number: int, rate_bit_s: float) -> None:
        """Its marking rule is one for the new rate, and begins anew."""
        fifo, link = self.links[number], self.experiment.links[number]
        fifo.set_rate(round(rate_bit_s))
        if rate_bit_s >= 1:
            changed = msgspec.structs.replace(link, rate_bit_s=rate_bit_s)
            fifo.marking = rule_of(changed, packet_bytes=self.experiment.packet_bytes)

    def _set_price(self, number: int, nanodollars_per_mark: int) -> None:
        self.prices[number] = nanodollars_per_mark
        name = self.experiment.links[number].name
        for found in self.flows:
            if found.flow.path[-1] == name:
                found.receiver.nanodollars_per_mark = nanodollars_per_mark
                if found.window is not None:
                    found.window.set_price(nanodollars_per_mark)

    def _price_period_ns(self, link: Link) -> int:
        longest_s = max((flow.rtt_ms for flow in self.experiment.flows if link.name in flow.path), default=0.0) / 1000
        return _ns(link.price_period_s or max(_LEAST_PRICE_PERIOD_S, 20 * longest_s))

    def _reprice(self, state: tuple[int, int]) -> None:
        number, busy_ns = state
        settings, link = self.experiment.links[number], self.links[number]
        period_ns = self._price_period_ns(settings)
        load = (link.busy_ns - busy_ns) / period_ns
        assert settings.target_utilisation is not None
        step = min(math.log(2), max(-math.log(2), settings.price_gain * (load - settings.target_utilisation)))
        self._set_price(number, max(1, round(self.prices[number] * math.exp(step))))
        self.line.schedule(self.line.now_ns + period_ns, self._reprice, (number, link.busy_ns))

    # --- reading ----------------------------------------------------------------------------------------------------

    def _forget(self, _: object) -> None:
        for link in self.links:
            link.forget_waits()

    def _read(self) -> None:
        for link, readings, price in zip(self.links, self.link_readings, self.prices, strict=True):
            readings.sent_bytes.append(link.sent_bytes)
            readings.sent_ns.append(link.busy_ns)
            readings.arrived_packets.append(link.arrived_packets)
            readings.marked_packets.append(link.marked_packets)
            readings.dropped_packets.append(link.dropped_packets)
            readings.backlog_packets.append(link.backlog_bytes() / self.experiment.packet_bytes)
            readings.price_nanodollars.append(price)
        for found in self.flows:
            receiver, flow_readings = found.receiver, found.readings
            flow_readings.received_bytes.append(receiver.bytes)
            flow_readings.packets.append(receiver.packets)
            flow_readings.marks.append(receiver.marks)
            flow_readings.charge_nanodollars.append(receiver.charge_nanodollars)
            if found.is_paced and isinstance(found.source, PacedSource):
                flow_readings.sent_rate_bit_s.append(found.source.rate_bit_s)


def _ns(seconds: float) -> int:
    return round(seconds * _NS_PER_S)


__all__ = ["HONEST", "Behaviour", "PacketFlow", "PacketRun", "run_packets"]
