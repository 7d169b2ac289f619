"""A week in an hour: roaming, suspends, kills, a gateway that restarts, a full disk; no leak, no lost cent.

What holds at every look is checked by `virtual_week`; here is what only an end can show.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from virtual_laptop import INDEXES, Looks
from virtual_week import MEASURED_EACH_DAY, Footprint, Week

SUMMER_ENDS = {"zone": ZoneInfo("Australia/Sydney"), "start": date(2029, 3, 31), "reset_day": 1}
"""A month, a data plan's period and summer time end in the same night."""
SUMMER_BEGINS = {"zone": ZoneInfo("Europe/Berlin"), "start": date(2027, 3, 27), "reset_day": 28}
"""The plan's period ends before the same night; the month does on the fifth day. It is awake then."""

BLOCKS = 3000
"""Of memory, small ones: a few hundred kilobytes. One leaked byte string a look would be twice as many in a day."""
OBJECTS = 1000
PLANS_A_DAY = 150
QUIET_PLANS_A_DAY = 100
"""Told to the engine though nothing happened outside: a data plan's caps follow what is left, a rate is found out."""
NOTICES_A_DAY = 60
HISTORY_BYTES_A_DAY = 400_000
BOOK_BYTES_AN_INTERVAL = 2500
"""Two signed statements, a round and transfers; all of it is evidence and is kept."""


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    """Interfaces have numbers though they are not there, and the history's flushes go by looks."""
    found = Looks()
    monkeypatch.setattr("hostagent.steering.socket.if_nametoindex", INDEXES.__getitem__)
    monkeypatch.setattr("hostagent.history.store.asyncio", found.as_asyncio())
    return found


async def soak(
    directory: Path, looks: Looks, *, seed: int, days: int, step_s: int, pay_every_s: int, **when: object
) -> Week:
    print(f"seed {seed}, {days} days from {when['start']}, steps of {step_s} s")  # seen when it fails
    week = Week(directory, looks=looks, seed=seed, days=days, step_s=step_s, pay_every_s=pay_every_s, **when)  # type: ignore[arg-type]
    await week.run()
    check_what_happened(week)
    check_plans_and_notices(week, days)
    check_files(week, days)
    return week


def check_what_happened(week: Week) -> None:
    """A soak in which nothing goes wrong proves nothing."""
    for what in ("kill", "kill and break history", "restart", "reload", "engine", "sleep", "disk full", "vpn up",
                 "go two networks", "go cafe", "go phone", "go train", "clock 95", "clock -120"):  # fmt: skip
        assert week.happened[what], what
    account = week.account.happened
    for what in ("interval", "no answer", "full disk", "crash of A", "crash of X", "lose_reply", "repeat"):
        assert account[what], what
    assert week.person.ended >= 4
    lost = [history for history, _ in week.laptop.lost]
    assert sum(lost) > 0
    assert week.account.sides.forward.sent == week.paid
    assert week.account.sides.forward.lost > 0
    assert {"cafe"} == set(week.laptop.known), "its rate was found out, and only its"


def check_plans_and_notices(week: Week, days: int) -> None:
    assert max(week.plans_by_day.values()) <= PLANS_A_DAY
    assert max(week.quiet_plans_by_day.values()) <= QUIET_PLANS_A_DAY
    assert sum(week.notices.values()) <= NOTICES_A_DAY * (days + 1)
    often = {what: count for what, count in week.notices.items() if count > 8 * (days + 1)}
    assert not often
    full_disk = [count for (code, _), count in week.notices.items() if code in ("said", "plans")]
    assert full_disk
    assert max(full_disk) <= 3, "once in each life of the agent"
    assert sum(count for (code, _), count in week.notices.items() if code == "history") == 1


def check_files(week: Week, days: int) -> None:
    state = week.laptop.directory
    history = sum(file.stat().st_size for file in state.glob("history.sqlite*") if "damaged" not in file.name)
    assert history <= HISTORY_BYTES_A_DAY * (days + 1)
    assert {file.name.partition("-")[0] for file in state.iterdir()} <= {
        "history.sqlite", "history.sqlite.damaged", "plans.json", "said.json",
    }  # fmt: skip
    intervals = sum(week.account.happened.values())
    for node in (week.account.sides.caller, week.account.sides.answerer):
        assert node.path.stat().st_size <= BOOK_BYTES_AN_INTERVAL * intervals + 1_000_000


def check_no_leak(before: Footprint, after: Footprint) -> None:
    """At the same time of two days, or at two quiet times of one."""
    grown = f"more than before: {before.growth(after)}"
    assert after.descriptors <= before.descriptors
    assert after.blocks - before.blocks <= BLOCKS, grown
    assert after.objects.total() - before.objects.total() <= OBJECTS, grown


@pytest.mark.parametrize(
    "when",
    [
        pytest.param(SUMMER_ENDS, id="summer ends"),
        pytest.param(SUMMER_BEGINS, id="summer begins", marks=pytest.mark.deep),
    ],
)
async def test_a_day_in_which_everything_happens(tmp_path: Path, looks: Looks, when: dict[str, object]) -> None:
    week = await soak(tmp_path, looks, seed=1, days=1, step_s=10, pay_every_s=60, **when)
    check_no_leak(week.footprints[0], week.footprints[-1])


@pytest.mark.deep
async def test_a_week_second_by_second(tmp_path: Path, looks: Looks) -> None:
    week = await soak(tmp_path, looks, seed=7, days=7, step_s=1, pay_every_s=10, **SUMMER_BEGINS)
    alike = week.footprints[::MEASURED_EACH_DAY]
    check_no_leak(alike[1], alike[-1])
