"""Control messages: what hosts and gateways say to each other outside the packets.

Every message that outlives the connection it came over (grant, statement, settlement, echo, tariff, OAD description)
is signed over its canonical bytes (`billpay.signing`); the others are plain JSON bodies under mutual TLS.  This module
only says what the messages are and which values are possible; who may send them and what follows is decided elsewhere.

Units: money in nanodollars (integers), times in unix seconds or nanoseconds as the name says, addresses as text in
their canonical form ("10.0.0.1", "fd00::1").  All collections are bounded, since they are read from a peer.

Source: Bill-Pay, sections 2.1-2.4; ARCHITECTURE decisions on statements, grants and echoes.
"""

from __future__ import annotations

import enum
from typing import Annotated, dataclass_transform

import msgspec

PROTOCOL_VERSION = 1
CONTROL_PORT = 7414
TUNNEL_PORT = 7415
ECHO_PORT = 7416
MAX_HOPS = 4
"""How many ISPs hand on a description of another one."""

Amount = Annotated[int, msgspec.Meta(ge=0, le=0xFF_FFFF, description="nanodollars in one packet, 24 bits")]
Sum = Annotated[int, msgspec.Meta(ge=0, le=2**62, description="a sum of nanodollars")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
UnixSeconds = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
AsNumber = Annotated[int, msgspec.Meta(ge=1, le=0xFFFF, description="16-bit AS number or alias")]
Alternative = Annotated[int, msgspec.Meta(ge=1, le=11, description="OAD alternative")]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:/-]+$")]
Text = Annotated[str, msgspec.Meta(max_length=400)]
Fingerprint = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the raw public key")]
Address = Annotated[str, msgspec.Meta(min_length=2, max_length=45)]
GrantId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that crosses a process, host or file boundary."""


class Signed(Message, frozen=True, kw_only=True):
    """A signed document: canonical bytes, who signed, Ed25519 signature over `kind ‖ 0 ‖ document`."""

    kind: Name  # "statement", "grant", …: a signature for one kind is worth nothing for another
    document: Annotated[bytes, msgspec.Meta(max_length=65536)]
    signer: Fingerprint
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


# --- who is there -----------------------------------------------------------------------------------------------------


class Identity(Message, frozen=True, kw_only=True):
    """Answer to GET /v1/identity."""

    version: int = PROTOCOL_VERSION
    name: Name
    as_number: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]  # 0: a host
    fingerprint: Fingerprint
    epoch: Count  # unix seconds // 60 by this node's clock; MACs are made with the gateway's number


class AgreementRequest(Message, frozen=True, kw_only=True):
    """Body of POST /v1/agreement: the terms that the caller wants on the link between the two."""

    version: int = PROTOCOL_VERSION
    name: Name
    as_number: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
    header: bool  # the caller can take Bill-Pay headers
    # compared with what arrives: finds a NAT
    source_addresses: Annotated[tuple[Address, ...], msgspec.Meta(max_length=16)] = ()


class Agreement(Message, frozen=True, kw_only=True):
    """Answer to POST /v1/agreement: the terms that hold."""

    link: Name  # the name that both sides use for this link in statements
    header: bool  # headers may be sent to the answering side
    max_amount: Amount
    settlement_threshold: Sum
    statement_interval_s: Annotated[int, msgspec.Meta(ge=1, le=3600)]
    next_interval: Count  # number of the first statement interval that the caller should give
    epoch: Count


# --- permission to spend ----------------------------------------------------------------------------------------------


class GrantKind(enum.Enum):
    SPEND = "spend"
    RETURN = "return"


class FlowSelector(Message, frozen=True, kw_only=True):
    """An exact 5-tuple, or (protocol and ports 0, destination "") every flow from the source address."""

    source: Address
    destination: Annotated[str, msgspec.Meta(max_length=45)] = ""
    protocol: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    source_port: Port = 0
    destination_port: Port = 0


class Grant(Message, frozen=True, kw_only=True):
    """How a host may spend; issued and signed by its secretary, enforced by the first gateway.

    `serial` grows with every replacement (higher cap, later expiry); what is spent is kept across replacements.
    `key` is the 128-bit MAC key in hex: it goes to the gateway inside TLS and to the host's data plane, nowhere else.
    `implied_nanodollars`: what each packet of the flow pays that comes without a header, because none survives on its
    way to the gateway (docs/spec/wire.md, "implied payments"); not said: nothing.
    """

    grant: GrantId
    serial: Count
    kind: GrantKind
    flow: FlowSelector
    cap_nanodollars: Sum
    rate_nanodollars_per_s: Sum
    burst_nanodollars: Sum
    not_before_unix_s: UnixSeconds
    expires_unix_s: UnixSeconds
    key: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
    gateway: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")] = ""  # the only one where it may be opened
    implied_nanodollars: Amount | msgspec.UnsetType = msgspec.UNSET

    @property
    def implies_nanodollars(self) -> int:
        """What a packet without a header pays; a document that does not say it is as it always was, byte for byte."""
        return self.implied_nanodollars or 0

    def __repr__(self) -> str:  # a key never shows in a log
        cap = self.cap_nanodollars
        return f"Grant(grant={self.grant[:8]}…, serial={self.serial}, kind={self.kind.value}, cap={cap})"


class GrantState(enum.Enum):
    OPEN = "open"
    EXHAUSTED = "exhausted"
    EXPIRED = "expired"
    CLOSED = "closed"


class GrantUsage(Message, frozen=True, kw_only=True):
    """What the gateway's books say of a grant; not signed."""

    grant: str
    serial: Count
    state: GrantState
    spent_nanodollars: Sum
    packets: Count
    refused_packets: Count  # failed MAC, over a cap, expired: forwarded unpaid


