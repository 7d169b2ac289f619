"""docs/spec/canonical-bytes.md and its vectors, against our code and against an encoder that shares nothing with it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from billpay.messages import (
    Echo,
    Grant,
    GrantReceipt,
    KeySuccession,
    Message,
    OadDescription,
    Settlement,
    Signed,
    Statement,
    Tariff,
)
from billpay.signing import SigningKey, canonical_bytes, kind_of, sign, verify

SPEC = Path(__file__).parents[2] / "docs" / "spec"
FILE: dict[str, Any] = json.loads((SPEC / "vectors" / "canonical.json").read_text(encoding="utf-8"))
TYPES: dict[str, type[Message]] = {
    kind_of(message): message
    for message in (Statement, Grant, Echo, Tariff, OadDescription, Settlement, GrantReceipt, KeySuccession)
}

each_vector = pytest.mark.parametrize("vector", FILE["vectors"], ids=lambda vector: vector["name"])


def independent(message: object) -> bytes:
    """The rules of the specification, by Python's own JSON."""
    return json.dumps(message, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_the_key_is_the_first_of_rfc_8032() -> None:
    key = SigningKey(bytes.fromhex(FILE["seed"]))
    assert FILE["seed"] == "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    assert key.public_key.hex() == FILE["public_key"]
    assert key.public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.fingerprint == FILE["signer"] == hashlib.sha256(key.public_key).hexdigest()


def test_every_kind_that_is_signed_has_a_vector() -> None:
    assert {vector["kind"] for vector in FILE["vectors"]} == set(TYPES)


@each_vector
def test_we_make_exactly_these_bytes(vector: dict[str, Any]) -> None:
    message = msgspec.convert(vector["message"], TYPES[vector["kind"]])
    signed = sign(SigningKey(bytes.fromhex(FILE["seed"])), message)
    assert canonical_bytes(message).decode() == vector["document"]
    assert (signed.kind, signed.document.decode(), signed.signer) == (
        vector["kind"],
        vector["document"],
        FILE["signer"],
    )
    assert signed.signature.hex() == vector["signature"]
    assert msgspec.to_builtins(signed) == vector["envelope"]


@each_vector
def test_an_independent_encoder_makes_the_same_bytes(vector: dict[str, Any]) -> None:
    document = independent(vector["message"])
    assert document.decode() == vector["document"]
    assert (vector["kind"].encode() + b"\0" + document).hex() == vector["signing_input"]
    assert base64.b64decode(vector["envelope"]["document"], validate=True) == document
    public_key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(FILE["public_key"]))
    public_key.verify(bytes.fromhex(vector["signature"]), bytes.fromhex(vector["signing_input"]))


@each_vector
def test_we_read_what_the_envelope_holds(vector: dict[str, Any]) -> None:
    signed = msgspec.convert(vector["envelope"], Signed)
    message = verify(signed, bytes.fromhex(FILE["public_key"]), TYPES[vector["kind"]])
    assert message == msgspec.convert(vector["message"], type(message))


@given(st.data())
def test_any_message_has_the_form_of_the_specification(data: st.DataObject) -> None:
    """Any title, amount and optional value: the vectors are not lucky examples."""
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    numbers = st.integers(0, 2**62)
    alternative = st.fixed_dictionaries(
        {
            "number": st.integers(1, 11),
            "title": texts,
            "delay_ns": st.none() | numbers,
            "toll_nanodollars": st.none() | numbers,
            "available": st.booleans(),
        }
    )
    message = {
        "issuer": "ab" * 32,
        "as_number": data.draw(st.integers(1, 0xFFFF)),
        "serial": data.draw(numbers),
        "prefix": data.draw(texts),
        "alternatives": data.draw(st.lists(alternative, max_size=11)),
        "published_unix_s": data.draw(st.integers(0, 2**40)),
        "expires_unix_s": data.draw(st.integers(0, 2**40)),
    }
    assert canonical_bytes(msgspec.convert(message, OadDescription)) == independent(message)


def test_the_example_in_the_text_is_the_vector() -> None:
    text = (SPEC / "canonical-bytes.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^```\w+ ([\w-]+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    vector = next(vector for vector in FILE["vectors"] if vector["name"] == "settlement")
    assert blocks["settlement-document"].strip() == vector["document"]
    assert bytes.fromhex(blocks["settlement-signing-input"]).hex() == vector["signing_input"]
    assert bytes.fromhex(blocks["settlement-signature"]).hex() == vector["signature"]
    for name in ("seed", "public_key", "signer"):
        assert FILE[name] in text
