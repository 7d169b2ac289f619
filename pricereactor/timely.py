"""What each packet of a task carries that cannot wait: enough for the congestion that is usual, known in advance.

Decides the amount, the path or the two disjoint paths, and which paid probes to send. Refuses to know: how a path is
chosen out of many (cartographer), who allowed the money (secretary), clocks and sockets (the caller has them). Pure.

- In advance: each path is probed with money, so that its tolls and its loss are known before they matter. A probe
  carries the whole willingness: a toll takes no more than it is, and what a packet carries is all that it can show of
  one. It is one each `probe_every_ns` for each path, more often at first, and no more than the probes' own budget
  allows, of which the statement says how much was carried (`probes_nanodollars`).
- Enough: the q-quantile of the tolls that were seen (and the last one, if that was more), times a margin. With fewer
  tolls than `enough_tolls`, or while the path loses more than the task bears, what is usual is not known, and the
  packet carries what it is worth.
- Twice: where the best path loses more than the task bears, and two disjoint ones together lose no more than that, each
  packet goes over both. Losses of disjoint paths are taken as independent: 5 % and 5 % make 0.25 %.
- Never more than the willingness for a packet, all its copies together.

There are two ways to use it. Whoever can send each packet over a path of his choice, and twice, asks for a `plan`.
Whoever's path somebody else chooses (a host: its cartographer writes the user-OADs) says which it is (`follow`), and
what it and the others took (`on_packets`), asks for probes' money (`take_probe`), and gets one amount
(`on_observation`). The agent is of the second kind and sends no copies: all ways of a host begin with the same gateway,
so no two of them are disjoint.

Stable: the amount follows what is seen and never moves it (a toll does not depend on what is paid beyond it), so there
is no loop to swing. What could swing is the choice of path, so another path has to be better by a fifth to be taken.
Source: Bill-Pay 3.1, the strategy for time-sensitive traffic; "nanopayments for the probing traffic also".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from billpay.errors import LocalProtocolError
from pricereactor.payments import Decision, Observation, require_amount

_S = 1_000_000_000
_PPM = 1_000_000
_REMEMBERED = 256  # tolls and outcomes of one path
_PATHS_AT_MOST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelyPolicy:
    """What the task bears, and what it may cost."""

    willingness_nanodollars: int  # the most for one packet, with all its copies
    loss_limit_ppm: int = 10_000
    quantile_ppm: int = 990_000  # what is dearer is lost: no more than the task bears
    margin_ppm: int = 1_100_000
    enough_tolls: int = 20
    probe_every_ns: int = 10 * _S
    probes_at_first: int = 20  # of each path, a tenth of `probe_every_ns` apart: known in advance
    probe_budget_nanodollars: int = 0
    better_ppm: int = 200_000

    def __post_init__(self) -> None:
        require_amount("willingness to pay", self.willingness_nanodollars)
        parts = (self.loss_limit_ppm, self.quantile_ppm, self.better_ppm)
        sizes = (self.enough_tolls, self.probe_every_ns)
        if not all(0 <= part <= _PPM for part in parts) or min(sizes) < 1 or self.margin_ppm < _PPM:
            raise LocalProtocolError(f"{self} is no policy for what cannot wait")
        if self.probe_budget_nanodollars < 0 or self.probes_at_first < 0:
            raise LocalProtocolError("a budget or a number of probes is below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One way to the other side. `networks`: whose it crosses; two paths without a common one are disjoint."""

    name: str
    networks: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """A copy of each packet, or one probe: over which path, with how much."""

    path: str
    amount_nanodollars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelyDecision:
    """`legs`: one, or two for duplicates; none where there is no path. `probes`: to be sent now, already paid."""

    legs: tuple[Leg, ...]
    probes: tuple[Leg, ...]
    reason: str

    @property
    def amount_nanodollars(self) -> int:
        """Of one packet, all copies together."""
        return sum(leg.amount_nanodollars for leg in self.legs)


class _Seen:
    """Of one path."""

    def __init__(self) -> None:
        self.tolls: deque[int] = deque(maxlen=_REMEMBERED)
        self.outcomes: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)  # sent, lost
        self.probes = 0
        self.next_probe_ns = 0

    def loss_ppm(self) -> int | None:
        """Of what was sent, with one lost and one delivered besides: nothing is ever sure. None: nothing was sent."""
        sent = sum(sent for sent, _ in self.outcomes)
        lost = sum(lost for _, lost in self.outcomes)
        return (2 * lost + 1) * _PPM // (2 * sent + 2) if sent else None

    def loses_now(self, limit_ppm: int) -> bool:
        """By the last that was heard of it."""
        return bool(self.outcomes) and self.outcomes[-1][1] * _PPM > self.outcomes[-1][0] * limit_ppm


