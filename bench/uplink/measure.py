"""What a household feels: one phase of traffic after the other, in turns, on one line.

Decides: which phases there are and what is read out of them. Refuses to know: goals and how figures are shown.

A call's added delay is each datagram's one-way delay less the median on the idle line in the same round; one that is
lost counts as the longest. A page's time is until its last byte. The rest, of which the upload takes a part, is the
line's rate less what the call and the pages sent up; the upload counts with the payload that arrived, nothing else.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from bench.hostplane.hosts import line_of, progress, result_of
from bench.uplink.agent import Agent, Told, agent_on
from bench.uplink.rig import (
    BACKUP,
    BROWSER,
    CALL_PORT,
    CALLER,
    DOWN_BIT_S,
    MIRROR,
    OTHER_UPLOAD_PORT,
    PAGE_PORT,
    SERVER,
    UP_BIT_S,
    UPLOAD_PORT,
    Rig,
)

NS_PER_S: Final = 1_000_000_000
ETHERNET_PART: Final = 14 / 1514
FILL_S: Final = 2.5
"""How long an upload fills the line before anybody else comes."""

SWAP_FILL_S: Final = 4.0
SWAP_S: Final = 6.0
SWAP_WINDOW_NS: Final = 500_000_000
SWAP_FACTOR: Final = 4
SWAP_NEAR: Final = 0.8
"""Their service is swapped when the ratio is four fifths of what it was the other way round, and stays so."""

WORTH: Final = 500_000


class Side(Enum):
    IDLE = "idle line"
    BARE = "bare kernel"
    FQ_CODEL = "bare kernel with fq_codel"
    AGENT = "agent"
    LEARNING = "agent, rate not told"


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """congestion_control "": nobody uploads."""

    side: Side
    congestion_control: str = ""

    @property
    def title(self) -> str:
        return f"{self.side.value}, {self.congestion_control} upload" if self.congestion_control else self.side.value


@dataclass(slots=True, kw_only=True)
class Felt:
    """Of one phase in one round. Delays in ms, of the datagrams that were sent; math.inf: lost."""

    up_ms: list[float]
    down_ms: list[float]
    pages_ms: list[float]
    upload_bit_s: float = 0.0
    line_bit_s: float = 0.0


@dataclass(slots=True)
class Household:
    """The servers that everybody talks to."""

    rig: Rig
    family: int
    calls: subprocess.Popen[str] = field(init=False)
    drain: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.calls = self.rig.on_server("answer_calls", CALL_PORT)
        self.drain = self.rig.on_server("drain", UPLOAD_PORT, OTHER_UPLOAD_PORT)
        self.rig.on_server("serve_pages", PAGE_PORT)

    @property
    def server(self) -> str:
        return SERVER[self.family]

    def upload(self, program: str, seconds: float, congestion_control: str) -> subprocess.Popen[str]:
        port = UPLOAD_PORT if program == BACKUP else OTHER_UPLOAD_PORT
        return self.rig.on_host(program, self.server, port, seconds, congestion_control)

    def drained(self) -> dict[int, list[tuple[int, int]]]:
        """Bytes that came since the last time, by port, in bins of 20 ms."""
        assert self.drain.stdin is not None
        self.drain.stdin.write("\n")
        self.drain.stdin.flush()
        return {int(port): bins for port, bins in json.loads(line_of(self.drain)).items()}

    def feel(self, seconds: float, congestion_control: str, *, fill_s: float = FILL_S) -> Felt:
        """A call and pages; with an upload if there is a congestion control for one."""
        self.drained()
        uploading = None
        if congestion_control:
            uploading = self.upload(BACKUP, fill_s + seconds + 0.5, congestion_control)
            time.sleep(fill_s)
        begun_ns, line_before = time.time_ns(), self.rig.sent_bytes()
        call = self.rig.on_host(CALLER, self.server, CALL_PORT, seconds)
        pages = self.rig.on_host(BROWSER, self.server, PAGE_PORT, seconds - 0.5)
        time.sleep(seconds)
        ended_ns, line_after = time.time_ns(), self.rig.sent_bytes()
        down = json.loads(result_of(call))
        up = json.loads(line_of(self.calls))
        loaded = json.loads(result_of(pages))["pages"]
        if uploading is not None:
            result_of(uploading)
        came = sum(size for at_ns, size in self.drained()[UPLOAD_PORT] if begun_ns <= at_ns < ended_ns)
        passed_s = (ended_ns - begun_ns) / NS_PER_S
        # The server goes on for a while after the call: what it sent then is nobody's loss.
        return Felt(
            up_ms=_delays(up["heard"], sent=down["sent"]),
            down_ms=_delays(down["heard"], sent=1 + max((place for _, place, _ in down["heard"]), default=-1)),
            pages_ms=[took_ns / 1e6 for _, took_ns in loaded],
            upload_bit_s=came * 8 / passed_s,
            line_bit_s=(line_after - line_before) * 8 / passed_s,
        )


def _delays(heard: Sequence[Sequence[int]], *, sent: int) -> list[float]:
    came = [took_ns / 1e6 for _, _, took_ns in heard]
    return came + [math.inf] * (sent - len(came))


@contextmanager
def side_of(rig: Rig, side: Side, up_bit_s: int = UP_BIT_S, down_bit_s: int = DOWN_BIT_S) -> Iterator[Agent | None]:
    told = {Side.AGENT: Told(up_bit_s=up_bit_s, down_bit_s=down_bit_s), Side.LEARNING: Told()}
    rig.set_queue("fq_codel" if side is Side.FQ_CODEL else "pfifo_fast")
    with agent_on(rig, told[side]) if side in told else nullcontext() as agent:
        yield agent


def measure(rig: Rig, phases: Sequence[Phase], *, rounds: int, seconds: float, family: int) -> dict[Phase, list[Felt]]:
    """Each phase once in every round, in an order that turns; the idle line is always first."""
    household = Household(rig, family)
    felt: dict[Phase, list[Felt]] = {phase: [] for phase in phases}
    for number in range(rounds):
        idle, others = phases[0], list(phases[1:])
        for phase in (idle, *others[number % len(others) :], *others[: number % len(others)]):
            progress(f"round {number + 1}: {phase.title}")
            with side_of(rig, phase.side):
                if phase.side is Side.LEARNING:
                    result_of(household.upload(BACKUP, 2 * FILL_S, phase.congestion_control))
                felt[phase].append(household.feel(seconds, phase.congestion_control))
    return felt


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one phase over all rounds. `share`: the upload's, of what the others leave of the line."""

    added_up_ms: list[float]
    added_down_ms: list[float]
    pages_ms: list[float]
    first_pages_ms: list[float]
    upload_bit_s: list[float]
    share: list[float]

    def added_ms(self, quantile: float) -> float:
        """In the worse direction."""
        return max(quantile_of(self.added_up_ms, quantile), quantile_of(self.added_down_ms, quantile))


