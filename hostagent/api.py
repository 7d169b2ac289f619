"""Local API: what the daemon tells people and programs on its own machine.

Values only, shared by the daemon's server, the typed client, the terminal UI and the command line: JSON over HTTP on a
unix socket, `docs/spec/local-api.md`.  Money is integer nanodollars of the currency that its tariff names, traffic is
bytes at the IP layer, a megabyte is 10^6 bytes.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from cartographer.measuring.report import ProbeReport
from pricereactor.policy import TaskPolicy

SOCKET_NAME = "hostagent.sock"


class ApiValue(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything that the agent says: a client passes over what a newer agent says beyond it."""


class Telling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that the agent is told: what it does not know it must not pass over."""


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


class Mode(enum.Enum):
    OBSERVE = "observe"  # counts, and says what it would do
    TRIAL = "trial"  # acts; goes back to observing unless somebody confirms in time
    ACT = "act"


class Status(ApiValue, frozen=True, kw_only=True):
    name: str
    version: str
    health: Health
    engine: str  # "ebpf", "nfqueue" or "sockets"
    started_unix_s: int
    engine_reason: str = ""  # why this engine, and why not a better one
    payments_engine: str = ""  # what treats packets that pay, "ebpf" or "nfqueue"; "" where nothing is paid
    payments_engine_reason: str = ""  # likewise
    limits: tuple[Limit, ...] = ()
    warnings: tuple[Warning, ...] = ()
    secretary: str  # "connected" or why not
    secretary_questions: int = 0  # that wait for a person there; the agent cannot answer them
    secretary_socket: str = ""  # where a person can
    spent_today_nanodollars: int
    budget_today_nanodollars: int
    mode: Mode = Mode.ACT
    trial_seconds_left: int | None = None
    network: str = ""  # title of the network of the default route, "" for none
    cpu_ppm: int = 0  # of one core, over the last minute
    memory_bytes: int = 0  # resident


class Flow(ApiValue, frozen=True, kw_only=True):
    """One flow as a person wants to see it."""

    flow: str  # "tcp 10.77.200.1:40000 → 10.77.200.2:5201"
    rule: str  # name of the secretary's rule, "" for unpaid
    strategy: str  # "bulk", "timely", "fixed", "return", "unpaid"
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
    task: str = ""  # the label of `hostagent run --task`
    destination: str = ""  # the remote address
    worth_nanodollars_per_mb: int | None = None  # to the user; None: nobody said
    price_nanodollars_per_mb: int | None = None  # what a megabyte of it costs now, by its interface's dearest price
    network: str = ""  # by whose interface it goes


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
    traffic_class: str = ""  # of most of its bytes
    worth_nanodollars_per_mb: int | None = None
    decision: str = ""  # one line: what it gets and why


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
    egress_bit_s: int | None = None  # what acting shapes it to; None: only caps hold
    ingress_bit_s: int | None = None


class Question(ApiValue, frozen=True, kw_only=True):
    """A flow whose first packet waits for an answer."""

    number: int
    flow: str
    program: str
    traffic_class: str
    seconds_left: int


class Term(enum.Enum):
    """For how long a person's word holds; its clock goes on while the machine sleeps."""

    ONCE = "once"  # this flow only
    UNTIL_QUIT = "until-quit"  # until no process of the program is left
    TEN_MINUTES = "10m"
    ONE_HOUR = "1h"
    TODAY = "today"  # until the next local midnight
    ALWAYS = "always"


class Answer(Telling, frozen=True, kw_only=True):
    """POST /v1/answers: lets a question's flow go on, or stops it. Nothing happens when the question is gone."""

    number: int
    allow: bool
    term: Term = Term.ONCE


class ModeChange(Telling, frozen=True, kw_only=True):
    """POST /v1/mode. `trial_s` > 0 with `act`: back to observing after so long, unless `act` comes again without it."""

    mode: Mode  # OBSERVE or ACT
    trial_s: int = 0


class WorthChange(Telling, frozen=True, kw_only=True):
    """PUT /v1/worths: what a program's traffic is worth from now on. Both None: what the table of kinds says."""

    program: str  # file name or absolute path of the executable
    kind: str | None = None  # as if it was of this kind of traffic
    nanodollars_per_mb: int | None = None
    term: Term = Term.ALWAYS


class Forget(Telling, frozen=True, kw_only=True):
    """POST /v1/forget: deletes one name out of what was kept, or all of it; one of the four. Sums stay true."""

    program: str | None = None
    destination: str | None = None
    network: str | None = None  # its title or key
    everything: bool = False


