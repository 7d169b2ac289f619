"""The comparison itself: that it sees a difference, shortens a script to what shows it, and can be replayed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from differential.events import Arrival, Engine, Event, Look, Order, Outcome, read_back, written
from differential.gateway_engines import NfqueueEngine
from differential.harness import Chance, difference_of, first_difference, shortest
from differential.runs import SESSION_PACKETS, maker, script

SEED = 11


@pytest.mark.parametrize("side", ["gateway", "host"])
def test_scripts_are_the_same_for_a_seed_and_can_be_written_down(side: str) -> None:
    world = "first" if side == "gateway" else "paying"
    events = script(side, world, SEED, 500)
    assert events == script(side, world, SEED, 500)
    assert events != script(side, world, SEED + 1, 500)
    assert [read_back(written(event)) for event in events] == events


def forgetful() -> Sequence[Engine]:
    """The second engine forgets a bit of the mark of packets that were rewritten, once a grant has been closed."""
    core, other = maker("gateway", "first", SEED, kernel=False)()
    arrive, order = other.arrive, other.order
    closed: list[Order] = []

    def worse(batch: Sequence[Arrival]) -> list[Outcome]:
        return [
            outcome._replace(mark=outcome.mark ^ 1) if closed and outcome.payload != arrival.payload else outcome
            for arrival, outcome in zip(batch, arrive(batch), strict=True)
        ]

    def remembered(given: Order) -> object:
        if b"CloseGrant" in given.body:
            closed.append(given)
        return order(given)

    other.arrive, other.order = worse, remembered  # type: ignore[method-assign]
    return core, other


def test_a_difference_is_found_and_shortened_to_what_shows_it() -> None:
    events = script("gateway", "first", SEED, SESSION_PACKETS)
    found = difference_of(forgetful, events)
    assert found is not None
    assert isinstance(found.event, Arrival)
    assert found.what == "another outcome"
    fewer = shortest(forgetful, events)
    assert [type(event) for event in fewer] == [Order, Arrival]
    assert difference_of(forgetful, fewer) is not None
    assert "mark=" in str(found)


class Generous(NfqueueEngine):
    """Counts one packet too many."""

    def order(self, order: Order) -> object:
        self._counters.add(self._counters.index("link/toA/sent_packets"), 1)
        return super().order(order)


def test_books_are_compared_by_name() -> None:
    core, other = maker("gateway", "first", SEED, kernel=False)()
    assert isinstance(other, NfqueueEngine)
    other.__class__ = Generous
    events: list[Event] = [event for event in script("gateway", "first", SEED, 10) if isinstance(event, Order)]
    found = first_difference((core, other), [events[0], Look(events[0].at_ns)])
    core.close()
    other.close()
    assert found is not None
    assert (found.what, found.expected, found.got) == (
        "other books",
        {"link/toA/sent_packets": 0},
        {"link/toA/sent_packets": 1},
    )


def test_chance_is_the_same_for_whoever_asks_one_by_one_and_ahead() -> None:
    one, other = Chance(SEED), Chance(SEED)
    ahead = other.peek(4)
    assert [int(one() * 2**32) for _ in range(4)] == ahead
    other.skip(4)
    assert one.peek(2) == other.peek(2)
