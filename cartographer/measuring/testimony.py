"""What those on a path saw of our packets: quotes in ICMP errors, and echoes that repeat the class of their request.

Decides: who is a witness of what, and whom to believe where they contradict each other. Refuses to know: sockets, what
is asked of whom, and the verdict (`ecn`).

A quote is the header as it arrived at whoever sends the error. An echo reply repeats the class of its request: one that
comes back as it was sent was whole in both directions, one that does not proves nothing about either.

A router may rewrite what it quotes, or quote zeros. So a change counts only if every witness behind it confirms it, and
two of them do or the destination does; one that a later witness contradicts is that router's own affair. An ECT that
became CE is what ECN is for: only CE on all of `ALWAYS_CE_PACKETS` packets is a fault (a queue that marks every second
packet does that once in 256).

Sources: RFC 792 and 1812 (quotes); RFC 3168; RFC 2474. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cartographer.measuring.packets import Answer, AnswerKind, ProbePacket, Transport

NOT_ECT: Final = 0
ECT_1: Final = 1
ECT_0: Final = 2
CE: Final = 3
ECN_NAMES: Final = {NOT_ECT: "not-ECT", ECT_1: "ECT(1)", ECT_0: "ECT(0)", CE: "CE"}
MARKS: Final = (ECT_0, ECT_1, CE)
SYN: Final = 0x02
ALWAYS_CE_PACKETS: Final = 8
WITNESSES: Final = 2
SPARE_HOPS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to, and how far answers come from. `last_ttl` is of the destination, or of the last hop that answers."""

    destination: str
    transport: Transport
    port: int
    last_ttl: int
    reaches: bool  # whether the destination itself answers
    flow: int = 0

    def probe(self, *, ttl: int | None = None, ecn: int = 0, dscp: int = 0, tcp_flags: int = SYN) -> ProbePacket:
        """At the end, with a few hops more than it takes: the way may have grown."""
        reach = self.last_ttl + (SPARE_HOPS if self.reaches else 0)
        return ProbePacket(
            destination=self.destination,
            transport=self.transport,
            ttl=reach if ttl is None else ttl,
            flow=self.flow,
            port=self.port,
            ecn=ecn,
            dscp=dscp,
            tcp_flags=tcp_flags,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A probe and what came of it."""

    probe: ProbePacket
    answer: Answer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Between two hops. `after_ttl` 0: our own host or its first link; `before_ttl`: the first that saw it changed."""

    after_ttl: int
    after_address: str
    before_ttl: int
    before_address: str
    sent: int
    arrived: int | None  # None: does not arrive

    @property
    def where(self) -> str:
        after = f"hop {self.after_ttl} ({self.after_address})" if self.after_ttl else "this host"
        return f"between {after} and hop {self.before_ttl} ({self.before_address})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What arrived at one hop of packets that left alike. `is_end`: the destination itself."""

    ttl: int
    address: str
    values: tuple[int, ...]
    is_end: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """What the witnesses say together of packets that left with the value `sent`."""

    sent: int
    change: Change | None
    is_settled: bool  # False: only the last witness says so, or nobody says anything
    whole_up_to: Witness | None
    contradicted: tuple[Witness, ...]  # those who saw it changed where somebody behind them saw it whole


def witnesses_of(seen: Iterable[Seen], value: Callable[[int], int], *, last_ttl: int) -> list[Witness]:
    """In the order of hops. `value` picks the part of the traffic class that is asked about.

    A reflection that came back whole is a witness of the way there, too.
    """
    said: dict[tuple[int, str, bool], list[int]] = defaultdict(list)
    for each in seen:
        answer, probe = each.answer, each.probe
        if answer is None:
            continue
        is_end = answer.address == probe.destination
        ttl = min(probe.ttl, last_ttl) if is_end else probe.ttl
        if answer.quoted_traffic_class is not None and answer.kind is not AnswerKind.REPLY:
            said[ttl, answer.address, is_end].append(value(answer.quoted_traffic_class))
        elif reflects(each) and value(answer.traffic_class) == value(class_of(probe)):
            said[ttl, answer.address, True].append(value(answer.traffic_class))
    return [
        Witness(ttl=ttl, address=address, values=tuple(values), is_end=is_end)
        for (ttl, address, is_end), values in sorted(said.items())
    ]


def class_of(probe: ProbePacket) -> int:
    return probe.dscp << 2 | probe.ecn


def reflects(each: Seen) -> bool:
    """An echo reply repeats the class of its request."""
    answer = each.answer
    return answer is not None and answer.kind is AnswerKind.REPLY and each.probe.transport is Transport.ICMP


def journey(sent: int, witnesses: Sequence[Witness], *, marks_count: bool) -> Journey:
    """`marks_count`: CE in place of ECT is congestion, unless all are CE (ECN); a DSCP knows no such thing."""
    always_ce = marks_count and sent in (ECT_0, ECT_1)
    read = [(witness, arrived_of(sent, witness.values, may_be_marked=always_ce)) for witness in witnesses]
    whole = [witness for witness, arrived in read if arrived == sent]
    whole_up_to = whole[-1] if whole else None
    behind = [(w, a) for w, a in read if whole_up_to is None or w.ttl > whole_up_to.ttl]
    contradicted = tuple(w for w, a in read if a != sent and (w, a) not in behind)
    if not behind:
        is_settled = whole_up_to is not None
        return Journey(
            sent=sent, change=None, is_settled=is_settled, whole_up_to=whole_up_to, contradicted=contradicted
        )
    arrived = behind[-1][1]
    agree = [w for w, a in behind if a == arrived]  # one before them that saw something else says nothing
    change = Change(
        after_ttl=whole_up_to.ttl if whole_up_to else 0,
        after_address=whole_up_to.address if whole_up_to else "",
        before_ttl=agree[0].ttl,
        before_address=agree[0].address,
        sent=sent,
        arrived=arrived,
    )
    enough = len({w.address for w in agree}) >= WITNESSES or any(w.is_end for w in agree)
    if always_ce and arrived == CE:
        enough = enough and sum(len(w.values) for w in agree) >= ALWAYS_CE_PACKETS
    return Journey(sent=sent, change=change, is_settled=enough, whole_up_to=whole_up_to, contradicted=contradicted)


def arrived_of(sent: int, values: Sequence[int], *, may_be_marked: bool) -> int:
    """The value that most say; a mark counts as whole as long as a single one came through without it."""
    counted = [value for value in values if not (may_be_marked and value == CE)]
    if not counted:
        return CE
    if sent in counted:
        return sent  # a load balancer may send packets two ways: this one is whole
    return max(set(counted), key=counted.count)
