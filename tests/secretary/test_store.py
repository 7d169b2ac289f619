"""The journal: private, append only, and the same again after a SIGKILL in the middle of its work."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from collections import deque
from pathlib import Path

import msgspec
import pytest

from billpay.errors import EnvironmentFault
from billpay.messages import FlowSelector, Grant, GrantKind
from secretary.issuing import Ended, Opened
from secretary.money.spending import Word
from secretary.secretary import Entry
from secretary.store import VERSION, Journal


def opened(number: int) -> Opened:
    grant = Grant(
        grant=f"{number:032x}",
        serial=1,
        kind=GrantKind.SPEND,
        flow=FlowSelector(source="10.0.1.1", destination="10.0.2.1", protocol=6, source_port=1, destination_port=443),
        cap_nanodollars=100,
        rate_nanodollars_per_s=1,
        burst_nanodollars=1,
        not_before_unix_s=0,
        expires_unix_s=600,
        key="0f" * 16,
    )
    return Opened(grant=grant, rule="web", spent_nanodollars=3, unix_s=7)


ENTRIES: list[Entry] = [opened(1), Ended(grant=f"{1:032x}", spent_nanodollars=5, unix_s=9), opened(2)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def filled(path: Path) -> Path:
    journal = Journal(path)
    for entry in ENTRIES:
        journal.append(entry)
    journal.close()
    return path


def entries_in(path: Path) -> list[Entry]:
    journal = Journal(path)
    try:
        return list(journal.entries())
    finally:
        journal.close()


def test_what_was_appended_is_read_back_in_order(path: Path) -> None:
    assert entries_in(filled(path)) == ENTRIES


def test_keys_are_in_it_so_it_is_ours_alone(path: Path) -> None:
    path.touch(mode=0o644)
    journal = Journal(path)
    journal.append(ENTRIES[0])
    files = sorted(path.parent.iterdir())
    assert len(files) == 3, "the database, its log and its index"
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    journal.close()


@pytest.mark.parametrize("change", ["DELETE FROM journal", "UPDATE journal SET entry = ''"])
def test_what_is_in_it_stays(path: Path, change: str) -> None:
    database = sqlite3.connect(filled(path))
    with pytest.raises(sqlite3.IntegrityError, match="append only"):
        database.execute(change)
    database.close()
    assert entries_in(path) == ENTRIES


def test_every_entry_is_synced_before_the_next_step(path: Path) -> None:
    journal = Journal(path)
    pragma = {
        name: journal._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
    }
    journal.close()
    assert pragma == {"journal_mode": "wal", "synchronous": 2}  # 2: FULL


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to look like one" * 30, b"SQLite format 3\0" + bytes(84)]
)
def test_a_damaged_journal_is_one_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(EnvironmentFault) as caught:
        entries_in(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_entry_that_is_none_is_one_line(path: Path) -> None:
    database = sqlite3.connect(filled(path))
    database.execute('INSERT INTO journal (entry) VALUES (\'{"type": "Later"}\')')
    database.commit()
    database.close()
    with pytest.raises(EnvironmentFault, match="read journal"):
        entries_in(path)


def test_a_journal_in_no_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="open journal"):
        Journal(tmp_path / "none" / "journal.sqlite")


def test_a_full_disk_is_one_line(path: Path) -> None:
    journal = Journal(filled(path))
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(EnvironmentFault, match=r"write journal .*free some disk space"):
        deque(map(journal.append, map(opened, range(1000))))
    journal.close()


WRITER = """
import sys
from collections import deque
from pathlib import Path
from secretary.issuing import Ended
from secretary.store import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(10**6):
    journal.append(Ended(grant=f"{number:032x}", spent_nanodollars=number, unix_s=0))
    print(number, flush=True)
