"""Whether a path brings ECN marks and the DSCP as they were sent, and if not, what happens to them and where.

Decides: one verdict for ECN, one for the DSCP, with the two hops between which it happens. Refuses to know: sockets,
clocks, how packets look, and what follows for prices (`hostagent.reacting.evidence` falls back to loss or delay).

Two kinds of evidence: what those on the path saw (`testimony`), and what the destination answers to packets with and
without ECN.

A black hole is told from loss by rounds: in each the order of plain and marked probes is drawn, so whatever else loses
packets or limits answers hits either first equally often.  A round in which the plain one alone is answered counts
against the mark, and one answer to the mark settles it.  `BLACK_HOLE_ROUNDS` such rounds and no answer happen by chance
once in 1,024; with three marks and the SYN a path is wronged once in 256 checks at most.

Sources: RFC 3168 (6.1.1: what an ECN-setup SYN-ACK is); RFC 2474; Bauer, Beverly and Berger,
Measuring the State of ECN Readiness (IMC 2011); Trammell et al., Enabling Internet-Wide Deployment of ECN (PAM 2015);
Custura, Venne and Fairhurst, Exploring DSCP modification pathologies (TMA 2017).  Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cartographer.measuring.packets import Answer, AnswerKind, ProbePacket, Prober, Transport
from cartographer.measuring.testimony import (
    CE,
    ECN_NAMES,
    ECT_0,
    MARKS,
    NOT_ECT,
    SYN,
    Change,
    Journey,
    Seen,
    Target,
    arrived_of,
    class_of,
    journey,
    reflects,
    witnesses_of,
)

BLACK_HOLE_ROUNDS: Final = 10
MOST_ROUNDS: Final = 16
"""So many are tried where the plain probes are not always answered either."""
QUOTE_TRIES: Final = 3

ACK: Final = 0x10
ECE: Final = 0x40
CWR: Final = 0x80
ECN_SYN: Final = SYN | ECE | CWR
CLOSED_PORT: Final = 33_434
"""Where nobody listens: the destination says so, and quotes what arrived."""
EXPEDITED: Final = 46
"""The DSCP that is tried: what calls and games use."""


class EcnVerdict(enum.Enum):
    """What a price reactor may make of marks here."""

    TRUSTED = "trusted"  # ECT and CE arrive as they were sent
    BLEACHED = "bleached"  # they arrive as not-ECT: no mark is ever seen
    REMARKED = "remarked"  # they arrive as something else, or all as CE: a mark says nothing
    DROPPED = "dropped"  # packets with them, or SYNs that ask for ECN, do not arrive
    REFUSED = "refused"  # the path is whole, the far end's TCP does not do ECN
    UNKNOWN = "unknown"  # too little was answered


class DscpVerdict(enum.Enum):
    KEPT = "kept"
    BLEACHED = "bleached"  # set to 0
    REMARKED = "remarked"  # set to another value
    DROPPED = "dropped"  # packets with it do not arrive
    UNKNOWN = "unknown"


class PeerVerdict(enum.Enum):
    """What the far end's TCP says to a SYN that asks for ECN."""

    AGREES = "agrees"
    REFUSES = "refuses"
    SYN_DROPPED = "syn dropped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """`hop_ecn`, `hop_dscp`: how a packet that left as ECT(0), or with the DSCP that was tried, arrived at each hop."""

    verdict: EcnVerdict
    words: str
    dscp_verdict: DscpVerdict
    dscp_words: str
    peer: PeerVerdict
    returns: EcnVerdict  # of the way back: TRUSTED or UNKNOWN
    change: Change | None
    dscp_change: Change | None
    hop_ecn: dict[int, int]
    hop_dscp: dict[int, int]

    @property
    def may_trust_marks(self) -> bool:
        """Whether the share of CE is the share of packets that met congestion."""
        return self.verdict is EcnVerdict.TRUSTED


# --- the end: what is answered at all ---------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Rounds:
    """How often a marked probe was answered, against a plain one of the same round."""

    against: int = 0  # the plain one alone was answered
    answered: int = 0
    rounds: int = 0

    def add(self, *, plain: bool, marked: bool) -> None:
        self.rounds += 1
        self.answered += marked
        self.against += plain and not marked

    @property
    def is_black_hole(self) -> bool:
        return self.answered == 0 and self.against >= BLACK_HOLE_ROUNDS

    @property
    def is_open(self) -> bool:
        return self.answered == 0 and not self.is_black_hole


async def _answered(
    prober: Prober,
    probes: Sequence[ProbePacket],
    *,
    wait_ns: int,
    draw: Callable[[int], int],
) -> tuple[dict[int, Rounds], list[Seen]]:
    """The first probe is the plain one. One round usually suffices; only where one is missing there are more."""
    counts = {number: Rounds() for number in range(1, len(probes))}
    seen: list[Seen] = []
    at_once = 1
    while sum(1 for _ in seen) < MOST_ROUNDS * len(probes) and any(each.is_open for each in counts.values()):
        orders = [_shuffled(len(probes), draw) for _ in range(at_once)]
        asked = [probes[number] for order in orders for number in order]
        told = await prober.ask(asked, wait_ns=wait_ns)
        seen += [Seen(probe=probe, answer=answer) for probe, answer in zip(asked, told, strict=True)]
        for start, order in enumerate(orders):
            mine = told[start * len(probes) : (start + 1) * len(probes)]
            came = {number: answer is not None for number, answer in zip(order, mine, strict=True)}
            for number, count in counts.items():
                count.add(plain=came[0], marked=came[number])
        at_once = max(1, min(BLACK_HOLE_ROUNDS - 1, MOST_ROUNDS - len(seen) // len(probes)))
    return counts, seen


def _shuffled(count: int, draw: Callable[[int], int]) -> list[int]:
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = draw(last + 1)
        order[last], order[other] = order[other], order[last]
    return order


def syn_answer(answer: Answer | None) -> PeerVerdict:
    """RFC 3168, 6.1.1: ECE without CWR agrees; both is what a stack says that repeats bits it does not know."""
    if answer is None or answer.kind is not AnswerKind.REPLY or answer.tcp_flags is None:
        return PeerVerdict.UNKNOWN
    if answer.tcp_flags & (SYN | ACK) != SYN | ACK:
        return PeerVerdict.UNKNOWN  # a closed port says nothing about ECN
    return PeerVerdict.AGREES if answer.tcp_flags & (ECE | CWR) == ECE else PeerVerdict.REFUSES


# --- the check --------------------------------------------------------------------------------------------------------


async def check(
    prober: Prober,
    target: Target,
    *,
    wait_ns: int,
    draw: Callable[[int], int],
    pause: Callable[[], Awaitable[None]],
    dscp: int = EXPEDITED,
    addresses: dict[int, str] | None = None,
) -> Findings:
    """About 6 packets for each hop and 10 for the end; some 60 more where something seems to be dropped.

    `draw(n)`: a number below n. `pause`: between two looks at the same hops, for most limit their answers.
    `addresses`: who is known to answer plain packets at each hop, to say where others are dropped.
    """
    marked = await _look(prober, target, target.last_ttl, ecn=ECT_0, dscp=0, wait_ns=wait_ns, pause=pause)
    classed = await _look(prober, target, target.last_ttl, ecn=NOT_ECT, dscp=dscp, wait_ns=wait_ns, pause=pause)
    plain = target.probe()
    tried = [plain, *(target.probe(ecn=mark) for mark in MARKS), target.probe(dscp=dscp)]
    counts, at_end = await _answered(prober, tried, wait_ns=wait_ns, draw=draw)
    quoted = await _ask_for_quotes(prober, target, dscp=dscp, wait_ns=wait_ns, pause=pause)
    peer = await _ask_peer(prober, target, wait_ns=wait_ns, draw=draw)
    known = dict(addresses or {})
    return judge(
        target,
        seen=[*marked, *classed, *at_end, *quoted],
        marks={mark: counts[number] for number, mark in enumerate(MARKS, 1)},
        dscp=dscp,
        dscp_rounds=counts[len(MARKS) + 1],
        peer=peer,
        addresses=known,
    )


async def _look(
    prober: Prober,
    target: Target,
    last_ttl: int,
    *,
    ecn: int,
    dscp: int,
    wait_ns: int,
    pause: Callable[[], Awaitable[None]],
) -> list[Seen]:
    """Every hop is asked again only if it did not answer: one quote is as good as three, but for marks."""
    seen: list[Seen] = []
    missing = list(range(1, last_ttl + 1))
    for number in range(QUOTE_TRIES):
        if number:
            await pause()
        asked = [target.probe(ttl=ttl, ecn=ecn, dscp=dscp) for ttl in missing]
        told = await prober.ask(asked, wait_ns=wait_ns)
        seen += [Seen(probe=probe, answer=answer) for probe, answer in zip(asked, told, strict=True)]
        missing = [probe.ttl for probe, answer in zip(asked, told, strict=True) if not _is_whole(probe, answer)]
        if not missing:
            break
    return seen


def _is_whole(probe: ProbePacket, answer: Answer | None) -> bool:
    """Nothing more to ask: it arrived as it was sent."""
    if answer is None:
        return False
    return answer.kind is AnswerKind.REPLY or answer.quoted_traffic_class == class_of(probe)


async def _ask_for_quotes(
    prober: Prober, target: Target, *, dscp: int, wait_ns: int, pause: Callable[[], Awaitable[None]]
) -> list[Seen]:
    """The destination's own word: an answer of TCP does not say how the question arrived, an echo not always."""
    if not target.reaches:
        return []
    closed = replace(target, transport=Transport.UDP, port=CLOSED_PORT)
    asked = [closed.probe(ecn=ECT_0), closed.probe(ecn=CE), closed.probe(dscp=dscp)]
    seen: list[Seen] = []
    if target.transport is not Transport.ICMP:
        echo = replace(target, transport=Transport.ICMP)
        echoes = [echo.probe(ecn=ECT_0), echo.probe(ecn=CE), echo.probe(dscp=dscp)]
        told = await prober.ask(echoes, wait_ns=wait_ns)
        seen += [Seen(probe=probe, answer=answer) for probe, answer in zip(echoes, told, strict=True)]
    for number in range(QUOTE_TRIES):
        if number:
            await pause()
        told = await prober.ask(asked, wait_ns=wait_ns)
        seen += [Seen(probe=probe, answer=answer) for probe, answer in zip(asked, told, strict=True)]
        if number == 0 and not any(told):
            break  # it does not answer this at all: many do not
        asked = [probe for probe, answer in zip(asked, told, strict=True) if not _is_whole(probe, answer)]
        if not asked:
            break
    return seen


