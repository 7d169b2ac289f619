"""The history's file: restarts, kills, full disks, broken files, retention, privacy, and questions in local days."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import random
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billpay.errors import EnvironmentFault, LocalProtocolError
from billpay.messages import Timescale
from billpay.tariffs import PerByte, PerMark
from hostagent import api
from hostagent.desk import HistoryQuery
from hostagent.history.calendar import day_span
from hostagent.history.database import Database, Retention, aside_files
from hostagent.history.export import Format
from hostagent.history.statement import Contract, Credit, cover
from hostagent.history.store import History, compact
from hostagent.history.values import Amounts, Counts, Increments, LinkKey, RowKey

UTC = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")
DAY = 86_400
NOON = day_span(date(2026, 7, 15), UTC).from_unix_s + DAY // 2
ALWAYS = (NOON - 4000 * DAY, NOON + 4000 * DAY)


def traffic(
    unix_s: int,
    sent: int,
    received: int = 0,
    *,
    program: str = "curl",
    kind: str = "default",
    destination: str = "192.0.2.1",
    network: str = "home",
    spent: int = 0,
    marks: int = 0,
    priced: int = 0,
) -> Increments:
    """Of one program, as an accumulator gives it: rows and links alike."""
    found = Increments()
    found.add_row(
        RowKey(unix_s // 3600 * 3600, program, kind, destination, network),
        Amounts(sent, received, sent // 100, received // 100, marks, spent, priced),
    )
    found.add_link(LinkKey(unix_s // 300 * 300, network), Counts(sent, received, sent // 100, received // 100, marks))
    return found


def ask(
    since: int = ALWAYS[0], until: int = ALWAYS[1], step: str = "all", by: tuple[str, ...] = (), limit: int = 1000
) -> HistoryQuery:
    return HistoryQuery(since_unix_s=since, until_unix_s=until, step=step, by=by, limit=limit)


def per_byte(picodollars: int, bundle: int = 0, fee: int = 0, reset_day: int = 1) -> PerByte:
    return PerByte(
        issuer="", serial=0, timescale=Timescale.LONG_TERM, valid_from_unix_s=0, picodollars_per_byte=picodollars,
        bundle_bytes=bundle, monthly_fee_nanodollars=fee, reset_day=reset_day,
    )  # fmt: skip


@asynccontextmanager
async def opened(
    path: Path, *, now: int = NOON, zone: ZoneInfo = UTC, retention: Retention | None = None
) -> AsyncIterator[History]:
    history = await History.open(path, retention, zone=zone, unix_s=lambda: now)
    try:
        yield history
    finally:
        await history.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def totals(rows: Iterable[api.HistoryRow]) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows:
        for name in ("sent_bytes", "received_bytes", "sent_packets", "received_packets", "received_ce_packets",
                     "spent_nanodollars", "priced_nanodollars", "tariff_nanodollars"):  # fmt: skip
            found[name] += getattr(row, name)
    return found


# --- restarts, kills, disks -------------------------------------------------------------------------------------------


@pytest.mark.expectation(13)
async def test_totals_go_on_after_a_restart_and_the_file_is_ours_alone(path: Path) -> None:
    for _ in range(3):
        async with opened(path) as history:
            history.add(traffic(NOON, 100, 20))
            assert await history.flush()
    async with opened(path) as history:
        (row,) = await history.rows(ask(by=("program", "network")), UTC)
        assert (row.program, row.network, row.sent_bytes, row.received_bytes) == ("curl", "home", 300, 60)
        assert await history.moved("home", *ALWAYS) == Counts(300, 60, 3, 0)
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_what_is_not_written_yet_is_in_the_answers_once(path: Path) -> None:
    async with opened(path) as history:
        history.add(traffic(NOON, 100))
        await history.flush()
        history.add(traffic(NOON, 10))
        assert totals(await history.rows(ask(), UTC))["sent_bytes"] == 110
        answers = await asyncio.gather(*(history.rows(ask(), UTC) for _ in range(5)), history.flush())
        assert all(totals(cast("tuple[api.HistoryRow, ...]", rows))["sent_bytes"] == 110 for rows in answers[:5])


async def test_a_batch_is_written_once_even_if_nobody_saw_the_end_of_its_write(path: Path) -> None:
    database = Database(path)
    for _ in range(3):
        database.write(traffic(NOON, 100), ("me", 1))
    database.write(traffic(NOON, 5), ("me", 2))
    database.close()
    async with opened(path) as history:
        assert totals(await history.rows(ask(), UTC))["sent_bytes"] == 105


WRITER = """
import asyncio, sys
from pathlib import Path
from zoneinfo import ZoneInfo
sys.path.insert(0, {tests!r})
from test_store import NOON, traffic
from hostagent.history.store import History

