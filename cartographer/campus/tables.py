"""The campus service's tables and how a database gets them: the same for SQLite and PostgreSQL.

Decides: what is kept, and what a database of another version is worth (an older one is brought up to date, a newer one
is refused). Refuses to know: what is read and written (`cartographer.campus.store`).

There is no address narrower than a prefix, no name of a host, and no time finer than five minutes in any column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    insert,
    inspect,
    select,
    text,
    update,
)

from billpay.errors import EnvironmentFault

SCHEMA_VERSION: Final = 1
_LOCK_NUMBER: Final = 0x63616D707573  # "campus": two servers that start at once make the tables once

metadata: Final = MetaData()

schema: Final = Table(
    "campus_schema",
    metadata,
    Column("only", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
)

reporter: Final = Table(  # the last report of each host, by pseudonym
    "campus_reporter",
    metadata,
    Column("host", String(32), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("period", BigInteger, nullable=False),
)

line: Final = Table(
    "campus_line",
    metadata,
    Column("host", String(32), primary_key=True),
    Column("place", String(64), primary_key=True),
    Column("prefix", String(50), primary_key=True),
    Column("way", String(200), primary_key=True),
    Column("quantity", String(40), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("mean", BigInteger, nullable=False),
    Column("spread", BigInteger, nullable=False),
    Column("measured", BigInteger, nullable=False),  # a period's number: unix seconds // 300
    Index("campus_line_by_prefix", "place", "prefix"),
    Index("campus_line_by_age", "measured"),
)

finding: Final = Table(
    "campus_finding",
    metadata,
    Column("host", String(32), primary_key=True),
    Column("as_number", Integer, primary_key=True, autoincrement=False),
    Column("alternative", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(40), primary_key=True),
    Column("period", BigInteger, nullable=False),
)

description: Final = Table(  # the newest of each ISP's key and prefix
    "campus_description",
    metadata,
    Column("as_number", Integer, primary_key=True, autoincrement=False),
    Column("issuer", String(64), primary_key=True),
    Column("prefix", String(50), primary_key=True),
    Column("serial", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),  # unix seconds, the ISP's own word
    Column("document", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
)

vouched: Final = Table(  # which hosts say that this key is that ISP's
    "campus_vouched",
    metadata,
    Column("host", String(32), primary_key=True),
    Column("as_number", Integer, primary_key=True, autoincrement=False),
    Column("issuer", String(64), primary_key=True),
    Column("prefix", String(50), primary_key=True),
    Column("period", BigInteger, nullable=False),
)

_STEPS: Final[dict[int, Callable[[Connection], None]]] = {}
"""By the version that a step ends with: from 2 on."""


def bring_up_to_date(connection: Connection) -> None:
    """Inside a transaction that nobody else's start can cross. Raises EnvironmentFault for a newer database."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
    if not inspect(connection).has_table(schema.name):
        metadata.create_all(connection)
        connection.execute(insert(schema).values(only=1, version=SCHEMA_VERSION))
        return
    version = connection.execute(select(schema.c.version)).scalar_one()
    if version > SCHEMA_VERSION:
        raise EnvironmentFault(
            "use database", "campus", f"a newer program made it (version {version})", "update this program"
        )
    for step in range(version + 1, SCHEMA_VERSION + 1):
        _STEPS[step](connection)
        connection.execute(update(schema).values(version=step))
