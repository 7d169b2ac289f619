"""Adds up what each hop answered, and makes a report of it.

Decides: where the path ends, and what of a hop is shown. Refuses to know: sockets, clocks, which probes are sent when,
and what the numbers say of loss (`losses`). Running mean and variance are Welford's (1962). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from typing import Final

from cartographer.measuring import ecn, losses, mtu
from cartographer.measuring.losses import Interval, PathLoss, Tally
from cartographer.measuring.packets import Answer
from cartographer.measuring.report import (
    Dscp,
    Ecn,
    FlowLink,
    Hop,
    Interface,
    Loss,
    Mtu,
    ProbeReport,
    ProbeRequest,
    Share,
)
from cartographer.measuring.testimony import Change
from cartographer.measuring.tracing import End, end_of

MOST_INTERFACES: Final = 16
"""Of one hop; a path that changes with every packet shows no more."""


@dataclass(slots=True)
class _Times:
    """Round trips of one interface."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least_ns: int = 0
    worst_ns: int = 0

    def add(self, round_trip_ns: int) -> None:
        self.least_ns = round_trip_ns if self.count == 0 else min(self.least_ns, round_trip_ns)
        self.worst_ns = max(self.worst_ns, round_trip_ns)
        self.count += 1
        step = round_trip_ns - self.mean
        self.mean += step / self.count
        self.squares += step * (round_trip_ns - self.mean)

    @property
    def deviation(self) -> float:
        return sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0


