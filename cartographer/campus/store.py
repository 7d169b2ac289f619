"""What hosts reported, in SQLite or PostgreSQL: true after any crash, whoever writes at the same time.

Decides: that one report is one transaction, taken once by host and sequence; what is the oldest and goes first.
Refuses to know: what the numbers make together (`cartographer.campus.pooling`), who is admitted, and what time it is.
Source: SQLite's WAL with synchronous=FULL; PostgreSQL's row locks; SQLAlchemy Core.

Hosts come as pseudonyms. Only the server loads this module, and SQLAlchemy with it; psycopg is loaded where a URL asks
for it.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    Table,
    create_engine,
    delete,
    distinct,
    event,
    func,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from billpay.errors import EnvironmentFault
from billpay.messages import OadDescription, Signed
from billpay.signing import fingerprint_of, kind_of
from cartographer.campus.messages import (
    RELAYED_BYTES_MAX,
    RELAYED_MAX,
    FoundOutByHosts,
    Receipt,
    Report,
    Vouched,
    digest_of,
)
from cartographer.campus.pooling import Contribution
from cartographer.campus.tables import (
    bring_up_to_date,
    description,
    finding,
    line,
    reporter,
    vouched,
)
from cartographer.values import Quantity, Way

BUSY_S: Final = 5
POOL: Final = 4
HOSTS_POOLED: Final = 32
"""Of one quantity, the freshest: more make the estimate no better."""
VOUCHED_MAX: Final = 1_000
"""Descriptions that one host speaks for; the longest unsaid go first."""

LineKey = tuple[str, Way, Quantity]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    reporting_hosts: int
    lines: int
    prefixes: int
    shown_prefixes: int
    descriptions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A description that its key signed."""

    vouched: Vouched
    description: OadDescription


