"""What is asked of a probing run and what it found, as documents: one request in, reports out, the last one final.

Decides: which numbers there are and in which units. Refuses to know: how they come about, and how they are shown.
Times are nanoseconds unless the name says otherwise, shares millionths (ppm). What nobody measured is None, never 0.
"""

from __future__ import annotations

import csv
import enum
import io
from typing import Annotated, Final

import msgspec

from cartographer.measuring.ecn import DscpVerdict, EcnVerdict, PeerVerdict
from cartographer.measuring.packets import Transport

Ppm = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
MOST_ROUNDS: Final = 1000
MOST_HOPS: Final = 64
DEFAULT_PORTS: Final = {Transport.ICMP: 0, Transport.UDP: 33434, Transport.TCP: 443}


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that passes between the prober's process and whoever asked."""


class Family(enum.Enum):
    ANY = "any"  # IPv6 if there is an address and a route, else IPv4
    IPV4 = "ipv4"
    IPV6 = "ipv6"


class ProbeRequest(Document, frozen=True, kw_only=True):
    """What is to be found out, and how much may be sent for it."""

    destination: Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern=r"^[^\s\x00-\x20\x7f]+$")]
    family: Family = Family.ANY
    transport: Transport = Transport.ICMP
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None  # None: 33434 for UDP, 443 for TCP
    rounds: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROUNDS)] = 10  # probes to each hop
    interval_ms: Annotated[int, msgspec.Meta(ge=10, le=60_000)] = 1000  # between rounds
    wait_ms: Annotated[int, msgspec.Meta(ge=50, le=10_000)] = 1000  # for an answer
    max_hops: Annotated[int, msgspec.Meta(ge=1, le=MOST_HOPS)] = 30
    ecn: bool = True  # the DSCP, too
    dscp: Annotated[int, msgspec.Meta(ge=0, le=63)] = 46  # the one that is tried
    mtu: bool = True
    multipath: bool = False  # all the ways that load balancers offer
    names: bool = True  # reverse DNS, and origin AS where data is present
    max_packets: Annotated[int, msgspec.Meta(ge=1, le=65_000)] = 20_000
    max_seconds: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 600
    max_slow_seconds: Annotated[int, msgspec.Meta(ge=0, le=600)] = 30  # to tell the destination's loss from its limit

    @property
    def port_used(self) -> int:
        return DEFAULT_PORTS[self.transport] if self.port is None else self.port


class Interface(Document, frozen=True, kw_only=True):
    """One address that answered at a hop, and its round trips."""

    address: str
    answered: int  # probes
    name: str = ""  # reverse DNS; "": none, or not asked
    origin_as: str = ""  # "64512", or "64512_64513" where several announce it; "": not known
    least_ns: int | None = None
    mean_ns: int | None = None
    worst_ns: int | None = None
    deviation_ns: int | None = None  # standard deviation


class Share(Document, frozen=True, kw_only=True):
    """A share with its 95 % interval."""

    ppm: Ppm
    least_ppm: Ppm
    most_ppm: Ppm


class Hop(Document, frozen=True, kw_only=True):
    """`unanswered` of `sent` is what other tools call loss. `loss` is what is lost up to here."""

    ttl: int
    interfaces: tuple[Interface, ...] = ()  # who answered most, first; (): nobody ever
    sent: int = 0
    answered: int = 0
    loss: Share | None = None  # None: nothing here or behind it says anything about loss
    limited: bool = False  # answers less than passes it: its answers are limited, and no packets are lost
    answers_per_s: float | None = None  # about what the limit allows, where there is one
    ecn: int | None = None  # how a packet that left as ECT(0), 2, arrived here: 0…3
    dscp: int | None = None  # how one with the DSCP that was tried arrived here

    @property
    def unanswered(self) -> int:
        return self.sent - self.answered


class Loss(Document, frozen=True, kw_only=True):
    """End to end, by what the destination answers and nothing else. None: it never answered."""

    share: Share | None = None
    between_ttls: tuple[int, int] | None = None  # where most of it begins; 0: this host
    limited: bool = False  # the destination limits its answers: the share is of slower probes
    words: str = ""


