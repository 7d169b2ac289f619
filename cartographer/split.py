"""How the traffic to one destination is shared among its ways, and how fast that may change.

Decides: how much of the share moves at which moment, and which way a flow takes. Refuses to know what makes a way cheap
(costing), which one is best (chooser), and whatever the other hosts do, although it is built for them: with many hosts
on the same links the costs answer to the shares, some round trips late.

Four things keep that from swinging. At most `pace_ppm` of the traffic moves in a round trip, and less where little is
gained. It starts only beyond the hysteresis, and then goes on until the costs are even. Each host moves at random
times. And a host that has to go back where it just came from slows down threefold: the links are steeper than it
thought. The rule behind the numbers is in docs/explanation/path-stability.md.

Flows stay where they are: a flow number falls in one of 1000 cells, a cell belongs to a way, and to move 10 % of the
share is to give away 100 cells.

Source: Bill-Pay 5 (open question); Kelly and Voice, "Stability of end-to-end algorithms for joint routing and rate
control", CCR 2005. Pure: now is an argument, and chance is `draw` (uniform in [0, 1)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Annotated

import msgspec

from cartographer.values import Belief, Deliberation, Way

MAX_WAYS = 64  # that have a share at one time; all that are left over go the way of the first
_PPM = 1_000_000
_CELLS = 1000
_CELL_PPM = _PPM // _CELLS
_SLOWER = 3  # times, after a reversal
_LONGEST_WAIT = 1.5  # round trips; the shortest is 0.5
_MASK = 2**64 - 1

Ppm = Annotated[int, msgspec.Meta(ge=0, le=_PPM)]
PositivePpm = Annotated[int, msgspec.Meta(gt=0, le=_PPM)]


class SplitTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`pace_ppm` and `objection_pace_ppm`: of all the traffic, in a round trip. Gains are shares of the dearer cost."""

    pace_ppm: PositivePpm = 100_000
    objection_pace_ppm: PositivePpm = 300_000
    hysteresis_ppm: Ppm = 150_000  # what must be gained before anything moves
    release_ppm: Ppm = 20_000  # what must be gained to go on
    full_gain_ppm: PositivePpm = 300_000  # from here on it moves at the whole pace; below in proportion
    unexplored_ppm: Ppm = 50_000  # the most that a way gets which nobody has tried
    slowest_part: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64  # of the pace, after reversals; 1: never slower
    recovery_round_trips: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 40  # until the pace is 2.7 times as fast
    reversal_round_trips: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20  # later it is not our own doing


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What went where at one moment, and why."""

    to: Way
    ppm: int
    reason: str


class Split:
    """The shares of one destination's ways for one class of flows."""

    __slots__ = (
        "_carry_ppm",
        "_cells",
        "_due_ns",
        "_last_ns",
        "_left",
        "_moving_to",
        "_pace_ppm",
        "_rest_ppm",
        "_since_ppm",
        "_terms",
        "_ways",
    )

    def __init__(self, terms: SplitTerms, way: Way) -> None:
        self._terms = terms
        self._ways: list[Way | None] = [way]  # a cell holds an index into this
        self._cells: bytearray | None = None  # None: everything goes the first way
        self._pace_ppm = terms.pace_ppm
        self._last_ns: int | None = None  # the last time that the timer went off
        self._due_ns = 0
        self._carry_ppm = 0  # what was due and was less than a cell
        self._moving_to: Way | None = None
        self._left: frozenset[Way] = frozenset()  # whence the last move came
        self._rest_ppm = _PPM  # what is still where it should not be; all: nobody knows
        self._since_ppm = 0  # millionths of round trips since the last move for a gain

    @property
    def shares_ppm(self) -> dict[Way, int]:
        """Of the ways that have any; they sum to 1,000,000."""
        if self._cells is None:
            return {way: _PPM for way in self._ways if way is not None}
        return {way: self._cells.count(index) * _CELL_PPM for index, way in enumerate(self._ways) if way is not None}

    @property
    def pace_ppm(self) -> int:
        """What this host dares to move in a round trip at present."""
        return self._pace_ppm

    @property
    def due_ns(self) -> int:
        """Before this time `move` does nothing."""
        return self._due_ns

    def way_of(self, flow_number: int) -> Way:
        """The way of a flow, by its 64-bit number. The same until its cell moves."""
        owner = 0 if self._cells is None else self._cells[_mixed(flow_number) * _CELLS >> 64]
        way = self._ways[owner]
        assert way is not None  # a cell never belongs to a way that is gone
        return way

    def move(
        self,
        deliberation: Deliberation,
        beliefs: Sequence[Belief],
        *,
        now_ns: int,
        round_trip_ns: int,
        draw: Callable[[], float],
    ) -> Moved | None:
        """To be called at every occasion (each echo, each round trip): mostly it is not yet time."""
        if self._last_ns is None:
            self._last_ns, self._due_ns = now_ns, now_ns + int(draw() * round_trip_ns)
        if now_ns < self._due_ns:
            return None
        round_trip_ns = max(1, round_trip_ns)
        waited_ppm = min((now_ns - self._last_ns) * _PPM // round_trip_ns, int(_LONGEST_WAIT * _PPM))
        self._since_ppm += (now_ns - self._last_ns) * _PPM // round_trip_ns
        self._recover(waited_ppm)
        self._rest_ppm = _PPM
        moved = self._step(deliberation, {belief.way: belief for belief in beliefs}, waited_ppm, draw)
        self._last_ns = now_ns
        # What is left over goes when its time has come: so all of the traffic moves in 10 round trips, and no more.
        wait_ppm = min(int((0.5 + draw()) * _PPM), max(_CELL_PPM, self._rest_ppm) * _PPM // self._pace_ppm)
        self._due_ns = now_ns + wait_ppm * round_trip_ns // _PPM
        return moved

    # --- one step ----------------------------------------------------------------------------------------------------

    def _step(
        self, deliberation: Deliberation, known: Mapping[Way, Belief], waited_ppm: int, draw: Callable[[], float]
    ) -> Moved | None:
        main = _main_way(deliberation, known)
        if main is None:
            return None  # nothing is better than where we are
        shares = self.shares_ppm
        bad = [way for way in shares if way != main and _objection(way, known)]
        if bad:
            return self._empty(bad, main, known, waited_ppm, draw)
        trial = deliberation.way
        if trial != main and not _objection(trial, known):
            room = self._terms.unexplored_ppm - shares.get(trial, 0)
            if room >= _CELL_PPM:
                most = min(room, self._pace_ppm * waited_ppm // _PPM)
                taken = self._give([main, *shares], trial, most, draw)
                return Moved(to=trial, ppm=taken, reason="a little, to find out") if taken else None
        return self._balance(main, known, shares, waited_ppm, draw)

    def _empty(
        self, bad: list[Way], main: Way, known: Mapping[Way, Belief], waited_ppm: int, draw: Callable[[], float]
    ) -> Moved | None:
        """Faster than for a gain: whatever is sent there is lost or cheated of its payment, and as it never comes back
        by itself, nothing can swing. Yet not at once: it may be a false alarm, and the others' queues are to be seen.
        """
        most = max(self._terms.objection_pace_ppm, self._terms.pace_ppm) * waited_ppm // _PPM
        taken = self._give(bad, main, most, draw)
        return Moved(to=main, ppm=taken, reason=f"away: {_objection(bad[0], known)}") if taken else None

    def _balance(
        self,
        main: Way,
        known: Mapping[Way, Belief],
        shares: Mapping[Way, int],
        waited_ppm: int,
        draw: Callable[[], float],
    ) -> Moved | None:
        gains = {way: _gain_ppm(known[way], known[main]) for way in shares if way != main and main in known}
        if self._moving_to != main:
            if not any(
                gain >= self._terms.hysteresis_ppm and _is_clear(known[way], known[main]) for way, gain in gains.items()
            ):
                return None
            self._start(main)
        sources = sorted((way for way in gains if gains[way] >= self._terms.release_ppm), key=lambda way: -gains[way])
        if not sources:
            self._moving_to, self._carry_ppm = None, 0
            return None
        gain = gains[sources[0]]
        part_ppm = min(_PPM, gain * _PPM // self._terms.full_gain_ppm)
        due_ppm = self._carry_ppm + self._pace_ppm * waited_ppm // _PPM * part_ppm // _PPM
        taken = self._give(sources, main, due_ppm, draw)
        self._carry_ppm = min(due_ppm - taken, _CELL_PPM - 1)
        self._left, self._since_ppm = frozenset(sources), 0
        self._rest_ppm = sum(shares[way] for way in sources) - taken
        return Moved(to=main, ppm=taken, reason=f"{gain / 10_000:.0f} % cheaper") if taken else None

    def _start(self, main: Way) -> None:
        """To move towards another way than before; back where we came from means that we had gone too far."""
        if main in self._left and self._since_ppm <= self._terms.reversal_round_trips * _PPM:
            least = max(_CELL_PPM, self._terms.pace_ppm // self._terms.slowest_part)
            self._pace_ppm = min(self._terms.pace_ppm, max(least, self._pace_ppm // _SLOWER))
        self._moving_to, self._carry_ppm, self._left = main, 0, frozenset()

    def _recover(self, waited_ppm: int) -> None:
        more = self._pace_ppm * waited_ppm // _PPM // self._terms.recovery_round_trips
        self._pace_ppm = min(self._terms.pace_ppm, self._pace_ppm + more)

    # --- cells -------------------------------------------------------------------------------------------------------

    def _give(self, sources: Iterable[Way], to: Way, most_ppm: int, draw: Callable[[], float]) -> int:
        """Moves whole cells, from the first source first, any of its cells alike. Gives how much it was."""
        wanted = most_ppm // _CELL_PPM
        new = self._index(to)
        if wanted <= 0 or new is None:
            return 0
        if self._cells is None:
            self._cells = bytearray(_CELLS)
        taken = 0
        for source in sources:
            if source != to and source in self._ways:
                taken += _repaint(self._cells, self._ways.index(source), new, wanted - taken, int(draw() * _CELLS))
        self._forget_empty()
        return taken * _CELL_PPM

    def _index(self, way: Way) -> int | None:
        """Its place among the ways, a new one if need be; None where there are too many."""
        if way in self._ways:
            return self._ways.index(way)
        if None in self._ways:
            index = self._ways.index(None)
            self._ways[index] = way
            return index
        if len(self._ways) == MAX_WAYS:
            return None
        self._ways.append(way)
        return len(self._ways) - 1

    def _forget_empty(self) -> None:
        assert self._cells is not None
        for index in range(len(self._ways)):
            if self._cells.find(index) < 0:
                self._ways[index] = None
        held = [way for way in self._ways if way is not None]
        if len(held) == 1:
            self._ways, self._cells = [held[0]], None


def _main_way(deliberation: Deliberation, known: Mapping[Way, Belief]) -> Way | None:
    """Where the bulk should go: what was decided, unless that is only to be tried."""
    target = known.get(deliberation.way)
    if target is not None and not target.objection and target.measured_ns is not None and not deliberation.explores:
        return target.way
    sound = [belief for belief in known.values() if not belief.objection]
    tried = [belief for belief in sound if belief.measured_ns is not None]
    if tried:
        return min(tried, key=lambda belief: belief.cost_picodollars).way
    if target is not None and not target.objection:
        return target.way
    return min(sound, key=lambda belief: belief.cost_picodollars).way if sound else None


def _objection(way: Way, known: Mapping[Way, Belief]) -> str:
    belief = known.get(way)
    return belief.objection if belief is not None else "it is not there any more"


def _gain_ppm(dear: Belief, cheap: Belief) -> int:
    return (dear.cost_picodollars - cheap.cost_picodollars) * _PPM // max(1, dear.cost_picodollars)


def _is_clear(dear: Belief, cheap: Belief) -> bool:
    """Whether the difference is more than one standard error of itself."""
    error = isqrt(dear.uncertainty_picodollars**2 + cheap.uncertainty_picodollars**2)
    return dear.cost_picodollars - cheap.cost_picodollars > error


def _repaint(cells: bytearray, old: int, new: int, most: int, start: int) -> int:
    """Gives at most `most` of the cells of one way to another, from `start` on and round. Gives how many."""
    done = 0
    at = cells.find(old, start)
    for wrapped in (False, True):
        while at >= 0 and done < most:
            cells[at] = new
            done += 1
            at = cells.find(old, at + 1)
        if not wrapped and done < most:
            at = cells.find(old)
    return done


def _mixed(number: int) -> int:
    """The finaliser of SplitMix64: numbers in sequence come out spread evenly."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ number >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ number >> 27) * 0x94D049BB133111EB) & _MASK
    return number ^ number >> 31
