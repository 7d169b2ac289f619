"""What both databases have to keep: the same contract, in SQLite and in PostgreSQL."""

from __future__ import annotations

import concurrent.futures
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from campus_reports import MS, OTHER_PREFIX, OTHER_WAY, PREFIX, WAY, line, report, vouched
from postgresql_server import PostgresqlServer

from billpay.errors import EnvironmentFault
from billpay.messages import OadDescription
from billpay.signing import verify
from cartographer.campus.messages import FoundOut, Report, digest_of
from cartographer.campus.pooling import Contribution
from cartographer.campus.store import Store, Verified
from cartographer.values import Quantity

HOSTS = [f"{number:032x}" for number in range(1, 8)]
ASKER = HOSTS[-1]
PERIOD = 6_000_000
DELAY = (PREFIX, WAY, Quantity.DELAY_NS)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgresqlServer]:
    with PostgresqlServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "campus.sqlite")
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    server.empty()
    return server.url


@pytest.fixture
def opened(where: str) -> Iterator[Callable[[], Store]]:
    stores: list[Store] = []

    def open_one() -> Store:
        stores.append(Store.open(where))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[[], Store]) -> Store:
    return opened()


def take(store: Store, host: str, report: Report, *, period: int = PERIOD, lines_max: int = 100) -> bool:
    receipt = store.take(host, report, period=period, lines_max=lines_max)
    return receipt.digest == digest_of(report)


