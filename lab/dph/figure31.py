"""Figures 3-1 to 3-3 on real packets: a priced stream beside cross traffic, metered twice, charged and cleared.

Decides: when the cross traffic comes and goes, who pays, and what has to agree afterwards. Refuses to know: how a level
is chosen (`pricereactor.streaming`, inside the player or the server), how marks become money (`market`, four processes
at the hosts of the figure), how the network is made (`lab.dph.topology31`).
Source: M3I scenarios 3.3.1 to 3.3.4. Traffic goes to addresses inside its namespaces only.

Receiver pays (Fig. 3-2): the player's reactor asks for rates, and c3 is who pays the clearing house. Sender pays
(Fig. 3-3): the player only reports its counts, the server's reactor decides, and c1 pays. In both the program that
pays counts marks by itself, and the provider bills by its own count of them at its own edge.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from billpay.clearing import MeteredKey
from billpay.errors import EnvironmentFault
from billpay.sessions import Payer
from lab.daemons import Daemons
from lab.dph.clearing import MARKUP_PPM
from lab.dph.parts.payers import SECRET, leaks
from lab.dph.topology31 import (
    EDGE,
    NEAR,
    RATE_BIT_S,
    RECEIVER,
    SENDER,
    SINK,
    TRAFFIC,
    ControlTap,
    Gatherer,
    Market31,
    scenario31,
)
from lab.dph.values import Value
from lab.namespaces import Network, end_process
from lab.plan import make_plan
from lab.priority import before_others, put_sessions_first, waited_ns
from lab.streaming.player import Played
from lab.streaming.server import Served
from lab.streaming.timeline import Change
from lab.streaming.video import LADDER_BIT_S, PPM, scaled
from lab.transfers import wait_until_listening
from lab.wiring import start_wires
from pricereactor import sdp
from pricereactor.policy import TaskKind, TaskPolicy

PRICE: Final = 1_003
"""Nanodollars per mark: no round number."""

FAST: Final = 3
"""A reactor that keeps each level for five seconds has to be watched for half a minute: that passes in ten seconds."""

BEST_SHARE: Final = 0.6
CROSS_SHARE: Final = 0.6
"""Of the bottleneck: what the best encoding needs, and what the cross traffic sends. Both together are too much."""

CROSS_BEGINS, CROSS_ENDS = 0.32, 0.58
"""Of the video's time."""

CROSS_PACKET_BYTES: Final = 1_200
CONTROL_PORT: Final = 8554
SINK_PORT: Final = 5201
BUFFER_MS: Final = 2_000
SAMPLE_S: Final = 0.25
STARTED_S: Final = 10.0
NS_PER_S: Final = 1_000_000_000
_NO_ENCODER: Final = ("env", "PATH=/nonexistent")
"""Without ffmpeg the video is synthetic: packets are of the same sizes, and no time goes into pictures."""

Progress = Callable[[str], None]


