"""Well-known bandits on the same matrices, under the same rules: UCB1, discounted UCB, epsilon-greedy, round robin.

They see the row that they chose, and probe nothing. Sources: Auer 2002 (UCB1, epsilon-greedy), Garivier and Moulines
2011 (discounted UCB). A bandit's reward must lie in 0 to 1: it is 1 - cost / the greatest cost seen so far.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Final

from cartographer.replay import Move, Player, Prices


class Bandit:
    """Keeps what each path cost; older costs count less if `discount` is below 1. By itself it is greedy."""

    def __init__(self, paths: Sequence[str], prices: Prices, discount: float = 1.0) -> None:
        self.paths = tuple(paths)
        self.prices = prices
        self.discount = discount
        self.counts = dict.fromkeys(paths, 0.0)
        self.sums = dict.fromkeys(paths, 0.0)
        self.greatest = 1.0

    def move(self, now_ns: int) -> Move:  # noqa: ARG002 - bandits know no time
        for path in self.paths:
            if not self.counts[path]:
                return Move(chosen=path)
        return Move(chosen=self.pick())

    def pick(self) -> str:
        return min(self.paths, key=self.mean)

    def see(self, path: str, rtt_ms: float | None, toll_nanodollars: float, now_ns: int) -> None:  # noqa: ARG002
        cost = self.prices.of(rtt_ms, toll_nanodollars)
        self.greatest = max(self.greatest, cost)
        if self.discount < 1.0:
            for each in self.paths:
                self.counts[each] *= self.discount
                self.sums[each] *= self.discount
        self.counts[path] += 1.0
        self.sums[path] += cost

    def mean(self, path: str) -> float:
        return self.sums[path] / self.counts[path]


class Ucb(Bandit):
    """The lowest cost that is still plausible."""

    def pick(self) -> str:
        total = math.log(max(sum(self.counts.values()), math.e))
        return min(
            self.paths,
            key=lambda path: self.mean(path) - self.greatest * math.sqrt(2.0 * total / self.counts[path]),
        )


class EpsilonGreedy(Bandit):
    """The cheapest so far; one choice in ten at random."""

    def __init__(self, paths: Sequence[str], prices: Prices, epsilon: float = 0.1) -> None:
        super().__init__(paths, prices, discount=0.99)
        self._epsilon = epsilon
        self._draw = random.Random(1)

    def pick(self) -> str:
        if self._draw.random() < self._epsilon:
            return self._draw.choice(self.paths)
        return min(self.paths, key=self.mean)


class RoundRobin(Bandit):
    """Each in turn."""

    _turn = 0

    def pick(self) -> str:
        self._turn += 1
        return self.paths[self._turn % len(self.paths)]


RIVALS: Final[dict[str, Callable[[Sequence[str], Prices], Player]]] = {
    "UCB1": Ucb,
    "discounted UCB": lambda paths, prices: Ucb(paths, prices, discount=0.99),
    "ε-greedy": EpsilonGreedy,
    "round robin": RoundRobin,
}
