"""Reports to the campus service as tests need them: short to write, right by default."""

from __future__ import annotations

from typing import Any

from billpay.messages import OadAlternative, OadDescription
from billpay.signing import SigningKey, sign
from cartographer.campus.messages import Report, Summary, Vouched
from cartographer.values import Quantity

MS = 1_000_000
PREFIX = "198.51.100.0/24"
OTHER_PREFIX = "2001:db8:7::/48"
WAY = "AS64512:2 AS64514:1"
OTHER_WAY = "AS64512:1 AS64514:1"


def line(mean_ms: float = 50, **changes: Any) -> Summary:
    given: dict[str, Any] = {
        "prefix": PREFIX,
        "way": WAY,
        "quantity": Quantity.DELAY_NS,
        "count": 10,
        "mean": round(mean_ms * MS),
        "spread": 5 * MS,
    }
    return Summary(**(given | changes))


def report(sequence: int = 1, *lines: Summary, **changes: Any) -> Report:
    return Report(sequence=sequence, lines=lines, **changes)


def vouched(
    seed: int = 1,
    *,
    as_number: int = 64512,
    serial: int = 1,
    prefix: str = "0.0.0.0/0",
    expires_unix_s: int = 2**40,
) -> Vouched:
    """A description by the ISP whose key grows out of `seed`."""
    key = SigningKey(bytes([seed]) * 32)
    description = OadDescription(
        issuer=key.fingerprint,
        as_number=as_number,
        serial=serial,
        prefix=prefix,
        alternatives=(OadAlternative(number=1, title="fibre", available=True),),
        published_unix_s=0,
        expires_unix_s=expires_unix_s,
    )
    return Vouched(signed=sign(key, description), public_key=key.public_key)
