"""Packets that go on otherwise than the kernel has them, where another core decides after us or has decided before.

Decides: with which payload a verdict goes to the kernel. Refuses to know: which packets are changed, and why. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dataplane.port import Action, Packet, Verdict
from dataplane.shaping.flowtable import Item
from dataplane.shaping.marks import hide_echo


class Rewritten:
    """What the inner core got otherwise than it came: what it leaves alone, the kernel has in the old form."""

    def __init__(self, queue: int) -> None:
        self._queue = queue
        self._payloads: dict[int, bytes] = {}

    def hand_on(self, packet: Packet, payload: bytes) -> Packet:
        self._payloads[packet.packet_id] = payload
        return packet._replace(payload=payload)

    def of_inner(self, actions: Sequence[Action]) -> Iterable[Action]:
        """Its verdicts, for the kernel."""
        return map(self._for_kernel, actions) if self._payloads else actions

    def _for_kernel(self, action: Action) -> Action:
        if not isinstance(action, Verdict) or action.queue != self._queue:
            return action
        payload = self._payloads.pop(action.packet_id, None)
        return action._replace(payload=payload) if payload and action.payload is None else action


def without_echo(packet: Packet, item: Item) -> Item:
    """The verdict on what arrived, so that its transport does not hear of marks."""
    if not isinstance(item, Verdict) or not item.accept:
        return item
    changed = hide_echo(packet.payload if item.payload is None else item.payload)
    return item._replace(payload=changed) if changed is not None else item
