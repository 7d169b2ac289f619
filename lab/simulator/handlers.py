"""The reactor of each flow of an experiment: the product's own, with a policy made from the experiment.

Decides: which policy says the same as a flow of an experiment. Refuses to know: links and packets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from lab.simulator.alphafair import AlphaFairRate
from lab.simulator.experiment import Flow, ReactorKind
from lab.simulator.fluidtasks import stream_policy, transfer_policy
from lab.simulator.sources import PacedSource
from lab.simulator.windows import MulTcpWindow, PricedWindow, Willing, WindowRule
from pricereactor.elastic import ElasticPlan, ElasticRate, rate_if_all_marked
from pricereactor.rates import RateReactor
from pricereactor.streaming import LadderSettings, StreamingLadder
from pricereactor.transfer import TransferByDeadline

_NS_PER_MS = 1_000_000
_LEAST_INTERVAL_NS = 100 * _NS_PER_MS
_STREAMING_INTERVAL_NS = 500 * _NS_PER_MS
_LEAST_RATE_BIT_S = 8_000
_SILENCE_NS = 2_000_000_000
_LARGEST_GAIN = 1000.0  # where nothing bounds it
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A reactor, and the rate at which its flow begins.

    gain_of_bound: the part of the gain at which it would swing.
    remake: the reactor of another willingness to pay, which goes on from a rate. is_plain_law: theory's, not ours.
    """

    reactor: RateReactor
    start_bit_s: int
    gain_of_bound: float | None = None
    remake: Callable[[int, int], RateReactor] | None = None
    is_plain_law: bool = False
    tell_buffer: Callable[[int], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a reactor has to know of the network. `gain_per_s`: κ of the plain law. `end_s`: of its session."""

    access_bit_s: int
    fair_bit_s: int  # if all flows of its links had the same
    end_s: float
    nanodollars_per_mark: int
    longest_rtt_ns: int
    gain_per_s: float
    gain_of_bound: float | None
    weight_mbit_s: float  # of a weight of 1


class StreamSource:
    """Sends one of the ladder's encodings, so that each packet plays for as long as its encoding says."""

    def __init__(self, source: PacedSource, ladder: tuple[float, ...]) -> None:
        self._source = source
        self._ladder = tuple(round(rate) for rate in ladder)

    def set_rate(self, rate_bit_s: int) -> None:
        fitting = [rate for rate in self._ladder if rate <= rate_bit_s]
        self._source.media_rate_bit_s = max(fitting, default=self._ladder[0])
        self._source.set_rate(rate_bit_s)


def is_windowed(flow: Flow) -> bool:
    return flow.reactor.kind in (ReactorKind.WINDOW, ReactorKind.MULTCP, ReactorKind.RENO)


def interval_ns_of(flow: Flow) -> int:
    """An RTT, 100 ms at least; a stream half a second, so that two fit into its price's memory."""
    given = flow.reactor.interval_ms
    if given is not None:
        return round(given * _NS_PER_MS)
    least = _STREAMING_INTERVAL_NS if flow.reactor.kind is ReactorKind.STREAMING else _LEAST_INTERVAL_NS
    return max(least, round(flow.rtt_ms * _NS_PER_MS))


def window_of(flow: Flow, *, nanodollars_per_mark: int) -> WindowRule:
    match flow.reactor.kind:
        case ReactorKind.MULTCP:
            return MulTcpWindow(flow.weight)
        case ReactorKind.RENO:
            return MulTcpWindow()
        case _:
            willing = Willing(
                nanodollars_per_s=flow.willingness_nanodollars_per_s,
                nanodollars_per_mark=nanodollars_per_mark,
                round_trip_ns=round(flow.rtt_ms * _NS_PER_MS),
            )
            given = flow.reactor.gain_per_s  # κ = κ̄/T
            return PricedWindow(willing, gain=None if given is None else given * flow.rtt_ms / 1000)


def handler_of(flow: Flow, terms: Terms) -> Handler:
    """The reactor of a paced flow. A gain that the product refuses, or one of theory's law, has theory's law."""
    reactor = flow.reactor
    match reactor.kind:
        case ReactorKind.STREAMING:
            return _streaming(flow, terms)
        case ReactorKind.TRANSFER:
            return _transfer(flow, terms)
        case ReactorKind.ELASTIC if reactor.gain_per_s is None and (reactor.gain_of_bound or 0) < 1:
            return _elastic(flow, terms)
        case _:
            return _plain(flow, terms)


def _elastic(flow: Flow, terms: Terms) -> Handler:
    settings, interval_ns = flow.reactor, interval_ns_of(flow)
    willing = round(flow.willingness_nanodollars_per_s)
    price = terms.nanodollars_per_mark
    start = rate_if_all_marked(willing, price, flow.packet_bytes) if price else 0
    least = max(_LEAST_RATE_BIT_S, round(settings.min_bit_s))
    plan = ElasticPlan(
        willingness_nanodollars_per_s=willing,
        min_bit_s=least,
        max_bit_s=max(least, terms.access_bit_s),
        start_bit_s=max(least, min(start, terms.access_bit_s)),
        interval_ns=interval_ns,
        longest_round_trip_ns=terms.longest_rtt_ns,
        silence_ns=max(_SILENCE_NS, 4 * interval_ns),
    )
    if settings.gain_of_bound is not None:
        plan = replace(plan, gain=settings.gain_of_bound * min(plan.largest_gain, _LARGEST_GAIN))

    def remake(willingness_nanodollars_per_s: int, rate_bit_s: int) -> ElasticRate:
        return ElasticRate(
            replace(plan, willingness_nanodollars_per_s=willingness_nanodollars_per_s, start_bit_s=rate_bit_s)
        )

    bound = plan.largest_gain
    return Handler(
        reactor=ElasticRate(plan),
        start_bit_s=plan.start_bit_s or least,
        gain_of_bound=plan.used_gain / bound if 0 < bound < math.inf else None,
        remake=remake,
    )


def _plain(flow: Flow, terms: Terms) -> Handler:
    settings, unit = flow.reactor, terms.weight_mbit_s
    least = max(_LEAST_RATE_BIT_S, round(settings.min_bit_s))

    def make(weight: float, start_bit_s: int) -> AlphaFairRate:
        return AlphaFairRate(
            weight=weight,
            alpha=settings.alpha if settings.kind is ReactorKind.ALPHA_FAIR else 1.0,
            reference_bit_s=settings.reference_bit_s or 1e6,
            gain_per_s=terms.gain_per_s,
            interval_ns=interval_ns_of(flow),
            start_bit_s=start_bit_s,
            least_bit_s=least,
            most_bit_s=max(least, terms.access_bit_s),
        )

    def remake(willingness_nanodollars_per_s: int, rate_bit_s: int) -> AlphaFairRate:
        ratio = willingness_nanodollars_per_s / flow.willingness_nanodollars_per_s
        return make(flow.weight * unit * ratio, rate_bit_s)

    start = max(least, terms.fair_bit_s // 2)
    return Handler(
        reactor=make(flow.weight * unit, start),
        start_bit_s=start,
        gain_of_bound=terms.gain_of_bound,
        remake=remake,
        is_plain_law=settings.kind is ReactorKind.ELASTIC,
    )


def _streaming(flow: Flow, terms: Terms) -> Handler:
    settings, start_ns = flow.reactor, round(flow.start_s * _NS_PER_S)
    stream = StreamingLadder(
        stream_policy(flow),
        now_ns=start_ns,
        interval_ns=interval_ns_of(flow),
        session_ns=max(1, round(terms.end_s * _NS_PER_S) - start_ns),
        settings=LadderSettings(hysteresis=settings.hysteresis, dwell_ns=round(settings.dwell_s * _NS_PER_S)),
    )
    return Handler(reactor=stream, start_bit_s=round(settings.ladder_bit_s[0]), tell_buffer=stream.on_buffer)


def _transfer(flow: Flow, terms: Terms) -> Handler:
    settings = flow.reactor
    transfer = TransferByDeadline(
        transfer_policy(flow),
        now_ns=round(flow.start_s * _NS_PER_S),
        interval_ns=interval_ns_of(flow),
        access_bit_s=terms.access_bit_s,
    )
    needed = (settings.size_bytes or 0) * 8 / (settings.deadline_s or 1.0)
    return Handler(reactor=transfer, start_bit_s=round(min(terms.access_bit_s, max(_LEAST_RATE_BIT_S, needed))))
