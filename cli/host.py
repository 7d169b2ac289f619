"""Verbs for the person at this host: run the agent, look at it, clean up after it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from cli.command import RUN_DIRECTORY, STATE_DIRECTORY, json_option, leave, one_line_errors
from cli.exit_codes import ExitCode
from cli.services import config_option
from hostagent.api import SOCKET_NAME, Snapshot

socket_option = click.option(
    "--socket",
    default=RUN_DIRECTORY / SOCKET_NAME,
    show_default=True,
    type=click.Path(path_type=Path),
    help="The agent's local socket.",
)


@click.command()
@config_option
@one_line_errors
def up(config: Path) -> None:
    """Runs the agent in the foreground until it is told to stop."""
    from hostagent.daemon import run

    asyncio.run(run(config))


@click.command()
@socket_option
@json_option
@one_line_errors
def status(socket: Path, as_json: bool) -> None:
    """Health, engine, secretary, and what was spent today."""
    from cli.show import show_status

    show_status(_snapshot(socket).status, as_json=as_json)


@click.command()
@socket_option
@json_option
@one_line_errors
def flows(socket: Path, as_json: bool) -> None:
    """Every flow with its price, payment, path and the reason."""
    from cli.show import show_flows

    show_flows(_snapshot(socket).flows, as_json=as_json)


@click.command()
@socket_option
@json_option
@one_line_errors
def accounts(socket: Path, as_json: bool) -> None:
    """What we and our neighbours owe each other, by our books and by theirs."""
    from cli.show import show_accounts

    show_accounts(_snapshot(socket).accounts, as_json=as_json)


@click.command()
@socket_option
@one_line_errors
def tui(socket: Path) -> None:
    """The terminal UI."""
    from tui.app import run_tui

    run_tui(socket)


@click.command()
@click.option(
    "--state-directory",
    default=STATE_DIRECTORY,
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the agent or gateway keeps its record of what it changed.",
)
@one_line_errors
def restore(state_directory: Path) -> None:
    """Puts the kernel back to what was there before, after an agent or gateway was killed."""
    from dataplane.record import RECORD_NAME
    from dataplane.rules import restore as restore_record

    record = state_directory / RECORD_NAME
    if not record.exists():
        click.echo(f"nothing to restore: {record} does not exist")
        return
    restore_record(record)
    click.echo(f"restored what {record} says was there before")


def _snapshot(socket: Path) -> Snapshot:
    from hostagent.client import LocalClient, Unreachable

    async def ask() -> Snapshot:
        async with LocalClient(socket) as client:
            return await client.snapshot()

    try:
        return asyncio.run(ask())
    except Unreachable as error:
        leave(str(error), ExitCode.UNREACHABLE)


host_verbs: tuple[click.Command, ...] = (up, status, flows, accounts, tui, restore)