class Figure31(Value, frozen=True, kw_only=True):
    """One sub-scenario. Times and rates of levels by the stream's own clock, `FAST` times as fast as ours.

    Marks and packets as counted at p2's edge, by p2's meter from there, on arrival at h3, and by the program that
    pays; money by the books of each. told_messages: that the player sent; control_messages: of those, on the cable.
    waited_share: of the time, r1's gateway waited for a processor.
    """

    payer: Payer
    seconds: float
    ended: str
    nanodollars_per_mark: int
    ladder_bit_s: tuple[int, ...]
    levels: tuple[Change, ...]
    cross_begins_ms: int
    cross_ends_ms: int
    cross_packets: int
    stalls: int
    edge_packets: int
    edge_marks: int
    metered_marks: int
    arrived_packets: int
    arrived_marks: int
    program_packets: int
    program_marks: int
    reckoned: int
    bill: int
    owed_by_payer: int
    due_to_provider: int
    cost_of_customer: int
    kept_by_house: int
    books_balance: bool
    told_messages: int
    control_messages: int
    control_bytes: int
    documents: int
    leaked_bytes: int
    waited_share: float

    @property
    def counts_agree(self) -> bool:
        """Nothing is between the edge's last hook and the player but a cable: the counts are the same."""
        marks = {self.edge_marks, self.metered_marks, self.arrived_marks, self.program_marks}
        packets = {self.edge_packets, self.arrived_packets, self.program_packets}
        return len(marks) == len(packets) == 1 and self.edge_marks > 0

    @property
    def bill_is_exact(self) -> bool:
        return self.bill == self.reckoned == self.edge_marks * self.nanodollars_per_mark

    @property
    def ledgers_agree(self) -> bool:
        """What the payer owes is what the provider gets and the house keeps, and the customer is left with nothing."""
        theirs = self.edge_marks * (self.nanodollars_per_mark * (PPM + MARKUP_PPM) // PPM)
        between = self.owed_by_payer == self.due_to_provider + self.kept_by_house == theirs
        return between and self.due_to_provider == self.bill and self.cost_of_customer == 0 and self.books_balance

    @property
    def is_secret(self) -> bool:
        """Nothing was found where all was seen."""
        return self.leaked_bytes == 0 and self.control_messages >= self.told_messages > 0

    @property
    def reacted(self) -> bool:
        return self.level_before > self.level_under < self.level_after

    @property
    def level_before(self) -> int:
        return level_at(self.levels, self.cross_begins_ms)

    @property
    def level_under(self) -> int:
        """The lowest one while there was cross traffic."""
        during = [each.level for each in self.levels if self.cross_begins_ms < each.at_ms <= self.cross_ends_ms]
        return min([self.level_before, *during])

    @property
    def level_after(self) -> int:
        """At the end."""
        return self.levels[-1].level if self.levels else 0


def level_at(levels: Iterable[Change], at_ms: int) -> int:
    return [0, *(each.level for each in levels if each.at_ms <= at_ms)][-1]


def ladder() -> tuple[int, int]:
    """Scale of the ladder in ppm, and its best encoding by the stream's clock."""
    best = int(RATE_BIT_S * BEST_SHARE) // FAST
    return best * PPM // LADDER_BIT_S[-1], best


def secret_policy() -> TaskPolicy:
    """Of whoever pays. No number of it is one of the video's own, or small: what is found on the wire was said."""
    scale_ppm, _ = ladder()
    return msgspec.structs.replace(
        SECRET,
        kind=TaskKind.STREAMING,
        willingness_nanodollars_per_s=12_347,
        min_bit_s=61_357,
        max_bit_s=None,
        largest_rate_change_ppm=None,
        buffer_ms=7_919,
        ladder_bit_s=scaled(LADDER_BIT_S, scale_ppm),
    )


def said_of(policy: TaskPolicy, text: bytes) -> int:
    """Bytes of what two programs said to each other that are of the policy: its lines, its name, or its numbers. The
    ladder is the video's, which the server tells everyone.
    """
    secret = msgspec.structs.replace(policy, ladder_bit_s=())
    name = policy.name.encode()
    found = len(b"x-buy") * len(re.findall(rb"x-buy", text, re.IGNORECASE)) + len(name) * text.count(name)
    for value in msgspec.to_builtins(secret).values():
        if type(value) is int and value > 500:
            digits = str(value).encode()
            found += len(digits) * len(re.findall(rb"(?<!\w)" + digits + rb"(?!\w)", text))
    return found


class _Run:
    """The network with its daemons and programs; a context manager."""

    def __init__(self, payer: Payer, seconds: float, directory: Path, progress: Progress) -> None:
        self._payer, self._seconds, self._directory, self._progress = payer, seconds, directory, progress
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> _Run:
        try:
            with before_others():
                self._build()
            put_sessions_first()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        self._plan = make_plan(scenario31())
        self.network = self._stack.enter_context(Network(self._plan))
        self.log = self._stack.enter_context((self._directory / "figure31.log").open("wb"))
        wires = start_wires(self.network, seed=1, errors=self.log)
        if wires is not None:
            self._stack.callback(wires.close)
        self._daemons = Daemons(self.network, family=4, directory=self._directory, progress=self._progress)
        self._stack.callback(self._daemons.close)
        self._daemons.start(lambda: None)
        self.edge = Gatherer(self.network[EDGE], hook="postrouting", match=f'oifname "to-{RECEIVER}"')
        self.arrived = Gatherer(self.network[RECEIVER], hook="prerouting", match=f'iifname "to-{EDGE}"')
        self.tap = ControlTap(self.network[RECEIVER], f"to-{EDGE}")
        self._stack.callback(self.tap.close)
        self.tap.start()

    def waited_ns(self) -> int:
        return waited_ns(self._daemons.main_pid(NEAR))

    # --- programs -----------------------------------------------------------------------------------------------------

    def start(self, node: str, module: str, words: Iterable[object], *, output: str) -> subprocess.Popen[bytes]:
        """What it says goes to a file of that name."""
        command = [*_NO_ENCODER, sys.executable, "-m", module, *map(str, words)]
        with (self._directory / output).open("wb") as file:
            process = self.network[node].start(command, stdout=file, stderr=self.log)
        self._stack.callback(end_process, process)
        return process

    def serve(self) -> subprocess.Popen[bytes]:
        """c1's server. Returns when it listens."""
        scale_ppm, _ = ladder()
        words = [
            self._plan.address(SENDER, 4), CONTROL_PORT, "--seconds", round(self._seconds * FAST), "--scale-ppm",
            scale_ppm, "--sessions", 1, "--directory", self._directory / "video",
            *self._who_pays(Payer.SENDER),
        ]  # fmt: skip
        process = self.start(SENDER, "lab.streaming.server", words, output="served.json")
        wait_until_listening(self.network[SENDER], port=CONTROL_PORT, process=process)
        return process

    def play(self) -> subprocess.Popen[bytes]:
        """c3's player."""
        words = [
            self._plan.address(SENDER, 4), CONTROL_PORT, "--buffer-ms", BUFFER_MS, *self._who_pays(Payer.RECEIVER)
        ]  # fmt: skip
        return self.start(RECEIVER, "lab.streaming.player", words, output="played.json")

    def _who_pays(self, who: Payer) -> list[object]:
        words: list[object] = ["--payer", self._payer.value, "--fast", FAST]
        if who is not self._payer:
            return words
        local = self._directory / "policy.sdp"
        local.write_text(sdp.with_policy("v=0\r\n", secret_policy()))
        return [*words, "--session", local, "--price", PRICE]

    def flood(self, seconds: float) -> subprocess.Popen[bytes]:
        """c2's traffic to c4."""
        packets_per_s = int(RATE_BIT_S * CROSS_SHARE) // (8 * CROSS_PACKET_BYTES)
        words = ["flood", self._plan.address(SINK, 4), SINK_PORT, packets_per_s, CROSS_PACKET_BYTES - 28, seconds]
        return self.start(TRAFFIC, "lab.traffic", words, output="cross.json")

    def sink(self) -> subprocess.Popen[bytes]:
        words = ["sink", self._plan.address(SINK, 4), SINK_PORT]
        process = self.start(SINK, "lab.traffic", words, output="sink.json")
        wait_until_listening(self.network[SINK], port=SINK_PORT, process=process, protocol="udp")
        return process

    def told(self, output: str) -> bytes:
        return (self._directory / output).read_bytes()

    def stream(self) -> MeteredKey | None:
        """The flow from server to player, as the provider sees it; None: it has not begun."""
        ends = (self._plan.address(SENDER, 4), self._plan.address(RECEIVER, 4))
        keys = [key for key in self.edge.read() if (key.source, key.destination) == ends]
        assert len(keys) < 2, keys
        return keys[0] if keys else None


def run_figure31(*, payer: Payer, seconds: float, directory: Path, progress: Progress = print) -> Figure31:
    """One sub-scenario with `seconds` of streaming. Raises EnvironmentFault where something does not start."""
    with _Run(payer, seconds, directory, progress) as run:
        return asyncio.run(_figure31(run, payer, seconds, directory / "market"))


async def _figure31(run: _Run, payer: Payer, seconds: float, directory: Path) -> Figure31:
    market = Market31(directory, run.network, payer, run.log)
    try:
        await market.start()
        await market.publish(PRICE)
        serving, playing = run.serve(), run.play()
        run.sink()
        key = await _begun(run, playing)
        waited, began_s = run.waited_ns(), time.monotonic()
        await market.open(key)
        await _watch(run, market, key, playing, began_s=began_s, seconds=seconds)
        waited_share = (run.waited_ns() - waited) / NS_PER_S / (time.monotonic() - began_s)
        await _ended(serving, "server")
        edge, arrived = run.edge.read()[key], run.arrived.read()[key]
        await market.read(key, edge, ends=True)
        cleared, metered = await market.clear(key, edge.ce_packets)
    finally:
        market.stop()
    run.tap.close()
    played = msgspec.json.decode(run.told("played.json"), type=Played)
    served = msgspec.json.decode(run.told("served.json"), type=Served)
    cross = msgspec.json.decode(run.told("cross.json"))
    pays_receiver = payer is Payer.RECEIVER
    said = bytes(run.tap.said)
    policy = secret_policy()
    return Figure31(
        payer=payer,
        seconds=played.seconds,
        ended=played.ended,
        nanodollars_per_mark=PRICE,
        ladder_bit_s=played.ladder_bit_s,
        levels=played.levels,
        cross_begins_ms=round(seconds * CROSS_BEGINS * FAST * 1_000),
        cross_ends_ms=round(seconds * CROSS_ENDS * FAST * 1_000),
        cross_packets=cross["sent"],
        stalls=played.stalls,
        edge_packets=edge.packets,
        edge_marks=edge.ce_packets,
        metered_marks=metered,
        arrived_packets=arrived.packets,
        arrived_marks=arrived.ce_packets,
        program_packets=played.packets,
        program_marks=played.marks if pays_receiver else served.marks,
        reckoned=played.spent_nanodollars if pays_receiver else served.spent_nanodollars,
        bill=cleared.bill,
        owed_by_payer=cleared.owed_by_payer,
        due_to_provider=cleared.due_to_provider,
        cost_of_customer=cleared.cost_of_customer,
        kept_by_house=cleared.kept_by_house,
        books_balance=cleared.books_balance,
        told_messages=played.reports,
        control_messages=said.count(b"SET_PARAMETER rtsp:"),
        control_bytes=len(said),
        documents=len(cleared.sent),
        leaked_bytes=said_of(policy, said) + sum(said_of(policy, each) + leaks(policy, each) for each in cleared.sent),
        waited_share=waited_share,
    )


async def _begun(run: _Run, playing: subprocess.Popen[bytes]) -> MeteredKey:
    """Raises EnvironmentFault when nothing plays."""
    deadline_s = time.monotonic() + STARTED_S
    while time.monotonic() < deadline_s and playing.poll() is None:
        if (key := run.stream()) is not None:
            return key
        await asyncio.sleep(SAMPLE_S / 5)
    raise EnvironmentFault("play a video at", RECEIVER, "no packet of it came", "look at figure31.log")


async def _watch(
    run: _Run, market: Market31, key: MeteredKey, playing: subprocess.Popen[bytes], *, began_s: float, seconds: float
) -> None:
    """Until the last picture; the edge's counts go to the meter as they come."""
    crossing = False
    while playing.poll() is None:
        passed_s = time.monotonic() - began_s
        if not crossing and passed_s >= seconds * CROSS_BEGINS:
            run.flood(seconds * (CROSS_ENDS - CROSS_BEGINS))
            crossing = True
        if passed_s > 2 * seconds + STARTED_S:
            raise EnvironmentFault("play a video at", RECEIVER, f"no end after {passed_s:.0f} s", "run it again")
        await market.read(key, run.edge.read()[key])
        await asyncio.sleep(SAMPLE_S)
    if playing.returncode != 0:
        raise EnvironmentFault("play a video at", RECEIVER, f"status {playing.returncode}", "look at figure31.log")


async def _ended(process: subprocess.Popen[bytes], what: str) -> None:
    deadline_s = time.monotonic() + STARTED_S
    while process.poll() is None:
        if time.monotonic() > deadline_s:
            raise EnvironmentFault("end", what, f"it still runs after {STARTED_S:g} s", "run it again")
        await asyncio.sleep(SAMPLE_S / 5)
