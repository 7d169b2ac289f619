"""What people and programs see of the cartographer's knowledge: one line for each alternative, one for each way.

Decides the form alone; changes nothing.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cartographer.choice import Place
from cartographer.deciding import Deciding
from cartographer.map import Destination, WayRecord
from cartographer.policy import PathPolicy
from cartographer.probing import ProbePurse
from cartographer.values import Estimate, Quantity, Way

_PPM = 1_000_000
_S = 1_000_000_000
_PICODOLLARS = 1000
_WORSE = (
    (Quantity.FORWARD_TOLL_PICODOLLARS, _PICODOLLARS, "{:.3g} n$ more toll there"),
    (Quantity.RETURN_TOLL_PICODOLLARS, _PICODOLLARS, "{:.3g} n$ more toll back"),
    (Quantity.DELAY_NS, 1_000_000, "{:.3g} ms slower"),
    (Quantity.LOSS_PPM, 10_000, "loses {:.2g} % more"),
)
"""What a person wants to know of a way that is not taken: the unit in which it counts, and the words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFact:
    """One alternative of one ISP towards one destination. Tolls and delays are those of the whole way with it.

    `way` is the way by which it is known: the present one, or the one that differs from it at this ISP alone.
    """

    destination: str
    as_number: int
    alternative: int
    chosen: bool  # the present way takes it
    toll_nanodollars: int | None  # there
    delay_ns: int | None  # round trip
    age_s: int | None  # of the newest measurement
    reason: str  # why it is chosen, or why not
    way: Way = ""
    share_ppm: int = 0  # of the destination's traffic that takes it (class "default", else any)
    estimates: Mapping[Quantity, Estimate] = field(default_factory=dict)
    ages_s: Mapping[Quantity, int] = field(default_factory=dict)
    ignored: int = 0  # wishes for it in a row that were not followed
    silent_s: int = 0  # so long it is not asked for: wishes were ignored
    is_default: bool = False
    title: str = ""  # of the description
    signed_by: str = ""  # the issuer's fingerprint
    serial: int | None = None  # of the description
    promised_toll_nanodollars: int | None = None  # the ISP's own part
    promised_delay_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WayFact:
    """One way to one destination, as one class of flows sees it."""

    destination: str
    way: Way
    wants: str
    seen: bool  # packets were seen there; else it is only expected
    chosen: bool  # the traffic is to go there
    share_ppm: int
    cost_picodollars: int | None  # of a packet, for this class
    uncertainty_picodollars: int | None
    estimates: Mapping[Quantity, Estimate]
    age_s: int | None
    reason: str
    objection: str = ""
    probed_s: int | None = None  # so long ago it was last probed


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbesFact:
    """What probes cost: the budget's line in the statement."""

    probes: int
    lost: int
    spent_nanodollars: int  # since the start
    left_nanodollars: int  # of this hour
    nanodollars_per_hour: int


def probes_fact(purse: ProbePurse) -> ProbesFact:
    return ProbesFact(
        probes=purse.probes,
        lost=purse.lost,
        spent_nanodollars=purse.spent_nanodollars,
        left_nanodollars=purse.left_nanodollars,
        nanodollars_per_hour=purse.nanodollars_per_hour,
    )


def estimates_of(record: WayRecord | None, now_ns: int) -> dict[Quantity, Estimate]:
    if record is None:
        return {}
    found = ((quantity, record.statistics.estimate(quantity, now_ns)) for quantity in Quantity)
    return {quantity: estimate for quantity, estimate in found if estimate is not None}


def ages_of(estimates: Mapping[Quantity, Estimate], now_ns: int) -> dict[Quantity, int]:
    """Of what was measured, in seconds."""
    return {
        quantity: max(0, now_ns - estimate.measured_ns) // _S
        for quantity, estimate in estimates.items()
        if estimate.measured_ns is not None
    }


def ways_of(destination: str, record: Destination, deciding: Deciding, now_ns: int) -> Iterator[WayFact]:
    """All that are known or expected, the chosen one first."""
    shares = shares_of(record, deciding)
    deliberation = deciding.deliberation
    target = deciding.resolved(deliberation.way, record) or deliberation.way if deliberation is not None else None
    if target is None and len(record.ways) == 1:  # nobody asked, and there is nothing to choose
        target = next(iter(record.ways))
        shares = {target: _PPM}
    why = dict(deliberation.rejected) if deliberation is not None else {}
    beliefs = {belief.way: belief for belief in deciding.beliefs}
    best = record.ways.get(target) if target is not None else None
    for way in sorted({*record.ways, *deciding.candidates}, key=lambda way: (way != target, -shares.get(way, 0), way)):
        candidate = deciding.candidates.get(way)
        if candidate is not None and way not in record.ways and deciding.resolved(way, record) is not None:
            continue  # it has been seen since, and has its own line
        known, belief = record.ways.get(way), beliefs.get(way)
        estimates = estimates_of(known, now_ns)
        asked = record.asks.get(candidate.ask) if candidate is not None else None
        reason = deliberation.reason if deliberation is not None and way == target else why.get(way, "")
        if not reason and candidate is None:
            reason = "the only way that is known" if way == target else _astray(known, record, now_ns)
        if way != target:
            reason = "; ".join(filter(None, (reason, _differences(estimates, estimates_of(best, now_ns)))))
        yield WayFact(
            destination=destination,
            way=way,
            wants=deciding.wants.name,
            seen=known is not None and not known.is_expected,
            chosen=way == target,
            share_ppm=shares.get(way, 0),
            cost_picodollars=belief.cost_picodollars if belief is not None and belief.samples else None,
            uncertainty_picodollars=belief.uncertainty_picodollars if belief is not None and belief.samples else None,
            estimates=estimates,
            age_s=min(ages_of(estimates, now_ns).values(), default=None),
            reason=reason,
            objection=candidate.objection if candidate is not None else "",
            probed_s=None if asked is None or asked.probed_ns is None else (now_ns - asked.probed_ns) // _S,
        )