class Worth(ApiValue, frozen=True, kw_only=True):
    """A person's word about a program, as it stands."""

    program: str
    kind: str | None
    nanodollars_per_mb: int | None
    term: Term
    seconds_left: int | None  # None: no end


class KindState(enum.Enum):
    RUNS = "runs"
    SLOWED = "slowed"  # to `cap_bit_s`
    WAITS = "waits"  # slowed to a trickle: the data plan is for worthier traffic


class Kind(ApiValue, frozen=True, kw_only=True):
    """A kind of traffic (a traffic class): what it is worth, and what it gets for that."""

    name: str
    title: str
    worth_nanodollars_per_mb: int
    weight: int  # its part of a busy link beside the others' weights
    minimum_bit_s: int
    can_wait: bool
    sent_bit_s: int = 0
    received_bit_s: int = 0
    sent_bytes: int = 0  # since the agent started
    received_bytes: int = 0
    cap_bit_s: int | None = None
    state: KindState = KindState.RUNS
    spent_nanodollars: int = 0  # at the prices of the moment, since the agent started
    reason: str = ""


class Price(ApiValue, frozen=True, kw_only=True):
    """What a megabyte costs now on one link and direction. 0: nobody is in anybody's way."""

    interface: str
    direction: str  # "out" or "in"
    nanodollars_per_mb: int
    source: str  # "embedded gateway", "tariff", "data plan", "tolls"
    used_ppm: int | None = None  # of the link's rate; None: the rate is not known
    reason: str = ""


class Gateway(ApiValue, frozen=True, kw_only=True):
    """Who prices a network's link: a neighbour's gateway, or our own embedded one."""

    kind: str  # "embedded", "configured", "found"
    name: str = ""
    url: str = ""
    fingerprint: str = ""
    trust: str = ""  # "own", "configured", "first use" (with since when), "changed" (not used), "new" (asks)
    how: str = ""  # how it was found
    since_unix_s: int = 0
    state: str = ""  # "agreed", or one line that says why not


class Network(ApiValue, frozen=True, kw_only=True):
    """A network that this host is or was on."""

    key: str
    title: str  # "Wi-Fi Home", "cable on eth0 (router 192.0.2.1)"
    kind: str  # "wifi", "cable", "mobile", "hotspot", "container", "vpn", "unknown"
    interface: str
    active: bool
    router: str = ""
    metered: bool | None = None  # None: nobody says
    metered_because: str = ""
    connectivity: str = "unknown"  # "full", "limited", "portal", "none", "unknown"
    egress_bit_s: int | None = None
    ingress_bit_s: int | None = None
    rate_source: str = "unknown"  # "configured", "measured", "unknown"
    tariff: str = ""  # one line
    first_seen_unix_s: int = 0
    last_seen_unix_s: int = 0
    gateway: Gateway | None = None


class Budget(ApiValue, frozen=True, kw_only=True):
    """A limit on bytes or money in a period, how fast it goes, and where that leads."""

    name: str
    unit: str  # "bytes" or "nanodollars"
    period: str  # "day", "week", "month"
    limit: int
    used: int
    resets_unix_s: int
    hard: bool = False
    burn_per_day: int = 0
    forecast: int = 0  # used at the reset, at this pace
    noticed_percent: int = 0  # 0, 50, 80 or 100: the highest that was told
    flat_nanodollars_per_month: int | None = None  # what a month costs at this pace
    currency: str = "USD"
    reason: str = ""


class Notice(ApiValue, frozen=True, kw_only=True):
    """Something that a person should know once."""

    number: int
    unix_s: int
    code: str
    message: str


class HistoryRow(ApiValue, frozen=True, kw_only=True):
    """Totals of a stretch of time. What is not grouped by is ""."""

    from_unix_s: int
    seconds: int
    program: str = ""
    destination: str = ""
    network: str = ""
    kind: str = ""
    sent_bytes: int = 0
    received_bytes: int = 0
    sent_packets: int = 0
    received_packets: int = 0
    received_ce_packets: int = 0
    spent_nanodollars: int = 0  # real payments
    priced_nanodollars: int = 0  # at the embedded gateway's prices: internal money
    tariff_nanodollars: int = 0  # at the network's own tariff


class ReplayLine(ApiValue, frozen=True, kw_only=True):
    """You would have paid …"""

    tariff: str
    nanodollars: int
    currency: str = "USD"
    reason: str = ""


class StatementLine(ApiValue, frozen=True, kw_only=True):
    what: str  # a program, a network or a gateway
    bytes: int
    nanodollars: int


