"""A small network that the judge looks at: ways, what each ISP really does, and epochs of traffic over them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from cartographer.judging import Judge

S = 1_000_000_000
MS = 1_000_000
X, Y, Z, W = 64512, 64513, 64514, 64515


@dataclass(kw_only=True)
class Isp:
    """What a hop really does to packets. `burst`: mean length in epochs of its bad times, `bursty`: their share."""

    loss: float = 0.0
    toll: float = 1.0  # n$
    delay_ms: float = 10.0
    wobble: float = 0.0  # n$, of a toll that moves without any queue
    queue: bool = False  # … or with one
    bursty: float = 0.0
    burst_loss: float = 0.3


@dataclass(kw_only=True)
class World:
    ways: list[str]
    isps: dict[str, Isp]
    seed: int = 1
    packets: int = 40  # for each way and epoch
    jitter_ms: float = 0.3
    access_loss: float = 0.0
    destination: str = ""
    judge: Judge = field(default_factory=Judge)
    now_ns: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def epoch(self) -> None:
        """A second: everything is told in ten parts, ways in turn."""
        bursting = {name: self.random.random() < isp.bursty for name, isp in self.isps.items()}
        risen = {name: self.random.uniform(0, 2 * isp.wobble) for name, isp in self.isps.items()}
        for part in range(10):
            self.now_ns += S // 10
            for way in self.ways:
                self._part(way, part, bursting, risen)

    def _part(self, way: str, part: int, bursting: dict[str, bool], risen: dict[str, float]) -> None:
        names = way.split()
        hops = [self.isps[name] for name in names]
        passes = 1 - self.access_loss
        for name, isp in zip(names, hops, strict=True):
            passes *= 1 - isp.loss
            if bursting[name] and self.random.random() < 0.5:  # of the epoch's parts
                passes *= 1 - isp.burst_loss
        sent = self.packets // 10
        arrived = sum(self.random.random() < passes for _ in range(sent))
        self.judge.on_paid_packets(way, sent=sent, arrived=arrived, now_ns=self.now_ns, destination=self.destination)
        waits = sum(2.0 * risen[name] for name, isp in zip(names, hops, strict=True) if isp.queue)
        if self.random.random() < passes and part % 2:
            noise = abs(self.random.gauss(0, self.jitter_ms))
            self.judge.on_way_measured(
                way,
                round_trip_ns=round((sum(isp.delay_ms for isp in hops) + waits + noise) * MS),
                toll_picodollars=round(
                    sum(isp.toll + risen[name] for name, isp in zip(names, hops, strict=True)) * 1000
                ),
                now_ns=self.now_ns,
                destination=self.destination,
                amount_nanodollars=0,
            )
            self.judge.on_unpaid_packets(way, sent=1, arrived=1, now_ns=self.now_ns, destination=self.destination)

    def run(self, epochs: int) -> None:
        for _ in range(epochs):
            self.epoch()

    def epochs_until_found(self, at_most: int) -> int | None:
        for number in range(1, at_most + 1):
            self.epoch()
            if self.judge.findings(self.now_ns):
                return number
        return None


def diamond(**changes: Isp) -> dict[str, Isp]:
    """A-{X,Y}-W: X and Y share W; by name as in a way."""
    isps = {f"AS{X}:1": Isp(), f"AS{Y}:1": Isp(), f"AS{W}:1": Isp()}
    names = {"x": f"AS{X}:1", "y": f"AS{Y}:1", "w": f"AS{W}:1"}
    return isps | {names[key]: isp for key, isp in changes.items()}


WAYS = [f"AS{X}:1 AS{W}:1", f"AS{Y}:1 AS{W}:1"]
