"""Verbs of flows that follow the price of congestion: those that there are, a new one, and an end.

Decides: how a flow is named, and which options make sense together. Refuses to know: what a policy says (`cli.tasks`)
and whether the agent can do it (it says so).
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import click

from cli.agent import answers_expected, ask, socket_option
from cli.arguments import Understood
from cli.command import json_option, leave, one_line_errors
from cli.deciding import done
from cli.exit_codes import ExitCode
from cli.show.text import harmless, write_json
from cli.tasks import good_tasks, one_task, task
from cli.words import NotUnderstood
from hostagent import api

WATCH_S: Final = 1
COLUMNS, LINES = 120, 24  # where there is no terminal
PORT_MAX: Final = 65_535
ID_LEAST: Final = 4
PPM: Final = 1_000_000
LEAST_FACTOR, MOST_FACTOR = 0.01, 100.0
_END: Final = re.compile(r"^(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})$")


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end of a flow."""

    address: str
    port: int


def parse_end(text: str) -> End:
    """`192.0.2.7:5004` or `[2001:db8::7]:5004`. Raises NotUnderstood."""
    match = _END.match(text.strip())
    if match is None or not 1 <= int(match["port"]) <= PORT_MAX:
        raise NotUnderstood(f"{text!r} is no end of a flow: write 192.0.2.7:5004 or [2001:db8::7]:5004")
    try:
        address = ip_address(match["v6"] or match["v4"])
    except ValueError as error:
        raise NotUnderstood(str(error)) from error
    if (address.version == 6) != (match["v6"] is not None):
        raise NotUnderstood(f"{text!r}: only IPv6 addresses stand in brackets")
    return End(address=str(address), port=int(match["port"]))


def parse_factor(text: str) -> float:
    """From 0.01 to 100. Raises NotUnderstood."""
    try:
        factor = float(text)
    except ValueError as error:
        raise NotUnderstood(f"{text!r} is no number") from error
    if not LEAST_FACTOR <= factor <= MOST_FACTOR:  # which no NaN is
        raise NotUnderstood(f"{text} is not from {LEAST_FACTOR:g} to {MOST_FACTOR:g}")
    return factor


END = Understood("address:port", parse_end)
FACTOR = Understood("factor", parse_factor)


@click.command()
@click.option("--watch", "watches", is_flag=True, help="Anew each second until Ctrl-C.")
@socket_option
@json_option
@one_line_errors
def sessions(watches: bool, socket: Path, as_json: bool) -> None:
    """Flows that follow the price of congestion: rate, target, price, marks, what was spent, and why.

    "estimate" means that nobody bills this: the far end has no agent that counts marks, so this one guesses. A "~"
    stands before what is spent by such a guess.
    """
    if watches:
        _watch(socket, as_json=as_json)
        return
    told = ask(socket, lambda client: client.sessions())
    if as_json:
        write_json(told)
        return
    from cli.show.sessions import show_sessions

    show_sessions(told)


def _watch(socket: Path, *, as_json: bool) -> None:
    import msgspec

    from cli.live import header
    from cli.show.sessions import session_lines
    from cli.watching import Screen, watch

    screen = Screen() if sys.stdout.isatty() and not as_json else None

    def show(snapshot: api.Snapshot) -> None:
        if as_json:
            click.echo(msgspec.json.encode(snapshot.sessions))
            return
        width, height = shutil.get_terminal_size((COLUMNS, LINES))  # anew each time: people change it
        lines = [header(snapshot)[:width], "", *session_lines(snapshot.sessions, width)]
        if screen is not None:
            screen.show(lines[: max(1, height - 1)])
        else:
            click.echo("\n".join([*lines, ""]))

    with answers_expected():
        asyncio.run(watch(socket, show, every_s=WATCH_S))


@click.group()
def session() -> None:
    """Has one flow follow the price of congestion, as you like while it does, or no more."""


