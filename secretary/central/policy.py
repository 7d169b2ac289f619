"""A host's secretary and its organisation's: policies come, reports of spending go.

Decides: which policy holds, what is reported and when, and when to call again. Refuses to know: sockets, files and
clocks (`secretary.central.courier` drives it), what ceilings and rules do, and how the host counts money. Pure, and
driven by entries: what has to survive a restart is returned, journalled by the caller, and applied.

The host is in charge. It calls; nobody calls it. Nothing waits for the organisation: a policy that cannot be fetched
holds until it expires, then the ceilings of the host's own file are what is left. A policy older than the one that is
known is refused, so that nobody can bring back yesterday's. What will be pushed can be seen before (`preview`), byte
for byte, and a host may leave out names.

Source: Bill-Pay 2.4 (an enterprise's central secretary gives host secretaries its policy, and they report what they
spent). docs/spec/central-protocol.md has examples.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from billpay.errors import RemoteProtocolError
from billpay.messages import Count, Fingerprint, Message, Name, Signed, Sum, UnixSeconds
from billpay.signing import SigningKey, canonical_bytes, fingerprint_of
from secretary.ruling.ceilings import Ceiling
from secretary.ruling.rulefiles import RuleSection, check_section, rule_of
from secretary.ruling.rules import Rule, Source
from secretary.transfers import Text

VERSION: Final = 1
DOCUMENT_BYTES_MAX: Final = 60_000
"""Of one report; the envelope's limit is 65,536."""
LINES_MAX: Final = 5_000
"""Of one period; what comes after is reported without program and network."""
PENDING_MAX: Final = 500
"""Reports that wait; while so many do, the sums go on in the open period, and none is lost."""
CLOCK_TOLERANCE_S: Final = 300
FIRST_RETRY_S: Final = 2
LAST_RETRY_S: Final = 3600

PolicySeconds = Annotated[int, msgspec.Meta(ge=30, le=86_400)]
ReportSeconds = Annotated[int, msgspec.Meta(ge=60, le=31 * 86_400)]


# --- messages ---------------------------------------------------------------------------------------------------------


class Policy(Message, frozen=True, kw_only=True):
    """What an organisation wants of its hosts; signed by its central secretary. A later one has a higher serial."""

    version: int = VERSION
    organisation: Name
    serial: Count
    issued_unix_s: UnixSeconds
    expires_unix_s: UnixSeconds
    ceilings: Annotated[tuple[Ceiling, ...], msgspec.Meta(max_length=200)] = ()
    rules: Annotated[tuple[RuleSection, ...], msgspec.Meta(max_length=500)] = ()
    ask_again_s: PolicySeconds = 300
    report_every_s: ReportSeconds = 86_400


class PolicyReply(Message, frozen=True, kw_only=True):
    """Answer to GET /v1/policy?newer_than=SERIAL. None: there is none with a higher serial."""

    policy: Signed | None = None


class SpendingLine(Message, frozen=True, kw_only=True):
    """A sum of a period. What the host leaves out is ""."""

    user: Text = ""
    program: Text = ""
    network: Text = ""
    spent_nanodollars: Sum
    size_bytes: Count = 0


class SpendingReport(Message, frozen=True, kw_only=True):
    """Body of POST /v1/spending, signed by the host's secretary. Known by host and serial, and booked once.

    One period may need more than one. `total_nanodollars` is the sum of the lines.
    """

    version: int = VERSION
    host: Name
    serial: Count
    from_unix_s: UnixSeconds
    until_unix_s: UnixSeconds
    total_nanodollars: Sum
    lines: tuple[SpendingLine, ...]


class SpendingReceipt(Message, frozen=True, kw_only=True):
    """The report is booked. `digest`: SHA-256 of the signed document."""

    host: Name
    serial: Count
    digest: Fingerprint


_KINDS: Final[dict[type[Message], str]] = {Policy: "central-policy", SpendingReport: "spending-report"}
DocumentT = TypeVar("DocumentT", bound=Message)


def sign_document(key: SigningKey, document: Message) -> Signed:
    """A policy or a report. The same bytes and the same domain separation as `billpay.signing`."""
    kind, data = _KINDS[type(document)], canonical_bytes(document)
    signature = key.private.sign(kind.encode() + b"\x00" + data)
    return Signed(kind=kind, document=data, signer=key.fingerprint, signature=signature)


