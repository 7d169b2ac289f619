"""Statements add up to the nanodollar, however they are grouped; a line leads to its grants, flows and intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from html.parser import HTMLParser
from itertools import combinations
from zoneinfo import ZoneInfo

import msgspec
import pytest

from billpay.messages import FlowSelector
from secretary.money.purse import Fee, PurseEntry, Refund, TopUp, VoucherAdded
from secretary.money.spending import (
    Disputed,
    GrantContext,
    Reserved,
    Settled,
    SpendingEntry,
    SpendTold,
    Word,
    course_of,
)
from secretary.money.statement_pages import as_csv, as_html, as_json, as_text, exact_amount, trace_as_text
from secretary.money.statements import (
    COLUMNS,
    KEEP_DAYS,
    LINES_PER_DAY_MAX,
    OTHERS,
    Book,
    Line,
    Statement,
    dispute,
)
from secretary.money.treasury import MoneyEntry, Treasury
from secretary.transfers import Transfer

BERLIN = ZoneInfo("Europe/Berlin")
HOUR, DAY = 3600, 86_400
NOON = int(datetime.fromisoformat("2026-11-10T12:00+01:00").timestamp())
NOV = (date(2026, 11, 1), date(2026, 11, 30))
A, B = "a" * 64, "b" * 64


class Office:
    """A treasury with its journal, which is also what traces read."""

    def __init__(self) -> None:
        self.treasury = Treasury([], BERLIN)
        self.journal: list[MoneyEntry] = []
        self.by_grant: dict[str, list[SpendingEntry]] = {}
        self.unix_s = NOON
        self.grants = 0

    def put(self, entry: MoneyEntry) -> None:
        self.journal.append(entry)
        if isinstance(entry, SpendingEntry):
            self.by_grant.setdefault(entry.grant, []).append(entry)
        self.treasury.apply(entry)

    def top_up(self, amount: int) -> None:
        self.put(TopUp(transfer=f"t{len(self.journal)}", nanodollars=amount, unix_s=self.unix_s))

    def open(
        self,
        cap: int,
        program: str = "firefox",
        *,
        user: str = "ann",
        destination: str = "example.org",
        gateway: str = A,
    ) -> str:
        self.grants += 1
        grant = f"{self.grants:032x}"
        transfer = Transfer(user=user, program=program, destination=destination, network="Home")
        flow = FlowSelector(
            source="10.0.0.2", destination="192.0.2.7", protocol=6, source_port=self.grants, destination_port=443
        )
        context = GrantContext(
            transfer=transfer, gateway=gateway, gateway_name="ISP", flow=flow, rule="web", why="rule web: up to 1 mUSD"
        )
        self.put(Reserved(grant=grant, cap_nanodollars=cap, context=context, unix_s=self.unix_s))
        return grant

    def tell(self, grant: str, spent: int) -> None:
        self.put(SpendTold(grant=grant, spent_nanodollars=spent, unix_s=self.unix_s))

    def settle(self, grant: str, spent: int, word: Word = Word.CONFIRMED, counted: int | None = None) -> None:
        self.put(
            Settled(grant=grant, spent_nanodollars=spent, unix_s=self.unix_s, word=word, counted_nanodollars=counted)
        )

    def statement(self, *by: str, first: date = NOV[0], last: date = NOV[1]) -> Statement:
        statement = self.treasury.book.statement(first, last, by or ("program",))
        assert statement.adds_up
        return statement

    # The journal as a source of traces.

    def grants_between(self, since_unix_s: int, until_unix_s: int) -> Iterable[str]:
        for grant, entries in self.by_grant.items():
            if any(since_unix_s <= each.unix_s < until_unix_s for each in entries):
                yield grant

    def entries_of(self, grant: str) -> Sequence[SpendingEntry]:
        return self.by_grant[grant]


def amounts(statement: Statement) -> dict[str, int]:
    return {" ".join(getattr(line, each) for each in statement.by): line.nanodollars for line in statement.lines}


@pytest.fixture
def office() -> Office:
    """Two people, three programs, two gateways of one name, fees, a voucher, over three days."""
    office = Office()
    office.unix_s = NOON - 20 * DAY  # October
    office.top_up(1000)
    office.unix_s = NOON
    office.put(VoucherAdded(transfer="v1", voucher="v", nanodollars=100, unix_s=NOON, expires_unix_s=NOON + DAY + 9))
    web, call = office.open(300), office.open(200, "zoom", destination="zoom.us", gateway=B)
    office.tell(web, 60)
    office.unix_s += DAY
    office.tell(call, 70)
    office.put(Fee(transfer="f1", what="uplink B", nanodollars=33, unix_s=office.unix_s))
    office.settle(web, 90, counted=90)
    office.unix_s += DAY
    for expired in office.treasury.on_time(office.unix_s):
        office.put(expired)
    office.settle(office.open(50, user="bob"), 7)
    office.settle(call, 65)
    office.put(Refund(transfer="r1", nanodollars=5, unix_s=office.unix_s, grant=web))
    return office


# --- it adds up -------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(17)
@pytest.mark.row("BP-38", "MV-44")
def test_opening_and_topped_up_less_spent_and_fees_is_closing_and_the_purses_balance(office: Office) -> None:
    found = office.statement()
    assert (found.opening_nanodollars, found.topped_up_nanodollars) == (1000, 105)
    assert (found.spent_nanodollars, found.fees_nanodollars) == (90 + 65 + 7, 33)
    assert found.closing_nanodollars == office.treasury.purse.balance_nanodollars == 1000 + 105 - 162 - 33
    assert found.spent_of_vouchers_nanodollars + found.fees_of_vouchers_nanodollars == 100, "vouchers first"
    assert found.closing_vouchers_nanodollars == office.treasury.purse.voucher_nanodollars
    assert found.expired_nanodollars == 0
    october = office.statement(first=date(2026, 10, 1), last=date(2026, 10, 31))
    assert (october.opening_nanodollars, october.closing_nanodollars) == (0, 1000)


@pytest.mark.expectation(17)
@pytest.mark.row("BP-38")
def test_every_grouping_sums_up_to_what_was_spent_and_to_what_the_receipts_say(office: Office) -> None:
    receipts = sum(each.spent_nanodollars for each in office.journal if isinstance(each, Settled))
    for size in range(len(COLUMNS) + 1):
        for by in combinations(COLUMNS, size):
            found = office.statement(*by) if by else office.treasury.book.statement(*NOV, ())
            assert found.adds_up
            assert found.spent_nanodollars == receipts
    assert amounts(office.statement("program")) == {"firefox": 97, "zoom": 65}
    assert amounts(office.statement("user")) == {"ann": 155, "bob": 7}
    assert amounts(office.statement("destination")) == {"example.org": 97, "zoom.us": 65}
    assert amounts(office.statement("gateway")) == {"ISP (aaaaaaaa)": 97, "ISP (bbbbbbbb)": 65}
    assert amounts(office.statement("day")) == {"2026-11-10": 60, "2026-11-11": 100, "2026-11-12": 2}


@pytest.mark.row("MV-17")
def test_two_users_of_one_host_and_one_program_are_billed_apart(office: Office) -> None:
    assert amounts(office.statement("user", "program")) == {"ann firefox": 90, "ann zoom": 65, "bob firefox": 7}


def test_a_range_of_days_is_of_local_days(office: Office) -> None:
    first = office.statement("program", first=date(2026, 11, 10), last=date(2026, 11, 10))
    rest = office.statement("program", first=date(2026, 11, 11))
    assert (first.spent_nanodollars, rest.spent_nanodollars) == (60, 102)
    assert first.closing_nanodollars == rest.opening_nanodollars
    late = Office()
    late.top_up(100)
    late.unix_s = int(datetime.fromisoformat("2026-11-30T23:30:00+00:00").timestamp())  # December in Berlin
    late.settle(late.open(10), 10)
    assert late.statement().spent_nanodollars == 0
    assert late.statement(first=date(2026, 12, 1), last=date(2026, 12, 1)).spent_nanodollars == 10


def test_what_was_told_too_much_is_a_line_below_zero_on_the_receipts_day() -> None:
    office = Office()
    office.top_up(100)
    grant = office.open(50)
    office.tell(grant, 50)
    office.unix_s += DAY
    office.settle(grant, 30)
    assert amounts(office.statement("day")) == {"2026-11-10": 50, "2026-11-11": -20}
    assert office.statement().spent_nanodollars == 30


# --- what a line rests on ---------------------------------------------------------------------------------------------


def only_line(office: Office) -> Line:
    (line,) = office.statement().lines
    return line


def test_a_line_says_whose_word_it_rests_on() -> None:
    office = Office()
    office.top_up(100)
    grant = office.open(50)
    office.tell(grant, 20)
    line = only_line(office)
    assert (line.nanodollars, line.told_nanodollars, line.assumed_nanodollars) == (20, 20, 0)
    office.settle(grant, 50, Word.ASSUMED)
    line = only_line(office)
    assert (line.nanodollars, line.told_nanodollars, line.assumed_nanodollars) == (50, 0, 50)
    late = office_receipt(grant, 20)
    assert office.treasury.changes(late)
    office.put(late)
    line = only_line(office)
    assert (line.nanodollars, line.told_nanodollars, line.assumed_nanodollars, line.grants) == (20, 0, 0, 1)
    assert not office.treasury.changes(late)
    assert office.treasury.purse.balance_nanodollars == 80


def office_receipt(grant: str, spent: int) -> Settled:
    return Settled(grant=grant, spent_nanodollars=spent, unix_s=NOON + HOUR, word=Word.CONFIRMED)


@pytest.mark.expectation(17)
def test_a_receipt_beyond_the_hosts_own_count_marks_the_line() -> None:
    office = Office()
    office.top_up(100)
    office.settle(office.open(50), 30, counted=30)
    assert not only_line(office).disputed
    office.settle(office.open(50), 30, counted=29)
    assert only_line(office).disputed
    assert only_line(office).nanodollars == 60


@pytest.mark.expectation(17)
@pytest.mark.row("BP-38")
def test_a_disputed_line_is_marked_and_traced_to_its_grants_flows_and_intervals(office: Office) -> None:
    line = office.statement("program").lines[0]
    traced = office.treasury.book.trace(line, office)
    assert traced.adds_up
    assert [grant.course.grant for grant in traced.grants] == [f"{1:032x}", f"{3:032x}"]
    course = traced.grants[0].course
    assert course.context.flow is not None
    assert (course.context.flow.source_port, course.word) == (1, Word.CONFIRMED)
    assert [(s.from_unix_s, s.until_unix_s, s.nanodollars, s.what) for s in traced.grants[0].steps] == [
        (NOON, NOON, 0, "granted up to 300 n$: rule web: up to 1 mUSD"),
        (NOON, NOON, 60, "as told"),
        (NOON, NOON + DAY, 30, "confirmed by the gateway"),
    ]
    office.put(dispute(course, BERLIN, unix_s=office.unix_s, note="this was not me"))
    again = office.treasury.book.find(line.key)
    assert again is not None
    assert again.disputed
    assert again.nanodollars == line.nanodollars
    after = office.treasury.book.trace(again, office)
    assert after.grants[0].course.is_disputed
    text = trace_as_text(after, "USD")
    assert "tcp 10.0.0.2:1 > 192.0.2.7:443  at ISP (aaaaaaaa)" in text
    assert "disputed: this was not me" in text


@pytest.mark.expectation(17)
def test_every_line_of_every_grouping_can_be_traced_exactly(office: Office) -> None:
    for by in (("day",), ("user", "program"), COLUMNS, ("gateway", "day"), ()):
        for line in office.treasury.book.statement(*NOV, by).lines:
            assert office.treasury.book.find(line.key) == line
            assert office.treasury.book.trace(line, office).adds_up
            assert len(line.key) <= 128


@pytest.mark.parametrize("key", ["", "x", "2026-11-01/2026-11-30/colour/0", "2026-11-01/x//0", "a/b/c/d/e"])
def test_a_key_of_nobody_finds_nothing(office: Office, key: str) -> None:
    assert office.treasury.book.find(key) is None


def test_what_a_statement_cannot_be_is_said(office: Office) -> None:
    for first, last, by, problem in (
        (*NOV, ("colour",), "no column 'colour'"),
        (NOV[1], NOV[0], ("day",), "ends before it begins"),
    ):
        with pytest.raises(ValueError, match=problem):
            office.treasury.book.statement(first, last, by)


# --- years ------------------------------------------------------------------------------------------------------------


def test_years_keep_their_totals_and_the_journal_has_their_lines() -> None:
    office = Office()
    office.top_up(10**9)
    for _ in range(400):
        office.unix_s += DAY
        office.settle(office.open(50), 3)
    book = office.treasury.book
    today = date(2027, 12, 15)
    assert office.statement(first=date(2027, 12, 1), last=today).opening_nanodollars == 10**9 - 3 * 385
    with pytest.raises(ValueError, match="in the journal only"):
        book.statement(*NOV)
    assert book.find("2026-11-01/2026-11-30/program/0") is None
    old = reread(office.journal, NOV)
    found = old.statement(*NOV)
    assert found.adds_up
    assert found.spent_nanodollars == 60
    assert old.trace(found.lines[0], office).adds_up
    cells, running = book.state()[1:3]
    assert isinstance(cells, dict)
    assert len(cells) <= KEEP_DAYS + 1
    assert running == {}


def reread(journal: Iterable[MoneyEntry], only: tuple[date, date]) -> Book:
    treasury = Treasury([], BERLIN, only=only)
    for entry in journal:
        treasury.apply(entry)
    return treasury.book


def test_lines_of_a_day_are_bounded_and_still_add_up() -> None:
    office = Office()
    office.top_up(10**9)
    for number in range(LINES_PER_DAY_MAX + 50):
        office.settle(office.open(50, destination=f"{number}.example"), 2)
    found = office.statement("destination")
    assert len(found.lines) == LINES_PER_DAY_MAX + 1
    assert found.lines[0].destination == OTHERS
    assert found.lines[0].nanodollars == 100
    traced = office.treasury.book.trace(found.lines[0], office)
    assert traced.adds_up
    assert len(traced.grants) == 50


# --- as text ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name in ("src", "href", "onclick") for name, _ in attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data


@pytest.mark.expectation(17)
@pytest.mark.row("BP-38")
def test_csv_json_and_the_page_say_the_same_to_the_nanodollar(office: Office) -> None:
    grant = office.open(50, "=cmd|x", user="<b>eve</b>\n")
    office.settle(grant, 11)
    found = office.statement("user", "program", "network", "gateway")
    assert msgspec.json.decode(as_json(found), type=Statement) == found
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    sums = {row["row"]: int(row["nanodollars"]) for row in rows if row["row"] not in ("line", "fee")}
    assert sums["opening"] + sums["topped up"] + sums["spent"] + sums["fees"] == sums["closing"]
    assert sums["closing"] == found.closing_nanodollars
    assert sum(int(row["nanodollars"]) for row in rows if row["row"] == "line") == sums["spent"]
    assert sum(int(row["nanodollars"]) for row in rows if row["row"] == "fee") == sums["fees"]
    assert sum(int(row["nanodollars"]) for row in rows if row["row"] in ("vouchers", "vouchers that expired")) == 100
    assert "'=cmd|x" in {row["program"] for row in rows}
    page = Page()
    page.feed(as_html(found))
    assert page.tags.isdisjoint({"script", "link", "img", "b"})
    shown = {row[0].strip(): row[-1] for row in page.rows if row}
    assert shown["closing"] == exact_amount(found.closing_nanodollars, "USD") == "0.000000899 USD"
    assert shown["<b>eve</b>"] == "-0.000000011 USD"
    assert sum(len(row) == 7 for row in page.rows) == len(found.lines) + 1
    text = as_text(found)
    assert "Statement of 2026-11-01 to 2026-11-30 (Europe/Berlin)" in text
    assert all(exact_amount(-line.nanodollars, "USD") in text for line in found.lines)
    assert "<b>eve</b>  =cmd|x  ISP (aaaaaaaa)  Home" in text


def test_an_empty_statement_is_one_too() -> None:
    found = Office().statement()
    assert found.closing_nanodollars == 0
    for show in (as_csv, as_json, as_text, as_html):
        assert show(found)


# --- entries ----------------------------------------------------------------------------------------------------------


def test_entries_are_read_back_as_they_were_written_and_nothing_else_is(office: Office) -> None:
    for entry in office.journal:
        text = msgspec.json.encode(entry)
        assert msgspec.json.decode(text, type=MoneyEntry) == entry
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text[:-1] + b',"more":1}', type=MoneyEntry)


def test_a_course_of_nothing_is_none() -> None:
    assert course_of([]) is None
    assert course_of([office_receipt("0" * 32, 5)]) is None


def test_types_of_entries_are_the_unions(office: Office) -> None:
    assert {type(each) for each in office.journal} <= {*SpendingEntry.__args__, *PurseEntry.__args__}
    assert Disputed in SpendingEntry.__args__
