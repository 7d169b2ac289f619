"""Local API: what the daemon tells people and programs on its own machine.

Values only, shared by the daemon's server, the typed client, the terminal UI and the command line.  JSON over HTTP on a
unix socket.  GET /v1/status, /v1/flows, /v1/accounts, /v1/paths answer with the structs below, GET /v1/snapshot with
all of them, GET /v1/events with JSON lines, one `Snapshot` each time something changed (at most 4 a second).
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


class Status(ApiValue, frozen=True, kw_only=True):
    name: str
    version: str
    health: Health
    engine: str  # "nfqueue"
    started_unix_s: int
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
    share_nanodollars: int  # what this host kept of payments that it received
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
