"""Two ends of a session over a scripted link and a bad wire, on a virtual clock."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from billpay.messages import FlowSelector, Message
from billpay.sessions import MarkReport, SessionTerms, TargetRate
from billpay.signing import SigningKey
from dataplane.marks_seen import SenderView
from dataplane.metering import FlowKey, FlowMeter, Tally
from hostagent.reacting.aggregator import Aggregator
from hostagent.reacting.days import DayBook, DayFile
from hostagent.reacting.evidence import Moment
from hostagent.reacting.money import DayPurses, TaskPurse
from hostagent.reacting.prices import Prices, Provider
from hostagent.reacting.session import Beginning, Readings, Role, Session
from hostagent.reacting.wire import Believed, Disbelief, Numbers, Reader, SessionPeer, write
from pricereactor.policy import TaskPolicy
from pricereactor.rates import RateDecision, RateReactor, Verdict
from pricereactor.signals import NS_PER_S, PriceSignal

MS = 1_000_000
T0 = 1_750_000_000_000
STEP_MS = 5
NOTHING = Tally()
PACKET_BYTES = 1_250
SESSION = "5" * 32
SOURCE, DESTINATION = "10.0.0.1", "10.0.0.2"
FLOW = FlowSelector(source=SOURCE, destination=DESTINATION, protocol=17, source_port=4000, destination_port=5004)
SENDS = FlowKey(0, 17, bytes((10, 0, 0, 1)), 4000, bytes((10, 0, 0, 2)), 5004)
ARRIVES = FlowKey(0, 17, bytes((10, 0, 0, 2)), 5004, bytes((10, 0, 0, 1)), 4000)
SECRET_POLICY = TaskPolicy(
    name="film",
    willingness_nanodollars_per_s=918_273_645,
    min_bit_s=65_432,
    max_bit_s=9_876_543_210,
    session_budget_nanodollars=77_665_544_332_211,
    day_budget_nanodollars=88_776_655_443_322,
    price_ceiling_nanodollars_per_mb=13_579_246_801,
)


def plain_policy(**given: object) -> TaskPolicy:
    return TaskPolicy(name="film", willingness_nanodollars_per_s=100_000, **given)  # type: ignore[arg-type]


class Kelly:
    """x' = k (w - x c): the plain law, enough for a test. Lets go after eight intervals of silence."""

    def __init__(self, policy: TaskPolicy, *, interval_ns: int = 100 * MS, first_bit_s: int = 1_000_000) -> None:
        self.interval_ns = interval_ns
        self.signals: list[PriceSignal | None] = []
        self.asked_ns: list[int] = []
        self._w = policy.willingness_nanodollars_per_s
        self._first = self._rate = first_bit_s
        self._silent = 0

    def on_interval(self, now_ns: int, signal: PriceSignal | None) -> RateDecision:
        self.signals.append(signal)
        self.asked_ns.append(now_ns)
        charge = None if signal is None else signal.charge_nanodollars
        if signal is None or charge is None:
            self._silent += 1
            if self._silent > 8:
                return RateDecision(target_bit_s=None, verdict=Verdict.LET_GO, reason="silence")
            return RateDecision(target_bit_s=self._rate, reason="holds")
        self._silent = 0
        spends = charge * NS_PER_S // signal.interval_ns
        factor = 1 + 0.3 * max(-0.5, min(0.5, (self._w - spends) / self._w))
        self._rate = max(64_000, int(self._rate * factor))
        return RateDecision(target_bit_s=self._rate, reason="w = x c")


class Fixed:
    """A rate that somebody else thought of."""

    def __init__(self, rate_bit_s: int, *, interval_ns: int = 100 * MS) -> None:
        self.interval_ns = interval_ns
        self.rate_bit_s = rate_bit_s

    def on_interval(self, now_ns: int, signal: PriceSignal | None) -> RateDecision:
        return RateDecision(target_bit_s=self.rate_bit_s)


