"""Part 5: a stream goes down and up its stairs, and a file is there by its deadline.

Decides: what is asked of a stair: within a tenth of where the closed form has it. Refuses to know: how tasks decide.

The staircase is the product's reactor under a price that rises and falls slowly, with no network, so that the price is
known exactly: down where c > c_k (1 + h), up where c < c_k (1 − h), c_k = (U(r_(k+1)) − U(r_k))/(r_(k+1) − r_k)
(algorithms C.4). On packets twice: beside eight elastic users of a link five times as wide, whose willingness doubles
again and again and falls again, so that the stream itself hardly moves the price; and on the protocol's own link, where
it does, beside cross traffic of 0, 0.5, 0.9 and 0.2 of the link in four equal times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lab.dph.effort import Effort
from lab.dph.statistics import mean_of
from lab.dph.values import Expectation, Mean, PartResult, Value, expect
from lab.dph.worlds import AVQ, CAPACITY_BIT_S, PRICE, VQ, Table, bottleneck
from lab.simulator.packets import PacketRun
from lab.simulator.results import Results
from pricereactor.policy import TaskKind, TaskPolicy
from pricereactor.signals import NS_PER_S, PriceSignal, Source
from pricereactor.streaming import LadderSettings, StreamingLadder, best_rungs, ladder_values, thresholds

LADDER: Final = tuple(round(rate * 0.6) for rate in (300_000, 750_000, 1_200_000, 1_850_000, 2_850_000, 4_300_000))
"""The protocol's, so that the highest is two thirds of the link."""
WILLING: Final = 100_000
INTERVAL_NS: Final = 500_000_000
HYSTERESIS: Final = 0.15
NEAR: Final = 0.10
CROSS: Final = (0.0, 0.5, 0.9, 0.2)
MOST_SWITCHES_PER_MINUTE: Final = 12.0
"""What a task allows unless it says otherwise, and what a dwell of five seconds leaves."""
MOST_STALLED: Final = 0.01
WIDE_BIT_S: Final = 5 * CAPACITY_BIT_S
WIDE_USERS: Final = 8
WIDE_PRICE: Final = 2_000
WIDE_WILLING: Final = (200_000, 400_000, 800_000, 1_600_000, 3_200_000, 1_600_000, 800_000, 400_000, 200_000)
"""Of all elastic users there, in turn: times 0.4 s/MB that is the price of a megabyte."""
FILE_BYTES: Final = 20_000_000
DEADLINE_S: Final = 120


class Step(Value, frozen=True, kw_only=True):
    """price: of a bit, in nanodollars."""

    at_s: float
    price: float
    level: int


class Switch(Value, frozen=True, kw_only=True):
    """expected: the closed form's price for it, with hysteresis."""

    lower_level: int
    goes_up: bool
    price: float
    expected: float


class Period(Value, frozen=True, kw_only=True):
    """One of the four times of the run with cross traffic. level: the mean of its second half."""

    cross_share: float
    level: Mean
    price_nanodollars_per_mb: Mean


class Price(Value, frozen=True, kw_only=True):
    """One time of the run with elastic users: mean level of its second half, and the levels that its price leaves."""

    price_nanodollars_per_mb: Mean
    level: Mean
    lowest_level: int
    highest_level: int


class Transfer(Value, frozen=True, kw_only=True):
    deadline_s: float
    finished_s: Mean | None
    late: int
    runs: int
    paid_nanodollars: Mean


class Tasks(PartResult, frozen=True, kw_only=True):
    """first: of the first seed, levels over time for the drawing."""

    ladder_bit_s: tuple[int, ...]
    thresholds: tuple[float, ...]
    staircase: tuple[Step, ...]
    switches: tuple[Switch, ...]
    wide: tuple[Price, ...]
    periods: tuple[Period, ...]
    first: tuple[tuple[float, int], ...]
    switches_per_minute: Mean
    stalls: Mean
    stalled_share: Mean
    transfer: Transfer


def policy() -> TaskPolicy:
    return TaskPolicy(
        name="film",
        kind=TaskKind.STREAMING,
        ladder_bit_s=LADDER,
        willingness_nanodollars_per_s=WILLING,
        most_switches_per_minute=600,
    )


