"""Facts about ways in, findings about ISPs out.

Decides which ISP it was, and when the evidence is enough. Refuses to know packets, how choices are made, and who signed
a promise (the daemon has verified it).  The facts of one destination are judged in epochs of a second; in each epoch a
way is bad, fine or neither (`ways`, `promises`), and it was *this* ISP when every other ISP on the bad way, with the
alternative that it took, is on a way that was fine in the same epoch.  Each epoch in which an ISP was there to be seen
is one look of its test (`evidence`): bad if it was this ISP, else good.  Losses may be added up for a minute, for a way
may only be probed; a way is then fine if it was so between the losses of the bad one.  Loss before the first ISP, at
the receiver or at any other ISP makes no fine way beside the bad one, and so accuses nobody.

`destination` is any name for where packets go ("" if the caller keeps only one); it is the receiver that wrote the
echoes.  All sizes are bounded.  Source: Bill-Pay 2.1 and 2.2; mechanisms BP-17, BP-18, BP-26.  Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from billpay.header import MAX_ALTERNATIVE, MAX_AS_NUMBER
from cartographer.judging.accusations import Accusations, Charge, RememberedAccusation
from cartographer.judging.evidence import Evidence
from cartographer.judging.promises import Comparison, Promises
from cartographer.judging.terms import ANY_ALTERNATIVE, Finding, JudgingTerms, Kind
from cartographer.judging.ways import Hop, WayRecord, hops_of
from cartographer.values import Way

_MS = 1_000_000


@dataclass(slots=True)
class _Test:
    evidence: Evidence = field(default_factory=Evidence)
    others: frozenset[int] | None = None  # who was on every bad way
    seen_ns: int = 0
    text: str = ""
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Look:
    """What an epoch says of one ISP's alternative: bad if `record` is there."""

    record: WayRecord | None = None
    text: str = ""
    numbers: dict[str, float] = field(default_factory=dict)


_Looks = dict[tuple[Hop, Kind], _Look]


@dataclass(slots=True)
class _Place:
    """What is kept of one destination."""

    promises: Promises
    epoch_ns: int
    losses_ns: int  # since when losses are added up
    ways: dict[Way, WayRecord] = field(default_factory=dict)
    tests: dict[tuple[Hop, Kind], _Test] = field(default_factory=dict)
    wishes: dict[Hop, list[int]] = field(default_factory=dict)  # followed, ignored
    wished_ways: dict[Hop, frozenset[int]] = field(default_factory=dict)
    was_crowded: bool = False
    claims: dict[Hop, int] = field(default_factory=dict)  # congestion parts of tolls as the ISP says, picodollars