@dataclass(slots=True)
class _HopCount:
    sent: int = 0
    answered: int = 0
    times: dict[str, _Times] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What is known of an address beside its answers."""

    name: str = ""
    origin_as: str = ""


class Gathering:
    """Of one run. What was sent with a ttl behind the path's end is forgotten: the end has answered it, too."""

    def __init__(self, request: ProbeRequest, address: str) -> None:
        self._request = request
        self.address = address
        self._hops: dict[int, _HopCount] = {}
        self.end_ttl: int | None = None  # of whoever says that nothing is behind
        self.reached = False
        self.refused_by = ""  # a router that says: there is no way further
        self.names: dict[str, Named] = {}
        self.ecn: ecn.Findings | None = None
        self.mtu: mtu.MtuFindings | None = None
        self.slow_end: Tally | None = None
        self.links: tuple[FlowLink, ...] = ()
        self.notes: list[str] = []
        self.rounds_done = 0
        self._round_ns = 0

    def on_probe(self, ttl: int, answer: Answer | None) -> None:
        """One probe whose time is over. "Too big" is none of a hop's business here: it counts as an answer."""
        count = self._hops.setdefault(ttl, _HopCount())
        count.sent += 1
        if answer is None:
            return
        count.answered += 1
        if answer.address in count.times or len(count.times) < MOST_INTERFACES:
            count.times.setdefault(answer.address, _Times()).add(answer.round_trip_ns)
        end = end_of(answer, self.address)
        if end in (End.REACHED, End.UNREACHABLE) or answer.address == self.address:
            self._on_end(ttl, is_end=end is not End.UNREACHABLE, address=answer.address)

    def _on_end(self, ttl: int, *, is_end: bool, address: str) -> None:
        if is_end:
            self.reached, self.refused_by = True, ""
        elif not self.reached:
            self.refused_by = address
        if self.end_ttl is None or ttl < self.end_ttl:
            self.end_ttl = ttl

    def on_round(self, interval_ns: int) -> None:
        self.rounds_done += 1
        self._round_ns += interval_ns

    @property
    def last_ttl(self) -> int:
        """Of the end, or of the last that answered; 0: nobody did."""
        if self.end_ttl is not None:
            return self.end_ttl
        return max((ttl for ttl, count in self._hops.items() if count.answered), default=0)

    @property
    def worst_ns(self) -> int:
        return max((each.worst_ns for count in self._hops.values() for each in count.times.values()), default=0)

    @property
    def addresses(self) -> dict[int, str]:
        """Who answered most, by hop."""
        found = {}
        for ttl, count in sorted(self._hops.items()):
            if count.times and (self.end_ttl is None or ttl <= self.end_ttl):
                found[ttl] = max(count.times, key=lambda address: count.times[address].count)
        return found

    @property
    def all_addresses(self) -> list[str]:
        """Everybody who answered, and who is on another way."""
        answered = [address for _, count in sorted(self._hops.items()) for address in count.times]
        linked = [address for link in self.links for address in (link.near, link.far) if address[:1].isalnum()]
        return list(dict.fromkeys([*answered, *(each for each in linked if "." in each or ":" in each)]))

    def tallies(self) -> dict[int, Tally]:
        """What was sent up to the end, hop by hop."""
        last = self.last_ttl
        return {
            ttl: Tally(sent=count.sent, answered=count.answered, duration_ns=self._round_ns)
            for ttl, count in sorted(self._hops.items())
            if ttl <= last
        }

    def path_loss(self) -> PathLoss:
        return losses.path_loss(self.tallies(), end_ttl=self.end_ttl if self.reached else None, slow_end=self.slow_end)

    def report(self, *, packets_sent: int, seconds: float, doing: str = "", final: bool = False) -> ProbeReport:
        lost = self.path_loss()
        return ProbeReport(
            destination=self._request.destination,
            address=self.address,
            transport=self._request.transport,
            port=self._request.port_used,
            reached=self.reached,
            final=final,
            doing=doing,
            rounds_done=self.rounds_done,
            rounds=self._request.rounds,
            hops=tuple(self._hop(ttl, lost) for ttl in range(1, self.last_ttl + 1)),
            loss=Loss(share=_share(lost.end), between_ttls=lost.between, limited=lost.end_limited, words=lost.words),
            ecn=self._ecn_value(),
            dscp=self._dscp_value(),
            mtu=self._mtu_value(),
            links=self.links,
            packets_sent=packets_sent,
            seconds=round(seconds, 3),
            notes=tuple(self._notes()),
        )

    def _hop(self, ttl: int, lost: PathLoss) -> Hop:
        count = self._hops.get(ttl, _HopCount())
        found = lost.hops.get(ttl)
        by_answers = sorted(count.times.items(), key=lambda item: -item[1].count)
        return Hop(
            ttl=ttl,
            interfaces=tuple(self._interface(address, times) for address, times in by_answers),
            sent=count.sent,
            answered=count.answered,
            loss=_share(found.lost) if found else None,
            limited=found.limited if found else False,
            answers_per_s=found.answers_per_s if found else None,
            ecn=self.ecn.hop_ecn.get(ttl) if self.ecn else None,
            dscp=self.ecn.hop_dscp.get(ttl) if self.ecn else None,
        )

    def _interface(self, address: str, times: _Times) -> Interface:
        named = self.names.get(address, Named())
        return Interface(
            address=address,
            answered=times.count,
            name=named.name,
            origin_as=named.origin_as,
            least_ns=times.least_ns,
            mean_ns=round(times.mean),
            worst_ns=times.worst_ns,
            deviation_ns=round(times.deviation),
        )

    def _ecn_value(self) -> Ecn | None:
        found = self.ecn
        if found is None:
            return None
        return Ecn(
            verdict=found.verdict,
            words=found.words,
            between_ttls=_between(found.change),
            peer=found.peer,
            returns=found.returns,
        )

    def _dscp_value(self) -> Dscp | None:
        found = self.ecn
        if found is None:
            return None
        return Dscp(
            verdict=found.dscp_verdict,
            tried=self._request.dscp,
            words=found.dscp_words,
            between_ttls=_between(found.dscp_change),
        )

    def _mtu_value(self) -> Mtu | None:
        found = self.mtu
        if found is None:
            return None
        return Mtu(
            bytes=found.mtu_bytes,
            said_by=found.said_by,
            swallowed=found.swallowed,
            between_ttls=found.between,
            words=found.words,
        )

    def _notes(self) -> list[str]:
        notes = list(self.notes)
        if self.refused_by:
            notes.insert(0, f"{self.refused_by} says that there is no way further")
        return notes


def _between(change: Change | None) -> tuple[int, int] | None:
    return (change.after_ttl, change.before_ttl) if change else None


def _share(found: Interval | None) -> Share | None:
    return Share(ppm=found.ppm, least_ppm=found.least_ppm, most_ppm=found.most_ppm) if found else None
