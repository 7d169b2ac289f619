"""Signed documents: what is refused, under which code, and in which order of precedence."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import LocalProtocolError, RemoteProtocolError
from billpay.messages import Agreement, FlowSelector, Grant, GrantKind, Message, Settlement, Signed, Statement
from billpay.signing import SigningKey, canonical_bytes, fingerprint_of, kind_of, sign, verify

KEY = SigningKey(bytes(range(32)))
OTHER_KEY = SigningKey(bytes(range(1, 33)))
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493  # L of RFC 8032

SETTLEMENT = Settlement(
    settlement="0" * 32,
    link="x-y",
    debtor=KEY.fingerprint,
    creditor=OTHER_KEY.fingerprint,
    number=1,
    amount_nanodollars=100_000_000,
    through_interval=7,
    reason="threshold",
    ordered_unix_s=1_762_992_060,
)
STATEMENT = Statement(
    link="x-y",
    issuer=KEY.fingerprint,
    peer=OTHER_KEY.fingerprint,
    interval=7,
    sampled_unix_s=1_762_992_000,
    sent_nanodollars=5,
    received_nanodollars=0,
    sent_packets=1,
    received_packets=0,
)
GRANT = Grant(
    grant="0" * 32,
    serial=1,
    kind=GrantKind.SPEND,
    flow=FlowSelector(source="10.0.0.1"),
    cap_nanodollars=1,
    rate_nanodollars_per_s=1,
    burst_nanodollars=1,
    not_before_unix_s=0,
    expires_unix_s=1,
    key="0" * 32,
)


def changed(signed: Signed, **fields: Any) -> Signed:
    return msgspec.structs.replace(signed, **fields)


def code_of(signed: Signed, public_key: bytes = KEY.public_key, expected: type[Message] = Settlement) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        verify(signed, public_key, expected)
    return caught.value.code


def signed_text(document: bytes, kind: str = "settlement") -> Signed:
    """A document that its signer did not take through `canonical_bytes`."""
    signature = KEY.private.sign(kind.encode() + b"\0" + document)
    return Signed(kind=kind, document=document, signer=KEY.fingerprint, signature=signature)


# --- what holds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [SETTLEMENT, STATEMENT, GRANT], ids=lambda message: type(message).__name__)
def test_what_was_signed_is_what_is_read(message: Message) -> None:
    assert verify(sign(KEY, message), KEY.public_key, type(message)) == message


def test_a_signed_message_survives_its_own_transport() -> None:
    signed = sign(KEY, SETTLEMENT)
    again = msgspec.json.decode(msgspec.json.encode(signed), type=Signed)
    assert again == signed
    assert verify(again, KEY.public_key, Settlement) == SETTLEMENT


def test_only_the_kinds_that_are_kept_are_signed() -> None:
    agreement = Agreement(
        link="x",
        header=True,
        max_amount=1,
        settlement_threshold=1,
        statement_interval_s=60,
        next_interval=0,
        epoch=0,
    )
    with pytest.raises(LocalProtocolError, match="Agreement"):
        sign(KEY, agreement)
    assert kind_of(Settlement) == "settlement"


# --- what does not ----------------------------------------------------------------------------------------------------


def test_another_kind_is_refused_even_where_everything_else_is_right() -> None:
    assert code_of(sign(KEY, STATEMENT)) == "wrong-kind"
    assert code_of(changed(sign(KEY, STATEMENT), kind="settlement")) == "bad-signature"  # the kind is signed too


def test_another_signer_is_refused() -> None:
    assert code_of(sign(OTHER_KEY, SETTLEMENT)) == "wrong-signer"
    assert code_of(changed(sign(OTHER_KEY, SETTLEMENT), signer=KEY.fingerprint)) == "bad-signature"


@given(st.data())
def test_any_altered_bit_of_document_or_signature_is_refused(data: st.DataObject) -> None:
    signed = sign(KEY, SETTLEMENT)
    field = data.draw(st.sampled_from(["document", "signature"]))
    value: bytes = getattr(signed, field)
    bit = data.draw(st.integers(0, len(value) * 8 - 1))
    altered = bytearray(value)
    altered[bit // 8] ^= 1 << bit % 8
    assert code_of(changed(signed, **{field: bytes(altered)})) == "bad-signature"


def test_a_second_signature_made_from_the_first_is_refused() -> None:
    """S + L satisfies the curve's equation too; RFC 8032 wants S < L, so that nobody has two forms of one signature."""
    signed = sign(KEY, SETTLEMENT)
    s = int.from_bytes(signed.signature[32:], "little") + GROUP_ORDER
    assert code_of(changed(signed, signature=signed.signature[:32] + s.to_bytes(32, "little"))) == "bad-signature"