async def _ask_peer(prober: Prober, target: Target, *, wait_ns: int, draw: Callable[[int], int]) -> PeerVerdict:
    if target.transport is not Transport.TCP or not target.reaches:
        return PeerVerdict.UNKNOWN
    asking = target.probe(tcp_flags=ECN_SYN)
    counts, seen = await _answered(prober, [target.probe(), asking], wait_ns=wait_ns, draw=draw)
    if counts[1].is_black_hole:
        return PeerVerdict.SYN_DROPPED
    said = [syn_answer(each.answer) for each in seen if each.probe == asking]
    return next((verdict for verdict in said if verdict is not PeerVerdict.UNKNOWN), PeerVerdict.UNKNOWN)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def judge(
    target: Target,
    *,
    seen: Sequence[Seen],
    marks: dict[int, Rounds],
    dscp: int,
    dscp_rounds: Rounds,
    peer: PeerVerdict,
    addresses: dict[int, str],
) -> Findings:
    """Everything that was seen, in; what to make of it, out."""
    last = target.last_ttl
    said = {mark: witnesses_of(_left_as(seen, ecn=mark, dscp=0), _ecn_of, last_ttl=last) for mark in MARKS}
    dscp_seen = _left_as(seen, ecn=NOT_ECT, dscp=dscp)
    dscp_said = witnesses_of(dscp_seen, _dscp_of, last_ttl=last)
    caught = {
        each.address
        for found in (journey(ECT_0, said[ECT_0], marks_count=True), journey(dscp, dscp_said, marks_count=False))
        for each in found.contradicted
    }
    by_mark = {
        mark: journey(mark, [each for each in said[mark] if each.address not in caught], marks_count=True)
        for mark in MARKS
    }
    by_dscp = journey(dscp, [each for each in dscp_said if each.address not in caught], marks_count=False)
    verdict, words, change = _ecn_verdict(target, by_mark, marks, peer, seen, addresses)
    dscp_verdict, dscp_words, dscp_change = _dscp_verdict(target, by_dscp, dscp_rounds, dscp_seen, addresses)
    liars = f" (what {', '.join(sorted(caught))} quotes is not believed)" if caught else ""
    comes_back = any(
        reflects(each) and each.answer and each.probe.ecn and _ecn_of(each.answer.traffic_class) == each.probe.ecn
        for each in seen
    )
    return Findings(
        verdict=verdict,
        words=words + liars,
        dscp_verdict=dscp_verdict,
        dscp_words=dscp_words,
        peer=peer,
        returns=EcnVerdict.TRUSTED if comes_back else EcnVerdict.UNKNOWN,
        change=change,
        dscp_change=dscp_change,
        hop_ecn={each.ttl: arrived_of(ECT_0, each.values, may_be_marked=True) for each in said[ECT_0]},
        hop_dscp={each.ttl: arrived_of(dscp, each.values, may_be_marked=False) for each in dscp_said},
    )


