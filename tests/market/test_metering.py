"""Meters, mediation and charging: every mark once, at the price of its time, whatever is lost, late or repeated."""

from __future__ import annotations

import random
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_sessions import BEGINS_MS, ESP_KEY, KEY, SESSION, esp, ipv4, ipv6, mark_price, udp

from billpay.clearing import LINES_MAX, MeteredKey, MeterRecord, SessionUsage
from dataplane.metering import Tally
from market.charging import Bill, Charged, Charging, differs_from_advice
from market.mediation import Mediation, Taken
from market.metering import Meter, MeteringPolicy, look_at

RUN = "00" * 16
POLICY = MeteringPolicy(checkpoint_ms=1_000, flush_ms=1_000)
CHANGE_MS = BEGINS_MS + 4_321
PRICES = (mark_price(1, 1_000, BEGINS_MS - 1_000), mark_price(2, 3_001, CHANGE_MS))
Packet = tuple[int, bytes]


def metered(packets: list[Packet], policy: MeteringPolicy = POLICY, name: str = "h4") -> list[MeterRecord]:
    meter = Meter(name=name, run=RUN, policy=policy)
    for price in PRICES:
        meter.cut_at(price.valid_from_unix_ms)
    for at, packet in packets:
        meter.on_packet(packet, at)
    return meter.take(packets[-1][0] + 5_000, all_of_it=True)


def usage_of(records: list[MeterRecord], *, key: MeteredKey = KEY, regularity_ms: int = 1_000) -> list[SessionUsage]:
    mediation = Mediation()
    assert mediation.open(SESSION, key, meter=records[0].meter, regularity_ms=regularity_ms)
    for price in PRICES:
        mediation.cut_at(price.valid_from_unix_ms)
    for record in records:
        assert mediation.on_record(record) is Taken.COUNTED
    return mediation.take(SESSION, all_of_it=True)


def billed(usages: list[SessionUsage]) -> Bill:
    charging = Charging()
    for price in PRICES:
        assert charging.prices.on_push(price)
    for usage in usages:
        assert charging.on_usage(usage) is Charged.CHARGED
    bill = charging.bill(SESSION)
    assert bill is not None
    return bill


def stream(draw: random.Random, make: object = udp, *, count: int = 1_500) -> list[Packet]:
    """About ten seconds, a mark in twenty, all four code points."""
    at, packets = BEGINS_MS, []
    for _ in range(count):
        at += int(draw.expovariate(1 / 6))
        packets.append((at, make(draw.choices([0, 1, 2, 3], [1, 1, 17, 1])[0])))  # type: ignore[operator]
    return packets


def exact_nanodollars(packets: list[Packet]) -> int:
    """By each packet alone."""
    return sum(1_000 if at < CHANGE_MS else 3_001 for at, packet in packets if packet[1] & 3 == 3)


# --- what a packet is -------------------------------------------------------------------------------------------------


@pytest.mark.row("DPH-17", "DPH-34")
def test_the_key_of_a_packet_is_what_can_be_seen_of_it() -> None:
    for packet, key in ((udp(3), KEY), (esp(3), ESP_KEY)):
        seen = look_at(packet)
        assert seen is not None
        assert (seen.key, seen.bytes, seen.is_marked) == (key, len(packet), True)
    seen = look_at(ipv6(bytes.fromhex("00000abc") + bytes(60), protocol=50, ecn=3))
    assert seen is not None
    assert (seen.key, seen.is_marked) == (MeteredKey(destination="fd00::3", protocol=50, spi=0xABC), True)
    assert look_at(b"\x00" * 40) is None
    fragment = bytearray(esp(3))
    fragment[6:8] = b"\x00\x10"  # no SPI in a later fragment
    seen = look_at(bytes(fragment))
    assert seen is not None
    assert seen.key == MeteredKey(source="10.0.1.2", destination="10.0.3.2", protocol=50)


