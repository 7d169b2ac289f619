"""Server and player on real packets over loopback. What a bottleneck would do is done by a relay: it marks by script.

Only the packets are real: the clock goes on by a tick for each round of the event loop, so that nothing hangs on how
busy the machine is. All sessions run at once and are looked at afterwards. The script goes by the media's own time:
12 s without a mark, 14 s with every packet marked, then none again.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, pairwise
from pathlib import Path

import msgspec
import pytest

from billpay.sessions import Payer
from lab.streaming.control import Control
from lab.streaming.ecn import media_socket, receive, send_as
from lab.streaming.media import PAYLOAD_BYTES, parse_packet, segment_wire_bytes
from lab.streaming.player import Played, PlayerOptions, play
from lab.streaming.reacting import default_policy
from lab.streaming.reception import Ecn
from lab.streaming.rtsp import Method
from lab.streaming.server import Served, Server, ServerOptions
from lab.streaming.serving import TARGET
from lab.streaming.video import Shape, Video, synthetic_video

S = 1_000_000_000
TICK_NS = 5_000_000
LADDER = (60_000, 150_000, 300_000)
VIDEO = synthetic_video(Shape(seconds=40, ladder_bit_s=LADDER))
PRICE = 3_000
"""Nanodollars: with all packets marked 0.28 for a bit, where the lowest step of the default policy is worth 0.17."""
BUDGET = 300_000

Script = Callable[[int], Ecn | None]
FAMILIES = {4: (socket.AF_INET, "127.0.0.1"), 6: (socket.AF_INET6, "::1")}


def congested(media_ns: int) -> Ecn:
    return Ecn.CE if 12 * S <= media_ns < 26 * S else Ecn.ECT_0


def with_an_outage(media_ns: int) -> Ecn | None:
    """3 s in which nothing arrives."""
    return None if 30 * S <= media_ns < 33 * S else congested(media_ns)


class TickingClock:
    def __init__(self, tick_ns: int) -> None:
        self._now_ns = S
        self._tick_ns = tick_ns
        self._order = count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    def now_ns(self) -> int:
        return self._now_ns

    async def sleep_until(self, due_ns: int) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (due_ns, next(self._order), future))
        await future

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0)
            self._now_ns += self._tick_ns
            while self._waiting and self._waiting[0][0] <= self._now_ns:
                future = heapq.heappop(self._waiting)[2]
                if not future.done():
                    future.set_result(None)


@asynccontextmanager
async def ticking(tick_ns: int = TICK_NS) -> AsyncIterator[TickingClock]:
    clock = TickingClock(tick_ns)
    task = asyncio.create_task(clock.run())
    try:
        yield clock
    finally:
        task.cancel()


class Relay:
    """Between server and player: each datagram goes on with the mark of the script, or does not."""

    def __init__(self, family: int, script: Script) -> None:
        self._family, self._address = FAMILIES[family]
        self._script = script
        self._socket = media_socket(self._family, self._address)
        self.port: int = self._socket.getsockname()[1]
        self.arrived_as: set[Ecn] = set()
        self.marked = 0

    def start(self, to_port: int) -> None:
        self._to = (self._address, to_port)
        asyncio.get_running_loop().add_reader(self._socket, self._forward)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _forward(self) -> None:
        while True:
            try:
                data, ecn, _source = receive(self._socket)
            except BlockingIOError:
                return
            packet = parse_packet(data)
            assert packet is not None
            self.arrived_as.add(ecn)
            becomes = self._script(packet.media_ns)
            if becomes is not None:
                self.marked += becomes is Ecn.CE
                send_as(self._socket, becomes)
                self._socket.sendto(data, self._to)


@dataclass(frozen=True, kw_only=True)
class Seen:
    played: Played
    served: Served
    relay: Relay


@asynccontextmanager
async def running(video: Video, options: ServerOptions) -> AsyncIterator[tuple[Server, int]]:
    server = Server(video, options)
    port = await server.start()
    try:
        yield server, port
    finally:
        await server.close()


async def watch(
    clock: TickingClock,
    payer: Payer,
    family: int,
    script: Script,
    *,
    budget: int | None = None,
    video: Video = VIDEO,
    save: Path | None = None,
) -> Seen:
    policy = msgspec.structs.replace(
        default_policy(video.shape.ladder_bit_s), session_budget_nanodollars=budget, most_switches_per_minute=60
    )
    address = FAMILIES[family][1]
    serving = ServerOptions(address=address, payer=payer, nanodollars_per_mark=PRICE, clock=clock)
    options = PlayerOptions(address=address, port=0, payer=payer, nanodollars_per_mark=PRICE, clock=clock, save=save)
    if payer is Payer.SENDER:
        serving = replace(serving, policy=policy)
    else:
        options = replace(options, policy=policy)
    async with running(video, serving) as (server, port):
        relay = Relay(family, script)
        media = media_socket(*FAMILIES[family])
        relay.start(media.getsockname()[1])
        try:
            played = await play(replace(options, port=port, announced_port=relay.port), media=media)
            served = await asyncio.wait_for(server.served.get(), 10)
        finally:
            relay.stop()
    return Seen(played=played, served=served, relay=relay)


@cache
def all_seen() -> dict[str, Seen]:
    """Once for all tests of the module."""

    async def run() -> dict[str, Seen]:
        async with ticking() as clock:
            sessions = {
                "receiver": watch(clock, Payer.RECEIVER, 4, congested),
                "sender": watch(clock, Payer.SENDER, 4, congested),
                "outage": watch(clock, Payer.RECEIVER, 6, with_an_outage),
                "sender's money": watch(clock, Payer.SENDER, 6, congested, budget=BUDGET),
                "receiver's money": watch(clock, Payer.RECEIVER, 4, congested, budget=BUDGET),
            }
            return dict(zip(sessions, await asyncio.gather(*sessions.values()), strict=True))

    return asyncio.run(run())


@pytest.fixture(scope="module")
def seen() -> dict[str, Seen]:
    return all_seen()


def levels_at(played: Played) -> list[int]:
    return [change.level for change in played.levels]


@pytest.mark.row("DPH-14", "DPH-23", "DPH-32")
@pytest.mark.parametrize("name", ["receiver", "sender", "outage"])
def test_the_level_follows_the_price_down_and_up(seen: dict[str, Seen], name: str) -> None:
    """Whoever pays: up to the best encoding while nothing is marked, down to the lowest, and up again."""
    played = seen[name].played
    levels = levels_at(played)
    assert levels[0] == 0, "a reactor that knows no price begins low"
    assert played.ended == "all shown"
    top = levels.index(2)
    bottom = levels.index(0, top)
    assert 2 in levels[bottom:], levels
    assert played.levels[bottom].at_ms > 12_000
    assert played.switches == len(levels) - 1 <= 6


@pytest.mark.row("DPH-31")
@pytest.mark.parametrize("name", ["receiver", "sender", "outage"])
def test_nothing_stalls_while_the_buffer_holds(seen: dict[str, Seen], name: str) -> None:
    """Neither do switches, nor an outage of 3 s."""
    played = seen[name].played
    assert (played.stalls, played.stalled_ms) == (0, 0)
    assert (played.lost > 0) is (name == "outage"), "what did not arrive is a hole in the picture"
    assert played.least_buffer_ms > (7_500 if name != "outage" else 4_500)


@pytest.mark.row("DPH-32")
@pytest.mark.parametrize("name", ["receiver", "sender", "outage"])
def test_every_mark_is_counted_and_paid_once(seen: dict[str, Seen], name: str) -> None:
    one = seen[name]
    assert one.relay.arrived_as == {Ecn.ECT_0}, "the sender's packets are ECN-capable"
    assert one.played.marks == one.relay.marked > 20
    assert one.played.packets == one.played.marks + one.played.unmarked_ect
    spent = one.played.spent_nanodollars if one.played.payer is Payer.RECEIVER else one.served.spent_nanodollars
    assert spent == one.relay.marked * PRICE


def test_only_who_pays_spends(seen: dict[str, Seen]) -> None:
    assert seen["receiver"].served.spent_nanodollars == 0
    assert seen["sender"].played.spent_nanodollars == 0
    assert seen["sender"].served.marks == seen["sender"].relay.marked


@pytest.mark.row("DPH-30")
def test_the_sender_hears_a_target_in_each_interval_of_the_receivers_reactor(seen: dict[str, Seen]) -> None:
    """Half a second each; the last one may have come with the end."""
    one = seen["receiver"]
    assert one.played.reports == pytest.approx(one.played.seconds * 2, abs=2)
    assert one.served.targets_heard == pytest.approx(one.played.reports, abs=1)
    assert levels_at(one.played) == [change.level for change in one.served.levels]


@pytest.mark.parametrize("name", ["sender's money", "receiver's money"])
def test_it_ends_with_the_money_and_not_beyond(seen: dict[str, Seen], name: str) -> None:
    one = seen[name]
    spent = max(one.played.spent_nanodollars, one.served.spent_nanodollars)
    assert 0 < spent <= BUDGET
    assert one.played.seconds < 40
    said = one.played.ended if one.played.payer is Payer.RECEIVER else one.served.ended
    assert "budget" in said


async def test_a_payer_that_falls_silent_gets_the_lowest_encoding() -> None:
    """It asks once for the best and then says nothing; ten seconds later its packets are as few as can be."""
    async with ticking() as clock, running(VIDEO, ServerOptions(address="::1", clock=clock)) as (server, port):
        media = media_socket(*FAMILIES[6])
        reader, writer = await asyncio.open_connection("::1", port)
        control = Control(reader, writer, "rtsp://[::1]/video")
        transport = f"RTP/AVP;unicast;client_port={media.getsockname()[1]}"
        control.session = (await control.ask(Method.SETUP, {"Transport": transport})).headers["session"]
        await control.ask(Method.PLAY)
        control.tell({TARGET: 300_000})
        await clock.sleep_until(clock.now_ns() + 20 * S)
        control.close()
        served = await asyncio.wait_for(server.served.get(), 10)
        media.close()
    assert served.ended == "the player left"
    assert [change.level for change in served.levels] == [0, 2, 0]
    assert 10_000 <= served.levels[2].at_ms <= 12_000


SWEEP_S = 600
SWEEP = synthetic_video(Shape(seconds=SWEEP_S, ladder_bit_s=LADDER))
MOST_SHARE = 0.95


def share_at(media_s: float) -> float:
    """Of marked packets: up to the most and down again, slowly."""
    return MOST_SHARE * (1 - abs(1 - 2 * media_s / SWEEP_S))


class Sweep:
    """The share exactly: the fractions of packets add up."""

    def __init__(self) -> None:
        self._owed = 0.0

    def __call__(self, media_ns: int) -> Ecn:
        self._owed += share_at(media_ns / S)
        if self._owed < 1:
            return Ecn.ECT_0
        self._owed -= 1
        return Ecn.CE


@pytest.mark.row("DPH-23")
async def test_a_slow_sweep_of_the_price_gives_the_staircase() -> None:
    """The levels change where the price, as a share of marks, crosses c_k (1 + h) on the way up and c_k (1 - h) on the
    way down. What was seen of marks is by 2.9 s old in the mean (half-life 2 s), and an encoding begins with a segment.
    """
    async with ticking(25_000_000) as clock:
        played = (await watch(clock, Payer.RECEIVER, 4, Sweep(), video=SWEEP)).played
    assert levels_at(played) == [0, 2, 1, 0, 1, 2]
    worth = [math.log(1 + rate / LADDER[0]) for rate in LADDER]
    unit = default_policy(LADDER).value[-1].nanodollars_per_s / worth[-1]
    steps = [unit * (worth[k + 1] - worth[k]) / (LADDER[k + 1] - LADDER[k]) for k in range(2)]
    expected = [steps[1] * 1.15, steps[0] * 1.15, steps[0] * 0.85, steps[1] * 0.85]
    prices = [
        share_at(change.at_ms / 1_000 - 2.9 - 1) * PRICE / bits_of_a_packet(before.level)
        for before, change in pairwise(played.levels[1:])
    ]
    assert prices == pytest.approx(expected, rel=0.07)


def bits_of_a_packet(level: int) -> float:
    """In the mean: the last one of a segment is shorter."""
    segments = SWEEP.segments[level]
    packets = sum(-(-len(segment) // PAYLOAD_BYTES) for segment in segments)
    return sum(segment_wire_bytes(segment, 4) for segment in segments) * 8 / packets
