"""The video server: control over TCP (RTSP), media over UDP (RTP), paced by the encoding's rate, sent as ECT(0).

Decides: when a packet leaves. Refuses to know: what a session is worth to a player who pays. Source: M3I scenarios
3.3.3.2 (the sending application's configured rate is the QoS controller), 3.5.1 (on-demand simplex video).

    python -m lab.streaming.server ADDRESS PORT [--directory D] [--payer sender|receiver] [--sessions N] ...

Each session has its own UDP port, sends to the address of its control connection only, and stops with it. A player
that pays and falls silent gets the lowest encoding after ten seconds: packets that nobody reacts for are not ECN's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import secrets
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from billpay.errors import BillpayError
from billpay.sessions import Payer
from lab.streaming import rtsp
from lab.streaming.clock import Clock, MachineClock
from lab.streaming.describing import Description, description_text
from lab.streaming.ecn import media_socket, send_as
from lab.streaming.media import MediaPacket, cut, packet_bytes, wire_bytes
from lab.streaming.qos import following
from lab.streaming.reacting import INTERVAL_NS, Bill, asked_bit_s, default_policy, fitted, ladder_for
from lab.streaming.reception import Ecn
from lab.streaming.serving import Pacing, ServerSession, Stage, level_for
from lab.streaming.timeline import Change, Timeline
from lab.streaming.video import LADDER_BIT_S, PPM, Shape, Video, make_video, scaled
from pricereactor import sdp
from pricereactor.policy import TaskPolicy
from pricereactor.rates import Verdict

_READ_BYTES: Final = 16_384
_SILENT_NS: Final = 10_000_000_000
_LOOK_NS: Final = 100_000_000
_GONE: Final = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOBUFS)
"""Of a datagram that was sent earlier, or had no room: for a video that is loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """`policy`: when the server pays; None: a default one. `clock`: as the player has it.

    `agent`: its socket; then the host's agent holds the session, counts with the far end's agent, and reacts. None:
    the reactor here does, or the player's.
    """

    address: str
    port: int = 0
    payer: Payer = Payer.RECEIVER
    policy: TaskPolicy | None = None
    nanodollars_per_mark: int = 1_000
    clock: Clock = field(default_factory=MachineClock)
    agent: Path | None = None


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One session, as the server saw it. Bytes at the IP layer; marks and money where the server pays."""

    video: str
    payer: Payer
    ended: str
    seconds: float
    packets: int
    bytes: int
    targets_heard: int
    switches: int
    levels: tuple[Change, ...]
    marks: int = 0
    spent_nanodollars: int = 0


class Server:
    """Serves one video to any number of players; `served` has what is over."""

    def __init__(self, video: Video, options: ServerOptions) -> None:
        self._video = video
        self._options = options
        self._clock = options.clock
        ladder = video.shape.ladder_bit_s
        self._description = Description(
            ladder_bit_s=ladder, duration_ms=video.duration_ms, segment_ms=video.shape.segment_ms
        )
        self._policy = fitted(options.policy, ladder) if options.policy else default_policy(ladder)
        self._listening: asyncio.Server | None = None
        self.served: asyncio.Queue[Served] = asyncio.Queue()

    async def start(self) -> int:
        """Its port."""
        self._listening = await asyncio.start_server(self._on_player, self._options.address, self._options.port)
        port: int = self._listening.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.close()
            await self._listening.wait_closed()

    async def _on_player(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        delivery = _Delivery(self._video, self._options, self._policy, self._clock, self._description, writer)
        try:
            await delivery.run(reader)
        except (ConnectionError, TimeoutError) as error:
            delivery.ended = delivery.ended or f"connection lost: {error}"
        finally:
            delivery.close()
            writer.close()
        if delivery.has_played:
            self.served.put_nowait(delivery.summary())


class _Delivery:
    """One player's session: answers on the control connection while packets leave."""

    def __init__(
        self,
        video: Video,
        options: ServerOptions,
        policy: TaskPolicy,
        clock: Clock,
        description: Description,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._video = video
        self._payer = options.payer
        self._clock = clock
        self._writer = writer
        self._ladder = video.shape.ladder_bit_s
        self._policy = policy
        self._agent = options.agent
        self._bill = Bill(options.nanodollars_per_mark)
        family = writer.get_extra_info("socket").family
        self._family = 6 if family == socket.AF_INET6 else 4
        here = writer.get_extra_info("sockname")
        self._socket = media_socket(family, here[0], zone=here[3] if self._family == 6 else 0)
        send_as(self._socket, Ecn.ECT_0)
        local = description_text(description)
        if options.payer is Payer.SENDER:
            local = sdp.with_policy(local, policy)
        self._session = ServerSession(
            local,
            session=secrets.token_hex(8),
            payer=options.payer,
            interval_ms=INTERVAL_NS // 1_000_000,
            server_port=self._socket.getsockname()[1],
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._timeline = Timeline()
        self._began_ns = self._last_ns = clock.now_ns()
        self._heard = (0, self._began_ns)
        self._sequence = secrets.randbelow(1 << 16)
        self._stream = secrets.randbits(32)
        self._packets = self._bytes = self._spent_by_agent = 0
        self.ended = ""

    @property
    def has_played(self) -> bool:
        return bool(self._tasks)

    async def run(self, reader: asyncio.StreamReader) -> None:
        messages = rtsp.Reader()
        while self._session.stage is not Stage.ENDED:
            data = await reader.read(_READ_BYTES)
            if not data:
                self.ended = self.ended or "the player left"
                return
            messages.feed(data)
            try:
                while (message := messages.next()) is not None:
                    self._on_message(message)
            except rtsp.RtspError as error:
                self.ended = f"not understood: {error}"
                return
            await self._writer.drain()
        self.ended = "torn down"

    def _on_message(self, message: rtsp.Request | rtsp.Response) -> None:
        if isinstance(message, rtsp.Response):
            raise rtsp.RtspError("an answer that nobody has asked for")
        self._writer.write(rtsp.response_bytes(self._session.handle(message)))
        if self._session.stage is Stage.PLAYING and not self._tasks:
            peer = self._writer.get_extra_info("peername")
            self._socket.connect((peer[0], self._session.client_port, *peer[2:]))
            self._start(self._send())
            if self._agent is not None:
                self._start(self._follow(self._agent))
            elif self._payer is Payer.SENDER:
                self._start(self._react())

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._on_done)
        self._tasks.append(task)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """What broke ends the session, and the player sees it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.ended = f"broken off: {error!r}"
            self._writer.close()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._socket.close()

    def summary(self) -> Served:
        return Served(
            video=self._video.encoder,
            payer=self._payer,
            ended=self.ended,
            seconds=(self._last_ns - self._began_ns) / 1_000_000_000,
            packets=self._packets,
            bytes=self._bytes,
            targets_heard=self._session.targets_heard,
            switches=self._timeline.switches,
            levels=self._timeline.changes,
            marks=self._session.report.counts.ce if self._session.report else 0,
            spent_nanodollars=self._bill.spent_nanodollars + self._spent_by_agent,
        )

    # --- the sender: implicitly the QoS controller -------------------------------------------------------------------

    async def _send(self) -> None:
        self._began_ns = self._clock.now_ns()
        self._heard = (0, self._began_ns)
        pacing = Pacing(self._began_ns)
        length_ns = self._video.shape.segment_ms * 1_000_000
        for number in range(self._video.shape.segments):
            level = await self._level_now()
            self._timeline.at(self._clock.now_ns() - self._began_ns, level, self._ladder[level])
            segment = self._video.segments[level][number]
            packets = cut(
                segment,
                level=level,
                start_ns=number * length_ns,
                length_ns=length_ns,
                sequence=self._sequence,
                stream=self._stream,
            )
            for packet in packets:
                await self._send_paced(pacing, packet)
            self._sequence = (self._sequence + len(packets)) & 0xFFFF

    async def _level_now(self) -> int:
        """Waits while the target is 0."""
        while (target := self._target_now()) == 0:
            await self._clock.sleep_until(self._clock.now_ns() + _LOOK_NS)
        return level_for(self._ladder, self._ladder[0] if target is None else target)

    def _target_now(self) -> int | None:
        """Of a payer that is silent: None."""
        now_ns = self._clock.now_ns()
        if self._session.targets_heard != self._heard[0]:
            self._heard = (self._session.targets_heard, now_ns)
        if self._payer is Payer.RECEIVER and self._agent is None and now_ns - self._heard[1] > _SILENT_NS:
            return None
        return self._session.target_bit_s

    async def _send_paced(self, pacing: Pacing, packet: MediaPacket) -> None:
        while (target := self._target_now()) == 0:
            await self._clock.sleep_until(self._clock.now_ns() + _LOOK_NS)
        data = packet_bytes(packet)
        wire = wire_bytes(len(packet.payload), self._family)
        most = target if target is not None and target < self._ladder[0] else None
        due_ns = pacing.due_ns(self._clock.now_ns(), media_ns=packet.media_ns, wire_bytes=wire, most_bit_s=most)
        await self._clock.sleep_until(due_ns)
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as error:
            if error.errno not in _GONE:
                raise
        self._packets += 1
        self._bytes += wire
        self._last_ns = self._clock.now_ns()

    # --- the reactor, where the sender pays ---------------------------------------------------------------------------

    async def _react(self) -> None:
        """Once in each interval of the reactor, and only then, on what the player has reported."""
        due_ns = self._clock.now_ns()
        self._bill.begin(due_ns)
        reactor = ladder_for(self._policy, now_ns=due_ns, duration_ms=self._video.duration_ms)
        while True:
            due_ns += reactor.interval_ns
            await self._clock.sleep_until(due_ns)
            now_ns = self._clock.now_ns()
            report = self._session.report
            found = self._bill.signal(now_ns, report.counts) if report else None
            reactor.on_buffer(report.buffer_ms * 1_000_000 if report else None)
            decision = reactor.on_interval(now_ns, found)
            self._session.target_bit_s = asked_bit_s(decision, self._ladder)
            if decision.verdict is Verdict.STOP:
                self.ended = decision.reason
                self._writer.close()  # the player sees that it is over
                return

    async def _follow(self, agent: Path) -> None:
        """The host's agent says the rate, by its own reactor or as the far end's payer asks."""
        pays = self._payer is Payer.SENDER
        try:
            async with following(self._socket, self._policy if pays else None, agent=agent, pays=pays) as held:
                while not held.lost and not held.stopped:
                    self._spent_by_agent = held.now.spent_nanodollars if pays else 0
                    self._session.target_bit_s = held.target_bit_s
                    await held.changed()
                self.ended = held.lost or held.now.reason
        except BillpayError as error:
            self.ended = str(error)
        self._writer.close()


# --- the command ------------------------------------------------------------------------------------------------------


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.streaming.server", description="Streams a test video.")
    parser.add_argument("address", help="IPv4 or IPv6 address to listen on")
    parser.add_argument("port", type=int)
    parser.add_argument("--directory", type=Path, default=Path("video"), help="where encodings are kept")
    parser.add_argument("--seconds", type=int, default=24, help="of video")
    parser.add_argument("--segment-ms", type=int, default=1_000)
    parser.add_argument("--scale-ppm", type=int, default=PPM, help="of the ladder up to 4300 kbit/s")
    parser.add_argument("--picture", default="640x360")
    parser.add_argument("--payer", type=Payer, choices=tuple(Payer), default=Payer.RECEIVER)
    parser.add_argument("--session", type=Path, help="local session description with a=x-buy lines, if the sender pays")
    parser.add_argument("--price", type=int, default=1_000, help="nanodollars for each mark, if the sender pays")
    parser.add_argument("--agent", type=Path, help="local socket of the host's agent, which then holds the session")
    parser.add_argument("--sessions", type=int, default=0, help="end after so many; 0: at SIGTERM")
    parser.add_argument("--fast", type=int, default=1, help="factor of the clock, the same as the player's")
    return parser.parse_args(words)


async def _serve(arguments: argparse.Namespace) -> None:
    shape = Shape(
        seconds=arguments.seconds,
        segment_ms=arguments.segment_ms,
        ladder_bit_s=scaled(LADDER_BIT_S, arguments.scale_ppm),
        picture=arguments.picture,
    )
    video = await asyncio.to_thread(make_video, arguments.directory, shape)
    policy = sdp.from_sdp(arguments.session.read_text(), where=arguments.session) if arguments.session else None
    options = ServerOptions(
        address=arguments.address,
        port=arguments.port,
        payer=arguments.payer,
        policy=policy,
        nanodollars_per_mark=arguments.price,
        clock=MachineClock(arguments.fast),
        agent=arguments.agent,
    )
    server = Server(video, options)
    port = await server.start()
    sys.stderr.write(f"{video.encoder} video at {arguments.address} port {port}\n")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    waiting = asyncio.create_task(stop.wait())
    told = 0
    while not stop.is_set() and (arguments.sessions == 0 or told < arguments.sessions):
        ended = asyncio.create_task(server.served.get())
        await asyncio.wait((ended, waiting), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            sys.stdout.write(msgspec.json.encode(ended.result()).decode() + "\n")
            sys.stdout.flush()
            told += 1
        else:
            ended.cancel()
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await server.close()


def main(words: Sequence[str]) -> int:
    asyncio.run(_serve(_arguments(words)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
