"""You would have paid …: exact prices of one stretch under each kind of tariff, and what is said with them."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from billpay.messages import Timescale, TollTerms
from billpay.tariffs import (
    AnyTariff,
    FlatFee,
    Packets,
    PerByte,
    Percentile95PlusNanopayments,
    PerMark,
    Tolls,
    Usage,
)
from hostagent.history.calendar import Span, day_of, month_span
from hostagent.history.replay import TYPICAL, Replayed, replay
from hostagent.history.values import Counts

ZONE = ZoneInfo("Europe/Berlin")
JUNE = month_span("2026-06", ZONE)
DOLLAR = 10**9
MBIT_S = 37_500_000


def about(**terms: Any) -> dict[str, Any]:
    return {"issuer": "", "serial": 0, "timescale": Timescale.LONG_TERM, "valid_from_unix_s": 0, **terms}


def price(
    tariff: AnyTariff, counts: Counts, span: Span = JUNE, samples: tuple[int, ...] = (), unknown_s: int = 0
) -> int:
    def ask(piece: Span) -> Replayed:
        return Replayed(span=piece, by_network={"home": counts}, samples=samples, unknown_s=unknown_s)

    (bill,) = replay(ask, span, ZONE, (("it", tariff),))
    return bill.nanodollars


counted = st.builds(
    Counts,
    st.integers(0, 10**13),
    st.integers(0, 10**13),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.integers(0, 10**7),
)


@given(counted, st.lists(st.integers(0, 10**10), max_size=50).map(tuple), st.integers(1, 28))
def test_a_whole_period_costs_what_its_tariff_says(counts: Counts, samples: tuple[int, ...], reset_day: int) -> None:
    span = month_span("2026-06", ZONE, reset_day)
    usage = Usage(volume_bytes=counts.bytes, volumes_bytes=samples, received_marks=counts.received_ce_packets)
    monthly = about(monthly_fee_nanodollars=7 * DOLLAR + 1, reset_day=reset_day)
    for tariff in (
        FlatFee(**monthly),
        PerByte(**monthly, picodollars_per_byte=1234, bundle_bytes=10**9),
        PerMark(**monthly, nanodollars_per_mark=777),
        Percentile95PlusNanopayments(**monthly, nanodollars_per_mbit_s=5 * DOLLAR),
    ):
        assert price(tariff, counts, span, samples) == tariff.price(usage)


@given(st.integers(0, 10**8), st.integers(20, 1500), st.data())
def test_tolls_take_packets_of_their_mean_size_and_no_byte_more(count: int, size: int, data: st.DataObject) -> None:
    sent = data.draw(st.integers(count * 20, max(count * 20, count * size)))
    terms = TollTerms(link="x", fixed_nanodollars_per_packet=3, fixed_picodollars_per_byte=7, proportional_ppm=500)
    found = price(Tolls(**about(tolls=(terms,))), Counts(sent, 0, count, 0, 0))
    assert found == (count * 3000 + (sent * 7 if count else 0)) // 1000


def test_networks_pay_their_own_toll_where_one_is_published() -> None:
    tariff = Tolls(**about(tolls=(TollTerms(link="x", fixed_nanodollars_per_packet=1),
                                  TollTerms(link="cafe", fixed_nanodollars_per_packet=50))))  # fmt: skip
    both = {"home": Counts(100, 0, 1, 0, 0), "cafe": Counts(200, 0, 2, 0, 0)}
    (bill,) = replay(lambda piece: Replayed(span=piece, by_network=both), JUNE, ZONE, (("it", tariff),))
    assert bill.nanodollars == 101
    usage = Usage(packets=(Packets(link="cafe", count=2, size_bytes=100, amount_nanodollars=10**6),))
    assert tariff.price(usage) == 100


def test_a_part_of_a_month_costs_that_part() -> None:
    three_days = Span(JUNE.from_unix_s, day_of(JUNE.from_unix_s + 3 * 86_400 - 1, ZONE).until_unix_s)
    assert price(FlatFee(**about(monthly_fee_nanodollars=30 * DOLLAR)), Counts(), three_days) == 3 * DOLLAR
    tariff = PerByte(**about(monthly_fee_nanodollars=10 * DOLLAR, bundle_bytes=10**10, picodollars_per_byte=2000))
    assert price(tariff, Counts(sent_bytes=10**9 + 5), three_days) == DOLLAR + 10
    per_rate = Percentile95PlusNanopayments(**about(nanodollars_per_mbit_s=30 * DOLLAR))
    assert price(per_rate, Counts(), three_days, (MBIT_S,) * 864) == 3 * DOLLAR


def test_billing_periods_are_priced_one_by_one() -> None:
    span = Span(JUNE.from_unix_s, month_span("2026-07", ZONE).until_unix_s)
    tariff = PerByte(**about(bundle_bytes=100, picodollars_per_byte=1000))
    assert price(tariff, Counts(sent_bytes=150), span) == 100  # 50 beyond the bundle in each


def test_what_days_cannot_say_is_said_and_left_out() -> None:
    tariff = Percentile95PlusNanopayments(**about(nanodollars_per_mbit_s=30 * DOLLAR))
    half_s = 15 * 86_400

    def ask(piece: Span) -> Replayed:
        return Replayed(span=piece, by_network={}, samples=(MBIT_S,) * (15 * 288), unknown_s=half_s)

    (bill,) = replay(ask, JUNE, ZONE, (("p95", tariff),))
    assert bill.nanodollars == 15 * DOLLAR
    assert bill.unknown.startswith("not known: 15 days")
    assert bill.line().reason.startswith(bill.unknown)


def test_every_kind_of_tariff_is_among_the_typical_ones_and_says_why() -> None:
    assert len({type(tariff) for _, tariff in TYPICAL}) == 5

    def ask(piece: Span) -> Replayed:
        counts = Counts(2 * 10**10, 3 * 10**10, 2 * 10**7, 3 * 10**7, 1000)
        return Replayed(span=piece, by_network={"home": counts}, samples=(MBIT_S,) * 8640)

    lines = [bill.line() for bill in replay(ask, JUNE, ZONE)]
    assert [line.nanodollars for line in lines] == [
        30 * DOLLAR,
        10 * DOLLAR + 40 * 2 * DOLLAR,
        5 * DOLLAR,
        5 * DOLLAR + 1000 * 20_000,
        2 * 10**7 * 5 + 2 * 10**10 * 10 // 1000,
    ]
    assert all("; assumes " in line.reason and "\n" not in line.reason for line in lines)
    assert "50.0 GB moved, 40.0 GB beyond the bundle" in lines[1].reason
    assert "1000 of 30000000 packets came marked" in lines[3].reason