class Ecn(Document, frozen=True, kw_only=True):
    verdict: EcnVerdict = EcnVerdict.UNKNOWN
    words: str = ""
    between_ttls: tuple[int, int] | None = None
    peer: PeerVerdict = PeerVerdict.UNKNOWN  # the far end's TCP, where TCP was used
    returns: EcnVerdict = EcnVerdict.UNKNOWN  # of the way back

    @property
    def may_trust_marks(self) -> bool:
        """Marks say here what congestion there is."""
        return self.verdict is EcnVerdict.TRUSTED

    @property
    def marks_survive(self) -> bool:
        """Not known to be taken off, falsified or dropped: what a price reactor asks before it has heard anything."""
        return self.verdict not in (EcnVerdict.BLEACHED, EcnVerdict.REMARKED, EcnVerdict.DROPPED)


class Dscp(Document, frozen=True, kw_only=True):
    verdict: DscpVerdict = DscpVerdict.UNKNOWN
    tried: int = 46
    words: str = ""
    between_ttls: tuple[int, int] | None = None


class Mtu(Document, frozen=True, kw_only=True):
    """`bytes`: the largest whole IP packet that passes."""

    bytes: int | None = None
    said_by: str = ""  # who sent "packet too big"; "": nobody
    swallowed: bool = False  # larger ones vanish without a word
    between_ttls: tuple[int, int] | None = None
    words: str = ""


class FlowLink(Document, frozen=True, kw_only=True):
    """Two interfaces of successive hops that packets of one flow met. "*": nobody answered there."""

    ttl: int  # of the nearer one; 0: this host
    near: str  # "source": this host
    far: str


class ProbeReport(Document, frozen=True, kw_only=True):
    """What was found so far."""

    destination: str  # as it was asked
    address: str
    transport: Transport
    port: int  # 0: ICMP has none
    reached: bool = False  # whether the destination ever answered
    final: bool = False  # nothing more will come
    doing: str = ""  # what is being measured now
    rounds_done: int = 0
    rounds: int = 0
    hops: tuple[Hop, ...] = ()
    loss: Loss = Loss()
    ecn: Ecn | None = None  # None: not asked, or not yet
    dscp: Dscp | None = None
    mtu: Mtu | None = None
    links: tuple[FlowLink, ...] = ()  # with multipath alone
    packets_sent: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


class TroubleKind(enum.Enum):
    USAGE = "usage"  # the request makes no sense
    ENVIRONMENT = "environment"  # the machine or the network refuses


class Trouble(Document, frozen=True, kw_only=True):
    """Why there is no report: what, where, why, and what the user can do."""

    error: TroubleKind
    operation: str
    target: str
    cause: str
    remedy: str = ""


def read_line(line: bytes) -> ProbeReport | Trouble:
    """A line of the prober's process. Raises msgspec.ValidationError or DecodeError."""
    kind: type[ProbeReport | Trouble] = Trouble if line.startswith(b'{"error"') else ProbeReport
    return msgspec.json.decode(line, type=kind)


# --- rows -------------------------------------------------------------------------------------------------------------

CSV_COLUMNS: Final = (
    *("destination", "address", "transport", "port", "ttl", "interface", "name", "origin_as"),
    *("sent", "answered", "loss_ppm", "loss_least_ppm", "loss_most_ppm", "limited"),
    *("least_ns", "mean_ns", "worst_ns", "deviation_ns", "ecn", "dscp"),
    *("path_loss_ppm", "ecn_verdict", "dscp_verdict", "mtu_bytes"),
)


def csv_rows(report: ProbeReport) -> list[tuple[str, ...]]:
    """One for each interface of each hop; a silent hop has one without an address. What is not known is empty."""
    rows = []
    path = (
        _text(report.loss.share.ppm if report.loss.share else None),
        report.ecn.verdict.value if report.ecn else "",
        report.dscp.verdict.value if report.dscp else "",
        _text(report.mtu.bytes if report.mtu else None),
    )
    for hop in report.hops:
        share = hop.loss
        lost = (share.ppm, share.least_ppm, share.most_ppm) if share else (None, None, None)
        for each in hop.interfaces or (Interface(address="", answered=0),):
            known = (
                *(report.destination, report.address, report.transport.value, report.port),
                *(hop.ttl, each.address, each.name, each.origin_as),
                *(hop.sent, each.answered, *lost, "yes" if hop.limited else "no"),
                *(each.least_ns, each.mean_ns, each.worst_ns, each.deviation_ns, hop.ecn, hop.dscp),
            )
            rows.append((*map(_text, known), *path))
    return rows


def csv_text(report: ProbeReport) -> str:
    """With a line of titles."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows([[_no_formula(cell) for cell in row] for row in csv_rows(report)])
    return file.getvalue()


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _no_formula(cell: str) -> str:
    """A name comes from strangers, and a spreadsheet computes what begins like this."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@") else cell
