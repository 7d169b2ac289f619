"""Verbs for an agent that runs: look on, end it, read the configuration again.

Decides: how often a screen is due, and when the agent counts as ended. Refuses to know: what lines say (`cli.live`).
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import sys
from pathlib import Path

import click

from billpay.errors import EnvironmentFault
from cli.agent import answers_expected, ask, socket_option
from cli.arguments import SPAN
from cli.command import json_option, one_line_errors
from cli.deciding import done
from cli.live import BY, SORTS
from hostagent import api

POLL_S = 0.05
DOWN_S = 20.0
COLUMNS = 120  # of a line where there is no terminal
LINES = 24
TOP_ROWS = 20
HEAD_LINES = 5  # of `top`, with the table's titles
WEB_PORT = 7480


@click.command()
@click.option("--by", type=click.Choice(BY), default="program", show_default=True, help="What a line is about.")
@click.option("--sort", type=click.Choice(SORTS), default="rate", show_default=True, help="What comes first.")
@click.option(
    "--rows", type=click.IntRange(1, 10_000), help=f"At most so many.  [default: the screen's, else {TOP_ROWS}]"
)
@click.option("--every", "every_s", type=SPAN, metavar="SPAN", default="1s", show_default=True, help="How often.")
@click.option("--for", "seconds", type=SPAN, metavar="SPAN", help="Ends after so long.")
@click.option("--once", is_flag=True, help="One look, then the end.")
@socket_option
@json_option
@one_line_errors
def top(
    by: str, sort: str, rows: int | None, every_s: int, seconds: int | None, once: bool, socket: Path, as_json: bool
) -> None:
    """The busiest programs, flows or kinds, refreshed until Ctrl-C; plain text, also over SSH.

    Into a pipe, block after block; with --json a snapshot a line.
    """
    import msgspec

    from cli.live import top_lines
    from cli.watching import Screen, watch

    screen = Screen() if sys.stdout.isatty() and not once and not as_json else None

    def show(snapshot: api.Snapshot) -> None:
        if as_json:
            click.echo(msgspec.json.encode(snapshot))
            return
        width, height = shutil.get_terminal_size((COLUMNS, LINES))  # anew each time: people change it
        count = rows or (max(1, height - HEAD_LINES) if screen is not None else TOP_ROWS)
        lines = top_lines(snapshot, by=by, sort=sort, width=width, rows=count)
        if screen is not None:
            screen.show(lines[: max(1, height - 1)])
        else:
            click.echo("\n".join(lines if once else [*lines, ""]))

    if once:
        show(ask(socket, lambda client: client.snapshot()))
        return
    with answers_expected():
        asyncio.run(watch(socket, show, every_s=max(1, every_s), seconds=seconds))


# -- what it is told -------------------------------------------------------------------------------------------------


@click.command()
@socket_option
@json_option
@one_line_errors
def down(socket: Path, as_json: bool) -> None:
    """Ends the agent in good order: grants are closed, and the kernel is put back. Returns when that is done."""
    with answers_expected():
        process = process_behind(socket)
        ask(socket, lambda client: client.stop())
        asyncio.run(_until_gone(socket, process))
    done("down", "the agent has ended", str(socket), as_json=as_json)


def process_behind(socket: Path) -> int | None:
    """A descriptor of the process that listens there; None where it cannot be seen (another PID namespace)."""
    import socket as sockets

    from dataplane.peers import peer_of

    try:
        with sockets.socket(sockets.AF_UNIX) as connection:
            connection.connect(str(socket))
            return os.pidfd_open(peer_of(connection).process_id)
    except OSError:  # what is wrong with the socket is said by the next who asks
        return None


async def _until_gone(socket: Path, process: int | None) -> None:
    """The kernel is put back after the socket is closed: the process has ended when all is done."""
    deadline_s = asyncio.get_running_loop().time() + DOWN_S
    while await _answers(socket) if process is None else not select.select([process], [], [], 0)[0]:
        if asyncio.get_running_loop().time() > deadline_s:
            raise EnvironmentFault("end", "the agent", f"it still runs after {DOWN_S:.0f} s", "look into its log")
        await asyncio.sleep(POLL_S)


async def _answers(socket: Path) -> bool:
    from hostagent.client import LocalClient, Unreachable

    try:
        async with LocalClient(socket) as client:
            await client.status()
    except Unreachable:
        return False
    return True


@click.command()
@socket_option
@json_option
@one_line_errors
def reload(socket: Path, as_json: bool) -> None:
    """Makes the agent read its configuration again; a wrong one changes nothing, and says what is wrong."""
    ask(socket, lambda client: client.reload())
    done("reload", "the configuration was read again", str(socket), as_json=as_json)


@click.command()
@click.option("--web", is_flag=True, help="In a browser on this machine instead: prints its address.")
@click.option("--port", type=click.IntRange(0, 65535), default=WEB_PORT, show_default=True, help="Of --web; 0: any.")
@socket_option
@one_line_errors
def tui(web: bool, port: int, socket: Path) -> None:
    """The terminal UI of an agent that runs; `?` inside lists its keys.

    --web needs textual-serve (pip install textual-serve), and runs until Ctrl-C.
    """
    if web:
        from tui.web import serve

        # each screen is this command again: it brings the way to the secretary
        serve(socket, port, command=[sys.executable, "-m", "cli.main", "tui", "--socket", str(socket.absolute())])
        return
    from cli.personal import SocketSecretary
    from tui.app import run_tui

    run_tui(socket, personal=SocketSecretary)


running_verbs: tuple[click.Command, ...] = (down, reload, top, tui)