class Store:
    """Open it with `Store.open`. Any thread may call; every method raises EnvironmentFault in one line."""

    def __init__(self, engine: Engine, shown: str) -> None:
        self._engine = engine
        self._reader = engine.execution_options(campus_reads=True)
        self._shown = shown
        self.kind = engine.dialect.name

    @classmethod
    def open(cls, where: str) -> Store:
        """A path, or postgresql://user@host:port/name. Makes the tables or brings them up to date."""
        url = _url_of(where)
        shown = url.render_as_string(hide_password=True) if url.drivername.startswith("postgresql") else where
        try:
            store = cls(_engine_of(url), shown)
        except (OSError, SQLAlchemyError, ImportError) as error:
            raise EnvironmentFault("use database", shown, _cause(error), "check campus.database") from error
        try:
            with store._writing() as connection:
                bring_up_to_date(connection)
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        self._engine.dispose()

    # --- a report ---------------------------------------------------------------------------------------------------

    def take(
        self, host: str, report: Report, descriptions: Sequence[Verified] = (), *, period: int, lines_max: int
    ) -> Receipt:
        """All of it or nothing, once. A sequence that is not new changes nothing; the receipt says what is the last."""
        digest = digest_of(report)
        with self._writing() as connection:
            last = self._last_report(connection, host)
            if last is not None and report.sequence <= last.sequence:
                return last
            self._put_lines(connection, host, report, period)
            _keep_newest(connection, line, line.c.measured, host, lines_max)
            connection.execute(delete(finding).where(finding.c.host == host))
            if report.findings:
                rows = [
                    {
                        "host": host,
                        "as_number": one.as_number,
                        "alternative": one.alternative,
                        "kind": one.kind,
                        "period": period,
                    }
                    for one in report.findings
                ]
                connection.execute(finding.insert(), rows)
            for one in sorted(descriptions, key=_description_key):  # rows are locked in one order
                self._put_description(connection, host, one, period)
            _keep_newest(connection, vouched, vouched.c.period, host, VOUCHED_MAX)
            values = {"sequence": report.sequence, "digest": digest, "period": period}
            self._upsert(connection, reporter, [{"host": host, **values}])
        return Receipt(sequence=report.sequence, digest=digest)

    def _last_report(self, connection: Connection, host: str) -> Receipt | None:
        """Holds the host's row until the end of the transaction, so that its reports come one after the other."""
        if self.kind == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(int(host[:15], 16))))
        row = connection.execute(select(reporter).where(reporter.c.host == host)).one_or_none()
        return Receipt(sequence=row.sequence, digest=row.digest) if row is not None else None

    def _put_lines(self, connection: Connection, host: str, report: Report, period: int) -> None:
        rows = [
            {
                "host": host,
                "place": report.place,
                "prefix": one.prefix,
                "way": one.way,
                "quantity": one.quantity.value,
                "count": one.count,
                "mean": one.mean,
                "spread": one.spread,
                "measured": period - one.age_periods,
            }
            for one in report.lines
        ]
        self._upsert(connection, line, rows)

    def _put_description(self, connection: Connection, host: str, one: Verified, period: int) -> None:
        said = one.description
        key = {"as_number": said.as_number, "issuer": said.issuer, "prefix": said.prefix}
        row = {
            **key,
            "serial": said.serial,
            "expires": said.expires_unix_s,
            "document": one.vouched.signed.document,
            "signature": one.vouched.signed.signature,
            "public_key": one.vouched.public_key,
        }
        self._upsert(connection, description, [row], newer="serial")
        self._upsert(connection, vouched, [{"host": host, **key, "period": period}])

    def _upsert(
        self, connection: Connection, table: Table, rows: list[dict[str, Any]], *, newer: str | None = None
    ) -> None:
        """`newer`: an existing row stays unless this column grows."""
        if not rows:
            return
        keys = [column.name for column in table.primary_key]
        statement: Any = (postgresql if self.kind == "postgresql" else sqlite).insert(table)
        changes = {column.name: statement.excluded[column.name] for column in table.c if column.name not in keys}
        where = table.c[newer] < statement.excluded[newer] if newer is not None else None
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changes, where=where), rows)

    # --- questions --------------------------------------------------------------------------------------------------

    def contributions(
        self, place: str, prefixes: Sequence[str], *, asker: str, since: int, period: int, hosts_min: int
    ) -> Mapping[LineKey, list[Contribution]]:
        """What hosts other than `asker` say, for prefixes of which at least `hosts_min` of them have spoken."""
        if not prefixes:
            return {}
        theirs = (line.c.place == place) & (line.c.measured >= since) & (line.c.host != asker)
        spoken = (
            select(line.c.prefix)
            .where(theirs & line.c.prefix.in_(prefixes))
            .group_by(line.c.prefix)
            .having(func.count(distinct(line.c.host)) >= hosts_min)
        )
        enough = [row.prefix for row in self._all(spoken)]  # a query of its own: planners guess badly at the whole
        rank = func.row_number().over(
            partition_by=(line.c.prefix, line.c.way, line.c.quantity), order_by=(line.c.measured.desc(), line.c.host)
        )
        ranked = select(line, rank.label("rank")).where(theirs & line.c.prefix.in_(enough)).subquery()
        found: dict[LineKey, list[Contribution]] = defaultdict(list)
        for row in self._all(select(ranked).where(ranked.c.rank <= HOSTS_POOLED).order_by(ranked.c.host)):
            found[row.prefix, row.way, Quantity(row.quantity)].append(
                Contribution(
                    count=row.count, mean=row.mean, spread=row.spread, age_periods=max(0, period - row.measured)
                )
            )
        return found

    def findings(self, *, asker: str, since: int, hosts_min: int) -> tuple[FoundOutByHosts, ...]:
        key = (finding.c.as_number, finding.c.alternative, finding.c.kind)
        hosts = func.count(distinct(finding.c.host))
        query = (
            select(*key, hosts.label("hosts"))
            .where((finding.c.host != asker) & (finding.c.period >= since))
            .group_by(*key)
            .having(hosts >= hosts_min)
            .order_by(hosts.desc(), *key)
            .limit(1000)
        )
        return tuple(
            FoundOutByHosts(as_number=row.as_number, alternative=row.alternative, kind=row.kind, hosts=row.hosts)
            for row in self._all(query)
        )

    def descriptions(
        self, *, asker: str, since: int, unix_s: int, hosts_min: int, known: Mapping[int, bytes]
    ) -> tuple[Vouched, ...]:
        """Not expired, and either by a key that is known as the ISP's, or by one that enough other hosts name."""
        key = (vouched.c.as_number, vouched.c.issuer)
        hosts = select(*key, func.count(distinct(vouched.c.host)).label("hosts")).where(
            (vouched.c.host != asker) & (vouched.c.period >= since)
        )
        by_key = hosts.group_by(*key).subquery()
        query = (
            select(description, func.coalesce(by_key.c.hosts, 0).label("hosts"))
            .outerjoin(
                by_key,
                (by_key.c.as_number == description.c.as_number) & (by_key.c.issuer == description.c.issuer),
            )
            .where(description.c.expires > unix_s)
            .order_by(description.c.as_number, description.c.prefix, description.c.issuer)
        )
        issuers = {as_number: fingerprint_of(public_key) for as_number, public_key in known.items()}
        found: list[Vouched] = []
        for row in self._all(query):
            issuer = issuers.get(row.as_number)
            believed = row.issuer == issuer if issuer is not None else row.hosts >= hosts_min
            size = sum(len(one.signed.document) for one in found) + len(row.document)
            if believed and len(found) < RELAYED_MAX and size <= RELAYED_BYTES_MAX:
                signed = Signed(
                    kind=kind_of(OadDescription), document=row.document, signer=row.issuer, signature=row.signature
                )
                found.append(Vouched(signed=signed, public_key=row.public_key))
        return tuple(found)

    def counts(self, *, since: int, unix_s: int, hosts_min: int) -> Counts:
        alive = line.c.measured >= since
        places = select(func.count(distinct(line.c.host)).label("hosts")).where(alive)
        by_prefix = places.group_by(line.c.place, line.c.prefix).subquery()
        prefixes = [row.hosts for row in self._all(select(by_prefix.c.hosts))]
        with self._reading() as connection:
            return Counts(
                reporting_hosts=connection.execute(select(func.count(distinct(line.c.host))).where(alive)).scalar_one(),
                lines=connection.execute(select(func.count()).select_from(line).where(alive)).scalar_one(),
                prefixes=len(prefixes),
                shown_prefixes=sum(hosts >= hosts_min for hosts in prefixes),
                descriptions=connection.execute(
                    select(func.count()).select_from(description).where(description.c.expires > unix_s)
                ).scalar_one(),
            )

    # --- forgetting -------------------------------------------------------------------------------------------------

    def forget(self, *, before: int, unix_s: int) -> int:
        """What is older than the service's memory; how many lines. Last sequences stay as long as there are lines."""
        with self._writing() as connection:
            gone = connection.execute(delete(line).where(line.c.measured < before)).rowcount
            connection.execute(delete(finding).where(finding.c.period < before))
            connection.execute(delete(vouched).where(vouched.c.period < before))
            connection.execute(delete(description).where(description.c.expires <= unix_s))
            connection.execute(delete(reporter).where(reporter.c.period < before))
        return gone

    def keep_only(self, hosts: Iterable[str]) -> int:
        """What hosts said that are not admitted any more goes, all of it; how many hosts."""
        admitted = frozenset(hosts)
        strangers = {row.host for row in self._all(select(reporter.c.host))} - admitted
        with self._writing() as connection:
            for host in strangers:
                for table in (line, finding, vouched, reporter):
                    connection.execute(delete(table).where(table.c.host == host))
        return len(strangers)

    # --- the connection ---------------------------------------------------------------------------------------------

    def _all(self, query: Select[Any]) -> Sequence[Any]:
        with self._reading() as connection:
            return connection.execute(query).all()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._explained(), self._reader.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise EnvironmentFault("use database", self._shown, _cause(error), "check campus.database") from error


