"""The signed messages of charging: one byte form each, bounded, worth nothing as another kind."""

from __future__ import annotations

import json

import msgspec
import pytest
from market_sessions import BEGINS_MS, C1, C3, KEY, P3, SESSION, characterisation, intention, order

from billpay.clearing import (
    LINES_MAX,
    ClearingOrder,
    ClearingSide,
    ClearingStatement,
    MeterRecord,
    PricedMarks,
    SessionCharacterisation,
    SessionUsage,
)
from billpay.errors import RemoteProtocolError
from billpay.messages import Message
from billpay.signing import canonical_bytes, kind_of, sign, verify

COUNTS = {
    "number": 1,
    "key": KEY,
    "from_unix_ms": 0,
    "to_unix_ms": BEGINS_MS,
    "packets": 9,
    "bytes": 9,
    "ce_packets": 1,
}
LINE = PricedMarks(serial=1, nanodollars_per_mark=1_000, marks=40)
MESSAGES: list[Message] = [
    MeterRecord(meter="h4", run="00" * 16, **COUNTS),  # type: ignore[arg-type]
    SessionUsage(session=SESSION, **COUNTS),  # type: ignore[arg-type]
    characterisation(),
    intention(),
    verify(order(), C3.public_key, ClearingOrder),
    ClearingStatement(
        clearing_house=P3.fingerprint,
        party=C1.fingerprint,
        side=ClearingSide.PAYER,
        session=SESSION,
        sequence=1,
        to_unix_ms=BEGINS_MS,
        lines=(LINE,),
        amount_nanodollars=40_000,
    ),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda each: kind_of(type(each)))
def test_a_message_survives_its_signature_and_an_independent_encoder_agrees(message: Message) -> None:
    signed = sign(C1, message)
    assert verify(signed, C1.public_key, type(message)) == message
    plain = msgspec.to_builtins(message)
    assert canonical_bytes(message) == json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    for other in MESSAGES:
        if type(other) is not type(message):
            with pytest.raises(RemoteProtocolError, match="wrong-kind"):
                verify(signed, C1.public_key, type(other))


@pytest.mark.parametrize(
    "change",
    [
        {"lines": (LINE,) * (LINES_MAX + 1)},
        {"lines": (msgspec.structs.replace(LINE, nanodollars_per_mark=10**12 + 1),)},
        {"lines": (msgspec.structs.replace(LINE, marks=-1),)},
        {"session": "x"},
        {"sequence": 0},
        {"key": msgspec.structs.replace(KEY, spi=2**32)},
        {"provider": "p2"},
    ],
)
def test_a_value_out_of_bounds_is_malformed_however_well_it_is_signed(change: dict[str, object]) -> None:
    signed = sign(C1, msgspec.structs.replace(characterisation(), **change))
    with pytest.raises(RemoteProtocolError, match="malformed"):
        verify(signed, C1.public_key, SessionCharacterisation)


def test_the_largest_characterisation_fits_into_an_order() -> None:
    line = PricedMarks(serial=2**62, nanodollars_per_mark=10**12, marks=2**62)
    full = characterisation(lines=())
    full = msgspec.structs.replace(full, lines=(line,) * LINES_MAX)
    signed = order(full)
    assert len(signed.document) < 65_536
    assert verify(signed, C3.public_key, ClearingOrder).session == SESSION
