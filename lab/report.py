"""The report of a run: one value, as JSON for programs and as tables for people.

Decides: how it is shown. The numbers come from `lab.measures`. On a terminal: tables in colour; elsewhere: plain
lines."""

from __future__ import annotations

from collections import Counter

import msgspec
from rich.console import Console
from rich.table import Table

from billpay.money import show_nanodollars
from lab.books import LossLine, SettlementLine
from lab.wire import WireReport

_PLAIN_WIDTH = 120
_MOST_LOSSES = 12  # shown to people; programs get all of them


class ReportValue(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the report's parts."""


class FollowedPacket(ReportValue, frozen=True, kw_only=True, omit_defaults=True):
    """One request and its reply on the links that they passed, by the taps; the most frequent of an exchange."""

    amounts_nanodollars: tuple[int, ...]
    retained: dict[str, int]
    owed: int
    payer: str

    def as_json(self) -> dict[str, object]:
        """The shape with the payer's name in a key, as the figure has it."""
        return {
            "amounts_nanodollars": list(self.amounts_nanodollars),
            "retained": self.retained,
            f"owed_by_{self.payer}": self.owed,
        }


class ExchangeResult(ReportValue, frozen=True, kw_only=True):
    """A numbered exchange: what was asked, answered, and seen on every link of the figure."""

    name: str
    sent: int
    answered: int
    median_us: int | None
    seen_on_all_links: int
    crossings: dict[str, int]  # requests and replies with a header on each directed link, as in "X→Z"
    packet: FollowedPacket | None  # the most frequent one of those
    like_it: int  # how many had exactly these amounts


class LinkResult(ReportValue, frozen=True, kw_only=True, rename={"sender": "from", "receiver": "to"}):
    """One direction of one link. `sent`/`received` by the taps on the wire, `counted_by_*` from the two books."""

    sender: str
    receiver: str
    sent_nanodollars: int
    received_nanodollars: int
    counted_by_from: int | None
    counted_by_to: int | None
    packets: int
    passed_packets: int  # with a header that the sender did not process: no payment on this link
    queue_drops: int  # between the sender's count and the wire: by the lab's rate limit, or swallowed by a step


class LossResult(ReportValue, frozen=True, kw_only=True, rename={"sender": "from", "receiver": "to"}):
    sender: str
    receiver: str
    interval: int
    nanodollars: int
    kind: str

    @classmethod
    def of(cls, line: LossLine) -> LossResult:
        return cls(
            sender=line.sender,
            receiver=line.receiver,
            interval=line.interval,
            nanodollars=line.nanodollars,
            kind=line.kind,
        )


class SettlementResult(ReportValue, frozen=True, kw_only=True, rename={"debtor": "from", "creditor": "to"}):
    debtor: str
    creditor: str
    number: int
    nanodollars: int
    reason: str

    @classmethod
    def of(cls, line: SettlementLine) -> SettlementResult:
        return cls(
            debtor=line.debtor,
            creditor=line.creditor,
            number=line.number,
            nanodollars=line.nanodollars,
            reason=line.reason,
        )


class BalanceResult(ReportValue, frozen=True, kw_only=True):
    """What one node owes a neighbour by its own books, before what has been settled."""

    debtor: str
    creditor: str
    nanodollars: int


class NodeResult(ReportValue, frozen=True, kw_only=True):
    node: str
    received_nanodollars: int
    sent_nanodollars: int
    retained_nanodollars: int
    kept_nanodollars: int  # of packets that were dropped inside
    in_hand_nanodollars: int  # to be returned with packets that have not left yet
    refunded_nanodollars: int  # came back of what it paid itself
    statements_agree: bool  # with all neighbours, over everything that was counted


class TransferResult(ReportValue, frozen=True, kw_only=True):
    name: str
    paid: bool
    mbit_s: float
    bytes: int
    seconds: float
    congestion_control: str
    trouble: str = ""


class WireResult(ReportValue, frozen=True, kw_only=True):
    link: str
    forwarded: int
    lost: int
    reordered: int
    overflowed: int

    @classmethod
    def of(cls, wire: WireReport) -> WireResult:
        return cls(
            link=wire.name,
            forwarded=wire.forwarded,
            lost=wire.lost,
            reordered=wire.reordered,
            overflowed=wire.overflowed,
        )


class MoveResult(ReportValue, frozen=True, kw_only=True):
    """How an exchange's packets left a link after a change, or came back to it. None: it did not happen."""

    exchange: str
    link: str
    after: str  # the step's name
    back: bool
    percent: float
    before_percent: float | None  # its share just before the step
    noticed_ms: float | None  # after the step: when the sender's agent said so; None: it said nothing
    moved_ms: float | None  # after the step: when the share was below, or above, `percent`
    round_trip_ms: float | None
    round_trips: float | None  # from when it was noticed, else from the step

    @property
    def said(self) -> str:
        noticed = "" if self.noticed_ms is None else f"noticed after {self.noticed_ms:.0f} ms, "
        if self.moved_ms is None:
            before = "–" if self.before_percent is None else f"{self.before_percent:g}"
            return f"{noticed}did not happen; the share before the step was {before} %"
        trips = "" if self.round_trips is None else f", {self.round_trips:g} round trips"
        return f"{noticed}done {self.moved_ms:.0f} ms after the step{trips}"


class FoundResult(ReportValue, frozen=True, kw_only=True):
    """What an agent says that an ISP does, and when it first said so."""

    by: str
    isp: str
    kind: str
    after: str  # the step's name
    found_ms: float | None  # after the step; None: it did not
    evidence: str


class Finding(ReportValue, frozen=True, kw_only=True):
    """Something that a run checks; `ok` False makes the command fail."""

    what: str
    ok: bool
    detail: str


class Report(ReportValue, frozen=True, kw_only=True):
    scenario: str
    title: str
    ip: str
    seconds: float
    packet: FollowedPacket | None
    exchanges: tuple[ExchangeResult, ...]
    links: tuple[LinkResult, ...]
    nodes: tuple[NodeResult, ...]
    balances: tuple[BalanceResult, ...]
    conservation_error_nanodollars: int | None
    unexplained: dict[str, int]  # where that is: links ("X→Y") and nodes
    goodput_mbit_s: dict[str, float]
    transfers: tuple[TransferResult, ...]
    packets: int  # paid packets that hosts sent into the network
    crossings: int  # the same packets, counted on each link
    losses: tuple[LossResult, ...]
    settlements: tuple[SettlementResult, ...]
    wires: tuple[WireResult, ...]
    tap_drops: int
    events: tuple[str, ...]  # kills, restarts, impairments, changes
    tracebacks: tuple[str, ...]  # bugs of ours that the daemons' logs show
    findings: tuple[Finding, ...]
    directory: str  # of logs and captures, "" when they were thrown away
    moves: tuple[MoveResult, ...] = ()
    found: tuple[FoundResult, ...] = ()
    engines: dict[str, str] = {}  # of payments at each node, and why it is that one

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    @property
    def holds(self) -> bool:
        return self.ok

    @property
    def shortfall(self) -> str:
        """One line: what did not hold."""
        return "; ".join(f"{finding.what}: {finding.detail}" for finding in self.findings if not finding.ok)

    def with_findings(self, findings: tuple[Finding, ...]) -> Report:
        return msgspec.structs.replace(self, findings=findings)

    def print(self) -> None:
        """The summary on standard output: tables on a terminal, plain lines elsewhere."""
        console = Console()
        show(self, console if console.is_terminal else Console(width=_PLAIN_WIDTH))

    def to_json(self) -> bytes:
        """The document of `--json` (docs/lab.md says what is in it)."""
        document = msgspec.to_builtins(self)
        document["packet"] = self.packet.as_json() if self.packet else None
        for exchange, result in zip(document["exchanges"], self.exchanges, strict=True):
            exchange["packet"] = result.packet.as_json() if result.packet else None
        document["ok"] = self.ok
        return msgspec.json.format(msgspec.json.encode(document), indent=1)


def show(report: Report, console: Console) -> None:
    """The summary for people."""
    console.print()
    console.print(f"[bold]{report.title}[/bold]  (IPv{report.ip}, {report.seconds:.0f} s)")
    _show_packet(report, console)
    if report.links:
        console.print(_links_table(report))
    _show_balances(report, console)
    _show_transfers(report, console)
    _show_rest(report, console)
    for finding in report.findings:
        mark = "[green]holds[/green]" if finding.ok else "[bold red]FAILS[/bold red]"
        console.print(f"  {mark}  {finding.what}: {finding.detail}")
    if report.directory:
        console.print(f"Logs and captures: {report.directory}", highlight=False)


def _show_packet(report: Report, console: Console) -> None:
    for exchange in report.exchanges:
        line = f"Exchange “{exchange.name}”: {exchange.sent} requests, {exchange.answered} replies"
        if exchange.median_us is not None:
            line += f", round trip {exchange.median_us / 1000:.1f} ms"
        console.print(line, highlight=False)
        packet = exchange.packet
        if packet:
            kept = ", ".join(f"{node} {amount}" for node, amount in packet.retained.items())
            console.print(
                f"  amounts on the links {' '.join(map(str, packet.amounts_nanodollars))} nanodollars "
                f"({exchange.like_it} of {exchange.seen_on_all_links}); {packet.payer} owes {packet.owed} = {kept}",
                highlight=False,
            )


def _links_table(report: Report) -> Table:
    table = Table(title="Who paid whom (nanodollars)", title_justify="left")
    table.add_column("link")
    for heading in ("packets", "sent (tap)", "received (tap)", "counted by payer", "counted by payee"):
        table.add_column(heading, justify="right")
    for link in report.links:
        if not (link.packets or link.counted_by_from or link.counted_by_to):
            continue
        table.add_row(
            f"{link.sender} → {link.receiver}",
            f"{link.packets:,}",
            f"{link.sent_nanodollars:,}",
            f"{link.received_nanodollars:,}",
            *(f"{count:,}" if count is not None else "–" for count in (link.counted_by_from, link.counted_by_to)),
        )
    return table


def _show_balances(report: Report, console: Console) -> None:
    for balance in report.balances:
        console.print(
            f"  {balance.debtor} owes {balance.creditor} {show_nanodollars(balance.nanodollars)}", highlight=False
        )
    for node in report.nodes:
        if node.retained_nanodollars or node.kept_nanodollars:
            extra = f", kept {show_nanodollars(node.kept_nanodollars)} of dropped packets" * bool(node.kept_nanodollars)
            console.print(f"  {node.node} earned {show_nanodollars(node.retained_nanodollars)}{extra}", highlight=False)


def _show_transfers(report: Report, console: Console) -> None:
    for transfer in report.transfers:
        bought = "paid" if transfer.paid else "not paid"
        trouble = f"  ({transfer.trouble})" if transfer.trouble else ""
        console.print(
            f"  transfer “{transfer.name}” ({bought}, {transfer.congestion_control}): "
            f"{transfer.mbit_s:.2f} Mbit/s{trouble}",
            highlight=False,
        )


def _show_rest(report: Report, console: Console) -> None:
    for loss in report.losses[:_MOST_LOSSES]:
        console.print(
            f"  {loss.sender} → {loss.receiver}, interval {loss.interval}: {loss.kind} of {loss.nanodollars:,} n$",
            highlight=False,
        )
    if len(report.losses) > _MOST_LOSSES:
        console.print(f"  … and {len(report.losses) - _MOST_LOSSES} more such lines", highlight=False)
    alike = Counter((item.debtor, item.creditor, item.nanodollars, item.reason) for item in report.settlements)
    for (debtor, creditor, nanodollars, reason), count in alike.items():
        times = f", {count} times" if count > 1 else ""
        line = f"  settled ({reason}): {debtor} paid {creditor} {show_nanodollars(nanodollars)}{times}"
        console.print(line, highlight=False)
    for wire in report.wires:
        console.print(
            f"  wire {wire.link}: {wire.forwarded:,} frames, {wire.lost:,} lost, {wire.reordered:,} overtaken",
            highlight=False,
        )
    for event in report.events:
        console.print(f"  {event}", highlight=False)
    for engine, nodes in _alike(report.engines).items():
        console.print(f"  payments at {', '.join(nodes)} by {engine}", highlight=False)


def _alike(engines: dict[str, str]) -> dict[str, list[str]]:
    """The nodes of each engine."""
    return {engine: [node for node, own in engines.items() if own == engine] for engine in engines.values()}
