"""`python -m dataplane.shaping.reader [--deny-unanswered]`: the packet loop of the engine NFQUEUE.

A driver: builds the core and leaves the rest to `dataplane.reader`. The plan comes as the first command.

Packets are taken as they are on the wire, not whole as the sender's offload made them: 64 kB at once would be half a
second of a cap of 1 Mbit/s.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
from typing import Final

from dataplane.counters import CounterFile
from dataplane.nfqueue import QueueConfig
from dataplane.port import PacketCore
from dataplane.reader import serve
from dataplane.shaping.flowtable import Interface
from dataplane.shaping.plan import NO_SHAPING
from dataplane.shaping.shaper import IN_QUEUE, OUT_QUEUE, QUEUE_LENGTH, ShapingCore

DENY_UNANSWERED: Final = "--deny-unanswered"

EVENT_INTERVAL_NS: Final = 1_000_000
"""A flow's first packet waits until its event is told and answered."""

_SIOCGIFMTU: Final = 0x8921
_REQUEST: Final = struct.Struct("16si12x")


class Interfaces:
    """What the kernel says of the interfaces of this network namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def __call__(self, index: int) -> Interface | None:
        """None when there is none of that index now."""
        try:
            name = socket.if_indextoname(index)
            answer = fcntl.ioctl(self._socket, _SIOCGIFMTU, _REQUEST.pack(name.encode(), 0))
        except OSError:
            return None
        return Interface(name, _REQUEST.unpack(answer)[1])


def build(counters: CounterFile) -> tuple[PacketCore, list[QueueConfig]]:
    core = ShapingCore(
        NO_SHAPING,
        None,
        counters,
        interface_of=Interfaces(),
        allow_unanswered=DENY_UNANSWERED not in sys.argv,
    )
    return core, [QueueConfig(queue=queue, length=QUEUE_LENGTH) for queue in (OUT_QUEUE, IN_QUEUE)]


if __name__ == "__main__":
    sys.exit(serve(build, event_interval_ns=EVENT_INTERVAL_NS))