def _left_as(seen: Sequence[Seen], *, ecn: int, dscp: int) -> list[Seen]:
    return [each for each in seen if (each.probe.ecn, each.probe.dscp) == (ecn, dscp)]


def _ecn_of(traffic_class: int) -> int:
    return traffic_class & 3


def _dscp_of(traffic_class: int) -> int:
    return traffic_class >> 2


def _ecn_verdict(
    target: Target,
    by_mark: dict[int, Journey],
    marks: dict[int, Rounds],
    peer: PeerVerdict,
    seen: Sequence[Seen],
    addresses: dict[int, str],
) -> tuple[EcnVerdict, str, Change | None]:
    dropped = [mark for mark, rounds in marks.items() if rounds.is_black_hole]
    if dropped:
        names = ", ".join(ECN_NAMES[mark] for mark in dropped)
        lost = _where_dropped(target, [each for each in seen if each.probe.ecn == dropped[0]], dropped[0], addresses)
        return EcnVerdict.DROPPED, f"{names} dropped{_at(lost)}: {_chance(marks[dropped[0]])}", lost
    if peer is PeerVerdict.SYN_DROPPED:
        return EcnVerdict.DROPPED, "a SYN that asks for ECN is dropped, a plain one is answered", None
    changed = [each for each in by_mark.values() if each.change is not None and each.is_settled]
    if changed:
        change = changed[0].change
        assert change is not None
        if change.arrived == NOT_ECT:
            return EcnVerdict.BLEACHED, f"{ECN_NAMES[change.sent]} is cleared {change.where}", change
        into = ECN_NAMES[change.arrived or NOT_ECT]
        always = "every packet becomes" if change.arrived == CE else f"{ECN_NAMES[change.sent]} becomes"
        return EcnVerdict.REMARKED, f"{always} {into} {change.where}", change
    first = by_mark[ECT_0]
    if first.change is not None:
        alone = f"only {first.change.before_address} (hop {first.change.before_ttl}) saw it changed, nobody confirms it"
        return EcnVerdict.UNKNOWN, alone, None
    if not _is_seen_far_enough(target, first):
        return EcnVerdict.UNKNOWN, _not_far(first), None
    if not _is_seen_at_end(first) and _comes_back_without(seen, ECT_0):
        return EcnVerdict.UNKNOWN, f"{_not_far(first)}, and answers come back without it", None
    if _is_seen_at_end(first) and by_mark[CE].whole_up_to is None:
        return EcnVerdict.UNKNOWN, "ECT(0) arrives; whether CE does, nobody says", None
    silent = [ECN_NAMES[mark] for mark, rounds in marks.items() if not rounds.answered]
    if silent:
        return EcnVerdict.UNKNOWN, f"no answer to {', '.join(silent)}, and too few to plain packets to compare", None
    if peer is PeerVerdict.REFUSES:
        return EcnVerdict.REFUSED, "the path is whole, but the far end's TCP does not do ECN", None
    return EcnVerdict.TRUSTED, f"whole {_as_far(first)}", None