class GrantTerms(Message, frozen=True, kw_only=True):
    """Answer to PUT /v1/grants/{id}: how the grant is open, under the ceilings of the host's organisation.

    A packet that carries more than `max_amount` is cut to it; the caps are the grant's own or the ceiling's.
    """

    usage: GrantUsage
    max_amount: Amount
    cap_nanodollars: Sum
    rate_nanodollars_per_s: Sum
    burst_nanodollars: Sum


class GrantReceipt(Message, frozen=True, kw_only=True):
    """What a gateway says under its own signature that was spent of a grant; by it the secretary frees the rest.

    Final: the grant is closed and never opens again there, so that `spent_nanodollars` grows no more.
    """

    grant: GrantId
    serial: Count
    final: bool
    spent_nanodollars: Sum
    packets: Count
    refused_packets: Count
    unix_s: UnixSeconds


class SignedUsage(Message, frozen=True, kw_only=True):
    """Answer to GET and DELETE /v1/grants/{id}: the usage, and the same as a signed `GrantReceipt`.

    `public_key` is the gateway's, raw: the fingerprint that the grant names is its SHA-256.
    """

    usage: GrantUsage
    receipt: Signed
    public_key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class KeySuccession(Message, frozen=True, kw_only=True):
    """A secretary's new signing key, signed by its old one: from now on grants of the new key only are taken."""

    old: Fingerprint
    new_certificate: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]  # PEM
    serial: Count  # grows with each succession
    signed_unix_s: UnixSeconds


class SecretaryKey(Message, frozen=True, kw_only=True):
    """Answer to GET and PUT /v1/secretary-key: whose grants the gateway takes from this host now."""

    fingerprint: Fingerprint
    serial: Count  # of the last succession; 0: the key that the gateway was configured with


# --- accounts ---------------------------------------------------------------------------------------------------------


class Closing(Message, frozen=True, kw_only=True):
    """The caller's counters read again when the answer for `interval` had arrived.

    With the two statements of the interval they bracket what was on the wire meanwhile (`billpay.links`).
    """

    interval: Count
    sent_nanodollars: Sum
    received_nanodollars: Sum
    sent_packets: Count
    received_packets: Count
    cut_nanodollars: Sum = 0


class Statement(Message, frozen=True, kw_only=True):
    """One side's cumulative counters of a link at the end of an interval. Sent and received are the issuer's own view.

    Money that belongs to no packet is not in it. `cut_nanodollars` arrived above the ceiling of the sender's
    organisation and was cut off: it was sent, but neither received nor owed nor lost. `closing` and `settled_number`
    default to "nothing yet".
    """

    link: Name
    issuer: Fingerprint
    peer: Fingerprint
    interval: Count
    sampled_unix_s: UnixSeconds
    sent_nanodollars: Sum
    received_nanodollars: Sum
    sent_packets: Count  # packets with a payment above 0
    received_packets: Count
    cut_nanodollars: Sum = 0
    closing: Closing | None = None  # of the caller's last answered interval; an answering side has none
    settled_number: Count = 0  # the last of the peer's settlements that the issuer has posted


class Settlement(Message, frozen=True, kw_only=True):
    """The debtor's order to settle a part of the balance with a real payment; idempotent by `settlement`."""

    settlement: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
    link: Name
    debtor: Fingerprint
    creditor: Fingerprint
    number: Count  # 1, 2, … for each debtor on a link
    amount_nanodollars: Sum
    through_interval: Count
    reason: Annotated[str, msgspec.Meta(pattern=r"^(threshold|period)$")]
    ordered_unix_s: UnixSeconds


class StatementReply(Message, frozen=True, kw_only=True):
    """Answer to POST /v1/statements."""

    statement: Signed
    # where the answering side is the debtor
    settlements: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=64)] = ()
    in_default: bool = False  # the answering side treats the caller's payments as unpaid


class SettlementReceipt(Message, frozen=True, kw_only=True):
    """Answer to POST /v1/settlements."""

    settlement: str
    posted: bool
    already: bool  # the same order was posted before: nothing was paid twice


# --- prices and alternatives ------------------------------------------------------------------------------------------


class Timescale(enum.Enum):
    """M3I requirement: three classes of price change."""

    NETWORK = "network"  # microseconds to seconds: tolls, marks
    USER = "user"  # hours to weeks
    LONG_TERM = "long-term"  # months to years


