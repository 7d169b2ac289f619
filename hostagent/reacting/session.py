"""One session at one end: what it hears becomes a rate, and the rate what is asked of the engine or of the far end.

Decides: who does what in each role, when terms are said again, what is paced, and when the session is over. Refuses to
know: sockets, clocks, signatures, files; how a reactor comes to its rate. Pure.

Roles. `SENDER_PAYS`: the flow leaves here and the reactor is here; the far end counts (`aggregator`). `RECEIVER_PAYS`:
the flow arrives here and the reactor is here, with our own engine's count; the far end is told a target rate in each
interval. `OBEYS`: the flow leaves here, its receiver pays; we pace it as we are told. A receiver whose sender pays has
no session at all, only an aggregator.

Nothing is ever said of why: messages have room for counts, rates and intervals only (DPH-07).

Without feedback the reactor holds and then lets go, and so does who obeys: no pace, and marks are the transport's to
answer again. Source: M3I scenarios 3.3.2 and 3.3.5.2; DPH-05, DPH-06, DPH-08.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from billpay.messages import Echo, FlowSelector, Message
from billpay.sessions import MarkReport, Payer, SessionTerms, TargetRate
from dataplane.host_engine import PacedFlow
from dataplane.marks_seen import SenderView
from dataplane.metering import FlowKey, FlowMeter, Tally
from hostagent import api
from hostagent.reacting.aggregator import SteadyCount
from hostagent.reacting.evidence import Evidence, MarkCount, Moment, count_of
from hostagent.reacting.money import TaskPurse
from hostagent.reacting.obedience import Obedience
from hostagent.reacting.prices import Prices
from pricereactor.policies import Revaluable
from pricereactor.policy import TaskKind, TaskPolicy, revalued
from pricereactor.rates import RateDecision, RateReactor, Verdict
from pricereactor.signals import NS_PER_S, PriceSignal, Source

MS = 1_000_000
LEAST_PACE_BIT_S = 8_000
AS_THE_POLICY_SAYS = 1_000_000
MOST_PACE_BIT_S = 400_000_000_000

TERMS_AGAIN_NS = 10 * NS_PER_S
TERMS_FIRST_NS = 100 * MS
TERMS_UNANSWERED_NS = NS_PER_S

OBEYING_INTERVAL_NS = 100 * MS
"""What who obeys asks to be told a rate in, at least: a round trip is longer on few paths."""

HOLD_INTERVALS = 8
HOLD_NS = NS_PER_S
"""Who obeys holds its last target through so many silent intervals, at least so long."""

USUAL_PACKET_BYTES = 1_500

MORE_THAN_SENT = 2
MORE_PACKETS_THAN_SENT = 1_000
"""What a report may count beyond what we had counted last: what left meanwhile, or while our engine was away."""

FORGET_NS = 60 * NS_PER_S
"""A sender whose terms were not heard for so long is gone."""

ANEW_NS = 10 * NS_PER_S
"""A sender's agent begins anew no more often."""

CUT_SAID = 3
"""A sender that does not obey is told to stop so often: a message can be lost."""

SHOWN_EVERY_NS = NS_PER_S
"""Figures that only drift are news so often; a rate or a verdict is at once."""


class Role(Enum):
    SENDER_PAYS = "sender pays"
    RECEIVER_PAYS = "receiver pays"
    OBEYS = "obeys"


