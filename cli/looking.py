"""Verbs that only look: each asks the agent one question and prints the answer, for people or as JSON.

Decides: which question. Refuses to know: how an answer is shown (`cli.show`), and how the agent is reached
(`cli.agent`).
"""

from __future__ import annotations

from pathlib import Path

import click

from cli.agent import ask, socket_option
from cli.command import json_option, one_line_errors
from cli.paths import paths
from cli.show.text import write_json


@click.command()
@socket_option
@json_option
@one_line_errors
def status(socket: Path, as_json: bool) -> None:
    """Mode, health, network, engine, and what was spent today."""
    told = ask(socket, lambda client: client.snapshot())
    if as_json:
        write_json(told.status)
        return
    from cli.show.state import show_status

    show_status(told.status, told.unix_s)


@click.command()
@socket_option
@json_option
@one_line_errors
def flows(socket: Path, as_json: bool) -> None:
    """Every flow with its program, rate and price, or payment and path.

    In a terminal of 120 columns, and into a pipe, also with the reason; `hostagent why` has it in any.
    """
    told = ask(socket, lambda client: client.flows())
    if as_json:
        write_json(told)
        return
    from cli.show.traffic import show_flows

    show_flows(told)


@click.command()
@socket_option
@json_option
@one_line_errors
def programs(socket: Path, as_json: bool) -> None:
    """Every program's traffic since the agent started, and what nobody could be named for."""
    told = ask(socket, lambda client: client.snapshot())
    if as_json:
        write_json(told.programs)
        return
    from cli.show.traffic import show_programs

    show_programs(told.programs, is_counting=bool(told.links))


@click.command()
@socket_option
@json_option
@one_line_errors
def kinds(socket: Path, as_json: bool) -> None:
    """Kinds of traffic: what each is worth, and what it gets for that."""
    told = ask(socket, lambda client: client.kinds())
    if as_json:
        write_json(told)
        return
    from cli.show.traffic import show_kinds

    show_kinds(told)


@click.command()
@click.argument("flow")
@socket_option
@json_option
@one_line_errors
def why(flow: str, socket: Path, as_json: bool) -> None:
    """What decided about FLOW: program, kind, worth, price, share, network, budget and path.

    FLOW is a part of a flow, or of its program's name, that only one has: a port or an address often is.
    """
    told = ask(socket, lambda client: client.why(flow))
    if as_json:
        write_json(told)
        return
    from cli.show.traffic import show_why

    show_why(told)


@click.command()
@socket_option
@json_option
@one_line_errors
def rules(socket: Path, as_json: bool) -> None:
    """Rules that choose a flow's kind, in the order of trying, and how often each did."""
    told = ask(socket, lambda client: client.rules())
    if as_json:
        write_json(told)
        return
    from cli.show.state import show_rules

    show_rules(told)


@click.command()
@socket_option
@json_option
@one_line_errors
def networks(socket: Path, as_json: bool) -> None:
    """Networks that this host is or was on, with their rates, tariffs and gateways."""
    told = ask(socket, lambda client: client.networks())
    if as_json:
        write_json(told)
        return
    from cli.show.state import show_networks

    show_networks(told)


@click.command()
@socket_option
@json_option
@one_line_errors
def prices(socket: Path, as_json: bool) -> None:
    """What traffic costs now, by link and direction, and who says so."""
    told = ask(socket, lambda client: client.prices())
    if as_json:
        write_json(told)
        return
    from cli.show.state import show_prices

    show_prices(told)


@click.command()
@socket_option
@json_option
@one_line_errors
def budget(socket: Path, as_json: bool) -> None:
    """Data plans and other limits: used, how fast, and where that leads."""
    told = ask(socket, lambda client: client.budgets())
    if as_json:
        write_json(told)
        return
    from cli.show.amounts import show_budgets

    show_budgets(told)


@click.command()
@socket_option
@json_option
@one_line_errors
def accounts(socket: Path, as_json: bool) -> None:
    """What we and our neighbours owe each other, by our books and by theirs."""
    told = ask(socket, lambda client: client.accounts())
    if as_json:
        write_json(told)
        return
    from cli.show.amounts import show_accounts

    show_accounts(told)


@click.command()
@socket_option
@json_option
@one_line_errors
def notices(socket: Path, as_json: bool) -> None:
    """What the agent told lately, the latest last."""
    told = ask(socket, lambda client: client.notices())
    if as_json:
        write_json(told)
        return
    from cli.show.state import show_notices

    show_notices(told)


@click.command()
@socket_option
@json_option
@one_line_errors
def preview(socket: Path, as_json: bool) -> None:
    """What acting would change on this machine, to the last class; nothing is changed."""
    told = ask(socket, lambda client: client.snapshot())
    from socket import if_nameindex

    from cli.preview import preview_of, show_preview

    found = preview_of(told, {name: index for index, name in if_nameindex()})
    if as_json:
        write_json(found)
    else:
        show_preview(found)


looking_verbs: tuple[click.Command, ...] = (
    status,
    flows,
    programs,
    kinds,
    why,
    rules,
    networks,
    prices,
    budget,
    paths,
    accounts,
    notices,
    preview,
)