class TollTerms(Message, frozen=True, kw_only=True):
    """A published toll on one egress link."""

    link: Name
    fixed_nanodollars_per_packet: Sum = 0
    fixed_picodollars_per_byte: Sum = 0
    proportional_ppm: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    cap_nanodollars: Sum | None = None  # the auditable cap on the whole toll of one packet
    congestion_picodollars: Sum = 0  # the congestion part now


class Tariff(Message, frozen=True, kw_only=True):
    """What a gateway charges, with the time scale on which it changes; signed, pushed when it changes."""

    issuer: Fingerprint
    serial: Count
    timescale: Timescale
    valid_from_unix_s: UnixSeconds
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")] = "USD"
    kind: Annotated[str, msgspec.Meta(pattern=r"^(tolls|flat-fee|percentile-95|per-byte|per-mark)$")]
    tolls: Annotated[tuple[TollTerms, ...], msgspec.Meta(max_length=64)] = ()
    monthly_fee_nanodollars: Sum = 0
    congestion_bytes_per_s: Count = 0  # flat fee: fill rate of the congestion policer
    nanodollars_per_mbit_s: Sum = 0  # 95th percentile
    picodollars_per_byte: Sum = 0  # per byte
    bundle_bytes: Count = 0
    nanodollars_per_mark: Sum = 0  # per mark: each packet that arrives with CE
    reset_day: Annotated[int, msgspec.Meta(ge=1, le=28)] = 1


class OadAlternative(Message, frozen=True, kw_only=True):
    number: Alternative
    title: Text
    delay_ns: Nanoseconds | None = None  # what the ISP promises; a prior for the cartographer
    toll_nanodollars: Sum | None = None
    available: bool = True


class OadDescription(Message, frozen=True, kw_only=True):
    """What an ISP publishes about its alternatives towards a destination prefix; signed, versioned."""

    issuer: Fingerprint
    as_number: AsNumber
    serial: Count
    prefix: Annotated[str, msgspec.Meta(max_length=50)]
    alternatives: Annotated[tuple[OadAlternative, ...], msgspec.Meta(max_length=11)]
    published_unix_s: UnixSeconds
    expires_unix_s: UnixSeconds


class IntroducedOad(Message, frozen=True, kw_only=True):
    """An `OadDescription` as its issuer signed it, handed on by neighbours with the issuer's raw public key."""

    signed: Signed
    public_key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    hops: Annotated[int, msgspec.Meta(ge=0, le=MAX_HOPS)]  # how many ISPs handed it on; 0: the issuer itself


class IntroducedOads(Message, frozen=True, kw_only=True):
    """Answer to GET, body of and answer to POST /v1/oads/introduced."""

    documents: Annotated[tuple[IntroducedOad, ...], msgspec.Meta(max_length=256)] = ()


class AlternativePrice(Message, frozen=True, kw_only=True):
    alternative: Alternative
    link: Name
    toll_picodollars: Sum  # for one packet of `size_bytes`
    congestion_picodollars: Sum


class PriceQuote(Message, frozen=True, kw_only=True):
    """Answer to GET /v1/price?destination=…&size=…: the router's price now."""

    destination: Address
    size_bytes: Count
    prices: Annotated[tuple[AlternativePrice, ...], msgspec.Meta(max_length=11)]


# --- what the far end saw ---------------------------------------------------------------------------------------------

IspOad = tuple[
    Annotated[int, msgspec.Meta(ge=0, le=0xFFFF, description="AS number")],
    Annotated[int, msgspec.Meta(ge=0, le=0xFFF, description="alternatives, bitmap")],
    Annotated[int, msgspec.Meta(ge=0, le=0xF, description="choice")],
]


class OadObservation(Message, frozen=True, kw_only=True):
    """What arrived over one combination of ISP-OADs."""

    oads: Annotated[tuple[IspOad, ...], msgspec.Meta(max_length=7)]  # in path order
    packets: Count
    received_nanodollars: Sum  # remaining amounts, summed
    lowest_amount: Amount
    path_length: Annotated[int, msgspec.Meta(ge=0, le=15)]


class ProbeReply(Message, frozen=True, kw_only=True):
    probe: Count  # the sender's number
    sent_ns: Nanoseconds  # the sender's own monotonic time, returned as it came
    held_ns: Nanoseconds  # between arrival and this echo
    remaining: Amount
    oads: Annotated[tuple[IspOad, ...], msgspec.Meta(max_length=7)]


class Echo(Message, frozen=True, kw_only=True):
    """The receiving agent's report about a flow, signed, by UDP to the payer; cumulative: a lost one costs nothing."""

    # drawn by the receiver at start: replay across restarts
    session: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
    sequence: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    flow: FlowSelector  # the payer's flow
    packets: Count
    bytes: Count
    paid_packets: Count
    ce_packets: Count
    received_nanodollars: Sum
    returned_nanodollars: Sum
    observations: Annotated[tuple[OadObservation, ...], msgspec.Meta(max_length=16)] = ()
    probes: Annotated[tuple[ProbeReply, ...], msgspec.Meta(max_length=16)] = ()


class Problem(Message, frozen=True, kw_only=True):
    """Body of every 4xx and 5xx answer."""

    code: Name
    message: Text