ReactorMaker = Callable[[int, int], RateReactor]
"""Of a round trip and of now, in nanoseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What a session is, from its first moment on. `round_trip_ns`: as far as it is known, or a usual one."""

    session: str
    flow: FlowSelector  # from its sender to its receiver
    key: FlowKey  # as our engine has it
    role: Role
    task: str
    policy: TaskPolicy | None
    adapts: bool
    program: str
    title: str  # as `api.Flow.flow`
    round_trip_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What the engine and the transport have counted by now. None: not known."""

    meter: FlowMeter | None = None
    view: SenderView | None = None


NOTHING_READ = Readings()


class _Recent:
    """What arrived over about the last second."""

    def __init__(self) -> None:
        self._signals: deque[PriceSignal] = deque()
        self._ns = 0

    def add(self, signal: PriceSignal) -> None:
        self._signals.append(signal)
        self._ns += signal.interval_ns
        while len(self._signals) > 1 and self._ns - self._signals[0].interval_ns >= NS_PER_S:
            self._ns -= self._signals.popleft().interval_ns

    def rate_bit_s(self) -> int:
        return sum(each.bytes for each in self._signals) * 8 * NS_PER_S // self._ns if self._ns else 0

    def marked_ppm(self) -> int | None:
        packets = sum(each.packets for each in self._signals)
        return sum(each.marks for each in self._signals) * 1_000_000 // packets if packets else None

    def nanodollars_per_mb(self) -> int | None:
        charges = [each.charge_nanodollars for each in self._signals]
        known = [charge for charge in charges if charge is not None]
        carried = sum(each.bytes for each in self._signals)
        return sum(known) * 1_000_000 // carried if carried and len(known) == len(charges) else None


class _Asked:
    """Receiver pays: what a sender that obeys can have sent at most; what was asked for holds for a while."""

    def __init__(self, hold_ns: int) -> None:
        self.hold_ns = hold_ns
        self._targets: deque[tuple[int, int]] = deque()  # until when it may hold, bits a second
        self._bit_ns = 0
        self._last_ns: int | None = None
        self.packet_bytes = USUAL_PACKET_BYTES

    def on_target(self, target_bit_s: int, now_ns: int) -> None:
        self.packets(now_ns)
        self._targets.append((now_ns + self.hold_ns, target_bit_s))

    def packets(self, now_ns: int) -> int:
        """By now."""
        if self._last_ns is not None:
            highest = max((rate for _, rate in self._targets), default=0)
            self._bit_ns += highest * (now_ns - self._last_ns)
        self._last_ns = now_ns
        while self._targets and self._targets[0][0] < now_ns:
            self._targets.popleft()
        return -(-self._bit_ns // (8 * NS_PER_S * self.packet_bytes))


class Session:
    """Call `on_interval` when `next_ns` has come, and send what it gives. `number` gives the next sequence number."""

    def __init__(
        self,
        beginning: Beginning,
        *,
        prices: Prices,
        number: Callable[[], int],
        make_reactor: ReactorMaker | None,
        purse: TaskPurse | None,
        moment: Moment,
        marks_survive: Callable[[], bool] = lambda: True,
    ) -> None:
        """`marks_survive`: False once the way of what we send is known to take ECN off, or to drop what has it."""
        self.beginning = beginning
        self.wire = beginning.session  # how both ends call it; a receiver that pays hears it from its sender
        self.is_over = False
        self.worth_ppm = AS_THE_POLICY_SAYS
        self._prices = prices
        self._number_next = number
        self._make_reactor = make_reactor
        self._purse = purse
        self._moment = moment
        self._since = moment
        self._marks_survive = marks_survive if beginning.role is not Role.RECEIVER_PAYS else lambda: True
        self._evidence = Evidence(prices, begun_ns=moment.ns, marks_survive=self._marks_survive)
        self._recent = _Recent()
        self._decision = RateDecision(target_bit_s=None, verdict=Verdict.LET_GO, reason="nothing was heard yet")
        self._source = ""
        self._sent = SteadyCount()
        self._received = SteadyCount()
        self._has_counts = False  # the first reading is where counting begins
        self._heard_ns: int | None = None  # from the far end
        self._terms_ns = moment.ns
        self._terms_wait_ns = TERMS_FIRST_NS
        self._obedience = Obedience()
        self._asked = _Asked(0)
        self._begun_anew_ns = moment.ns
        self._is_cut = False
        self._cut_said = 0
        self._number = 1
        self._shown_ns = moment.ns
        self._reactor: RateReactor | None = None
        self._interval_ns = _whole_ms(max(OBEYING_INTERVAL_NS, beginning.round_trip_ns))
        if beginning.role is Role.SENDER_PAYS:
            self._start_reactor(beginning.round_trip_ns, moment)
        self.next_ns = moment.ns

    def _start_reactor(self, round_trip_ns: int, moment: Moment) -> None:
        assert self._make_reactor is not None, "who pays has a policy"
        self._reactor = self._make_reactor(round_trip_ns, moment.ns)
        self._interval_ns = _whole_ms(self._reactor.interval_ns)
        if self.worth_ppm != AS_THE_POLICY_SAYS:
            self.revalue(self.worth_ppm)
        if self._purse is not None:
            # Who obeys holds a rate until it gives up; our own pace is set anew in two intervals at the latest.
            sends = self.role is Role.SENDER_PAYS
            self._purse.begin(hold_ns=2 * self._interval_ns if sends else self._patience_ns)

    def revalue(self, worth_ppm: int) -> bool:
        """From its next interval on, also of a reactor that is still to come. False: its reactor cannot."""
        policy = self.beginning.policy
        assert policy is not None, "who pays has a policy"
        if self._reactor is not None:
            if not isinstance(self._reactor, Revaluable):
                return False
            self._reactor.revalue(revalued(policy, worth_ppm))
        self.worth_ppm = worth_ppm
        self._number += 1
        return True

    # --- what is heard ------------------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        return self.beginning.role

    @property
    def interval_ns(self) -> int:
        return self._interval_ns

    def on_report(self, report: MarkReport, moment: Moment) -> None:
        """The far end's count. The reactor recalculates as soon as it is there."""
        if self.role is not Role.SENDER_PAYS:
            return
        sent = self._sent.total.packets
        if self._has_counts and report.packets > MORE_THAN_SENT * sent + MORE_PACKETS_THAN_SENT:
            return  # nobody can charge for packets that never left
        if self._evidence.marks.on_count(count_of(report)):
            self._on_far_end(moment)

    def on_echo(self, echo: Echo, *, amount_nanodollars: int, moment: Moment) -> None:
        """What was left of our payments at the far end."""
        if self.role is Role.SENDER_PAYS:
            self._evidence.tolls.on_echo(echo, amount_nanodollars=amount_nanodollars, now_ns=moment.ns)
            self._on_far_end(moment)

    def _on_far_end(self, moment: Moment) -> None:
        self._heard_ns = moment.ns
        # Half an interval at least, so that two reports that come together do not count as two intervals.
        self.next_ns = min(self.next_ns, max(moment.ns, self._moment.ns + self._interval_ns // 2))

    def on_terms(self, terms: SessionTerms, moment: Moment) -> None:
        """Receiver pays: the sender's agent is there, and would obey."""
        if self.role is not Role.RECEIVER_PAYS or self._is_cut:
            return
        if terms.ends:
            self.is_over = True
            return
        is_other = terms.session != self.wire
        if is_other and self._reactor is not None and moment.ns - self._begun_anew_ns < ANEW_NS:
            return  # who always begins anew would never be judged
        self._heard_ns = moment.ns
        if self._reactor is None or is_other:  # its first word, or its agent has begun anew
            self.wire = terms.session
            self._begun_anew_ns = moment.ns
            self._start_reactor(terms.interval_ms * MS, moment)
            self._obedience = Obedience()
            self._asked.hold_ns = self._patience_ns
            self.next_ns = moment.ns

    def on_new_day(self, moment: Moment) -> None:
        """A reactor that stopped for good, since the day's budget was used up, is made anew with the new day's."""
        policy = self.beginning.policy
        if policy is None or policy.day_budget_nanodollars is None or self._is_cut:
            return
        if policy.kind is not TaskKind.ELASTIC:  # a transfer is planned to its end, and its end is for good
            return
        if self._reactor is not None and self._decision.verdict is Verdict.STOP:
            self._start_reactor(self._interval_ns, moment)

    def on_target(self, target: TargetRate, moment: Moment) -> None:
        """Obeys: what the receiver asks for, from now on."""
        if self.role is not Role.OBEYS:
            return
        self._heard_ns = moment.ns
        if target.lets_go:
            decision = RateDecision(target_bit_s=None, verdict=Verdict.LET_GO, reason="the receiver lets it go")
        elif target.target_bit_s == 0:
            decision = RateDecision(target_bit_s=0, verdict=Verdict.STOP, reason="the receiver asks to stop")
        else:
            decision = RateDecision(target_bit_s=target.target_bit_s, reason="the rate that the receiver asks for")
        self._decide(decision, moment)

    def on_price(self) -> None:
        """A provider has said a price: what was counted before may cost something now."""
        if self._evidence.on_price() and self._purse is not None:
            self._purse.on_spent(self._evidence.spent_nanodollars)

    def at_price_change(self, moment: Moment, readings: Readings) -> None:
        """Receiver pays: what arrived up to now is charged at the old price. The reactor is not asked."""
        if self.role is Role.RECEIVER_PAYS and self._has_counts and not self._is_cut:
            self._count(moment, readings)

    # --- an interval is over ------------------------------------------------------------------------------------------

    def on_interval(self, moment: Moment, readings: Readings) -> list[Message]:
        """What is to be sent now. Calls it early at will: only readings since the last time count."""
        if self.role is Role.SENDER_PAYS:
            messages = self._pay_for_sending(moment, readings)
        elif self.role is Role.RECEIVER_PAYS:
            messages = self._pay_for_receiving(moment, readings)
        else:
            messages = self._obey(moment, readings)
        self._moment = moment
        # A report that is due in an interval may be half of one late; then nothing was heard.
        waits = self.role is Role.SENDER_PAYS and self._heard_ns is not None
        self.next_ns = moment.ns + (self._interval_ns * 3 // 2 if waits else self._interval_ns)
        if moment.ns - self._shown_ns >= SHOWN_EVERY_NS:
            self._is_news(moment)
        return messages

    def _pay_for_sending(self, moment: Moment, readings: Readings) -> list[Message]:
        before, sent = self._sent.total, self._own(self._sent, readings, sends=True)
        signal = self._evidence.signal(moment, view=readings.view, sent=sent, hides_marks=self._answers_marks)
        if signal is not None and signal.packets == 0 and sent is not None and sent.packets > before.packets:
            signal = None  # what left did not arrive: nothing was learnt of the price
        self._react(moment, signal)
        return self._terms_due(moment, Payer.SENDER)

    def _pay_for_receiving(self, moment: Moment, readings: Readings) -> list[Message]:
        if self._is_cut:
            return self._say_cut()
        if self._heard_ns is not None and moment.ns - self._heard_ns >= FORGET_NS:
            self._forget_sender(moment)
        if self._reactor is None:
            return []
        arrived_before = self._received.total
        self._count(moment, readings)
        arrived = self._received.total.bytes - arrived_before.bytes
        since_ns = moment.ns - self._moment.ns
        if since_ns > 0:
            self._obedience.on_interval(arrived_bytes=arrived, interval_ns=since_ns)
        if self._obedience.has_left:
            self._cut(moment, arrived * 8 * NS_PER_S // since_ns)
            return self._say_cut()
        signal = self._evidence.signal(
            moment, view=None, sent=None, expects_ect=self._decision.target_bit_s is not None
        )
        self._react(moment, signal if signal is not None and signal.packets else None)
        target = self._decision.target_bit_s
        times = self._obedience.on_target(target)
        self._asked.on_target(target or 0, moment.ns)
        return [self._target(target) for _ in range(times)]

    def _forget_sender(self, moment: Moment) -> None:
        """What was counted and spent stays; its next terms begin as its first ones did."""
        self._reactor = self._heard_ns = None
        self._decide(RateDecision(target_bit_s=None, verdict=Verdict.LET_GO, reason="its sender is silent"), moment)

    def _count(self, moment: Moment, readings: Readings) -> None:
        """Our own engine is the receiver's meter."""
        total = self._own(self._received, readings, sends=False)
        if total is None:
            return
        last = self._evidence.marks.last
        self._evidence.marks.on_count(
            MarkCount(
                unix_ms=max(moment.unix_ms, last.unix_ms + 1) if last is not None else moment.unix_ms,
                counted_ms=(moment.ns - self._since.ns) // MS,
                packets=total.packets,
                bytes=total.bytes,
                marks=total.ce_packets,
                ect_packets=total.ect_packets,
            )
        )

    def _own(self, count: SteadyCount, readings: Readings, *, sends: bool) -> Tally | None:
        """Our engine's count since the session began."""
        if readings.meter is None:
            return count.total if self._has_counts else None
        seen = readings.meter.sent if sends else readings.meter.received
        if not self._has_counts:
            self._has_counts = True
            count.begin(seen)
        return count.add(seen)

    def _obey(self, moment: Moment, readings: Readings) -> list[Message]:
        before, sent = self._sent.total, self._own(self._sent, readings, sends=True)
        if sent is not None and moment.ns > self._moment.ns:
            self._recent.add(_carried(moment, moment.ns - self._moment.ns, before, sent))
        if self._heard_ns is not None and moment.ns - self._heard_ns > self._patience_ns:
            reason = "the receiver is silent: its transport answers congestion"
            self._decide(RateDecision(target_bit_s=None, verdict=Verdict.LET_GO, reason=reason), moment)
            self._heard_ns = None
            self._terms_wait_ns = TERMS_FIRST_NS
            self._terms_ns = moment.ns
        return self._terms_due(moment, Payer.RECEIVER)

    @property
    def _patience_ns(self) -> int:
        return max(HOLD_INTERVALS * self._interval_ns, HOLD_NS)

    def _react(self, moment: Moment, signal: PriceSignal | None) -> None:
        assert self._reactor is not None, "who pays has a reactor"
        if signal is not None:
            self._source = signal.source.value
            self._recent.add(signal)
        decision = self._reactor.on_interval(moment.ns, signal)
        if self._purse is not None:
            decision = self._keep_within(self._purse, decision, moment)
        self._decide(decision, moment)

    def _keep_within(self, purse: TaskPurse, decision: RateDecision, moment: Moment) -> RateDecision:
        evidence, last = self._evidence, self._evidence.marks.last
        if last is not None and evidence.is_billed:
            counted, packets, marks = last.unix_ms, evidence.marks.markable_packets, evidence.marks.marks
            purse.on_count(moment, unix_ms=counted, packets=packets, marks=marks)
        elif evidence.estimated_packets:  # nobody bills it: the budget is kept by our own estimate
            packets, marks = evidence.estimated_packets, evidence.estimated_marks
            purse.on_count(moment, unix_ms=moment.unix_ms, packets=packets, marks=marks)
        purse.on_spent(evidence.spent_nanodollars)
        sends = self.role is Role.SENDER_PAYS
        own = self._sent.total if sends else self._received.total
        self._asked.packet_bytes = _packet_bytes(own)
        if sends:
            sent = own.packets if self._has_counts else None
        else:
            sent = max(self._asked.packets(moment.ns), evidence.marks.markable_packets)
        return purse.within(decision, moment, packet_bytes=_packet_bytes(own), sent_packets=sent)

    def _decide(self, decision: RateDecision, moment: Moment) -> None:
        before, self._decision = self._decision, decision
        if _essence(before) != _essence(decision):
            self._is_news(moment)

    def _is_news(self, moment: Moment) -> None:
        self._number += 1
        self._shown_ns = moment.ns

    def _cut(self, moment: Moment, rate_bit_s: int) -> None:
        asked = self._decision.target_bit_s or 0
        reason = f"cut: the sender does not keep to the rate, {rate_bit_s} bit/s came where {asked} were asked for"
        self._is_cut = True
        self._decide(RateDecision(target_bit_s=0, verdict=Verdict.STOP, reason=reason), moment)

    # --- what is said -------------------------------------------------------------------------------------------------

    def _terms_due(self, moment: Moment, payer: Payer) -> list[Message]:
        """Soon and often until somebody answers, then each ten seconds."""
        if moment.ns < self._terms_ns:
            return []
        answered = self._heard_ns is not None and moment.ns - self._heard_ns < TERMS_AGAIN_NS
        self._terms_ns = moment.ns + (TERMS_AGAIN_NS if answered else self._terms_wait_ns)
        self._terms_wait_ns = min(2 * self._terms_wait_ns, TERMS_UNANSWERED_NS)
        return [self._terms(payer, ends=False)]

    def _terms(self, payer: Payer, *, ends: bool) -> SessionTerms:
        return SessionTerms(
            session=self.wire,
            sequence=self._number_next(),
            flow=self.beginning.flow,
            payer=payer,
            interval_ms=self._interval_ns // MS,
            ends=ends,
        )

    def _target(self, target_bit_s: int | None) -> TargetRate:
        return TargetRate(
            session=self.wire,
            sequence=self._number_next(),
            target_bit_s=0 if target_bit_s is None else min(target_bit_s, MOST_PACE_BIT_S),
            lets_go=target_bit_s is None,
        )

    def _say_cut(self) -> list[Message]:
        self._cut_said += 1
        return [self._target(0)] if self._cut_said <= CUT_SAID else []

    def end(self) -> list[Message]:
        """The session is over; the far end should know."""
        self.is_over = True
        if self._purse is not None:
            self._purse.close(self._moment)
        if self.role is Role.RECEIVER_PAYS:
            return [self._target(None)] if self._reactor is not None and not self._is_cut else []
        return [self._terms(Payer.SENDER if self.role is Role.SENDER_PAYS else Payer.RECEIVER, ends=True)]

    # --- what others see ----------------------------------------------------------------------------------------------

    @property
    def _answers_marks(self) -> bool:
        paced = self.paced
        return paced is not None and paced.answers_marks

    @property
    def wants_view(self) -> bool:
        """Whether the transport's own counts could be of use: no receiver tells us, or its marks are bleached."""
        if self.role is not Role.SENDER_PAYS:
            return False
        return not self._evidence.is_billed or self._evidence.marks.is_bleached or not self._marks_survive()

    @property
    def paced(self) -> PacedFlow | None:
        """What is asked of the engine. None: nothing, the transport has its flow for itself."""
        key, decision = self.beginning.key, self._decision
        if self.is_over or self.role is Role.RECEIVER_PAYS or decision.verdict is Verdict.LET_GO:
            return None
        if decision.verdict is Verdict.STOP or decision.target_bit_s == 0:  # not ECT: nobody can charge for it
            return None if self.beginning.adapts else PacedFlow(key=key, pace_bit_s=LEAST_PACE_BIT_S)
        pace = None
        if not self.beginning.adapts and decision.target_bit_s is not None:
            pace = max(LEAST_PACE_BIT_S, min(decision.target_bit_s, MOST_PACE_BIT_S))
        # ECT only where the far end counts: what is marked unseen is charged all the same. And where it has no agent,
        # the transport has to hear of marks, or nobody here does.
        counts = self.role is Role.OBEYS or self._evidence.marks.last is not None
        return PacedFlow(key=key, pace_bit_s=pace, answers_marks=counts and self._marks_survive())

    @property
    def decision(self) -> RateDecision:
        return self._decision

    @property
    def number(self) -> int:
        return self._number

    @property
    def spent_nanodollars(self) -> int:
        return self._evidence.spent_nanodollars

    def view(self) -> api.Session:
        beginning, policy, evidence = self.beginning, self.beginning.policy, self._evidence
        return api.Session(
            session=beginning.session,
            number=self._number,
            flow=beginning.title,
            program=beginning.program,
            task=beginning.task,
            kind=policy.kind.value if policy is not None else "",
            sends=self.role is not Role.RECEIVER_PAYS,
            pays=self.role is not Role.OBEYS,
            adapts=beginning.adapts,
            verdict=self._decision.verdict.value,
            target_bit_s=self._decision.target_bit_s,
            level=self._decision.level,
            rate_bit_s=self._recent.rate_bit_s(),
            source=self._source,
            billed=evidence.is_billed,
            nanodollars_per_mark=self._prices.price_at(self._moment.unix_ms) if self.role is not Role.OBEYS else None,
            marked_ppm=self._recent.marked_ppm() if self._source else None,
            price_nanodollars_per_mb=self._recent.nanodollars_per_mb() if self._source else None,
            packets=evidence.marks.packets,
            marks=evidence.marks.marks,
            spent_nanodollars=evidence.spent_nanodollars,
            spent_today_nanodollars=self._purse.spent_today() if self._purse is not None else 0,
            session_budget_nanodollars=policy.session_budget_nanodollars if policy is not None else None,
            day_budget_nanodollars=policy.day_budget_nanodollars if policy is not None else None,
            worth_ppm=self.worth_ppm,
            reason=self._reason(),
            since_unix_s=self._since.unix_ms // 1000,
        )

    def _reason(self) -> str:
        if self.role is Role.RECEIVER_PAYS and self._reactor is None:
            return "its sender's agent has not been heard"
        uncharged = self._evidence.bill.uncharged_marks
        unknown = f"; the price of {uncharged} marks is not known" if uncharged else ""
        return self._decision.reason + unknown


def _carried(moment: Moment, interval_ns: int, before: Tally, after: Tally) -> PriceSignal:
    """Who obeys hears no price; what left is all that it can show."""
    return PriceSignal(
        now_ns=moment.ns,
        interval_ns=interval_ns,
        source=Source.RECEIVER_MARKS,
        packets=after.packets - before.packets,
        bytes=after.bytes - before.bytes,
        marks=0,
        charge_nanodollars=None,
    )


def _packet_bytes(count: Tally) -> int:
    return count.bytes // count.packets if count.packets else USUAL_PACKET_BYTES


def _essence(decision: RateDecision) -> tuple[object, ...]:
    return decision.target_bit_s, decision.verdict, decision.level


def _whole_ms(interval_ns: int) -> int:
    """What fits into `SessionTerms`: both ends count the same milliseconds."""
    return min(60_000, max(10, -(-interval_ns // MS))) * MS
