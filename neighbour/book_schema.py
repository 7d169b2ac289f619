"""The tables of the book, as numbered migrations.

Decides: the schema, and which tables are append only.  A migration that was released is never changed: a new one
follows it.
Refuses to know: what is written when (`neighbour.book`).
"""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = 0x42696C6C
"""`Bill`: how a book is told from other programs' SQLite files."""

_APPEND_ONLY: Final = ("transfer", "statement", "round", "closing", "difference", "settlement", "posted")


def _guards(table: str) -> tuple[str, str]:
    refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append only'); END"
    return (
        f"CREATE TRIGGER {table}_is_never_changed BEFORE UPDATE ON {table} {refuse}",
        f"CREATE TRIGGER {table}_is_never_deleted BEFORE DELETE ON {table} {refuse}",
    )


_FIRST: Final = (
    # Double entry. `reserved` names the RESERVE that is closed, once.
    """CREATE TABLE transfer (
        transfer TEXT NOT NULL UNIQUE,
        debit TEXT NOT NULL,
        credit TEXT NOT NULL CHECK (credit <> debit),
        amount INTEGER NOT NULL CHECK (amount > 0),
        phase TEXT NOT NULL CHECK (phase IN ('post', 'reserve', 'post-reserved', 'void-reserved')),
        reserved TEXT UNIQUE REFERENCES transfer (transfer)
    ) STRICT""",
    """CREATE TABLE balance (
        account TEXT PRIMARY KEY,
        posted INTEGER NOT NULL,
        reserved INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE link (
        link TEXT PRIMARY KEY,
        us TEXT NOT NULL,
        peer TEXT NOT NULL,
        role TEXT NOT NULL CHECK (role IN ('caller', 'answerer')),
        comparison BLOB NOT NULL,
        standing TEXT NOT NULL CHECK (standing IN ('good', 'due', 'in-default')),
        due_intervals INTEGER NOT NULL CHECK (due_intervals >= 0),
        settled_period INTEGER NOT NULL,
        trouble TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    # The evidence: what each side signed.
    """CREATE TABLE statement (
        link TEXT NOT NULL REFERENCES link (link),
        interval INTEGER NOT NULL CHECK (interval > 0),
        side TEXT NOT NULL CHECK (side IN ('own', 'peer')),
        document BLOB NOT NULL,
        signer TEXT NOT NULL,
        signature BLOB NOT NULL,
        UNIQUE (link, side, interval)
    ) STRICT""",
    # Both statements of an interval are here: what is owed for each direction until then.
    """CREATE TABLE round (
        link TEXT NOT NULL REFERENCES link (link),
        interval INTEGER NOT NULL,
        forward INTEGER NOT NULL CHECK (forward >= 0),
        backward INTEGER NOT NULL CHECK (backward >= 0),
        UNIQUE (link, interval)
    ) STRICT""",
    # The caller's counters when the answer had come. A round that has one was compared.
    """CREATE TABLE closing (
        link TEXT NOT NULL,
        interval INTEGER NOT NULL,
        document BLOB NOT NULL,
        UNIQUE (link, interval),
        FOREIGN KEY (link, interval) REFERENCES round (link, interval)
    ) STRICT""",
    """CREATE TABLE difference (
        link TEXT NOT NULL REFERENCES link (link),
        interval INTEGER NOT NULL,
        direction TEXT NOT NULL CHECK (direction IN ('forward', 'backward')),
        kind TEXT NOT NULL CHECK (kind IN ('loss', 'found', 'excess', 'withdrawn')),
        since_interval INTEGER NOT NULL,
        nanodollars INTEGER NOT NULL CHECK (nanodollars > 0),
        UNIQUE (link, interval, direction, kind)
    ) STRICT""",
    """CREATE TABLE settlement (
        settlement TEXT NOT NULL UNIQUE,
        link TEXT NOT NULL REFERENCES link (link),
        side TEXT NOT NULL CHECK (side IN ('own', 'peer')),
        number INTEGER NOT NULL CHECK (number > 0),
        amount INTEGER NOT NULL CHECK (amount > 0),
        document BLOB NOT NULL,
        signer TEXT NOT NULL,
        signature BLOB NOT NULL,
        UNIQUE (link, side, number)
    ) STRICT""",
    "CREATE TABLE posted (settlement TEXT NOT NULL UNIQUE REFERENCES settlement (settlement)) STRICT",
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    _FIRST + tuple(guard for table in _APPEND_ONLY for guard in _guards(table)),
)
"""Statements that lead from version n to n + 1, at index n."""
