"""What a payment adds to a round trip, and how soon a new price is paid.

Decides nothing. A round trip is a small datagram that a sends and b's echo returns; both ends run on one core. What
comes back carries no header. A price takes effect when a packet has paid it: the first gateway's counter of what its
toll took jumps by more than packets of the old price can add.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from bench.hostplane.hosts import progress, stop
from bench.payments.figures import differences, figure_of, quantile_of
from bench.payments.packets import UDP, Carries, Shape, option
from bench.payments.plans import ECHO_PORT, Role
from bench.payments.rates import Rates, unable
from bench.payments.rows import Row

ROUND_TRIPS: Final = "round trip"
PRICES: Final = "price to effect"
PINGS: Final = 1000
GOAL_MS: Final = 1.0
ADDED_GOAL_US: Final = 10.0
"""Of the programs in the kernel; of packet queues nobody expects it."""

TRIALS: Final = 40
"""Of one round."""

TRAFFIC_S: Final = 30.0
"""At most: it is ended before."""

TRAFFIC: Final = Shape(family=4, size=512, flows=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """By which parts the datagram goes; `carries`: what its sender puts in itself."""

    name: str
    roles: tuple[Role, ...] = ()
    carries: Carries = Carries.NOTHING


PLAIN: Final = Course(name="plain")
COURSES: Final = (
    PLAIN,
    Course(name="host pays", roles=(Role.HOST,)),
    Course(name="first gateway", roles=(Role.FIRST,), carries=Carries.MAC),
    Course(name="transit gateway", roles=(Role.TRANSIT,), carries=Carries.NAME),
    Course(name="host pays, first gateway", roles=(Role.HOST, Role.FIRST)),
    Course(name="first gateway, NFQUEUE", roles=(Role.NFQUEUE,), carries=Carries.MAC),
)
PARTS: Final = {"p50": 0.5, "p95": 0.95}


def round_trips(rates: Rates, *, rounds: int, pings: int = PINGS) -> list[Row]:
    """Of each round the 50th and the 95th percentile; what is added is added to the plain one of the same round."""
    faults = rates.parties.faults({role for course in COURSES for role in course.roles})
    able = [course for course in COURSES if not any(role in faults for role in course.roles)]
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    unpaid: dict[str, int] = defaultdict(int)
    with rates.generator.echoing(4, ECHO_PORT):
        for number in range(rounds):
            progress(f"round trips, round {number + 1} of {rounds}")
            for course in random.sample(able, len(able)):
                with rates.parties.attached(course.roles, 4) as chosen:
                    word = option(UDP, (ECHO_PORT, ECHO_PORT), course.carries)
                    paid_before = [party.order("paid_packets") for party in chosen]
                    took_ns = rates.generator.ping(4, ECHO_PORT, pings, word)
                    paid = [party.order("paid_packets") for party in chosen]
                for after, before in zip(paid, paid_before, strict=True):
                    unpaid[course.name] = max(unpaid[course.name], pings - (after - before))
                for part, share in PARTS.items():
                    samples[course.name, part].append(quantile_of(took_ns, share) / 1e3)
    rows = []
    for course in able:
        note = f"up to {unpaid[course.name]} of {pings} were not paid" if unpaid[course.name] > 0 else ""
        for part in PARTS:
            found = samples[course.name, part]
            rows.append(
                Row(section=ROUND_TRIPS, what=f"{course.name}, {part}", unit="µs", figure=figure_of(found), note=note)
            )
            if course is not PLAIN:
                added = figure_of(differences(found, samples[PLAIN.name, part]))
                goal = None if Role.NFQUEUE in course.roles else ADDED_GOAL_US
                what = f"{course.name}, {part}, added"
                rows.append(Row(section=ROUND_TRIPS, what=what, unit="µs", figure=added, at_most=goal))
    return rows + [unable(ROUND_TRIPS, course.name, course.roles, faults) for course in COURSES if course not in able]


def price_to_effect(rates: Rates, *, rounds: int, trials: int = TRIALS) -> list[Row]:
    """From the reader's write into the mapped page until a packet has paid the price; packets come all the time."""
    role = Role.QUEUED
    faults = rates.parties.faults({role})
    if faults:
        return [unable(PRICES, role.value, (role,), faults)]
    party = rates.parties.get(role, 4)
    found: dict[str, list[float]] = defaultdict(list)
    with rates.network.dropping_at_b(), rates.parties.attached((role,), 4):
        for number in range(rounds):
            progress(f"price to effect, round {number + 1} of {rounds}")
            sender = rates.generator.frames(TRAFFIC, Carries.MAC, TRAFFIC_S)
            took_ns = party.order("price_to_effect_ns", trials=trials, core=int(rates.generator.other_core))
            stop(sender)
            if not took_ns:
                progress("the machine is too busy: no change could be watched in this round")
                continue
            found["p50"].append(quantile_of(took_ns, 0.5) / 1e6)
            found["p95"].append(quantile_of(took_ns, 0.95) / 1e6)
            found["longest"].append(max(took_ns) / 1e6)
    if not found:
        return [Row(section=PRICES, what=role.value, note="not measured: the machine is too busy")]
    goals = {"p50": GOAL_MS, "p95": GOAL_MS}
    return [
        Row(
            section=PRICES,
            what=f"{part} of {trials} changes",
            unit="ms",
            figure=figure_of(samples),
            at_most=goals.get(part),
        )
        for part, samples in found.items()
    ]