class Statement(ApiValue, frozen=True, kw_only=True):
    """opening + topped_up - spent - fees = closing, to the nanodollar; `lines` sum up to `spent`."""

    month: str  # "2026-11", in local time
    currency: str
    opening_nanodollars: int
    topped_up_nanodollars: int
    spent_nanodollars: int
    fees_nanodollars: int
    closing_nanodollars: int
    lines: tuple[StatementLine, ...] = ()
    fee_lines: tuple[StatementLine, ...] = ()
    internal_nanodollars: int = 0  # priced by the embedded gateway: shares the link, is nobody's bill
    bytes: int = 0
    flat_nanodollars_per_month: int | None = None


class WhyLine(ApiValue, frozen=True, kw_only=True):
    question: str  # "program", "kind", "worth", "price", "share", "network", "budget", "path", "payment"
    answer: str


class Why(ApiValue, frozen=True, kw_only=True):
    """What decided about one flow."""

    flow: str
    lines: tuple[WhyLine, ...]


class Rule(ApiValue, frozen=True, kw_only=True):
    """A rule that chooses a kind, and how often it did since the agent started."""

    number: int
    source: str  # "word" (a person's), "configuration", "kinds"
    condition: str
    kind: str
    flows: int


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


class Finding(ApiValue, frozen=True, kw_only=True):
    """Something that an ISP does against those who pay it, and what shows it."""

    as_name: str
    alternative: int | None  # None: whatever it takes
    kind: str  # `cartographer.judging`
    since_unix_s: int
    until_unix_s: int  # until when what follows from it holds
    evidence: str  # one line, with the numbers


class Access(ApiValue, frozen=True, kw_only=True):
    """A way into the Internet: an interface with a router behind it."""

    interface: str
    network: str  # its title
    router: str
    used: bool  # packets to anywhere go by it now
    chosen_by: str  # "system", "agent", "person"
    delay_ns: int | None = None
    loss_ppm: int | None = None
    price_nanodollars_per_mb: int | None = None
    cost_nanodollars_per_packet: int | None = None  # of a full-size packet, delay and loss included
    reason: str = ""


class PathCheck(ApiValue, frozen=True, kw_only=True):
    """Whether marks arrive on the way to a destination: by what its probes and its traffic show."""

    destination: str
    ecn: str  # `cartographer.measuring.ecn`: "trusted", "bleached", "dropped", …
    reason: str
    age_s: int
    mtu: int | None = None


class Paths(ApiValue, frozen=True, kw_only=True):
    """`alternatives`: towards destinations in use, at most 500. `probes_nanodollars`: for probes in the last hour."""

    alternatives: tuple[PathAlternative, ...] = ()
    findings: tuple[Finding, ...] = ()
    accesses: tuple[Access, ...] = ()
    checks: tuple[PathCheck, ...] = ()
    destinations: int = 0  # that are known
    probes_nanodollars: int = 0
    probes_limit_nanodollars: int = 0  # an hour
    campus: str = ""  # the service that pools measurements: how it is; "": none


class Figure(ApiValue, frozen=True, kw_only=True):
    """A quantity of a way. `uncertainty`: one standard error, age included."""

    value: int
    uncertainty: int
    age_s: int | None  # of the newest measurement; None: nobody measured it here
    source: str  # "measured", "promised", "campus"


class Way(ApiValue, frozen=True, kw_only=True):
    """One way to a destination as it is believed to be, for one class of flows."""

    destination: str
    way: str  # "AS64512:2 AS64514:1": each ISP with the alternative that it took; "": the only one
    wants: str  # the class
    chosen: bool
    share_ppm: int  # of the class's flows
    delay_ns: Figure | None = None
    jitter_ns: Figure | None = None
    loss_ppm: Figure | None = None
    marks_ppm: Figure | None = None
    throughput_bit_s: Figure | None = None
    forward_toll_picodollars: Figure | None = None  # of one packet
    return_toll_picodollars: Figure | None = None
    cost_picodollars: int | None = None  # of a packet, all together
    reason: str = ""  # why it is taken, or why not


class MapAlternative(ApiValue, frozen=True, kw_only=True):
    number: int
    title: str
    available: bool
    promised_delay_ns: int | None = None
    promised_toll_nanodollars: int | None = None


class MapNode(ApiValue, frozen=True, kw_only=True):
    """An AS, or this host (`as_name` "here"), or a destination."""

    name: str
    kind: str  # "here", "as", "destination"
    description: str = ""  # of its signed document: prefix, serial, until when; "": none
    alternatives: tuple[MapAlternative, ...] = ()
    finding: str = ""