@session.command("open")
@click.argument("protocol", type=click.Choice(["tcp", "udp"]))
@click.argument("local", type=END)
@click.argument("remote", type=END)
@click.option(
    "--task", "task_name", default="", metavar="NAME", help="A task of the agent's configuration, or of FILE."
)
@click.option(
    "--policy", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="A file with [[tasks]]."
)
@click.option(
    "--sdp",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A session description with a policy in it.",
)
@click.option("--receives", is_flag=True, help="The flow arrives here, and we pay for it.")
@click.option("--far-end-pays", is_flag=True, help="The flow leaves here at the rate that its receiver pays for.")
@click.option("--adapts", is_flag=True, help="Its program keeps to the rate itself: nothing is paced.")
@socket_option
@json_option
@one_line_errors
def open_session(
    protocol: str,
    local: End,
    remote: End,
    task_name: str,
    policy: Path | None,
    sdp: Path | None,
    receives: bool,
    far_end_pays: bool,
    adapts: bool,
    socket: Path,
    as_json: bool,
) -> None:
    """Has the flow between LOCAL and REMOTE follow the price of congestion, by the policy of a task.

    LOCAL and REMOTE are 192.0.2.7:5004 or [2001:db8::7]:5004. The policy never leaves this host.
    """
    file = policy or sdp
    _check_together(task_name, policy, sdp, receives=receives, far_end_pays=far_end_pays)
    request = api.SessionRequest(
        protocol=protocol,
        local=local.address,
        local_port=local.port,
        remote=remote.address,
        remote_port=remote.port,
        sends=not receives,
        pays=not far_end_pays,
        adapts=adapts,
        task="" if file is not None else task_name,
        policy=one_task(file, good_tasks(file), task_name) if file is not None else None,
    )
    opened = ask(socket, lambda client: client.open_session(request))
    if as_json:
        write_json(opened)
        return
    from cli.show.sessions import show_session

    show_session(opened)


def _check_together(
    task_name: str, policy: Path | None, sdp: Path | None, *, receives: bool, far_end_pays: bool
) -> None:
    if policy is not None and sdp is not None:
        raise click.UsageError("say one of --policy and --sdp")
    if far_end_pays and receives:
        raise click.UsageError("what arrives and its sender pays for needs no session: leave one of the two out")
    if far_end_pays and (task_name or policy or sdp):
        raise click.UsageError("with --far-end-pays its receiver's policy holds: leave yours out")
    if not far_end_pays and not (task_name or policy or sdp):
        raise click.UsageError("say by which policy: --task NAME, --policy FILE or --sdp FILE")


@session.command("worth")
@click.argument("session_name", metavar="SESSION")
@click.argument("factor", type=FACTOR)
@socket_option
@json_option
@one_line_errors
def session_worth(session_name: str, factor: float, socket: Path, as_json: bool) -> None:
    """SESSION is worth FACTOR times what its policy says, from now on; its budgets and other limits stay.

    FACTOR is from 0.01 to 100; 1 is as the policy says. SESSION is as `session end` understands it.
    """
    found = find_session(ask(socket, lambda client: client.sessions()), session_name.strip())
    change = api.SessionWorth(session=found.session, worth_ppm=round(factor * PPM))
    ask(socket, lambda client: client.set_session_worth(change))
    said = f"worth {factor:g} times what its policy says: {found.flow}, task {found.task or 'none'}"
    done("session worth", said, found.session, as_json=as_json)


@session.command("end")
@click.argument("session_name", metavar="SESSION")
@socket_option
@json_option
@one_line_errors
def end_session(session_name: str, socket: Path, as_json: bool) -> None:
    """Ends SESSION: its flow goes on as without us.

    SESSION is its number as `hostagent sessions --json` has it, or the begin of that, or a part of its flow or program
    that only one has. A flow that [[sessions]] of the configuration names gets a new one while it goes on.
    """
    found = find_session(ask(socket, lambda client: client.sessions()), session_name.strip())
    ask(socket, lambda client: client.end_session(found.session))
    done("session end", f"ended: {found.flow}, task {found.task or 'none'}", found.session, as_json=as_json)


def find_session(there: Sequence[api.Session], wanted: str) -> api.Session:
    """Leaves with one line where none or several are meant."""
    fitting = [each for each in there if len(wanted) >= ID_LEAST and each.session.startswith(wanted.lower())]
    fitting = fitting or [each for each in there if wanted and (wanted in each.flow or wanted in each.program)]
    if len(fitting) != 1:
        cause = f"{len(fitting)} sessions are" if fitting else "no session is"
        leave(f"{cause} called {harmless(wanted)!r}: `hostagent sessions` lists them", ExitCode.REFUSED)
    return fitting[0]


session_verbs: tuple[click.Command, ...] = (sessions, session, task)
