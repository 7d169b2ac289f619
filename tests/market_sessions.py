"""Packets, keys and parties of a session, for the tests of the market."""

from __future__ import annotations

import socket
import struct

from billpay.clearing import ClearingOrder, IntentionToPay, MeteredKey, Payee, PricedMarks, SessionCharacterisation
from billpay.messages import Signed
from billpay.sessions import MarkPrice
from billpay.signing import SigningKey, sign
from market.authority import Authority, Register
from market.clearinghouse import ClearingHouse, HouseTerms

SESSION = "5e" * 16
BEGINS_MS = 1_700_000_000_000
KEY = MeteredKey(source="10.0.1.2", destination="10.0.3.2", protocol=17, source_port=5004, destination_port=5006)
ESP_KEY = MeteredKey(destination="10.0.3.2", protocol=50, spi=0x1001)
KEYS = {name: SigningKey(bytes([number]) * 32) for number, name in enumerate(("c1", "c3", "p2", "p3", "other"), 1)}
C1, C3, P2, P3 = KEYS["c1"], KEYS["c3"], KEYS["p2"], KEYS["p3"]


def ipv4(payload: bytes, *, protocol: int, ecn: int, source: str = "10.0.1.2", destination: str = "10.0.3.2") -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return struct.pack(">BBHHHBBH", 0x45, ecn, 20 + len(payload), 0, 0, 64, protocol, 0) + addresses + payload


def ipv6(payload: bytes, *, protocol: int, ecn: int) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, "fd00::1") + socket.inet_pton(socket.AF_INET6, "fd00::3")
    return struct.pack(">IHBB", 6 << 28 | ecn << 20, len(payload), protocol, 64) + addresses + payload


def udp(ecn: int, *, size: int = 100, port: int = 5006) -> bytes:
    return ipv4(struct.pack(">HHHH", 5004, port, size, 0) + bytes(size - 8), protocol=17, ecn=ecn)


def esp(ecn: int, *, size: int = 100, spi: int = 0x1001) -> bytes:
    return ipv4(struct.pack(">II", spi, 1) + bytes(size - 8), protocol=50, ecn=ecn)


def mark_price(serial: int, nanodollars: int, valid_from_unix_ms: int, *, provider: str = "p2") -> MarkPrice:
    return MarkPrice(
        provider=provider,
        serial=serial,
        nanodollars_per_mark=nanodollars,
        valid_from_unix_ms=valid_from_unix_ms,
        published_unix_s=BEGINS_MS // 1000 - 60,
    )


def register() -> Register:
    authority = Authority("authority", SigningKey(b"\xaa" * 32))
    known = Register(authority.public_key)
    for name, key in KEYS.items():
        known.admit(authority.certify(name, key.public_key))
    return known


def clearing_house(terms: HouseTerms | None = None, **more: object) -> ClearingHouse:
    """With p2's price of 1,000 n$ from the beginning on, and 2,500 n$ from the tenth second on."""
    house = ClearingHouse(
        fingerprint=P3.fingerprint,
        register=register(),
        terms=terms or HouseTerms(markup_ppm=200_000),
        **more,  # type: ignore[arg-type]
    )
    for price in (mark_price(1, 1_000, BEGINS_MS - 1_000), mark_price(2, 2_500, BEGINS_MS + 10_000)):
        assert house.on_price(sign(P2, price))
    return house


def characterisation(
    sequence: int = 1, lines: tuple[tuple[int, int, int], ...] = ((1, 1_000, 40),), **more: object
) -> SessionCharacterisation:
    fields: dict[str, object] = {
        "session": SESSION,
        "sequence": sequence,
        "provider": P2.fingerprint,
        "customer": C3.fingerprint,
        "key": KEY,
        "from_unix_ms": BEGINS_MS,
        "to_unix_ms": BEGINS_MS + 10_000 * sequence,
        "packets": 1_000 * sequence,
        "bytes": 1_000_000 * sequence,
        "lines": tuple(PricedMarks(serial=s, nanodollars_per_mark=p, marks=m) for s, p, m in lines),
    }
    return SessionCharacterisation(**fields | more)  # type: ignore[arg-type]


def intention(**more: object) -> IntentionToPay:
    fields: dict[str, object] = {
        "session": SESSION,
        "sequence": 1,
        "payer": C1.fingerprint,
        "customer": C3.fingerprint,
        "clearing_house": P3.fingerprint,
        "payee": Payee.PROVIDER,
        "valid_until_unix_ms": BEGINS_MS + 60_000,
    }
    return IntentionToPay(**fields | more)  # type: ignore[arg-type]


def order(
    it: SessionCharacterisation | None = None,
    promise: IntentionToPay | None = None,
    *,
    signers: tuple[SigningKey, SigningKey, SigningKey] = (P2, C1, C3),
    **more: object,
) -> Signed:
    """Signed by the customer; `signers`: of characterisation, intention, order."""
    provider, payer, customer = signers
    fields: dict[str, object] = {
        "session": SESSION,
        "customer": C3.fingerprint,
        "clearing_house": P3.fingerprint,
        "characterisation": sign(provider, it or characterisation()),
        "intention": sign(payer, promise or intention()),
    }
    return sign(customer, ClearingOrder(**fields | more))  # type: ignore[arg-type]
