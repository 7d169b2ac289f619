"""The cartographer's part of the agent: a map for each network, over restarts, and what people are shown of it."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from hostagent import api
from hostagent.configuration import Configuration, PathsSection, default_configuration
from hostagent.networks.known import KnownNetwork
from hostagent.networks.situation import ActiveNetwork, NetworkKind, Situation
from hostagent.paths.memory import PathMemory
from hostagent.paths.paths import Paths
from secretary.transfers import Moment

NS_PER_S = 1_000_000_000
THERE, ELSEWHERE = "203.0.113.20", "2001:db8::20"
X_BY_1, X_BY_2 = "AS64512:1 AS64513:1", "AS64512:2 AS64514:1"


class VirtualClock:
    def __init__(self) -> None:
        self.now_s = 1_762_990_000

    def monotonic_ns(self) -> int:
        return self.now_s * NS_PER_S

    def unix_s(self) -> int:
        return self.now_s

    def moment(self) -> Moment:
        return Moment(unix_s=self.now_s, boot_ns=self.monotonic_ns(), boot="b", zone=self.zone())

    def zone(self) -> ZoneInfo:
        return ZoneInfo("UTC")


def on(name: str, *, is_settled: bool = True) -> Situation:
    network = ActiveNetwork(
        key=name,
        aliases=(name,),
        is_settled=is_settled,
        title=f"Wi-Fi {name}",
        kind=NetworkKind.WIFI,
        interface="wlan0",
        index=3,
        is_primary=True,
        metrics=(600, None),
        routers=(),
        prefixes=(),
        addresses=(),
    )
    return Situation(networks=(network,))


class Laptop:
    """An agent's paths on a virtual clock."""

    def __init__(self, directory: Path) -> None:
        self.clock = VirtualClock()
        self.situation: Situation | None = on("home")
        self.situations = 0  # so often it was asked where it is
        self.said: list[tuple[str, str]] = []
        self._directory = directory

    def paths(self, *, acts: bool = True, **section: bool) -> Paths:
        whole = default_configuration(self._directory, self._directory / "agent.sock")
        quiet = {"learn_from_sockets": False, "check": False} | section
        configuration: Configuration = msgspec.structs.replace(whole, paths=msgspec.convert(quiet, PathsSection))
        return Paths(
            configuration,
            clock=self.clock,
            situation=self._where,
            followed=tuple,
            say=lambda code, line: self.said.append((code, line)),
            acts=lambda: acts,
        )

    def _where(self) -> Situation | None:
        self.situations += 1
        return self.situation

    def talks(self, paths: Paths, way: str, toll: int, *, seconds: int = 5) -> None:
        oads = tuple((int(hop[2:7]), 0x803, int(hop[-1])) for hop in way.split())
        for _ in range(seconds):
            now_ns = self.clock.monotonic_ns()
            paths.cartographer.choose(THERE, now_ns)
            paths.cartographer.on_oads_seen(THERE, oads, 20, 20 - toll, now_ns, packets=10)
            paths.cartographer.on_round_trip(THERE, 20_000_000, now_ns, way=way)
            self.clock.now_s += 1


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    return Laptop(tmp_path)


def ways(paths: Paths) -> set[str]:
    return {each.way for each in paths.ways("", 100) if each.delay_ns is not None}


@pytest.mark.expectation(20)
async def test_a_new_network_is_a_new_map_and_a_known_one_is_recalled(laptop: Laptop) -> None:
    paths = laptop.paths()
    async with paths.running():
        laptop.talks(paths, X_BY_1, 14)
        assert ways(paths) == {X_BY_1}
        laptop.situation = on("work")
        paths.look()
        assert ways(paths) == set()
        laptop.talks(paths, X_BY_2, 3)
        laptop.situation = Situation()
        paths.look()
        assert ways(paths) == {X_BY_2}, "offline: it may come back"
        laptop.situation = on("home", is_settled=False)
        paths.look()
        assert ways(paths) == {X_BY_2}, "nobody knows yet which network this is"
        laptop.situation = on("home")
        paths.look()
        assert ways(paths) == {X_BY_1}


async def test_what_is_known_outlives_a_restart_and_has_grown_older(laptop: Laptop) -> None:
    paths = laptop.paths()
    async with paths.running():
        laptop.talks(paths, X_BY_1, 14)
    laptop.clock.now_s += 100
    again = laptop.paths()
    async with again.running():
        (way,) = [each for each in again.ways(THERE, 10) if each.delay_ns is not None]
        assert way.delay_ns is not None
        assert way.delay_ns.value == pytest.approx(20_000_000, rel=0.02)
        assert way.delay_ns.age_s is not None
        assert 100 <= way.delay_ns.age_s <= 102
        assert again.view().destinations == 1


