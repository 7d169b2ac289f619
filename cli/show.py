"""Prints what the daemons answer: tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec
from rich.console import Console
from rich.table import Column, Table

from billpay.money import show_nanodollars
from gateway.admin import GatewayStatus
from hostagent import api


def show_status(status: api.Status, *, as_json: bool) -> None:
    if as_json:
        _json(status)
        return
    table = Table(box=None, show_header=False)
    table.add_row("agent", f"{status.name} {status.version}")
    table.add_row("health", status.health.value)
    table.add_row("engine", status.engine_reason or status.engine)
    for limit in status.limits:
        table.add_row("", f"cannot {limit.ability}: {limit.cause}")
    table.add_row("secretary", status.secretary)
    spent, budget = status.spent_today_nanodollars, status.budget_today_nanodollars
    table.add_row("spent today", f"{show_nanodollars(spent)} of {show_nanodollars(budget)}")
    for warning in status.warnings:
        table.add_row(warning.code, warning.message)
    _print(table)


def show_flows(flows: Sequence[api.Flow], *, as_json: bool) -> None:
    if as_json:
        _json(flows)
        return
    # What a payment does is shown where there is one: most hosts have none.
    pays = any(flow.rule or flow.amount_nanodollars or flow.path for flow in flows)
    middle = ("rule", "pays", "toll", "spent", "returned", "path") if pays else ("class", "in")
    table = Table(Column("flow", no_wrap=True), "program", "out", *middle, "why", box=None)
    for flow in flows:
        rest = _payment(flow) if pays else (flow.traffic_class, _rate(flow.received_bit_s))
        table.add_row(flow.flow, flow.program, _rate(flow.rate_bit_s), *rest, flow.reason)
    _print(table if flows else "no flows: nothing has been sent yet")


def _payment(flow: api.Flow) -> tuple[str, ...]:
    return (
        flow.rule or "unpaid",
        show_nanodollars(flow.amount_nanodollars),
        "?" if flow.toll_nanodollars is None else show_nanodollars(flow.toll_nanodollars),
        show_nanodollars(flow.spent_nanodollars),
        show_nanodollars(flow.returned_nanodollars),
        flow.path or "?",
    )


def show_programs(snapshot: api.Snapshot, *, as_json: bool) -> None:
    if as_json:
        _json(snapshot.programs)
        return
    table = Table("program", "unit", "user", "task", "out", "in", "sent", "received", "CE marks in", box=None)
    for program in snapshot.programs:
        table.add_row(
            program.name,
            program.container or program.unit,
            "" if program.user_id is None else str(program.user_id),
            program.task,
            _rate(program.sent_bit_s),
            _rate(program.received_bit_s),
            _bytes(program.sent_bytes),
            _bytes(program.received_bytes),
            str(program.received_ce_packets),
        )
    _print(table if snapshot.links else "nothing is counted: the configuration names no [[links]]")


def show_questions(questions: Sequence[api.Question], *, as_json: bool) -> None:
    if as_json:
        _json(questions)
        return
    table = Table("number", "program", "flow", "class", "goes on in", box=None)
    for each in questions:
        table.add_row(str(each.number), each.program, each.flow, each.traffic_class, f"{each.seconds_left} s")
    _print(table if questions else "no questions")


def _print(what: Table | str) -> None:
    """Without markup: an IPv6 address in brackets is none."""
    Console(markup=False).print(what)


def _rate(bit_s: int) -> str:
    return f"{bit_s / 1e6:.2f} Mbit/s" if bit_s else ""


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def show_accounts(accounts: api.Accounts, *, as_json: bool) -> None:
    if as_json:
        _json(accounts)
        return
    table = Table("neighbour", "state", "sent", "received", "lost", "we owe", "settled", "settlements", box=None)
    for link in accounts.links:
        table.add_row(
            f"{link.neighbour} ({link.interface})",
            link.state,
            show_nanodollars(link.sent_nanodollars),
            show_nanodollars(link.received_nanodollars),
            show_nanodollars(link.lost_nanodollars),
            show_nanodollars(link.owed_nanodollars),
            show_nanodollars(link.settled_nanodollars),
            str(link.settlements),
        )
    _print(table if accounts.links else "no accounts: no neighbour is configured")
    for loss in accounts.losses:
        direction = {"out": "to", "in": "from"}.get(loss.direction, loss.direction)
        amount = show_nanodollars(loss.nanodollars)
        click.echo(f"{loss.kind}: {amount} {direction} {loss.link} in interval {loss.interval}")


def show_gateway(status: GatewayStatus, *, as_json: bool) -> None:
    if as_json:
        _json(status)
        return
    click.echo(f"{status.name} (AS {status.as_number}): packets {status.data_plane}, {status.open_grants} open grants")
    heads = (
        "link",
        "state",
        "received",
        "sent",
        "earned",
        "kept",
        "toll now",
        "backlog",
        "we owe",
        "they owe",
        "books",
    )
    table = Table(*heads, box=None)
    for link in status.links:
        table.add_row(
            link.name,
            link.state,
            show_nanodollars(link.received_nanodollars),
            show_nanodollars(link.sent_nanodollars),
            show_nanodollars(link.retained_nanodollars),
            show_nanodollars(link.kept_nanodollars),
            show_nanodollars(link.congestion_picodollars // 1000),
            f"{link.backlog_bytes:,} B",
            show_nanodollars(link.owed_by_us_nanodollars - link.settled_by_us_nanodollars),
            show_nanodollars(link.owed_by_peer_nanodollars - link.settled_by_peer_nanodollars),
            "agree" if link.agrees else "open",
        )
    _print(table)
    for link in status.links:
        for loss in link.losses:
            direction = "to" if loss.direction == "out" else "from"
            amount = show_nanodollars(loss.nanodollars)
            click.echo(f"{loss.kind}: {amount} {direction} {link.name} in interval {loss.interval}")


def _json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
