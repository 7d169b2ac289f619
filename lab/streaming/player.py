"""The video player: shows nothing, but counts what a person would have seen, and has the price reactor inside.

Decides: when it asks the server for which rate (it pays), or tells it what it has counted (the server pays). Refuses to
know: how a level is chosen (`pricereactor.streaming`). Source: M3I scenarios 3.5.1 (a player with its own ECN
measurements and a price reactor that instructs the sender), 3.3.2.2 (both sub-scenarios).

    python -m lab.streaming.player ADDRESS PORT [--payer receiver|sender] [--session FILE.sdp] [--price N] ...

It prints one line of JSON when it ends. Its policy stands in a local session description (`a=x-buy:` lines), or is a
default one; it is never sent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from billpay.errors import BillpayError
from billpay.sessions import Payer
from lab.streaming import rtsp
from lab.streaming.clock import Clock, MachineClock
from lab.streaming.control import Control, PlayError
from lab.streaming.describing import Description, parse_description
from lab.streaming.ecn import media_socket, receive
from lab.streaming.media import MediaPacket, parse_packet, wire_bytes
from lab.streaming.qos import Ends, bare, following
from lab.streaming.reacting import Bill, asked_bit_s, default_policy, fitted, ladder_for
from lab.streaming.reception import Buffer, Counter, Ecn, Screen
from lab.streaming.rtsp import Method, Response
from lab.streaming.serving import INTERVAL, PAYER, TARGET, Report, report_values, transport_port
from lab.streaming.timeline import Change, Timeline
from pricereactor import sdp
from pricereactor.policy import TaskPolicy
from pricereactor.rates import Verdict

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
_SILENT_NS: Final = 30 * NS_PER_S
_LOOK_NS: Final = 100 * NS_PER_MS
_MOST_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerOptions:
    """`policy`: where the player pays; None: a default one. `agent`: its socket; then the host's agent counts, reacts
    and asks the sender's agent, and the player only plays."""

    address: str
    port: int
    payer: Payer = Payer.RECEIVER
    policy: TaskPolicy | None = None
    nanodollars_per_mark: int = 1_000
    buffer_ms: int = 8_000
    clock: Clock = field(default_factory=MachineClock)
    save: Path | None = None
    agent: Path | None = None
    announced_port: int | None = None  # what the server is told, where a relay stands in between


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """What a session was like, by its own clock. Bytes at the IP layer; money where the player pays."""

    payer: Payer
    ended: str
    seconds: float
    ladder_bit_s: tuple[int, ...]
    levels: tuple[Change, ...]
    switches: int
    stalls: int
    stalled_ms: int
    least_buffer_ms: int  # while it played, before the server had sent all
    packets: int
    bytes: int
    lost: int
    marks: int
    unmarked_ect: int
    reports: int  # or targets: what was sent to the server at the reactor's interval
    spent_nanodollars: int
    reason: str = ""  # of the reactor's last decision


