"""The small parts: the aggregator, what is believed, the day book, the wheel."""

from __future__ import annotations

import random
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_worlds import ARRIVES, FLOW, MS, SENDS, SESSION, T0

from billpay.errors import EnvironmentFault
from billpay.messages import FlowSelector
from billpay.sessions import MarkPrice, MarkReport, Payer, SessionTerms, TargetRate
from billpay.signing import SigningKey
from dataplane.metering import UNATTRIBUTED, FlowMeter, Kind, Program, Tally
from dataplane.shaping.plan import Match
from hostagent import api
from hostagent.reacting.aggregator import FORGET_NS, MOST_OF_ONE, Aggregator, SteadyCount
from hostagent.reacting.days import FILE_NAME, DayBook, DayFile, KeptDays
from hostagent.reacting.door import MOST_IN_VAIN, MOST_MET, NS_PER_S, Door
from hostagent.reacting.matching import Launcher, SessionRule
from hostagent.reacting.naming import key_of, selector_of
from hostagent.reacting.offers import KEPT_NS, Offers
from hostagent.reacting.prices import Prices, Provider
from hostagent.reacting.wheel import SLOT_NS, Wheel
from hostagent.reacting.wire import (
    DATAGRAM_BYTES,
    MAX_AGE_MS,
    MOST_SESSIONS_KNOWN,
    Believed,
    Disbelief,
    Numbers,
    Reader,
    SessionPeer,
    write,
)

KEY = SigningKey(b"k" * 32)
OTHER = SigningKey(b"o" * 32)
PEER = SessionPeer(
    name="far", public_key=KEY.public_key, fingerprint=KEY.fingerprint, addresses=frozenset(("10.0.0.1",))
)


def terms(session: str = SESSION, **more: object) -> SessionTerms:
    given_: dict[str, object] = {"interval_ms": 100, "sequence": T0, "payer": Payer.SENDER, **more}
    return SessionTerms(session=session, flow=FLOW, **given_)  # type: ignore[arg-type]


def aggregator() -> Aggregator:
    numbers = Numbers()
    return Aggregator(lambda session: numbers.next(session, T0))


# --- aggregator -------------------------------------------------------------------------------------------------------


@pytest.mark.row("DPH-08")
def test_a_report_counts_from_the_beginning_of_the_session() -> None:
    counts = aggregator()
    assert counts.on_terms(terms(), peer="p", key=ARRIVES, now_ns=0)
    counts.begin(SESSION, Tally(1000, 1_000_000, 90, 910))
    report = counts.report(SESSION, Tally(1010, 1_012_000, 93, 917), 100 * MS)
    assert (report.packets, report.bytes, report.ce_packets, report.ect_packets) == (10, 12_000, 3, 7)
    assert report.counted_ms == 100


def test_reports_do_not_drift_and_what_was_missed_is_not_made_up() -> None:
    counts = aggregator()
    counts.on_terms(terms(), peer="p", key=ARRIVES, now_ns=0)
    counted = counts.get(SESSION)
    assert counted is not None
    counts.report(SESSION, None, 103 * MS)
    assert counted.next_ns == 200 * MS
    counts.report(SESSION, None, 530 * MS)
    assert counted.next_ns == 600 * MS
    counts.report(SESSION, None, 555 * MS, extra=True)
    assert counted.next_ns == 600 * MS, "one at a change of the price moves no regular one"


def test_terms_that_end_or_are_not_said_again_end_it() -> None:
    counts = aggregator()
    counts.on_terms(terms(), peer="p", key=ARRIVES, now_ns=0)
    assert not counts.on_terms(terms(ends=True), peer="q", key=ARRIVES, now_ns=0), "of somebody else"
    assert len(counts) == 1
    counts.on_terms(terms(ends=True), peer="p", key=ARRIVES, now_ns=0)
    assert len(counts) == 0
    counts.on_terms(terms(), peer="p", key=ARRIVES, now_ns=0)
    assert counts.forget_silent(FORGET_NS - 1) == []
    assert counts.forget_silent(FORGET_NS) == [SESSION]


def test_nobody_fills_the_table_alone() -> None:
    counts = aggregator()
    for number in range(MOST_OF_ONE):
        assert counts.on_terms(terms(f"{number:032x}"), peer="p", key=ARRIVES, now_ns=0)
    assert not counts.on_terms(terms("f" * 32), peer="p", key=ARRIVES, now_ns=0)
    assert counts.on_terms(terms("f" * 32), peer="q", key=ARRIVES, now_ns=0)