def figures_of(felt: Sequence[Felt], idle: Sequence[Felt], up_bit_s: int = UP_BIT_S) -> Figures:
    added: dict[str, list[float]] = {"up_ms": [], "down_ms": []}
    shares = []
    for mine, base in zip(felt, idle, strict=True):
        for name, delays in added.items():
            least = statistics.median(getattr(base, name))
            delays += [each - least for each in getattr(mine, name)]
        if mine.upload_bit_s:
            wire = mine.upload_bit_s / (1 - ETHERNET_PART) * 1500 / 1448
            rest = up_bit_s - max(0.0, mine.line_bit_s - wire)
            shares.append(mine.upload_bit_s / rest)
    return Figures(
        added_up_ms=added["up_ms"],
        added_down_ms=added["down_ms"],
        pages_ms=[page for each in felt for page in each.pages_ms],
        first_pages_ms=[each.pages_ms[0] for each in felt if each.pages_ms],
        upload_bit_s=[each.upload_bit_s for each in felt],
        share=shares,
    )


def quantile_of(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else math.nan


# -- worth decides ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """The two programs' ratio before and after, and how long it took; None: it never came."""

    before: float
    after: float
    took_s: float | None


def measure_swap(rig: Rig, congestion_control: str, family: int) -> Swap:
    """Two equal uploads, one worth four times the other; then the other way round."""
    household = Household(rig, family)
    with side_of(rig, Side.AGENT) as agent:
        assert agent is not None
        return swap(household, agent, congestion_control, fill_s=SWAP_FILL_S, seconds=SWAP_S)


def swap(household: Household, agent: Agent, congestion_control: str, *, fill_s: float, seconds: float) -> Swap:
    """`seconds`: how long it is watched afterwards."""
    household.drained()
    agent.set_worths({BACKUP: WORTH * SWAP_FACTOR, MIRROR: WORTH})
    both = [household.upload(program, fill_s + seconds + 0.5, congestion_control) for program in (BACKUP, MIRROR)]
    time.sleep(fill_s)
    swapped_ns = time.time_ns()
    agent.set_worths({BACKUP: WORTH, MIRROR: WORTH * SWAP_FACTOR})
    time.sleep(seconds)
    for each in both:
        result_of(each)
    return _swap_of(household.drained(), swapped_ns, int(seconds * NS_PER_S))


def _swap_of(came: dict[int, list[tuple[int, int]]], swapped_ns: int, watched_ns: int) -> Swap:
    def ratio(begin_ns: int, end_ns: int) -> float:
        one, other = (
            sum(size for at_ns, size in came[port] if begin_ns <= at_ns < end_ns)
            for port in (UPLOAD_PORT, OTHER_UPLOAD_PORT)
        )
        return other / max(one, 1)

    before = 1 / max(ratio(swapped_ns - NS_PER_S, swapped_ns), 1e-9)
    end_ns = swapped_ns + watched_ns - SWAP_WINDOW_NS
    step_ns = SWAP_WINDOW_NS // 10
    took_s = None
    for begin_ns in range(end_ns - step_ns, swapped_ns - 1, -step_ns):
        if ratio(begin_ns, begin_ns + SWAP_WINDOW_NS) < min(before, SWAP_FACTOR) * SWAP_NEAR:
            break
        took_s = (begin_ns - swapped_ns) / NS_PER_S
    return Swap(before=before, after=ratio(end_ns - NS_PER_S, end_ns), took_s=took_s)


def as_json(figures: Figures) -> dict[str, Any]:
    return {
        "added_delay_ms": {
            name: {str(part): quantile_of(values, part) for part in (0.5, 0.95, 0.99)}
            for name, values in (("up", figures.added_up_ms), ("down", figures.added_down_ms))
        },
        "page_ms": statistics.median(figures.pages_ms) if figures.pages_ms else None,
        "first_page_ms": statistics.median(figures.first_pages_ms) if figures.first_pages_ms else None,
        "upload_bit_s": statistics.median(figures.upload_bit_s),
        "upload_share": statistics.median(figures.share) if figures.share else None,
    }
