"""What the next probe to a destination should ask for.

Decides which alternative is most worth a probe; refuses to know how a probe is built, sent and answered.  What is
unknown comes first, then what was not asked about for longest.  The path of the traffic is probed too: its packets
show the toll, but only a probe shows the round trip.  An ISP that ignores wishes is left in peace.  Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from billpay.header import Slot
from cartographer.choice import find_other, slots_for, unknown, wish_for
from cartographer.map import ANY_OTHER, AlternativeFacts, IspFacts, Times
from cartographer.policy import PathPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """`as_number` None: nothing but what the traffic asks for. `number` 0: any alternative that we do not know."""

    slots: tuple[Slot, ...]
    as_number: int | None
    number: int


def next_probe(path: tuple[IspFacts, ...], times: Times, policy: PathPolicy, *, now_ns: int) -> Probe | None:
    """The one probe that is due now, if any."""
    if times.probed_ns is not None and now_ns - times.probed_ns < policy.probe_gap_ns:
        return None
    wishes = {isp.as_number: isp.wish for isp in path if isp.wish is not None}
    as_it_is = Probe(slots=slots_for(path, wishes, policy), as_number=None, number=ANY_OTHER)
    found: list[tuple[bool, int | None, Probe]] = [(bool(path), times.path_asked_ns, as_it_is)]
    for isp in path:
        others = {number: wish for number, wish in wishes.items() if number != isp.as_number}
        for facts in _worth_asking(isp, now_ns):
            wish = find_other(isp) if facts.number == ANY_OTHER else wish_for(isp, facts.number)
            asked = others if wish is None else {**others, isp.as_number: wish}
            probe = Probe(slots=slots_for(path, asked, policy), as_number=isp.as_number, number=facts.number)
            found.append((facts.number != ANY_OTHER, facts.asked_ns, probe))
    due = [
        (known, -1 if asked_ns is None else asked_ns, order)
        for order, (known, asked_ns, _) in enumerate(found)
        if asked_ns is None or now_ns - asked_ns >= policy.probe_every_ns
    ]
    return found[min(due)[2]][2] if due else None


def _worth_asking(isp: IspFacts, now_ns: int) -> list[AlternativeFacts]:
    """The known alternatives beside the current one; and any other, if there are unknown ones."""
    facts = [isp.alternatives[number] for number in isp.available if number != isp.current]
    worth = [item for item in facts if item.known and item.silent_until_ns <= now_ns]
    if unknown(isp) and isp.any_other.silent_until_ns <= now_ns:
        worth.append(isp.any_other)
    return worth
