"""Gives the same events to several engines, and finds the first thing on which they do not agree, and the shortest
script that shows it.

The first engine is the reference. A script that shows a difference is shortened by leaving out ever smaller parts of it
(Zeller and Hildebrandt 2002, delta debugging) as long as a difference stays.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from differential.events import (
    NS_PER_S,
    Arrival,
    Books,
    Engine,
    Event,
    Look,
    Order,
    Outcome,
    written,
)

BATCH_PACKETS = 64
SHRINKING_RUNS = 400
DRAWS = 1 << 32
MASK32 = DRAWS - 1

MakeEngines = Callable[[], Sequence[Engine]]


class Chance:
    """What every engine's chance gives: 32-bit numbers, the same for all in the same order."""

    def __init__(self, seed: int) -> None:
        self._source = random.Random(seed)
        self._ahead: list[int] = []
        self.used = 0

    def __call__(self) -> float:
        """In [0, 1), as cores ask for it."""
        number = self.peek(1)[0]
        self.skip(1)
        return number / DRAWS

    def peek(self, count: int) -> list[int]:
        while len(self._ahead) < count:
            self._ahead.append(self._source.getrandbits(32))
        return self._ahead[:count]

    def skip(self, count: int) -> None:
        self.peek(count)
        del self._ahead[:count]
        self.used += count


class Difference(NamedTuple):
    """Two engines disagree. `at`: the index of the event."""

    at: int
    event: Event
    what: str
    engine: str
    expected: Any
    got: Any

    def __str__(self) -> str:
        lines = [f"event {self.at}: {written(self.event)}", f"{self.engine}: {self.what}"]
        if isinstance(self.expected, Outcome) and isinstance(self.got, Outcome):
            lines += [f"  expected {_shown(self.expected)}", f"  got      {_shown(self.got)}"]
        else:
            lines += [f"  expected {self.expected}", f"  got      {self.got}"]
        return "\n".join(lines)


def _shown(outcome: Outcome) -> str:
    verdict = "accept" if outcome.accept else "drop"
    return f"{verdict} mark={outcome.mark:#x} class={outcome.service_class} {outcome.payload.hex()}"


class Coverage:
    """How often everything happened that can happen, by the reference engine."""

    def __init__(self) -> None:
        self.happened: Counter[str] = Counter()
        self.packets = 0

    def on_outcome(self, arrival: Arrival, outcome: Outcome) -> None:
        self.packets += 1
        happened, before, after = self.happened, arrival.payload, outcome.payload
        if not outcome.accept:
            happened["packet dropped"] += 1
            return
        if after == before:
            happened["packet unchanged"] += 1
        elif len(after) == len(before):
            happened["packet rewritten"] += 1
        else:
            happened["packet stripped" if len(after) < len(before) else "packet with a header put in"] += 1
        if outcome.service_class >= 0:
            happened[f"class {outcome.service_class}"] += 1
        if outcome.mark != arrival.mark:
            happened["mark changed"] += 1
        if arrival.segment_bytes:
            happened["packet offloaded"] += 1

    def on_answer(self, answer: Any) -> None:
        if isinstance(answer, dict):
            self.happened[f"answer {answer['type']} {answer.get('code', '')}".strip()] += 1

    def on_look(self, books: Books) -> None:
        """Events are told once."""
        for name, value in books.items():
            if name.startswith("event ") and isinstance(value, list):
                self.happened[name] += len(value)

    def on_books(self, books: Books) -> None:
        """At the end: what the counters say, without the names of links and grants."""
        for name, value in books.items():
            if isinstance(value, int):
                parts = name.split("/")
                if name.startswith("event "):
                    name = name.rsplit(" ", 1)[0]  # without the link
                self.happened[f"{parts[0]}/…/{parts[2]}" if len(parts) == 3 else name] += value

    def table(self) -> str:
        rows = (f"{count:>16,}  {what}" for what, count in sorted(self.happened.items()))
        return "\n".join((f"{self.packets:>16,}  packets", *rows))