def verify_document(signed: Signed, public_key: bytes, expected: type[DocumentT]) -> DocumentT:
    """Raises RemoteProtocolError: `wrong-kind`, `wrong-signer`, `bad-signature`, `malformed`, in this order."""
    kind = _KINDS[expected]
    if signed.kind != kind:
        raise RemoteProtocolError("wrong-kind", f"expected a signed {kind}, got a signed {signed.kind}")
    if signed.signer != fingerprint_of(public_key):
        raise RemoteProtocolError("wrong-signer", f"the {kind} is signed by {signed.signer[:16]}…")
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(signed.signature, kind.encode() + b"\x00" + signed.document)
    except (InvalidSignature, ValueError) as error:
        raise RemoteProtocolError("bad-signature", f"the signature of the {kind} does not hold") from error
    try:
        document = msgspec.json.decode(signed.document, type=expected)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise RemoteProtocolError("malformed", f"{kind}: {error}") from error
    if canonical_bytes(document) != signed.document:
        raise RemoteProtocolError("malformed", f"the {kind} is not in canonical form")
    return document


def digest_of(signed: Signed) -> str:
    return hashlib.sha256(signed.document).hexdigest()


def check_report(report: SpendingReport) -> None:
    """What a central secretary holds of a report. Raises RemoteProtocolError `bad-report`."""
    if report.total_nanodollars != sum(line.spent_nanodollars for line in report.lines):
        raise RemoteProtocolError("bad-report", "the total is not the sum of the lines")
    if report.until_unix_s < report.from_unix_s:
        raise RemoteProtocolError("bad-report", "the period ends before it begins")


# --- entries ----------------------------------------------------------------------------------------------------------