async def test_who_does_not_want_it_has_no_file(laptop: Laptop, tmp_path: Path) -> None:
    paths = laptop.paths(remember=False)
    async with paths.running():
        laptop.talks(paths, X_BY_1, 14)
    assert list(tmp_path.glob("paths*")) == []


async def test_what_a_person_wants_forgotten_is_gone_from_the_map_and_the_file(laptop: Laptop) -> None:
    paths = laptop.paths()
    async with paths.running():
        laptop.talks(paths, X_BY_1, 14)
        await paths.forget(api.Forget(program="curl"))
        assert ways(paths) == {X_BY_1}
        await paths.forget(api.Forget(destination=THERE))
        assert ways(paths) == set()
    again = laptop.paths()
    async with again.running():
        assert ways(again) == set()


async def test_a_destination_of_ordinary_sockets_has_a_way_too(laptop: Laptop) -> None:
    paths = laptop.paths()
    async with paths.running():
        paths.cartographer.on_round_trip(ELSEWHERE, 9_000_000, laptop.clock.monotonic_ns())
        paths.cartographer.on_loss(ELSEWHERE, sent=100, lost=2, now_ns=laptop.clock.monotonic_ns())
        (way,) = paths.ways(ELSEWHERE, 10)
        assert (way.way, way.loss_ppm is not None) == ("", True)
        assert way.delay_ns is not None
        assert way.delay_ns.value == 9_000_000


async def test_the_map_shows_who_is_behind_whom_and_what_is_used(laptop: Laptop) -> None:
    paths = laptop.paths()
    async with paths.running():
        laptop.talks(paths, X_BY_1, 14)
        shown = paths.map("")
        assert shown.network == "Wi-Fi home"
        assert [node.name for node in shown.nodes] == ["here", "AS64512", "AS64513", THERE]
        assert {(link.source, link.target, link.alternative, link.used) for link in shown.links} == {
            ("here", "AS64512", None, True),
            ("AS64512", "AS64513", 1, True),
            ("AS64513", THERE, 1, True),
        }
        assert paths.map(ELSEWHERE).links == ()


async def test_a_full_disk_costs_memory_and_is_said_once(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    paths = laptop.paths()
    async with paths.running():
        laptop.talks(paths, X_BY_1, 14)
        monkeypatch.setattr(PathMemory, "keep", full)
        laptop.situation = on("work")
        paths.look()
        laptop.talks(paths, X_BY_2, 3)
        assert ways(paths) == {X_BY_2}
    assert [code for code, _ in laptop.said] == ["paths"]


async def test_a_network_is_forgotten_by_its_title_also_in_the_file(laptop: Laptop, tmp_path: Path) -> None:
    paths = laptop.paths()
    async with paths.running():
        laptop.talks(paths, X_BY_1, 14)
        laptop.situation = on("work")
        paths.look()
        laptop.talks(paths, X_BY_2, 3)
        known = [KnownNetwork(key="home", title="Wi-Fi home", kind="wifi", first_seen_unix_s=1, last_seen_unix_s=2)]
        await paths.forget(api.Forget(network="Wi-Fi home"), known)
        assert ways(paths) == {X_BY_2}, "another network's map stays"
    memory = PathMemory(tmp_path / "paths.sqlite")
    assert memory.recall("home", laptop.clock.unix_s()) == []
    assert memory.recall("work", laptop.clock.unix_s()) != []
    memory.close()


async def test_what_an_earlier_run_remembered_can_be_forgotten_too(laptop: Laptop, tmp_path: Path) -> None:
    paths = laptop.paths()
    async with paths.running():
        laptop.talks(paths, X_BY_1, 14)
    without = laptop.paths(remember=False)
    async with without.running():
        await without.forget(api.Forget(everything=True))
    assert all(THERE.encode() not in file.read_bytes() for file in tmp_path.glob("paths*"))


async def test_an_agent_that_only_observes_checks_no_way(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(Paths, "_check_one", lambda _paths: begun.append(THERE))
    monkeypatch.setattr("hostagent.paths.paths.SECOND_S", 0.001)
    for acts in (False, True):
        paths = laptop.paths(check=True, acts=acts)
        async with paths.running():
            work = asyncio.create_task(paths.work())
            while laptop.situations < 50:
                await asyncio.sleep(0.001)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        assert bool(begun) is acts
        laptop.situations = 0
