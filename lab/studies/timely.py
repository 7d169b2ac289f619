"""Packets that cannot wait, in sudden congestion: the timely strategy beside the one for large transfers.

Decides: what each loses where two disjoint paths get congested from time to time, and what two copies lose. Refuses to
know: other strategies; both are the product's own (`pricereactor.timely`, `pricereactor.bulk`), and so are tolls and
the drop rule. Cross traffic is the same for both.

Source: Bill-Pay 3.1: probe the paths with money beforehand, pay enough for typical congestion, duplicate over
independent paths (5 % and 5 % make 0.25 %).
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from billpay.money import PICODOLLARS_PER_NANODOLLAR
from billpay.tolls import CongestionSettings, TollSchedule
from lab.simulator.chance import stream
from lab.simulator.events import NS_PER_S, Packet, Timeline
from lab.simulator.links import LinkSettings
from lab.simulator.sources import PoissonSource, Receiver
from lab.simulator.tolling import TollLink
from pricereactor.bulk import BulkPayment, BulkPolicy
from pricereactor.payments import Observation
from pricereactor.timely import Leg, Path, TimelyPayment, TimelyPolicy

_MS = 1_000_000
_RATE_BIT_S = 2_000_000
_CAP_NANODOLLARS = 2_000
_WILLINGNESS_NANODOLLARS = 4_000
_PACKET_BYTES = 200
_GAP_NS = 20 * _MS
_ROUND_NS = 200 * _MS
_RETURN_NS = 30 * _MS
_CALM, _CONGESTED = 0.5, 1.4  # of the link, by cross traffic
_EVENT_EVERY_S = 40
_EVENT_S = 4
_SUDDEN_S = 3  # of an event: what counts as sudden
_LEARN_EVENTS = 2
_EVENTS = 6
_COPIES = 40_000
_LOSS = 0.05


class TimelyOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Of the packets sent within the first seconds of a congestion, after some were seen."""

    strategy: str
    sent: int
    lost: int
    lost_share: float
    paid_nanodollars_per_packet: float  # in tolls, over the whole run

    @property
    def survives(self) -> bool:
        return self.lost_share < 0.01


class TimelyStudy(msgspec.Struct, frozen=True, kw_only=True):
    timely: TimelyOutcome
    bulk: TimelyOutcome
    single_lost_share: float
    duplicate_lost_share: float
    copies: int  # of each packet, as the strategy chose
    expected_duplicate_lost_share: float


def run(seed: int, *, events: int = _EVENTS) -> TimelyStudy:
    timely = _Run(seed, events)
    payment = TimelyPayment(
        TimelyPolicy(willingness_nanodollars=_WILLINGNESS_NANODOLLARS, probe_budget_nanodollars=1_000_000)
    )
    timely_outcome = timely.go("timely", _TimelyPayer(payment, timely))
    bulk = _Run(seed, events)
    target = _PACKET_BYTES * 8 * NS_PER_S // _GAP_NS * 9 // 10
    reactor = BulkPayment(BulkPolicy(willingness_nanodollars=_WILLINGNESS_NANODOLLARS, target_bit_s=target))
    bulk_outcome = bulk.go("bulk", _BulkPayer(reactor, bulk))
    single, both, copies = _duplicates(stream(seed, "copies"))
    return TimelyStudy(
        timely=timely_outcome,
        bulk=bulk_outcome,
        single_lost_share=single,
        duplicate_lost_share=both,
        copies=copies,
        expected_duplicate_lost_share=_LOSS * _LOSS,
    )


_PATHS = (Path(name="north", networks=frozenset({"n"})), Path(name="south", networks=frozenset({"s"})))