class PolicyTaken(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The organisation's latest word."""

    signed: Signed


class ReportsClosed(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """A period is over; `until_unix_s` is where the next one begins. No reports: nothing was spent."""

    until_unix_s: UnixSeconds
    reports: tuple[SpendingReport, ...] = ()


class ReportTaken(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The organisation has it."""

    serial: Count


CentralEntry = PolicyTaken | ReportsClosed | ReportTaken


# --- the host's side --------------------------------------------------------------------------------------------------


class Part(enum.Enum):
    """What a host may leave out of its reports."""

    USER = "user"
    PROGRAM = "program"
    NETWORK = "network"


@dataclass(frozen=True, slots=True, kw_only=True)
class CentralSettings:
    """`public_key`: of the central secretary, raw; the only one whose policies hold."""

    host: str
    public_key: bytes
    left_out: frozenset[Part] = frozenset()
    report_every_s: int = 86_400  # as long as there is no policy


class Central:
    """The state that entries and spending make. `began_unix_s`: of the first period."""

    def __init__(self, settings: CentralSettings, *, began_unix_s: int) -> None:
        self._settings = settings
        self._policy: Policy | None = None
        self._document = b""
        self._rules: tuple[Rule, ...] = ()
        self._since_unix_s = began_unix_s
        self._sums: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._pending: dict[int, SpendingReport] = {}
        self._next_serial = 1

    def apply(self, entry: CentralEntry) -> None:
        match entry:
            case PolicyTaken(signed=signed):
                self._hold(signed)
            case ReportsClosed():
                self._sums.clear()
                self._since_unix_s = entry.until_unix_s
                for report in entry.reports:
                    self._pending[report.serial] = report
                    self._next_serial = report.serial + 1
            case ReportTaken(serial=serial):
                self._pending.pop(serial, None)

    def _hold(self, signed: Signed) -> None:
        """A policy in the journal that another key signed is of an organisation that was left: it is nobody's."""
        try:
            self._policy = verify_document(signed, self._settings.public_key, Policy)
        except RemoteProtocolError:
            return
        self._document = signed.document
        self._rules = _rules_of(self._policy)

    # --- the policy -------------------------------------------------------------------------------------------------

    @property
    def known_serial(self) -> int:
        """Of the latest policy, expired or not; 0: there was none."""
        return self._policy.serial if self._policy is not None else 0

    def in_force(self, unix_s: int) -> Policy | None:
        """None: there is none, or it expired; then the host's own ceilings are what is left."""
        policy = self._policy
        return policy if policy is not None and unix_s < policy.expires_unix_s else None

    def ceilings(self, unix_s: int) -> tuple[Ceiling, ...]:
        policy = self.in_force(unix_s)
        return policy.ceilings if policy is not None else ()

    def rules(self, unix_s: int) -> tuple[Rule, ...]:
        return self._rules if self.in_force(unix_s) is not None else ()

    def state_text(self, unix_s: int) -> str:
        """One line for a person; "": no organisation ever said anything."""
        policy = self._policy
        if policy is None:
            return ""
        which = f"policy {policy.serial} of {policy.organisation}"
        if unix_s < policy.expires_unix_s:
            return f"{which} holds for {policy.expires_unix_s - unix_s} s"
        return f"{which} has expired: the ceilings of this host's own file hold"

    def take_policy(self, signed: Signed, unix_s: int) -> PolicyTaken | None:
        """None: we have it. Raises RemoteProtocolError; then the one that we have goes on."""
        policy = verify_document(signed, self._settings.public_key, Policy)
        if policy.version != VERSION:
            raise RemoteProtocolError("unknown-version", f"version {policy.version} of a policy")
        known = self._policy
        if known is not None and policy.serial <= known.serial:
            if signed.document == self._document:
                return None
            raise RemoteProtocolError("old-policy", f"policy {policy.serial}, and we have {known.serial}")
        if policy.issued_unix_s > unix_s + CLOCK_TOLERANCE_S:
            raise RemoteProtocolError("early-policy", "it is dated in the future: is this host's clock right?")
        if policy.expires_unix_s <= unix_s:
            raise RemoteProtocolError("expired-policy", f"policy {policy.serial} has expired")
        for number, section in enumerate(policy.rules):
            for mistake in check_section(section, f"policy {policy.serial}", f"rules[{number}]"):
                raise RemoteProtocolError("bad-policy", str(mistake))
        return PolicyTaken(signed=signed)

    # --- what was spent ---------------------------------------------------------------------------------------------

    def spend(self, *, user: str, program: str, network: str, nanodollars: int, size_bytes: int = 0) -> None:
        """As the host's own accounts have it; the caller replays it after a restart, with the entries in order."""
        hidden = self._settings.left_out
        key = (
            "" if Part.USER in hidden else user,
            "" if Part.PROGRAM in hidden else program,
            "" if Part.NETWORK in hidden else network,
        )
        if key not in self._sums and len(self._sums) >= LINES_MAX:
            key = (key[0], "", "")
        spent, size = self._sums.get(key, (0, 0))
        self._sums[key] = (spent + nanodollars, size + size_bytes)

    def preview(self, unix_s: int) -> tuple[SpendingReport, ...]:
        """What would be pushed if the period ended now: all of it, and nothing else ever is."""
        until = max(unix_s, self._since_unix_s)
        lines = [
            SpendingLine(user=user, program=program, network=network, spent_nanodollars=spent, size_bytes=size)
            for (user, program, network), (spent, size) in sorted(self._sums.items())
            if spent or size
        ]
        return tuple(
            SpendingReport(
                host=self._settings.host,
                serial=self._next_serial + number,
                from_unix_s=self._since_unix_s,
                until_unix_s=until,
                total_nanodollars=sum(line.spent_nanodollars for line in part),
                lines=tuple(part),
            )
            for number, part in enumerate(_parts(lines))
        )

    def close_period(self, unix_s: int) -> ReportsClosed | None:
        """The entry, when it is time."""
        policy = self.in_force(unix_s)
        every_s = policy.report_every_s if policy is not None else self._settings.report_every_s
        if unix_s < self._since_unix_s + every_s or len(self._pending) >= PENDING_MAX:
            return None
        return ReportsClosed(until_unix_s=unix_s, reports=self.preview(unix_s))

    @property
    def pending(self) -> tuple[SpendingReport, ...]:
        """Closed and not booked there yet, in order."""
        return tuple(self._pending.values())

    def take_receipt(self, signed: Signed, receipt: SpendingReceipt) -> ReportTaken:
        """`signed`: what was sent. Raises RemoteProtocolError; then it is sent again."""
        report = msgspec.json.decode(signed.document, type=SpendingReport)
        if (receipt.host, receipt.serial, receipt.digest) != (report.host, report.serial, digest_of(signed)):
            raise RemoteProtocolError("wrong-receipt", f"the receipt is not for report {report.serial}")
        return ReportTaken(serial=report.serial)


def _rules_of(policy: Policy) -> tuple[Rule, ...]:
    file = f"policy {policy.serial}"
    return tuple(rule_of(section, source=Source.ORGANISATION, file=file) for section in policy.rules)


def _parts(lines: Sequence[SpendingLine]) -> list[list[SpendingLine]]:
    """In pieces that fit into one document each."""
    parts: list[list[SpendingLine]] = []
    room = 0
    for line in lines:
        size = len(canonical_bytes(line)) + 1
        if size > room:
            parts.append([])
            room = DOCUMENT_BYTES_MAX - 1000  # what is around the lines
        parts[-1].append(line)
        room -= size
    return parts


# --- when to call -----------------------------------------------------------------------------------------------------


class CallTimes:
    """When to call next: regularly; after a failure later and later, drawn, so that not all hosts come at once."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._wait_s = 0.0
        self._next_s: float | None = None

    def wait_s(self, now_s: float) -> float:
        """0: now."""
        return 0.0 if self._next_s is None else max(0.0, self._next_s - now_s)

    def on_success(self, now_s: float, ask_again_s: int) -> None:
        self._wait_s = 0.0
        self._next_s = now_s + ask_again_s

    def on_failure(self, now_s: float) -> None:
        self._wait_s = min(LAST_RETRY_S, max(FIRST_RETRY_S, 2 * self._wait_s))
        self._next_s = now_s + self._wait_s * (0.5 + self._draw() / 2)

    def on_network(self) -> None:
        """The host is on another network: what was out of reach may be there."""
        self._wait_s = 0.0
        self._next_s = None
