"""The frames between a main process and its reader, on a SEQPACKET socket: one frame is one datagram.

Decides: kinds, numbering and limits of the frames. Refuses to know: what the messages in them say.
Source: unix(7) for SOCK_SEQPACKET.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from billpay.errors import LocalProtocolError

MESSAGE_LIMIT_BYTES: Final = 160_000
"""A unix socket's default send buffer (212,992 bytes) bounds a datagram."""

FRAME_LIMIT_BYTES: Final = MESSAGE_LIMIT_BYTES + 5

_HEAD: Final = struct.Struct("!BI")


class Kind(IntEnum):
    """Main sends COMMAND, GO and STOP; the reader the others."""

    COMMAND = 1  # for the core; answered by REPLY with the same number
    GO = 2  # the snapshot is complete: bind the queues; answered by READY
    STOP = 3  # drain and exit
    REPLY = 4
    READY = 5  # the queues are bound; body: JSON of reader.Started
    EVENT = 6
    FAULT = 7  # the reader cannot work; body: JSON list of EnvironmentFault's fields
    NO_REPLY = 8  # the core had nothing to answer to that COMMAND


class Frame(NamedTuple):
    kind: Kind
    number: int
    body: bytes


def encode(kind: Kind, number: int, body: bytes = b"") -> bytes:
    if len(body) > MESSAGE_LIMIT_BYTES:
        raise LocalProtocolError(f"a message of {len(body)} bytes exceeds {MESSAGE_LIMIT_BYTES}")
    return _HEAD.pack(kind, number) + body


def decode(data: bytes) -> Frame:
    """Raises LocalProtocolError: both ends are ours."""
    try:
        kind, number = _HEAD.unpack_from(data)
        return Frame(Kind(kind), number, data[_HEAD.size :])
    except (struct.error, ValueError) as error:
        raise LocalProtocolError(f"not a frame: {data[:16]!r}") from error