@dataclass
class Path:
    """Marks what is above its rate, as a virtual queue does; delivers everything."""

    rate_bit_s: int = 2_000_000
    sent: Tally = NOTHING
    received: Tally = NOTHING
    bleaches: bool = False
    _whole: float = 0.0
    _marked: float = 0.0

    def carry(self, rate_bit_s: int, step_ms: int, *, ect: bool) -> None:
        self._whole += rate_bit_s * step_ms / 1000 / 8 / PACKET_BYTES
        packets = int(self._whole)
        self._whole -= packets
        above = max(0.0, rate_bit_s - self.rate_bit_s) / rate_bit_s if rate_bit_s else 0.0
        self._marked += packets * above if ect else 0
        marks = int(self._marked)
        self._marked -= marks
        amount = packets * PACKET_BYTES
        self.sent = self.sent.plus(Tally(packets, amount, 0, packets if ect else 0))
        ce, ect0 = (marks, packets - marks) if ect and not self.bleaches else (0, 0)
        self.received = self.received.plus(Tally(packets, amount, ce, ect0))


@dataclass
class Wire:
    """Loses, repeats, delays and reorders datagrams, and remembers their bytes."""

    draw: random.Random
    loss: float = 0.0
    repeats: float = 0.0
    delay_ms: tuple[int, int] = (10, 10)
    is_cut: bool = False
    recorded: list[bytes] = field(default_factory=list)
    _under_way: list[tuple[int, int, str, bytes]] = field(default_factory=list)
    _count: int = 0

    def send(self, now_ms: int, to: str, datagram: bytes) -> None:
        self.recorded.append(datagram)
        for _ in range(2 if self.draw.random() < self.repeats else 1):
            if self.is_cut or self.draw.random() < self.loss:
                continue
            self._count += 1
            at = now_ms + self.draw.randint(*self.delay_ms)
            heapq.heappush(self._under_way, (at, self._count, to, datagram))

    def arrived(self, now_ms: int) -> list[tuple[str, bytes]]:
        out = []
        while self._under_way and self._under_way[0][0] <= now_ms:
            _, _, to, datagram = heapq.heappop(self._under_way)
            out.append((to, datagram))
        return out


def _peer(key: SigningKey, address: str) -> SessionPeer:
    return SessionPeer(
        name=address, public_key=key.public_key, fingerprint=key.fingerprint, addresses=frozenset((address,))
    )