def test_another_interval_holds_from_the_next_report_on() -> None:
    counts = aggregator()
    counts.on_terms(terms(interval_ms=1000), peer="p", key=ARRIVES, now_ns=0)
    counts.on_terms(terms(interval_ms=200), peer="p", key=ARRIVES, now_ns=50 * MS)
    counted = counts.get(SESSION)
    assert counted is not None
    assert counted.next_ns == 250 * MS


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=60), st.sets(st.integers(0, 59)))
def test_a_count_never_falls_and_misses_nothing_that_is_seen(steps: list[tuple[int, int]], anew: set[int]) -> None:
    count, seen, expected = SteadyCount(), Tally(), Tally()
    count.begin(seen)
    for place, (packets, marks) in enumerate(steps):
        more = Tally(packets + marks, 100 * (packets + marks), marks, packets)
        seen = more if place in anew and more < seen else seen.plus(more)
        before = count.total
        expected = expected.plus(more)
        after = count.add(seen)
        assert all(now >= was for now, was in zip(after, before, strict=True))
        assert after == expected or place in anew or any(each in anew for each in range(place))
    assert count.add(None) == count.total


# --- what is believed -------------------------------------------------------------------------------------------------


def believed(reader: Reader, message: SessionTerms | MarkReport | TargetRate, now: int = T0) -> Disbelief | None:
    read = reader.read(write(KEY, message))
    assert isinstance(read, Believed)
    return reader.is_new(read, now)


def test_a_message_is_believed_once_and_for_two_minutes() -> None:
    reader = Reader([PEER])
    assert believed(reader, terms()) is None
    assert believed(reader, terms()) is Disbelief.REPLAYED
    assert believed(reader, terms(sequence=T0 - 1)) is Disbelief.REPLAYED
    assert believed(reader, terms(sequence=T0 + 1)) is None
    assert believed(reader, terms("a" * 32)) is None, "each session has its own numbers"
    assert believed(reader, terms(sequence=T0 + 2), T0 + MAX_AGE_MS + 3) is Disbelief.WRONG_TIME
    assert believed(reader, terms(sequence=T0 + MAX_AGE_MS + 1)) is Disbelief.WRONG_TIME


def test_what_a_peer_did_not_sign_is_not_its_own() -> None:
    reader = Reader([PEER])
    assert reader.read(write(OTHER, terms())) is Disbelief.UNKNOWN_SENDER
    forged = msgspec.json.decode(write(OTHER, terms()))
    forged["signer"] = KEY.fingerprint
    assert reader.read(msgspec.json.encode(forged)) is Disbelief.BAD_SIGNATURE
    assert reader.read(b"\xff") is Disbelief.MALFORMED
    assert reader.read(b" " * (DATAGRAM_BYTES + 1)) is Disbelief.MALFORMED


def test_every_message_fits_into_one_datagram() -> None:
    most = 2**62
    longest = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255"
    flow = FlowSelector(source=longest, destination=longest, protocol=255, source_port=65535, destination_port=65535)
    messages = (
        SessionTerms(session=SESSION, sequence=most, flow=flow, payer=Payer.RECEIVER, interval_ms=60_000, ends=True),
        MarkReport(
            session=SESSION,
            sequence=most,
            counted_ms=most,
            packets=most,
            bytes=most,
            ce_packets=most,
            ect_packets=most,
        ),
        TargetRate(session=SESSION, sequence=most, target_bit_s=400_000_000_000, lets_go=True),
    )
    assert max(len(write(KEY, message)) for message in messages) <= DATAGRAM_BYTES


def test_no_peer_makes_us_forget_what_another_one_said() -> None:
    other = SessionPeer(
        name="other", public_key=OTHER.public_key, fingerprint=OTHER.fingerprint, addresses=frozenset(("10.0.0.9",))
    )
    reader = Reader([PEER, other])
    assert believed(reader, terms()) is None
    for number in range(MOST_SESSIONS_KNOWN + 1):
        assert reader.is_new(Believed(peer=other, message=terms(f"{number:032x}")), T0) is None
    assert believed(reader, terms()) is Disbelief.REPLAYED


