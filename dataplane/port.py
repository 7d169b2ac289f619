"""The data-plane port: what a packet-deciding core and an engine say to each other.

Decides: the shapes of packets, verdicts and injected packets, the meaning of the mark bits, and the calls an engine
makes. Refuses to know: how packets reach us (NFQUEUE, a fake, later eBPF) and what a core decides about them. Source:
ARCHITECTURE (data plane); linux/netfilter/nfnetlink_queue.h for what an engine can tell about a packet.

An engine makes all calls of one core from one thread, in this order within one turn of its loop: ``on_message`` for
commands, ``on_batch`` for packets, ``on_timer`` once the deadline has passed. The counter changes that a call makes
become durable together with the verdicts that it returns. No call may raise, block, log, or read a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

ACCEPT_BIT: Final = 0x2000_0000
"""Set by the engine in the mark of each accepted packet and cleared again by the counting rule, which thus counts
verdicts."""

OAD_MARK_MASK: Final = 0x0FFF_0000
"""Routing mark: alternative index + 1, 0 = the ordinary route."""

OAD_MARK_SHIFT: Final = 16

PACKET_MARK_MASK: Final = 0xFFFF_FFFF & ~(ACCEPT_BIT | OAD_MARK_MASK)
"""The packet's own mark bits, which a verdict preserves."""


def with_oad_mark(mark: int, alternative_index: int) -> int:
    """`mark` with the routing bits for an alternative (0, 1, 2 ...); the other bits stay."""
    return (mark & ~OAD_MARK_MASK) | ((alternative_index + 1) << OAD_MARK_SHIFT & OAD_MARK_MASK)


class Packet(NamedTuple):
    """One IP packet as the kernel queued it. `packet_id` is unique within its queue while the reader lives."""

    packet_id: int
    queue: int
    interface_index: int  # ingress for PREROUTING queues, egress for OUTPUT queues
    mark: int  # as the kernel had it; ACCEPT_BIT is never set here
    payload: bytes  # the whole IP packet
    partial_checksum: (
        bool  # its TCP/UDP checksum is not filled in yet (F_GSO mode only); the engine finishes it on mangling
    )
    segment_bytes: int = (
        0  # of an offloaded packet: what each segment's content is; 0: the packet is what it looks like
    )


class Verdict(NamedTuple):
    """What happens to one packet. Each packet gets exactly one, at once or any time later."""

    packet_id: int
    queue: int
    accept: bool
    mark: int = 0  # the whole mark it goes on with: start from `Packet.mark`; the engine adds ACCEPT_BIT
    payload: bytes | None = None  # None = unchanged; must be of the same IP version


class Inject(NamedTuple):
    """A whole IP packet to be sent from here by the kernel's routing (raw socket with this mark), e.g. a keepalive."""

    payload: bytes
    mark: int = 0


Action = Verdict | Inject


class Counters(Protocol):
    """Named 64-bit counters whose changes become durable together with the verdicts of the same call."""

    def index(self, name: str) -> int:
        """The counter's index, allocated at 0 when the name is new; do it once, not per packet."""
        ...

    def add(self, index: int, delta: int) -> None:
        """Add now; durable with the call's verdicts."""
        ...

    def value(self, index: int) -> int:
        """The value with everything added so far."""
        ...

    def release(self, name: str) -> None:
        """Forget a counter (a closed grant's); its index may serve another name afterwards."""
        ...


class PacketCore(Protocol):
    """What an engine drives. All of it is called in one thread, with positional arguments."""

    def on_batch(self, batch: list[Packet], now_ns: int, /) -> Sequence[Action]:
        """Packets that arrived, in order. May answer fewer (held) or more (released) than came."""
        ...

    def on_timer(self, now_ns: int, /) -> Sequence[Action]:
        """The deadline has passed (or nearly: compare with `now_ns` and set a new one)."""
        ...

    def next_deadline_ns(self) -> int | None:
        """When `on_timer` is due (monotonic clock), None = never. Asked once a turn."""
        ...

    def on_drain(self, now_ns: int, /) -> Sequence[Action]:
        """A graceful stop: give every held packet its verdict now; `on_batch` afterwards must not hold any."""
        ...

    def on_message(self, data: bytes, now_ns: int, unix_s: int, /) -> bytes | None:
        """A command from the main process, and the reply. Bounded by `command.MESSAGE_LIMIT_BYTES` both ways."""
        ...

    def take_events(self) -> list[bytes]:
        """Events for the main process since the last call; the core bounds the list. Asked every 20 ms at most."""
        ...
