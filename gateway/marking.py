"""Congestion marks on packets: the rule of a link, and the ECN field of IPv4 and IPv6 (RFC 3168). Pure."""

from __future__ import annotations

from billpay.marking import Avq, Marking, Rem, VirtualLink, VirtualQueue, VirtualRed
from billpay.tunnel import traffic_class, with_traffic_class
from gateway.plan import LinkPlan, MarkingRule

NOT_ECT, ECT_1, ECT_0, CE = 0, 1, 2, 3
ECN_MASK = 3


def marking_of(plan: LinkPlan, limit_bytes: int) -> Marking | None:
    """The rule that the link's configuration names, for its rate and queue."""
    rate = plan.rate_bit_s // 8
    buffer = plan.virtual_limit_bytes or limit_bytes
    link = VirtualLink(capacity_bytes_per_s=rate, buffer_bytes=buffer, theta_ppm=plan.virtual_ppm)
    match plan.marking:
        case MarkingRule.NONE:
            return None
        case MarkingRule.VIRTUAL_QUEUE:
            return VirtualQueue(link)
        case MarkingRule.VIRTUAL_RED:
            return VirtualRed(link)
        case MarkingRule.AVQ:
            return Avq(link)
        case MarkingRule.REM:
            return Rem(link)


def is_ect(packet: bytes) -> bool:
    """Whether the sender understands marks and the packet has none yet."""
    return traffic_class(packet) & ECN_MASK in (ECT_0, ECT_1)


def with_ce(packet: bytes) -> bytes:
    """The packet with *congestion experienced* set and its IPv4 checksum right."""
    return with_traffic_class(packet, traffic_class(packet) | CE)