class TimelyPayment:
    """Also a `payments.Reactor` for a task that has one path only, or whose path somebody else chooses."""

    def __init__(self, policy: TimelyPolicy) -> None:
        self._policy = policy
        self._seen: dict[str, _Seen] = {}
        self._best: str | None = None
        self._path = ""  # that of the packets, where somebody else chooses it
        self.probes_nanodollars = 0  # spent on probes

    def on_packets(self, path: str, *, sent: int, lost: int, tolls_nanodollars: Sequence[int] = ()) -> None:
        """What became of packets or probes of ours, and which tolls the path kept of those that say so."""
        if not 0 <= lost <= sent or any(toll < 0 for toll in tolls_nanodollars):
            raise LocalProtocolError(f"{lost} of {sent} packets lost, or a toll below 0")
        seen = self._seen_of(path)
        if sent:
            seen.outcomes.append((sent, lost))
        seen.tolls.extend(tolls_nanodollars)

    def plan(self, now_ns: int, paths: Sequence[Path]) -> TimelyDecision:
        """What holds from `now_ns` on, over these paths; those that are gone are forgotten."""
        paths = paths[:_PATHS_AT_MOST]
        self._seen = {path.name: self._seen_of(path.name) for path in paths}
        probes = tuple(leg for path in paths if (leg := self._probe(now_ns, path.name)) is not None)
        if not paths:
            return TimelyDecision(legs=(), probes=(), reason="there is no path")
        best = self._best_of(paths)
        loss = self._loss(best)
        if loss is None or loss <= self._policy.loss_limit_ppm:
            return self._single(best, probes, "its loss is not known" if loss is None else f"loses {_percent(loss)}")
        pair = self._pair(paths)
        if pair is None:
            return self._single(
                best, probes, f"loses {_percent(loss)}, and no two disjoint paths lose less than allowed"
            )
        first, second = pair
        legs = self._legs_of(first, second)
        if legs is None:
            return self._single(
                best, probes, f"loses {_percent(loss)}, but two copies cost more than a packet is worth"
            )
        both = self._product(first, second)
        reason = f"over {first} and {second}: alone {best} loses {_percent(loss)}, both lose {_percent(both)}"
        return TimelyDecision(legs=legs, probes=probes, reason=reason)

    def on_observation(self, observation: Observation) -> Decision:
        """The amount for a flow whose path somebody else chooses; asks for another where its tolls are above it.

        The observation's toll counts only as long as nobody says which path it is of.
        """
        path = self._path
        if observation.toll_nanodollars is not None and not path:
            self.on_packets(path, sent=0, lost=0, tolls_nanodollars=(observation.toll_nanodollars,))
        amount = self._amount(path)
        toll, most = observation.toll_nanodollars, self._policy.willingness_nanodollars
        too_dear = toll is not None and toll >= most > 0
        probes = f"; probes {self.probes_nanodollars} of {self._policy.probe_budget_nanodollars} n$"
        reason = f"pays {amount} of at most {most} n$: {self._why(path)}{probes}"
        return Decision(amount_nanodollars=amount, try_other_path=too_dear, reason=reason)

    def follow(self, path: str) -> None:
        """The packets take this path from now on; what is known of it and of the others stays."""
        self._path = path
        self._seen_of(path)
        self._forget_some()

    def adopt(self, earlier: TimelyPayment) -> None:
        """What an earlier task learned of the same ways: known in advance."""
        for path, seen in earlier._seen.items():
            mine = self._seen_of(path)
            mine.tolls.extendleft(reversed(seen.tolls))
            mine.outcomes.extendleft(reversed(seen.outcomes))
        self._path = self._path or earlier._path
        self._forget_some()

    @property
    def has_probes(self) -> bool:
        """Whether it was given anything for probes."""
        return self._policy.probe_budget_nanodollars > 0

    @property
    def may_probe(self) -> bool:
        """Whether another probe can be paid."""
        amount, most = self._policy.willingness_nanodollars, self._policy.probe_budget_nanodollars
        return 0 < amount <= most - self.probes_nanodollars

    def take_probe(self) -> int | None:
        """What a probe carries that is sent now, out of the probes' budget; None: there is not so much left."""
        if not self.may_probe:
            return None
        self.probes_nanodollars += self._policy.willingness_nanodollars
        return self._policy.willingness_nanodollars

    def _forget_some(self) -> None:
        for path in list(self._seen):
            if len(self._seen) <= _PATHS_AT_MOST:
                break
            if path != self._path:
                del self._seen[path]

    def _seen_of(self, path: str) -> _Seen:
        return self._seen.setdefault(path, _Seen())

    def _amount(self, path: str) -> int:
        policy, tolls = self._policy, self._seen_of(path).tolls
        if not self._knows(path) or self._seen_of(path).loses_now(policy.loss_limit_ppm):
            return policy.willingness_nanodollars
        usual = max(quantile(tolls, policy.quantile_ppm), tolls[-1])
        return min(policy.willingness_nanodollars, -(-usual * policy.margin_ppm // _PPM))

    def _knows(self, path: str) -> bool:
        return len(self._seen_of(path).tolls) >= self._policy.enough_tolls

    def _why(self, path: str) -> str:
        tolls = self._seen_of(path).tolls
        if not self._knows(path):
            return f"{len(tolls)} tolls are too few to know what is usual"
        if self._seen_of(path).loses_now(self._policy.loss_limit_ppm):
            return "it has just lost too much"
        part = self._policy.quantile_ppm // 10_000
        return f"{part} % of the last {len(tolls)} tolls were {quantile(tolls, self._policy.quantile_ppm)} n$ or less"

    def _loss(self, path: str) -> int | None:
        return self._seen_of(path).loss_ppm()

    def _best_of(self, paths: Sequence[Path]) -> str:
        """Least loss, then least amount; the one before stays unless another is clearly better."""
        known: Mapping[str, int] = {path.name: loss for path in paths if (loss := self._loss(path.name)) is not None}
        if not known:
            self._best = self._best if self._best in {path.name for path in paths} else paths[0].name
            return self._best or paths[0].name
        best = min(known, key=lambda name: (known[name], self._amount(name)))
        before = self._best
        if (
            before is not None
            and before in known
            and known[best] * _PPM >= known[before] * (_PPM - self._policy.better_ppm)
        ):
            best = before
        self._best = best
        return best

    def _product(self, first: str, second: str) -> int:
        return (self._loss(first) or 0) * (self._loss(second) or 0) // _PPM

    def _pair(self, paths: Sequence[Path]) -> tuple[str, str] | None:
        """Disjoint, known, and together within the limit: of these the one that loses least."""
        pairs = [
            (first.name, second.name)
            for first, second in combinations(paths, 2)
            if not first.networks & second.networks and self._loss(first.name) and self._loss(second.name)
        ]
        within = [pair for pair in pairs if self._product(*pair) <= self._policy.loss_limit_ppm]
        return min(within, key=lambda pair: self._product(*pair), default=None)

    def _legs_of(self, first: str, second: str) -> tuple[Leg, ...] | None:
        """None: together they would be above the willingness."""
        most = self._policy.willingness_nanodollars
        # A path that would get everything alone, since it is not known what is enough, gets half.
        amounts = [amount if (amount := self._amount(path)) < most else most // 2 for path in (first, second)]
        if sum(amounts) > most:
            return None
        return tuple(
            Leg(path=path, amount_nanodollars=amount) for path, amount in zip((first, second), amounts, strict=True)
        )

    def _single(self, path: str, probes: tuple[Leg, ...], why: str) -> TimelyDecision:
        leg = Leg(path=path, amount_nanodollars=self._amount(path))
        return TimelyDecision(legs=(leg,), probes=probes, reason=f"over {path}, {self._why(path)}: {why}")

    def _probe(self, now_ns: int, path: str) -> Leg | None:
        """One that is due and can be paid; its money is taken at once, whatever becomes of it."""
        seen, policy = self._seen_of(path), self._policy
        if now_ns < seen.next_probe_ns or (amount := self.take_probe()) is None:
            return None
        seen.probes += 1
        soon = seen.probes < policy.probes_at_first
        seen.next_probe_ns = now_ns + (policy.probe_every_ns // 10 if soon else policy.probe_every_ns)
        return Leg(path=path, amount_nanodollars=amount)


def quantile(values: Sequence[int], ppm: int) -> int:
    """The least value that this part of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * ppm // _PPM) - 1)]


def _percent(ppm: int) -> str:
    return f"{ppm / 10_000:.3g} %"