class Judge:
    """One for each host."""

    def __init__(self, terms: JudgingTerms | None = None) -> None:
        self._terms = terms or JudgingTerms()
        self._bound_nats = math.log(self._terms.tests_per_isp / self._terms.false_alarm)
        self._places: dict[str, _Place] = {}  # the least recently used first
        self._accusations = Accusations(self._terms)

    # --- facts -------------------------------------------------------------------------------------------------------

    def on_promise(
        self,
        as_number: int,
        alternative: int,
        *,
        serial: int,
        delay_ns: int | None,
        toll_picodollars: int | None,
        now_ns: int,
        destination: str = "",
    ) -> None:
        """What a verified description says of an alternative towards this destination. Saying it again is harmless."""
        hop = _hop(as_number, alternative)
        if hop is not None:
            self._place(destination, now_ns).promises.on_promise(
                hop, serial=serial, delay_ns=delay_ns, toll_picodollars=toll_picodollars, now_ns=now_ns
            )

    def on_way_measured(
        self,
        way: Way,
        *,
        round_trip_ns: int | None,
        toll_picodollars: int | None,
        now_ns: int,
        destination: str = "",
        amount_nanodollars: int | None = None,
    ) -> None:
        """One packet's round trip and whole toll there, of traffic or of a probe; None: not known.

        `amount_nanodollars` is what it paid: 0 for an unpaid one, which shows queues that paid ones pass by.
        """
        record = self._record(destination, way, now_ns)
        if record is not None:
            record.measured(round_trip_ns, toll_picodollars, amount_nanodollars, now_ns)

    def on_paid_packets(
        self,
        way: Way,
        *,
        sent: int,
        arrived: int,
        now_ns: int,
        destination: str = "",
        amount_nanodollars: int | None = None,
    ) -> None:
        """Packets that were to take this way, once it is known what became of them.

        `amount_nanodollars` is what each of them paid: less than twice the toll does not count. None: it was enough.
        """
        record = self._record(destination, way, now_ns)
        if record is None or not 0 <= arrived <= sent:
            return
        promised = self._places[destination].promises.toll_of(record.hops)
        if record.covers(amount_nanodollars, promised):
            record.paid(sent, sent - arrived, now_ns)

    def on_unpaid_packets(self, way: Way, *, sent: int, arrived: int, now_ns: int, destination: str = "") -> None:
        record = self._record(destination, way, now_ns)
        if record is not None and 0 <= arrived <= sent:
            record.tally.unpaid_sent += sent
            record.tally.unpaid_arrived += arrived

    def on_marks(self, way: Way, *, marked: int, now_ns: int, destination: str = "") -> None:
        """Packets that arrived with the ECN mark CE."""
        record = self._record(destination, way, now_ns)
        if record is not None and marked > 0:
            record.tally.marked += marked

    def on_probe(
        self,
        way: Way,
        *,
        paid: bool,
        arrived: bool,
        marked: bool,
        now_ns: int,
        destination: str = "",
        amount_nanodollars: int | None = None,
    ) -> None:
        """One probe; its round trip and toll are told by `on_way_measured`."""
        if paid:
            self.on_paid_packets(
                way,
                sent=1,
                arrived=int(arrived),
                now_ns=now_ns,
                destination=destination,
                amount_nanodollars=amount_nanodollars,
            )
        else:
            self.on_unpaid_packets(way, sent=1, arrived=int(arrived), now_ns=now_ns, destination=destination)
        self.on_marks(way, marked=int(marked), now_ns=now_ns, destination=destination)

    def on_wish(
        self,
        as_number: int,
        alternative: int,
        *,
        followed: bool,
        now_ns: int,
        destination: str = "",
        way: Way = "",
    ) -> None:
        """A wish that the ISP said it could follow, and what it did. `alternative` 0: any but some; `way`: as met."""
        hop = _hop(as_number, alternative, or_any=True)
        if hop is None:
            return
        place = self._place(destination, now_ns)
        if hop not in place.wishes and len(place.wishes) >= self._terms.hops:
            return
        counts = place.wishes.setdefault(hop, [0, 0])
        counts[not followed] += 1
        met = frozenset(other.as_number for other in hops_of(way))
        place.wished_ways[hop] = place.wished_ways.get(hop, met) & met if not followed else met

    def on_congestion_claimed(
        self, as_number: int, alternative: int, *, congestion_picodollars: int, now_ns: int, destination: str = ""
    ) -> None:
        """The ISP itself says what of its toll is for congestion (a price quote, a tariff); held until it is 0."""
        hop = _hop(as_number, alternative)
        if hop is None:
            return
        place = self._place(destination, now_ns)
        if congestion_picodollars < self._terms.rise_picodollars:
            place.claims.pop(hop, None)
        elif hop in place.claims or len(place.claims) < self._terms.hops:
            place.claims[hop] = congestion_picodollars

    # --- answers -----------------------------------------------------------------------------------------------------

    def findings(self, now_ns: int) -> tuple[Finding, ...]:
        """All that has consequences now."""
        for destination in list(self._places):
            self._end_epoch_if_due(destination, now_ns)
        return self._accusations.findings(now_ns)

    def believes(self, as_number: int, now_ns: int, destination: str | None = None) -> bool:
        """Whether the ISP's description may be a prior. Who ignores wishes may still describe itself truly.

        For a destination: what was found there, and what is confirmed. None: all that was found anywhere.
        """
        held = self._accusations.holds_for(as_number, destination, now_ns)
        return all(accusation.charge.kind is Kind.IGNORES for accusation in held)

    def objection(self, as_number: int, alternative: int, now_ns: int, destination: str | None = None) -> str:
        """Why an alternative is not taken now; "" if it may be. `destination` as in `believes`."""
        for held in self._accusations.holds_for(as_number, destination, now_ns):
            if held.charge.alternative in (None, ANY_ALTERNATIVE, alternative):
                return f"AS{as_number} {held.charge.kind.words}: {held.evidence}"
        return ""

    def objection_to(self, way: Way, now_ns: int, destination: str | None = None) -> str:
        """Why a way is not taken now: the first objection on it."""
        for hop in hops_of(way):
            reason = self.objection(*hop, now_ns, destination)
            if reason:
                return reason
        return ""

    def nats(self, as_number: int, alternative: int, kind: Kind, destination: str = "") -> float:
        """How strong the suspicion is; it is a finding at ln(16/10^-4) = 11.98."""
        place = self._places.get(destination)
        test = None if place is None else place.tests.get((Hop(as_number, alternative), kind))
        return -math.inf if test is None else test.evidence.nats

    # --- over restarts -----------------------------------------------------------------------------------------------

    def remembered(self, now_ns: int) -> tuple[RememberedAccusation, ...]:
        return self._accusations.remembered(now_ns)

    def recall(self, items: Iterable[RememberedAccusation], now_ns: int, elapsed_ns: int = 0) -> None:
        """`elapsed_ns`: since the values were taken."""
        self._accusations.recall(items, now_ns, elapsed_ns)

    # --- epochs ------------------------------------------------------------------------------------------------------

    def _place(self, destination: str, now_ns: int) -> _Place:
        self._end_epoch_if_due(destination, now_ns)
        place = self._places.pop(destination, None)
        if place is None:
            while len(self._places) >= self._terms.destinations:
                del self._places[next(iter(self._places))]
            place = _Place(Promises(self._terms), now_ns, now_ns)
        self._places[destination] = place
        return place

    def _record(self, destination: str, way: Way, now_ns: int) -> WayRecord | None:
        place = self._place(destination, now_ns)
        record = place.ways.get(way)
        if record is None:
            hops = hops_of(way)
            if not hops or not self._make_room(place):
                return None
            record = place.ways[way] = WayRecord(way=way, hops=hops, terms=self._terms)
        record.seen_ns = now_ns
        return record

    def _make_room(self, place: _Place) -> bool:
        """The longest unseen goes, none of this epoch's: invented ways do not drive out real ones."""
        if len(place.ways) < self._terms.ways:
            return True
        oldest = min(place.ways.values(), key=lambda record: record.seen_ns)
        if oldest.seen_ns >= place.epoch_ns:
            return False
        del place.ways[oldest.way]
        return True

    def _end_epoch_if_due(self, destination: str, now_ns: int) -> None:
        place = self._places.get(destination)
        if place is None or now_ns - place.epoch_ns < self._terms.epoch_ns:
            return
        enough = sum(record.tells_of_losses() for record in place.ways.values()) >= 2
        if not enough and now_ns - place.epoch_ns < self._terms.epoch_at_most_ns:
            return
        seen = [record for record in place.ways.values() if record.seen_ns >= place.epoch_ns]
        looks: _Looks = {}
        if enough or now_ns - place.losses_ns >= self._terms.losses_at_most_ns:
            self._look_for_drops(list(place.ways.values()), looks)
            for record in place.ways.values():
                record.forget_losses()
            place.losses_ns = now_ns
        self._look_for_fakes(place, seen, looks)
        self._look_for_lies(place, seen, looks, now_ns)
        self._look_at_wishes(place, looks)
        for (hop, kind), look in looks.items():
            self._weigh(destination, place, hop, kind, look, now_ns)
        for record in seen:
            record.end_epoch(now_ns)
        place.epoch_ns = now_ns

    # --- looking -----------------------------------------------------------------------------------------------------

    def _look_for_drops(self, records: list[WayRecord], looks: _Looks) -> None:
        for record in records:
            loses = record.loses()
            if loses is None:
                continue
            for hop in record.hops:
                looks.setdefault((hop, Kind.KEEPS_AND_DROPS), _Look())
            if not loses:
                continue
            fine = [other for other in records if other is not record and other.is_fine_beside(record)]
            culprit = _only_suspect(record, fine)
            if culprit is not None:
                text = (
                    f"{record.lost} of {record.sent} packets lost that paid enough, while "
                    f"{sum(other.lost for other in fine)} of {sum(other.sent for other in fine)} were on "
                    f"ways that share the rest"
                )
                looks[culprit, Kind.KEEPS_AND_DROPS] = _Look(
                    record,
                    text,
                    {"paid_sent": record.sent, "paid_lost": record.lost, "toll_nanodollars": _toll_of(record)},
                )

    def _look_for_fakes(self, place: _Place, seen: list[WayRecord], looks: _Looks) -> None:
        fine = [record for record in seen if record.is_raised() is False and not _claimed(record, place.claims)]
        for record in seen:
            claimed = _claimed(record, place.claims)
            if not record.is_raised() and not claimed:
                continue
            shows_queue = record.shows_queue()
            if shows_queue is None:
                continue
            for hop in record.hops:
                looks.setdefault((hop, Kind.FAKES_CONGESTION), _Look())
            culprit = claimed[0] if len(claimed) == 1 else _only_suspect(record, fine)
            if shows_queue or culprit is None or not (claimed or record.is_moving()):
                continue
            above = place.claims.get(culprit) or (record.mean_toll() or 0) - (record.toll_floor.value or 0)
            waits_ns = record.usual_delay_ns() - (record.delay_floor.value or 0)
            text = (
                f"{above / 1000:.1f} n$ of congestion toll, but the round trip is {waits_ns / _MS:.1f} ms above its "
                f"lowest, nothing was marked, and all {record.tally.unpaid_sent} unpaid packets arrived"
            )
            numbers = {"congestion_nanodollars": above / 1000, "above_lowest_ms": waits_ns / _MS}
            looks[culprit, Kind.FAKES_CONGESTION] = _Look(record, text, numbers)

    def _look_for_lies(self, place: _Place, seen: list[WayRecord], looks: _Looks, now_ns: int) -> None:
        judged = [
            (record, comparison)
            for record in seen
            for comparison in place.promises.comparisons(record, [other for other in seen if other is not record])
        ]
        broken = {(hop, item.quantity) for _, item in judged if item.is_broken for hop in item.hops}
        whole = {hop for record, item in judged if item.hops == record.hops and not item.is_broken for hop in item.hops}
        for record, item in judged:
            for hop in item.hops:
                looks.setdefault((hop, Kind.LIES), _Look())
            suspects = [hop for hop in item.hops if hop not in whole or item.quantity != "toll"]
            if item.is_broken and len(suspects) == 1 and place.promises.is_due(suspects[0], item.quantity, now_ns):
                looks[suspects[0], Kind.LIES] = _Look(record, *_words_of(item))
        for _, item in judged:
            for hop in item.hops:
                if (hop, item.quantity) not in broken:
                    place.promises.note_kept(hop, item.quantity, now_ns)

    def _look_at_wishes(self, place: _Place, looks: _Looks) -> None:
        for hop, (followed, ignored) in place.wishes.items():
            if ignored <= followed:
                looks[hop, Kind.IGNORES] = _Look()
                continue
            text = f"{ignored} of {followed + ignored} wishes not followed that it said it could follow"
            numbers: dict[str, float] = {"wishes": followed + ignored, "ignored": ignored}
            met = place.wished_ways.get(hop, frozenset())
            way = " ".join(f"AS{number}:1" for number in sorted(met | {hop.as_number}))
            record = WayRecord(way=way, hops=hops_of(way), terms=self._terms)
            looks[hop, Kind.IGNORES] = _Look(record, text, numbers)
        place.wishes.clear()
        place.wished_ways.clear()

    # --- weighing ----------------------------------------------------------------------------------------------------

    def _weigh(self, destination: str, place: _Place, hop: Hop, kind: Kind, look: _Look, now_ns: int) -> None:
        test = place.tests.get((hop, kind))
        if test is None:
            if len(place.tests) >= 4 * self._terms.hops:  # invented numbers: whose test was lost may have begun before
                del place.tests[min(place.tests, key=lambda key: place.tests[key].seen_ns)]
                place.was_crowded = True
            test = place.tests[hop, kind] = _Test(Evidence(may_be_late=place.was_crowded))
        test.seen_ns = now_ns
        if test.evidence.bad == 0:
            test.others = None
        if look.record is not None:
            test.text, test.numbers = look.text, look.numbers
            others = frozenset(other.as_number for other in look.record.hops) - {hop.as_number} - self._terms.access
            test.others = others if test.others is None else test.others & others
        evidence = test.evidence
        odds = self._terms.odds(kind)
        nats = evidence.add(look.record is not None, odds, looks=self._terms.looks, now_ns=now_ns)
        if nats < self._bound_nats:
            return
        epochs = evidence.bad + evidence.good
        self._accusations.accuse(
            Charge(destination, hop.as_number, hop.alternative or None, kind),
            others=test.others or frozenset(),
            since_ns=evidence.since_ns,
            now_ns=now_ns,
            evidence=f"{test.text}; so in {evidence.bad} of {epochs} epochs",
            numbers={**test.numbers, "bad_epochs": evidence.bad, "epochs": epochs, "nats": round(nats, 2)},
        )
        evidence.forget()