def run(effort: Effort) -> Tasks:
    (doubling_s,) = effort.pick(full=(90.0,), quick=(60.0,), tiny=(30.0,))
    stairs, switches = staircase(doubling_s)
    seeds = range(1, effort.seeds + 1)
    (length,) = effort.pick(full=(240.0,), quick=(240.0,), tiny=(40.0,))
    streams = effort.each(measure_stream, [StreamRun(seed=seed, seconds=length) for seed in seeds])
    wide_s = len(WIDE_WILLING) * (4.0 if effort.is_tiny else 40.0)
    # The wide link has five times the packets: a quarter of the seeds is a quarter of the time that it would take.
    few = seeds[: max(1, effort.seeds // 4 if not effort.is_quick else 2)]
    sweeps = effort.each(measure_sweep, [StreamRun(seed=seed, seconds=wide_s) for seed in few])
    wide = tuple(_price_point(number, sweeps) for number in range(len(WIDE_WILLING)))
    transfers = effort.each(measure_transfer, list(seeds)[: 1 if effort.is_tiny else None])
    periods = tuple(
        Period(
            cross_share=share,
            level=mean_of(each.levels[number] for each in streams),
            price_nanodollars_per_mb=mean_of(each.prices[number] for each in streams),
        )
        for number, share in enumerate(CROSS)
    )
    per_minute = mean_of(each.switches * 60 / length for each in streams)
    stalls = mean_of(each.stalls for each in streams)
    stalled = mean_of(each.stalled_s / length for each in streams)
    arrived = [each.finished_s for each in transfers if each.finished_s is not None]
    transfer = Transfer(
        deadline_s=DEADLINE_S,
        finished_s=mean_of(arrived) if arrived else None,
        late=sum(1 for each in transfers if each.finished_s is None or each.finished_s > DEADLINE_S),
        runs=len(transfers),
        paid_nanodollars=mean_of(each.paid_nanodollars for each in transfers),
    )
    return Tasks(
        title="Streams go down and up their stairs; a file is there in time",
        expectations=_judged(switches, wide, per_minute, stalled, transfer, effort),
        ladder_bit_s=LADDER,
        thresholds=thresholds(best_rungs(ladder_values(policy()))),
        staircase=stairs,
        switches=switches,
        wide=wide,
        periods=periods,
        first=streams[0].series,
        switches_per_minute=per_minute,
        stalls=stalls,
        stalled_share=stalled,
        transfer=transfer,
    )


def staircase(doubling_s: float) -> tuple[tuple[Step, ...], tuple[Switch, ...]]:
    """Up from half of the lowest threshold to twice the highest, and back; the price doubles in `doubling_s`."""
    rungs = best_rungs(ladder_values(policy()))
    edges = thresholds(rungs)
    stream = StreamingLadder(
        policy(), now_ns=0, interval_ns=INTERVAL_NS, settings=LadderSettings(hysteresis=HYSTERESIS)
    )
    stream.on_buffer(8 * NS_PER_S)
    factor = 2.0 ** (INTERVAL_NS / NS_PER_S / doubling_s)
    price, highest, falls = edges[-1] / 2, edges[0] * 2, False
    now_ns, level, rate = 0, 0, LADDER[0]
    steps: list[Step] = []
    switches: list[Switch] = []
    while not falls or price > edges[-1] / 2:
        now_ns += INTERVAL_NS
        size = rate * INTERVAL_NS // NS_PER_S // 8
        decision = stream.on_interval(now_ns, _heard(now_ns, size, round(price * size * 8)))
        new = level if decision.level is None else decision.level
        if new != level and now_ns > 60 * NS_PER_S:  # the first minute takes it from the lowest step to the highest
            lower = min(new, level)
            expected = edges[lower] * (1 - HYSTERESIS if new > level else 1 + HYSTERESIS)
            switches.append(Switch(lower_level=lower, goes_up=new > level, price=price, expected=expected))
        level, rate = new, decision.target_bit_s or LADDER[0]
        steps.append(Step(at_s=now_ns / NS_PER_S, price=price, level=level))
        if now_ns > 60 * NS_PER_S:
            price = price / factor if falls else price * factor
        falls = falls or price >= highest
    return tuple(steps), tuple(switches)


def _heard(now_ns: int, size_bytes: int, charge: int) -> PriceSignal:
    return PriceSignal(
        now_ns=now_ns,
        interval_ns=INTERVAL_NS,
        source=Source.RECEIVER_MARKS,
        packets=max(1, size_bytes // 1000),
        bytes=size_bytes,
        marks=0,
        charge_nanodollars=charge,
    )


# --- on packets ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRun:
    seed: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _StreamSeen:
    levels: tuple[float, ...]
    prices: tuple[float, ...]
    switches: int
    stalls: int
    stalled_s: float
    series: tuple[tuple[float, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _TransferSeen:
    finished_s: float | None
    paid_nanodollars: int


def cross_traffic(seconds: float, name: str = "cross") -> tuple[list[Table], list[Table]]:
    """The flow, and its changes."""
    reactor = {"kind": "unresponsive", "rate_bit_s": 1.0, "pattern": "poisson"}
    events = [
        {"at_s": seconds * number / len(CROSS), "flow": name, "rate_bit_s": share * CAPACITY_BIT_S}
        for number, share in enumerate(CROSS)
        if number
    ]
    return [{"name": name, "reactor": reactor}], events


def measure_stream(it: StreamRun) -> _StreamSeen:
    """A stream and an elastic user beside the cross traffic."""
    cross, events = cross_traffic(it.seconds)
    film = {
        "name": "film",
        "rtt_ms": 40.0,
        "willingness_nanodollars_per_s": WILLING,
        "reactor": {"kind": "streaming", "ladder_bit_s": list(LADDER), "hysteresis": HYSTERESIS},
    }
    other = {"name": "other", "rtt_ms": 40.0, "willingness_nanodollars_per_s": 40_000}
    experiment = bottleneck(
        [film, other, *cross], rule=VQ, seed=it.seed, seconds=it.seconds, warm_up_s=it.seconds / 10, events=events
    )
    packets = PacketRun(experiment)
    return _stream_seen(packets, packets.run(), len(CROSS))


def _stream_seen(packets: PacketRun, results: Results, periods: int) -> _StreamSeen:
    """Of the first flow, in so many equal times."""
    found, period = packets.flows[0], packets.experiment.seconds / periods
    assert found.loop is not None
    assert found.playback is not None
    heard = [(each.now_ns / NS_PER_S, each.level) for each in found.loop.history]
    series = tuple((at, level) for at, level in heard if level is not None)
    levels, prices = [], []
    for number in range(periods):
        begin, end = (number + 0.5) * period, (number + 1) * period
        inside = [level for at, level in series if begin <= at < end]
        levels.append(sum(inside) / max(1, len(inside)))
        first, last = round(begin * 10), round(end * 10)
        size = found.readings.received_bytes[last] - found.readings.received_bytes[first]
        paid = found.readings.charge_nanodollars[last] - found.readings.charge_nanodollars[first]
        prices.append(paid * 1e6 / max(1, size))
    return _StreamSeen(
        levels=tuple(levels),
        prices=tuple(prices),
        switches=results.flows[0].switches or 0,
        stalls=found.playback.stalls,
        stalled_s=found.playback.stalled_ns / NS_PER_S,
        series=series,
    )


def measure_sweep(it: StreamRun) -> _StreamSeen:
    """A stream that is a twentieth of what the others have."""
    count = len(WIDE_WILLING)
    film = {
        "name": "film",
        "rtt_ms": 40.0,
        "willingness_nanodollars_per_s": WILLING,
        "reactor": {"kind": "streaming", "ladder_bit_s": list(LADDER), "hysteresis": HYSTERESIS},
    }
    names = [f"u{number}" for number in range(WIDE_USERS)]
    others = [
        {"name": name, "rtt_ms": 40.0, "willingness_nanodollars_per_s": WIDE_WILLING[0] / WIDE_USERS} for name in names
    ]
    events = [
        {"at_s": it.seconds * number / count, "flow": name, "willingness_nanodollars_per_s": willing / WIDE_USERS}
        for number, willing in enumerate(WIDE_WILLING)
        if number
        for name in names
    ]
    experiment = bottleneck(
        [film, *others],
        rule=AVQ,
        seed=it.seed,
        seconds=it.seconds,
        warm_up_s=1.0,
        events=events,
        price_nanodollars_per_mark=WIDE_PRICE,
        rate_bit_s=WIDE_BIT_S,
    )
    packets = PacketRun(experiment)
    return _stream_seen(packets, packets.run(), count)


def _price_point(number: int, sweeps: list[_StreamSeen]) -> Price:
    price = mean_of(each.prices[number] for each in sweeps)
    per_bit = price.mean / 8e6
    edges = thresholds(best_rungs(ladder_values(policy())))
    return Price(
        price_nanodollars_per_mb=price,
        level=mean_of(each.levels[number] for each in sweeps),
        lowest_level=sum(1 for edge in edges if per_bit < edge * (1 - HYSTERESIS)),
        highest_level=sum(1 for edge in edges if per_bit <= edge * (1 + HYSTERESIS)),
    )


def measure_transfer(seed: int) -> _TransferSeen:
    """20 MB in two minutes on a link that has room for 60 MB, beside the same cross traffic."""
    seconds = DEADLINE_S * 1.25
    cross, events = cross_traffic(DEADLINE_S)
    file = {
        "name": "file",
        "rtt_ms": 40.0,
        "willingness_nanodollars_per_s": 10 * WILLING,
        "reactor": {"kind": "transfer", "size_bytes": FILE_BYTES, "deadline_s": DEADLINE_S},
    }
    other = {"name": "other", "rtt_ms": 40.0, "willingness_nanodollars_per_s": 40_000}
    experiment = bottleneck(
        [file, other, *cross],
        rule=VQ,
        seed=seed,
        seconds=seconds,
        warm_up_s=1.0,
        events=events,
        price_nanodollars_per_mark=PRICE,
    )
    found = PacketRun(experiment).run().flows[0]
    return _TransferSeen(finished_s=found.finished_s, paid_nanodollars=found.cost_nanodollars)


def _judged(
    switches: tuple[Switch, ...],
    wide: tuple[Price, ...],
    per_minute: Mean,
    stalled: Mean,
    transfer: Transfer,
    effort: Effort,
) -> tuple[Expectation, ...]:
    worst = max((abs(each.price / each.expected - 1) for each in switches), default=float("inf"))
    wanted = 2 * (len(LADDER) - 1)
    shown = "never" if transfer.finished_s is None else f"after {transfer.finished_s.show(digits=1)} s"
    away = max(max(each.lowest_level - each.level.mean, each.level.mean - each.highest_level, 0.0) for each in wide)
    judged = not effort.is_tiny
    return (
        expect(
            "a stream goes down and up at the thresholds of the closed form",
            expected=f"{wanted} switches, each within {NEAR:.0%} of c_k (1 ± {HYSTERESIS})",
            measured=f"{len(switches)} switches, the worst {worst:.1%} off",
            holds=len(switches) == wanted and worst <= NEAR if judged else None,
        ),
        expect(
            "on packets a stream is on the step that its price leaves, where it does not move the price itself",
            expected=f"at {len(wide)} prices in turn, half a step away at the most",
            measured=f"{away:.2f} steps away at the most",
            holds=away <= 0.5 if judged else None,
        ),
        expect(
            "cross traffic that comes and goes neither makes a stream flutter nor stall",
            expected=f"at most {MOST_SWITCHES_PER_MINUTE:g} switches a minute, stalled for at most {MOST_STALLED:.0%}",
            measured=f"{per_minute.show(digits=2)} switches a minute, stalled for {stalled.mean:.2%}",
            holds=per_minute.mean <= MOST_SWITCHES_PER_MINUTE and stalled.mean <= MOST_STALLED if judged else None,
        ),
        expect(
            "a file is there by its deadline",
            expected=f"20 MB within {DEADLINE_S} s in every run",
            measured=f"{shown}; {transfer.late} of {transfer.runs} late",
            holds=transfer.late == 0 if judged else None,
        ),
    )
