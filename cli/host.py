"""Verbs for the person at this host: run the agent, look at it, clean up after it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from cli.command import RUN_DIRECTORY, STATE_DIRECTORY, json_option, leave, one_line_errors
from cli.doctor import doctor
from cli.exit_codes import ExitCode
from cli.services import config_option
from cli.task_launcher import run_task
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
def programs(socket: Path, as_json: bool) -> None:
    """Every program's traffic over the configured links, and what nobody could be named for."""
    from cli.show import show_programs

    show_programs(_snapshot(socket), as_json=as_json)


@click.command()
@socket_option
@json_option
@one_line_errors
def inbox(socket: Path, as_json: bool) -> None:
    """Flows whose first packet waits for your answer (a rule's class says `ask_first`)."""
    from cli.show import show_questions

    show_questions(_snapshot(socket).questions, as_json=as_json)


@click.command()
@click.argument("number", type=int)
@click.argument("word", type=click.Choice(["yes", "no"]))
@socket_option
@one_line_errors
def answer(number: int, word: str, socket: Path) -> None:
    """Answers a question of `hostagent inbox`: lets the flow go on, or stops it."""
    from hostagent.client import LocalClient, Unreachable

    async def send() -> None:
        async with LocalClient(socket) as client:
            await client.answers(number, allow=word == "yes")

    try:
        asyncio.run(send())
    except Unreachable as error:
        leave(str(error), ExitCode.UNREACHABLE)


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
    from dataplane.clean_up import clean_up

    done = clean_up(state_directory)
    for line in done:
        click.echo(line)
    if not done:
        click.echo(f"nothing to restore: there is no record in {state_directory}")


def _snapshot(socket: Path) -> Snapshot:
    from hostagent.client import LocalClient, Unreachable

    async def ask() -> Snapshot:
        async with LocalClient(socket) as client:
            return await client.snapshot()

    try:
        return asyncio.run(ask())
    except Unreachable as error:
        leave(str(error), ExitCode.UNREACHABLE)


host_verbs: tuple[click.Command, ...] = (
    up,
    status,
    flows,
    programs,
    inbox,
    answer,
    accounts,
    tui,
    restore,
    doctor,
    run_task,
)
