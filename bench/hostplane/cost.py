"""What counting and classifying cost: nanoseconds of the kernel's own statistics, rates, round trips, memory.

Decides nothing. Every round measures each configuration once, in turn. The kernel's measuring itself costs a program
about 70 ns a run: an empty program that runs beside ours is measured alike.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import msgspec

from bench.hostplane.hosts import (
    LEFT,
    RIGHT,
    Engine,
    Hosts,
    engine_on,
    line_of,
    plan_of,
    progress,
    result_of,
    running,
    spread,
    stop,
    traffic,
)
from bench.hostplane.rows import Row, one
from bench.nfqueue import received_packets
from dataplane.host_engine import EngineName
from dataplane.shaping.plan import RULES_MAX, Match, Protocol, Rule, ShapingPlan, TrafficClass

COST: Final = "cost"
BURDEN: Final = "burden"
CAPACITY: Final = "100,000 flows"
MANY: Final = 10_000
TRACKED: Final = 100_000
PACKETS_OF_EACH: Final = 3
FIRST_PORT: Final = 10_000
GOAL_NS: Final = 300
GOAL_ADDED_US: Final = 10
VOLLEY_S: Final = 0.35
_FIRST_PACKETS: Final = ("first packet of a flow", f"first packet of a flow, {RULES_MAX} rules")


def full_plan() -> ShapingPlan:
    """As many rules as there can be, each of another kind; none agrees with what is sent here but the last."""
    kinds = (
        Match(program="some-other-program"),
        Match(program="/usr/bin/true"),
        Match(unit="some-other.service"),
        Match(user_id=12345),
        Match(protocol=Protocol.UDP, ports=(60_900, 60_999)),
        Match(remote="203.0.113.0/24"),
        Match(remote="2001:db8::/32", protocol=Protocol.TCP),
        Match(unit="user-*", ports=(443, 443)),
    )
    rules = [Rule(match=kinds[place % len(kinds)], traffic_class=0) for place in range(RULES_MAX - 1)]
    return plan_of(TrafficClass(name="measured"), rules=(*rules, Rule(match=Match(), traffic_class=2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    family: int
    flows: int
    is_full: bool = False  # of rules

    @property
    def name(self) -> str:
        rules = f", {RULES_MAX} rules" if self.is_full else ""
        return f"IPv{self.family}, {self.flows:,} flow{'s' * (self.flows > 1)}{rules}"


CASES: Final = (
    Case(family=4, flows=1),
    Case(family=6, flows=1),
    Case(family=4, flows=MANY),
    Case(family=6, flows=MANY),
    Case(family=4, flows=1, is_full=True),
    Case(family=4, flows=MANY, is_full=True),
)
QUICK_CASES: Final = (CASES[0], CASES[1], CASES[2], CASES[4])


def nanoseconds(hosts: Hosts, *, rounds: int, quick: bool) -> list[Row]:
    """Of on_leave and on_arrive for each packet; of the first packet of a flow, too."""
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    cases = list(QUICK_CASES if quick else CASES)
    with engine_on(hosts) as engine, running(hosts.left, "sink", 7004), running(hosts.right, "sink", 7004):
        engine.start(EngineName.EBPF, plan_of())
        engine.order("measure_runs", interface_index=hosts.index)
        for number in range(rounds):
            progress(f"nanoseconds a packet, round {number + 1} of {rounds}")
            random.shuffle(cases)
            for case in cases:
                plan = full_plan() if case.is_full else plan_of()
                _apply(engine, plan)
                for way in ("leave", "arrive"):
                    ours, empty = _steady(hosts, engine, case, way)
                    samples[(case.name, f"on_{way}")].append(ours)
                    samples[(case.name, f"empty_{way}")].append(empty)
                    engine.order("forget_flows")
            for is_full in (False, True):
                _apply(engine, full_plan() if is_full else plan_of())
                for way in ("leave", "arrive"):
                    samples[(_FIRST_PACKETS[is_full], f"on_{way}")].append(_first_packets(hosts, engine, way))
        engine.order("stop")
    return _cost_rows(samples, [case.name for case in (QUICK_CASES if quick else CASES)])


def _apply(engine: Engine, plan: ShapingPlan) -> None:
    engine.order("apply", plan=msgspec.to_builtins(plan))


def _cost_rows(samples: dict[tuple[str, str], list[float]], names: list[str]) -> list[Row]:
    rows = []
    for way in ("leave", "arrive"):
        empty = [each for (_, program), found in samples.items() if program == f"empty_{way}" for each in found]
        rows.append(Row(section=COST, what=f"an empty program on_{way}", unit="ns", value=spread(empty)))
        for name in names:
            own = spread(samples[(name, f"on_{way}")])
            beside = spread(samples[(name, f"empty_{way}")]).median
            note = f"{own.median - beside:.0f} ns without the measuring itself"
            rows.append(Row(section=COST, what=f"on_{way}: {name}", unit="ns", value=own, note=note, at_most=GOAL_NS))
        for label in _FIRST_PACKETS:
            own = spread(samples[(label, f"on_{way}")])
            rows.append(Row(section=COST, what=f"on_{way}: {label}", unit="ns", value=own))
    return rows


def _steady(hosts: Hosts, engine: Engine, case: Case, way: str) -> tuple[float, float]:
    """Nanoseconds a packet of ours and of the empty program, once every flow is known."""
    host, address = (hosts.left, RIGHT) if way == "leave" else (hosts.right, LEFT)
    words = (address[case.family], case.flows, FIRST_PORT, int(way == "arrive"), VOLLEY_S, 0)
    process = traffic(host, "blast", *words)
    line_of(process)
    before = engine.order("runs")
    result_of(process)
    after = engine.order("runs")
    own, empty = (_mean(before[name], after[name]) for name in (way, f"empty_{way}"))
    return own, empty


def _first_packets(hosts: Hosts, engine: Engine, way: str) -> float:
    engine.order("forget_flows")
    host, address = (hosts.left, RIGHT) if way == "leave" else (hosts.right, LEFT)
    before = engine.order("runs")
    result_of(traffic(host, "blast", address[4], MANY, FIRST_PORT, int(way == "arrive"), 0, 1))
    after = engine.order("runs")
    engine.order("forget_flows")
    return _mean(before[way], after[way])


def _mean(before: list[int], after: list[int]) -> float:
    return (after[1] - before[1]) / max(1, after[0] - before[0])


# -- what programs notice of it --------------------------------------------------------------------------------------

ENGINES: Final = (None, EngineName.EBPF, EngineName.NFQUEUE)
UNITS: Final = {"UDP packets": "kpps", "TCP": "Gbit/s", "round trip": "µs", "connect": "µs"}


def burden(hosts: Hosts, *, rounds: int, quick: bool) -> list[Row]:
    """Rates and times with an engine as ratios of without, in the same round."""
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    engines = [*(ENGINES[:2] if quick else ENGINES)]
    with (
        engine_on(hosts) as engine,
        running(hosts.right, "sink", 7004),
        running(hosts.right, "echo"),
        running(hosts.right, "accept"),
        running(hosts.right, "receive") as receiver,
    ):
        for number in range(rounds):
            progress(f"with and without an engine, round {number + 1} of {rounds}")
            random.shuffle(engines)
            for name in engines:
                if name is not None:
                    engine.start(name, plan_of())
                for what, value in _measure_all(hosts, receiver, quick=quick).items():
                    samples[(what, name or "without")].append(value)
                if name is not None:
                    engine.order("stop")
    names = [str(name) for name in ENGINES if name is not None and name in engines]
    return [row for what in UNITS for row in _burden_rows(what, samples, names)]


def _measure_all(hosts: Hosts, receiver: subprocess.Popen[str], *, quick: bool) -> dict[str, float]:
    seconds, count = (0.25, 400) if quick else (0.4, 1500)
    return {
        "UDP packets": _packets_per_s(hosts, seconds) / 1e3,
        "TCP": _stream_bit_s(hosts, receiver, seconds) / 1e9,
        "round trip": float(result_of(traffic(hosts.left, "ping", RIGHT[4], count))) / 1e3,
        "connect": float(result_of(traffic(hosts.left, "connect", RIGHT[4], count // 4))) / 1e3,
    }


def _packets_per_s(hosts: Hosts, seconds: float) -> float:
    """Of one flow, as the other end's interface counts."""
    process = traffic(hosts.left, "blast", RIGHT[4], 1, FIRST_PORT, 0, seconds, 0)
    line_of(process)
    before, begun_s = received_packets(hosts.right.pid, "right"), time.monotonic()
    line_of(process)
    rate = (received_packets(hosts.right.pid, "right") - before) / (time.monotonic() - begun_s)
    stop(process)
    return rate


