"""A session description: what a player is told of a video before it plays it (SDP, RFC 4566; RFC 3551 for RTP).

Decides: how the encodings of a ladder are written down and read. Refuses to know: prices and policies. A buying policy
stands in a *local* description only (`a=x-buy:`): `public_text` takes it out before anything is sent, and a reader
passes over lines that it does not know. Pure.

Each encoding is a payload type of one media line, so that its level stands in the RTP header of every packet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lab.streaming.media import FIRST_PAYLOAD_TYPE, MOST_LEVELS
from pricereactor import sdp

_MOST_BYTES: Final = 65_536
_HIGHEST_BIT_S: Final = 400_000_000_000
_HIGHEST_MS: Final = 86_400_000


class DescriptionError(ValueError):
    """Not a description of a video that we could play."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    ladder_bit_s: tuple[int, ...]  # at the IP layer, rising
    duration_ms: int
    segment_ms: int
    title: str = "video"


def description_text(description: Description) -> str:
    types = " ".join(str(FIRST_PAYLOAD_TYPE + level) for level in range(len(description.ladder_bit_s)))
    lines = ["v=0", "o=- 1 1 IN IP4 0.0.0.0", f"s={description.title}", "t=0 0"]
    lines += [f"a=range:npt=0-{description.duration_ms / 1_000:.3f}", f"a=x-segment-ms:{description.segment_ms}"]
    lines += ["m=video 0 RTP/AVP " + types, f"b=AS:{description.ladder_bit_s[-1] // 1_000}"]
    for level, rate in enumerate(description.ladder_bit_s):
        payload_type = FIRST_PAYLOAD_TYPE + level
        lines += [f"a=rtpmap:{payload_type} MP2T/90000", f"a=fmtp:{payload_type} rate={rate}"]
    return "\r\n".join(lines) + "\r\n"


def public_text(local_text: str) -> str:
    """What of a local description may be sent: all but what its owner would pay."""
    return sdp.without_policy(local_text)


def parse_description(text: str) -> Description:
    if len(text) > _MOST_BYTES:
        raise DescriptionError(f"a description of more than {_MOST_BYTES} bytes")
    lines = text.splitlines()
    if not lines or lines[0] != "v=0":
        raise DescriptionError("a session description begins with v=0")
    rates: dict[int, int] = {}
    duration_ms = segment_ms = 0
    title = "video"
    for line in lines:
        if line.startswith("a=fmtp:"):
            level, rate = _encoding(line)
            if level in rates:
                raise DescriptionError(f"payload type {FIRST_PAYLOAD_TYPE + level} is described twice")
            rates[level] = rate
        elif line.startswith("a=range:npt=0-"):
            duration_ms = _milliseconds(line.removeprefix("a=range:npt=0-"))
        elif line.startswith("a=x-segment-ms:"):
            segment_ms = _whole(line.removeprefix("a=x-segment-ms:"), "a segment", 60_000)
        elif line.startswith("s="):
            title = line[2:]
    ladder = tuple(rates[level] for level in sorted(rates))
    if sorted(rates) != list(range(len(rates))) or list(ladder) != sorted(set(ladder)) or not ladder:
        raise DescriptionError("the encodings are payload types in a row, at rising rates")
    if not duration_ms or not segment_ms:
        raise DescriptionError("how long the video and its segments are is not said")
    return Description(ladder_bit_s=ladder, duration_ms=duration_ms, segment_ms=segment_ms, title=title)


def _encoding(line: str) -> tuple[int, int]:
    payload_type, _space, rest = line.removeprefix("a=fmtp:").partition(" ")
    level = _whole(payload_type, "a payload type", 127) - FIRST_PAYLOAD_TYPE
    if not 0 <= level < MOST_LEVELS or not rest.startswith("rate="):
        raise DescriptionError(f"not an encoding: {line[:40]!r}")
    return level, _whole(rest.removeprefix("rate="), "a rate", _HIGHEST_BIT_S)


def _milliseconds(text: str) -> int:
    seconds, _dot, thousandths = text.partition(".")
    part = _whole(thousandths.ljust(3, "0")[:3] or "0", "a length", 999)
    return _whole(seconds, "a length", _HIGHEST_MS // 1_000) * 1_000 + part


def _whole(text: str, what: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 15 and int(text) <= most):
        raise DescriptionError(f"{what} is a number up to {most}, not {text[:40]!r}")
    return int(text)
