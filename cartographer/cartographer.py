"""The cartographer as the host's daemon uses it: facts in, choices and probes out.

Decides nothing itself: it keeps the map and the topology, and asks choice, chooser, split and probing.  Whoever calls
it has verified the signatures of descriptions and echoes, and gives any one monotonic clock as `now_ns`.  Source:
Bill-Pay 2.2, digital cartographer.  Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from math import sqrt

from billpay.header import Slot
from billpay.messages import OadDescription
from cartographer import recalling, seen
from cartographer.choice import PathChoice, Place, slots_for
from cartographer.chooser import ChooserTerms
from cartographer.deciding import Deciding, resolved_ask
from cartographer.disjoint import Candidate as Disjoint
from cartographer.disjoint import Pair, disjoint_pairs
from cartographer.leaving import Pin, Pins, another
from cartographer.map import ONLY_WAY, Ask, Destination, PathMap, WayRecord, ask_in, expected_way, read_isp_oads
from cartographer.policy import PathPolicy, shipped_wants
from cartographer.priors import Priors
from cartographer.probing import ProbePurse, earn, is_to_be_asked_again, is_to_be_watched, next_probe
from cartographer.remembered import RememberedMap
from cartographer.seen import PathFact, ProbesFact, WayFact
from cartographer.split import SplitTerms
from cartographer.statistics import WayStatistics
from cartographer.suspicion import Judging, Unsuspecting
from cartographer.topology import Topology
from cartographer.values import Estimate, Quantity, Wants, Way, WayQuality

DEFAULT = "default"
_PICODOLLARS = 1000
Moments = tuple[float, float, float, float, int | None]


class Cartographer:
    """One for each host and network that it is in."""

    def __init__(
        self,
        policy: PathPolicy | None = None,
        *,
        wants: Mapping[str, Wants] | None = None,
        judge: Judging | None = None,
        chooser_terms: ChooserTerms | None = None,
        split_terms: SplitTerms | None = None,
        draw: Callable[[], float] = lambda: 0.5,
        own: Callable[[str, Way], WayStatistics | None] = lambda _destination, _way: None,
    ) -> None:
        """`wants`: classes of flows by name, beside the shipped ones; `draw`: chance, uniform in [0, 1). `own`: where
        a copy of every sample goes that was measured here (`cartographer.campus.own`).
        """
        self._policy = policy or PathPolicy()
        self._wants = {**shipped_wants(self._policy.delay_value_nanodollars_per_ms), **(wants or {})}
        self._judge: Judging = judge or Unsuspecting()
        self._chooser_terms = chooser_terms
        self._split_terms = split_terms or SplitTerms()
        self._draw = draw
        self._own = own
        self._map = PathMap(self._policy)
        self._topology = Topology(max_descriptions=self._policy.max_descriptions, max_links=self._policy.max_links)
        self._deciding: dict[str, dict[str, Deciding]] = {}  # destination → class
        self._pins = Pins()
        self._priors = Priors()
        self.purse = ProbePurse(nanodollars_per_hour=self._policy.probe_nanodollars_per_hour)
        self._moving: dict[tuple[str, str], int] = {}  # shares that are being moved → when the next part is due
        self._asked_for_probes: dict[str, int] = {}  # destination → when somebody last was ready to send one

    @property
    def topology(self) -> Topology:
        """What ISPs publish and who is behind whom; to be read."""
        return self._topology

    # --- facts: descriptions -----------------------------------------------------------------------------------------

    def on_description(self, description: OadDescription, now_unix_s: int, now_ns: int) -> bool:
        """A description whose signature was verified; whether it holds from now on."""
        return self._topology.on_description(description, now_unix_s=now_unix_s, now_ns=now_ns)

    def on_withdrawn(self, issuer: str, as_number: int, prefix: str) -> bool:
        """The issuer takes a description back."""
        return self._topology.on_withdrawn(issuer, as_number, prefix)

    def on_published(self, issuer: str, as_number: int, prefixes: Collection[str]) -> int:
        """All prefixes that an issuer describes now: its other descriptions of the AS are withdrawn. How many."""
        return self._topology.on_published(issuer, as_number, prefixes)

    def on_congestion_claimed(
        self, destination: str, as_number: int, alternative: int, congestion_picodollars: int, now_ns: int
    ) -> None:
        """What of its toll an ISP itself says to be for congestion; held until it says 0."""
        self._judge.on_congestion_claimed(
            as_number,
            alternative,
            congestion_picodollars=congestion_picodollars,
            now_ns=now_ns,
            destination=destination,
        )

    # --- facts: traffic ----------------------------------------------------------------------------------------------

    def on_oads_seen(
        self,
        destination: str,
        oads: Iterable[tuple[int, int, int]],
        amount_sent: int,
        remaining: int | None,
        now_ns: int,
        *,
        packets: int = 0,
        lost: int = 0,
        marked: int = 0,
        asked: Iterable[Slot] | None = None,
        settled: bool = True,
    ) -> Way | None:
        """From an echo: what packets of the traffic met, one packet's amount as it left, and what was left of it.

        Only what is new since the last echo; `remaining` None: nobody knows of which way the toll is. An unpaid packet
        shows no toll, since nobody could take one. `packets` arrived, `lost` did not, `marked` of those that arrived
        carried CE. `asked`: the slots that they left with, if they were the same for all; not `settled`: some may have
        left with earlier ones. Gives the way.
        """
        slots = read_isp_oads(oads)
        if not slots or amount_sent < 0 or (remaining is not None and not 0 <= remaining <= amount_sent):
            return None
        ask = ask_in(asked) if asked is not None else None
        known = self._map.on_traffic(destination, slots, now_ns, asked=ask, settled=settled)
        self._saw(destination, known, slots, now_ns)
        if amount_sent and remaining is not None:
            toll = (amount_sent - remaining) * _PICODOLLARS
            self._sample(destination, known, Quantity.FORWARD_TOLL_PICODOLLARS, toll, now_ns, amount=amount_sent)
        self.on_traffic(
            destination,
            known.way,
            sent=packets + lost,
            lost=lost,
            marked=marked,
            amount_sent=amount_sent,
            now_ns=now_ns,
        )
        return known.way

    def on_traffic(
        self,
        destination: str,
        way: Way,
        *,
        sent: int,
        lost: int,
        marked: int = 0,
        amount_sent: int = 0,
        now_ns: int,
    ) -> None:
        """Packets of the traffic and what became of them; `sent` counts the lost ones."""
        record = self._map.touch(destination, now_ns)
        if sent <= 0:
            return
        earn(record, sent, self._policy)
        known = self._way(record, way)
        if known is None:
            return
        record.version += 1
        self._count(destination, known, sent=sent, lost=lost, marked=marked, now_ns=now_ns)
        arrived = sent - min(max(lost, 0), sent)
        if amount_sent:
            self._judge.on_paid_packets(
                way, sent=sent, arrived=arrived, now_ns=now_ns, destination=destination, amount_nanodollars=amount_sent
            )
        else:
            self._judge.on_unpaid_packets(way, sent=sent, arrived=arrived, now_ns=now_ns, destination=destination)
        self._judge.on_marks(way, marked=marked, now_ns=now_ns, destination=destination)

    def on_goodput(self, destination: str, way: Way, bit_s: int, now_ns: int) -> None:
        """What a flow that wanted more got through."""
        self._measured(destination, way, Quantity.THROUGHPUT_BIT_S, bit_s, now_ns)

    def on_return_toll(self, destination: str, way: Way, picodollars: int, now_ns: int) -> None:
        """What a packet cost that came back, for flows that went `way`."""
        self._measured(destination, way, Quantity.RETURN_TOLL_PICODOLLARS, picodollars, now_ns)

    def on_round_trip(self, destination: str, round_trip_ns: int, now_ns: int, *, way: Way = ONLY_WAY) -> None:
        """As a socket of this host reckons it; `way` "" where nobody knows which it is."""
        record = self._map.touch(destination, now_ns)
        if round_trip_ns <= 0:
            return
        record.round_trip_ns = round_trip_ns
        self._measured(destination, way, Quantity.DELAY_NS, round_trip_ns, now_ns)

    def on_loss(self, destination: str, *, sent: int, lost: int, now_ns: int, way: Way = ONLY_WAY) -> None:
        """As a socket of this host counts its retransmissions."""
        record = self._map.touch(destination, now_ns)
        known = self._way(record, way)
        if known is not None and 0 <= lost <= sent:
            record.version += 1
            self._count(destination, known, sent=sent, lost=lost, now_ns=now_ns)

    # --- facts: probes -----------------------------------------------------------------------------------------------

    def on_probe_reply(
        self,
        destination: str,
        asked_slots: Sequence[Slot],
        oads: Iterable[tuple[int, int, int]],
        toll_nanodollars: int | None,
        round_trip_ns: int | None,
        now_ns: int,
        *,
        amount_nanodollars: int | None = None,
    ) -> Way | None:
        """From an echo: what the probe that left with `asked_slots` met. The toll of an unpaid probe is None."""
        slots = read_isp_oads(oads)
        nonsense = any(value is not None and value < 0 for value in (toll_nanodollars, round_trip_ns))
        if not slots or nonsense:
            return None
        known = self._map.on_probe_reply(destination, slots, now_ns, asked=ask_in(asked_slots))
        if known is None:
            return None
        self._saw(destination, known, slots, now_ns)
        self._count(destination, known, sent=1, lost=0, now_ns=now_ns)
        if toll_nanodollars is None:
            self._judge.on_unpaid_packets(known.way, sent=1, arrived=1, now_ns=now_ns, destination=destination)
        else:
            self._judge.on_paid_packets(
                known.way,
                sent=1,
                arrived=1,
                now_ns=now_ns,
                destination=destination,
                amount_nanodollars=amount_nanodollars,
            )
        if toll_nanodollars is not None:
            self.purse.spend(toll_nanodollars)
            toll = toll_nanodollars * _PICODOLLARS
            self._sample(destination, known, Quantity.FORWARD_TOLL_PICODOLLARS, toll, now_ns, amount=amount_nanodollars)
        if round_trip_ns is not None:
            amount = amount_nanodollars if toll_nanodollars is not None else 0  # paid packets pass queues by
            self._sample(destination, known, Quantity.DELAY_NS, round_trip_ns, now_ns, amount=amount)
        return known.way

    def on_probe_lost(
        self, destination: str, asked_slots: Sequence[Slot], now_ns: int, *, amount_nanodollars: int = 0
    ) -> Way | None:
        """A probe that nobody answered. It counts against the way that it was to go, as far as that is known."""
        self.purse.spend(amount_nanodollars)
        self.purse.lost += 1
        record = self._map.get(destination)
        if record is None:
            return None
        ask = ask_in(asked_slots)
        real = resolved_ask(ask, record)
        way = real if real is not None else expected_way(ask)
        known = record.ways.get(way) or self._map.expect(record, way, now_ns)
        record.version += 1
        self._count(destination, known, sent=1, lost=1, now_ns=now_ns)
        if real is not None and not amount_nanodollars:
            self._judge.on_unpaid_packets(way, sent=1, arrived=0, now_ns=now_ns, destination=destination)
        elif real is not None:
            self._judge.on_paid_packets(
                way, sent=1, arrived=0, now_ns=now_ns, destination=destination, amount_nanodollars=amount_nanodollars
            )
        return way

    def on_probe_unsent(self, destination: str, asked_slots: Sequence[Slot]) -> None:
        """A probe that was given out could not leave: it is due again."""
        self.purse.probes -= 1
        record = self._map.get(destination)
        asked = record.asks.get(ask_in(asked_slots)) if record is not None else None
        if asked is not None:
            asked.probed_ns = None

    def on_silence(self, destination: str, way: Way, now_ns: int) -> None:
        """Nothing is heard any more of packets that went a way: it is probed as soon as may be."""
        record = self._map.touch(destination, now_ns)
        for deciding in (self._deciding.get(destination) or {}).values():
            real = deciding.resolved(way, record)
            if real in deciding.candidates:
                deciding.wanted.add(real)

    def on_prior(self, prefix: str, way: Way, estimates: Mapping[Quantity, Estimate], now_ns: int = 0) -> bool:
        """What a pool of hosts believes of a way to a prefix; it adds to nothing that was measured here."""
        if not self._priors.put(prefix, way, estimates):
            return False
        for destination, record in self._map.destinations().items():
            if record.path:
                self._priors.apply(destination, record, now_ns, only=prefix)
        return True

    def begin_anew(self, destination: str, way: Way, statistics: WayStatistics) -> None:
        """Better statistics than those that the way has: what is measured from now on adds to these."""
        record = self._map.get(destination)
        known = record.ways.get(way) if record is not None else None
        if record is not None and known is not None:
            known.statistics = statistics
            record.version += 1

    # --- answers -----------------------------------------------------------------------------------------------------

    def choose(self, destination: str, now_ns: int, *, flow_number: int = 0, wants: str = DEFAULT) -> PathChoice:
        """What a flow's packets should say from now on. Asking is what keeps a destination active."""
        record = self._map.touch(destination, now_ns)
        deciding = self._decided(destination, record, wants, now_ns)
        pin = self._pins.get((destination, deciding.wants.name, flow_number), now_ns)
        way = deciding.way_for(flow_number) if pin is None else resolved_ask(pin.ask, record) or pin.way
        choice = deciding.made(way)
        if choice is None:
            place = self._place(destination, record, now_ns)
            choice = deciding.choice_for(way, pin.ask if pin is not None else None, record, place, self._policy)
        if pin is not None:
            reason = f"{choice.reason}; {pin.reason}"
            why = [
                *((left, "this transfer was too slow over it a moment ago") for left in pin.avoided),
                *choice.ways_rejected,
            ]
            choice = replace(choice, reason=reason, rejected=deciding.rejected(choice.way, record, why))
        asked = ask_in(choice.slots)
        if asked != record.asked:
            record.asked, record.asked_since_ns = asked, now_ns
        return choice

    def next_move_ns(self, now_ns: int) -> int | None:
        """When traffic that is being moved to another way moves on, if somebody asks then; None: none is."""
        self._moving = {
            key: due_ns for key, due_ns in self._moving.items() if now_ns - due_ns <= self._policy.active_ns
        }
        return min(self._moving.values(), default=None)

    def ask_for_other_path(self, destination: str, now_ns: int, *, flow_number: int = 0, wants: str = DEFAULT) -> bool:
        """A transfer is too slow as it is: moves it, unless it was moved just now; False if it stays where it is."""
        record = self._map.touch(destination, now_ns)
        deciding = self._decided(destination, record, wants, now_ns, at_once=True)
        key = (destination, deciding.wants.name, flow_number)
        pin = self._pins.get(key, now_ns)
        if pin is not None and now_ns - pin.since_ns < self._policy.dwell_ns:
            return False
        way = pin.way if pin is not None else deciding.way_for(flow_number)
        left = deciding.resolved(way, record) or (resolved_ask(pin.ask, record) if pin is not None else None) or way
        avoided = dict(pin.avoided) if pin is not None else {}
        to = another(deciding.beliefs, left, avoided, now_ns)
        if to is None:
            return False
        until_ns = now_ns + self._policy.avoid_ns
        avoided = {other: until for other, until in avoided.items() if until > now_ns} | {left: until_ns}
        self._pins.put(
            key,
            Pin(
                way=to,
                ask=deciding.candidates[to].ask,
                since_ns=now_ns,
                until_ns=until_ns,
                reason=f"here because {left or 'its way'} was too slow",
                avoided=avoided,
            ),
        )
        return True

    def probes_due(self, destination: str, now_ns: int, *, own_budget: bool = False) -> list[tuple[Slot, ...]]:
        """The slots of the probes to send now: one at most. A probe that is given out counts as sent.

        `own_budget`: whoever asks has money of his own for probes, so the hourly budget does not bind.
        """
        self._asked_for_probes.pop(destination, None)
        self._asked_for_probes[destination] = now_ns
        if len(self._asked_for_probes) > self._policy.max_destinations:
            del self._asked_for_probes[next(iter(self._asked_for_probes))]
        record = self._map.get(destination)
        if record is None or not self._map.is_active(destination, now_ns):
            return []
        if not own_budget and not self.purse.may_spend(now_ns):
            return []
        names = tuple(self._deciding.get(destination) or (DEFAULT,))
        classes = {name: self._decided(destination, record, name, now_ns) for name in names}
        found = {
            candidate.way: candidate for deciding in classes.values() for candidate in deciding.candidates.values()
        }
        wanted = set(chain.from_iterable(deciding.wanted for deciding in classes.values()))
        every_ns = self._policy.own_probe_every_ns if own_budget else self._policy.probe_every_ns
        main = {deciding.main_way(record) for deciding in classes.values()}
        watched = {deciding.main_way(record) for deciding in classes.values() if deciding.minds_delay}
        for way, item in found.items():
            if way in watched and not own_budget and is_to_be_watched(record, item.ask, self._policy, now_ns):
                wanted.add(way)
            if (way in watched or way not in main) and is_to_be_asked_again(record, item, every_ns, now_ns):
                wanted.add(way)
        ask: Ask | None = ()
        if found:
            ask = next_probe(found.values(), record, wanted, self._policy, every_ns=every_ns, now_ns=now_ns)
        elif record.probed_ns is not None and now_ns - record.probed_ns < self._policy.probe_gap_ns:
            ask = None
        if ask is None:
            return []
        for deciding in classes.values():
            deciding.wanted -= {way for way in deciding.wanted if found[way].ask == ask}
        self._map.note_probe(destination, ask, now_ns)
        self.purse.probes += 1
        return [slots_for(record.path, ask, self._policy)]

    def disjoint_pair(self, destination: str, now_ns: int, *, wants: str = "timely") -> Pair | None:
        """Two ways for a packet and its duplicate that share no AS but the first; None: none are known."""
        record = self._map.get(destination)
        if record is None:
            return None
        deciding = self._decided(destination, record, wants, now_ns)
        found = []
        for candidate in deciding.candidates.values():
            known = record.ways.get(candidate.way)
            if known is None or not known.slots or candidate.objection:
                continue
            loss = known.statistics.estimate(Quantity.LOSS_PPM, now_ns)
            toll = known.statistics.estimate(Quantity.FORWARD_TOLL_PICODOLLARS, now_ns)
            if loss is not None:
                doubtful = min(1_000_000, loss.value + loss.uncertainty)
                found.append(Disjoint(way=known.way, loss_ppm=doubtful, toll_picodollars=toll.value if toll else 0))
        pairs = disjoint_pairs(found, value_nanodollars=deciding.wants.loss_nanodollars)
        return pairs[0] if pairs else None

    def choice_of_way(self, destination: str, way: Way, now_ns: int, *, wants: str = "timely") -> PathChoice | None:
        """What a packet writes that is to go a known way, such as one of a pair; None: nobody knows how."""
        record = self._map.get(destination)
        if record is None or way not in record.ways:
            return None
        deciding = self._decided(destination, record, wants, now_ns)
        return deciding.choice_for(way, None, record, self._place(destination, record, now_ns), self._policy)

    # --- what is known -----------------------------------------------------------------------------------------------

    def view(self, now_ns: int) -> Iterator[PathFact]:
        """Every alternative of every ISP on the ways that traffic takes now, the latest used first; changes nothing."""
        for destination in self.active(now_ns):
            yield from self._alternatives(destination, now_ns)

    def ways(self, now_ns: int, destination: str | None = None) -> Iterator[WayFact]:
        """Every way as every class of flows sees it, the latest used destination first; changes nothing."""
        for name in reversed(self._map.destinations()) if destination is None else (destination,):
            record = self._map.get(name)
            if record is not None:
                classes = self._deciding.get(name)
                unasked = () if classes else (Deciding(self._wants[DEFAULT], self._chooser_terms),)
                for deciding in classes.values() if classes else unasked:
                    yield from seen.ways_of(name, record, deciding, now_ns)

    def active(self, now_ns: int) -> Iterator[str]:
        """Destinations in use, the latest first."""
        for destination in reversed(self._map.destinations()):
            if not self._map.is_active(destination, now_ns):
                return
            yield destination

    @property
    def destinations(self) -> int:
        """How many are known."""
        return len(self._map.destinations())

    def forget(self, destination: str | None = None) -> None:
        """What is known of one destination, or (None) everything: on another network nothing of it holds."""
        if destination is not None:
            self._map.forget(destination)
            self._deciding.pop(destination, None)
            self._moving = {key: due_ns for key, due_ns in self._moving.items() if key[0] != destination}
            return
        self._map = PathMap(self._policy)
        self._topology = Topology(max_descriptions=self._policy.max_descriptions, max_links=self._policy.max_links)
        self._deciding.clear()
        self._moving.clear()
        self._pins, self._priors = Pins(), Priors()
        self._asked_for_probes.clear()

    def probes(self) -> ProbesFact:
        """What probes cost."""
        return seen.probes_fact(self.purse)

    def quality(self, now_ns: int, *, since_ns: int | None = None) -> Iterable[WayQuality]:
        """Every way that was seen, with what was measured of it; of destinations that were in use since then."""
        for destination, record in reversed(self._map.destinations().items()):
            if since_ns is not None and record.active_ns < since_ns:
                return
            for known in record.ways.values():
                estimates = seen.estimates_of(known, now_ns)
                if estimates and not known.is_expected:
                    yield WayQuality(destination=destination, way=known.way, estimates=estimates)

    @property
    def names(self) -> frozenset[str]:
        """Of all destinations that are known."""
        return frozenset(self._map.destinations())

    def remember(self, now_ns: int, *, since_ns: int | None = None) -> RememberedMap:
        """All that is worth keeping over a restart, or until this network is met again; times are ages.

        `since_ns`: only destinations that were in use since then; the others are as they were.
        """
        descriptions, links = self._topology.remembered(now_ns)
        return RememberedMap(
            descriptions=descriptions,
            links=links,
            destinations=tuple(
                recalling.remembered(destination, record, now_ns)
                for destination, record in self._map.destinations().items()
                if since_ns is None or record.active_ns >= since_ns
            ),
        )

    def recall(self, values: RememberedMap, now_ns: int, *, elapsed_ns: int = 0) -> None:
        """What was known when `values` were taken, `elapsed_ns` ago; what is known already is newer and stays."""
        then_ns = now_ns - max(0, elapsed_ns)
        self._topology.recall((item for item in recalling.aged(values.descriptions, elapsed_ns)), values.links, then_ns)
        for item in values.destinations:
            if self._map.get(item.destination) is None:
                recalling.recall(self._map.open(item.destination), item, then_ns)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _place(self, destination: str, record: Destination, now_ns: int) -> Place:
        promises = {number: self._topology.promises(destination, number, now_ns) for number in record.isps}
        return Place(destination=destination, promises=promises, judge=self._judge, now_ns=now_ns)

    def _decided(
        self, destination: str, record: Destination, wants: str, now_ns: int, *, at_once: bool = False
    ) -> Deciding:
        name = wants if wants in self._wants else DEFAULT
        classes = self._deciding.get(destination)
        if classes is None:
            if len(self._deciding) > self._policy.max_destinations:
                known = self._map.destinations()
                self._deciding = {key: value for key, value in self._deciding.items() if key in known}
            classes = self._deciding[destination] = {}
        deciding = classes.get(name)
        if deciding is None:
            deciding = classes[name] = Deciding(self._wants[name], self._chooser_terms)
        self._topology.drop_expired(now_ns)
        round_trip_ns = record.round_trip_ns or self._policy.round_trip_ns
        if at_once or deciding.is_due(record, self._topology.version, round_trip_ns, now_ns):
            asked_ns = self._asked_for_probes.get(destination)
            may_probe = asked_ns is not None and now_ns - asked_ns <= self._policy.active_ns
            deciding.decide(
                record,
                self._place(destination, record, now_ns),
                self._policy,
                topology_version=self._topology.version,
                round_trip_ns=round_trip_ns,
                probe_picodollars=0 if may_probe else None,
                split_terms=self._split_terms,
                draw=self._draw,
            )
            if deciding.next_move_ns is None:
                self._moving.pop((destination, name), None)
            else:
                self._moving[destination, name] = deciding.next_move_ns
        return deciding

    def _alternatives(self, destination: str, now_ns: int) -> Iterable[PathFact]:
        record = self._map.get(destination)
        classes = self._deciding.get(destination) or {}
        deciding = classes.get(DEFAULT) or next(iter(classes.values()), None)
        if record is None or not record.isps:  # of a destination of ordinary sockets no ISP is known
            return ()
        if deciding is None:
            deciding = Deciding(self._wants[DEFAULT], self._chooser_terms)
        signers = {}
        for number in record.isps:
            held = self._topology.description_of(destination, number, now_ns)
            if held is not None:
                signers[number] = (held.message.issuer, held.message.serial)
        place = self._place(destination, record, now_ns)
        return seen.alternatives_of(record, deciding, place, self._policy, signers)

    def _way(self, record: Destination, way: Way) -> WayRecord | None:
        known = record.ways.get(way)
        if known is None and way == ONLY_WAY and not any(item.slots for item in record.ways.values()):
            known = record.ways[way] = WayRecord(way, (), 0)
        return known

    def _saw(self, destination: str, known: WayRecord, slots: tuple[Slot, ...], now_ns: int) -> None:
        """Packets met a way."""
        record = self._map.open(destination)
        self._topology.on_path(slots, now_ns)
        if len(record.ways) == 1 or ONLY_WAY in record.ways:
            record.ways.pop(ONLY_WAY, None)
            self._priors.apply(destination, record, now_ns)
        for answer in record.answers:
            self._judge.on_wish(
                answer.as_number,
                answer.number,
                followed=answer.followed,
                now_ns=now_ns,
                destination=destination,
                way=known.way,
            )
        for slot in slots:
            held = self._topology.description_of(destination, slot.as_number, now_ns)
            for item in held.message.alternatives if held is not None else ():
                if item.number == slot.choice:
                    self._judge.on_promise(
                        slot.as_number,
                        slot.choice,
                        serial=held.message.serial if held is not None else 0,
                        delay_ns=item.delay_ns,
                        toll_picodollars=None
                        if item.toll_nanodollars is None
                        else item.toll_nanodollars * _PICODOLLARS,
                        now_ns=now_ns,
                        destination=destination,
                    )

    def _count(self, destination: str, known: WayRecord, *, sent: int, lost: int, now_ns: int, marked: int = 0) -> None:
        believed = known.statistics.moments(Quantity.LOSS_PPM, now_ns)
        if lost > 1 and is_strange(believed, lost / sent, least=0.05):  # a single one may be chance
            known.surprised_ns = now_ns
        for statistics in (known.statistics, self._own(destination, known.way)):
            if statistics is not None:
                statistics.on_packets(sent=sent, lost=lost, marked=marked, now_ns=now_ns)

    def _measured(self, destination: str, way: Way, quantity: Quantity, value: int, now_ns: int) -> None:
        record = self._map.touch(destination, now_ns)
        known = self._way(record, way)
        if known is not None and value >= 0:
            record.version += 1
            self._sample(destination, known, quantity, value, now_ns)

    def _sample(
        self,
        destination: str,
        known: WayRecord,
        quantity: Quantity,
        value: int,
        now_ns: int,
        *,
        amount: int | None = None,
    ) -> None:
        is_told_apart = quantity in (Quantity.DELAY_NS, Quantity.FORWARD_TOLL_PICODOLLARS)
        if is_told_apart and is_strange(known.statistics.moments(quantity, now_ns), value):
            known.surprised_ns = now_ns
        for statistics in (known.statistics, self._own(destination, known.way)):
            if statistics is not None:
                statistics.on_sample(quantity, value, now_ns)
        is_delay = quantity is Quantity.DELAY_NS
        if is_delay:
            self._map.open(destination).round_trip_ns = value
        elif quantity is not Quantity.FORWARD_TOLL_PICODOLLARS:
            return
        self._judge.on_way_measured(
            known.way,
            round_trip_ns=value if is_delay else None,
            toll_picodollars=None if is_delay else value,
            now_ns=now_ns,
            destination=destination,
            amount_nanodollars=amount,
        )


def is_strange(believed: Moments | None, value: float, *, least: float = 0.0) -> bool:
    """Whether something is far from what it was believed to be: by a tenth of it, and by three deviations."""
    if believed is None:
        return False
    mean, _, single, _, _ = believed
    return abs(value - mean) > max(least, mean / 10, 3 * sqrt(single))
