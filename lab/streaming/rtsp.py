"""The control messages of a streaming session: a small part of RTSP 1.0, as values and as bytes.

Decides: what is a request, what an answer, and how long either may be. Refuses to know: sockets, sessions, prices.
Pure. Source: RFC 2326 (4 and 6 to 12: text of HTTP's form, CSeq, Session, Transport; 10.9 SET_PARAMETER, the remote
interface over which a payer at the receiver sets the sender's rate: M3I scenarios 3.3.5.2).

Left out: interleaved media, RTSP over UDP, requests from the server, several headers of one name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final

VERSION: Final = "RTSP/1.0"
MOST_HEAD_BYTES: Final = 8_192
MOST_BODY_BYTES: Final = 65_536
MOST_HEADERS: Final = 32
_END_OF_HEAD: Final = b"\r\n\r\n"
_CONTROLS: Final = frozenset(map(chr, range(0x20))) | {"\x7f"}


class Method(StrEnum):
    OPTIONS = "OPTIONS"
    DESCRIBE = "DESCRIBE"
    SETUP = "SETUP"
    PLAY = "PLAY"
    SET_PARAMETER = "SET_PARAMETER"
    TEARDOWN = "TEARDOWN"


class Status(Enum):
    OK = (200, "OK")
    BAD_REQUEST = (400, "Bad Request")
    NOT_FOUND = (404, "Not Found")
    PARAMETER_NOT_UNDERSTOOD = (451, "Parameter Not Understood")
    SESSION_NOT_FOUND = (454, "Session Not Found")
    NOT_IN_THIS_STATE = (455, "Method Not Valid in This State")
    UNSUPPORTED_TRANSPORT = (461, "Unsupported transport")
    NOT_IMPLEMENTED = (501, "Not Implemented")

    @property
    def code(self) -> int:
        return self.value[0]


class RtspError(ValueError):
    """Not RTSP, or more of it than we take. One line, for the peer and for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Header names in lower case. `method` as it came: a server answers 501 to one that it does not know."""

    method: str
    uri: str
    sequence: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    code: int
    reason: str
    sequence: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def answer(
    request: Request, status: Status = Status.OK, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Response:
    code, reason = status.value
    return Response(code=code, reason=reason, sequence=request.sequence, headers=headers or {}, body=body)


def request_bytes(request: Request) -> bytes:
    _check_word(request.method, "method")
    _check_word(request.uri, "URI")
    return _message(f"{request.method} {request.uri} {VERSION}", request.sequence, request.headers, request.body)


def response_bytes(response: Response) -> bytes:
    return _message(f"{VERSION} {response.code} {response.reason}", response.sequence, response.headers, response.body)


def _check_word(word: str, what: str) -> None:
    if not word or not word.isascii() or not word.isprintable() or " " in word:
        raise RtspError(f"a {what} is one printable ASCII word, not {word[:40]!r}")


def _message(first: str, sequence: int, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [first, f"CSeq: {sequence}"]
    for name, value in headers.items():
        _check_word(name, "header name")
        if _CONTROLS & set(value) or not value.isascii() or ":" in name:
            raise RtspError(f"the header {name[:40]!r} cannot be written on a line")
        lines.append(f"{name}: {value}")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines).encode() + _END_OF_HEAD
    if len(head) > MOST_HEAD_BYTES or len(body) > MOST_BODY_BYTES or len(lines) > MOST_HEADERS:
        raise RtspError(f"a message of {len(head)} + {len(body)} bytes is longer than a peer takes")
    return head + body


class Reader:
    """Takes bytes as they come over a connection, gives whole messages. After an error it takes no more."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> None:
        self._bytes += data

    def next(self) -> Request | Response | None:
        """None: more is needed."""
        end = self._bytes.find(_END_OF_HEAD)
        if end < 0 or end > MOST_HEAD_BYTES:
            if len(self._bytes) > MOST_HEAD_BYTES:
                raise RtspError(f"the head of a message is longer than {MOST_HEAD_BYTES} bytes")
            return None
        first, headers = _parse_head(bytes(self._bytes[:end]))
        body_length = _number(headers.pop("content-length", "0"), "Content-Length", MOST_BODY_BYTES)
        start = end + len(_END_OF_HEAD)
        if len(self._bytes) < start + body_length:
            return None
        body = bytes(self._bytes[start : start + body_length])
        del self._bytes[: start + body_length]
        sequence = _number(headers.pop("cseq", ""), "CSeq", 2**31)
        return _parse_first(first, sequence, headers, body)


def _parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    try:
        lines = head.decode("ascii").split("\r\n")
    except UnicodeDecodeError as error:
        raise RtspError("the head of a message is ASCII") from error
    if len(lines) > MOST_HEADERS:
        raise RtspError(f"more than {MOST_HEADERS} headers")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        key = name.lower()
        if not colon or not key or _CONTROLS & set(line) or " " in key:
            raise RtspError(f"not a header: {line[:40]!r}")
        if key in headers:
            raise RtspError(f"{name[:40]} is said twice")
        headers[key] = value.strip(" ")
    return lines[0], headers


def _number(text: str, what: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) <= most):
        raise RtspError(f"{what} is a number up to {most}, not {text[:40]!r}")
    return int(text)


def _parse_first(first: str, sequence: int, headers: dict[str, str], body: bytes) -> Request | Response:
    if _CONTROLS & set(first):
        raise RtspError("the first line has control characters")
    words = first.split(" ", 2)
    if len(words) == 3 and words[0] == VERSION:
        code = _number(words[1], "a status", 599)
        return Response(code=code, reason=words[2], sequence=sequence, headers=headers, body=body)
    if len(words) == 3 and words[2] == VERSION and words[0] and words[1]:
        return Request(method=words[0], uri=words[1], sequence=sequence, headers=headers, body=body)
    raise RtspError(f"not {VERSION}: {first[:40]!r}")


def parameters_body(parameters: Mapping[str, int]) -> bytes:
    """text/parameters, one a line (RFC 2326, 10.8 and 10.9); ours are numbers only."""
    return "".join(f"{name}: {value}\r\n" for name, value in parameters.items()).encode()


def parameters(body: bytes) -> dict[str, int]:
    try:
        lines = body.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise RtspError("parameters are ASCII") from error
    found: dict[str, int] = {}
    for line in lines[:MOST_HEADERS]:
        name, _colon, value = line.partition(":")
        found[name.strip().lower()] = _number(value.strip(), name[:40] or "a parameter", 2**62)
    return found
