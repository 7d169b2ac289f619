"""The clearing house: every party is paid what its own documents say, once; whatever was tampered with is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_sessions import (
    BEGINS_MS,
    C1,
    C3,
    ESP_KEY,
    KEYS,
    P2,
    P3,
    SESSION,
    characterisation,
    clearing_house,
    intention,
    mark_price,
    order,
    register,
)

from billpay.clearing import ClearingSide, Payee
from billpay.errors import RemoteProtocolError
from billpay.ledger import AccountKind
from billpay.messages import Signed
from billpay.signing import SigningKey, sign
from market.authority import Authority, Register
from market.books import PartyBook
from market.clearinghouse import Clearing, ClearingHouse, Event, HouseTerms

LATER = ((1, 1_000, 40), (2, 2_500, 7))


def balanced(house: ClearingHouse) -> bool:
    return sum(balance.posted_nanodollars for balance in house.ledger.balances.values()) == 0


@pytest.mark.row("DPH-10")
def test_three_ledgers_and_the_margin_between_them() -> None:
    house = clearing_house()
    assert house.on_order(order()) is Clearing.CLEARED
    assert (house.owed_to(P2.fingerprint), house.owed_by(C1.fingerprint)) == (40_000, 48_000)
    assert house.on_order(order(characterisation(2, LATER))) is Clearing.CLEARED
    bill, owed = 40 * 1_000 + 7 * 2_500, 40 * 1_200 + 7 * 3_000
    assert (house.owed_to(P2.fingerprint), house.owed_by(C1.fingerprint)) == (bill, owed)
    assert house.income_nanodollars == owed - bill
    assert balanced(house)


@pytest.mark.row("DPH-09", "DPH-10")
def test_a_characterisation_is_settled_once() -> None:
    house = clearing_house()
    for _ in range(3):
        house.on_order(order())
    assert house.on_order(order()) is Clearing.DUPLICATE
    assert house.owed_to(P2.fingerprint) == 40_000
    house.on_order(order(characterisation(2, LATER)))
    assert house.on_order(order()) is Clearing.DUPLICATE  # an old one, late
    assert house.owed_to(P2.fingerprint) == 40 * 1_000 + 7 * 2_500


def tampered(signed: Signed, position: int) -> Signed:
    document = bytearray(signed.document)
    document[position % len(document)] ^= 1
    return msgspec.structs.replace(signed, document=bytes(document))


@pytest.mark.row("DPH-09")
@given(st.sampled_from(["order", "characterisation", "intention"]), st.integers(min_value=0, max_value=10_000))
def test_whatever_was_tampered_with_is_refused(part: str, position: int) -> None:
    house = clearing_house()
    if part == "order":
        signed = tampered(order(), position)
    else:
        inner = sign(P2, characterisation()) if part == "characterisation" else sign(C1, intention())
        signed = order(**{part: tampered(inner, position)})  # type: ignore[arg-type]
    assert house.on_order(signed) is Clearing.FORGED
    assert not house.ledger.balances


@pytest.mark.row("DPH-09", "DPH-11")
@pytest.mark.parametrize(
    ("signed", "refusal"),
    [
        (order(signers=(C3, C1, C3)), Clearing.OTHER_PARTIES),  # a characterisation of the customer's own
        (order(signers=(P2, C3, C3)), Clearing.OTHER_PARTIES),  # an intention of the customer's own
        (order(signers=(P2, C1, KEYS["other"])), Clearing.OTHER_PARTIES),
        (order(signers=(P2, SigningKey(b"\x77" * 32), C3)), Clearing.FORGED),  # nobody vouches for it
        (order(promise=intention(session="00" * 16)), Clearing.OTHER_PARTIES),
        (order(promise=intention(customer=KEYS["other"].fingerprint)), Clearing.OTHER_PARTIES),
        (order(promise=intention(clearing_house=P2.fingerprint)), Clearing.NOT_FOR_US),
        (order(promise=intention(valid_until_unix_ms=BEGINS_MS + 9_999)), Clearing.UNCOVERED),
        (order(characterisation(packets=39)), Clearing.IMPOSSIBLE),
        (order(characterisation(lines=((1, 1_000, 1), (1, 1_000, 1)))), Clearing.IMPOSSIBLE),
        (order(characterisation(lines=((1, 1_001, 40),))), Clearing.UNPUBLISHED_PRICE),
        (order(characterisation(lines=((3, 9_000, 40),))), Clearing.UNPUBLISHED_PRICE),
        (order(characterisation(lines=((2, 2_500, 40),), to_unix_ms=BEGINS_MS + 9_999)), Clearing.UNPUBLISHED_PRICE),
        (order(characterisation(from_unix_ms=BEGINS_MS + 10_000, to_unix_ms=BEGINS_MS + 10_001)),
         Clearing.UNPUBLISHED_PRICE),
    ],
)  # fmt: skip
def test_an_order_that_does_not_hold_moves_nothing(signed: Signed, refusal: Clearing) -> None:
    house = clearing_house()
    assert house.on_order(signed) is refusal
    assert not house.ledger.balances


@pytest.mark.row("DPH-09")
@pytest.mark.parametrize(
    ("it", "refusal"),
    [
        (characterisation(1, ((1, 1_000, 41),)), Clearing.CONTRADICTS),
        (characterisation(2, ((1, 1_000, 39), (2, 2_500, 9))), Clearing.FALLS),
        (characterisation(2, ((2, 2_500, 90),)), Clearing.FALLS),
        (characterisation(2, key=ESP_KEY), Clearing.FALLS),
        (characterisation(2, packets=999), Clearing.FALLS),
        (characterisation(2, from_unix_ms=BEGINS_MS + 1), Clearing.FALLS),
    ],
)
def test_a_later_one_only_extends_what_was_cleared(it: object, refusal: Clearing) -> None:
    house = clearing_house()
    assert house.on_order(order()) is Clearing.CLEARED
    assert house.on_order(order(it)) is refusal  # type: ignore[arg-type]
    assert house.owed_to(P2.fingerprint) == 40_000


def test_the_same_traffic_is_not_sold_under_two_sessions() -> None:
    house = clearing_house()
    assert house.on_order(order()) is Clearing.CLEARED
    other = "0f" * 16
    again = order(characterisation(session=other), intention(session=other), session=other)
    assert house.on_order(again) is Clearing.COUNTED_TWICE


def test_a_session_does_not_grow_into_the_time_of_another_one() -> None:
    house, other = clearing_house(), "0f" * 16
    first = characterisation(lines=((1, 1_000, 4),), to_unix_ms=BEGINS_MS + 2_000)
    later = {"session": other, "from_unix_ms": BEGINS_MS + 2_000, "to_unix_ms": BEGINS_MS + 4_000}
    second = characterisation(lines=((1, 1_000, 5),), **later)
    assert house.on_order(order(first)) is Clearing.CLEARED
    assert house.on_order(order(second, intention(session=other), session=other)) is Clearing.CLEARED
    grown = characterisation(2, ((1, 1_000, 9),), to_unix_ms=BEGINS_MS + 4_000)
    assert house.on_order(order(grown)) is Clearing.COUNTED_TWICE
    again = characterisation(2, ((1, 1_000, 7),), **later)
    assert house.on_order(order(again, intention(session=other), session=other)) is Clearing.CLEARED, "its own time"
    assert house.owed_to(P2.fingerprint) == 11_000


def test_what_was_counted_in_an_instant_is_not_sold_twice_either() -> None:
    house, other = clearing_house(), "0f" * 16
    instant = {"from_unix_ms": BEGINS_MS + 5, "to_unix_ms": BEGINS_MS + 5}
    assert house.on_order(order(characterisation(lines=((1, 1_000, 4),), **instant))) is Clearing.CLEARED
    again = order(
        characterisation(lines=((1, 1_000, 4),), session=other, **instant), intention(session=other), session=other
    )
    assert house.on_order(again) is Clearing.COUNTED_TWICE


def test_the_house_limits_its_own_risk() -> None:
    house = clearing_house(credit_nanodollars={C1.fingerprint: 48_000 + 3_000})
    assert house.on_order(order()) is Clearing.CLEARED
    assert house.on_order(order(characterisation(2, LATER))) is Clearing.OVER_CREDIT
    assert house.on_order(order(characterisation(3, ((1, 1_000, 40), (2, 2_500, 1))))) is Clearing.CLEARED
    assert house.owed_by(C1.fingerprint) == 51_000


@pytest.mark.row("DPH-10")
def test_a_fixed_price_of_the_house_can_cost_it_money() -> None:
    house = clearing_house(HouseTerms(fixed_nanodollars_per_mark=900))
    assert house.on_order(order()) is Clearing.CLEARED
    assert (house.owed_by(C1.fingerprint), house.income_nanodollars) == (36_000, -4_000)
    assert balanced(house)


@pytest.mark.row("M3G-06")
def test_split_edge_each_edge_pays_its_own_provider_and_the_house_moves_the_rest() -> None:
    """p1 bills c1 and p2 bills c3, each locally; the house takes c3's bill from c1 and gives it to c3."""
    house = clearing_house()
    local = characterisation(provider=KEYS["other"].fingerprint, customer=C1.fingerprint, lines=((1, 700, 12),))
    c1, c3 = PartyBook(C1.fingerprint), PartyBook(C3.fingerprint)
    p1, p2 = PartyBook(KEYS["other"].fingerprint), PartyBook(P2.fingerprint)
    for book in (c1, p1):
        book.on_bill(local)
    for book in (c3, p2):
        book.on_bill(characterisation())
    assert house.on_order(order(promise=intention(payee=Payee.CUSTOMER))) is Clearing.CLEARED
    statements = {it.side: it for it in house.statements(SESSION)}
    assert set(statements) == {ClearingSide.PAYER, ClearingSide.CUSTOMER}
    c1.on_statement(statements[ClearingSide.PAYER])
    c3.on_statement(statements[ClearingSide.CUSTOMER])
    assert (c1.owed_to(p1.fingerprint), c1.owed_to(P3.fingerprint)) == (8_400, 48_000)
    assert (c3.owed_to(P2.fingerprint), c3.owed_by(P3.fingerprint), c3.cost_nanodollars) == (40_000, 40_000, 0)
    assert p1.owed_by(C1.fingerprint) == 8_400  # nobody but its own customer owes a provider anything
    assert p2.owed_by(C3.fingerprint) == 40_000
    assert (house.owed_to(C3.fingerprint), house.owed_to(P2.fingerprint)) == (40_000, 0)
    assert house.income_nanodollars == 8_000
    for ledger in (c1.ledger, c3.ledger, p1.ledger, p2.ledger, house.ledger):
        assert sum(balance.posted_nanodollars for balance in ledger.balances.values()) == 0


