"""Policies come and hold until they expire, reports are booked once, and nothing waits for the organisation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from central_server import SERVERS, CentralServer, FakeCentral
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import RemoteProtocolError
from billpay.messages import Signed
from billpay.signing import SigningKey, canonical_bytes
from neighbour.control import Unreachable
from neighbour.identity import NodeIdentity
from secretary.central import policy as central_module
from secretary.central.courier import CentralClient, Courier
from secretary.central.policy import (
    FIRST_RETRY_S,
    LAST_RETRY_S,
    CallTimes,
    Central,
    CentralEntry,
    CentralSettings,
    Part,
    Policy,
    PolicyTaken,
    ReportsClosed,
    SpendingLine,
    SpendingReport,
    digest_of,
    sign_document,
    verify_document,
)
from secretary.ruling.ceilings import Ceiling
from secretary.ruling.rulefiles import RuleSection
from secretary.ruling.rules import Pay, Source

NOW = 1_795_000_000
DAY = 86_400
KEY = SigningKey(b"c" * 32)
HOST_KEY = SigningKey(b"h" * 32)


def policy(serial: int = 1, **changes: object) -> Policy:
    made = Policy(
        organisation="acme",
        serial=serial,
        issued_unix_s=NOW,
        expires_unix_s=NOW + DAY,
        ceilings=(Ceiling(name="packets", packet_nanodollars=10),),
        rules=(RuleSection(name="no-torrents", program=("transmission*",), pay=Pay.NEVER),),
    )
    return msgspec.structs.replace(made, **changes)


def host(**settings: object) -> Central:
    return Central(CentralSettings(host="a", public_key=KEY.public_key, **settings), began_unix_s=NOW)  # type: ignore[arg-type]


def give(central: Central, wanted: Policy, unix_s: int = NOW) -> PolicyTaken | None:
    entry = central.take_policy(sign_document(KEY, wanted), unix_s)
    if entry is not None:
        central.apply(entry)
    return entry


# --- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-39")
@pytest.mark.expectation(25)
def test_a_policy_brings_ceilings_and_rules_until_it_expires() -> None:
    central = host()
    assert (central.ceilings(NOW), central.rules(NOW), central.state_text(NOW)) == ((), (), "")
    give(central, policy())
    assert [ceiling.name for ceiling in central.ceilings(NOW + DAY - 1)] == ["packets"]
    (rule,) = central.rules(NOW)
    assert (rule.source, rule.pay, rule.file) == (Source.ORGANISATION, Pay.NEVER, "policy 1")
    assert central.state_text(NOW) == "policy 1 of acme holds for 86400 s"
    # It could not be fetched again: the host's own file is what is left.
    assert (central.ceilings(NOW + DAY), central.rules(NOW + DAY)) == ((), ())
    assert central.state_text(NOW + DAY) == "policy 1 of acme has expired: the ceilings of this host's own file hold"


def test_the_same_policy_again_changes_nothing_and_a_later_one_takes_its_place() -> None:
    central = host()
    assert give(central, policy(3)) is not None
    assert give(central, policy(3)) is None
    assert give(central, policy(4, ceilings=())) is not None
    assert (central.known_serial, central.ceilings(NOW)) == (4, ())


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (policy(4), "old-policy"),
        (policy(5, ceilings=()), "old-policy"),  # another one of the same serial
        (policy(6, issued_unix_s=NOW + 301), "early-policy"),
        (policy(6, expires_unix_s=NOW), "expired-policy"),
        (policy(6, version=2), "unknown-version"),
        (policy(6, rules=(RuleSection(name="free"),)), "bad-policy"),
    ],
)
def test_what_is_wrong_is_refused_and_the_known_policy_holds(wanted: Policy, code: str) -> None:
    central = host()
    give(central, policy(5))
    with pytest.raises(RemoteProtocolError) as caught:
        give(central, wanted)
    assert caught.value.code == code
    assert len(str(caught.value).splitlines()) == 1
    assert central.known_serial == 5
    assert len(central.ceilings(NOW)) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda signed: msgspec.structs.replace(signed, kind="grant"), "wrong-kind"),
        (lambda signed: sign_document(HOST_KEY, policy()), "wrong-signer"),
        (lambda signed: msgspec.structs.replace(signed, document=signed.document + b" "), "bad-signature"),
    ],
)
def test_only_the_organisations_key_makes_a_policy(change: Callable[[Signed], Signed], code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        host().take_policy(change(sign_document(KEY, policy())), NOW)
    assert caught.value.code == code


@pytest.mark.parametrize("document", [b"{}", b"\xff", b"[]", canonical_bytes(policy())[:-1] + b',"x":1}'])
def test_a_signed_document_that_is_none_is_malformed(document: bytes) -> None:
    signature = KEY.private.sign(b"central-policy\x00" + document)
    signed = Signed(kind="central-policy", document=document, signer=KEY.fingerprint, signature=signature)
    with pytest.raises(RemoteProtocolError) as caught:
        host().take_policy(signed, NOW)
    assert caught.value.code == "malformed"


def test_a_policy_of_an_organisation_that_was_left_holds_no_more() -> None:
    entry = host().take_policy(sign_document(KEY, policy()), NOW)
    assert entry is not None
    other = Central(CentralSettings(host="a", public_key=HOST_KEY.public_key), began_unix_s=NOW)
    other.apply(entry)
    assert (other.known_serial, other.ceilings(NOW)) == (0, ())


# --- reports ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-39")
@pytest.mark.expectation(25)
def test_what_is_pushed_is_what_a_person_sees_before() -> None:
    central = host()
    central.spend(user="ann", program="zoom", network="office", nanodollars=70, size_bytes=1000)
    central.spend(user="ann", program="zoom", network="office", nanodollars=5)
    central.spend(user="bob", program="git", network="office", nanodollars=1)
    (seen,) = central.preview(NOW + DAY)
    assert seen.lines == (
        SpendingLine(user="ann", program="zoom", network="office", spent_nanodollars=75, size_bytes=1000),
        SpendingLine(user="bob", program="git", network="office", spent_nanodollars=1),
    )
    assert (seen.total_nanodollars, seen.from_unix_s, seen.until_unix_s) == (76, NOW, NOW + DAY)
    entry = central.close_period(NOW + DAY)
    assert entry is not None
    central.apply(entry)
    assert central.pending == (seen,)
    assert central.preview(NOW + DAY) == ()


@pytest.mark.expectation(25)
def test_a_host_leaves_out_what_it_wants_to() -> None:
    central = host(left_out=frozenset({Part.PROGRAM, Part.NETWORK}))
    central.spend(user="ann", program="zoom", network="office", nanodollars=7)
    central.spend(user="ann", program="git", network="home", nanodollars=2)
    (seen,) = central.preview(NOW)
    assert seen.lines == (SpendingLine(user="ann", spent_nanodollars=9),)


def test_a_period_ends_when_the_policy_says_and_not_before() -> None:
    central = host(report_every_s=1000)
    assert central.close_period(NOW + 999) is None
    assert central.close_period(NOW - DAY) is None  # the clock was set back
    assert central.close_period(NOW + 1000) == ReportsClosed(until_unix_s=NOW + 1000)  # nothing spent, nothing said
    give(central, policy(report_every_s=60))
    assert central.close_period(NOW + 60) is not None


def test_a_period_of_many_lines_is_reported_in_pieces_that_fit() -> None:
    central = host()
    for number in range(2000):
        central.spend(user="ann", program=f"{number}-{'p' * 90}", network="office", nanodollars=number)
    reports = central.preview(NOW + DAY)
    assert len(reports) > 2
    assert [report.serial for report in reports] == list(range(1, len(reports) + 1))
    assert sum(report.total_nanodollars for report in reports) == sum(range(2000))
    for report in reports:
        assert len(sign_document(HOST_KEY, report).document) <= 65_536
        msgspec.json.decode(msgspec.json.encode(sign_document(HOST_KEY, report)), type=Signed)


def test_sums_are_bounded_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(central_module, "LINES_MAX", 3)
    central = host()
    for number in range(10):
        central.spend(user="ann", program=f"p{number}", network="", nanodollars=1)
    (seen,) = central.preview(NOW)
    assert len(seen.lines) == 4
    assert seen.total_nanodollars == 10


def test_while_too_many_reports_wait_the_period_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(central_module, "PENDING_MAX", 2)
    central = host()
    for day in range(1, 6):
        central.spend(user="ann", program="zoom", network="", nanodollars=1)
        entry = central.close_period(NOW + day * DAY)
        if entry is not None:
            central.apply(entry)
    assert len(central.pending) == 2
    assert central.preview(NOW + 5 * DAY)[0].total_nanodollars == 3


def test_a_receipt_for_something_else_is_none() -> None:
    central = host()
    central.spend(user="ann", program="zoom", network="", nanodollars=1)
    signed = sign_document(HOST_KEY, central.preview(NOW)[0])
    for wrong in ({"serial": 2}, {"host": "b"}, {"digest": "0" * 64}):
        receipt = central_module.SpendingReceipt(host="a", serial=1, digest=digest_of(signed))
        with pytest.raises(RemoteProtocolError, match="wrong-receipt"):
            central.take_receipt(signed, msgspec.structs.replace(receipt, **wrong))


class Kept:
    """A host whose entries and spending are written down, and which starts again out of them."""

    def __init__(self) -> None:
        self.journal: list[CentralEntry | tuple[str, int]] = []
        self.central = host()

    def keep(self, entry: CentralEntry) -> None:
        self.journal.append(entry)
        self.central.apply(entry)

    def spend(self, program: str, nanodollars: int) -> None:
        self.journal.append((program, nanodollars))
        self.central.spend(user="ann", program=program, network="", nanodollars=nanodollars)

    def restart(self) -> None:
        self.central = host()
        for entry in self.journal:
            if isinstance(entry, tuple):
                self.central.spend(user="ann", program=entry[0], network="", nanodollars=entry[1])
            else:
                decoded = msgspec.json.decode(msgspec.json.encode(entry), type=CentralEntry)
                self.central.apply(decoded)


@given(st.lists(st.sampled_from(["spend", "day", "restart", "push", "lost receipt"]), max_size=30))
@pytest.mark.row("BP-39")
def test_reports_sum_up_to_what_was_spent_whatever_happens(steps: list[str]) -> None:
    kept, now, spent = Kept(), NOW, 0
    booked: dict[int, SpendingReport] = {}
    for step in steps:
        match step:
            case "spend":
                kept.spend(f"p{spent % 3}", 1 + spent % 7)
                spent += 1 + spent % 7
            case "day":
                now += DAY
                entry = kept.central.close_period(now)
                if entry is not None:
                    kept.keep(entry)
            case "restart":
                kept.restart()
            case _:
                for report in kept.central.pending:
                    assert booked.setdefault(report.serial, report) == report
                    signed = sign_document(HOST_KEY, report)
                    receipt = central_module.SpendingReceipt(host="a", serial=report.serial, digest=digest_of(signed))
                    if step == "push":
                        kept.keep(kept.central.take_receipt(signed, receipt))
    waiting = {report.serial: report for report in kept.central.pending} | booked
    still_open = sum(report.total_nanodollars for report in kept.central.preview(now))
    assert sum(report.total_nanodollars for report in waiting.values()) + still_open == spent


# --- when to call -----------------------------------------------------------------------------------------------------


def test_a_host_calls_at_once_then_regularly_and_after_failures_later_and_later() -> None:
    times = CallTimes(lambda: 1.0)
    assert times.wait_s(0) == 0
    waits = []
    for _ in range(15):
        times.on_failure(0)
        waits.append(times.wait_s(0))
    assert waits[:4] == [FIRST_RETRY_S, 4, 8, 16]
    assert waits[-1] == LAST_RETRY_S
    times.on_network()
    assert times.wait_s(0) == 0
    times.on_success(100, 300)
    assert (times.wait_s(100), times.wait_s(500)) == (300, 0)
    early = CallTimes(lambda: 0.0)
    early.on_failure(0)
    assert early.wait_s(0) == FIRST_RETRY_S / 2  # not all hosts come back together


# --- the contract that every central secretary keeps ------------------------------------------------------------------


@pytest.fixture
def nodes(tmp_path: Path) -> Callable[[str], NodeIdentity]:
    return lambda name: NodeIdentity.load_or_create(
        tmp_path / name, name=name, draw=lambda size: name.encode().ljust(size, b".")
    )


NodeOf = Callable[[str], NodeIdentity]


@pytest.fixture(params=SERVERS, ids=lambda server: server.__name__)
async def server(request: pytest.FixtureRequest, nodes: NodeOf) -> AsyncIterator[CentralServer]:
    started: CentralServer = request.param()
    await started.start(nodes("central"), [nodes("a").certificate, nodes("b").certificate])
    yield started
    await started.stop()


@pytest.fixture
async def client(server: CentralServer, nodes: NodeOf) -> AsyncIterator[CentralClient]:
    async with CentralClient(nodes("a"), nodes("central").certificate, server.url) as made:
        yield made


def report(serial: int = 1, host: str = "a", spent: int = 5) -> SpendingReport:
    line = SpendingLine(user="ann", program="zoom", network="office", spent_nanodollars=spent)
    return SpendingReport(
        host=host,
        serial=serial,
        from_unix_s=NOW,
        until_unix_s=NOW + DAY,
        total_nanodollars=spent,
        lines=(line,),
    )


@pytest.mark.row("BP-39")
async def test_contract_the_policy_is_given_when_it_is_newer(
    server: CentralServer, client: CentralClient, nodes: NodeOf
) -> None:
    assert await client.policy(0) is None
    server.publish(policy(3))
    signed = await client.policy(2)
    assert signed is not None
    assert verify_document(signed, nodes("central").key.public_key, Policy) == policy(3)
    assert await client.policy(3) is None
    assert await client.policy(4) is None


@pytest.mark.row("BP-39")
async def test_contract_a_report_is_booked_once(server: CentralServer, client: CentralClient, nodes: NodeOf) -> None:
    signed = sign_document(nodes("a").key, report())
    first = await client.report(signed)
    assert await client.report(signed) == first
    assert (first.host, first.serial, first.digest) == ("a", 1, digest_of(signed))
    await client.report(sign_document(nodes("a").key, report(3)))  # another may come later, or never
    assert server.booked() == {("a", 1): report(1), ("a", 3): report(3)}


@pytest.mark.parametrize(
    ("signer", "document", "code"),
    [
        ("a", report(spent=6), "other-report"),
        ("a", report(2, host="b"), "not-yours"),
        ("b", report(2), "wrong-signer"),
        ("a", msgspec.structs.replace(report(2), total_nanodollars=4), "bad-report"),
        ("a", msgspec.structs.replace(report(2), until_unix_s=NOW - 1), "bad-report"),
        ("a", policy(), "wrong-kind"),
    ],
)
async def test_contract_a_wrong_report_is_refused(
    server: CentralServer,
    client: CentralClient,
    nodes: NodeOf,
    signer: str,
    document: SpendingReport | Policy,
    code: str,
) -> None:
    await client.report(sign_document(nodes("a").key, report()))
    with pytest.raises(RemoteProtocolError) as caught:
        await client.report(sign_document(nodes(signer).key, document))
    assert caught.value.code == code
    assert server.booked() == {("a", 1): report()}


async def test_contract_a_stranger_is_not_heard(server: CentralServer, nodes: NodeOf) -> None:
    async with CentralClient(nodes("stranger"), nodes("central").certificate, server.url) as stranger:
        with pytest.raises(Unreachable):
            await stranger.policy(0)


@pytest.mark.row("BP-39")
async def test_contract_the_sum_over_hosts_is_the_sum_of_their_reports(server: CentralServer, nodes: NodeOf) -> None:
    for name, spent in (("a", 7), ("b", 11)):
        async with CentralClient(nodes(name), nodes("central").certificate, server.url) as calling:
            await calling.report(sign_document(nodes(name).key, report(host=name, spent=spent)))
    assert sum(each.total_nanodollars for each in server.booked().values()) == 18


# --- the driver -------------------------------------------------------------------------------------------------------


class Office:
    """A host with its courier, a fake central secretary, and a clock."""

    def __init__(self, nodes: NodeOf, fake: FakeCentral, url: str = "") -> None:
        me, there = nodes("a"), nodes("central").certificate
        self.now = NOW
        self.said: list[str] = []
        self.told = asyncio.Event()
        self.central = Central(CentralSettings(host="a", public_key=there.public_key), began_unix_s=NOW)
        self.client = CentralClient(me, there, url or fake.url)
        self.courier = Courier(
            self.client,
            self.central,
            keep=self.central.apply,
            sign=lambda document: sign_document(me.key, document),
            unix_s=lambda: self.now,
            tell=self._tell,
            draw=lambda: 0.5,
        )

    def _tell(self, line: str) -> None:
        self.said.append(line)
        self.told.set()


@pytest.fixture
async def fake(nodes: NodeOf) -> AsyncIterator[FakeCentral]:
    started = FakeCentral()
    await started.start(nodes("central"), [nodes("a").certificate])
    yield started
    await started.stop()


@pytest.mark.row("BP-39")
@pytest.mark.expectation(25)
async def test_the_courier_brings_the_policy_and_takes_what_was_previewed(nodes: NodeOf, fake: FakeCentral) -> None:
    office = Office(nodes, fake)
    fake.publish(policy())
    async with office.client:
        assert await office.courier.exchange()
        assert office.central.known_serial == 1
        office.central.spend(user="ann", program="zoom", network="office", nanodollars=9)
        office.now += DAY
        seen = office.central.preview(office.now)
        assert await office.courier.exchange()
    (body,) = fake.seen
    assert msgspec.json.decode(body, type=Signed).document == canonical_bytes(seen[0])
    assert office.central.pending == ()
    assert office.said == ["policy 1 of acme holds for 86400 s"]


async def test_a_wrong_policy_does_not_hold_up_reports_and_is_said_once(nodes: NodeOf, fake: FakeCentral) -> None:
    office = Office(nodes, fake)
    fake.publish_signed(sign_document(HOST_KEY, policy()), 1)
    office.central.spend(user="ann", program="zoom", network="office", nanodollars=9)
    office.now += DAY
    async with office.client:
        assert not await office.courier.exchange()
        assert not await office.courier.exchange()
        assert len(fake.booked()) == 1
        fake.publish(policy(expires_unix_s=NOW + 2 * DAY))
        assert await office.courier.exchange()
    assert len(office.said) == 3
    assert "wrong-signer" in office.said[0]
    assert office.said[-1] == "the organisation's secretary answers again"


@pytest.mark.expectation(25)
async def test_a_host_that_was_away_gets_its_policy_when_it_is_back(nodes: NodeOf, fake: FakeCentral) -> None:
    """The call fails, the next would be in seconds; the network comes back, and it is made at once."""
    await fake.stop()
    office = Office(nodes, fake)
    running = asyncio.create_task(office.courier.run())
    await asyncio.wait_for(office.told.wait(), 10)
    assert len(office.said) == 1
    assert office.central.in_force(NOW) is None  # and nothing waits for it
    office.told.clear()
    await fake.start(nodes("central"), [nodes("a").certificate])
    office.client.url = fake.url
    fake.publish(policy())
    office.courier.network_changed()
    await asyncio.wait_for(office.told.wait(), 10)
    assert office.central.known_serial == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