def test_a_key_that_is_no_point_of_the_curve_is_refused() -> None:
    no_key = b"\x02" + bytes(31)
    signed = changed(sign(KEY, SETTLEMENT), signer=fingerprint_of(no_key))
    assert code_of(signed, no_key) == "bad-signature"
    assert code_of(changed(signed, signer=fingerprint_of(b"short")), b"short") == "bad-signature"


CANONICAL = canonical_bytes(SETTLEMENT)
FIELDS: dict[str, Any] = json.loads(CANONICAL)


def dumped(fields: dict[str, Any], *, sort_keys: bool = True, separators: tuple[str, str] = (",", ":")) -> bytes:
    return json.dumps(fields, sort_keys=sort_keys, separators=separators).encode()


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(CANONICAL + b"\n", id="a line end"),
        pytest.param(b"\xef\xbb\xbf" + CANONICAL, id="a byte order mark"),
        pytest.param(dumped(FIELDS, separators=(", ", ": ")), id="spaces"),
        pytest.param(dumped(dict(reversed(FIELDS.items())), sort_keys=False), id="another order"),
        pytest.param(CANONICAL.replace(b'"number":1,', b'"number":2,"number":1,'), id="a key twice"),
        pytest.param(dumped(FIELDS | {"comment": "hello"}), id="an unknown field"),
        pytest.param(dumped({name: FIELDS[name] for name in FIELDS if name != "number"}), id="a missing field"),
        pytest.param(CANONICAL.replace(b'"number":1,', b'"number":1.0,'), id="a float"),
        pytest.param(CANONICAL.replace(b'"number":1,', b'"number":1e0,'), id="an exponent"),
        pytest.param(CANONICAL.replace(b'"number":1,', b'"number":-1,'), id="below its bounds"),
        pytest.param(CANONICAL.replace(b'"number":1,', b'"number":"1",'), id="a number as text"),
        pytest.param(CANONICAL.replace(b"x-y", b"x\\u002dy"), id="an escape too many"),
        pytest.param(CANONICAL.replace(b"x-y", b"x\xffy"), id="not UTF-8"),
        pytest.param(CANONICAL.replace(b"x-y", b"x\\ud800"), id="half a surrogate pair"),
        pytest.param(CANONICAL.replace(b"threshold", b"mood"), id="an impossible value"),
        pytest.param(CANONICAL[:-1], id="cut short"),
        pytest.param(b"", id="empty"),
        pytest.param(b"[" * 60_000, id="deep"),
        pytest.param(canonical_bytes(STATEMENT), id="another message"),
    ],
)
def test_a_document_that_is_not_canonical_is_refused_though_its_signature_holds(document: bytes) -> None:
    assert code_of(signed_text(document)) == "malformed"


def test_a_field_left_at_its_default_must_still_be_there() -> None:
    fields = json.loads(canonical_bytes(STATEMENT))
    assert (fields["closing"], fields["settled_number"]) == (None, 0)
    for name in ("closing", "settled_number"):
        document = dumped({key: value for key, value in fields.items() if key != name})
        assert code_of(signed_text(document, "statement"), expected=Statement) == "malformed"


def test_faults_are_named_in_the_documented_order() -> None:
    """One envelope with all four faults; each repair uncovers the next."""
    broken = Signed(kind="statement", document=b"{}", signer=OTHER_KEY.fingerprint, signature=bytes(64))
    assert code_of(broken) == "wrong-kind"
    broken = changed(broken, kind="settlement")
    assert code_of(broken) == "wrong-signer"
    broken = changed(broken, signer=KEY.fingerprint)
    assert code_of(broken) == "bad-signature"
    broken = changed(broken, signature=KEY.private.sign(b"settlement\0{}"))
    assert code_of(broken) == "malformed"


def test_a_private_key_never_shows_itself() -> None:
    shown = f"{KEY!r} {KEY}"
    assert bytes(range(32)).hex() not in shown
    assert KEY.fingerprint[:16] in shown


def test_an_error_names_kind_and_signer_but_quotes_no_document() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        verify(sign(OTHER_KEY, SETTLEMENT), KEY.public_key, Settlement)
    assert str(caught.value).startswith("wrong-signer: the settlement is signed by " + OTHER_KEY.fingerprint[:16])
    assert "\n" not in str(caught.value)
