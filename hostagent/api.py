"""Local API: what the daemon tells people and programs on its own machine.

Values only, shared by the daemon's server, the typed client, the terminal UI and the command line.  JSON over HTTP on a
unix socket.  GET /v1/status, /v1/flows, /v1/programs, /v1/accounts, /v1/paths and /v1/questions answer with the structs
below, GET /v1/snapshot with all of them, POST /v1/answers takes an `Answer`, GET /v1/events gives JSON lines, one
`Snapshot` each time something changed (at most 4 a second).
"""

from __future__ import annotations

import enum

import msgspec

SOCKET_NAME = "hostagent.sock"


class ApiValue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything on the local API."""


class Health(enum.Enum):
    OK = "ok"
    DEGRADED = "degraded"  # traffic goes on, something is not as configured
    UNPAID = "unpaid"  # traffic goes on, nothing can be paid


class Warning(ApiValue, frozen=True, kw_only=True):  # noqa: A001 - the users' word; always used as api.Warning
    """A coded fault that a person should know of."""

    code: str
    message: str
    since_unix_s: int


class Limit(ApiValue, frozen=True, kw_only=True):
    """Something that the engine cannot do here."""

    ability: str
    cause: str


class Status(ApiValue, frozen=True, kw_only=True):
    name: str
    version: str
    health: Health
    engine: str  # "ebpf", "nfqueue" or "sockets"
    started_unix_s: int
    engine_reason: str = ""  # why this engine, and why not a better one
    limits: tuple[Limit, ...] = ()
    warnings: tuple[Warning, ...] = ()
    secretary: str  # "connected" or why not
    spent_today_nanodollars: int
    budget_today_nanodollars: int


class Flow(ApiValue, frozen=True, kw_only=True):
    """One flow as a person wants to see it."""

    flow: str  # "tcp 10.77.200.1:40000 → 10.77.200.2:5201"
    rule: str  # name of the secretary's rule, "" for unpaid
    strategy: str  # "bulk", "fixed", "return", "unpaid"
    rate_bit_s: int  # over the last second
    packets: int
    bytes: int
    amount_nanodollars: int  # what each packet carries now
    toll_nanodollars: int | None  # what the path keeps of it, from the last echo; None: not known
    spent_nanodollars: int
    returned_nanodollars: int  # what came back
    goodput_bit_s: int | None  # what the far end says that it received
    marks: int
    path: str  # "X:1 Y:1" (AS and choice), "" unknown
    reason: str  # one line: why this payment and this path
    active: bool
    program: str = ""  # who sends it, "" when nobody counts
    traffic_class: str = ""
    received_bytes: int = 0  # of the same connection
    received_bit_s: int = 0


class Program(ApiValue, frozen=True, kw_only=True):
    """One program's traffic over all links, since the agent started. Bytes are at the IP layer."""

    name: str  # the executable's file name, the container, or the interface that forwarded traffic came in by
    kind: str  # "program", "forwarded", "unattributed"
    executable: str
    unit: str
    container: str
    task: str
    user_id: int | None
    sent_bytes: int
    received_bytes: int
    sent_packets: int
    received_packets: int
    sent_bit_s: int  # over about the last second
    received_bit_s: int
    received_ce_packets: int


class Link(ApiValue, frozen=True, kw_only=True):
    """An interface: what we counted beside what the interface itself did, in packets as it counts them."""

    interface: str
    sent_bytes: int
    received_bytes: int
    sent_bit_s: int
    received_bit_s: int
    sent_packets: int
    received_packets: int
    interface_sent_packets: int
    interface_received_packets: int


class Question(ApiValue, frozen=True, kw_only=True):
    """A flow whose first packet waits for an answer."""

    number: int
    flow: str
    program: str
    traffic_class: str
    seconds_left: int


class Answer(ApiValue, frozen=True, kw_only=True):
    """POST /v1/answers: lets a question's flow go on, or stops it. Nothing happens when the question is gone."""

    number: int
    allow: bool


class LinkAccount(ApiValue, frozen=True, kw_only=True):
    """Our account with a neighbour."""

    neighbour: str
    interface: str
    state: str  # "agreed", "no agreement", "unreachable", "in default"
    fingerprint: str
    sent_nanodollars: int  # by our counters
    received_nanodollars: int
    sent_packets: int = 0  # with a payment
    received_packets: int = 0
    peer_received_nanodollars: int | None  # by the neighbour's last signed statement
    peer_sent_nanodollars: int | None
    lost_nanodollars: int  # confirmed link loss, both directions
    owed_nanodollars: int  # > 0: we owe
    settled_nanodollars: int
    settlements: int
    last_interval: int
    agrees: bool = True  # the last comparison covered everything that both have counted


class LossLine(ApiValue, frozen=True, kw_only=True):
    """A confirmed difference between the two ends of a link."""

    link: str
    direction: str  # "out" or "in"
    interval: int
    nanodollars: int
    kind: str  # billpay.links.LineKind: "loss", "found", "excess" (disputed), "withdrawn"


class SettlementLine(ApiValue, frozen=True, kw_only=True):
    """A part of a balance that was settled with a real payment."""

    link: str
    number: int
    debtor: str  # "us" or "peer"
    nanodollars: int
    reason: str  # "threshold" or "period"


class Accounts(ApiValue, frozen=True, kw_only=True):
    links: tuple[LinkAccount, ...]
    losses: tuple[LossLine, ...] = ()
    settlements: tuple[SettlementLine, ...] = ()
    share_nanodollars: int = 0  # what this host kept of payments that it received
    refunded_nanodollars: int = 0  # what came back of our own payments
    returned_nanodollars: int = 0  # what went back of others' payments
    in_hand_nanodollars: int = 0  # to be returned with packets that have not left yet
    kept_nanodollars: int = 0  # could not be returned: its flow ended, or the packet reader was killed


class PathAlternative(ApiValue, frozen=True, kw_only=True):
    destination: str
    as_name: str
    alternative: int
    chosen: bool
    toll_nanodollars: int | None
    delay_ns: int | None
    age_s: int | None
    reason: str  # why chosen, or why rejected


class Paths(ApiValue, frozen=True, kw_only=True):
    alternatives: tuple[PathAlternative, ...] = ()


class Snapshot(ApiValue, frozen=True, kw_only=True):
    sequence: int
    unix_s: int
    status: Status
    flows: tuple[Flow, ...]
    accounts: Accounts
    paths: Paths
    programs: tuple[Program, ...] = ()
    links: tuple[Link, ...] = ()
    questions: tuple[Question, ...] = ()
