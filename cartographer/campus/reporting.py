"""The host's side of the campus service: what it reports and when, and what it makes of the answers.

Decides: which lines are news, when to call, and what a way is believed to be before the host was there itself.
Refuses to know: sockets and clocks (`cartographer.campus.client` drives it), how an estimate is pooled, and what is
chosen. Source: BP-32. Pure: `now_ns` is of any one monotonic clock, `draw` gives numbers from 0 to 1.

The agent never waits for the service. What was not acknowledged is said again, with a later sequence where the service
knows a later one (a host that was set up anew begins at 1). Priors fade by themselves: one that is not heard again for
`PRIOR_NS` is no prior any more.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from cartographer.campus.messages import (
    DESCRIPTIONS_MAX,
    FINDINGS_MAX,
    LINES_MAX,
    MOST,
    PERIODS_MAX,
    PREFIXES_MAX,
    FoundOut,
    FoundOutByHosts,
    Prior,
    Priors,
    PriorsRequest,
    Receipt,
    Report,
    Summary,
    Vouched,
    digest_of,
)
from cartographer.campus.pooling import Sums, merged
from cartographer.campus.privacy import PERIOD_S, prefix_of
from cartographer.values import Estimate, Quantity, Way, WayQuality

NS_PER_S: Final = 1_000_000_000
PERIOD_NS: Final = PERIOD_S * NS_PER_S
EVERY_NS: Final = PERIOD_NS
JITTER: Final = 0.2
"""Of each wait, drawn, so that a campus does not call at once when the power comes back."""
FIRST_RETRY_NS: Final = 30 * NS_PER_S
LAST_RETRY_NS: Final = 3_600 * NS_PER_S
OLDEST_NS: Final = 6 * 3_600 * NS_PER_S
"""What was measured longer ago is not told any more."""
PRIOR_NS: Final = 2 * 3_600 * NS_PER_S
KEPT_PREFIXES: Final = 2_000
PACKETS_LEAST: Final = 50
"""Of a rate of losses or marks: with fewer, what was assumed at first still shows."""
RATES: Final = (Quantity.LOSS_PPM, Quantity.MARKS_PPM)
MOVED_ERRORS: Final = 1.0
GROWN: Final = 1.25
FAR_ERRORS: Final = 3.0
HINT_SAMPLES: Final = 2.0
"""Up to here it is the word of one or two hosts."""

Key = tuple[str, Way, Quantity]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """What is said in a line, with the very time of its newest sample."""

    sums: Sums
    measured_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    prior: Prior
    heard_ns: int


class Reporter:
    """`place`: the part of the campus where this host is, as the organisation calls it. One for each network."""

    def __init__(self, draw: Callable[[], float], *, place: str = "", every_ns: int = EVERY_NS) -> None:
        self._draw = draw
        self._place = place
        self._every_ns = every_ns
        self._next_ns: int | None = None
        self._retry_ns = 0
        self._sequence = 1
        self._said: dict[Key, _Line] = {}
        self._saying: dict[Key, _Line] = {}  # in the report that is under way
        self._findings: frozenset[FoundOut] = frozenset()
        self._vouched: set[bytes] = set()  # signatures of descriptions that were taken
        self._asked: dict[str, int] = {}  # prefixes by when they were last wanted, longest ago first
        self._heard: dict[str, dict[tuple[Way, Quantity], _Heard]] = {}
        self.findings: tuple[FoundOutByHosts, ...] = ()
        """What other hosts say of ISPs."""

    # --- when -------------------------------------------------------------------------------------------------------

    def wait_ns(self, now_ns: int) -> int:
        """Until the next call; 0: now."""
        return 0 if self._next_ns is None else max(0, self._next_ns - now_ns)

    def on_success(self, now_ns: int) -> None:
        self._retry_ns = 0
        self._next_ns = now_ns + self._spread(self._every_ns)

    def on_failure(self, now_ns: int) -> None:
        """Later and later; what was to be said is still to be said."""
        self._saying.clear()
        self._retry_ns = min(LAST_RETRY_NS, max(FIRST_RETRY_NS, 2 * self._retry_ns))
        self._next_ns = now_ns + self._spread(self._retry_ns)

    def on_network(self) -> None:
        """The host is on another network: what was out of reach may be there."""
        self._retry_ns = 0
        self._next_ns = None

    def _spread(self, wait_ns: int) -> int:
        return round(wait_ns * (1 - JITTER + 2 * JITTER * self._draw()))

    # --- what is reported -------------------------------------------------------------------------------------------

    def report(
        self,
        quality: Iterable[WayQuality],
        *,
        findings: Iterable[FoundOut] = (),
        descriptions: Iterable[Vouched] = (),
        now_ns: int,
    ) -> Report | None:
        """What is news, as much as one report holds, the freshest first. `quality`: of the host's own samples only.

        None: nothing is news.
        """
        fresh = {key: line for key, line in _lines_of(quality, now_ns).items() if self._is_news(key, line)}
        chosen = sorted(fresh, key=lambda key: (-fresh[key].measured_ns, key[0], key[1], key[2].value))[:LINES_MAX]
        held = sorted(set(findings), key=_order_of_finding)[:FINDINGS_MAX]
        new = [one for one in descriptions if one.signed.signature not in self._vouched][:DESCRIPTIONS_MAX]
        if not chosen and not new and frozenset(held) == self._findings:
            return None
        self._saying = {key: fresh[key] for key in chosen}
        return Report(
            sequence=self._sequence,
            place=self._place,
            lines=tuple(_summary(key, fresh[key], now_ns) for key in sorted(chosen, key=_order)),
            findings=tuple(held),
            descriptions=tuple(new),
        )

    def on_receipt(self, report: Report, receipt: Receipt) -> bool:
        """Whether the report was taken. If not, `report(...)` again gives one that will be."""
        self._sequence = max(self._sequence, receipt.sequence) + 1
        if receipt.sequence != report.sequence or receipt.digest != digest_of(report):
            self._saying.clear()
            return False
        self._said.update(self._saying)
        self._saying.clear()
        while len(self._said) > 4 * LINES_MAX:
            del self._said[next(iter(self._said))]
        self._findings = frozenset(report.findings)
        if len(self._vouched) > 4096:
            self._vouched.clear()
        self._vouched.update(one.signed.signature for one in report.descriptions)
        return True

    def _is_news(self, key: Key, line: _Line) -> bool:
        said = self._said.get(key)
        if said is None or line.measured_ns - said.measured_ns >= PERIOD_NS:
            return True
        if line.measured_ns <= said.measured_ns:
            return False
        error = said.sums.spread / math.sqrt(said.sums.count)
        moved = abs(line.sums.mean - said.sums.mean) > MOVED_ERRORS * error
        return moved or line.sums.count >= GROWN * said.sums.count

    # --- what is heard ----------------------------------------------------------------------------------------------

    def question(self, now_ns: int) -> PriorsRequest | None:
        """About the prefixes that were wanted last; None: none was."""
        wanted = [prefix for prefix, at_ns in self._asked.items() if now_ns - at_ns < PRIOR_NS]
        if not wanted:
            return None
        return PriorsRequest(place=self._place, prefixes=tuple(sorted(wanted[-PREFIXES_MAX:])))

    def learn(self, question: PriorsRequest, answer: Priors, now_ns: int) -> None:
        """What is not asked for is not taken."""
        heard: dict[str, dict[tuple[Way, Quantity], _Heard]] = defaultdict(dict)
        for prior in answer.estimates:
            if prior.value <= MOST[prior.quantity]:
                heard[prior.prefix][prior.way, prior.quantity] = _Heard(prior=prior, heard_ns=now_ns)
        for prefix in question.prefixes:
            self._heard.pop(prefix, None)
            if prefix in heard and prefix in self._asked:
                self._heard[prefix] = heard[prefix]
        self.findings = answer.findings

    def priors(self, destination: str, now_ns: int) -> dict[Way, dict[Quantity, Estimate]]:
        """What other hosts know of the ways there, for `WayStatistics.on_prior`. Who asks here makes us ask there."""
        prefix = prefix_of(destination)
        if prefix is None:
            return {}
        self._want(prefix, now_ns)
        found: dict[Way, dict[Quantity, Estimate]] = {}
        for (way, quantity), heard in self._heard.get(prefix, {}).items():
            if now_ns - heard.heard_ns < PRIOR_NS:
                found.setdefault(way, {})[quantity] = _estimate(heard, now_ns)
        return found

    def looked_at_ns(self, destination: str, way: Way, now_ns: int) -> int | None:
        """When others were last there, for `Belief.measured_ns`: who knows need not look himself. None: unknown."""
        found = [
            heard.heard_ns - heard.prior.age_periods * PERIOD_NS
            for (its_way, _), heard in self._heard.get(prefix_of(destination) or "", {}).items()
            if its_way == way and now_ns - heard.heard_ns < PRIOR_NS and heard.prior.hosts > HINT_SAMPLES
        ]
        return max(found, default=None)

    def better(
        self, destination: str, way: Way, quantity: Quantity, own: Estimate | None, now_ns: int
    ) -> Estimate | None:
        """What to believe instead of `own`, the host's own samples alone; None: those are as good.

        Others' word together with its own while that is worth less; others' word alone when they were there later and
        found it otherwise. A host whose own fresh samples say otherwise is a case of its own, and keeps to them.
        """
        heard = self._heard.get(prefix_of(destination) or "", {}).get((way, quantity))
        if heard is None or now_ns - heard.heard_ns >= PRIOR_NS:
            return None
        prior = _estimate(heard, now_ns)
        if own is None or own.measured_ns is None or own.samples <= 0:
            return prior
        differs = abs(prior.value - own.value) > FAR_ERRORS * math.hypot(prior.uncertainty, own.uncertainty)
        if differs:
            theirs_ns = heard.heard_ns - (heard.prior.age_periods + 1) * PERIOD_NS  # periods are rounded
            return prior if own.measured_ns < theirs_ns and prior.samples >= HINT_SAMPLES else None
        return _together(prior, own) if prior.samples > own.samples else None

    def _want(self, prefix: str, now_ns: int) -> None:
        self._asked.pop(prefix, None)
        self._asked[prefix] = now_ns
        while len(self._asked) > KEPT_PREFIXES:
            gone = next(iter(self._asked))
            del self._asked[gone]
            self._heard.pop(gone, None)


def _lines_of(quality: Iterable[WayQuality], now_ns: int) -> dict[Key, _Line]:
    """By prefix. What nobody measured (a prior, a promise) or what is old is not there."""
    parts: dict[Key, list[tuple[Sums, int]]] = defaultdict(list)
    for one in quality:
        prefix = prefix_of(one.destination)
        if prefix is None:
            continue
        for quantity, estimate in one.estimates.items():
            at_ns = estimate.measured_ns
            least = PACKETS_LEAST if quantity in RATES else 0.5
            if at_ns is None or now_ns - at_ns > OLDEST_NS or estimate.samples < least:
                continue
            sums = Sums(count=estimate.samples, mean=max(0, estimate.value), spread=estimate.spread)
            parts[prefix, one.way, quantity].append((sums, at_ns))
    found: dict[Key, _Line] = {}
    for key, measured in parts.items():
        whole = merged(part for part, _ in measured)
        if whole is not None and whole.mean <= MOST[key[2]]:
            found[key] = _Line(sums=whole, measured_ns=max(at_ns for _, at_ns in measured))
    return found


def _summary(key: Key, line: _Line, now_ns: int) -> Summary:
    prefix, way, quantity = key
    age_periods = -(-max(0, now_ns - line.measured_ns) // PERIOD_NS)
    return Summary(
        prefix=prefix,
        way=way,
        quantity=quantity,
        count=min(1_000_000, max(1, round(line.sums.count))),
        mean=round(line.sums.mean),
        spread=min(MOST[quantity], round(line.sums.spread)),
        age_periods=min(PERIODS_MAX, age_periods),
    )


def _estimate(heard: _Heard, now_ns: int) -> Estimate:
    """Less is worth less: it fades until it is heard again."""
    prior = heard.prior
    left = 1 - max(0, now_ns - heard.heard_ns) / PRIOR_NS
    estimate = Estimate(
        value=prior.value,
        uncertainty=prior.uncertainty,
        spread=prior.spread,
        samples=prior.samples_milli / 1000,
        measured_ns=None,
    )
    return replace(estimate, samples=estimate.samples * left, uncertainty=round(estimate.uncertainty / math.sqrt(left)))


def _together(prior: Estimate, own: Estimate) -> Estimate:
    """Weighted by what each is worth in samples of this host."""
    samples = prior.samples + own.samples
    share = own.samples / samples
    return Estimate(
        value=round(prior.value + share * (own.value - prior.value)),
        uncertainty=round(math.hypot((1 - share) * prior.uncertainty, share * own.uncertainty)),
        spread=max(prior.spread, own.spread),
        samples=samples,
        measured_ns=None,
    )


def _order(key: Key) -> tuple[str, Way, str]:
    return key[0], key[1], key[2].value


def _order_of_finding(one: FoundOut) -> tuple[int, int, str]:
    return one.as_number, one.alternative, one.kind