class _Run:
    """Two paths; one gets congested at each event, in turn. Important packets go out each 20 ms."""

    def __init__(self, seed: int, events: int) -> None:
        self.line = Timeline()
        self._seconds = _EVENT_EVERY_S * (events + 1)
        self._events = events
        self.links = {path.name: self._link(path.name, seed) for path in _PATHS}
        self._sent_ns: list[int] = []
        self._arrived: set[int] = set()
        self.sent = {path.name: 0 for path in _PATHS}
        self.arrived = {path.name: 0 for path in _PATHS}
        self.tolls: dict[str, list[int]] = {path.name: [] for path in _PATHS}
        self.legs: Callable[[], tuple[Leg, ...]] = tuple
        self._paid = 0

    def go(self, strategy: str, payer: _TimelyPayer | _BulkPayer) -> TimelyOutcome:
        self.legs = lambda: payer.legs
        self.line.schedule(0, payer.decide)
        self.line.schedule(0, self._emit)
        self.line.run_until(self._seconds * NS_PER_S)
        sudden = [number for number, sent_ns in enumerate(self._sent_ns) if self._is_sudden(sent_ns)]
        lost = sum(number not in self._arrived for number in sudden)
        return TimelyOutcome(
            strategy=strategy,
            sent=len(sudden),
            lost=lost,
            lost_share=lost / len(sudden),
            paid_nanodollars_per_packet=self._paid / len(self._sent_ns),
        )

    def send(self, leg: Leg, number: int) -> None:
        packet = Packet((self.links[leg.path], _End(self, leg.path)), _PACKET_BYTES, number, self.line.now_ns)
        packet.amount_nanodollars = leg.amount_nanodollars
        self.sent[leg.path] += 1
        packet.route[0].arrive(packet)

    def on_arrival(self, path: str, packet: Packet) -> None:
        self.arrived[path] += 1
        self.tolls[path].append(packet.toll_nanodollars)
        self._paid += packet.toll_nanodollars
        if packet.number >= 0:
            self._arrived.add(packet.number)

    def _emit(self, _: object) -> None:
        number = len(self._sent_ns)
        self._sent_ns.append(self.line.now_ns)
        for leg in self.legs():
            self.send(leg, number)
        self.line.schedule(self.line.now_ns + _GAP_NS, self._emit)

    @staticmethod
    def _is_sudden(sent_ns: int) -> bool:
        event, within_ns = divmod(sent_ns, _EVENT_EVERY_S * NS_PER_S)
        return event > _LEARN_EVENTS and within_ns < _SUDDEN_S * NS_PER_S

    def _link(self, name: str, seed: int) -> TollLink:
        congestion = CongestionSettings.for_cap(
            capacity_bit_s=_RATE_BIT_S,
            cap_picodollars=_CAP_NANODOLLARS * PICODOLLARS_PER_NANODOLLAR,
            period_ns=50 * _MS,
            target_utilisation_ppm=900_000,
        )
        real = LinkSettings(rate_bit_s=_RATE_BIT_S, delay_ns=_RETURN_NS, buffer_bytes=100_000)
        draw = stream(seed, "drops", name).random
        link = TollLink(self.line, real, TollSchedule(), congestion, draw)
        traffic = stream(seed, "traffic", name).random
        PoissonSource(self.line, (link, Receiver(self.line)), self._steps(), traffic, packet_bytes=500)
        return link

    def _steps(self) -> list[tuple[int, int]]:
        """Both paths are congested at the same time: nobody escapes to the other one."""
        steps = [(0, int(_CALM * _RATE_BIT_S))]
        for event in range(1, self._events + 1):
            begins_ns = event * _EVENT_EVERY_S * NS_PER_S
            steps.append((begins_ns, int(_CONGESTED * _RATE_BIT_S)))
            steps.append((begins_ns + _EVENT_S * NS_PER_S, int(_CALM * _RATE_BIT_S)))
        return steps


class _End:
    """Where a packet of ours ends."""

    def __init__(self, run: _Run, path: str) -> None:
        self._run = run
        self._path = path

    def arrive(self, packet: Packet) -> None:
        self._run.on_arrival(self._path, packet)


class _TimelyPayer:
    def __init__(self, payment: TimelyPayment, run: _Run) -> None:
        self._payment = payment
        self._run = run
        self._known = {path.name: (0, 0) for path in _PATHS}
        self.legs: tuple[Leg, ...] = ()

    def decide(self, _: object) -> None:
        """Each round: what was echoed since the last one, then the plan, then its probes."""
        run = self._run
        for path in _PATHS:
            sent, arrived = run.sent[path.name], run.arrived[path.name]
            told_sent, told_arrived = self._known[path.name]
            under_way = min(sent - told_sent, 2)  # what was sent within the last one-way delay
            new = max(0, sent - under_way - told_sent)
            lost = min(new, max(0, new - (arrived - told_arrived)))
            tolls = [max(run.tolls[path.name])] if run.tolls[path.name] else []  # its memory is so many tolls long
            self._payment.on_packets(path.name, sent=new, lost=lost, tolls_nanodollars=tolls)
            self._known[path.name] = (told_sent + new, told_arrived + new - lost)
            run.tolls[path.name] = []
        plan = self._payment.plan(run.line.now_ns, _PATHS)
        self.legs = plan.legs
        for probe in plan.probes:
            run.send(probe, -1)
        run.line.schedule(run.line.now_ns + _ROUND_NS, self.decide)


class _BulkPayer:
    def __init__(self, payment: BulkPayment, run: _Run) -> None:
        self._payment = payment
        self._run = run
        self._path = 0
        self._told = 0
        self.legs: tuple[Leg, ...] = (Leg(path=_PATHS[0].name, amount_nanodollars=0),)

    def decide(self, _: object) -> None:
        run, name = self._run, _PATHS[self._path].name
        arrived = sum(run.arrived.values())
        tolls = run.tolls[name]
        observation = Observation(
            now_ns=run.line.now_ns,
            goodput_bit_s=(arrived - self._told) * _PACKET_BYTES * 8 * NS_PER_S // _ROUND_NS if arrived else None,
            toll_nanodollars=tolls[-1] if tolls else None,
            round_trip_ns=2 * _RETURN_NS,
        )
        self._told = arrived
        run.tolls[name] = []
        decision = self._payment.on_observation(observation)
        if decision.try_other_path:
            self._path = 1 - self._path
        self.legs = (Leg(path=_PATHS[self._path].name, amount_nanodollars=decision.amount_nanodollars),)
        run.line.schedule(run.line.now_ns + _ROUND_NS, self.decide)


def _duplicates(chance: random.Random) -> tuple[float, float, int]:
    """Two paths that lose 5 % by chance: what one copy loses, what the strategy's copies lose, how many there are."""
    payment = TimelyPayment(TimelyPolicy(willingness_nanodollars=_WILLINGNESS_NANODOLLARS))
    for path in _PATHS:
        outcomes = [chance.random() < _LOSS for _ in range(1000)]
        payment.on_packets(path.name, sent=1000, lost=sum(outcomes), tolls_nanodollars=[100] * 50)
    legs = payment.plan(0, _PATHS).legs
    first, all_copies = 0, 0
    for _ in range(_COPIES):
        lost = [chance.random() < _LOSS for _ in legs]
        first += lost[0]
        all_copies += all(lost)
    return first / _COPIES, all_copies / _COPIES, len(legs)