@pytest.mark.row("DPH-19")
def test_only_the_mark_costs_anything() -> None:
    """Other code points, sizes and numbers of packets change no bill."""
    marks = [(BEGINS_MS + 100 * number, udp(3, size=64)) for number in range(20)]
    others = [(BEGINS_MS + 7 * number, udp(number % 3, size=1_400)) for number in range(280)]
    alone = billed(usage_of(metered(marks)))
    among = billed(usage_of(metered(sorted(marks + others))))
    assert alone.amount_nanodollars == among.amount_nanodollars == 20_000
    assert (alone.marks, among.marks, among.packets) == (20, 20, 300)
    none = billed(usage_of(metered(others)))
    assert (none.amount_nanodollars, none.packets) == (0, 280)


# --- exact over a change of price -------------------------------------------------------------------------------------


@pytest.mark.row("DPH-02", "DPH-21")
@given(
    st.integers(min_value=0, max_value=10**6), st.sampled_from([10, 137, 1_000, 5_000]), st.sampled_from([50, 2_500])
)
def test_a_bill_splits_exactly_at_the_change(seed: int, checkpoint_ms: int, regularity_ms: int) -> None:
    packets = stream(random.Random(seed), count=300)
    policy = MeteringPolicy(checkpoint_ms=checkpoint_ms, flush_ms=5_000)
    bill = billed(usage_of(metered(packets, policy), regularity_ms=regularity_ms))
    assert bill.amount_nanodollars == exact_nanodollars(packets)


@pytest.mark.row("DPH-21")
def test_a_bill_has_a_line_for_each_price() -> None:
    packets = stream(random.Random(11))
    bill = billed(usage_of(metered(packets)))
    before = sum(packet[1] & 3 == 3 for at, packet in packets if at < CHANGE_MS)
    after = sum(packet[1] & 3 == 3 for at, packet in packets if at >= CHANGE_MS)
    assert [(line.serial, line.nanodollars_per_mark, line.marks) for line in bill.lines] == [
        (1, 1_000, before),
        (2, 3_001, after),
    ]


def test_a_mark_in_the_very_millisecond_of_a_change_has_the_new_price() -> None:
    packets = [(CHANGE_MS - 1, udp(3)), (CHANGE_MS, udp(3))]
    assert billed(usage_of(metered(packets))).amount_nanodollars == 1_000 + 3_001


def test_after_silence_over_a_change_the_new_price_holds() -> None:
    packets = [(BEGINS_MS, udp(3)), (CHANGE_MS + 50_000, udp(3))]
    assert billed(usage_of(metered(packets))).amount_nanodollars == 1_000 + 3_001


@pytest.mark.row("DPH-17")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_bill_of_the_mini_cas_is_the_plain_bill(seed: int) -> None:
    """The same packets in ESP: the receiver's own charging, by SPI, comes to what the provider charges by ports."""
    plain, encrypted = stream(random.Random(seed)), stream(random.Random(seed), esp)
    bill = billed(usage_of(metered(plain)))
    advice = billed(usage_of(metered(encrypted, name="h3"), key=ESP_KEY))
    assert bill.lines == advice.lines
    provider = Charging()
    for price in PRICES:
        provider.prices.on_push(price)
    for usage in usage_of(metered(plain)):
        provider.on_usage(usage)
    said = provider.characterise(SESSION, provider="aa" * 32, customer="bb" * 32)
    assert said is not None
    assert differs_from_advice(said, advice) == 0
    assert bill.amount_nanodollars == exact_nanodollars(plain) > 0


@pytest.mark.row("DPH-16")
def test_two_meters_agree_on_the_marks_though_they_check_at_other_times() -> None:
    """Accounting on h4, price reaction on h3: other checkpoints, later arrivals, the same marks in the end."""
    packets = stream(random.Random(5))
    h4 = metered(packets)
    h3 = metered([(at + 37, packet) for at, packet in packets], MeteringPolicy(checkpoint_ms=70, flush_ms=70), "h3")
    assert h4[-1].ce_packets == h3[-1].ce_packets == sum(packet[1] & 3 == 3 for _, packet in packets)
    assert (h4[-1].packets, h4[-1].bytes) == (h3[-1].packets, h3[-1].bytes)
    assert len(h3) > len(h4)