class World:
    """`sender_pays`: at which end the reactor is. `stubborn_bit_s`: a sender that does as it likes."""

    def __init__(
        self,
        make_reactor: Callable[[TaskPolicy], RateReactor],
        *,
        sender_pays: bool = True,
        policy: TaskPolicy | None = None,
        prices: Prices | None = None,
        wire: Wire | None = None,
        own_rate_bit_s: int = 5_000_000,
    ) -> None:
        self.now_ms = 0
        self.path = Path()
        self.wire = wire or Wire(random.Random(1))
        self.prices = prices or Prices([Provider(name="p2", nanodollars_per_mark=1_000)])
        self.policy = policy or plain_policy()
        self.book = DayBook(DayFile(day="2026-11-21", spent_nanodollars={}))
        self.days = DayPurses(self.book, day=1)
        self.own_rate_bit_s = own_rate_bit_s  # of the sender's transport, when nobody paces it
        self.stubborn_bit_s: int | None = None
        self.has_agent = True  # at the far end
        self.view: SenderView | None = None
        self.reports: list[tuple[int, MarkReport]] = []
        self.targets: list[tuple[int, TargetRate]] = []
        self.reactor: RateReactor | None = None
        self._make = make_reactor
        self._keys = {SOURCE: SigningKey(b"s" * 32), DESTINATION: SigningKey(b"d" * 32)}
        self._readers = {
            SOURCE: Reader([_peer(self._keys[DESTINATION], DESTINATION)]),
            DESTINATION: Reader([_peer(self._keys[SOURCE], SOURCE)]),
        }
        self._numbers = {SOURCE: Numbers(), DESTINATION: Numbers()}
        self.disbelieved: list[Disbelief] = []
        self.aggregator = Aggregator(lambda session: self._numbers[DESTINATION].next(session, self.moment.unix_ms))
        role = Role.SENDER_PAYS if sender_pays else Role.OBEYS
        self.sender = self._session(SESSION, role, SOURCE)
        self.receiver = None if sender_pays else self._session("6" * 32, Role.RECEIVER_PAYS, DESTINATION)

    def _session(self, name: str, role: Role, at: str) -> Session:
        pays = role is not Role.OBEYS

        def reactor(_round_trip_ns: int, _now_ns: int) -> RateReactor:
            self.reactor = self._make(self.policy)
            return self.reactor

        return Session(
            Beginning(
                session=name,
                flow=FLOW,
                key=SENDS if role is not Role.RECEIVER_PAYS else ARRIVES,
                role=role,
                task=self.policy.name if pays else "",
                policy=self.policy if pays else None,
                adapts=False,
                program="",
                title="udp 10.0.0.1:4000 → 10.0.0.2:5004",
                round_trip_ns=100 * MS,
            ),
            prices=self.prices,
            number=lambda: self._numbers[at].next(SESSION, self.moment.unix_ms),
            make_reactor=reactor if pays else None,
            purse=self._purse() if pays else None,
            moment=self.moment,
        )

    def _purse(self) -> TaskPurse:
        return TaskPurse(self.policy, book=self.book, days=self.days, prices=self.prices, moment=self.moment)

    @property
    def moment(self) -> Moment:
        return Moment(ns=self.now_ms * MS, unix_ms=T0 + self.now_ms)

    @property
    def rate_bit_s(self) -> int:
        if self.stubborn_bit_s is not None:
            return self.stubborn_bit_s
        paced = self.sender.paced
        if paced is None or paced.pace_bit_s is None:
            return self.own_rate_bit_s
        return min(paced.pace_bit_s, self.own_rate_bit_s)

    def run(self, duration_ms: int) -> None:
        end_ms = self.now_ms + duration_ms
        while self.now_ms < end_ms:
            paced = self.sender.paced
            self.path.carry(self.rate_bit_s, STEP_MS, ect=paced is not None and paced.answers_marks)
            self.now_ms += STEP_MS
            self._turn()

    def meter(self, key: FlowKey) -> FlowMeter:
        sends = key == SENDS
        return FlowMeter(
            key=key,
            program_number=1,
            process_id=0,
            traffic_class=1,
            sent=self.path.sent if sends else Tally(),
            received=Tally() if sends else self.path.received,
            first_ns=0,
            last_ns=self.now_ms * MS,
        )

    def _turn(self) -> None:
        for to, datagram in self.wire.arrived(self.now_ms):
            self._hear(to, datagram)
        moment = self.moment
        if self.sender.next_ns <= moment.ns:
            readings = Readings(meter=self.meter(SENDS), view=self.view)
            self._say(SOURCE, DESTINATION, self.sender.on_interval(moment, readings))
        if self.receiver is not None and self.receiver.next_ns <= moment.ns:
            readings = Readings(meter=self.meter(ARRIVES))
            self._say(DESTINATION, SOURCE, self.receiver.on_interval(moment, readings))
        for counted in list(self.aggregator.all()):
            if counted.next_ns <= moment.ns:
                self.report()

    def report(self, *, extra: bool = False) -> None:
        report = self.aggregator.report(SESSION, self.meter(ARRIVES).received, self.moment.ns, extra=extra)
        self.reports.append((self.now_ms, report))
        self._say(DESTINATION, SOURCE, [report])

    def _say(self, of: str, to: str, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, TargetRate):
                self.targets.append((self.now_ms, message))
            self.wire.send(self.now_ms, to, write(self._keys[of], message))

    def _hear(self, to: str, datagram: bytes) -> None:
        if to == DESTINATION and not self.has_agent:
            return
        believed = self._readers[to].read(datagram)
        assert isinstance(believed, Believed)
        disbelief = self._readers[to].is_new(believed, self.moment.unix_ms)
        if disbelief is not None:
            self.disbelieved.append(disbelief)
            return
        message, moment = believed.message, self.moment
        if isinstance(message, MarkReport):
            self.sender.on_report(message, moment)
        elif isinstance(message, TargetRate):
            self.sender.on_target(message, moment)
        elif self.receiver is not None:
            self.receiver.on_terms(message, moment)
        else:
            assert isinstance(message, SessionTerms)
            is_first = self.aggregator.get(SESSION) is None
            self.aggregator.on_terms(message, peer=believed.peer.fingerprint, key=ARRIVES, now_ns=moment.ns)
            if is_first and self.aggregator.get(SESSION) is not None:
                self.aggregator.begin(SESSION, self.meter(ARRIVES).received)