def _astray(known: WayRecord | None, record: Destination, now_ns: int) -> str:
    """Why packets do not get there any more."""
    for slot in known.slots if known is not None else ():
        isp = record.isps.get(slot.as_number)
        facts = isp.facts(slot.choice) if isp is not None else None
        if facts is not None and (facts.ignored or facts.silent_until_ns > now_ns):
            return f"AS{slot.as_number} does not take alternative {slot.choice} any more when it is asked to"
    return "its ISPs do not lead there at present"


def _differences(here: Mapping[Quantity, Estimate], best: Mapping[Quantity, Estimate]) -> str:
    """What a way is worse at than the chosen one, as far as both are measured and it is sure."""
    words = []
    for quantity, unit, text in _WORSE:
        one, other = here.get(quantity), best.get(quantity)
        if one is None or other is None or one.measured_ns is None or other.measured_ns is None:
            continue
        more = one.value - other.value
        if more > max(unit, 2 * (one.uncertainty + other.uncertainty)):
            words.append(text.format(more / unit))
    return ", ".join(words)


def shares_of(record: Destination, deciding: Deciding) -> dict[Way, int]:
    """Of the traffic, by ways as they were seen."""
    shares: dict[Way, int] = {}
    for way, ppm in (deciding.split.shares_ppm if deciding.split is not None else {}).items():
        real = deciding.resolved(way, record) or way
        shares[real] = shares.get(real, 0) + ppm
    return shares


def alternatives_of(
    record: Destination,
    deciding: Deciding,
    place: Place,
    policy: PathPolicy,
    signers: Mapping[int, tuple[str, int]],
) -> Iterator[PathFact]:
    """Of each ISP on the present way, in the order of the slots. `signers`: AS → issuer and serial."""
    base = _present(record, deciding)
    if base is None:
        return
    shares = shares_of(record, deciding)
    deliberation = deciding.deliberation
    why = {
        (candidate.as_number, candidate.number): (candidate.way, reason)
        for candidate in deciding.candidates.values()
        for reason in _reasons(candidate.way, deliberation.rejected if deliberation is not None else ())
    }
    for slot in base.slots:
        isp = place.isp(record, slot.as_number)
        for number in isp.available:
            chosen = number == slot.choice
            way, reason = why.get((slot.as_number, number), ("", ""))
            known = base if chosen else record.ways.get(way)
            estimates = estimates_of(known, place.now_ns)
            ages = ages_of(estimates, place.now_ns)
            kept = record.isps[slot.as_number].facts(number)
            described = place.promises.get(slot.as_number, {}).get(number)
            signed_by, serial = signers.get(slot.as_number, ("", 0)) if described is not None else ("", 0)
            toll = estimates.get(Quantity.FORWARD_TOLL_PICODOLLARS)
            delay = estimates.get(Quantity.DELAY_NS)
            yield PathFact(
                destination=place.destination,
                as_number=slot.as_number,
                alternative=number,
                chosen=chosen,
                toll_nanodollars=_measured(toll, _PICODOLLARS),
                delay_ns=_measured(delay, 1),
                age_s=min(ages.values(), default=None),
                reason=deciding.reason_for(base.way, record, place, policy) if chosen else reason,
                way=base.way if chosen else way,
                share_ppm=_share_with(slot.as_number, number, shares, record),
                estimates=estimates,
                ages_s=ages,
                ignored=kept.ignored,
                silent_s=max(0, kept.silent_until_ns - place.now_ns) // _S,
                is_default=number == isp.default,
                title=described.title if described is not None else "",
                signed_by=signed_by,
                serial=serial if signed_by else None,
                promised_toll_nanodollars=described.toll_nanodollars if described is not None else None,
                promised_delay_ns=described.delay_ns if described is not None else None,
            )


def _present(record: Destination, deciding: Deciding) -> WayRecord | None:
    """Where the traffic went last, if it went anywhere: the truth, not the wish."""
    seen = [item for item in record.ways.values() if item.slots]
    shares = shares_of(record, deciding)
    return max(seen, key=lambda item: (shares.get(item.way, 0), item.seen_ns), default=None)


def _reasons(way: Way, rejected: Iterable[tuple[Way, str]]) -> list[str]:
    return [reason for other, reason in rejected if other == way] or [""]


def _measured(estimate: Estimate | None, unit: int) -> int | None:
    """Rounded; None for what nobody has measured."""
    if estimate is None or estimate.measured_ns is None:
        return None
    return (estimate.value + unit // 2) // unit


def _share_with(as_number: int, number: int, shares: Mapping[Way, int], record: Destination) -> int:
    total = 0
    for way, ppm in shares.items():
        known = record.ways.get(way)
        if known is not None and any((slot.as_number, slot.choice) == (as_number, number) for slot in known.slots):
            total += ppm
    return min(_PPM, total)
