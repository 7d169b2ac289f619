"""What a server says to one player, and what it has to do for it: the session behind the control connection.

Decides: every answer, in which order requests make sense, which encoding a target rate allows. Refuses to know:
sockets, and why a target is what it is. Pure.

The player pays: it sets `target-rate` (bit/s at the IP layer; 0: send nothing) in each interval of its reactor. The
server pays: the player sets `packets`, `bytes`, `ce`, `ect`, `lost` and `buffer-ms`, counted since it began, in each
interval that the server asked for, and nothing else: it neither knows nor needs a price. Either goes through
SET_PARAMETER (RFC 2326, 10.9). A message has no room for what somebody would pay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from billpay.sessions import Payer
from lab.streaming import rtsp
from lab.streaming.describing import public_text
from lab.streaming.reception import Counts
from lab.streaming.rtsp import Method, Request, Response, Status, answer

_NS_PER_S: Final = 1_000_000_000
_MOST_LATE_NS: Final = _NS_PER_S

TARGET: Final = "target-rate"
BUFFER: Final = "buffer-ms"
PAYER: Final = "x-payer"
INTERVAL: Final = "x-interval-ms"
_COUNTED: Final = ("packets", "bytes", "ce", "ect", "lost")
_SUPPORTED: Final = ", ".join(Method)


class Stage(Enum):
    NEW = "new"
    READY = "ready"
    PLAYING = "playing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the player has counted."""

    counts: Counts
    buffer_ms: int


def level_for(ladder_bit_s: Sequence[int], target_bit_s: int) -> int:
    """The highest encoding that the target carries, or the lowest of all."""
    return max((level for level, rate in enumerate(ladder_bit_s) if rate <= target_bit_s), default=0)


class ServerSession:
    def __init__(
        self, local_description: str, *, session: str, payer: Payer, interval_ms: int, server_port: int
    ) -> None:
        """`local_description`: may hold what its owner would pay, which stays here. `interval_ms`: of the server's own
        reactor, for whoever reports to it."""
        self._public = public_text(local_description)
        self._session = session
        self._payer = payer
        self._interval_ms = interval_ms
        self._server_port = server_port
        self.stage = Stage.NEW
        self.client_port = 0
        self.target_bit_s: int | None = None
        self.targets_heard = 0
        self.report: Report | None = None

    def handle(self, request: Request) -> Response:
        """Whatever is wrong with it gets an answer; nothing is half done."""
        try:
            method = Method(request.method)
        except ValueError:
            return answer(request, Status.NOT_IMPLEMENTED, {"Public": _SUPPORTED})
        if method is Method.OPTIONS:
            return answer(request, headers={"Public": _SUPPORTED})
        if method is Method.DESCRIBE:
            return answer(request, headers={"Content-Type": "application/sdp"}, body=self._public.encode())
        if method is Method.SETUP:
            return self._set_up(request)
        if request.headers.get("session") != self._session:
            return answer(request, Status.SESSION_NOT_FOUND)
        if method is Method.PLAY:
            return self._play(request)
        if method is Method.TEARDOWN:
            self.stage = Stage.ENDED
            return answer(request)
        return self._set(request)

    def _set_up(self, request: Request) -> Response:
        if self.stage is not Stage.NEW:
            return answer(request, Status.NOT_IN_THIS_STATE)
        if request.headers.get(PAYER, self._payer.value) != self._payer.value:
            return answer(request, Status.BAD_REQUEST, {PAYER: self._payer.value})
        port = client_port(request.headers.get("transport", ""))
        if port is None:
            return answer(request, Status.UNSUPPORTED_TRANSPORT)
        self.client_port = port
        self.stage = Stage.READY
        transport = f"RTP/AVP;unicast;client_port={port}-{port + 1};server_port={self._server_port}"
        headers = {"Session": self._session, "Transport": transport, PAYER: self._payer.value}
        return answer(request, headers=headers | {INTERVAL: str(self._interval_ms)})

    def _play(self, request: Request) -> Response:
        if self.stage is not Stage.READY:
            return answer(request, Status.NOT_IN_THIS_STATE)
        self.stage = Stage.PLAYING
        return answer(request, headers={"Session": self._session})

    def _set(self, request: Request) -> Response:
        try:
            values = rtsp.parameters(request.body)
        except rtsp.RtspError:
            return answer(request, Status.BAD_REQUEST)
        if self._payer is Payer.RECEIVER and set(values) == {TARGET}:
            self.target_bit_s = values[TARGET]
            self.targets_heard += 1
        elif self._payer is Payer.SENDER and set(values) == {*_COUNTED, BUFFER}:
            self.report = report_of(values)
        else:
            return answer(request, Status.PARAMETER_NOT_UNDERSTOOD)
        return answer(request)


def report_of(values: Mapping[str, int]) -> Report:
    counted = {name: values[name] for name in _COUNTED}
    return Report(counts=Counts(**counted), buffer_ms=values[BUFFER])


def report_values(report: Report) -> dict[str, int]:
    return {name: getattr(report.counts, name) for name in _COUNTED} | {BUFFER: report.buffer_ms}


def client_port(transport: str) -> int | None:
    """RFC 2326, 12.39: RTP/AVP;unicast;client_port=5004-5005. Without an address: it is that of the connection, so
    that nobody can have a video sent to somebody else."""
    return transport_port(transport, "client_port")


def transport_port(transport: str, wanted: str) -> int | None:
    profile, *options = transport.split(";")
    if profile not in ("RTP/AVP", "RTP/AVP/UDP") or "unicast" not in options:
        return None
    for option in options:
        name, _equals, value = option.partition("=")
        first = value.partition("-")[0]
        if name == wanted and first.isascii() and first.isdecimal() and 0 < int(first[:6]) < 65_536:
            return int(first)
    return None


class Pacing:
    """When each packet is due. A target below the lowest encoding stretches the video; it is never outrun."""

    def __init__(self, start_ns: int) -> None:
        self._shift_ns = start_ns
        self._last_ns = start_ns

    def due_ns(self, now_ns: int, *, media_ns: int, wire_bytes: int, most_bit_s: int | None) -> int:
        """`most_bit_s`: None where the encoding's own rate is allowed. Who was stopped for long begins anew rather than
        with a burst."""
        due_ns = self._shift_ns + media_ns
        if most_bit_s is not None:
            due_ns = max(due_ns, self._last_ns + wire_bytes * 8 * _NS_PER_S // most_bit_s)
        if now_ns - due_ns > _MOST_LATE_NS:
            due_ns = now_ns
        self._shift_ns = due_ns - media_ns
        self._last_ns = due_ns
        return due_ns
