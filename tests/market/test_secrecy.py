"""The payer's policy stays with the payer: in no field of any message, and in no byte of a whole session."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import pytest
from market_sessions import BEGINS_MS, C1, C3, KEY, P2, P3, SESSION, clearing_house, mark_price, udp

from billpay import clearing, sessions
from billpay.clearing import ClearingOrder, IntentionToPay, MeterRecord, Payee
from billpay.messages import FlowSelector, Message, Signed
from billpay.sessions import MarkReport, Payer, SessionTerms, TargetRate
from billpay.signing import sign
from market import asking
from market.charging import Charging
from market.clearinghouse import Clearing
from market.mediation import Mediation
from market.metering import Meter, MeteringPolicy
from pricereactor.elastic import ElasticRate, plan_of
from pricereactor.policy import TaskPolicy, ValuePoint
from pricereactor.signals import PriceSignal, Source

POLICY = TaskPolicy(
    name="secret-film",
    willingness_nanodollars_per_s=7_654_321,
    value=(ValuePoint(rate_bit_s=123_457, nanodollars_per_s=34_567_891),),
    min_bit_s=71_993,
    max_bit_s=987_654_319,
    session_budget_nanodollars=5_432_109_877,
    day_budget_nanodollars=91_827_364_553,
    price_ceiling_nanodollars_per_mb=8_642_097,
    largest_rate_change_ppm=1_357_911,
    largest_price_change_ppm=2_468_101,
    buffer_ms=8_731,
    notice_s=577,
)
GENERIC = frozenset({"name", "kind"})
TELLING = re.compile(r"willing|budget|value|worth|ceiling|policy|max|limit|afford|task|deadline")
INTERVAL_MS = 500


def numbers_of(value: object) -> Iterator[int | str]:
    """Everything that the policy says, down to its corners."""
    match value:
        case bool() | None:
            return
        case int():
            if value > 500:  # 8 or 12 stand in every message
                yield value
        case dict():
            for each in value.values():
                yield from numbers_of(each)
        case list() | tuple():
            for each in value:
                yield from numbers_of(each)


def message_types() -> list[type[Message]]:
    """All that crosses a border of a process in a session and its charging."""
    found = {
        each
        for module in (clearing, sessions, asking)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Message) and each not in (Message, Signed)
    }
    return sorted(found, key=lambda each: each.__name__)


@pytest.mark.row("DPH-07", "DPH-08")
@pytest.mark.parametrize("message", message_types(), ids=lambda each: each.__name__)
def test_no_message_has_a_field_for_a_policy(message: type[Message]) -> None:
    policy = {field.name for field in msgspec.structs.fields(TaskPolicy)} - GENERIC
    for field in msgspec.structs.fields(message):
        assert field.name not in policy
        assert not TELLING.search(field.name), f"{message.__name__}.{field.name}"


def test_an_intention_to_pay_names_no_amount() -> None:
    names = {field.name for field in msgspec.structs.fields(IntentionToPay)}
    assert names == {
        "session", "sequence", "payer", "customer", "clearing_house", "payee", "valid_until_unix_ms"
    }  # fmt: skip


def session_on_the_wire(payer: Payer) -> list[Signed]:
    """Ten seconds with a real reactor that knows the policy: everything that anybody signs and sends."""
    sent: list[Signed] = []
    flow = FlowSelector(
        source=KEY.source, destination=KEY.destination, protocol=17, source_port=5004, destination_port=5006
    )
    sender, receiver = C1, C3
    terms = SessionTerms(session=SESSION, sequence=1, flow=flow, payer=payer, interval_ms=INTERVAL_MS)
    sent.append(sign(sender, terms))
    price = mark_price(1, 1_000, BEGINS_MS - 1_000)
    sent.append(sign(P2, price))
    reactor = ElasticRate(plan_of(POLICY, interval_ns=INTERVAL_MS * 10**6, nanodollars_per_mark=1_000))
    meter = Meter(name="h4", run="00" * 16, policy=MeteringPolicy(checkpoint_ms=INTERVAL_MS, flush_ms=INTERVAL_MS))
    packets = marks = 0
    target = 1_000_000
    for step in range(1, 21):
        now_ms = step * INTERVAL_MS
        arrived = max(1, min(400, target * INTERVAL_MS // 1000 // 8 // 1500))
        for number in range(arrived):
            marked = number % 5 == 0
            meter.on_packet(udp(3 if marked else 2), BEGINS_MS + now_ms - INTERVAL_MS + number)
            packets, marks = packets + 1, marks + marked
        report = MarkReport(
            session=SESSION, sequence=step, counted_ms=now_ms, packets=packets, bytes=packets * 1500, ce_packets=marks,
            ect_packets=packets - marks,
        )  # fmt: skip
        if payer is Payer.SENDER:
            sent.append(sign(receiver, report))
        signal = PriceSignal(
            now_ns=now_ms * 10**6, interval_ns=INTERVAL_MS * 10**6, source=Source.RECEIVER_MARKS, packets=arrived,
            bytes=arrived * 1500, marks=-(-arrived // 5), charge_nanodollars=-(-arrived // 5) * 1_000,
        )  # fmt: skip
        target = reactor.on_interval(now_ms * 10**6, signal).target_bit_s or 1_000_000
        if payer is Payer.RECEIVER:
            sent.append(sign(receiver, TargetRate(session=SESSION, sequence=step, target_bit_s=target)))
    return sent + charged(meter, price)


def charged(meter: Meter, price: sessions.MarkPrice) -> list[Signed]:
    """What meter, mediation, charging and the clearing house say of it."""
    sent: list[Signed] = []
    mediation, charging, house = Mediation(), Charging(), clearing_house()
    mediation.open(SESSION, KEY, meter="h4", regularity_ms=INTERVAL_MS)
    charging.prices.on_push(price)
    for record in meter.take(BEGINS_MS + 10_000, all_of_it=True):
        assert isinstance(record, MeterRecord)
        sent.append(sign(P2, record))
        mediation.on_record(record)
    for usage in mediation.take(SESSION, all_of_it=True):
        sent.append(sign(P2, usage))
        charging.on_usage(usage)
    characterisation = charging.characterise(SESSION, provider=P2.fingerprint, customer=C3.fingerprint)
    assert characterisation is not None
    promise = IntentionToPay(
        session=SESSION, sequence=1, payer=C1.fingerprint, customer=C3.fingerprint, clearing_house=P3.fingerprint,
        payee=Payee.PROVIDER, valid_until_unix_ms=BEGINS_MS + 30_000,
    )  # fmt: skip
    order = ClearingOrder(
        session=SESSION,
        customer=C3.fingerprint,
        clearing_house=P3.fingerprint,
        characterisation=sign(P2, characterisation),
        intention=sign(C1, promise),
    )
    sent.append(sign(C3, order))
    assert house.on_order(sent[-1]) is Clearing.CLEARED
    sent += [order.characterisation, order.intention, *(sign(P3, each) for each in house.statements(SESSION))]
    return sent


@pytest.mark.row("DPH-07", "DPH-08")
@pytest.mark.parametrize("payer", list(Payer))
def test_no_number_of_the_policy_is_in_the_bytes_of_a_session(payer: Payer) -> None:
    sent = session_on_the_wire(payer)
    assert len(sent) > 50
    wire = b"\n".join(each.document + each.signature for each in sent)
    found = list(numbers_of(msgspec.to_builtins(POLICY)))
    assert len(found) >= 10
    for number in found:
        assert isinstance(number, int)
        assert not re.search(rb"(?<![0-9])" + str(number).encode() + rb"(?![0-9])", wire), number
        for size in (4, 8):
            for order in ("big", "little"):
                if number < 1 << 8 * size - 1:
                    raw = number.to_bytes(size, order)
                    assert raw not in wire
    assert POLICY.name.encode() not in wire


def test_the_search_would_find_a_number_that_leaked() -> None:
    report = MarkReport(
        session=SESSION, sequence=1, counted_ms=500, packets=7_654_321, bytes=0, ce_packets=0, ect_packets=0
    )
    assert b"7654321" in sign(C3, report).document