def _hop(as_number: int, alternative: int, *, or_any: bool = False) -> Hop | None:
    least = ANY_ALTERNATIVE if or_any else 1
    good = 1 <= as_number <= MAX_AS_NUMBER and least <= alternative <= MAX_ALTERNATIVE
    return Hop(as_number, alternative) if good else None


def _only_suspect(record: WayRecord, fine: list[WayRecord]) -> Hop | None:
    """The one ISP on a bad way that is on no fine one; None: nobody, several, or nothing to compare with."""
    if not fine:
        return None
    cleared = {hop for other in fine for hop in other.hops}
    suspects = [hop for hop in record.hops if hop not in cleared]
    return suspects[0] if len(suspects) == 1 else None


def _claimed(record: WayRecord, claims: dict[Hop, int]) -> list[Hop]:
    return [hop for hop in record.hops if hop in claims]


def _toll_of(record: WayRecord) -> float:
    return (record.mean_toll() or 0) / 1000


def _words_of(item: Comparison) -> tuple[str, dict[str, float]]:
    if item.quantity == "toll":
        measured, promised, unit = item.measured / 1000, item.promised / 1000, "n$"
    else:
        measured, promised, unit = item.measured / _MS, item.promised / _MS, "ms"
    names = " and ".join(str(hop) for hop in item.hops)
    text = f"{names} promised a {item.quantity} of {promised:.1f} {unit}, and takes {measured:.1f} {unit} at least"
    numbers = {f"promised_{item.quantity}": promised, f"measured_{item.quantity}": measured}
    return text, numbers