async def main():
    history = await History.open(Path({path!r}), zone=ZoneInfo("UTC"))
    for number in range(1, 100000):
        history.add(traffic(NOON + number, 100, 10))
        assert await history.flush()
        print(number, flush=True)
asyncio.run(main())
"""


@pytest.mark.expectation(13)
def test_a_killed_writer_loses_no_more_than_its_last_flush(path: Path) -> None:
    code = WRITER.format(tests=str(Path(__file__).parent), path=str(path))
    told = 0
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            told = int(line)
            if told == 40:
                os.kill(writer.pid, signal.SIGKILL)
    with sqlite3.connect(path) as found:
        (sent,) = found.execute("SELECT SUM(sent_bytes) FROM traffic").fetchone()
        (links,) = found.execute("SELECT SUM(sent_bytes) FROM links").fetchone()
    found.close()
    assert told * 100 <= sent <= told * 100 + 100
    assert links == sent


@pytest.mark.expectation(13)
async def test_on_a_full_disk_the_agent_goes_on_and_nothing_is_lost(path: Path) -> None:
    """The process may write no longer files than there are now; then it may again."""
    async with opened(path) as history:
        history.add(traffic(NOON, 1))
        assert await history.flush()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
        try:
            for number in range(3000):
                history.add(traffic(NOON + number, 10, destination=f"2001:db8::{number:x}"))
            assert not await history.flush()
            assert "kept in memory" in history.trouble
            history.add(traffic(NOON, 5))
            assert not await history.flush()
            assert totals(await history.rows(ask(), UTC))["sent_bytes"] == 30_006
            with pytest.raises(EnvironmentFault, match="nothing was deleted"):
                await history.forget(program="curl")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert await history.flush()
        assert history.trouble == ""
    async with opened(path) as history:
        assert totals(await history.rows(ask(), UTC))["sent_bytes"] == 30_006
        assert await history.moved("home", *ALWAYS) == Counts(30_006, 0, 0, 0)


async def test_a_directory_that_is_not_there_is_said_and_waited_for(tmp_path: Path) -> None:
    async with opened(tmp_path / "later" / "history.sqlite") as history:
        assert "unable to open" in history.trouble or "No such file" in history.trouble
        history.add(traffic(NOON, 7))
        assert not await history.flush()
        assert totals(await history.rows(ask(), UTC))["sent_bytes"] == 7
        (tmp_path / "later").mkdir()
        assert await history.flush()
        assert totals(await history.rows(ask(), UTC))["sent_bytes"] == 7


def test_what_waits_in_memory_is_bounded_and_its_sums_are_exact() -> None:
    waiting = Increments()
    for number in range(500):
        waiting.add(traffic(NOON + 300 * number, 3, program=f"p{number % 7}", destination=f"192.0.2.{number}"))
    smaller = compact(waiting, rows_max=100)
    assert len(smaller.traffic) <= 100
    assert len(smaller.links) <= 100
    assert sum(amounts.sent_bytes for amounts in smaller.traffic.values()) == 1500
    assert sum(counts.sent_bytes for counts in smaller.links.values()) == 1500
    assert compact(waiting, rows_max=1000).traffic == waiting.traffic


@pytest.mark.parametrize("damage", ["no database", "pages", "cut"])
async def test_a_broken_file_is_kept_aside_and_said_and_a_new_one_is_begun(path: Path, damage: str) -> None:
    async with opened(path) as history:
        for number in range(400):
            history.add(traffic(NOON, 10, destination=f"192.0.2.{number}"))
    content = path.read_bytes()
    broken = {
        "no database": b"not a database at all" * 400,
        "pages": content[:4096] + random.Random(1).randbytes(len(content) - 4096),
        "cut": content[: len(content) // 2 + 100],
    }[damage]
    path.write_bytes(broken)
    async with opened(path) as history:
        (said,) = history.take_notices()
        assert "was broken" in said
        assert history.take_notices() == []
        assert history.trouble == ""
        (aside,) = aside_files(path)
        assert str(aside) in said
        assert aside.read_bytes() == broken
        history.add(traffic(NOON, 3))
        assert await history.flush()
        assert totals(await history.rows(ask(), UTC))["sent_bytes"] == 3


async def test_a_file_that_breaks_while_it_is_used_costs_nothing_that_is_in_memory(path: Path) -> None:
    async with opened(path) as history:
        history.add(traffic(NOON, 10))
        await history.flush()
        history.add(traffic(NOON, 5))
        for name in ("", "-wal", "-shm"):
            file = path.with_name(path.name + name)
            file.write_bytes(b"\xff" * max(8192, file.stat().st_size))
        assert totals(await history.rows(ask(), UTC))["sent_bytes"] in (5, 15)
        assert await history.flush()
        assert history.take_notices()
        assert totals(await history.rows(ask(), UTC))["sent_bytes"] == 5


async def test_a_file_of_a_later_version_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    before = path.read_bytes()
    async with opened(path) as history:
        history.add(traffic(NOON, 10))
        assert not await history.flush()
        assert "newer than ours" in history.trouble
    assert path.read_bytes() == before


async def test_it_flushes_and_rolls_up_on_its_own(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostagent.history.store.FLUSH_S", 0)
    async with opened(path) as history:
        history.add(traffic(NOON - 100 * DAY, 10))
        work = asyncio.create_task(history.work())
        async with asyncio.timeout(10):
            while (await history.rows(ask(step="hour"), UTC))[0].seconds != DAY:
                await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work


# --- retention --------------------------------------------------------------------------------------------------------

events = st.lists(
    st.tuples(
        st.integers(0, 100),  # days ago
        st.integers(0, 86_399),
        st.integers(1, 10**6),
        st.sampled_from(["curl", "ssh"]),
        st.sampled_from(["", "192.0.2.1", "192.0.2.2"]),
        st.sampled_from(["home", "cafe"]),
    ),
    max_size=25,
)
zones = st.sampled_from([UTC, BERLIN, ZoneInfo("Asia/Kolkata"), ZoneInfo("America/New_York")])


@pytest.mark.expectation(13)
@settings(max_examples=25, deadline=None)
@given(events, zones)
def test_rolling_up_keeps_every_sum(happened: list[tuple[int, int, int, str, str, str]], zone: ZoneInfo) -> None:
    """By program, network and local day, in rows and in links."""

    async def check(path: Path) -> None:
        async with opened(path, zone=zone) as history:
            for days_ago, second, size, program, destination, network in happened:
                history.add(
                    traffic(NOON - days_ago * DAY - second, size, 2 * size, program=program, destination=destination,
                            network=network, spent=size % 7)
                )  # fmt: skip
            await history.flush()
            by_day = ask(step="day", by=("program", "network"))
            before = await history.rows(by_day, zone)
            assert await history.roll_up()
            assert await history.rows(by_day, zone) == before
            assert await history.roll_up()  # and nothing happens twice
            assert await history.rows(by_day, zone) == before
            for network in ("home", "cafe"):
                moved = await history.moved(network, *ALWAYS)
                rows = [row for row in before if row.network == network]
                assert moved.bytes == sum(row.sent_bytes + row.received_bytes for row in rows)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(check(Path(directory) / "h"))


async def test_hours_become_days_and_destinations_go_and_days_go(path: Path) -> None:
    ages = (1, 40, 70, 2000)
    async with opened(path) as history:
        for age in ages:
            history.add(traffic(NOON - age * DAY, age, spent=1))
            history.add(traffic(NOON - age * DAY, age, destination="192.0.2.9"))
        await history.roll_up()
        await history.flush()
        await history.roll_up()
        found = await history.rows(ask(step="hour", by=("destination",)), UTC)
        assert found[0].program == ""
        assert found[0].from_unix_s == day_span(date(2021, 1, 22), UTC).from_unix_s
        told = [(row.seconds, row.destination, row.sent_bytes, row.spent_nanodollars) for row in found]
        assert told == [
            (DAY, "", 0, 1),  # only the payment is left
            (DAY, "", 140, 1),
            (3600, "", 80, 1),
            (3600, "192.0.2.1", 1, 1),
            (3600, "192.0.2.9", 1, 0),
        ]


async def test_volumes_of_five_minutes_count_silence_and_say_what_is_not_known(path: Path) -> None:
    day = day_span(date(2026, 7, 14), UTC)
    async with opened(path) as history:
        history.add(traffic(day.from_unix_s, 10, 30))
        history.add(traffic(day.from_unix_s + 299, 5, 5))
        history.add(traffic(day.from_unix_s + 300, 50, 40))
        found = await history.volumes("home", *day)
        assert sorted(found.samples, reverse=True) == [50, 35, *[0] * 286]
        assert found.unknown_s == 0
        old = day_span(date(2026, 1, 1), UTC)
        history.add(traffic(old.from_unix_s, 10))
        await history.flush()
        await history.roll_up()
        assert (await history.volumes("home", *old)) == ((), DAY)


# --- questions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25)])
async def test_days_of_23_and_25_hours_hold_their_hours(path: Path, day: date, hours: int) -> None:
    span = day_span(day, BERLIN)
    async with opened(path, now=span.until_unix_s + 100 * DAY, zone=BERLIN) as history:
        for hour in range(-24, 50):
            history.add(traffic(span.from_unix_s + hour * 3600, 1))
        for _ in range(2):  # by hours, and then rolled up
            found = await history.rows(ask(span.from_unix_s - DAY, span.until_unix_s + DAY, "day"), BERLIN)
            assert [(row.seconds, row.sent_bytes) for row in found][1] == (hours * 3600, hours)
            assert found[1].from_unix_s == span.from_unix_s
            await history.flush()
            await history.roll_up()


async def test_hours_days_months_and_any_grouping(path: Path) -> None:
    async with opened(path) as history:
        history.add(traffic(NOON, 1, program="a", kind="bulk"))
        history.add(traffic(NOON + 3600, 2, program="b"))
        history.add(traffic(NOON + DAY, 4, program="a", network="cafe"))
        history.add(traffic(NOON + 31 * DAY, 8, program="a", destination="192.0.2.7"))

        async def sent(step: str, *by: str) -> list[tuple[object, ...]]:
            rows = await history.rows(ask(step=step, by=by), UTC)
            return [(*[getattr(row, name) for name in by], row.sent_bytes) for row in rows]

        assert await sent("all") == [(15,)]
        assert await sent("hour") == [(1,), (2,), (4,), (8,)]
        assert await sent("day") == [(3,), (4,), (8,)]
        assert await sent("month", "program") == [("a", 5), ("b", 2), ("a", 8)]
        assert await sent("all", "network", "kind") == [
            ("home", "default", 10),
            ("cafe", "default", 4),
            ("home", "bulk", 1),
        ]
        assert await sent("all", "destination") == [("192.0.2.7", 8), ("192.0.2.1", 7)]
        assert [row.sent_bytes for row in await history.rows(ask(NOON + 3600, NOON + DAY + 3600), UTC)] == [6]
        with pytest.raises(ValueError, match="step is one of"):
            await history.rows(ask(step="week"), UTC)
        with pytest.raises(ValueError, match="by any of"):
            await history.rows(ask(by=("program; DROP TABLE traffic",)), UTC)


async def test_beyond_the_limit_rows_are_one_and_sums_stay(path: Path) -> None:
    async with opened(path) as history:
        for number in range(100):
            history.add(traffic(NOON + number // 50 * DAY, 1 + number, program=f"p{number}"))
        found = await history.rows(ask(step="day", by=("program",), limit=10), UTC)
        assert len(found) == 10
        assert sum(row.sent_bytes for row in found) == 5050
        assert [row.program for row in found].count("(others)") == 2
        assert found[-2].program == "p92"


async def test_a_question_with_very_many_answers_is_cut_on_the_way(path: Path) -> None:
    """Destinations of months are more than fit into a small daemon at once."""
    async with opened(path) as history:
        for number in range(7000):
            history.add(traffic(NOON + number % 50 * 3600, 1 + number, destination=f"d{number}"))
        tariffs = {"home": per_byte(1000)}
        found = await history.rows(ask(by=("destination",), limit=100), UTC, tariffs)
        assert len(found) == 100
        assert [row.destination for row in found][:2] == ["d6999", "d6998"]
        assert [row.destination for row in found][-2:] == ["d6901", "(others)"]
        assert totals(found)["tariff_nanodollars"] == totals(found)["sent_bytes"] == 7000 * 7001 // 2
        assert found[0].tariff_nanodollars == 7000


async def test_month_usage_is_by_kind_and_from_reset_day_to_reset_day(path: Path) -> None:
    async with opened(path) as history:
        for day, size in (
            (date(2026, 7, 14), 1),
            (date(2026, 7, 15), 10),
            (date(2026, 8, 14), 100),
            (date(2026, 8, 15), 1000),
        ):
            span = day_span(day, BERLIN)
            history.add(traffic(span.from_unix_s, size, kind="bulk"))
            history.add(traffic(span.until_unix_s - 3600, size, 1, kind="call"))
        usage = await history.month_usage("home", "2026-07", BERLIN, reset_day=15)
        assert usage == {"bulk": 110, "call": 112}
        assert await history.month_usage("cafe", "2026-07", BERLIN) == {}


async def test_the_networks_own_tariff_is_reckoned_when_asked_and_adds_up_to_its_bill(path: Path) -> None:
    async with opened(path) as history:
        for number in range(7):
            history.add(traffic(NOON + number * 3600, 1000 + number, program=f"p{number}"))
        history.add(traffic(NOON, 999, network="cafe"))
        moved = (await history.moved("home", *ALWAYS)).bytes
        for tariff in (
            per_byte(777),
            per_byte(777, bundle=5000, fee=10**9),
            per_byte(1, bundle=10**9),
            per_byte(3, reset_day=15),
        ):
            rows = await history.rows(ask(step="day", by=("program",)), UTC, {"home": tariff})
            beyond = max(0, moved - tariff.bundle_bytes)
            assert totals(rows)["tariff_nanodollars"] == beyond * tariff.picodollars_per_byte // 1000
        part = await history.rows(ask(NOON, NOON + 3600, by=("program",)), UTC, {"home": per_byte(1000)})
        assert totals(part)["tariff_nanodollars"] == 1000


async def test_a_tariff_per_mark_is_shared_by_marks(path: Path) -> None:
    tariff = PerMark(issuer="", serial=0, timescale=Timescale.LONG_TERM, valid_from_unix_s=0, nanodollars_per_mark=50)
    async with opened(path) as history:
        history.add(traffic(NOON, 10**6, program="calm"))
        history.add(traffic(NOON, 0, 1000, program="pushy", marks=3))
        rows = await history.rows(ask(by=("program",)), UTC, {"home": tariff})
        assert {row.program: row.tariff_nanodollars for row in rows} == {"calm": 0, "pushy": 150}


# --- export, privacy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["csv", "json", "jsonl"])
async def test_what_is_exported_reads_back_as_it_was(path: Path, format_: Format) -> None:
    async with opened(path) as history:
        for program in ("curl", 'qu"ote,comma', "zwei\nZeilen", "=cmd()", "Пример"):
            history.add(traffic(NOON, 10**15, 1, program=program, spent=12345678901234567))
        rows = await history.rows(ask(by=("program", "destination", "network", "kind")), UTC, {"home": per_byte(5)})
        file = io.StringIO()
        assert await history.export(
            ask(by=("program", "destination", "network", "kind")), format_, file, UTC, {"home": per_byte(5)}
        ) == len(rows)
    text = file.getvalue()
    if format_ == "json":
        assert msgspec.json.decode(text, type=tuple[api.HistoryRow, ...]) == rows
    elif format_ == "jsonl":
        assert tuple(msgspec.json.decode(line, type=api.HistoryRow) for line in text.splitlines()) == rows
    else:
        table = csv.DictReader(io.StringIO(text))
        found = [msgspec.convert(row, type=api.HistoryRow, strict=False) for row in table]
        assert [msgspec.structs.replace(row, program=row.program.removeprefix("'")) for row in found] == list(rows)
        assert "'=cmd()" in text
        assert "\n=cmd()" not in text


async def test_a_name_that_is_forgotten_is_nowhere_and_sums_stay(path: Path) -> None:
    async with opened(path) as history:
        history.add(traffic(NOON, 100, program="secret-player", destination="198.51.100.77", spent=5))
        history.add(traffic(NOON, 10, program="curl", destination="192.0.2.1"))
        await history.flush()
        history.add(traffic(NOON, 1, program="secret-player", destination="198.51.100.77"))
        assert await history.forget(program="secret-player") == 1
        assert await history.forget(destination="198.51.100.77") == 1
        assert await history.forget(program="never seen") == 0
        rows = await history.rows(ask(by=("program", "destination")), UTC)
        assert [(row.program, row.destination, row.sent_bytes, row.spent_nanodollars) for row in rows] == [
            ("(forgotten)", "(forgotten)", 101, 5),
            ("curl", "192.0.2.1", 10, 0),
        ]
        for file in path.parent.iterdir():
            content = file.read_bytes()
            assert b"secret-player" not in content
            assert b"198.51.100.77" not in content


async def test_a_network_and_everything_can_be_forgotten_but_money_is_kept(path: Path) -> None:
    path.with_name(path.name + ".damaged-1").write_text("cafe")
    async with opened(path) as history:
        await history.credit(Credit(id="v1", unix_s=NOON, nanodollars=1000))
        history.add(traffic(NOON, 100, network="cafe", spent=30))
        history.add(traffic(NOON, 50, spent=3))
        await history.forget(network="cafe")
        assert aside_files(path) == []
        assert (await history.moved("cafe", *ALWAYS)).bytes == 0
        assert (await history.moved("(forgotten)", *ALWAYS)).bytes == 100
        before = await history.statement("2026-07", UTC)
        await history.forget(all=True)
        rows = await history.rows(ask(by=("program", "network", "kind", "destination")), UTC)
        assert [(row.program, row.network, row.sent_bytes, row.spent_nanodollars) for row in rows] == [
            ("(forgotten)", "(forgotten)", 0, 33)
        ]
        after = await history.statement("2026-07", UTC)
        assert after.closing_nanodollars == before.closing_nanodollars == 967
        with pytest.raises(ValueError, match="one of"):
            await history.forget()
        with pytest.raises(ValueError, match="one of"):
            await history.forget(program="a", all=True)


# --- statements and replay out of the file ----------------------------------------------------------------------------


@pytest.mark.expectation(17)
async def test_statements_of_following_months_join(path: Path) -> None:
    contracts = (
        Contract(network="home", title="Home DSL", tariff=per_byte(1000, fee=500)),
        Contract(network="cafe", title="Prepaid", tariff=per_byte(2000, fee=70), prepaid=True),
    )
    async with opened(path) as history:
        assert await history.credit(Credit(id="t1", unix_s=NOON - 60 * DAY, nanodollars=10_000, reason="card"))
        assert not await history.credit(Credit(id="t1", unix_s=NOON - 60 * DAY, nanodollars=10_000, reason="card"))
        with pytest.raises(LocalProtocolError, match="another one"):
            await history.credit(Credit(id="t1", unix_s=NOON, nanodollars=1))
        for days_ago, network in ((61, "home"), (40, "cafe"), (5, "cafe"), (4, "home")):
            history.add(traffic(NOON - days_ago * DAY, 100, 23, network=network, spent=11, priced=2))
        months = [
            await history.statement(month, UTC, contracts) for month in ("2026-04", "2026-05", "2026-06", "2026-07")
        ]
        again = [
            await history.statement(month, UTC, contracts) for month in ("2026-04", "2026-05", "2026-06", "2026-07")
        ]
        assert months == again
        for one, following in pairwise(months):
            assert one.closing_nanodollars == following.opening_nanodollars
        for month in months:
            assert sum(line.nanodollars for line in month.lines) == month.spent_nanodollars
            assert sum(line.nanodollars for line in month.fee_lines) == month.fees_nanodollars
        july = months[-1]
        assert july.spent_nanodollars == 2 * 11 + 123 + 246
        assert july.fees_nanodollars == 570
        assert july.topped_up_nanodollars == 500 + 123  # what Home DSL collects itself
        assert cover(await history.credits(), 700) == (0, 700, 0)
        assert july.closing_nanodollars == 10_000 - 4 * 11 - 2 * 246 - 2 * 70
        assert (july.internal_nanodollars, july.bytes) == (4, 246)
        by_network = await history.statement("2026-07", UTC, contracts, by="network")
        assert {line.what: line.nanodollars for line in by_network.lines} == {"Prepaid": 257, "Home DSL": 134}


async def test_replay_of_days_is_replay_of_hours_where_days_are_enough(path: Path) -> None:
    span = (day_span(date(2026, 3, 1), BERLIN).from_unix_s, day_span(date(2026, 3, 31), BERLIN).until_unix_s)
    dice = random.Random(3)
    async with opened(path, zone=BERLIN) as history:
        for _ in range(300):
            history.add(
                traffic(dice.randrange(*span), dice.randrange(10**9), dice.randrange(10**9), marks=dice.randrange(9))
            )
        hours = await history.replay_bills(*span, BERLIN)
        await history.flush()
        await history.roll_up()
        days = await history.replay_bills(*span, BERLIN)
        assert len(hours) == 5
        assert [bill.title for bill in hours if bill.unknown] == []
        assert [bill.title for bill in days if bill.unknown] == ["95th percentile: 5 a month per Mbit/s"]
        assert [bill for bill in days if not bill.unknown] == [
            bill for bill in hours if not bill.title.startswith("95")
        ]
        lines = await history.replay(*span, BERLIN)
        assert lines[2].reason.startswith("not known: 31 days are kept by the day only")
