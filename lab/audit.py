"""Reads the books of running daemons, by the same sockets as people do, into one shape for hosts and gateways.

Decides nothing. Raises EnvironmentFault when a daemon does not answer.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from billpay.errors import EnvironmentFault, RemoteProtocolError
from gateway.admin import GatewayStatus, LinkStatus, read_status
from hostagent.api import Snapshot
from hostagent.client import LocalClient, Unreachable
from lab.books import LinkCount, LossLine, NodeBooks, SettlementLine

LEGACY = "legacy"  # so begins the state of a link without an account


def ask_gateway(socket: Path) -> GatewayStatus:
    return asyncio.run(read_status(socket))


def ask_agent(socket: Path) -> Snapshot:
    try:
        return asyncio.run(_snapshot(socket))
    except (Unreachable, RemoteProtocolError) as error:
        raise EnvironmentFault("ask agent at", str(socket), error, "is it running?") from error


async def _snapshot(socket: Path) -> Snapshot:
    async with LocalClient(socket) as client:
        return await client.snapshot()


def gateway_books(node: str, status: GatewayStatus) -> NodeBooks:
    links = [link for link in status.links if not link.state.startswith(LEGACY)]
    return NodeBooks(
        node=node,
        is_gateway=True,
        links=tuple(_gateway_link(node, link) for link in links),
        retained_nanodollars=sum(link.retained_nanodollars for link in status.links),
        kept_nanodollars=sum(link.kept_nanodollars for link in status.links) + status.held_kept_nanodollars,
        losses=tuple(
            _loss(node, link.neighbour, line.direction, line.interval, line.nanodollars, line.kind)
            for link in links
            for line in link.losses
        ),
        settlements=tuple(
            _settlement(node, link.neighbour, line.debtor, line.number, line.amount_nanodollars, line.reason)
            for link in links
            for line in link.settlements
        ),
        statements_agree=all(link.agrees for link in links),
        engine=status.engine_reason,
    )


def _gateway_link(node: str, link: LinkStatus) -> LinkCount:
    return LinkCount(
        node=node,
        peer=link.neighbour,
        sent_nanodollars=link.sent_nanodollars,
        received_nanodollars=link.received_nanodollars,
        sent_packets=link.sent_packets,
        received_packets=link.received_packets,
    )


def host_books(node: str, snapshot: Snapshot) -> NodeBooks:
    """Lines name uplinks, and the lab names each uplink after its gateway."""
    accounts = snapshot.accounts
    return NodeBooks(
        node=node,
        is_gateway=False,
        links=tuple(
            LinkCount(
                node=node,
                peer=link.neighbour,
                sent_nanodollars=link.sent_nanodollars,
                received_nanodollars=link.received_nanodollars,
                sent_packets=link.sent_packets,
                received_packets=link.received_packets,
            )
            for link in accounts.links
        ),
        retained_nanodollars=accounts.share_nanodollars,
        kept_nanodollars=accounts.kept_nanodollars,
        in_hand_nanodollars=accounts.in_hand_nanodollars,
        returned_nanodollars=accounts.returned_nanodollars,
        refunded_nanodollars=accounts.refunded_nanodollars,
        losses=tuple(
            _loss(node, line.link, line.direction, line.interval, line.nanodollars, line.kind)
            for line in accounts.losses
        ),
        settlements=tuple(
            _settlement(node, line.link, line.debtor, line.number, line.nanodollars, line.reason)
            for line in accounts.settlements
        ),
        statements_agree=all(link.agrees for link in accounts.links),
        engine=snapshot.status.payments_engine_reason,
    )


def _loss(node: str, peer: str, direction: str, interval: int, nanodollars: int, kind: str) -> LossLine:
    sender, receiver = (node, peer) if direction == "out" else (peer, node)
    return LossLine(sender=sender, receiver=receiver, interval=interval, nanodollars=nanodollars, kind=kind)


def _settlement(node: str, peer: str, debtor: str, number: int, nanodollars: int, reason: str) -> SettlementLine:
    payer, payee = (node, peer) if debtor == "us" else (peer, node)
    return SettlementLine(debtor=payer, creditor=payee, number=number, nanodollars=nanodollars, reason=reason)
