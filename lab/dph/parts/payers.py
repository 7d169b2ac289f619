"""Part 6: sender pays or receiver pays, feedback, clearing, and what of a policy is on the wire.

Decides: "the same rates" is that the mean of the paired differences has 0 in its interval, or is below 1 % of the rate.
Refuses to know: how a session is charged (`lab.dph.clearing` runs the real processes).
Theory: both sub-scenarios are one loop, as the reactor has the same counts at the same times (M3I scenarios 3.3.2). A
policy stays with its payer: what crosses the network is counts, target rates, prices and signatures (DPH-07, DPH-08).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import msgspec

from billpay.clearing import Payee
from billpay.messages import FlowSelector, Message
from billpay.sessions import MarkReport, Payer, SessionTerms, TargetRate
from billpay.signing import SigningKey, sign
from lab.dph.clearing import KEY, MARKUP_PPM, SESSION, Cleared, Reading, clear_session
from lab.dph.effort import Effort
from lab.dph.statistics import mean_difference, mean_of
from lab.dph.values import Expectation, Mean, PartResult, Value, expect
from lab.dph.worlds import PRICE, bottleneck, one_to_three
from lab.simulator.events import NS_PER_S
from lab.simulator.packets import Behaviour, PacketRun
from pricereactor.policy import TaskPolicy

USERS: Final = 8
RTT_MS: Final = 40.0
CLOSE: Final = 0.01
SECRET: Final = TaskPolicy(
    name="secret-film",
    willingness_nanodollars_per_s=61_357,
    min_bit_s=8_117,
    max_bit_s=50_000_017,
    session_budget_nanodollars=5_432_109_877,
    day_budget_nanodollars=91_827_364_553,
    price_ceiling_nanodollars_per_mb=8_642_097,
    largest_rate_change_ppm=1_357_911,
)
DEARER: Final = 3_001
"""Nanodollars per mark, from the middle of the cleared session on: no round number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    payer: Payer
    seed: int
    seconds: float
    warm_up_s: float


class Group(Value, frozen=True, kw_only=True):
    """Users of one willingness; difference: receiver pays − sender pays, with common random numbers."""

    willingness: float
    sender_pays_bit_s: Mean
    receiver_pays_bit_s: Mean
    difference_bit_s: Mean

    @property
    def is_same(self) -> bool:
        apart = abs(self.difference_bit_s.mean)
        return apart <= (self.difference_bit_s.half or 0.0) or apart <= CLOSE * self.sender_pays_bit_s.mean


class Books(Value, frozen=True, kw_only=True):
    """Of one session through the four processes, in nanodollars. expected: marks × price, split at the change."""

    payee: str
    marks: int
    expected: int
    bill: int
    owed_by_payer: int
    expected_of_payer: int
    due_to_provider: int
    due_to_customer: int
    cost_of_customer: int
    kept_by_house: int
    agree: bool


class Payers(PartResult, frozen=True, kw_only=True):
    """messages, wire_bytes: that were searched for the policy; leaked_bytes: that said anything of it."""

    groups: tuple[Group, ...]
    interval_ms: float
    shortest_gap_ms: float
    longest_gap_ms: float
    books: tuple[Books, ...]
    messages: int
    wire_bytes: int
    leaked_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    first_bit_s: float
    second_bit_s: float
    gaps_ms: tuple[float, float]
    interval_ms: float


def run(effort: Effort) -> Payers:
    runs = [
        Run(payer=payer, seed=seed, seconds=effort.seconds, warm_up_s=effort.warm_up_s)
        for payer in Payer
        for seed in range(1, effort.seeds + 1)
    ]
    seen = effort.each(measure, runs)
    sender = [each for it, each in zip(runs, seen, strict=True) if it.payer is Payer.SENDER]
    receiver = [each for it, each in zip(runs, seen, strict=True) if it.payer is Payer.RECEIVER]
    groups = (
        _group(1.0, [each.first_bit_s for each in sender], [each.first_bit_s for each in receiver]),
        _group(3.0, [each.second_bit_s for each in sender], [each.second_bit_s for each in receiver]),
    )
    shortest, longest = min(each.gaps_ms[0] for each in seen), max(each.gaps_ms[1] for each in seen)
    wire = [part for payer in Payer for part in session_on_the_wire(payer, seconds=effort.seconds)]
    books = []
    for payee in effort.pick(full=tuple(Payee), quick=tuple(Payee), tiny=(Payee.PROVIDER,)):
        cleared, readings, prices = clear(payee, seconds=min(20.0, effort.seconds))
        wire += cleared.sent
        books.append(_books(payee, cleared, readings, prices))
    leaked = sum(leaks(SECRET, each) for each in wire)
    return Payers(
        title="Whoever pays: the same rates, exact bills, and nothing said of the policy",
        expectations=_judged(groups, seen[0].interval_ms, shortest, longest, books, leaked, len(wire), effort),
        groups=groups,
        interval_ms=seen[0].interval_ms,
        shortest_gap_ms=shortest,
        longest_gap_ms=longest,
        books=tuple(books),
        messages=len(wire),
        wire_bytes=sum(map(len, wire)),
        leaked_bytes=leaked,
    )


