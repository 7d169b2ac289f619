"""The book on disk: decides like the ledger in memory, append only, whole after a crash, one line for a bad disk."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from two_sides import LINK, TwoSides

from billpay.errors import EnvironmentFault, LocalProtocolError
from billpay.ledger import Account, AccountKind, Ledger, Phase, Transfer, TransferResult
from billpay.settlement import Parties, Role
from neighbour.book import Book, Side
from neighbour.book_schema import APPLICATION_ID, MIGRATIONS

TRAFFIC = Account(AccountKind.TRAFFIC)
PAYABLE = Account(AccountKind.PAYABLE, LINK)
CASH = Account(AccountKind.SETTLEMENT)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    with Book.open(tmp_path / "book") as opened:
        yield opened


def transfer(number: int, amount: int = 5) -> Transfer:
    return Transfer(transfer=f"t/{number}", debit=TRAFFIC, credit=PAYABLE, amount_nanodollars=amount)


# --- the ledger -------------------------------------------------------------------------------------------------------

IDS = st.sampled_from(["a", "b", "c", "d", "e"])
CLOSING = (Phase.POST_RESERVED, Phase.VOID_RESERVED)
TRANSFERS = st.tuples(
    st.builds(
        Transfer,
        transfer=IDS,
        debit=st.sampled_from([TRAFFIC, PAYABLE]),
        credit=st.sampled_from([CASH, PAYABLE]),
        amount_nanodollars=st.sampled_from([-1, 0, 1, 5, 2**60, 2**62 + 1]),
        phase=st.sampled_from(Phase),
    ),
    IDS,
).map(lambda drawn: replace(drawn[0], reserved=drawn[1]) if drawn[0].phase in CLOSING else drawn[0])


@given(transfers=st.lists(TRANSFERS, max_size=20))
def test_the_book_decides_and_balances_like_the_ledger_in_memory(transfers: list[Transfer]) -> None:
    memory = Ledger()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "book"
        with Book.open(path) as book:
            for each in transfers:
                with book.transaction():
                    assert book.apply(each) is memory.apply(each)
        with Book.open(path) as again:
            assert again.balances() == memory.balances
            assert again.transfers() == tuple(memory.transfers)


def test_a_transfer_given_twice_is_booked_once(book: Book) -> None:
    for expected in (TransferResult.APPLIED, TransferResult.DUPLICATE):
        with book.transaction():
            assert book.apply(transfer(1)) is expected
    assert book.balance(PAYABLE).posted_nanodollars == -5
    with book.transaction():
        assert book.apply(transfer(1, amount=6)) is TransferResult.CONFLICT


def test_a_transaction_that_fails_leaves_nothing(book: Book) -> None:
    def fail_halfway() -> None:
        with book.transaction():
            book.apply(transfer(1))
            raise LocalProtocolError("in the middle of it")

    with pytest.raises(LocalProtocolError, match="in the middle"):
        fail_halfway()
    assert book.balances() == {}
    assert book.revision == 1  # the schema


# --- append only ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["transfer", "statement", "round", "closing", "difference", "settlement", "posted"])
def test_what_was_written_is_never_changed_or_deleted(tmp_path: Path, table: str) -> None:
    sides = TwoSides(tmp_path)
    sides.forward.send(1500)
    sides.settle_down()
    sides.forward.send(20)
    sides.forward.lose(1)
    sides.settle_down()
    path = sides.caller.path
    sides.close()
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert rows > 0
        (column,) = connection.execute(f"SELECT name FROM pragma_table_info('{table}') LIMIT 1").fetchone()
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET {column} = {column}"):
            with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append only"):
                connection.execute(statement)
    finally:
        connection.close()


def test_both_signatures_of_every_interval_are_kept_as_evidence(tmp_path: Path) -> None:
    sides = TwoSides(tmp_path)
    sides.forward.send(100)
    sides.settle_down()
    for interval in range(1, 5):
        a, x = sides.caller.book, sides.answerer.book
        own, peer = a.statement(LINK, interval, Side.OWN), a.statement(LINK, interval, Side.PEER)
        assert own is not None
        assert peer is not None
        assert x.statement(LINK, interval, Side.PEER) == own
        assert x.statement(LINK, interval, Side.OWN) == peer
        assert own.signed == sides.caller.identity.sign(own.statement)
        assert peer.signed == sides.answerer.identity.sign(peer.statement)
    sides.close()


def test_a_second_statement_of_an_interval_is_our_own_bug(tmp_path: Path) -> None:
    sides = TwoSides(tmp_path)
    assert sides.interval()
    kept = sides.caller.book.last_statement(LINK, Side.OWN)
    assert kept is not None
    with pytest.raises(LocalProtocolError, match="UNIQUE"), sides.caller.book.transaction():
        sides.caller.book.put_statement(Side.OWN, kept.signed, kept.statement)
    sides.settle_down()
    sides.close()


def test_a_link_that_was_not_opened_is_our_own_bug(book: Book) -> None:
    with pytest.raises(LocalProtocolError, match="was not opened"):
        book.link_state("nowhere")


# --- crashes ----------------------------------------------------------------------------------------------------------

WRITER = """
import sys
from billpay.ledger import Account, AccountKind, Transfer
from neighbour.book import Book
book = Book.open(sys.argv[1])
for number in range(int(sys.argv[2]), 1_000_000):
    with book.transaction():
        for part in range(3):
            book.apply(Transfer(
                transfer=f"{number}/{part}",
                debit=Account(AccountKind.TRAFFIC),
                credit=Account(AccountKind.PAYABLE, f"link{part}"),
                amount_nanodollars=number + 1,
            ))
    print(number, flush=True)
