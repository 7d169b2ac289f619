"""What greed earns: an ISP that fakes congestion, or keeps payments and drops, beside others and alone.

Decides: what an ISP earns for what it does, when senders choose by the host's own chooser (`cartographer.chooser`) or
by the logit law; which tolls ISPs settle at when each answers the others' best; and who gets the fast link when links
cost their shadow price. Refuses to know: packets' ways; only tolls, delays and losses as senders measure them.

The market is the diamond A-{X,Y}-B. Both take a fixed toll that is all margin; X adds a false congestion toll. How much
a sender likes X better (in nanodollars, by the delays that it sees) is logistic with the scale 1/beta: so the share
of X is the logit law 1/(1 + exp(beta f)) if every chooser is right. A sender pays its willingness to pay at most, for
one packet (BP-21), uniform between 0 and `_MOST_NANODOLLARS`.

Sources: Bill-Pay 2.1 (competition, faked congestion, keeping and dropping); McFadden 1974 (logit); MacKie-Mason and
Varian 1995 (shadow prices); Edgeworth 1897 (tolls that cycle). Mechanisms BP-17 to BP-19, BP-21, BP-55, MV-34.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from billpay.tolls import CongestionSettings, CongestionToll
from cartographer.chooser import Chooser
from cartographer.costing import belief_of
from cartographer.statistics import WayStatistics
from cartographer.values import Belief, Quantity, Wants, Way
from lab.simulator.chance import stream

_S = 1_000_000_000
_MS = 1_000_000
_FIXED = 10.0  # n$: the toll that both take honestly
_FORWARDING = 3.0  # n$: what it costs to deliver a packet; who drops it saves that
_MOST_NANODOLLARS = 120.0  # the highest willingness to pay
_BASE_MS = 5.0  # of the way that a sender likes better; a chooser minds parts of the whole cost
_FAKES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 80.0, 110.0)
_BETAS = (0.02, 0.1, 0.4)
_DROPS = (0.0, 0.1, 0.3, 0.6, 1.0)
_LOSS_NANODOLLARS = 300
_SENDERS = 24
_ROUNDS = 160
X, Y = "AS64512:1", "AS64513:1"


class FakeOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What X earns for each packet that would be sent if all were free; `logit`: without willingness to pay."""

    ways: int
    beta: float
    fake_nanodollars: float
    share: float  # of the packets, by choosers
    earned_nanodollars: float  # by choosers
    logit_share: float
    logit_nanodollars: float


class FakeBest(msgspec.Struct, frozen=True, kw_only=True):
    """The false toll that earns most. Logit says 0 where margin times beta is 2 or more."""

    ways: int
    beta: float
    margin_beta: float
    best_nanodollars: float  # by choosers, of the tolls tried
    logit_best_nanodollars: float | None  # None: the more the better
    earned_by_best: float  # over what honesty earns
    earned_by_dearest: float


class DropOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """X keeps all payments and drops a part. Earned: tolls minus what delivering costs, of all rounds."""

    ways: int
    dropped: float
    earned_nanodollars: float
    beside_honesty: float  # 1: as much as for dropping nothing
    share_at_end: float
    losses_per_sender: float  # over X; where senders can go elsewhere: until they have


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """Tolls when each ISP in turn answers the others' best. `period`: 1 settled; more: it comes round again."""

    isps: int
    market: str
    beta: float
    tolls_nanodollars: tuple[float, ...]  # at the end, or the lowest and the highest of a cycle
    expected_nanodollars: float  # what theory says; 0: it says that there is none
    period: int
    rounds: int


class LinkOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One of the links that cost their shadow price."""

    delay_ms: float
    capacity: int
    users: float  # mean of the second half
    toll_nanodollars: float
    mean_bid: float  # n$ for a millisecond less, of its users


class CompetitionStudy(msgspec.Struct, frozen=True, kw_only=True):
    """`ordered_pairs`: of two users on different links, how often the higher bid has the faster one."""

    fixed_nanodollars: float
    senders: int
    fakes: tuple[FakeOutcome, ...]
    best: tuple[FakeBest, ...]
    drops: tuple[DropOutcome, ...]
    settled: tuple[Settled, ...]
    links: tuple[LinkOutcome, ...]
    ordered_pairs: float
    link_value_share: float  # what the delays cost all users together: the best possible, over this


def run(seed: int) -> CompetitionStudy:
    """All of it; some seconds."""
    fakes = fake_sweep(seed)
    links, ordered, value = bids(seed)
    return CompetitionStudy(
        fixed_nanodollars=_FIXED,
        senders=_SENDERS,
        fakes=fakes,
        best=best_fakes(fakes),
        drops=drop_sweep(seed),
        settled=settle_all(),
        links=links,
        ordered_pairs=ordered,
        link_value_share=value,
    )


# --- senders that choose -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sender:
    """One host with one flow: what it measures is all that it knows."""

    delays_ms: dict[Way, float]
    willing: float
    wants: Wants
    chooser: Chooser = field(default_factory=Chooser)
    ways: dict[Way, WayStatistics] = field(default_factory=dict)
    lost: dict[Way, int] = field(default_factory=dict)
    last_loss: dict[Way, int] = field(default_factory=dict)

    def beliefs(self, now_ns: int) -> list[Belief]:
        found = []
        for way in self.delays_ms:
            belief = belief_of(
                way,
                self.ways.setdefault(way, WayStatistics()),
                self.wants,
                now_ns=now_ns,
                probe_picodollars=0,
            )
            if belief is not None:
                found.append(belief)
        return found

    def can_pay(self, way: Way, now_ns: int) -> bool:
        toll = self.ways[way].estimate(Quantity.FORWARD_TOLL_PICODOLLARS, now_ns)
        return toll is None or toll.value <= self.willing * 1000

    def met(self, way: Way, toll: float, *, arrives: bool, noise_ms: float, now_ns: int) -> None:
        """What it learns of a packet; of a lost one, that it was lost."""
        statistics = self.ways[way]
        statistics.on_packets(sent=1, lost=int(not arrives), marked=0, now_ns=now_ns)
        if not arrives:
            self.lost[way] = self.lost.get(way, 0) + 1
            return
        statistics.on_sample(Quantity.DELAY_NS, (self.delays_ms[way] + noise_ms) * _MS, now_ns)
        statistics.on_sample(Quantity.FORWARD_TOLL_PICODOLLARS, toll * 1000, now_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sold:
    """Of X. `share`: of what all senders could send in the second half of the rounds."""

    share: float
    earned: float
    losses: float


def _senders(chance: random.Random, ways: Sequence[Way], beta: float, wants: Wants, *, count: int) -> list[_Sender]:
    """Their tastes and what they can pay are spread evenly over both laws, each order by chance: little noise."""
    quantiles = [(number + 0.5) / count for number in range(count)]
    willing = [quantile * _MOST_NANODOLLARS for quantile in quantiles]
    chance.shuffle(willing)
    found = []
    for quantile, most in zip(quantiles, willing, strict=True):
        taste = math.log(quantile / (1 - quantile)) / beta
        delays = {X: _BASE_MS + max(0.0, -taste), Y: _BASE_MS + max(0.0, taste)}
        order = ways if chance.random() < 0.5 else ways[::-1]
        found.append(_Sender(delays_ms={way: delays[way] for way in order}, willing=most, wants=wants))
    return found


def _sell(
    senders: list[_Sender], tolls: dict[Way, float], dropped: dict[Way, float], chance: random.Random, rounds: int
) -> _Sold:
    """Everybody sends a packet in each round if it can pay for the way that its chooser says."""
    earned, carried, possible = 0.0, 0, 0
    for number in range(rounds):
        now_ns = (number + 1) * _S // 10
        for sender in senders:
            deliberation = sender.chooser.deliberate(sender.beliefs(now_ns), now_ns=now_ns)
            is_counted = 2 * number >= rounds
            possible += is_counted
            for way in (deliberation.way, *deliberation.probes):
                if not sender.can_pay(way, now_ns):
                    continue
                if tolls[way] > sender.willing:  # pays all it is willing to, and is dropped for it: learns the toll
                    sender.ways[way].on_sample(Quantity.FORWARD_TOLL_PICODOLLARS, tolls[way] * 1000, now_ns)
                    continue
                arrives = chance.random() >= dropped.get(way, 0.0)
                if way == X:
                    earned += tolls[X] - (_FORWARDING if arrives else 0.0)
                    carried += is_counted and way == deliberation.way
                sender.met(way, tolls[way], arrives=arrives, noise_ms=abs(chance.gauss(0, 0.5)), now_ns=now_ns)
    losses = sum(sender.lost.get(X, 0) for sender in senders) / len(senders)
    return _Sold(share=carried / possible, earned=earned, losses=losses)


# --- faked congestion --------------------------------------------------------------------------------------------


def fake_sweep(
    seed: int,
    *,
    fakes: Sequence[float] = _FAKES,
    betas: Sequence[float] = _BETAS,
    senders: int = _SENDERS,
    rounds: int = _ROUNDS,
) -> tuple[FakeOutcome, ...]:
    """X alone (no beta then), and beside an honest Y."""
    cases: list[tuple[tuple[Way, ...], float]] = [((X,), 0.0), *(((X, Y), beta) for beta in betas)]
    return tuple(_fake(seed, ways, beta, fake, senders, rounds) for ways, beta in cases for fake in fakes)


def _fake(seed: int, ways: tuple[Way, ...], beta: float, fake: float, senders: int, rounds: int) -> FakeOutcome:
    chance = stream(seed, "fake", f"{len(ways)} {beta} {fake}")
    people = _senders(stream(seed, "senders"), ways, beta or 1.0, Wants(), count=senders)
    sold = _sell(people, {X: _FIXED + fake, Y: _FIXED}, {}, chance, rounds)
    logit = logit_share(beta, fake) if len(ways) > 1 else 1.0
    return FakeOutcome(
        ways=len(ways),
        beta=beta,
        fake_nanodollars=fake,
        share=sold.share,
        earned_nanodollars=sold.share * (_FIXED + fake),
        logit_share=logit,
        logit_nanodollars=logit * (_FIXED + fake),
    )


def logit_share(beta: float, fake: float) -> float:
    return 1.0 / (1.0 + math.exp(min(beta * fake, 700.0)))


def logit_best(beta: float, margin: float) -> float:
    """The false toll that earns most by the logit law, no willingness to pay: 1/(f + m) = beta (1 − share), or 0."""
    if margin * beta >= 2.0:
        return 0.0
    low, high = 0.0, 100.0 / beta
    for _ in range(200):
        middle = (low + high) / 2
        if 1.0 / (middle + margin) > beta * (1.0 - logit_share(beta, middle)):
            low = middle
        else:
            high = middle
    return low


def best_fakes(outcomes: Sequence[FakeOutcome]) -> tuple[FakeBest, ...]:
    """Of each market in the sweep."""
    found = []
    for ways, beta in dict.fromkeys((each.ways, each.beta) for each in outcomes):
        curve = {
            each.fake_nanodollars: each.earned_nanodollars
            for each in outcomes
            if (each.ways, each.beta) == (ways, beta)
        }
        best = max(curve, key=lambda fake: curve[fake])
        found.append(
            FakeBest(
                ways=ways,
                beta=beta,
                margin_beta=_FIXED * beta,
                best_nanodollars=best,
                logit_best_nanodollars=logit_best(beta, _FIXED) if ways > 1 else None,
                earned_by_best=curve[best] / curve[0.0],
                earned_by_dearest=curve[max(curve)] / curve[0.0],
            )
        )
    return tuple(found)


# --- keeping and dropping ----------------------------------------------------------------------------------------


def drop_sweep(
    seed: int, *, drops: Sequence[float] = _DROPS, senders: int = _SENDERS, rounds: int = _ROUNDS
) -> tuple[DropOutcome, ...]:
    """X beside an honest Y, and alone. Losses cost senders 300 n$; nobody stops for lack of money."""
    wants = Wants(loss_nanodollars=_LOSS_NANODOLLARS)
    found = []
    for ways in ((X, Y), (X,)):
        honest = 0.0
        for dropped in drops:
            chance = stream(seed, "drops", f"{len(ways)} {dropped}")
            people = _senders(stream(seed, "senders"), ways, 0.4, wants, count=senders)
            for sender in people:
                sender.willing = _MOST_NANODOLLARS
            sold = _sell(people, {X: _FIXED, Y: _FIXED}, {X: dropped}, chance, rounds)
            honest = honest or sold.earned
            found.append(
                DropOutcome(
                    ways=len(ways),
                    dropped=dropped,
                    earned_nanodollars=sold.earned,
                    beside_honesty=sold.earned / honest,
                    share_at_end=sold.share,
                    losses_per_sender=sold.losses,
                )
            )
    return tuple(found)


# --- which toll a rational ISP sets ------------------------------------------------------------------------------

_GRID = tuple(half / 2 for half in range(241))


def settle_all() -> tuple[Settled, ...]:
    """Each market with a beta, 1 to 4 ISPs; and one in which nobody can carry all and nobody prefers anybody."""
    found = [
        settle(
            isps,
            beta,
            market="all senders can pay",
            demand=logit_demand,
            expected=_FORWARDING + isps / (isps - 1) / beta,
        )
        for isps in (2, 3, 4)
        for beta in (0.1, 0.4)
    ]
    found.append(
        settle(
            1, 0.1, market="limited willingness", demand=willing_demand, expected=(_MOST_NANODOLLARS + _FORWARDING) / 2
        )
    )
    found += [
        settle(isps, 0.1, market="limited willingness", demand=willing_demand, expected=0.0) for isps in (2, 3, 4)
    ]
    found.append(settle(2, 0.0, market="the cheapest gets all", demand=_undercut(1.0), expected=_FORWARDING))
    found.append(settle(2, 0.0, market="the cheapest gets all it can carry", demand=_undercut(0.6), expected=0.0))
    return tuple(found)


Demand = Callable[[Sequence[float], int, float], float]


def settle(isps: int, beta: float, *, market: str, demand: Demand, expected: float, rounds: int = 400) -> Settled:
    """One ISP after the other sets the toll of the grid that earns it most, until none does anything new."""
    tolls = [_FIXED] * isps
    seen: dict[tuple[float, ...], int] = {}
    history: list[tuple[float, ...]] = []
    for number in range(rounds):
        state = tuple(tolls)
        if state in seen:
            break
        seen[state] = number
        history.append(state)
        for isp in range(isps):
            tolls[isp] = _answer(tolls, isp, beta, demand)
    state = tuple(tolls)
    cycle = history[seen[state] :] if state in seen else history
    whole = [toll for each in cycle for toll in each]
    return Settled(
        isps=isps,
        market=market,
        beta=beta,
        tolls_nanodollars=state if len(cycle) == 1 else (min(whole), max(whole)),
        expected_nanodollars=expected,
        period=len(cycle),
        rounds=len(history),
    )


def _answer(tolls: list[float], isp: int, beta: float, demand: Demand) -> float:
    def earns(toll: float) -> float:
        return (toll - _FORWARDING) * demand([*tolls[:isp], toll, *tolls[isp + 1 :]], isp, beta)

    return max(_GRID, key=lambda toll: (round(earns(toll), 9), -toll))


def logit_demand(tolls: Sequence[float], isp: int, beta: float) -> float:
    """Everybody sends; who cannot do without."""
    return 1.0 / sum(math.exp(min(700.0, beta * (tolls[isp] - toll))) for toll in tolls)


def willing_demand(tolls: Sequence[float], isp: int, beta: float) -> float:
    """As the logit law, of those who can pay; willingness is uniform. Who can pay the cheaper one only takes that."""
    found, before = 0.0, 0.0
    for level in sorted({*tolls, _MOST_NANODOLLARS}):
        able = [toll for toll in tolls if toll <= before]
        if tolls[isp] in able or tolls[isp] <= before:
            weight = 1.0 / sum(math.exp(min(700.0, beta * (tolls[isp] - toll))) for toll in able)
            found += max(0.0, min(level, _MOST_NANODOLLARS) - before) / _MOST_NANODOLLARS * weight
        before = level
    return found


def _undercut(capacity: float) -> Demand:
    """Nobody prefers anybody: the cheapest first, up to what it can carry; those who can pay most are served first."""

    def demand(tolls: Sequence[float], isp: int, _: float) -> float:
        mine = tolls[isp]
        willing = max(0.0, 1.0 - mine / _MOST_NANODOLLARS)
        cheaper = sum(min(capacity, 1.0) for toll in tolls if toll < mine)
        equal = sum(1 for toll in tolls if toll == mine)
        return min(capacity, max(0.0, willing - cheaper) / equal)

    return demand


# --- links that cost their shadow price --------------------------------------------------------------------------

_LINKS = (("AS64512:1", 10.0, 12), ("AS64512:2", 30.0, 16), ("AS64512:3", 80.0, 24))
_USERS = 48


def bids(seed: int, *, rounds: int = 400) -> tuple[tuple[LinkOutcome, ...], float, float]:
    """Links of different speed, each with the gateway's own toll law; users bid money for a millisecond less.

    Gives the links, the share of pairs in the right order, and the best possible cost of delay over this one's.
    """
    chance = stream(seed, "bids")
    worth = sorted(chance.sample(range(1, 200), _USERS), reverse=True)
    ways = [way for way, _, _ in _LINKS]
    users = [
        _Sender(
            delays_ms={way: delay for way, delay, _ in _LINKS},
            willing=math.inf,
            wants=Wants(delay_nanodollars_per_ms=bid),
        )
        for bid in worth
    ]
    laws = {way: _law(capacity) for way, _, capacity in _LINKS}
    counts, tolls = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0.0)
    on_link: list[tuple[int, int]] = []
    for number in range(rounds):
        now_ns = (number + 1) * _S // 10
        arrived = dict.fromkeys(ways, 0)
        for user, sender in enumerate(users):
            for way in ways:  # a price can be asked for (GET /v1/price); a delay shows in the packets
                toll = laws[way].picodollars
                sender.ways.setdefault(way, WayStatistics()).on_sample(Quantity.FORWARD_TOLL_PICODOLLARS, toll, now_ns)
                if not number:
                    sender.ways[way].on_sample(Quantity.DELAY_NS, sender.delays_ms[way] * _MS, now_ns)
            way = sender.chooser.deliberate(sender.beliefs(now_ns), now_ns=now_ns).way
            arrived[way] += 1
            sender.ways[way].on_sample(Quantity.DELAY_NS, sender.delays_ms[way] * _MS, now_ns)
            if 2 * number >= rounds:
                counts[way] += 1
                on_link.append((user, ways.index(way)))
        for way in ways:
            laws[way].on_period(arrived_bytes=arrived[way] * 1000, backlog_bytes=0)
            tolls[way] += laws[way].picodollars / 1000 if 2 * number >= rounds else 0.0
    return _linked(on_link, worth, counts, tolls, rounds - rounds // 2)


def _law(capacity: int) -> CongestionToll:
    """Aims at half a user more than there is room for: so it stays where the first who is too many comes and goes."""
    cap = 20_000_000
    return CongestionToll(
        CongestionSettings(
            capacity_bytes_per_s=(2 * capacity + 1) * 1000 * 10 // 2,
            period_ns=_S // 10,
            cap_picodollars=cap,
            unit_picodollars=cap // 100,
            backlog_reference_bytes=capacity * 1000,
            target_utilisation_ppm=1_000_000,
        )
    )


def _linked(
    on_link: list[tuple[int, int]],
    worth: Sequence[int],
    counts: dict[Way, int],
    tolls: dict[Way, float],
    measured: int,
) -> tuple[tuple[LinkOutcome, ...], float, float]:
    times = [[0.0] * len(_LINKS) for _ in worth]  # of each user, the share of its packets on each link
    for user, link in on_link:
        times[user][link] += 1 / measured
    right = wrong = 0.0
    for first in range(len(worth)):
        for second in range(first + 1, len(worth)):  # bids less
            for here in range(len(_LINKS)):
                for there in range(len(_LINKS)):
                    both = times[first][here] * times[second][there]
                    right += both * (here < there)
                    wrong += both * (here > there)
    outcomes = tuple(
        LinkOutcome(
            delay_ms=delay,
            capacity=capacity,
            users=counts[way] / measured,
            toll_nanodollars=tolls[way] / measured,
            mean_bid=sum(share[link] * bid for share, bid in zip(times, worth, strict=True))
            * measured
            / max(1, counts[way]),
        )
        for link, (way, delay, capacity) in enumerate(_LINKS)
    )
    best = _best_cost(worth, [each.users for each in outcomes])
    cost = sum(
        bid * share[link] * _LINKS[link][1]
        for share, bid in zip(times, worth, strict=True)
        for link in range(len(_LINKS))
    )
    return outcomes, right / (right + wrong), best / cost


def _best_cost(worth: Sequence[int], room: Sequence[float]) -> float:
    """The same numbers of users on each link, the highest bids on the fastest."""
    total, link, left = 0.0, 0, room[0]
    for bid in worth:
        need = 1.0
        while need > 1e-9 and link < len(_LINKS):
            taken = min(need, left)
            total += bid * taken * _LINKS[link][1]
            need -= taken
            left -= taken
            if left <= 1e-9:
                link += 1
                left = room[link] if link < len(_LINKS) else 0.0
    return total