def test_what_costs_and_brings_nothing_is_dropped_unread_for_the_rest_of_a_second() -> None:
    door = Door(["10.0.0.1"])
    door.on_news("10.0.0.7")
    for number in range(MOST_IN_VAIN):
        stranger = f"192.0.2.{number}"
        assert door.admits(stranger, 5)
        door.on_vain(stranger)
    assert not door.admits("192.0.2.200", 6), "another address is no use"
    assert door.admits("10.0.0.1", 6), "a peer is none of them"
    assert door.admits("10.0.0.7", 6), "nor is who said something new before"
    for _ in range(MOST_IN_VAIN):
        door.on_vain("10.0.0.1")
    assert not door.admits("10.0.0.1", 7)
    assert door.admits("10.0.0.1", NS_PER_S)
    assert door.admits("192.0.2.200", NS_PER_S)
    for number in range(2 * MOST_MET):
        door.on_news(f"10.1.{number // 256}.{number % 256}")
    assert len(door._met) == MOST_MET


def test_offers_are_of_their_sender_and_nobody_fills_the_table_alone() -> None:
    offers = Offers()
    for number in range(MOST_OF_ONE + 10):
        key = ARRIVES._replace(remote_port=number + 1)
        offers.on_terms(terms(f"{number:032x}"), peer="p", key=key, now_ns=0)
    assert len(offers) == MOST_OF_ONE
    offers.on_terms(terms(), peer="q", key=ARRIVES, now_ns=0)
    offers.on_terms(terms("a" * 32), peer="p", key=ARRIVES, now_ns=0)
    taken = offers.take(ARRIVES, KEPT_NS - 1)
    assert taken is not None
    assert taken.session == SESSION
    assert offers.take(ARRIVES, 0) is None
    offers.on_terms(terms(), peer="q", key=ARRIVES, now_ns=0)
    offers.on_terms(terms(ends=True), peer="q", key=ARRIVES, now_ns=0)
    assert offers.take(ARRIVES, 0) is None, "it was taken back"
    offers.forget_old(KEPT_NS)
    assert len(offers) == 0


def test_an_address_is_as_on_the_wire() -> None:
    near, far = "::ffff:10.0.0.1", "::ffff:10.0.0.2"
    asked = api.SessionRequest(protocol="udp", local=near, local_port=4000, remote=far, remote_port=5004, task="film")
    assert key_of(asked) == SENDS
    assert selector_of(asked) == FLOW
    asked = msgspec.structs.replace(asked, local="fe80::1%eth0", remote="fe80::2%eth0")
    assert selector_of(asked).destination == "fe80::2"
    assert key_of(asked).remote == ip_address("fe80::2").packed


def test_a_flow_that_no_rule_names_is_asked_again_when_its_program_is_known() -> None:
    launcher = Launcher()
    launcher.use([SessionRule(task="film", match=Match(program="curl"))])
    flow = FlowMeter(
        key=SENDS,
        program_number=1,
        process_id=0,
        traffic_class=0,
        sent=Tally(),
        received=Tally(),
        first_ns=0,
        last_ns=0,
    )
    curl = Program(kind=Kind.PROGRAM, executable="/usr/bin/curl")
    assert launcher.request_for(flow, UNATTRIBUTED) is None
    assert launcher.request_for(flow, UNATTRIBUTED) is None
    assert launcher.request_for(flow, curl) is not None
    launcher.forget_others([])
    assert not launcher._unnamed