"""


def test_a_process_killed_while_it_writes_leaves_whole_transactions_only(tmp_path: Path) -> None:
    path = tmp_path / "book"
    begun = 0
    for commits in (1, 7, 30):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(begun)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(commits):
            told = int(process.stdout.readline())
        process.kill()
        process.stdout.close()
        process.wait()
        with Book.open(path) as book:
            ids = {each.transfer for each in book.transfers()}
            whole = len(ids) // 3
            assert ids == {f"{number}/{part}" for number in range(whole) for part in range(3)}
            assert whole > told  # what was committed is there
            balances = book.balances()
            for part in range(3):
                owed = balances[Account(AccountKind.PAYABLE, f"link{part}")].posted_nanodollars
                assert owed == -whole * (whole + 1) // 2
            assert sum(balance.posted_nanodollars for balance in balances.values()) == 0
        begun = max(whole - 2, 0)  # and what is given again is not booked again


# --- broken environments ----------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_and_keeps_what_was_there(book: Book, tmp_path: Path) -> None:
    (pages,) = book._connection.execute("PRAGMA page_count").fetchone()
    book._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    written = 0

    def write_on() -> None:
        nonlocal written
        while True:
            with book.transaction():
                for number in range(20 * written, 20 * written + 20):
                    book.apply(transfer(number))
            written += 1

    with pytest.raises(EnvironmentFault) as caught:
        write_on()
    assert str(caught.value) == (
        f"use book {tmp_path / 'book'}: database or disk is full (free some disk space; nothing half done was kept)"
    )
    assert written > 0
    assert len(book.transfers()) == 20 * written
    assert book.balance(PAYABLE).posted_nanodollars == -100 * written
    book._connection.execute("PRAGMA max_page_count = 100000")
    with book.transaction():
        assert book.apply(transfer(-1)) is TransferResult.APPLIED


def test_a_file_that_is_not_a_book_is_one_line_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"remember the milk\n" * 500)
    with pytest.raises(
        EnvironmentFault, match=r"^use book .*notes.txt: file is not a database \(name another file"
    ) as e:
        Book.open(path)
    assert "\n" not in str(e.value)
    assert path.read_bytes() == b"remember the milk\n" * 500


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(EnvironmentFault, match="another program's file"):
        Book.open(path)
    assert path.read_bytes() == before


def test_a_book_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Book.open(tmp_path / "book").close()
    connection = sqlite3.connect(tmp_path / "book")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(EnvironmentFault, match="install a newer version"):
        Book.open(tmp_path / "book")


def test_a_book_that_does_not_add_up_is_refused(tmp_path: Path) -> None:
    Book.open(tmp_path / "book").close()
    connection = sqlite3.connect(tmp_path / "book")
    connection.execute("INSERT INTO balance VALUES ('traffic', 1, 0)")
    connection.commit()
    connection.close()
    with pytest.raises(EnvironmentFault, match="do not add up to zero"):
        Book.open(tmp_path / "book")


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"No such file or directory \(check the state directory\)$"):
        Book.open(tmp_path / "missing" / "book")


def test_another_writer_is_waited_for_and_then_named(book: Book, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "book", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        book._connection.execute("PRAGMA busy_timeout = 1")
        with pytest.raises(EnvironmentFault, match="another process holds it"), book.transaction():
            pass
    finally:
        other.close()
    book.open_link(Parties(link=LINK, us="a" * 64, peer="b" * 64), Role.CALLER)


def test_the_file_is_private_and_durable(book: Book, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "book").stat().st_mode) == 0o600
    assert book._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert book._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert book._connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
    assert book._connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
