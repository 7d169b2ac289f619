"""Looks for a key in what should not have it: raw, in hex, in base64, as Python prints it, as a PEM file has it."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def shows(text: bytes | str, seed: bytes) -> bool:
    data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
    return any(form in data for form in _forms(seed))


def _forms(seed: bytes) -> list[bytes]:
    pem = Ed25519PrivateKey.from_private_bytes(seed).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return [
        seed,
        seed.hex().encode(),
        seed.hex().upper().encode(),
        base64.b64encode(seed)[:-2],
        base64.urlsafe_b64encode(seed)[:-2],
        repr(seed)[2:-1].encode(),
        str(list(seed))[1:-1].encode(),
        pem.splitlines()[1],
    ]
