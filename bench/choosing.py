"""How long a choice of a path takes, and what a destination costs in memory, with ten thousand of them known.

    python -m bench.choosing [--destinations N] [--json]

Three figures: a flow that gets a choice as it was last deliberated (what nearly every packet flow meets), one for
which the ways have to be weighed anew, and the same where sixteen ways are there to choose from.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

from billpay.header import Slot, isp_oad, user_oad
from cartographer.cartographer import Cartographer
from cartographer.policy import PathPolicy

S = 1_000_000_000
X, Y, Z = 64512, 64513, 64514
BY_1 = (isp_oad(X, available=[1, 2], choice=1), isp_oad(Y, available=[1], choice=1))
BY_2 = (
    isp_oad(X, available=[1, 2], choice=2),
    isp_oad(Z, available=[1], choice=1),
    isp_oad(Y, available=[1], choice=1),
)
MANY = "10.255.255.255"


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def learn(cartographer: Cartographer, destination: str, now_ns: int) -> None:
    """Two ways, measured three times each."""
    cartographer.choose(destination, now_ns)
    for _ in range(3):
        cartographer.on_oads_seen(destination, BY_1, 20, 6, now_ns, packets=10, asked=())
        cartographer.on_probe_reply(destination, (user_oad(X, choice=2),), BY_2, 12, 20_000_000, now_ns)
        cartographer.on_probe_reply(destination, (), BY_1, 14, 30_000_000, now_ns)
    cartographer.choose(destination, now_ns)


def learn_many(cartographer: Cartographer, now_ns: int) -> None:
    """Three ISPs with six alternatives each."""

    def met(*choices: int) -> tuple[Slot, ...]:
        return tuple(isp_oad(X + hop, available=range(1, 7), choice=choice) for hop, choice in enumerate(choices))

    cartographer.choose(MANY, now_ns)
    cartographer.on_oads_seen(MANY, met(1, 1, 1), 50, 20, now_ns, asked=())
    for hop in range(3):
        for choice in range(2, 7):
            choices = [1, 1, 1]
            choices[hop] = choice
            asked = (user_oad(X + hop, choice=choice),)
            cartographer.on_probe_reply(MANY, asked, met(*choices), 30 + choice, 20_000_000, now_ns)
    cartographer.on_probe_reply(MANY, (), met(1, 1, 1), 30, 20_000_000, now_ns)


def timed_us(cartographer: Cartographer, destinations: list[str], now_ns: int, step_ns: int) -> dict[str, float]:
    taken = []
    for destination in destinations:
        flow = random.getrandbits(64)
        begun_ns = time.perf_counter_ns()
        cartographer.choose(destination, now_ns, flow_number=flow)
        taken.append((time.perf_counter_ns() - begun_ns) / 1000)
        now_ns += step_ns
    taken.sort()
    return {"median_us": taken[len(taken) // 2], "p99_us": taken[len(taken) * 99 // 100]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.choosing", description=__doc__)
    parser.add_argument("--destinations", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    count: int = arguments.destinations
    before_mb, now_ns = resident_mb(), 100 * S
    cartographer = Cartographer(PathPolicy(delay_value_nanodollars_per_ms=1), draw=random.random)
    destinations = [f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}" for number in range(count)]
    for destination in destinations:
        now_ns += 1000
        learn(cartographer, destination, now_ns)
    megabytes = resident_mb() - before_mb
    learn_many(cartographer, now_ns)
    figures = {
        "destinations": count,
        "memory_mb": round(megabytes, 1),
        "warm": timed_us(cartographer, random.choices(destinations, k=20_000), now_ns, 0),
        "deliberated": timed_us(cartographer, random.sample(destinations, min(count, 3000)), now_ns + S, 0),
        "deliberated_of_sixteen": timed_us(cartographer, [MANY] * 300, now_ns + 2 * S, S // 10),
    }
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
