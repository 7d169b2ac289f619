"""Part 1 on real packets: programs that know nothing of prices share a link as their transfers are worth.

Decides: which programs meet which; "as they are worth" is within 10 % in the mean over the runs. Refuses to know: how
the network is made (`lab.dph.sharing`). One priced link, whose gateway marks by a virtual queue and knows no weights;
agents pace their programs: reno, cubic and bbr by iperf3 and a UDP flood, over IPv4 and IPv6, round trips of 10 and
80 ms; once more with the receiver paying and saying the rates. The last case is the same link with agents that do not
react: then transports decide, or who sends the most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lab.dph.effort import Effort
from lab.dph.sharing import SharedFlow, Sharing, share_link
from lab.dph.statistics import mean_of
from lab.dph.values import Expectation, Mean, PartResult, Value, expect
from lab.namespaces import gain_privilege

WITHIN: Final = 0.10
UNIT: Final = 60_000
"""Willingness of 1, in nanodollars per second."""
MARKS_PER_S: Final = 240
"""That all flows of a case are willing to bear: marks are to be three packets in ten, however many flows there are."""
SETTLE_S: Final = 7.0
MIXED: Final = "mixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    flows: tuple[SharedFlow, ...]
    reacts: bool = True
    senders_pay: bool = True

    @property
    def is_mixed(self) -> bool:
        return self.name.startswith(MIXED)


class RealFlow(Value, frozen=True, kw_only=True):
    """per_willingness: rate over willingness, in units of its mean over the flows of the case: 1 is its worth."""

    name: str
    program: str
    family: int
    round_trip_ms: int
    willingness: float
    rate_bit_s: Mean
    per_willingness: Mean


class RealCase(Value, frozen=True, kw_only=True):
    """worst: how far the mean of a flow is from its worth. series_bit_s: of the first run, four in a second."""

    name: str
    reacts: bool
    senders_pay: bool
    flows: tuple[RealFlow, ...]
    utilisation: Mean
    queue_mean_ms: Mean
    dropped_packets: Mean
    worst: float
    series_bit_s: tuple[tuple[int, ...], ...]


class RealShares(PartResult, frozen=True, kw_only=True):
    cases: tuple[RealCase, ...]
    seconds: float


def require_network() -> None:
    """Raises EnvironmentFault; without root it may start this program again in a user namespace."""
    gain_privilege()


def run(effort: Effort) -> RealShares:
    cases = [case for case in all_cases() if not effort.is_quick or case.is_mixed]
    found = tuple(_case(case, effort) for case in cases)
    return RealShares(
        title="Shares follow the willingness to pay: real programs on real packets",
        expectations=_judged(found),
        cases=found,
        seconds=effort.real_seconds,
    )


def all_cases() -> tuple[Case, ...]:
    """Each program alone, with 1:3 at different round trips; all together; and the same without agents that react."""
    alone = [
        Case(
            name=f"{program}, IPv{family}",
            flows=(
                _flow("one", program, 1, trips[0], family),
                _flow("three", program, 3, trips[1], family),
            ),
        )
        for program, family, trips in (
            ("reno", 4, (10, 80)),
            ("cubic", 6, (80, 10)),
            ("bbr", 4, (10, 80)),
            ("udp", 6, (80, 10)),
        )
    ]
    mixed = (
        _flow("reno", "reno", 1, 10, 4),
        _flow("cubic", "cubic", 3, 80, 6),
        _flow("bbr", "bbr", 1, 80, 6),
        _flow("udp", "udp", 3, 10, 4),
    )
    return (
        *alone,
        Case(name=MIXED, flows=mixed),
        Case(name=f"{MIXED}, receiver pays", flows=mixed, senders_pay=False),
        Case(name=f"{MIXED}, not reacting", flows=mixed, reacts=False),
    )


def _flow(name: str, program: str, willingness: int, round_trip_ms: int, family: int) -> SharedFlow:
    return SharedFlow(
        name=name,
        program=program,
        willingness_nanodollars_per_s=willingness * UNIT,
        round_trip_ms=round_trip_ms,
        family=family,
    )


def _case(case: Case, effort: Effort) -> RealCase:
    """Those with one program once: what differs between programs is in the mixed ones."""
    count = effort.real_runs if case.is_mixed else 1
    effort.progress(f"  {case.name}: {count} × {effort.real_seconds:g} s")
    return measure(case, runs=count, seconds=effort.real_seconds)


def measure(case: Case, *, runs: int, seconds: float) -> RealCase:
    """Each run in a network of its own."""
    willing = sum(flow.willingness_nanodollars_per_s for flow in case.flows)
    sharing = Sharing(
        flows=case.flows,
        reacts=case.reacts,
        nanodollars_per_mark=willing // MARKS_PER_S,
        senders_pay=case.senders_pay,
    )
    each = [share_link(sharing, seconds=seconds, settle_s=SETTLE_S, progress=lambda _line: None) for _ in range(runs)]
    flows = tuple(
        RealFlow(
            name=flow.name,
            program=flow.program,
            family=flow.family,
            round_trip_ms=flow.round_trip_ms,
            willingness=flow.willingness_nanodollars_per_s / UNIT,
            rate_bit_s=mean_of(run.flows[number].rate_bit_s for run in each),
            per_willingness=mean_of(run.per_willingness()[flow.name] for run in each),
        )
        for number, flow in enumerate(case.flows)
    )
    return RealCase(
        name=case.name,
        reacts=case.reacts,
        senders_pay=case.senders_pay,
        flows=flows,
        utilisation=mean_of(run.utilisation for run in each),
        queue_mean_ms=mean_of(run.mean_queue_ms for run in each),
        dropped_packets=mean_of(run.dropped_packets for run in each),
        worst=max(abs(flow.per_willingness.mean - 1) for flow in flows),
        series_bit_s=tuple(flow.series_bit_s for flow in each[0].flows),
    )


def _judged(cases: tuple[RealCase, ...]) -> tuple[Expectation, ...]:
    reacting = [case for case in cases if case.reacts]
    plain = [case for case in cases if not case.reacts]
    return (
        expect(
            "real programs share a link as they are worth",
            expected=f"each within {WITHIN:.0%} of its worth, whatever program, family and round trip",
            measured="; ".join(f"{case.name}: worst {case.worst:.1%} off" for case in reacting),
            holds=all(case.worst <= WITHIN for case in reacting),
        ),
        expect(
            "without agents that react they do not",
            expected=f"more than {WITHIN:.0%} off",
            measured="; ".join(f"{case.name}: worst {case.worst:.1%} off" for case in plain),
            holds=all(case.worst > WITHIN for case in plain) if plain else None,
        ),
    )