# --- policy, readings, repetition -------------------------------------------------------------------------------------


@pytest.mark.row("DPH-25", "DPH-35")
def test_the_policy_says_how_often_counts_are_written_and_sent() -> None:
    meter = Meter(name="h4", run=RUN, policy=MeteringPolicy(checkpoint_ms=500, flush_ms=2_000))
    sent: list[tuple[int, list[MeterRecord]]] = []
    for at in range(BEGINS_MS, BEGINS_MS + 10_000, 20):
        meter.on_packet(udp(3), at)
        if records := meter.take(at):
            sent.append((at, records))
    assert [later - earlier for (earlier, _), (later, _) in pairwise(sent)] == [2_000] * 3
    assert all(len(records) == 4 for _, records in sent)
    assert all(record.to_unix_ms % 500 == 0 for _, records in sent for record in records)
    for wrong in ({"checkpoint_ms": 5}, {"checkpoint_ms": 2_000, "flush_ms": 1_000}, {"most_keys": 0}):
        with pytest.raises(ValueError, match=r"from 1|ms <="):
            MeteringPolicy(**wrong)


def test_a_full_table_counts_what_it_does_not_know() -> None:
    meter = Meter(name="h4", run=RUN, policy=MeteringPolicy(most_keys=1))
    meter.on_packet(udp(3), BEGINS_MS)
    meter.on_packet(udp(3, port=9), BEGINS_MS, segments=3)
    assert meter.beyond_table_packets == 3


def test_readings_count_like_packets_and_none_runs_backwards() -> None:
    meter = Meter(name="h3", run=RUN, policy=POLICY)
    meter.cut_at(CHANGE_MS)
    at = BEGINS_MS
    assert meter.on_reading(KEY, Tally(0, 0, 0), at)
    for step in range(1, 8):
        at = min(meter.next_checkpoint_unix_ms(at), BEGINS_MS + 8_000)
        assert meter.on_reading(KEY, Tally(10 * step, 1_000 * step, step), at)
    assert not meter.on_reading(KEY, Tally(10, 1_000, 1), at + 1)  # an old one
    assert not meter.on_reading(KEY, Tally(100, 10_000, 10), at - 1)
    assert not meter.on_reading(KEY, Tally(100, 10_000, 101), at + 1)
    records = meter.take(at, all_of_it=True)
    assert [record.ce_packets for record in records] == [1, 2, 3, 4, 5, 6, 7]
    assert CHANGE_MS in {record.to_unix_ms for record in records}
    assert billed(usage_of(records)).amount_nanodollars == 5 * 1_000 + 2 * 3_001
    assert meter.counted(KEY) == Tally(70, 7_000, 7)


def test_a_late_reading_is_of_the_price_where_its_interval_began() -> None:
    """What was known before the missed checkpoint is written down at its own time."""
    meter = Meter(name="h3", run=RUN, policy=POLICY)
    meter.cut_at(CHANGE_MS)
    for at, marks in ((BEGINS_MS, 0), (CHANGE_MS - 100, 2), (CHANGE_MS + 100, 5), (CHANGE_MS + 2_000, 6)):
        assert meter.on_reading(KEY, Tally(10 * marks, 10 * marks, marks), at)
    bill = billed(usage_of(meter.take(CHANGE_MS + 2_000, all_of_it=True)))
    assert bill.amount_nanodollars == 5 * 1_000 + 1 * 3_001


@pytest.mark.row("DPH-18")
@given(st.randoms(use_true_random=False))
def test_mediation_counts_each_record_once_in_whatever_order(draw: random.Random) -> None:
    records = metered(stream(random.Random(3), count=400))
    expected = usage_of(records)
    mixed = records * 2
    draw.shuffle(mixed)
    mediation = Mediation()
    mediation.open(SESSION, KEY, meter="h4", regularity_ms=1_000)
    for price in PRICES:
        mediation.cut_at(price.valid_from_unix_ms)
    taken = [mediation.on_record(record) for record in mixed]
    assert sum(each is Taken.KNOWN for each in taken) == len(records)
    assert mediation.take(SESSION, all_of_it=True) == expected