def _dscp_verdict(
    target: Target, found: Journey, rounds: Rounds, seen: Sequence[Seen], addresses: dict[int, str]
) -> tuple[DscpVerdict, str, Change | None]:
    if rounds.is_black_hole:
        lost = _where_dropped(target, seen, found.sent, addresses)
        return DscpVerdict.DROPPED, f"DSCP {found.sent} dropped{_at(lost)}: {_chance(rounds)}", lost
    change = found.change
    if change is not None and found.is_settled:
        verdict = DscpVerdict.REMARKED if change.arrived else DscpVerdict.BLEACHED
        return verdict, f"DSCP {change.sent} becomes {change.arrived} {change.where}", change
    if change is not None:
        alone = f"only {change.before_address} (hop {change.before_ttl}) saw it changed, nobody confirms it"
        return DscpVerdict.UNKNOWN, alone, None
    if not _is_seen_far_enough(target, found):
        return DscpVerdict.UNKNOWN, _not_far(found), None
    return DscpVerdict.KEPT, f"DSCP {found.sent} is whole {_as_far(found)}", None


def _is_seen_far_enough(target: Target, found: Journey) -> bool:
    """By the destination, or the last hop before it: a server's TCP quotes nothing."""
    witness = found.whole_up_to
    return witness is not None and target.reaches and (witness.is_end or witness.ttl >= target.last_ttl - 1)