class MapLink(ApiValue, frozen=True, kw_only=True):
    """Packets were seen to go from one to the other by an alternative of the first."""

    source: str
    target: str
    alternative: int | None
    used: bool  # by traffic now
    delay_ns: int | None = None  # of the whole way by it, there and back
    toll_picodollars: int | None = None  # of the whole way by it
    age_s: int | None = None


class NetworkMap(ApiValue, frozen=True, kw_only=True):
    network: str  # whose map it is: the title of the network that this host is on
    nodes: tuple[MapNode, ...] = ()
    links: tuple[MapLink, ...] = ()


class QualityRow(ApiValue, frozen=True, kw_only=True):
    """A way's quality in a stretch of time; what was not measured in it is None."""

    from_unix_s: int
    seconds: int
    destination: str
    way: str
    samples: int
    delay_ns: int | None = None
    delay_spread_ns: int | None = None  # one standard deviation of single round trips
    jitter_ns: int | None = None
    loss_ppm: int | None = None
    marks_ppm: int | None = None
    throughput_bit_s: int | None = None
    toll_picodollars: int | None = None


class Probing(ApiValue, frozen=True, kw_only=True):
    """A probe that was asked for. `sequence` grows with each report: ask with it to wait for the next one."""

    number: int
    sequence: int
    done: bool
    report: ProbeReport | None = None  # so far
    problem: str = ""  # why there is no more to come: one line


class AccessChange(Telling, frozen=True, kw_only=True):
    """POST /v1/access: by which interface packets go from now on; "": the agent chooses, as its configuration says."""

    interface: Annotated[str, msgspec.Meta(max_length=15)] = ""


class SessionRequest(Telling, frozen=True, kw_only=True):
    """A program (or a person) asks that a flow follow the price of congestion. The policy never leaves this host.

    `sends`: the flow leaves this host; else it arrives here, and only `pays` makes sense of it. `pays`: this end's
    policy decides. `adapts`: the program keeps to the target itself, nothing paces it. Either the name of a `task` of
    the configuration, or a `policy`.
    """

    protocol: Annotated[str, msgspec.Meta(pattern=r"^(tcp|udp)$")]
    local: str
    local_port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    remote: str
    remote_port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    sends: bool = True
    pays: bool = True
    adapts: bool = False
    task: str = ""
    policy: TaskPolicy | None = None


class SessionWorth(Telling, frozen=True, kw_only=True):
    """POST /v1/sessions/worth: what a session is worth to its person from now on, against what its policy says.

    Its budgets, its price ceiling and its other limits stay. 1,000,000: as the policy says.
    """

    session: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
    worth_ppm: Annotated[int, msgspec.Meta(ge=10_000, le=100_000_000)]


class Session(ApiValue, frozen=True, kw_only=True):
    """A flow that follows the price of congestion, as its person and its program see it.

    `number` grows with every change: ask with it to wait for the next one. `source`: what says the price ("receiver
    marks", …; "" nothing yet); `billed`: that is what is charged, else an estimate of the sender's.
    """

    session: str
    number: int
    flow: str  # as `Flow.flow`
    program: str = ""
    task: str
    kind: str
    sends: bool
    pays: bool
    adapts: bool
    verdict: str  # "go", "pause", "stop", "let go"
    target_bit_s: int | None = None  # None: nobody paces it
    level: int | None = None  # of a ladder, from 0
    rate_bit_s: int = 0  # that arrives, over the last intervals
    source: str = ""
    billed: bool = False
    nanodollars_per_mark: int | None = None  # None: no price is known
    marked_ppm: int | None = None
    price_nanodollars_per_mb: int | None = None
    packets: int = 0
    marks: int = 0
    spent_nanodollars: int = 0
    spent_today_nanodollars: int = 0  # of its task
    session_budget_nanodollars: int | None = None
    day_budget_nanodollars: int | None = None
    worth_ppm: int = 1_000_000  # what a person said while it runs, against what its policy says
    reason: str = ""
    since_unix_s: int = 0


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
    kinds: tuple[Kind, ...] = ()
    prices: tuple[Price, ...] = ()
    networks: tuple[Network, ...] = ()
    budgets: tuple[Budget, ...] = ()
    worths: tuple[Worth, ...] = ()
    notices: tuple[Notice, ...] = ()  # the latest last
    rules: tuple[Rule, ...] = ()
    sessions: tuple[Session, ...] = ()  # the latest first