def means(store: Store, *, asker: str = ASKER, hosts_min: int = 3, since: int = PERIOD - 100) -> list[int]:
    found = store.contributions(
        "", [PREFIX, OTHER_PREFIX], asker=asker, since=since, period=PERIOD, hosts_min=hosts_min
    )
    return [one.mean // MS for one in found.get(DELAY, [])]


def test_what_is_reported_is_there_after_a_restart(opened: Callable[[], Store]) -> None:
    store = opened()
    for number, host in enumerate(HOSTS[:3]):
        assert take(
            store, host, report(1, line(50 + number, age_periods=number), line(quantity=Quantity.LOSS_PPM, mean=7))
        )
    store.close()
    found = opened().contributions("", [PREFIX], asker=ASKER, since=0, period=PERIOD + 1, hosts_min=3)
    assert found[DELAY] == [
        Contribution(count=10, mean=(50 + number) * MS, spread=5 * MS, age_periods=number + 1) for number in range(3)
    ]
    assert [one.mean for one in found[PREFIX, WAY, Quantity.LOSS_PPM]] == [7] * 3


def test_a_later_line_replaces_the_hosts_earlier_one(store: Store) -> None:
    take(store, HOSTS[0], report(1, line(50), line(70, way=OTHER_WAY)))
    take(store, HOSTS[0], report(2, line(40)))
    assert means(store, hosts_min=1) == [40]
    assert store.counts(since=0, unix_s=0, hosts_min=1).lines == 2


def test_replay_and_late_reports_change_nothing(store: Store) -> None:
    first, second = report(4, line(50)), report(5, line(40))
    assert take(store, HOSTS[0], first)
    assert take(store, HOSTS[0], second)
    for late in (first, report(5, line(999)), report(1, line(1))):
        assert not take(store, HOSTS[0], late)
    assert take(store, HOSTS[0], second)  # said again: the same receipt
    assert means(store, hosts_min=1) == [40]
    assert store.take(HOSTS[0], first, period=PERIOD, lines_max=9).sequence == 5


def test_nothing_is_told_before_enough_other_hosts_have_spoken(store: Store) -> None:
    for number, host in enumerate(HOSTS[:3]):
        assert means(store) == []
        take(store, host, report(1, line(50 + number)))
    assert means(store) == [50, 51, 52]
    assert means(store, asker=HOSTS[0]) == []  # it is one of the three
    take(store, HOSTS[3], report(1, line(60)))
    assert means(store, asker=HOSTS[0]) == [51, 52, 60]
    take(store, HOSTS[4], report(1, line(70, prefix=OTHER_PREFIX)))
    assert not store.contributions("", [OTHER_PREFIX], asker=ASKER, since=0, period=PERIOD, hosts_min=3)
    assert not store.contributions("", [], asker=ASKER, since=0, period=PERIOD, hosts_min=3)


def test_hosts_of_one_prefix_are_counted_whatever_way_they_measured(store: Store) -> None:
    take(store, HOSTS[0], report(1, line(50)))
    take(store, HOSTS[1], report(1, line(60, way=OTHER_WAY)))
    take(store, HOSTS[2], report(1, line(70, way="")))
    found = store.contributions("", [PREFIX], asker=ASKER, since=0, period=PERIOD, hosts_min=3)
    assert {way: len(said) for (_, way, _), said in found.items()} == {WAY: 1, OTHER_WAY: 1, "": 1}


def test_places_are_kept_apart(store: Store) -> None:
    for host in HOSTS[:3]:
        take(store, host, report(1, line(50), place="north"))
    assert means(store) == []
    assert store.contributions("north", [PREFIX], asker=ASKER, since=0, period=PERIOD, hosts_min=3)


def test_old_lines_do_not_count_and_are_forgotten(store: Store) -> None:
    for number, host in enumerate(HOSTS[:3]):
        take(store, host, report(1, line(50, age_periods=90 + 10 * number)))
    assert means(store, since=PERIOD - 105) == []
    assert means(store, since=PERIOD - 110) == [50] * 3
    assert store.forget(before=PERIOD - 100, unix_s=0) == 1
    assert store.counts(since=0, unix_s=0, hosts_min=2).lines == 2
    assert store.forget(before=PERIOD + 1, unix_s=0) == 2
    assert take(store, HOSTS[0], report(1, line(50)))  # its sequence is forgotten, too


def test_a_host_has_a_bounded_number_of_lines_and_the_oldest_go(store: Store) -> None:
    lines = [line(prefix=f"198.51.{number}.0/24", age_periods=number) for number in range(30)]
    take(store, HOSTS[0], report(1, *lines), lines_max=20)
    take(store, HOSTS[1], report(1, *lines), lines_max=100)
    assert store.counts(since=0, unix_s=0, hosts_min=1).lines == 50
    assert store.counts(since=PERIOD - 19, unix_s=0, hosts_min=2).shown_prefixes == 20


def test_findings_are_shown_as_counts_from_enough_hosts_on(store: Store) -> None:
    drops = FoundOut(as_number=64514, alternative=1, kind="keeps-and-drops")
    for host in HOSTS[:3]:
        take(store, host, report(1, findings=(drops, FoundOut(as_number=int(host, 16), kind="lies"))))
    (found,) = store.findings(asker=ASKER, since=0, hosts_min=3)
    assert (found.as_number, found.alternative, found.kind, found.hosts) == (64514, 1, "keeps-and-drops", 3)
    assert store.findings(asker=HOSTS[0], since=0, hosts_min=3) == ()
    take(store, HOSTS[0], report(2))  # it does not hold any more
    assert store.findings(asker=ASKER, since=0, hosts_min=3) == ()
    assert store.findings(asker=ASKER, since=PERIOD + 1, hosts_min=1) == ()


def give(
    store: Store, host: str, seed: int, *, sequence: int = 1, serial: int = 1, expires_unix_s: int = 2**40
) -> None:
    one = vouched(seed, serial=serial, expires_unix_s=expires_unix_s)
    verified = Verified(vouched=one, description=verify(one.signed, one.public_key, OadDescription))
    store.take(host, report(sequence, descriptions=(one,)), [verified], period=PERIOD, lines_max=100)


def relayed(store: Store, *, unix_s: int = 0, known: dict[int, bytes] | None = None) -> list[tuple[bytes, int]]:
    found = store.descriptions(asker=ASKER, since=0, unix_s=unix_s, hosts_min=3, known=known or {})
    return [(one.public_key, verify(one.signed, one.public_key, OadDescription).serial) for one in found]


def test_descriptions_are_relayed_when_the_key_is_known_or_enough_hosts_name_it(store: Store) -> None:
    isp, liar = vouched(1).public_key, vouched(2).public_key
    give(store, HOSTS[0], 1)
    give(store, HOSTS[1], 2)
    assert relayed(store) == []
    assert relayed(store, known={64512: isp}) == [(isp, 1)]
    give(store, HOSTS[2], 1, serial=7)
    give(store, HOSTS[3], 1, serial=3)  # an older one
    assert relayed(store) == [(isp, 7)]
    assert relayed(store, known={64512: liar}) == [(liar, 1)]
    give(store, HOSTS[0], 1, sequence=2, serial=8, expires_unix_s=1000)
    assert relayed(store, unix_s=999) == [(isp, 8)]
    assert relayed(store, unix_s=1000) == []


def test_what_hosts_said_that_are_put_out_is_deleted(store: Store) -> None:
    for number, host in enumerate(HOSTS[:4]):
        take(store, host, report(1, line(50 + number), findings=(FoundOut(as_number=1, kind="lies"),)))
    assert store.keep_only(HOSTS[1:]) == 1
    assert means(store) == [51, 52, 53]
    assert store.keep_only(HOSTS) == 0


def test_hosts_that_report_at_the_same_time_lose_nothing(store: Store) -> None:
    """Each of six hosts over several threads at once, its own reports in whatever order they come."""
    jobs = [(host, sequence) for sequence in range(1, 9) for host in HOSTS[:6]]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        done = list(
            pool.map(lambda job: store.take(job[0], report(job[1], line(job[1])), period=PERIOD, lines_max=9), jobs)
        )
    assert len(done) == len(jobs)
    assert means(store) == [8] * 6


def test_a_report_is_taken_whole_or_not_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails after its lines were written; nothing of it stays, and it can come again."""
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_put_description", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            give(store, HOSTS[0], 1)
    assert store.counts(since=0, unix_s=0, hosts_min=1).descriptions == 0
    give(store, HOSTS[0], 1)
    assert store.counts(since=0, unix_s=0, hosts_min=1).descriptions == 1


def test_two_servers_may_start_at_once(opened: Callable[[], Store]) -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(opened) for _ in range(2))
    take(first.result(), HOSTS[0], report(1, line(50)))
    assert means(second.result(), hosts_min=1) == [50]


def test_a_database_of_a_newer_program_is_refused(opened: Callable[[], Store]) -> None:
    from sqlalchemy import text

    store = opened()
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE campus_schema SET version = 99"))
    with pytest.raises(EnvironmentFault, match=r"version 99.*update this program"):
        opened()


def test_a_database_that_was_away_is_used_again(postgresql: PostgresqlServer) -> None:
    postgresql.empty()
    store = Store.open(postgresql.url)
    take(store, HOSTS[0], report(1, line(50)))
    postgresql.stop()
    with pytest.raises(EnvironmentFault, match="use database postgresql") as caught:
        means(store)
    assert "\n" not in str(caught.value)
    postgresql.start()
    assert means(store, hosts_min=1) == [50]
    store.close()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("/nowhere/campus.sqlite", "use database /nowhere/campus.sqlite: .*No such file"),
        ("postgresql://ann:secret@/x?host=/nowhere", r"use database postgresql\+psycopg://ann:\*\*\*@"),
        ("postgresql://host:port/x", "not a URL"),
    ],
)
def test_a_database_that_cannot_be_opened_is_one_line_without_a_password(where: str, said: str) -> None:
    with pytest.raises(EnvironmentFault, match=said) as caught:
        Store.open(where)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello " * 500)
    with pytest.raises(EnvironmentFault, match="not a database"):
        Store.open(str(tmp_path / "x"))


def test_nobody_else_may_read_the_file_and_no_column_has_a_name_or_an_address(tmp_path: Path) -> None:
    path = tmp_path / "campus.sqlite"
    store = Store.open(str(path))
    take(store, HOSTS[0], report(1, line(50)))
    store.close()
    assert path.stat().st_mode & 0o077 == 0
    with sqlite3.connect(path) as connection:
        (row,) = connection.execute("SELECT * FROM campus_line").fetchall()
    connection.close()
    assert row == (HOSTS[0], "", PREFIX, WAY, "delay_ns", 10, 50 * MS, 5 * MS, PERIOD)


def test_only_the_server_loads_the_database_library() -> None:
    program = (
        "import sys, cartographer.campus.client, cartographer.campus.reporting, cartographer.campus.own;"
        "print([name for name in ('sqlalchemy', 'psycopg') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