def _is_seen_at_end(found: Journey) -> bool:
    return found.whole_up_to is not None and found.whole_up_to.is_end


def _comes_back_without(seen: Sequence[Seen], mark: int) -> bool:
    """Echo replies none of which repeats it: changed behind the last router, on the way back, or by the destination."""
    reflected = [
        _ecn_of(each.answer.traffic_class)
        for each in seen
        if each.answer is not None and each.probe.ecn == mark and reflects(each)
    ]
    return bool(reflected) and mark not in reflected


def _as_far(found: Journey) -> str:
    witness = found.whole_up_to
    assert witness is not None
    return "at the destination" if witness.is_end else f"as far as hop {witness.ttl}, the last before the destination"


def _not_far(found: Journey) -> str:
    witness = found.whole_up_to
    return f"whole as far as hop {witness.ttl}; nobody behind it says" if witness else "nobody on the path says"


def _chance(rounds: Rounds) -> str:
    return (
        f"plain packets answered and it not in {rounds.against} of {rounds.rounds} rounds"
        f" (by chance once in {2**rounds.against:,})"
    )


def _at(lost: Change | None) -> str:
    return f" {lost.where}" if lost else ""


def _where_dropped(target: Target, seen: Sequence[Seen], sent: int, addresses: dict[int, str]) -> Change | None:
    """Behind the last hop that answered such packets, before the first that answers plain ones only."""
    answered = {each.probe.ttl: each.answer.address for each in seen if each.answer is not None}
    last = max(answered, default=0)
    known = {ttl: address for ttl, address in addresses.items() if ttl > last}
    if not known and target.reaches and target.last_ttl > last:
        known = {target.last_ttl: target.destination}
    if not known:
        return None
    first = min(known)
    return Change(
        after_ttl=last,
        after_address=answered.get(last, ""),
        before_ttl=first,
        before_address=known[first],
        sent=sent,
        arrived=None,
    )