class _Playing:
    """One session from PLAY to its end."""

    def __init__(
        self, options: PlayerOptions, description: Description, clock: Clock, *, family: int, server: str
    ) -> None:
        self._options = options
        self._description = description
        self._clock = clock
        self._family = family
        self._server = server
        self._counter = Counter()
        self._buffer = Buffer(
            buffer_ns=options.buffer_ms * NS_PER_MS,
            duration_ns=description.duration_ms * NS_PER_MS,
            tail_ns=description.segment_ms * NS_PER_MS,
        )
        self._timeline = Timeline()
        self._began_ns = self._heard_ns = self._ended_ns = clock.now_ns()
        self._stream: int | None = None
        self._least_buffer_ns: int | None = None
        self._reports = 0
        self._reason = ""
        self._spent_by_agent = 0
        self._save: BinaryIO | None = options.save.open("wb") if options.save else None
        ladder = description.ladder_bit_s
        self._policy = (
            fitted(options.policy, ladder) if options.policy else default_policy(ladder, buffer_ms=options.buffer_ms)
        )
        self._reactor = ladder_for(self._policy, now_ns=self._began_ns, duration_ms=description.duration_ms)
        self._bill = Bill(options.nanodollars_per_mark)
        self._bill.begin(self._began_ns)

    # --- what arrives -------------------------------------------------------------------------------------------------

    def drain(self, media: socket.socket) -> None:
        """All that has arrived, within reason: the loop has other things to do too."""
        for _ in range(_MOST_AT_ONCE):
            try:
                data, ecn, source = receive(media)
            except BlockingIOError:
                return
            packet = parse_packet(data)
            if source == self._server and packet is not None and packet.level < len(self._description.ladder_bit_s):
                self._on_packet(packet, ecn)

    def _on_packet(self, packet: MediaPacket, ecn: Ecn) -> None:
        if self._stream is None:
            self._stream = packet.stream
        if packet.stream != self._stream:
            return
        now_ns = self._heard_ns = self._clock.now_ns()
        self._counter.on_packet(
            sequence=packet.sequence, wire_bytes=wire_bytes(len(packet.payload), self._family), ecn=ecn
        )
        rate = self._description.ladder_bit_s[packet.level]
        self._timeline.at(now_ns - self._began_ns, packet.level, rate)
        self._buffer.on_media(now_ns, self._end_of(packet))
        if self._save is not None:
            self._save.write(packet.payload)

    def _end_of(self, packet: MediaPacket) -> int:
        """Media up to a packet's own time has arrived with it, and with a segment's last packet the whole segment."""
        if not packet.ends_segment:
            return packet.media_ns
        length_ns = self._description.segment_ms * NS_PER_MS
        return (packet.media_ns // length_ns + 1) * length_ns

    # --- what it does about it ----------------------------------------------------------------------------------------

    async def watch(self) -> str:
        """Until the last picture, or longer silence than any buffer bears; why."""
        while True:
            now_ns = self._clock.now_ns()
            self._buffer.look(now_ns)
            if self._buffer.screen is Screen.OVER:
                return "all shown"
            if self._buffer.screen is Screen.PLAYING and not self._buffer.has_all:
                filled = self._buffer.filled_ns
                self._least_buffer_ns = filled if self._least_buffer_ns is None else min(filled, self._least_buffer_ns)
            if now_ns - self._heard_ns > _SILENT_NS and not self._buffer.has_all:
                return "nothing arrives"
            await self._clock.sleep_until(now_ns + _LOOK_NS)

    async def pay(self, control: Control) -> str:
        """The player's own reactor: a target for the server in each interval. Ends when the money does."""
        due_ns = self._clock.now_ns()
        while True:
            due_ns += self._reactor.interval_ns
            await self._clock.sleep_until(due_ns)
            now_ns = self._clock.now_ns()
            found = self._bill.signal(now_ns, self._counter.counts)
            self._reactor.on_buffer(self._buffer.filled_ns)
            decision = self._reactor.on_interval(now_ns, found)
            self._reason = decision.reason
            control.tell({TARGET: asked_bit_s(decision, self._description.ladder_bit_s)})
            self._reports += 1
            if decision.verdict is Verdict.STOP:
                return decision.reason

    async def report(self, control: Control, interval_ns: int) -> str:
        """The server's reactor is told what was counted, exactly at its interval."""
        due_ns = self._clock.now_ns()
        while True:
            due_ns += interval_ns
            await self._clock.sleep_until(due_ns)
            report = Report(counts=self._counter.counts, buffer_ms=self._buffer_ms)
            control.tell(report_values(report))
            self._reports += 1

    async def follow(self, agent: Path, ends: Ends) -> str:
        """The host's agent counts, reacts and asks the sender's agent; here is nothing to do but to end with it."""
        async with following(ends, self._policy, agent=agent, sends=False) as held:
            while not held.lost and not held.stopped:
                self._reason, self._spent_by_agent = held.now.reason, held.now.spent_nanodollars
                await held.changed()
            return held.lost or held.now.reason

    @property
    def _buffer_ms(self) -> int:
        return self._buffer.filled_ns // NS_PER_MS

    def end(self) -> None:
        self._ended_ns = self._clock.now_ns()
        if self._options.payer is Payer.RECEIVER and self._options.agent is None:
            self._bill.signal(self._ended_ns, self._counter.counts)  # marks since the last decision are billed as well
        if self._save is not None:
            self._save.close()

    def result(self, ended: str) -> Played:
        counts = self._counter.counts
        return Played(
            payer=self._options.payer,
            ended=ended,
            seconds=(self._ended_ns - self._began_ns) / NS_PER_S,
            ladder_bit_s=self._description.ladder_bit_s,
            levels=self._timeline.changes,
            switches=self._timeline.switches,
            stalls=self._buffer.stalls,
            stalled_ms=self._buffer.stalled_ns // NS_PER_MS,
            least_buffer_ms=(self._least_buffer_ns or 0) // NS_PER_MS,
            packets=counts.packets,
            bytes=counts.bytes,
            lost=counts.lost,
            marks=counts.ce,
            unmarked_ect=counts.ect,
            reports=self._reports,
            spent_nanodollars=self._bill.spent_nanodollars + self._spent_by_agent,
            reason=self._reason,
        )


async def play(options: PlayerOptions, *, media: socket.socket | None = None) -> Played:
    """`media`: where packets arrive; None: a new socket. It is closed at the end.

    Raises PlayError, or OSError where the server cannot be reached.
    """
    reader, writer = await asyncio.open_connection(options.address, options.port)
    family = writer.get_extra_info("socket").family
    host = f"[{options.address}]" if family == socket.AF_INET6 else options.address
    control = Control(reader, writer, f"rtsp://{host}:{options.port}/video")
    try:
        if media is None:
            here = writer.get_extra_info("sockname")
            media = media_socket(family, here[0], zone=here[3] if family == socket.AF_INET6 else 0)
        return await _play(options, control, media)
    except (rtsp.RtspError, TimeoutError) as error:
        raise PlayError(f"the server's answer: {error or 'none came'}") from error
    finally:
        if media is not None:
            media.close()
        control.close()


async def _play(options: PlayerOptions, control: Control, media: socket.socket) -> Played:
    await control.ask(Method.OPTIONS)
    described = await control.ask(Method.DESCRIBE, {"Accept": "application/sdp"})
    description = parse_description(described.body.decode("utf-8", "replace"))
    port = options.announced_port or media.getsockname()[1]
    transport = {"Transport": f"RTP/AVP;unicast;client_port={port}-{port + 1}", PAYER: options.payer.value}
    ready = await control.ask(Method.SETUP, transport)
    control.session = ready.headers.get("session")
    interval = ready.headers.get(INTERVAL, "")
    if control.session is None or not interval.isdecimal() or not 10 <= int(interval) <= 60_000:
        raise PlayError("the server's answer to SETUP has no session, or no interval")
    family = 6 if media.family == socket.AF_INET6 else 4
    playing = _Playing(options, description, options.clock, family=family, server=control.peer)
    loop = asyncio.get_running_loop()
    loop.add_reader(media, playing.drain, media)
    try:
        await control.ask(Method.PLAY, {"Range": "npt=0-"})
        ended = await _until_over(playing, control, _reacting(options, playing, control, media, ready))
    finally:
        loop.remove_reader(media)
        playing.end()
    return playing.result(ended)


def _reacting(
    options: PlayerOptions, playing: _Playing, control: Control, media: socket.socket, ready: Response
) -> Coroutine[None, None, str] | None:
    """None: the agents at both ends do it all."""
    if options.agent is None:
        if options.payer is Payer.RECEIVER:
            return playing.pay(control)
        return playing.report(control, int(ready.headers[INTERVAL]) * NS_PER_MS)
    if options.payer is Payer.SENDER:
        return None
    port = transport_port(ready.headers.get("transport", ""), "server_port")
    if port is None:
        raise PlayError("the server's answer to SETUP has no port for the agent to look at")
    host, here = control.peer, media.getsockname()
    ends = Ends(protocol="udp", local=bare(here[0]), local_port=here[1], remote=bare(host), remote_port=port)
    return playing.follow(options.agent, ends)


async def _until_over(playing: _Playing, control: Control, reacting: Coroutine[None, None, str] | None) -> str:
    """Whatever ends first ends the session."""
    tasks = [asyncio.create_task(each) for each in (playing.watch(), reacting, control.watch()) if each is not None]
    try:
        done, _left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, PlayError | rtsp.RtspError):
            return str(result)
    for result in results:
        if isinstance(result, Exception):
            raise result
    with contextlib.suppress(PlayError, TimeoutError):  # the server may have gone meanwhile
        await control.ask(Method.TEARDOWN)
    return next(task.result() for task in tasks if task in done)


