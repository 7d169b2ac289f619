"""Tariffs: exact prices, the flat fee's constant bill, the percentile of transit contracts, and the signed message."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import LocalProtocolError, RemoteProtocolError
from billpay.messages import Tariff, Timescale, TollTerms
from billpay.money import NANODOLLARS_PER_DOLLAR
from billpay.tariffs import (
    AnyTariff,
    FlatFee,
    Packets,
    PerByte,
    Percentile95PlusNanopayments,
    PerMark,
    Tolls,
    Usage,
    from_message,
    percentile_95_bytes,
    to_message,
)
from billpay.tolls import EgressToll, TollSchedule

ISSUER = "ab" * 32
SAMPLES_OF_30_DAYS = 30 * 24 * 12
MBIT_S_BYTES = 37_500_000  # what 1 Mbit/s moves in five minutes

about = {
    "issuer": st.just(ISSUER),
    "serial": st.integers(0, 2**62),
    "timescale": st.sampled_from(Timescale),
    "valid_from_unix_s": st.integers(0, 2**40),
    "currency": st.sampled_from(["USD", "EUR"]),
}
sums = st.integers(0, 2**62)
fees = st.integers(0, 10**12)
toll_terms = st.builds(
    TollTerms,
    link=st.sampled_from(["x", "y", "z"]),
    fixed_nanodollars_per_packet=st.integers(0, 100),
    fixed_picodollars_per_byte=st.integers(0, 50),
    proportional_ppm=st.integers(0, 1_000_000),
    cap_nanodollars=st.none() | st.integers(0, 200),
    congestion_picodollars=st.integers(0, 100_000),
)
published_tolls = st.lists(toll_terms, max_size=3, unique_by=lambda terms: terms.link).map(tuple)
days = st.integers(1, 28)

flat_fees = st.builds(
    FlatFee, monthly_fee_nanodollars=fees, congestion_bytes_per_s=sums, reset_day=days, tolls=published_tolls, **about
)
percentiles = st.builds(
    Percentile95PlusNanopayments,
    nanodollars_per_mbit_s=fees,
    monthly_fee_nanodollars=fees,
    reset_day=days,
    tolls=published_tolls,
    **about,
)
per_bytes = st.builds(
    PerByte,
    picodollars_per_byte=st.integers(0, 10**6),
    bundle_bytes=st.integers(0, 10**12),
    monthly_fee_nanodollars=fees,
    reset_day=days,
    tolls=published_tolls,
    **about,
)
per_marks = st.builds(
    PerMark,
    nanodollars_per_mark=sums,
    monthly_fee_nanodollars=fees,
    reset_day=days,
    tolls=published_tolls,
    **about,
)


def on_link(link: str) -> st.SearchStrategy[TollTerms]:
    return toll_terms.map(lambda terms: msgspec.structs.replace(terms, link=link))


every_link = st.tuples(on_link("x"), on_link("y"), on_link("z"))
tolls = st.builds(Tolls, tolls=every_link, **about)
tariffs: st.SearchStrategy[AnyTariff] = st.one_of(flat_fees, percentiles, per_bytes, per_marks, tolls)

packets = st.builds(
    Packets,
    link=st.sampled_from("xyz"),
    count=st.integers(0, 10**6),
    size_bytes=st.integers(20, 65_535),
    amount_nanodollars=st.integers(0, 0xFF_FFFF),
)
usages = st.builds(
    Usage,
    volume_bytes=st.integers(0, 10**13),
    volumes_bytes=st.lists(st.integers(0, 10**12), min_size=1, max_size=40).map(tuple),
    packets=st.lists(packets, max_size=8).map(tuple),
    sent_nanodollars=st.integers(0, 10**12),
    received_marks=st.integers(0, 10**12),
)


def published(**terms: Any) -> dict[str, Any]:
    return {"issuer": ISSUER, "serial": 1, "timescale": Timescale.LONG_TERM, "valid_from_unix_s": 0, **terms}


# --- every tariff -----------------------------------------------------------------------------------------------------


@given(tariffs, usages)
def test_a_price_is_a_whole_number_of_nanodollars_and_never_negative(tariff: AnyTariff, usage: Usage) -> None:
    price = tariff.price(usage)
    assert type(price) is int
    assert price >= 0  # nothing was received: the balance of nanopayments is not below zero


@given(tariffs, usages, st.data())
def test_more_usage_never_costs_less(tariff: AnyTariff, usage: Usage, data: st.DataObject) -> None:
    more = dataclasses.replace(
        usage,
        volume_bytes=usage.volume_bytes + data.draw(st.integers(0, 10**12)),
        volumes_bytes=tuple(volume + data.draw(st.integers(0, 10**9)) for volume in usage.volumes_bytes),
        packets=usage.packets + data.draw(st.lists(packets, max_size=3).map(tuple)),
        sent_nanodollars=usage.sent_nanodollars + data.draw(st.integers(0, 10**9)),
        received_marks=usage.received_marks + data.draw(st.integers(0, 10**9)),
    )
    assert tariff.price(more) >= tariff.price(usage)


@pytest.mark.row("M3G-01")
@given(tariffs)
def test_a_tariff_carries_its_time_scale_through_the_message(tariff: AnyTariff) -> None:
    message = msgspec.json.decode(msgspec.json.encode(to_message(tariff)), type=Tariff)
    assert message.timescale is tariff.timescale
    assert from_message(message) == tariff


@pytest.mark.row("M3G-01")
def test_there_are_three_time_scales_of_price_change() -> None:
    assert [scale.value for scale in Timescale] == ["network", "user", "long-term"]


# --- flat fee ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-04")
@given(flat_fees, usages, usages)
def test_flat_fee_is_the_same_whatever_is_used(tariff: FlatFee, usage: Usage, other: Usage) -> None:
    assert tariff.price(usage) == tariff.price(other) == tariff.monthly_fee_nanodollars


@pytest.mark.row("BP-04")
def test_access_isp_absorbs_nanopayments_up_to_its_policy_while_the_bill_stays() -> None:
    """A light user meets no limit; a heavy one is absorbed at the fill rate; both pay the same."""
    tariff = FlatFee(**published(monthly_fee_nanodollars=30 * NANODOLLARS_PER_DOLLAR, congestion_bytes_per_s=1500))
    light, heavy = tariff.absorption(now_ns=0), tariff.absorption(now_ns=0)
    paid_for_heavy = 0
    for second in range(3600):
        now_ns = second * 10**9
        if second % 2 == 0:
            assert light.on_packet(1500, payment_nanodollars=10, now_ns=now_ns) == 10
        for _ in range(5):
            paid_for_heavy += heavy.on_packet(1500, payment_nanodollars=10, now_ns=now_ns)
    assert (light.absorbed_nanodollars, light.refused_packets) == (18_000, 0)
    assert heavy.absorbed_nanodollars == paid_for_heavy == 10 * (10 + 3599)  # the depth, then one packet a second
    assert heavy.refused_packets == 5 * 3600 - (10 + 3599)
    bills = {
        tariff.price(Usage(volume_bytes=volume, sent_nanodollars=sent))
        for volume, sent in ((1500 * 1800, 18_000), (1500 * 18_000, paid_for_heavy))
    }
    assert bills == {30 * NANODOLLARS_PER_DOLLAR}


@pytest.mark.row("BP-04")
def test_packets_on_a_path_without_tolls_use_up_nothing() -> None:
    tariff = FlatFee(**published(monthly_fee_nanodollars=1, congestion_bytes_per_s=150))
    absorption = tariff.absorption(now_ns=0)
    assert [absorption.on_packet(1500, payment_nanodollars=0, now_ns=0) for _ in range(1000)] == [0] * 1000
    assert absorption.on_packet(1500, payment_nanodollars=7, now_ns=0) == 7
    assert absorption.on_packet(1500, payment_nanodollars=7, now_ns=0) == 0
    assert (absorption.absorbed_nanodollars, absorption.refused_packets) == (7, 1)


# --- 95th percentile plus nanopayments --------------------------------------------------------------------------------


@pytest.mark.row("BP-52")
def test_percentile_of_a_month_drops_the_432_highest_of_8640_samples() -> None:
    assert SAMPLES_OF_30_DAYS == 8640
    volumes = list(range(SAMPLES_OF_30_DAYS))
    random.Random(1).shuffle(volumes)
    assert percentile_95_bytes(volumes) == 8640 - 432 - 1
    base = [MBIT_S_BYTES * 10]
    assert percentile_95_bytes(base * (8640 - 432) + [10**15] * 432) == MBIT_S_BYTES * 10
    assert percentile_95_bytes(base * (8640 - 433) + [10**15] * 433) == 10**15


@pytest.mark.row("BP-52")
@pytest.mark.parametrize(("sent", "received", "balance"), [(0, 0, 0), (5_000, 2_000, 3_000), (2_000, 5_000, -3_000)])
def test_bill_is_the_percentile_and_the_nanopayment_balance(sent: int, received: int, balance: int) -> None:
    tariff = Percentile95PlusNanopayments(**published(nanodollars_per_mbit_s=5 * NANODOLLARS_PER_DOLLAR))
    month = [MBIT_S_BYTES * 100] * (8640 - 432) + [MBIT_S_BYTES * 900] * 432
    usage = Usage(volumes_bytes=tuple(month), sent_nanodollars=sent, received_nanodollars=received)
    assert tariff.price(usage) == 500 * NANODOLLARS_PER_DOLLAR + balance


def test_who_received_more_than_the_month_costs_is_owed() -> None:
    tariff = Percentile95PlusNanopayments(**published(nanodollars_per_mbit_s=1, monthly_fee_nanodollars=10))
    assert tariff.price(Usage(received_nanodollars=25)) == -15


@pytest.mark.parametrize("samples", [0, 1, 19, 20, 8064, 8928])
def test_other_months_drop_a_twentieth_rounded_down(samples: int) -> None:
    dropped = samples // 20
    assert percentile_95_bytes(range(1, samples + 1)) == max(0, samples - dropped)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200))
def test_at_least_95_percent_of_the_samples_are_at_or_below_the_percentile(volumes: list[int]) -> None:
    percentile = percentile_95_bytes(volumes)
    assert percentile in volumes
    assert sum(volume <= percentile for volume in volumes) * 100 >= 95 * len(volumes)


# --- per byte ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("volume", "price"),
    [
        (0, 20_000),
        (10_000, 20_000),
        (10_001, 20_000),  # one byte beyond is 7 picodollars: not yet a nanodollar
        (10_142, 20_000),
        (10_143, 20_001),  # 143 × 7 = 1001
        (10_000 + 10**9, 20_000 + 7 * 10**6),
    ],
)
def test_a_bundle_is_in_the_fee_and_bytes_beyond_it_are_counted_exactly(volume: int, price: int) -> None:
    tariff = PerByte(**published(picodollars_per_byte=7, bundle_bytes=10_000, monthly_fee_nanodollars=20_000))
    assert tariff.price(Usage(volume_bytes=volume)) == price


# --- per mark ---------------------------------------------------------------------------------------------------------


def test_marks_cost_and_nothing_else_does() -> None:
    tariff = PerMark(**published(nanodollars_per_mark=2_000, monthly_fee_nanodollars=30))
    assert tariff.price(Usage(volume_bytes=10**12, sent_nanodollars=5)) == 30
    assert tariff.price(Usage(volume_bytes=10**12, received_marks=1)) == 2_030
    assert tariff.price(Usage(received_marks=10**6)) == 30 + 2 * NANODOLLARS_PER_DOLLAR


# --- tolls ------------------------------------------------------------------------------------------------------------


@given(tolls, st.lists(st.tuples(packets, st.integers(0, 5)), max_size=10))
def test_tolls_price_what_a_gateway_takes_packet_by_packet(tariff: Tolls, groups: list[tuple[Packets, int]]) -> None:
    some = [dataclasses.replace(group, count=count) for group, count in groups]
    meters = {}
    for terms in tariff.tolls:
        meter = meters[terms.link] = EgressToll(
            TollSchedule(
                fixed_nanodollars_per_packet=terms.fixed_nanodollars_per_packet,
                fixed_picodollars_per_byte=terms.fixed_picodollars_per_byte,
                proportional_ppm=terms.proportional_ppm,
                cap_nanodollars=terms.cap_nanodollars,
            )
        )
        meter.congestion_picodollars = terms.congestion_picodollars
    retained = 0
    for group in some:
        meter, size, amount = meters[group.link], group.size_bytes, group.amount_nanodollars
        retained += sum(meter.retain(meter.picodollars(size, amount), amount) for _ in range(group.count))
    assert tariff.price(Usage(packets=tuple(some))) == retained


@pytest.mark.row("BP-15")
def test_tolls_of_a_thousand_full_packets() -> None:
    terms = TollTerms(link="x", fixed_nanodollars_per_packet=1, fixed_picodollars_per_byte=2)
    tariff = Tolls(**published(tolls=(terms,)))
    group = Packets(link="x", count=1000, size_bytes=1500, amount_nanodollars=20)
    assert tariff.price(Usage(packets=(group,))) == 4000


def test_packets_over_a_link_without_a_toll_have_no_price() -> None:
    group = Packets(link="elsewhere", count=1, size_bytes=1500, amount_nanodollars=20)
    with pytest.raises(LocalProtocolError, match="elsewhere"):
        Tolls(**published()).price(Usage(packets=(group,)))


# --- the message ------------------------------------------------------------------------------------------------------


def message(kind: str, **terms: Any) -> Tariff:
    return Tariff(**published(kind=kind, **terms))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("tolls", Tolls),
        ("flat-fee", FlatFee),
        ("percentile-95", Percentile95PlusNanopayments),
        ("per-byte", PerByte),
        ("per-mark", PerMark),
    ],
)
def test_each_kind_of_message_has_its_value(kind: str, value: type[AnyTariff]) -> None:
    toll = TollTerms(link="x", fixed_nanodollars_per_packet=3)
    tariff = from_message(message(kind, tolls=(toll,)))
    assert type(tariff) is value
    assert tariff.tolls == (toll,)  # tolls are taken from packets under any contract
    assert to_message(tariff) == message(kind, tolls=(toll,))


@pytest.mark.parametrize(
    ("kind", "term", "value"),
    [
        ("tolls", "monthly_fee_nanodollars", 5),
        ("tolls", "reset_day", 2),
        ("flat-fee", "picodollars_per_byte", 5),
        ("flat-fee", "nanodollars_per_mbit_s", 5),
        ("percentile-95", "bundle_bytes", 5),
        ("per-byte", "congestion_bytes_per_s", 5),
        ("per-byte", "nanodollars_per_mark", 5),
        ("per-mark", "bundle_bytes", 5),
    ],
)
def test_terms_that_the_kind_does_not_know_are_refused(kind: str, term: str, value: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{kind} has no {term}") as caught:
        from_message(message(kind, **{term: value}))
    assert caught.value.code == "foreign-terms"


def test_two_tolls_for_one_link_are_refused() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        from_message(message("tolls", tolls=(TollTerms(link="x"), TollTerms(link="x", proportional_ppm=1))))
    assert caught.value.code == "duplicate-toll"