def measure(it: Run) -> _Seen:
    """All users in one sub-scenario."""
    experiment = bottleneck(
        one_to_three(USERS, rtt_ms=RTT_MS), seed=it.seed, seconds=it.seconds, warm_up_s=it.warm_up_s
    )
    behaviours = {flow.name: Behaviour(payer=it.payer) for flow in experiment.flows}
    packets = PacketRun(experiment, behaviours=behaviours)
    rates = [flow.rate_bit_s for flow in packets.run().flows]
    gaps = [
        (b.now_ns - a.now_ns) / 1e6
        for found in packets.flows
        if found.loop is not None
        for a, b in pairwise(found.loop.history)
    ]
    handler = packets.flows[0].handler
    assert handler is not None
    first, second = rates[::2], rates[1::2]
    return _Seen(
        first_bit_s=sum(first) / len(first),
        second_bit_s=sum(second) / len(second),
        gaps_ms=(min(gaps), max(gaps)),
        interval_ms=handler.reactor.interval_ns / 1e6,
    )


def _group(willingness: float, sender: list[float], receiver: list[float]) -> Group:
    return Group(
        willingness=willingness,
        sender_pays_bit_s=mean_of(sender),
        receiver_pays_bit_s=mean_of(receiver),
        difference_bit_s=mean_difference(receiver, sender),
    )


# --- clearing --------------------------------------------------------------------------------------------------------