def grouped(events: Iterable[Event]) -> Iterator[Event | list[Arrival]]:
    """Packets of one moment together."""
    batch: list[Arrival] = []
    for event in events:
        if isinstance(event, Arrival):
            if batch and (batch[0].at_ns != event.at_ns or len(batch) >= BATCH_PACKETS):
                yield batch
                batch = []
            batch.append(event)
            continue
        if batch:
            yield batch
            batch = []
        yield event
    if batch:
        yield batch


def first_difference(
    engines: Sequence[Engine], events: Iterable[Event], coverage: Coverage | None = None
) -> Difference | None:
    """None: they agree on every packet, answer and look."""
    reference, others = engines[0], engines[1:]
    at, books = 0, {}
    for event in grouped(events):
        if isinstance(event, list):
            expected = reference.arrive(event)
            if coverage is not None:
                for arrival, outcome in zip(event, expected, strict=True):
                    coverage.on_outcome(arrival, outcome)
            for other in others:
                got = other.arrive(event)
                if got != expected:
                    return _where(at, event, other.name, expected, got)
            at += len(event)
            continue
        if isinstance(event, Order):
            answer = reference.order(event)
            if coverage is not None:
                coverage.on_answer(answer)
            for other in others:
                got_answer = other.order(event)
                if got_answer != answer:
                    return Difference(at, event, "another answer", other.name, answer, got_answer)
        else:
            books = reference.look(event.at_ns)
            if coverage is not None:
                coverage.on_look(books)
            for other in others:
                got_books = other.look(event.at_ns)
                if got_books != books:
                    return Difference(at, event, "other books", other.name, *unlike(books, got_books))
        at += 1
    if coverage is not None:
        coverage.on_books(books)
    return None


def _where(at: int, batch: list[Arrival], name: str, expected: list[Outcome], got: list[Outcome]) -> Difference:
    for number, (arrival, outcome, other) in enumerate(zip(batch, expected, got, strict=True)):
        if outcome != other:
            return Difference(at + number, arrival, "another outcome", name, outcome, other)
    raise AssertionError("they were unlike")


def unlike(expected: Books, got: Books) -> tuple[Books, Books]:
    """Of each only what the other has not."""
    names = [name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name)]
    return {name: expected.get(name, 0) for name in sorted(names)}, {name: got.get(name, 0) for name in sorted(names)}


def with_end(events: Iterable[Event]) -> Iterator[Event]:
    """And three seconds later a last look, when every alarm has been told."""
    at_ns = 0
    for event in events:
        at_ns = event.at_ns
        yield event
    yield Look(at_ns + 3 * NS_PER_S)


# --- the shortest script ---------------------------------------------------------------------------------------------


def difference_of(make: MakeEngines, events: Iterable[Event]) -> Difference | None:
    """On fresh engines."""
    engines = make()
    try:
        return first_difference(engines, events)
    finally:
        for engine in engines:
            with suppress(OSError):
                engine.close()


def shortest(make: MakeEngines, events: Sequence[Event]) -> list[Event]:
    """A part of the events that still shows a difference; no event of it can be left out (unless runs ran out)."""
    found = difference_of(make, events)
    if found is None:
        return []
    kept = list(events[: found.at + 1])
    runs, parts = 0, 2
    while len(kept) > 1 and runs < SHRINKING_RUNS:
        size = max(1, len(kept) // parts)
        for start in range(0, len(kept), size):
            fewer = kept[:start] + kept[start + size :]
            runs += 1
            seen = difference_of(make, fewer) if fewer else None
            if seen is not None:
                kept = fewer[: seen.at + 1]
                parts = max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(kept), parts * 2)
    return kept


def explained(world: str, seed: int, make: MakeEngines, events: Sequence[Event]) -> str:
    """What a person needs to see of a difference, and to replay it."""
    events = shortest(make, events)
    found = difference_of(make, events)
    script = "\n".join(written(event) for event in events)
    return f"world {world}, seed {seed}: {len(events)} events are enough\n{script}\n{found}"


def decoded(body: bytes | None) -> Any:
    return None if body is None else msgspec.json.decode(body)
