"""The file of what is known of paths: maps by network, what comes back and what is forgotten, and quality over time."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import msgspec
import pytest

from cartographer.cartographer import Cartographer
from cartographer.judging import RememberedAccusation
from cartographer.remembered import RememberedDestination, RememberedMap
from hostagent import api
from hostagent.desk import QualityQuery
from hostagent.paths.memory import NETWORKS_MAX, NS_PER_S, PathMemory

NOW = 1_762_990_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "paths.sqlite"


def destination(address: str, *, age_s: int = 0) -> RememberedDestination:
    return RememberedDestination(destination=address, path=(), isps=(), ways=(), asks=(), age_ns=age_s * NS_PER_S)


def known(*destinations: RememberedDestination) -> RememberedMap:
    return RememberedMap(destinations=destinations)


def addresses(memory: PathMemory, network: str, unix_s: int = NOW) -> dict[str, int]:
    """Each destination with the seconds that have passed since it was written."""
    return {
        each.destination: elapsed_ns // NS_PER_S
        for recalled, elapsed_ns, _ in memory.recall(network, unix_s)
        for each in recalled.destinations
    }


def test_each_network_has_its_own_map_and_gets_it_back_after_a_restart(path: Path) -> None:
    memory = PathMemory(path)
    memory.keep("home", known(destination("203.0.113.1"), destination("2001:db8::1")), NOW)
    memory.keep("work", known(destination("203.0.113.2")), NOW)
    memory.close()
    again = PathMemory(path)
    assert addresses(again, "home", NOW + 60) == {"203.0.113.1": 60, "2001:db8::1": 60}
    assert addresses(again, "work") == {"203.0.113.2": 0}
    assert addresses(again, "elsewhere") == {}
    assert os.stat(path).st_mode & 0o777 == 0o600
    again.close()


def test_only_what_was_used_since_is_written_again(path: Path) -> None:
    memory = PathMemory(path)
    assert memory.keep("home", known(destination("203.0.113.1"), destination("203.0.113.2")), NOW) == 2
    later = known(destination("203.0.113.1", age_s=300), destination("203.0.113.2", age_s=5))
    assert memory.keep("home", later, NOW + 300) == 1
    assert addresses(memory, "home", NOW + 300) == {"203.0.113.1": 300, "203.0.113.2": 0}
    assert memory.keep("home", known(destination("203.0.113.2", age_s=6)), NOW + 301) == 0
    assert addresses(memory, "home", NOW + 301) == {"203.0.113.2": 1}
    memory.close()


def test_the_longest_unseen_network_is_forgotten_first(path: Path) -> None:
    memory = PathMemory(path)
    for number in range(NETWORKS_MAX + 2):
        memory.keep(f"net {number}", known(destination("203.0.113.1")), NOW + number)
    assert [addresses(memory, f"net {number}") != {} for number in range(4)] == [False, False, True, True]
    memory.close()


def test_what_the_cartographer_remembers_comes_back_whole(path: Path) -> None:
    cartographer = Cartographer()
    oads = ((64512, 0x803, 1), (64514, 0x801, 1))
    for second in range(5):
        cartographer.choose("203.0.113.1", second * NS_PER_S)
        cartographer.on_oads_seen("203.0.113.1", oads, 20, 17, second * NS_PER_S, packets=10)
        cartographer.on_round_trip("203.0.113.1", 21_000_000, second * NS_PER_S, way="AS64512:1 AS64514:1")
    memory = PathMemory(path)
    memory.keep("home", cartographer.remember(5 * NS_PER_S), NOW)
    again = Cartographer()
    for recalled, elapsed_ns, _ in memory.recall("home", NOW + 100):
        again.recall(recalled, 1000 * NS_PER_S, elapsed_ns=elapsed_ns)
    ways = {each.way: each.estimates for each in again.quality(1000 * NS_PER_S)}
    assert {quantity.value: estimate.value for quantity, estimate in ways["AS64512:1 AS64514:1"].items()}[
        "delay_ns"
    ] == pytest.approx(21_000_000, rel=0.01)
    memory.close()


def test_who_was_found_out_is_remembered_too(path: Path) -> None:
    accusation = RememberedAccusation(
        destination="203.0.113.1",
        as_number=64513,
        alternative=None,
        kind="lies",
        others=(),
        since_age_ns=1,
        found_age_ns=1,
        left_ns=60 * NS_PER_S,
        penalty_ns=60 * NS_PER_S,
        evidence="promises 5 ms, measured 41 ms",
    )
    memory = PathMemory(path)
    memory.keep("home", known(), NOW, (accusation,))
    assert [each.accusations for each in memory.recall("home", NOW)] == [(accusation,)]
    memory.close()


@pytest.mark.parametrize("rubbish", [b"not a database at all", b"SQLite format 3\0" + bytes(200)])
def test_a_broken_file_is_put_aside_and_said(path: Path, rubbish: bytes) -> None:
    path.write_bytes(rubbish)
    memory = PathMemory(path)
    assert "put aside" in memory.trouble
    assert path.with_suffix(".broken").read_bytes() == rubbish
    memory.keep("home", known(destination("203.0.113.1")), NOW)
    assert addresses(memory, "home") == {"203.0.113.1": 0}
    memory.close()


def test_a_map_of_another_version_is_learned_anew(path: Path) -> None:
    memory = PathMemory(path)
    memory.keep("home", msgspec.structs.replace(known(destination("203.0.113.1")), format=99), NOW)
    assert memory.recall("home", NOW) == []
    memory.close()


def row(from_unix_s: int, address: str = "203.0.113.1") -> api.QualityRow:
    return api.QualityRow(from_unix_s=from_unix_s, seconds=300, destination=address, way="", samples=3, delay_ns=1)


def query(**changes: object) -> QualityQuery:
    return msgspec.structs.replace(QualityQuery(since_unix_s=0, until_unix_s=2**40), **changes)


def test_quality_is_told_the_latest_first_and_forgotten_when_old(path: Path) -> None:
    memory = PathMemory(path)
    memory.add_quality("home", [row(NOW - 40 * 86_400)])
    memory.add_quality("home", [row(NOW - 300), row(NOW), row(NOW, "203.0.113.2")])
    found = memory.quality(query())
    assert [each.from_unix_s for each in found] == [NOW, NOW, NOW - 300]
    assert len(memory.quality(query(destination="203.0.113.2"))) == 1
    assert len(memory.quality(query(limit=1))) == 1
    assert memory.quality(query(until_unix_s=NOW - 300)) == ()
    memory.close()


def test_what_a_person_does_not_want_to_be_kept_is_gone(path: Path) -> None:
    memory = PathMemory(path)
    both = known(destination("203.0.113.1"), destination("203.0.113.2"))
    for network in ("home", "work"):
        memory.keep(network, both, NOW)
        memory.add_quality(network, [row(NOW)])
    memory.forget(destination="203.0.113.1")
    assert addresses(memory, "home") == {"203.0.113.2": 0}
    assert memory.quality(query()) == ()
    memory.forget(network="home")
    assert addresses(memory, "home") == {}
    assert addresses(memory, "work") == {"203.0.113.2": 0}
    memory.forget()
    assert addresses(memory, "work") == {}
    memory.close()


def test_what_is_forgotten_is_in_no_file_any_more(path: Path) -> None:
    path.write_bytes(b"203.0.113.1 in no database")
    memory = PathMemory(path)
    assert memory.trouble
    memory.keep("home", known(destination("203.0.113.1")), NOW)
    memory.forget()
    left = b"".join(file.read_bytes() for file in path.parent.iterdir())
    memory.close()
    assert b"203.0.113.1" not in left


def test_a_row_of_another_version_is_left_out(path: Path) -> None:
    memory = PathMemory(path)
    memory.add_quality("home", [row(NOW - 300), row(NOW)])
    with contextlib.closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE quality SET document = ? WHERE from_unix_s = ?", (b"\x80", NOW))
    assert [each.from_unix_s for each in memory.quality(query())] == [NOW - 300]
    memory.close()
