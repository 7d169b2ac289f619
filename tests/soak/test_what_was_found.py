"""What the soak has found, each by itself."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from virtual_home import VirtualHome, network

from dataplane.metering import FlowKey, FlowMeter, Kind, LinkMeter, Program, ProgramMeter, Reading, Tally
from hostagent import api
from hostagent.configuration import Configuration, NetworkSection, TariffSection, default_configuration
from hostagent.history.accumulator import Accumulator, Surroundings
from hostagent.networks.situation import Situation
from hostagent.traffic import name_of


@pytest.fixture
def metered(tmp_path: Path) -> Configuration:
    """A cable that costs."""
    configuration = default_configuration(tmp_path, tmp_path / "socket")
    section = NetworkSection(match="cable home", tariff=TariffSection(bundle_gb=1))
    return msgspec.structs.replace(configuration, networks=(section,))


def used(home: VirtualHome) -> int:
    (budget,) = home.books.view_budgets()
    return budget.used


async def test_a_reload_forgets_no_byte_of_a_data_plan(tmp_path: Path, metered: Configuration) -> None:
    home = VirtualHome(tmp_path, metered)
    for _ in range(7):  # five are booked, two are not yet, and none is on the disk
        home.send("/usr/bin/zoom", 1000)
        await home.second()
    home.steering.reload(metered, tmp_path / "hostagent.toml")
    assert used(home) == 7000


async def test_a_network_that_is_left_before_a_reload_keeps_its_bytes(tmp_path: Path, metered: Configuration) -> None:
    home = VirtualHome(tmp_path, metered)
    for _ in range(6):
        home.send("/usr/bin/zoom", 1000)
        await home.second()
    home.situation = Situation(networks=(network("cafe", title="Wi-Fi cafe"),))
    await home.second()
    home.steering.reload(metered, tmp_path / "hostagent.toml")
    home.situation = Situation(networks=(network(),))
    await home.second()
    assert used(home) == 6000


async def test_a_period_ends_between_two_bookings_and_each_byte_is_in_its_own(
    tmp_path: Path, metered: Configuration
) -> None:
    """As in history, whose rows are of five minutes: both agree on every period."""
    home = VirtualHome(tmp_path, metered)
    home.clock.now_unix_s = 1_796_079_597  # 2026-11-30, three seconds to midnight in Berlin
    async with home.books.running():
        for _ in range(5):
            home.send("/usr/bin/zoom", 1000)
            await home.second()
        december = home.clock.now_unix_s - 2
        assert home.books._history is not None
        moved = await home.books._history.moved("home", december, 2**40)
    assert used(home) == moved.bytes == 3000


async def test_data_plans_that_stay_are_not_written_again(tmp_path: Path, metered: Configuration) -> None:
    home = VirtualHome(tmp_path, metered)
    home.send("/usr/bin/zoom", 1000)
    for _ in range(10):
        await home.second()
    home.situation = Situation()
    for _ in range(10):
        await home.second()
    before = (tmp_path / "plans.json").stat().st_ino
    for _ in range(30):
        await home.second()
    assert (tmp_path / "plans.json").stat().st_ino == before


async def test_a_disk_that_stays_full_is_said_once(tmp_path: Path, metered: Configuration) -> None:
    home = VirtualHome(tmp_path, metered)
    (tmp_path / "plans.new").mkdir()
    for _ in range(100):
        home.send("/usr/bin/zoom", 1000)
        await home.second(seconds=100)
    assert [notice.code for notice in home.notices.all()].count("plans") == 1


async def test_what_was_said_while_the_disk_was_full_is_kept_when_it_has_room(tmp_path: Path) -> None:
    home = VirtualHome(tmp_path)
    (tmp_path / "said.new").mkdir()
    await home.steering.set_worth(api.WorthChange(program="rsync", kind="call"))
    (tmp_path / "said.new").rmdir()
    for _ in range(5):
        await home.second()
    assert [word.program for word in VirtualHome(tmp_path).steering.said.view()] == ["rsync"]


def test_a_flow_whose_program_did_not_move_ends_nobody() -> None:
    """What it explains has no program to be taken from; others on the link have moved."""
    accumulator = Accumulator(name_of)
    around = Surroundings(networks={"lo": "home"}, interfaces={1: "lo"}, kinds=("control", "default"))
    quiet, busy = (Program(kind=Kind.PROGRAM, executable=name) for name in ("/quiet", "/busy"))
    for now, (of_quiet, of_busy) in enumerate([(100, 100), (300, 500)], start=1):
        flow = FlowMeter(
            key=FlowKey(1, 6, bytes(4), 40_000, bytes((192, 0, 2, 1)), 443),
            program_number=1,
            process_id=1,
            traffic_class=1,
            sent=Tally(1, of_quiet),
            received=Tally(),
            first_ns=1,
            last_ns=now,
        )
        meters = tuple(
            ProgramMeter(number=number, program=program, sent=Tally(1, count), received=Tally())
            for number, program, count in ((1, quiet, 100), (2, busy, of_busy))
        )
        link = LinkMeter(
            interface="lo",
            sent=Tally(2, 100 + of_busy),
            received=Tally(),
            interface_sent_packets=0,
            interface_received_packets=0,
        )
        reading = Reading(now_ns=now, programs=meters, links=(link,), flows_tracked=1)
        accumulator.on_second(3600 + now, reading, [flow], around)
    rows = accumulator.take().traffic
    assert {key.program: amounts.sent_bytes for key, amounts in rows.items()} == {"quiet": 100, "busy": 500}