def test_no_party_is_told_anothers_price() -> None:
    house = clearing_house()
    house.on_order(order())
    prices = {it.side: {line.nanodollars_per_mark for line in it.lines} for it in house.statements(SESSION)}
    assert prices == {
        ClearingSide.PAYER: {1_200},
        ClearingSide.PROVIDER: {1_000},
        ClearingSide.CUSTOMER: {1_000},
    }


def test_after_a_start_the_same_events_give_the_same_house() -> None:
    """At the terms of the time: new terms hold for new sessions."""
    house = clearing_house()
    orders = [order(), order(characterisation(2, LATER))]
    prices = [sign(P2, mark_price(1, 1_000, BEGINS_MS - 1_000)), sign(P2, mark_price(2, 2_500, BEGINS_MS + 10_000))]
    for each in orders:
        house.on_order(each)
    fresh = ClearingHouse(fingerprint=P3.fingerprint, register=register(), terms=HouseTerms(markup_ppm=900_000))
    for signed in (*prices, *orders):
        fresh.apply(Event(signed=signed, unix_ms=BEGINS_MS, terms=HouseTerms(markup_ppm=200_000)))
    assert fresh.ledger.balances == house.ledger.balances
    assert fresh.statements(SESSION) == house.statements(SESSION)
    assert all(account.kind is not AccountKind.TRAFFIC for account in fresh.ledger.balances)
    third = order(characterisation(3, ((1, 1_000, 40), (2, 2_500, 8))))
    assert fresh.on_order(third) is Clearing.CLEARED
    assert fresh.owed_by(C1.fingerprint) == 40 * 1_200 + 8 * 3_000


def test_a_price_is_its_providers_own() -> None:
    house = clearing_house()
    with pytest.raises(RemoteProtocolError, match="wrong-signer"):
        house.on_price(sign(C3, mark_price(9, 1, BEGINS_MS)))


@pytest.mark.row("DPH-11")
def test_the_authority_vouches_for_names_and_keys() -> None:
    authority = Authority("authority", SigningKey(b"\xaa" * 32))
    known = Register(authority.public_key)
    party = known.admit(authority.certify("c1", C1.public_key))
    assert (party.name, party.fingerprint) == ("c1", C1.fingerprint)
    assert authority.certify("c1", C1.public_key) == authority.certify("c1", C1.public_key)
    with pytest.raises(Exception, match="another key"):
        authority.certify("c1", C3.public_key)
    impostor = Authority("authority", SigningKey(b"\xab" * 32))
    for pem in (impostor.certify("c3", C3.public_key), "no certificate"):
        with pytest.raises(RemoteProtocolError, match="not-certified"):
            known.admit(pem)
    with pytest.raises(RemoteProtocolError, match="not-certified"):
        known.open(sign(C3, intention()), type(intention()))