"""


def test_after_a_sigkill_all_is_there_that_anybody_heard_of(path: Path) -> None:
    last = -1
    for kill_after in (1, 20, 60):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        heard = [int(writer.stdout.readline()) for _ in range(kill_after)][-1]
        writer.kill()
        more = writer.stdout.read().splitlines()
        writer.wait()
        writer.stdout.close()
        heard = max([heard, *map(int, more)])
        found = entries_in(path)[last + 1 :]
        numbers = [entry.spent_nanodollars for entry in found if isinstance(entry, Ended)]
        assert numbers == list(range(len(numbers)))
        assert heard <= numbers[-1] <= heard + 1, "one more may have been written and not been told"
        last += len(found)


# --- what is behind a grant -------------------------------------------------------------------------------------------


def test_a_grants_entries_are_found_and_which_grants_there_were_in_a_time(path: Path) -> None:
    journal = Journal(filled(path))
    assert journal.entries_of(f"{1:032x}") == ENTRIES[:2]
    assert journal.entries_of("f" * 32) == []
    assert journal.grants_between(7, 9) == [f"{1:032x}", f"{2:032x}"]
    assert journal.grants_between(9, 10) == [f"{1:032x}"]
    assert journal.grants_between(10, 20) == []
    journal.close()


# --- states -----------------------------------------------------------------------------------------------------------


def test_states_are_replaced_and_the_journal_is_not_touched(path: Path) -> None:
    journal = Journal(filled(path))
    assert journal.states() == {}
    journal.put_states([("hits", b"[1]"), ("sizes", b"\x00\xff")])
    journal.put_states([("hits", b"[2]")])
    journal.close()
    again = Journal(path)
    assert again.states() == {"hits": b"[2]", "sizes": b"\x00\xff"}
    assert list(again.entries()) == ENTRIES
    again.close()


def test_all_states_are_written_or_none(path: Path) -> None:
    journal = Journal(path)
    journal.put_states([("hits", b"old")])
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(EnvironmentFault, match="write journal"):
        journal.put_states([("hits", b"new"), ("learner:ann", bytes(10**6))])
    assert journal.states() == {"hits": b"old"}
    journal.close()


# --- versions ---------------------------------------------------------------------------------------------------------

FIRST_SCHEMA = """
CREATE TABLE journal (number INTEGER PRIMARY KEY, entry TEXT NOT NULL) STRICT;
CREATE TRIGGER journal_keeps BEFORE UPDATE ON journal BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER journal_stays BEFORE DELETE ON journal BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""


def first_version(path: Path, *texts: bytes) -> None:
    database = sqlite3.connect(path)
    database.executescript(FIRST_SCHEMA)
    database.executemany("INSERT INTO journal (entry) VALUES (?)", [(text.decode(),) for text in texts])
    database.commit()
    database.close()


def test_a_journal_of_the_first_version_is_taken_over_whole(path: Path) -> None:
    old = [msgspec.json.encode(entry) for entry in ENTRIES]
    first_version(path, *old)
    for _ in range(2):
        assert entries_in(path) == ENTRIES
    journal = Journal(path)
    assert journal.entries_of(f"{1:032x}") == ENTRIES[:2]
    journal.append(opened(3))
    assert len(list(journal.entries())) == 4
    journal.close()


def test_a_journal_of_the_first_version_that_cannot_be_read_stays_as_it_is(path: Path) -> None:
    first_version(path, b'{"type": "Later"}')
    with pytest.raises(EnvironmentFault, match="open journal"):
        Journal(path)
    database = sqlite3.connect(path)
    assert database.execute("SELECT entry FROM journal").fetchall() == [('{"type": "Later"}',)]
    database.close()


def test_a_journal_of_a_newer_version_is_not_touched(path: Path) -> None:
    database = sqlite3.connect(filled(path))
    database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.commit()
    database.close()
    with pytest.raises(EnvironmentFault, match="newer version"):
        Journal(path)


def test_whose_word_a_sum_rests_on_is_kept(path: Path) -> None:
    ended = Ended(grant=f"{1:032x}", spent_nanodollars=5, unix_s=9, word=Word.CONFIRMED, counted_nanodollars=4)
    journal = Journal(path)
    journal.append(ended)
    assert list(journal.entries()) == [ended]
    journal.close()
