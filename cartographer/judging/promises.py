"""What ISPs promised of their alternatives, whether it was ever true, and what measured ways say of it.

Decides which ways break a promise. Refuses to know whose signature it was (the daemon has verified it). Pure.

A promise bounds the ISP's own part from above. Nobody measures that part; but what one way takes more than another is
at most the parts of the ISPs that only the dearer one has, for the others' parts are 0 at least:

    measured(b) − measured(r) ≤ promised(b without r)

and a way alone takes at most what all on it promised, where all have (tolls only: a round trip has parts that nobody
promised). So what an honest ISP measures can never break its own promise, whatever the others say of themselves.
A promise that was true and is not any more is stale, until a new one had the time to come.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cartographer.judging.terms import JudgingTerms
from cartographer.judging.ways import Hop, WayRecord

_PPM: Final = 1_000_000


@dataclass(slots=True, kw_only=True)
class Promise:
    serial: int
    delay_ns: int | None
    toll_picodollars: int | None
    since_ns: int
    kept_ns: dict[str, int] = field(default_factory=dict)  # when what was said of a quantity was last seen to be true


class Comparison(NamedTuple):
    """What some ISPs take at least, by measurement, and what they have promised in sum."""

    hops: tuple[Hop, ...]
    quantity: str  # "toll" or "delay"
    measured: int  # picodollars or nanoseconds
    promised: int
    is_broken: bool  # by one of them at least


class Promises:
    """Towards one destination."""

    def __init__(self, terms: JudgingTerms) -> None:
        self._terms = terms
        self._held: dict[Hop, Promise] = {}

    def on_promise(
        self, hop: Hop, *, serial: int, delay_ns: int | None, toll_picodollars: int | None, now_ns: int
    ) -> None:
        """The one that holds from now on. The same once more changes nothing: only what says something new is new."""
        held = self._held.get(hop)
        if held is not None:
            if serial <= held.serial:
                return
            if (held.delay_ns, held.toll_picodollars) == (delay_ns, toll_picodollars):
                held.serial = serial
                return
        elif len(self._held) >= self._terms.hops:
            return
        self._held[hop] = Promise(serial=serial, delay_ns=delay_ns, toll_picodollars=toll_picodollars, since_ns=now_ns)

    def toll_of(self, hops: Iterable[Hop]) -> int | None:
        """What all of them promised in sum; None: not all have."""
        return self._sum(hops, "toll")

    def comparisons(self, record: WayRecord, others: Iterable[WayRecord]) -> list[Comparison]:
        """What this epoch says of the promises on a way, by itself and beside the other ways."""
        found = [self._compare(record, None, "toll")]
        for other in others:
            found += [self._compare(record, other, quantity) for quantity in ("toll", "delay")]
        return [comparison for comparison in found if comparison is not None]

    def note_kept(self, hop: Hop, quantity: str, now_ns: int) -> None:
        held = self._held.get(hop)
        if held is not None:
            held.kept_ns[quantity] = now_ns

    def is_due(self, hop: Hop, quantity: str, now_ns: int) -> bool:
        """Whether a promise that is not true now can be held against the ISP."""
        held = self._held.get(hop)
        if held is None or now_ns - held.since_ns < self._terms.settle_ns:
            return False
        kept_ns = held.kept_ns.get(quantity)
        return kept_ns is None or now_ns - kept_ns >= self._terms.renewal_ns

    # --- inside ------------------------------------------------------------------------------------------------------

    def _compare(self, record: WayRecord, other: WayRecord | None, quantity: str) -> Comparison | None:
        shared = other.hops if other is not None else ()
        own = tuple(hop for hop in record.hops if hop not in shared)
        promised = self._sum(own, quantity) if own else None
        here = _measured(record, quantity)
        there = _measured(other, quantity) if other is not None else 0
        if promised is None or here is None or there is None:
            return None
        noise = 0
        if quantity == "toll":
            noise = record.tally.allowed_picodollars + record.toll_noise()
            noise += other.toll_noise() if other is not None else 0
        is_broken = here - there - noise > promised + self._tolerance(promised, quantity)
        return Comparison(own, quantity, here - there, promised, is_broken)

    def _sum(self, hops: Iterable[Hop], quantity: str) -> int | None:
        total = 0
        for hop in hops:
            held = self._held.get(hop)
            part = None if held is None else held.toll_picodollars if quantity == "toll" else held.delay_ns
            if part is None:
                return None
            total += part
        return total

    def _tolerance(self, promised: int, quantity: str) -> int:
        least = self._terms.promise_picodollars if quantity == "toll" else self._terms.promise_delay_ns
        return max(least, promised * self._terms.promise_ppm // _PPM)


def _measured(record: WayRecord, quantity: str) -> int | None:
    return record.mean_toll() if quantity == "toll" else record.least_delay_ns()