def clear(payee: Payee, *, seconds: float) -> tuple[Cleared, list[Reading], list[tuple[int, int]]]:
    """A simulated user's counts, once in a second, through meter, mediation, charging and clearing house."""
    packets = PacketRun(bottleneck(one_to_three(2, rtt_ms=RTT_MS), seconds=seconds, warm_up_s=0.0))
    packets.run()
    counts = packets.flows[1].readings
    readings = [
        Reading(
            at_ms=100 * tick,
            packets=counts.packets[tick],
            bytes=counts.received_bytes[tick],
            marks=counts.marks[tick],
        )
        for tick in range(0, len(counts.marks), 10)
    ]
    prices = [(-5_000, PRICE), (readings[len(readings) // 2].at_ms, DEARER)]
    return clear_session(readings, prices=prices, payee=payee), readings, prices


def _books(payee: Payee, it: Cleared, readings: Sequence[Reading], prices: Sequence[tuple[int, int]]) -> Books:
    changes_ms = prices[1][0]
    before = next(reading.marks for reading in readings if reading.at_ms == changes_ms)
    after = readings[-1].marks - before
    expected = before * PRICE + after * DEARER
    of_payer = sum(
        marks * (price * (1_000_000 + MARKUP_PPM) // 1_000_000) for marks, price in ((before, PRICE), (after, DEARER))
    )
    split = payee is Payee.CUSTOMER
    agree = (
        it.bill == expected
        and it.owed_by_payer == of_payer
        and it.due_to_provider == expected
        and it.due_to_customer == (expected if split else 0)
        and it.cost_of_customer == 0
        and it.kept_by_house == of_payer - expected
        and it.books_balance
    )
    return Books(
        payee=payee.value,
        marks=readings[-1].marks,
        expected=expected,
        bill=it.bill,
        owed_by_payer=it.owed_by_payer,
        expected_of_payer=of_payer,
        due_to_provider=it.due_to_provider,
        due_to_customer=it.due_to_customer,
        cost_of_customer=it.cost_of_customer,
        kept_by_house=it.kept_by_house,
        agree=agree,
    )


# --- secrecy ---------------------------------------------------------------------------------------------------------


def session_on_the_wire(payer: Payer, *, seconds: float) -> list[bytes]:
    """What both ends sign in a session of the simulator whose payer has the secret policy."""
    flows = one_to_three(2, rtt_ms=RTT_MS)
    flows[0] |= {
        "willingness_nanodollars_per_s": SECRET.willingness_nanodollars_per_s,
        "reactor": {"kind": "elastic", "min_bit_s": SECRET.min_bit_s, "max_bit_s": SECRET.max_bit_s},
    }
    experiment = bottleneck(flows, seconds=seconds, warm_up_s=0.0)
    packets = PacketRun(experiment, behaviours={"u0": Behaviour(payer=payer)})
    packets.run()
    found = packets.flows[0]
    assert found.loop is not None
    flow = FlowSelector(
        source=KEY.source or "", destination=KEY.destination, protocol=17, source_port=5004, destination_port=5004
    )
    messages: list[Message] = [SessionTerms(session=SESSION, sequence=1, flow=flow, payer=payer, interval_ms=100)]
    counts = found.readings
    for number, heard in enumerate(found.loop.history, start=2):
        tick = min(len(counts.marks) - 1, heard.now_ns * 10 // NS_PER_S)
        if payer is Payer.SENDER:
            messages.append(
                MarkReport(
                    session=SESSION,
                    sequence=number,
                    counted_ms=heard.now_ns // 1_000_000,
                    packets=counts.packets[tick],
                    bytes=counts.received_bytes[tick],
                    ce_packets=counts.marks[tick],
                    ect_packets=counts.packets[tick] - counts.marks[tick],
                )
            )
        else:
            target = heard.target_bit_s
            messages.append(
                TargetRate(session=SESSION, sequence=number, target_bit_s=target or 0, lets_go=target is None)
            )
    key = SigningKey(secrets.token_bytes(32))
    return [sign(key, each).document for each in messages]  # a signature says nothing but by what it signs


def leaks(policy: TaskPolicy, wire: bytes) -> int:
    """Bytes of `wire` that are a number of the policy, in digits, or in four or eight bytes; or its name."""
    found = wire.count(policy.name.encode()) * len(policy.name)
    for number in _numbers_of(msgspec.to_builtins(policy)):
        digits = str(number).encode()
        found += len(digits) * sum(
            1 for at in _places(wire, digits) if not (wire[at - 1 : at] + wire[at + len(digits) :][:1]).strip(b'":,} ')
        )
        found += sum(
            size * wire.count(number.to_bytes(size, order))
            for size in (4, 8)
            for order in ("big", "little")
            if number < 1 << 8 * size
        )
    return found


def _places(wire: bytes, part: bytes) -> Iterator[int]:
    at = wire.find(part)
    while at >= 0:
        yield at
        at = wire.find(part, at + 1)


def _numbers_of(value: object) -> Iterator[int]:
    """Those that say something: 8 or 12 are in every message."""
    match value:
        case bool() | None | str():
            return
        case int():
            if value > 500:
                yield value
        case dict():
            for each in value.values():
                yield from _numbers_of(each)
        case list() | tuple():
            for each in value:
                yield from _numbers_of(each)


def _judged(
    groups: tuple[Group, ...],
    interval_ms: float,
    shortest_ms: float,
    longest_ms: float,
    books: list[Books],
    leaked: int,
    messages: int,
    effort: Effort,
) -> tuple[Expectation, ...]:
    shown = "; ".join(
        f"{each.willingness:g}: {each.sender_pays_bit_s.show(1e6)} and {each.receiver_pays_bit_s.show(1e6)} Mbit/s, "
        f"apart by {each.difference_bit_s.show(1e3, 1)} kbit/s"
        for each in groups
    )
    return (
        expect(
            "both sub-scenarios give the same rates",
            expected=f"a difference of 0 within its interval, or below {CLOSE:.0%} of the rate",
            measured=shown,
            holds=None if effort.is_tiny else all(each.is_same for each in groups),
        ),
        expect(
            "there is feedback exactly once in the reactor's interval",
            expected=f"each {interval_ms:g} ms",
            measured=f"gaps from {shortest_ms:g} to {longest_ms:g} ms",
            holds=shortest_ms == longest_ms == interval_ms,
        ),
        expect(
            "payer, provider, customer and clearing house agree",
            expected="to the nanodollar over a change of price; with the split edge too",
            measured="; ".join(
                f"to the {each.payee}: bill {each.bill:,} of {each.marks:,} marks, payer {each.owed_by_payer:,}"
                for each in books
            ),
            holds=all(each.agree for each in books),
        ),
        expect(
            "nothing of the policy is on the wire",
            expected="0 bytes",
            measured=f"{leaked} bytes in {messages:,} documents",
            holds=leaked == 0,
        ),
    )
