"""The little of DNS that finding a gateway needs: questions, and answers of five types.

Decides: which answers are read, and that a message that is not well-formed says nothing at all.
Refuses to know: who is asked, and what follows. Source: RFC 1035 section 4, RFC 2782 (SRV), RFC 3596 (AAAA),
RFC 6762 sections 5.1 and 6.7 (one-shot queries), 5.4 (the bit that asks for a unicast answer).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

UNICAST_ANSWER: Final = 0x8000
_IN: Final = 1
_CLASS: Final = 0x7FFF  # without the bit "unicast answer" or "cache flush"
_HEADER: Final = struct.Struct("!HHHHHH")  # id, flags, counts
_QUESTION: Final = struct.Struct("!HH")
_RECORD: Final = struct.Struct("!HHIH")  # type, class, time to live, length
_SRV: Final = struct.Struct("!HHH")  # priority, weight, port
_RESPONSE: Final = 0x8000
_RECURSION_DESIRED: Final = 0x0100
_RESULT: Final = 0x000F
_NAME_OCTETS_MAX: Final = 255
_LABEL_OCTETS_MAX: Final = 63
_RECORDS_MAX: Final = 128
MESSAGE_BYTES_MAX: Final = 9000


class RecordType(IntEnum):
    A = 1
    PTR = 12
    AAAA = 28
    SRV = 33


class MalformedMessage(ValueError):  # noqa: N818
    """Not a DNS message; it is ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`text`: an address, or the name that a PTR or SRV record leads to. Names: lower case, without a last dot."""

    name: str
    type: RecordType
    text: str
    port: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    identifier: int
    records: tuple[Record, ...]


def pack_query(
    questions: Sequence[tuple[str, RecordType]], *, identifier: int, recursion: bool, unicast: bool = False
) -> bytes:
    flags = _RECURSION_DESIRED if recursion else 0
    parts = [_HEADER.pack(identifier, flags, len(questions), 0, 0, 0)]
    for name, record_type in questions:
        parts.append(_pack_name(name) + _QUESTION.pack(record_type, _IN | (UNICAST_ANSWER if unicast else 0)))
    return b"".join(parts)


def read_answers(data: bytes) -> Answers:
    """Records of all sections; none of a refusal. Raises MalformedMessage, also for a query."""
    try:
        return _read_answers(data)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise MalformedMessage(str(error)) from error


def _read_answers(data: bytes) -> Answers:
    identifier, flags, questions, *counts = _HEADER.unpack_from(data)
    if not flags & _RESPONSE:
        raise MalformedMessage("not an answer")
    if flags & _RESULT:  # there is no such name, or nobody knows
        return Answers(identifier=identifier, records=())
    if questions + sum(counts) > _RECORDS_MAX:
        raise MalformedMessage("too many records")
    at = _HEADER.size
    for _ in range(questions):
        _, at = _read_name(data, at)
        at += _QUESTION.size
    records = []
    for _ in range(sum(counts)):
        name, at = _read_name(data, at)
        kind, record_class, _, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if at + length > len(data):
            raise MalformedMessage("a record ends behind the message")
        record = _read_record(data, at, length, name, kind) if record_class & _CLASS == _IN else None
        if record is not None:
            records.append(record)
        at += length
    return Answers(identifier=identifier, records=tuple(records))


def _read_record(data: bytes, at: int, length: int, name: str, kind: int) -> Record | None:
    if kind == RecordType.A and length == 4:
        return Record(name=name, type=RecordType.A, text=str(IPv4Address(data[at : at + 4])))
    if kind == RecordType.AAAA and length == 16:
        return Record(name=name, type=RecordType.AAAA, text=str(IPv6Address(data[at : at + 16])))
    if kind == RecordType.PTR:
        return Record(name=name, type=RecordType.PTR, text=_read_name(data, at)[0])
    if kind == RecordType.SRV:
        priority, _, port = _SRV.unpack_from(data, at)
        target = _read_name(data, at + _SRV.size)[0]
        return Record(name=name, type=RecordType.SRV, text=target, port=port, priority=priority)
    return None


def _pack_name(name: str) -> bytes:
    parts = []
    for label in name.rstrip(".").split("."):
        octets = label.encode()
        if not 0 < len(octets) <= _LABEL_OCTETS_MAX:
            raise ValueError(f"{name} is not a domain name")
        parts.append(bytes([len(octets)]) + octets)
    packed = b"".join(parts) + b"\0"
    if len(packed) > _NAME_OCTETS_MAX:
        raise ValueError(f"{name} is too long for a domain name")
    return packed


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    """The name, and where the message goes on. A pointer leads backwards only, so that it ends."""
    labels: list[str] = []
    size, after, barrier = 0, -1, at
    while True:
        length = data[at]
        if length == 0:
            return ".".join(labels).lower(), after if after >= 0 else at + 1
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | data[at + 1]
            if target >= barrier:
                raise MalformedMessage("a name that points forwards")
            after = at + 2 if after < 0 else after
            at = barrier = target
            continue
        size += length + 1
        if length > _LABEL_OCTETS_MAX or size >= _NAME_OCTETS_MAX or at + 1 + length > len(data):
            raise MalformedMessage("a name that is too long")
        labels.append(data[at + 1 : at + 1 + length].decode("utf-8"))
        at += 1 + length
