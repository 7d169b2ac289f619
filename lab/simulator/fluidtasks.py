"""Streams, transfers and exact elastic flows of the fluid mode: the product's own reactors, asked in their interval.

Decides: what such a reactor hears of a fluid (whole packets and marks; fractions are kept for the next interval).
Refuses to know: links, delays. A reactor that lets go or stops has its least rate or none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lab.simulator.experiment import Experiment, Flow, ReactorKind
from pricereactor.elastic import ElasticPlan, ElasticRate, plan_of
from pricereactor.policy import TaskKind, TaskPolicy, ValuePoint
from pricereactor.rates import RateReactor, Verdict
from pricereactor.signals import NS_PER_S, PriceSignal, Source
from pricereactor.streaming import LadderSettings, StreamingLadder
from pricereactor.transfer import TransferByDeadline

Array = NDArray[np.float64]

_STREAM_INTERVAL_MS = 500.0
_TRANSFER_INTERVAL_MS = 100.0
_ELASTIC_INTERVAL_MS = 100.0
_LEAST_RATE_BIT_S = 8_000
_VALUE_POINTS = 16


@dataclass(slots=True, kw_only=True)
class _Task:
    flow: Flow
    reactor: RateReactor
    rate_bit_s: float
    due_s: float
    bits: float = 0.0
    marks: float = 0.0
    charge: float = 0.0
    switches: int = 0
    finished_s: float | None = None
    levels: list[int] = field(default_factory=list)


def is_decided(flow: Flow) -> bool:
    """Whether a reactor of the product decides its rate."""
    kind = flow.reactor.kind
    return kind in (ReactorKind.STREAMING, ReactorKind.TRANSFER) or (kind is ReactorKind.ELASTIC and flow.reactor.exact)


class Tasks:
    """Those of an experiment, by the number of their flow."""

    def __init__(self, experiment: Experiment) -> None:
        self._price = float(experiment.price_nanodollars_per_mark)
        price = experiment.price_nanodollars_per_mark
        self._tasks = {number: _task(flow, price) for number, flow in enumerate(experiment.flows) if is_decided(flow)}

    def numbers(self) -> NDArray[np.intp]:
        """Of their flows."""
        return np.array(sorted(self._tasks), dtype=np.intp)

    def rate_bit_s(self, number: int) -> float:
        return self._tasks[number].rate_bit_s

    def switches(self, number: int) -> int | None:
        task = self._tasks.get(number)
        return task.switches if task is not None and task.flow.reactor.kind is ReactorKind.STREAMING else None

    def finished_s(self, number: int) -> float | None:
        return self._tasks[number].finished_s if number in self._tasks else None

    def on_step(self, now_s: float, dt_s: float, rates: Array, q: Array, share: Array) -> None:
        """What the step carried, and a decision where one is due."""
        for number, task in self._tasks.items():
            if now_s < task.flow.start_s or (task.flow.stop_s is not None and now_s >= task.flow.stop_s):
                task.due_s = max(task.due_s, now_s)
                continue
            bits = float(rates[number]) * dt_s
            marks = bits / task.flow.packet_bits
            task.bits += bits
            task.marks += marks * float(share[number])
            task.charge += marks * float(q[number]) * self._price
            if now_s + dt_s >= task.due_s:
                self._decide(task, now_s + dt_s)

    def _decide(self, task: _Task, now_s: float) -> None:
        reactor, now_ns = task.reactor, round(now_s * NS_PER_S)
        task.due_s = now_s + reactor.interval_ns / NS_PER_S
        if task.finished_s is not None:
            return
        decision = reactor.on_interval(now_ns, _heard(task, now_ns, reactor.interval_ns))
        ladder = task.flow.reactor.ladder_bit_s
        rate = decision.target_bit_s
        if rate is None:
            rate = round(ladder[0]) if ladder else _LEAST_RATE_BIT_S
        if decision.verdict is Verdict.STOP:
            rate = 0
        task.switches += bool(task.levels) and decision.level is not None and task.levels[-1] != decision.level
        if decision.level is not None:
            task.levels = [decision.level]
        if isinstance(reactor, TransferByDeadline) and reactor.left_bytes < task.flow.packet_bytes:
            task.finished_s, rate = now_s, 0  # what is less than a packet never leaves a fluid
        task.rate_bit_s = float(rate)


def _heard(task: _Task, now_ns: int, interval_ns: int) -> PriceSignal:
    """Whole packets, marks and nanodollars; what is left over is heard the next time."""
    packet_bytes = task.flow.packet_bytes
    packets = int(task.bits / task.flow.packet_bits)
    marks, charge = min(int(task.marks), packets), int(task.charge)
    task.bits -= packets * task.flow.packet_bits
    task.marks -= marks
    task.charge -= charge
    return PriceSignal(
        now_ns=now_ns,
        interval_ns=interval_ns,
        source=Source.RECEIVER_MARKS,
        packets=packets,
        bytes=packets * packet_bytes,
        marks=marks,
        charge_nanodollars=charge,
    )


def _task(flow: Flow, price_nanodollars_per_mark: int) -> _Task:
    settings, start_ns = flow.reactor, round(flow.start_s * NS_PER_S)
    usual_ms = {
        ReactorKind.STREAMING: _STREAM_INTERVAL_MS,
        ReactorKind.TRANSFER: _TRANSFER_INTERVAL_MS,
        ReactorKind.ELASTIC: max(_ELASTIC_INTERVAL_MS, flow.rtt_ms),
    }
    interval_ms = settings.interval_ms or usual_ms[settings.kind]
    interval_ns = round(interval_ms * 1e6)
    reactor: RateReactor
    if settings.kind is ReactorKind.STREAMING:
        reactor = StreamingLadder(
            stream_policy(flow),
            now_ns=start_ns,
            interval_ns=interval_ns,
            settings=LadderSettings(hysteresis=settings.hysteresis, dwell_ns=round(settings.dwell_s * NS_PER_S)),
        )
        reactor.on_buffer(settings.buffer_ms * 1_000_000)
        first = settings.ladder_bit_s[0]
    elif settings.kind is ReactorKind.TRANSFER:
        reactor = TransferByDeadline(transfer_policy(flow), now_ns=start_ns, interval_ns=interval_ns)
        first = (settings.size_bytes or 0) * 8 / (settings.deadline_s or 1.0)
    else:
        plan = elastic_plan(flow, price_nanodollars_per_mark, interval_ns)
        reactor = ElasticRate(plan)
        first = plan.start_bit_s or plan.min_bit_s
    return _Task(flow=flow, reactor=reactor, rate_bit_s=float(first), due_s=flow.start_s + interval_ms / 1e3)


def elastic_plan(flow: Flow, price_nanodollars_per_mark: int, interval_ns: int) -> ElasticPlan:
    """gain_per_s and gain_of_bound are of the theory's law: the product's own has its own gain."""
    policy = TaskPolicy(
        name="elastic",
        willingness_nanodollars_per_s=round(flow.willingness_nanodollars_per_s),
        min_bit_s=max(_LEAST_RATE_BIT_S, round(flow.reactor.min_bit_s)),
        max_bit_s=None if flow.reactor.max_bit_s is None else round(flow.reactor.max_bit_s),
    )
    return plan_of(
        policy,
        interval_ns=interval_ns,
        nanodollars_per_mark=price_nanodollars_per_mark,
        packet_bytes=flow.packet_bytes,
        longest_round_trip_ns=max(100_000_000, round(flow.rtt_ms * 1e6)),
    )


def stream_policy(flow: Flow) -> TaskPolicy:
    """With a value of its own it has no other limit; else the highest step is worth the willingness to pay."""
    settings, name = flow.reactor, "stream"
    ladder = tuple(round(rate) for rate in settings.ladder_bit_s)
    if not settings.value_nanodollars_per_s:
        return TaskPolicy(
            name=name,
            kind=TaskKind.STREAMING,
            ladder_bit_s=ladder,
            min_bit_s=_LEAST_RATE_BIT_S,
            willingness_nanodollars_per_s=round(flow.willingness_nanodollars_per_s),
            most_switches_per_minute=600,
        )
    base = settings.value_rate_bit_s or ladder[0]
    value = tuple(
        ValuePoint(rate_bit_s=rate, nanodollars_per_s=round(settings.value_nanodollars_per_s * math.log1p(rate / base)))
        for rate in ladder[:_VALUE_POINTS]
    )
    return TaskPolicy(
        name=name,
        kind=TaskKind.STREAMING,
        ladder_bit_s=ladder,
        min_bit_s=_LEAST_RATE_BIT_S,
        value=value,
        most_switches_per_minute=600,
    )


def transfer_policy(flow: Flow) -> TaskPolicy:
    settings = flow.reactor
    return TaskPolicy(
        name="transfer",
        kind=TaskKind.TRANSFER,
        size_bytes=settings.size_bytes,
        deadline_s=round(settings.deadline_s or 1),
        min_bit_s=max(_LEAST_RATE_BIT_S, round(settings.min_bit_s)),
        max_bit_s=None if settings.max_bit_s is None else round(settings.max_bit_s),
        willingness_nanodollars_per_s=round(flow.willingness_nanodollars_per_s),
    )