# --- the command ------------------------------------------------------------------------------------------------------


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.streaming.player", description="Plays a test video.")
    parser.add_argument("address", help="IPv4 or IPv6 address of the server")
    parser.add_argument("port", type=int)
    parser.add_argument("--payer", type=Payer, choices=tuple(Payer), default=Payer.RECEIVER)
    parser.add_argument("--session", type=Path, help="local session description with a=x-buy lines, if the player pays")
    parser.add_argument("--price", type=int, default=1_000, help="nanodollars for each mark, if the player pays")
    parser.add_argument("--agent", type=Path, help="local socket of the host's agent, which then holds the session")
    parser.add_argument("--buffer-ms", type=int, default=8_000)
    parser.add_argument("--save", type=Path, help="write the video there, as it arrives")
    parser.add_argument("--fast", type=int, default=1, help="factor of the clock, the same as the server's")
    return parser.parse_args(words)


async def _run(arguments: argparse.Namespace) -> Played:
    text = arguments.session.read_text() if arguments.session else ""
    options = PlayerOptions(
        address=arguments.address,
        port=arguments.port,
        payer=arguments.payer,
        policy=sdp.from_sdp(text, where=arguments.session) if arguments.session else None,
        nanodollars_per_mark=arguments.price,
        buffer_ms=arguments.buffer_ms,
        clock=MachineClock(arguments.fast),
        save=arguments.save,
        agent=arguments.agent,
    )
    task = asyncio.create_task(play(options))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def main(words: Sequence[str]) -> int:
    try:
        played = asyncio.run(_run(_arguments(words)))
    except (PlayError, BillpayError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except asyncio.CancelledError:
        return 130
    sys.stdout.write(msgspec.json.encode(played).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