def push(**more: object) -> MarkPrice:
    said: dict[str, object] = {"provider": "p2", "serial": 1, "nanodollars_per_mark": 5, **more}
    return MarkPrice(valid_from_unix_ms=T0, published_unix_s=T0 // 1000, **said)  # type: ignore[arg-type]


@pytest.mark.row("DPH-26")
def test_a_price_is_believed_from_its_provider_alone() -> None:
    reader = Reader([PEER], [Provider(name="p2", public_key=OTHER.public_key)])
    assert reader.read(write(OTHER, push())) == push()
    assert reader.read(write(KEY, push())) is Disbelief.UNKNOWN_SENDER, "a peer is no provider"
    assert reader.read(write(OTHER, push(provider="p1"))) is Disbelief.FOREIGN_FLOW
    assert reader.read(write(OTHER, terms())) is Disbelief.UNKNOWN_SENDER, "a provider is no peer"


@pytest.mark.row("DPH-26")
def test_what_is_pushed_goes_before_what_is_configured_and_the_first_provider_before_the_next() -> None:
    prices = Prices([Provider(name="p1"), Provider(name="p2", nanodollars_per_mark=7)])
    assert prices.price_at(T0) == 7
    assert prices.on_push(push())
    assert not prices.on_push(push()), "nothing new"
    assert not prices.on_push(push(provider="p9"))
    assert (prices.price_at(T0 - 1), prices.price_at(T0)) == (7, 5)
    assert prices.changes_between(T0 - 10, T0 + 10) == (T0,)
    prices.on_push(push(provider="p1", nanodollars_per_mark=9, serial=4))
    assert prices.price_at(T0) == 9
    assert prices.highest_known == 9
    assert Prices([Provider(name="p1")]).price_at(T0) is None


# --- days -------------------------------------------------------------------------------------------------------------


def test_what_was_written_is_never_below_what_was_spent(tmp_path: Path) -> None:
    draw = random.Random(4)
    for _ in range(20):
        days = KeptDays(tmp_path, day="2026-11-21")
        before = days.book.spent("film")
        days.reserve("film")
        for _ in range(draw.randrange(200)):
            days.book.add("film", draw.randrange(300_000))
            days.keep()
            kept = msgspec.json.decode((tmp_path / FILE_NAME).read_bytes(), type=DayFile)
            assert kept.spent_nanodollars["film"] >= days.book.spent("film") >= before
        # Killed here; the next one begins with what was written.


def test_a_good_end_keeps_exactly_what_was_spent_or_can_still_be(tmp_path: Path) -> None:
    days = KeptDays(tmp_path, day="2026-11-21")
    days.book.add("film", 700)
    days.book.add("call", 50)
    days.book.claim("call", 90)
    days.close()
    again = KeptDays(tmp_path, day="2026-11-21")
    assert (again.book.spent("film"), again.book.spent("call")) == (700, 90)
    assert KeptDays(tmp_path, day="2026-11-22").book.spent("film") == 0


def test_it_is_not_written_at_each_nanodollar() -> None:
    book, writes = DayBook(DayFile(day="2026-11-21", spent_nanodollars={})), 0
    for _ in range(100_000):
        book.add("film", 10_000)
        if book.wants_writing():
            book.on_written(book.ahead())
            writes += 1
    assert writes < 1_500


def test_a_clock_that_goes_back_brings_no_old_day_back() -> None:
    book = DayBook(DayFile(day="2026-11-21", spent_nanodollars={"film": 5}))
    assert not book.on_day("2026-11-20")
    assert book.spent("film") == 5
    assert book.on_day("2026-11-22")
    assert book.spent("film") == 0


def test_a_clock_that_was_years_ahead_does_not_keep_the_day_for_years(tmp_path: Path) -> None:
    kept = DayFile(day="2099-01-01", spent_nanodollars={"film": 5})
    (tmp_path / FILE_NAME).write_bytes(msgspec.json.encode(kept))
    book = KeptDays(tmp_path, day="2026-11-21").book
    assert book.spent("film") == 5
    assert book.on_day("2026-11-22")
    assert book.spent("film") == 0


def test_a_broken_file_is_put_aside_and_said(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"{")
    days = KeptDays(tmp_path, day="2026-11-21")
    assert "put aside" in days.trouble
    with pytest.raises(EnvironmentFault):
        KeptDays(tmp_path / "nowhere", day="2026-11-21").reserve("film")


# --- the wheel --------------------------------------------------------------------------------------------------------


def test_everybody_is_due_once_and_never_early() -> None:
    wheel, draw = Wheel(), random.Random(5)
    due = {f"{number}": draw.randrange(1, 1000 * MS) for number in range(300)}
    for name, at in due.items():
        wheel.at(name, 7 * MS)
        wheel.at(name, at)
    wheel.drop("3")
    taken: dict[str, int] = {}
    while (next_ns := wheel.next_ns()) is not None:
        for name in wheel.take(next_ns):
            assert name not in taken
            taken[name] = next_ns
    assert taken.keys() == due.keys() - {"3"}
    assert all(0 <= taken[name] - due[name] < SLOT_NS for name in taken)
    wheel.by("x", 500 * MS)
    wheel.by("x", 900 * MS)
    assert wheel.next_ns() == 500 * MS