def _description_key(one: Verified) -> tuple[int, str, str]:
    return one.description.as_number, one.description.issuer, one.description.prefix


def _keep_newest(connection: Connection, table: Table, by: Any, host: str, most: int) -> None:
    """A host's rows beyond `most`: the oldest go."""
    count = connection.execute(select(func.count()).select_from(table).where(table.c.host == host)).scalar_one()
    if count <= most:
        return
    keys = tuple(table.primary_key)
    oldest = select(*keys).where(table.c.host == host).order_by(by, *keys).limit(count - most)
    connection.execute(delete(table).where(tuple_(*keys).in_(oldest)))


def _url_of(where: str) -> URL:
    if "://" not in where:
        return URL.create("sqlite", database=where)
    try:
        url = make_url(where)
    except (ArgumentError, ValueError) as error:
        raise EnvironmentFault(
            "use database", "postgresql://…", "not a URL", "write postgresql://user@host/name"
        ) from error
    return url.set(drivername="postgresql+psycopg")


def _engine_of(url: URL) -> Engine:
    if url.drivername != "sqlite":
        return create_engine(
            url,
            pool_size=POOL,
            max_overflow=0,
            pool_pre_ping=True,  # a server that was restarted meanwhile is no reason for a refusal
            connect_args={"connect_timeout": BUSY_S, "options": f"-c statement_timeout={BUSY_S * 1000} -c jit=off"},
        )
    path = Path(url.database or "")
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    engine = create_engine(url, pool_size=POOL, max_overflow=0, connect_args={"timeout": BUSY_S})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {BUSY_S * 1000}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("campus_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _cause(error: Exception) -> str:
    """What the database itself says, without the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(cause or type(error).__name__).split())[:300]
