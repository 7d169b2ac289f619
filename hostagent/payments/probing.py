"""Probes: small paid datagrams by which an agent measures an alternative (delay there and back, toll on the way).

Decides: the form of a probe. Pure. The reply rides in an echo (`billpay.messages.ProbeReply`), which gives the sender's
own time back, so that the two clocks need not agree.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_FORM = struct.Struct(">4sQQ")
_MAGIC = b"HAP1"


class Probe(NamedTuple):
    """`sent_ns` is the sender's monotonic time."""

    number: int
    sent_ns: int


def encode_probe(probe: Probe) -> bytes:
    return _FORM.pack(_MAGIC, probe.number, probe.sent_ns)


def decode_probe(payload: bytes) -> Probe | None:
    """None for anything else."""
    if len(payload) != _FORM.size:
        return None
    magic, number, sent_ns = _FORM.unpack(payload)
    return Probe(number, sent_ns) if magic == _MAGIC and number < 2**62 and sent_ns < 2**62 else None
