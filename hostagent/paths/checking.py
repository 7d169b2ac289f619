"""Which ways are checked for what they do to marks, and what follows for who listens to marks.

Decides: which destination is looked at next (those whose flows follow marks; one at a time, seldom), for how long a
verdict holds, and that an unknown way is trusted until something speaks against it: its own traffic shows bleaching too
(`hostagent.reacting.evidence`). Refuses to know how a check is made (`cartographer.measuring`). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cartographer.measuring.ecn import EcnVerdict
from cartographer.measuring.report import Ecn, ProbeReport
from hostagent import api

NS_PER_S: Final = 1_000_000_000
HOLDS_NS: Final = 3600 * NS_PER_S
AGAIN_NS: Final = 300 * NS_PER_S
"""One that said nothing, or that could not be made."""
GAP_NS: Final = 10 * NS_PER_S
DESTINATIONS_MAX: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    ecn: Ecn
    mtu: int | None
    at_ns: int


class Checks:
    """Of the network that the host is on; `forget` when it is on another one."""

    def __init__(self) -> None:
        self._checked: dict[str, Checked] = {}
        self._under_way = ""
        self._last_ns: int | None = None
        self._since_ns: int | None = None  # the host is on this network

    def next(self, destinations: Iterable[str], now_ns: int) -> str | None:
        """What is to be checked now; it counts as begun."""
        if self._under_way or (self._last_ns is not None and now_ns - self._last_ns < GAP_NS):
            return None
        for destination in destinations:
            known = self._checked.get(destination)
            if known is None or now_ns - known.at_ns >= (
                AGAIN_NS if known.ecn.verdict is EcnVerdict.UNKNOWN else HOLDS_NS
            ):
                self._under_way, self._last_ns = destination, now_ns
                return destination
        return None

    def on_report(self, destination: str, report: ProbeReport, now_ns: int) -> None:
        """A person's probe says it as well as ours; one that was begun on another network says nothing."""
        began_ns = now_ns - round(report.seconds * NS_PER_S)
        if report.ecn is None or (self._since_ns is not None and began_ns < self._since_ns):
            return
        mtu = report.mtu.bytes if report.mtu is not None else None
        self._put(destination, Checked(ecn=report.ecn, mtu=mtu, at_ns=now_ns))

    def on_failed(self, destination: str, why: str, now_ns: int) -> None:
        self._put(destination, Checked(ecn=Ecn(words=why), mtu=None, at_ns=now_ns))

    def on_ended(self) -> None:
        self._under_way = ""

    def _put(self, destination: str, checked: Checked) -> None:
        self._checked.pop(destination, None)
        self._checked[destination] = checked
        if len(self._checked) > DESTINATIONS_MAX:
            del self._checked[next(iter(self._checked))]

    def survive(self, destination: str) -> bool:
        """Whether marks get there, by all that is known."""
        known = self._checked.get(destination)
        return known is None or known.ecn.marks_survive

    def forget(self, now_ns: int) -> None:
        """Another network has other ways."""
        self._checked.clear()
        self._last_ns, self._since_ns = None, now_ns

    def forget_destination(self, destination: str) -> None:
        self._checked.pop(destination, None)

    def view(self, now_ns: int) -> tuple[api.PathCheck, ...]:
        return tuple(
            api.PathCheck(
                destination=destination,
                ecn=each.ecn.verdict.value,
                reason=each.ecn.words,
                age_s=(now_ns - each.at_ns) // NS_PER_S,
                mtu=each.mtu,
            )
            for destination, each in self._checked.items()
        )
