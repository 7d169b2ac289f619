"""What hosts and the campus service say to each other: sums about paths there, estimates back.

Decides: which values are possible, and how much one message holds. Refuses to know: what follows from them
(`cartographer.campus.pooling`), and how they come (`cartographer.campus.client`, `.server`).
docs/spec/campus-protocol.md has examples. Source: BP-32, Bill-Pay 2.2. Pure.

A line is a host's whole knowledge of one quantity of one way to one prefix: it replaces what the host said before. So
saying it twice changes nothing, and nothing has to be added up over the network. All numbers are integers: there is no
NaN and no infinity in JSON's.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec

from billpay.errors import RemoteProtocolError
from billpay.messages import AsNumber, Fingerprint, Message, Signed
from billpay.signing import PUBLIC_KEY_BYTES, canonical_bytes
from cartographer.campus.privacy import checked_prefix
from cartographer.values import Quantity, Way

VERSION: Final = 1
LINES_MAX: Final = 1_000
"""Of one report; what is left comes with the next one."""
PREFIXES_MAX: Final = 128
"""Of one question."""
ESTIMATES_MAX: Final = 10_000
"""Of one answer."""
FINDINGS_MAX: Final = 64
DESCRIPTIONS_MAX: Final = 6
"""Of one report."""
RELAYED_MAX: Final = 256
RELAYED_BYTES_MAX: Final = 2 << 20
"""Of one answer: so many descriptions, and their documents together."""
REPORT_BYTES_MAX: Final = 1 << 20
PERIODS_MAX: Final = 8_640  # of five minutes: thirty days

MOST: Final[dict[Quantity, int]] = {
    Quantity.DELAY_NS: 60_000_000_000,
    Quantity.JITTER_NS: 60_000_000_000,
    Quantity.LOSS_PPM: 1_000_000,
    Quantity.MARKS_PPM: 1_000_000,
    Quantity.THROUGHPUT_BIT_S: 400_000_000_000,
    Quantity.FORWARD_TOLL_PICODOLLARS: 0xFF_FFFF * 1000,
    Quantity.RETURN_TOLL_PICODOLLARS: 0xFF_FFFF * 1000,
}
"""The largest mean that anybody can have measured."""

_STEP: Final = "AS[1-9][0-9]{0,4}:[0-9]{1,2}"
WayText = Annotated[str, msgspec.Meta(max_length=200, pattern=rf"^({_STEP}( {_STEP}){{0,13}})?\Z")]
Prefix = Annotated[str, msgspec.Meta(min_length=3, max_length=50)]
Place = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[A-Za-z0-9._:/-]*\Z")]
Value = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Samples = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Periods = Annotated[int, msgspec.Meta(ge=0, le=PERIODS_MAX)]
Sequence = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
AnyAlternative = Annotated[int, msgspec.Meta(ge=0, le=15, description="0: the ISP as a whole")]
FindingKind = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,39}\Z")]


# --- from a host ------------------------------------------------------------------------------------------------------


class Summary(Message, frozen=True, kw_only=True):
    """One quantity of one way to one prefix, as the host's own samples have it: never what others told it.

    `count`, `mean` and `spread` (standard deviation of single samples) are what sums and sums of squares make.
    `age_periods`: five-minute periods since the newest sample, rounded up.
    """

    prefix: Prefix
    way: WayText
    quantity: Quantity
    count: Samples
    mean: Value
    spread: Value
    age_periods: Periods = 0


class FoundOut(Message, frozen=True, kw_only=True):
    """What this host has found out about an ISP; no evidence is in it, since that would name destinations."""

    as_number: AsNumber
    alternative: AnyAlternative = 0
    kind: FindingKind


class Vouched(Message, frozen=True, kw_only=True):
    """An ISP's signed description as its gateway gave it to this host, which has the gateway's key pinned."""

    signed: Signed
    public_key: Annotated[bytes, msgspec.Meta(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]


class Report(Message, frozen=True, kw_only=True):
    """Body of POST /v1/reports. Known by host and sequence. `place`: the part of the campus where it was measured, "".

    Lines replace the same host's earlier ones of the same place, prefix, way and quantity. `findings`: all that hold.
    """

    version: int = VERSION
    sequence: Sequence
    place: Place = ""
    lines: Annotated[tuple[Summary, ...], msgspec.Meta(max_length=LINES_MAX)] = ()
    findings: Annotated[tuple[FoundOut, ...], msgspec.Meta(max_length=FINDINGS_MAX)] = ()
    descriptions: Annotated[tuple[Vouched, ...], msgspec.Meta(max_length=DESCRIPTIONS_MAX)] = ()


class Receipt(Message, frozen=True, kw_only=True):
    """`sequence` and `digest` (SHA-256 of the canonical bytes) of the last report that was taken from this host."""

    sequence: Sequence
    digest: Fingerprint


class PriorsRequest(Message, frozen=True, kw_only=True):
    """Body of POST /v1/priors."""

    place: Place = ""
    prefixes: Annotated[tuple[Prefix, ...], msgspec.Meta(max_length=PREFIXES_MAX)]


# --- back -------------------------------------------------------------------------------------------------------------


class Prior(Message, frozen=True, kw_only=True):
    """What the other hosts know together. `samples_milli`: how many samples of the host's own it is worth, times 1000.

    `uncertainty`: one standard error for a host that was not there, so differences between hosts are in it.
    """

    prefix: Prefix
    way: WayText
    quantity: Quantity
    value: Value
    uncertainty: Value
    spread: Value
    samples_milli: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    hosts: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    age_periods: Periods = 0


class FoundOutByHosts(Message, frozen=True, kw_only=True):
    """So many other hosts say so."""

    as_number: AsNumber
    alternative: AnyAlternative
    kind: FindingKind
    hosts: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class Priors(Message, frozen=True, kw_only=True):
    """Answer to POST /v1/priors. A prefix that is not in it: too few others were there, or nobody."""

    estimates: Annotated[tuple[Prior, ...], msgspec.Meta(max_length=ESTIMATES_MAX)] = ()
    findings: Annotated[tuple[FoundOutByHosts, ...], msgspec.Meta(max_length=1000)] = ()


class Descriptions(Message, frozen=True, kw_only=True):
    """Answer to GET /v1/descriptions: whoever takes one verifies it with its key again."""

    descriptions: Annotated[tuple[Vouched, ...], msgspec.Meta(max_length=RELAYED_MAX)] = ()


class CampusStatus(Message, frozen=True, kw_only=True):
    """Answer to GET /v1/status at the server's own socket: counts, no host and no prefix."""

    version: int = VERSION
    listen: tuple[str, ...]
    database: str  # "sqlite" or "postgresql"
    admitted_hosts: int
    reporting_hosts: int  # with something that still counts
    lines: int
    prefixes: int
    shown_prefixes: int  # with enough hosts
    descriptions: int
    reports: int  # since the start
    questions: int
    refused: int
    trouble: str = ""


def check_report(report: Report) -> None:
    """What a server holds of it beyond its form. Raises RemoteProtocolError; then nothing of it is taken."""
    if report.version != VERSION:
        raise RemoteProtocolError("unknown-version", f"version {report.version} of a report")
    seen: set[tuple[str, Way, Quantity]] = set()
    for line in report.lines:
        checked_prefix(line.prefix)
        key = (line.prefix, line.way, line.quantity)
        if key in seen:
            raise RemoteProtocolError("bad-report", f"{line.quantity.value} of {line.way!r} to {line.prefix} twice")
        seen.add(key)
        most = MOST[line.quantity]
        if line.mean > most or line.spread > most:
            raise RemoteProtocolError("bad-report", f"{line.quantity.value} is at most {most}")
    if len({(one.as_number, one.alternative, one.kind) for one in report.findings}) != len(report.findings):
        raise RemoteProtocolError("bad-report", "a finding is given twice")


def digest_of(report: Report) -> str:
    return hashlib.sha256(canonical_bytes(report)).hexdigest()