@pytest.mark.row("DPH-08", "DPH-18")
@pytest.mark.parametrize("interval_ms", [500, 2_000])
def test_mediation_on_h3_aggregates_at_the_regularity_of_the_reactor(interval_ms: int) -> None:
    """Many checkpoints, one usage in each interval; cumulative, so that a lost one loses no mark."""
    packets = [(BEGINS_MS + 5 * number, udp(3 if number % 10 == 0 else 2)) for number in range(2_000)]
    records = metered(packets, MeteringPolicy(checkpoint_ms=50, flush_ms=50), "h3")
    mediation = Mediation()
    mediation.open(SESSION, KEY, meter="h3", regularity_ms=interval_ms)
    usages = [usage for record in records if mediation.on_record(record) for usage in mediation.take(SESSION)]
    assert len(usages) == 10_000 // interval_ms
    assert [later.to_unix_ms - earlier.to_unix_ms for earlier, later in pairwise(usages)] == (
        [interval_ms] * (len(usages) - 1)
    )
    assert usages[-1].ce_packets == 200


def test_mediation_takes_one_meter_for_a_session_and_no_contradiction() -> None:
    records = metered(stream(random.Random(3), count=400))
    mediation = Mediation()
    assert mediation.open(SESSION, KEY, meter="h4", regularity_ms=1_000)
    assert not mediation.open("00" * 16, KEY, meter="h4", regularity_ms=1_000)
    other = metered(stream(random.Random(3), count=400), name="h3")
    for record in (*records, *other):
        assert mediation.on_record(record) is Taken.COUNTED
    assert mediation.counted(SESSION)[0] == 400
    first = records[0]
    assert mediation.on_record(msgspec.structs.replace(first, ce_packets=first.ce_packets + 1)) is Taken.CONTRADICTS
    fallen = msgspec.structs.replace(records[-1], number=records[-1].number + 1, packets=1, ce_packets=0)
    assert mediation.on_record(fallen) is Taken.CONTRADICTS
    rest = mediation.close(SESSION)
    assert rest[-1].packets == 400
    assert mediation.open("00" * 16, KEY, meter="h4", regularity_ms=1_000)


def test_charging_takes_usage_once_in_order_and_at_known_prices_only() -> None:
    usages = usage_of(metered(stream(random.Random(4))))
    charging = Charging()
    assert charging.on_usage(usages[0]) is Charged.UNPRICED
    for price in PRICES:
        charging.prices.on_push(price)
    assert charging.on_usage(usages[1]) is Charged.WAITS
    assert charging.on_usage(usages[0]) is Charged.CHARGED
    assert charging.on_usage(usages[0]) is Charged.KNOWN
    assert charging.on_usage(msgspec.structs.replace(usages[1], key=ESP_KEY)) is Charged.OTHER_KEY
    assert charging.on_usage(msgspec.structs.replace(usages[1], packets=0, ce_packets=0)) is Charged.CONTRADICTS
    assert charging.on_usage(usages[1]) is Charged.CHARGED


def test_a_session_has_so_many_prices_and_no_more() -> None:
    charging, at = Charging(), BEGINS_MS
    for number in range(1, LINES_MAX + 2):
        charging.prices.on_push(mark_price(number, number, at + number * 1_000))
        usage = SessionUsage(
            session=SESSION,
            number=number,
            key=KEY,
            from_unix_ms=at + number * 1_000,
            to_unix_ms=at + number * 1_000 + 999,
            packets=number,
            bytes=number,
            ce_packets=number,
        )
        taken = charging.on_usage(usage)
        assert taken is (Charged.CHARGED if number <= LINES_MAX else Charged.TOO_MANY_PRICES)


def test_one_packet_of_another_kind_changes_nothing() -> None:
    meter = Meter(name="h4", run=RUN, policy=POLICY)
    meter.on_packet(b"\x45", BEGINS_MS)
    meter.on_packet(ipv4(b"", protocol=1, ecn=0), BEGINS_MS)
    assert len(meter.take(BEGINS_MS + 1, all_of_it=True)) == 1
