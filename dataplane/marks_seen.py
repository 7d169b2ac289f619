"""What the sender of one TCP flow knows of it by itself: how much arrived, what of it the other end reports as marked.

Decides: whether a count of marks is one. Refuses to know: what a mark costs, and what is done about it.
Source: linux/inet_diag.h, linux/tcp.h (struct tcp_info); RFC 3168 section 6.1.3; RFC 9768 (Accurate ECN).

Under RFC 3168 `delivered_ce` is no count of marks: the receiver sets ECE from a mark until it hears CWR, and the kernel
counts every segment that is acknowledged meanwhile. With Accurate ECN the receiver says how many were marked. Where
this host hides ECE from the transport (`PacedFlow.answers_marks`), the count stands still: ask the far end instead.
"""

from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple

from billpay.errors import EnvironmentFault
from dataplane.attribution.inet_diag import TCP, InetDiag
from dataplane.metering import FlowKey

_OPTION_ECN: Final = 8
# struct tcp_info: options at 5, lost at 32, rtt at 68, total_retrans at 100, min_rtt at 148, delivered at 192 and
# delivered_ce behind it (4.18).
_TCP_INFO: Final = struct.Struct("=5xB26xI32xI28xI44xI40xII").unpack_from
_TCP_INFO_BYTES: Final = 200
_ACCURATE_AT: Final = 276  # of Linux 6.18: two 16-bit numbers; of 7.0: bits
_ACCURATE_END: Final = 280
_NEVER: Final = 0xFFFF_FFFF
_BITS_FROM: Final = (7, 0)
_MODE_ACCURATE: Final = 2
_OPTION_SEEN: Final = (1, 2)


class SenderView(NamedTuple):
    """Cumulative since the connection began, in segments; `lost` is what is held to be lost just now.

    delivered_ce: marks if `accurate`, otherwise segments acknowledged while the other end complained.
    capable: the two ends agreed on ECN at all; without it no mark is ever reported.
    """

    delivered_packets: int
    delivered_ce: int
    lost: int
    retransmitted: int
    rtt_us: int
    min_rtt_us: int | None
    accurate: bool
    capable: bool


class MarksSeen:
    """Asks the kernel for one socket at a time, about 20 us each, in the network namespace that it is made in."""

    def __init__(self) -> None:
        self._diag = InetDiag()
        self._has_bits = _release() >= _BITS_FROM

    def close(self) -> None:
        self._diag.close()

    def read_sender_view(self, key: FlowKey) -> SenderView | None:
        """None when there is no such connection here, or it is none of TCP's."""
        if key.protocol != TCP:
            return None
        info = self._diag.tcp_info(
            local=key.local, local_port=key.local_port, remote=key.remote, remote_port=key.remote_port
        )
        if info is None or len(info) < _TCP_INFO_BYTES:
            return None
        options, lost, rtt_us, retransmitted, min_rtt_us, delivered, delivered_ce = _TCP_INFO(info)
        return SenderView(
            delivered_packets=delivered,
            delivered_ce=delivered_ce,
            lost=lost,
            retransmitted=retransmitted,
            rtt_us=rtt_us,
            min_rtt_us=None if min_rtt_us == _NEVER else min_rtt_us,
            accurate=self._is_accurate(info),
            capable=bool(options & _OPTION_ECN),
        )

    def is_accurate(self, key: FlowKey) -> bool:
        """False also where there is no such connection."""
        view = self.read_sender_view(key)
        return view is not None and view.accurate

    def _is_accurate(self, info: bytes) -> bool:
        """Before Linux 7.0 the kernel does not say what was agreed, only that the option with counts was seen."""
        if len(info) < _ACCURATE_END:
            return False
        if self._has_bits:
            word: int = struct.unpack_from("=I", info, _ACCURATE_AT)[0]
            return word & 3 == _MODE_ACCURATE
        return struct.unpack_from("=H", info, _ACCURATE_AT + 2)[0] in _OPTION_SEEN


def open_where_told() -> MarksSeen | None:
    """None where the kernel tells nothing of sockets."""
    try:
        return MarksSeen()
    except EnvironmentFault:
        return None


def _release() -> tuple[int, ...]:
    """Of the kernel: (6, 18)."""
    parts = os.uname().release.split(".")[:2]
    return tuple(int("".join(each for each in part if each.isdigit()) or 0) for part in parts)
