"""The cartographer as the host's daemon uses it: facts in, choices and probes out.

Decides nothing itself: it keeps the map, and asks choice and probing.  Whoever calls it has verified the signatures of
descriptions and echoes, and gives any monotonic clock as `now_ns`.  Source: Bill-Pay 2.2, digital cartographer.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from billpay.header import Slot
from billpay.messages import OadDescription
from cartographer.choice import PathChoice, choose
from cartographer.map import PathMap
from cartographer.policy import PathPolicy
from cartographer.probing import next_probe

_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFact:
    """One alternative as a person sees it. `delay_ns` is the smoothed round trip, `toll` that of the whole path."""

    destination: str
    as_number: int
    alternative: int
    chosen: bool
    toll_nanodollars: int | None
    delay_ns: int | None
    age_s: int | None  # of the newest of the two
    reason: str


class Cartographer:
    """One for each host."""

    def __init__(self, policy: PathPolicy | None = None) -> None:
        self._policy = policy or PathPolicy()
        self._map = PathMap(self._policy)
        self._choices: dict[str, PathChoice] = {}  # the last one for each destination, for people

    # --- facts -------------------------------------------------------------------------------------------------------

    def on_description(self, description: OadDescription, now_unix_s: int, now_ns: int) -> bool:
        """A description whose signature was verified; whether it holds from now on."""
        return self._map.on_description(description, now_unix_s=now_unix_s, now_ns=now_ns)

    def on_oads_seen(
        self, destination: str, oads: Iterable[tuple[int, int, int]], amount_sent: int, remaining: int, now_ns: int
    ) -> None:
        """From an echo: what packets of the traffic met, one packet's amount as it left, and what was left of it.

        Only what is new since the last echo. An unpaid packet shows no toll, since nobody could take one.
        """
        if not 0 <= remaining <= amount_sent:
            return
        self._map.on_traffic(destination, oads, amount_sent - remaining if amount_sent else None, now_ns)

    def on_probe_reply(
        self,
        destination: str,
        asked_slots: Sequence[Slot],
        oads: Iterable[tuple[int, int, int]],
        toll_nanodollars: int | None,
        round_trip_ns: int | None,
        now_ns: int,
    ) -> None:
        """From an echo: what the probe that left with `asked_slots` met. The toll of an unpaid probe is None."""
        self._map.on_probe_reply(
            destination,
            asked_slots,
            oads,
            toll_nanodollars=toll_nanodollars,
            round_trip_ns=round_trip_ns,
            now_ns=now_ns,
        )

    # --- answers -----------------------------------------------------------------------------------------------------

    def choose(self, destination: str, now_ns: int) -> PathChoice:
        """What the packets for a destination should say from now on. Asking is what keeps a destination active."""
        self._map.touch(destination, now_ns)
        return self._adopt(destination, self._choice(destination, now_ns), now_ns)

    def ask_for_other_path(self, destination: str, now_ns: int) -> bool:
        """A transfer is too slow as it is: moves it, unless it was moved just now; False if it stays where it is."""
        choice = self._choice(destination, now_ns, other_path=True)
        if choice.left is None:
            return False
        self._map.avoid(destination, *choice.left, now_ns + self._policy.avoid_ns)
        self._adopt(destination, choice, now_ns)
        return True

    def probes_due(self, destination: str, now_ns: int) -> list[tuple[Slot, ...]]:
        """The slots of the probes to send now: one at most. A probe that is given out counts as sent."""
        if not self._map.is_active(destination, now_ns):
            return []
        probe = next_probe(
            self._map.path(destination, now_ns), self._map.times(destination), self._policy, now_ns=now_ns
        )
        if probe is None:
            return []
        self._map.note_probe(destination, probe.as_number, probe.number, now_ns)
        return [probe.slots]

    def view(self, now_ns: int) -> tuple[PathFact, ...]:
        """Everything that is known, for people; changes nothing."""
        return tuple(fact for destination in self._map.destinations() for fact in self._view_of(destination, now_ns))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _choice(self, destination: str, now_ns: int, *, other_path: bool = False) -> PathChoice:
        return choose(
            self._map.path(destination, now_ns),
            self._policy,
            now_ns=now_ns,
            switched_ns=self._map.times(destination).switched_ns,
            other_path=other_path,
        )

    def _adopt(self, destination: str, choice: PathChoice, now_ns: int) -> PathChoice:
        self._map.set_wishes(destination, choice.wishes(), now_ns)
        self._choices[destination] = choice
        if len(self._choices) > self._policy.max_destinations:
            self._choices = {name: self._choices[name] for name in self._map.destinations() if name in self._choices}
        return choice

    def _view_of(self, destination: str, now_ns: int) -> list[PathFact]:
        choice = self._choices.get(destination) or self._choice(destination, now_ns)
        reasons = {(as_number, number): why for as_number, number, why in choice.rejected}
        found = []
        for isp in self._map.path(destination, now_ns):
            for number in isp.available:
                facts = isp.alternatives[number]
                measured_ns = facts.measured_ns()
                chosen = number == isp.current
                found.append(
                    PathFact(
                        destination=destination,
                        as_number=isp.as_number,
                        alternative=number,
                        chosen=chosen,
                        toll_nanodollars=facts.toll_nanodollars.value if facts.toll_nanodollars else None,
                        delay_ns=facts.round_trip_ns.value if facts.round_trip_ns else None,
                        age_s=None if measured_ns is None else (now_ns - measured_ns) // _S,
                        reason=choice.reason if chosen else reasons.get((isp.as_number, number), ""),
                    )
                )
        return found