def _stream_bit_s(hosts: Hosts, receiver: subprocess.Popen[str], seconds: float) -> float:
    process = traffic(hosts.left, "stream", RIGHT[4], seconds)
    rate = float(line_of(receiver))
    stop(process)
    return rate


def _burden_rows(what: str, samples: dict[tuple[str, str], list[float]], names: list[str]) -> list[Row]:
    unit = UNITS[what]
    without = samples[(what, "without")]
    rows = [Row(section=BURDEN, what=f"{what}, without", unit=unit, value=spread(without))]
    for name in names:
        found = samples[(what, name)]
        rows.append(Row(section=BURDEN, what=f"{what}, {name}", unit=unit, value=spread(found)))
        if what == "round trip":
            added = spread([own - base for own, base in zip(found, without, strict=True)])
            goal = GOAL_ADDED_US if name == EngineName.EBPF else None
            rows.append(Row(section=BURDEN, what=f"{what}, {name}, added", unit=unit, value=added, at_most=goal))
        else:
            ratios = spread([own / base for own, base in zip(found, without, strict=True)])
            rows.append(Row(section=BURDEN, what=f"{what}, {name}, ratio", unit="", value=ratios))
    return rows


# -- many flows ------------------------------------------------------------------------------------------------------


def capacity(hosts: Hosts) -> list[Row]:
    """A table with 100,000 flows: its memory, the time of a look at all of it, and whether every packet is in it."""
    with engine_on(hosts) as engine:
        engine.start(EngineName.EBPF, plan_of())
        before = engine.order("look_at_all", interface_index=hosts.index)
        words = (RIGHT[4], TRACKED, FIRST_PORT, 0, 0, PACKETS_OF_EACH)
        progress(f"{TRACKED:,} flows")
        sent = int(result_of(traffic(hosts.left, "blast", *words)))
        found = engine.order("look_at_all", interface_index=hosts.index)
        engine.order("stop")
    lost = abs(sent - found["udp_packets"])
    differ = found["link_packets"] - found["flows_packets"] - found["beyond_table"]

    def row(what: str, value: float, unit: str, note: str = "") -> Row:
        return Row(section=CAPACITY, what=what, unit=unit, value=one(value), note=note)

    return [
        row("flows tracked", found["flows"], "", f"{found['beyond_table']:.0f} packets beyond the table"),
        Row(
            section=CAPACITY,
            what="packets missing in the flows",
            unit="",
            value=one(lost),
            at_most=0,
            note=f"of {sent:,}; the link's and the flows' counts differ by {differ:.0f}",
        ),
        row(
            "memory of all maps",
            found["maps_bytes"] / 2**20,
            "MiB",
            f"{before['maps_bytes'] / 2**20:.1f} MiB without flows",
        ),
        row("memory of the flow table", found["flow_map_bytes"] / 2**20, "MiB"),
        row(
            "resident memory of the engine's process",
            found["rss_after_bytes"] / 2**20,
            "MiB",
            f"{found['rss_before_bytes'] / 2**20:.1f} MiB before it read them",
        ),
        row("reading every flow", found["flows_ms"], "ms"),
        row("one sweep", found["sweep_ms"], "ms"),
        row("one reading of programs and links", found["read_ms"], "ms"),
    ]
