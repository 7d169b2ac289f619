"""A data plane in memory: drives a packet core with the same contract as the kernel's, on a virtual clock.

Decides: nothing that the NFQUEUE engine does not decide as well; tests/dataplane/test_contract.py passes on both.
Refuses to know: the network. What a real kernel would refuse (a verdict for a packet that is not there) is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dataplane.counters import CounterFile
from dataplane.port import ACCEPT_BIT, Action, Inject, Packet, PacketCore


class Delivered(NamedTuple):
    """A packet that went on: as the next hop sees it, with its mark without our bit."""

    payload: bytes
    mark: int
    queue: int | None  # None: injected


@dataclass(slots=True)
class FakeDataPlane:
    """Call `deliver`, `advance` and `command`; look at `out`, `dropped`, `held` and `events`."""

    core: PacketCore
    counters: CounterFile
    now_ns: int = 1_000_000_000
    unix_s: int = 1_750_000_000
    out: list[Delivered] = field(default_factory=list)
    dropped: list[bytes] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    held: dict[tuple[int, int], Packet] = field(default_factory=dict)
    kernel_accepts: int = 0
    _last_id: int = 0

    def deliver(self, *payloads: bytes, queue: int = 0, interface_index: int = 1, mark: int = 0) -> None:
        """One batch of packets arrives."""
        batch = []
        for payload in payloads:
            self._last_id += 1
            packet = Packet(self._last_id, queue, interface_index, mark & ~ACCEPT_BIT, payload, False)
            self.held[(queue, self._last_id)] = packet
            batch.append(packet)
        self._carry_out(self.core.on_batch(batch, self.now_ns))

    def advance(self, duration_ns: int) -> None:
        """Time passes, with a call of `on_timer` at each deadline on the way."""
        end_ns = self.now_ns + duration_ns
        while (deadline_ns := self.core.next_deadline_ns()) is not None and deadline_ns <= end_ns:
            self.now_ns = max(self.now_ns, deadline_ns)
            self._carry_out(self.core.on_timer(self.now_ns))
        self.now_ns = end_ns

    def command(self, data: bytes) -> bytes | None:
        reply = self.core.on_message(data, self.now_ns, self.unix_s)
        self._carry_out(())
        return reply

    def drain(self) -> None:
        """A graceful stop; packets that the core forgot go on unmarked."""
        self._carry_out(self.core.on_drain(self.now_ns))
        for packet in self.held.values():
            self.out.append(Delivered(packet.payload, packet.mark, packet.queue))
        self.held.clear()

    def _carry_out(self, actions: Sequence[Action]) -> None:
        accepts = sum(1 for action in actions if not isinstance(action, Inject) and action.accept)
        self.counters.begin(accepts)
        for action in actions:
            if isinstance(action, Inject):
                self.out.append(Delivered(action.payload, action.mark, None))
                continue
            packet = self.held.pop((action.queue, action.packet_id), None)
            assert packet is not None, f"a verdict for a packet that is not held: {action}"
            if action.accept:
                self.kernel_accepts += 1
                payload = packet.payload if action.payload is None else action.payload
                assert payload[0] >> 4 == packet.payload[0] >> 4, "a verdict cannot change the IP version"
                self.out.append(Delivered(payload, action.mark & ~ACCEPT_BIT, action.queue))
            else:
                self.dropped.append(packet.payload)
        self.counters.commit()
        self.events += self.core.take_events()
