"""Puts the operator's status together from counters, books and the packet core's report. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from billpay.links import DifferenceLine, Direction
from billpay.sessions import MarkPrice
from billpay.settlement import Role
from dataplane.payment_engines import PaymentChoice
from gateway.admin import GatewayStatus, LinkStatus, LossLine, SettlementLine
from gateway.commands import LinkReport
from gateway.configuration import Configuration, LinkSection
from gateway.neighbours import Neighbour, Neighbours
from neighbour.exchange import LinkExchange


def total(counters: Mapping[str, int], name: str) -> int:
    """The sum of one counter over all links."""
    return sum(value for key, value in counters.items() if key.startswith("link/") and key.endswith(f"/{name}"))


def status_of(
    configuration: Configuration,
    neighbours: Neighbours,
    reports: Mapping[str, LinkReport],
    counters: Mapping[str, int],
    *,
    data_plane: str,
    engine: PaymentChoice | None,
    open_grants: int,
    mark_price: MarkPrice | None = None,
) -> GatewayStatus:
    return GatewayStatus(
        name=configuration.gateway.name,
        as_number=configuration.gateway.as_number,
        data_plane=data_plane,
        engine=engine.engine.value if engine is not None else "",
        engine_reason=engine.reason if engine is not None else "not started yet",
        open_grants=open_grants,
        held_kept_nanodollars=counters.get("held_kept_nanodollars", 0),
        links=tuple(
            _link(section, neighbours.by_link.get(section.name), reports.get(section.name), counters)
            for section in configuration.links
        ),
        counters={name: value for name, value in counters.items() if not name.startswith("grant/")},
        mark_price=mark_price,
    )


def _link(
    section: LinkSection, neighbour: Neighbour | None, report: LinkReport | None, counters: Mapping[str, int]
) -> LinkStatus:
    def count(name: str) -> int:
        return counters.get(f"link/{section.name}/{name}", 0)

    exchange = neighbour.exchange if neighbour is not None else None
    account = exchange.status() if exchange is not None else None
    return LinkStatus(
        name=section.name,
        neighbour=section.peer_name or section.name,
        state=neighbour.state if neighbour is not None else "legacy: no payments",
        sent_nanodollars=count("sent_nanodollars"),
        received_nanodollars=count("received_nanodollars"),
        sent_packets=count("sent_packets"),
        received_packets=count("received_packets"),
        retained_nanodollars=count("retained_nanodollars"),
        kept_nanodollars=count("kept_nanodollars"),
        carry_picodollars=count("carry_picodollars"),
        congestion_picodollars=report.congestion_picodollars if report else 0,
        backlog_bytes=report.backlog_bytes if report else 0,
        dropped_packets=count("dropped_packets"),
        marked_packets=count("marked_packets"),
        unpaid_packets=count("unpaid_packets"),
        role=section.role.value if section.peer == "host" else "",
        role_refused_packets=count("role_refused_packets"),
        role_refused_nanodollars=count("role_refused_nanodollars"),
        cut_packets=count("cut_packets"),
        cut_nanodollars=count("cut_nanodollars"),
        peer_sent_nanodollars=account.peer.sent_nanodollars if account and account.peer else None,
        peer_received_nanodollars=account.peer.received_nanodollars if account and account.peer else None,
        owed_by_us_nanodollars=account.owed_by_us if account else 0,
        owed_by_peer_nanodollars=account.owed_by_peer if account else 0,
        settled_by_us_nanodollars=account.settled_by_us if account else 0,
        settled_by_peer_nanodollars=account.settled_by_peer if account else 0,
        last_interval=account.last_interval if account else 0,
        standing=account.standing.value if account else "good",
        agrees=account.agrees if account else True,
        losses=losses_of(exchange),
        settlements=settlements_of(exchange),
    )


def losses_of(exchange: LinkExchange | None) -> tuple[LossLine, ...]:
    if exchange is None:
        return ()
    return tuple(
        LossLine(
            direction=direction_of(line, exchange.role),
            kind=line.kind.value,
            since_interval=line.since_interval,
            interval=line.interval,
            nanodollars=line.nanodollars,
        )
        for line in exchange.status().lines
    )


def direction_of(line: DifferenceLine, role: Role) -> str:
    outgoing = Direction.FORWARD if role is Role.CALLER else Direction.BACKWARD
    return "out" if line.direction is outgoing else "in"


def settlements_of(exchange: LinkExchange | None) -> tuple[SettlementLine, ...]:
    """Those that are paid."""
    if exchange is None:
        return ()
    return tuple(
        SettlementLine(
            number=order.number,
            debtor="us" if order.debtor == exchange.parties.us else "peer",
            amount_nanodollars=order.amount_nanodollars,
            reason=order.reason,
        )
        for order in exchange.status().paid
    )
