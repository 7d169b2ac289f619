"""`hostagent up`: starts the agent on this machine, and shows what it does.

Decides: what is shown, whether an agent is started or only joined, and in which mode. Refuses to know: how the agent
works (`hostagent.daemon`), how it is kept as a child (`cli.agent_process`), what lines say (`cli.live`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.agent import (
    CONFIGURATION_PATH,
    SOCKET_VARIABLE,
    answers_expected,
    ask,
    own_run_directory,
    own_state_directory,
)
from cli.arguments import SPAN
from cli.command import json_option, leave, one_line_errors
from cli.deciding import TRIAL_S
from cli.exit_codes import ExitCode
from hostagent import api

if TYPE_CHECKING:
    from cli.agent_process import AgentProcess
    from hostagent.client import LocalClient

LIVE_S = 1.0
PLAIN_COLUMNS = 120
END_S = 5.0  # of an agent whose socket is closed, until it has put everything back
RESTORED = "everything is as it was before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the agent to be started reads, listens and keeps."""

    config: Path | None
    socket: Path
    state_directory: Path
    arguments: tuple[str, ...]  # what of it the agent has to be told


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"The TOML file.  [default: {CONFIGURATION_PATH} if it is there, else everything is found out]",
)
@click.option("--observe", "mode", flag_value="observe", help="Only counts, and says what it would do.")
@click.option("--act", "mode", flag_value="act", help="Shapes, on trial until `hostagent confirm` the first time.")
@click.option(
    "--confirm",
    "trial_s",
    type=SPAN,
    metavar="SPAN",
    help=f"With --act: how long the trial is, 0s for none.  [default: {TRIAL_S}s until one was confirmed]",
)
@click.option(
    "--show",
    type=click.Choice(["auto", "tui", "plain", "none"]),
    default="auto",
    show_default=True,
    help="The terminal UI, plain lines, or nothing. auto: tui on a terminal, else plain; none where --config is given.",
)
@click.option("--service", is_flag=True, help="As a service: in the foreground, shows nothing, logs to standard error.")
@click.option("--for", "seconds", type=SPAN, metavar="SPAN", help="Ends after so long, with a summary: 30s, 10m, 1h.")
@click.option(
    "--socket", envvar=SOCKET_VARIABLE, show_envvar=True, type=click.Path(path_type=Path), help="Where it listens."
)
@click.option(
    "--state-directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where it keeps its key, its history and what it changed.",
)
@json_option
@one_line_errors
def up(
    config: Path | None,
    mode: str | None,
    trial_s: int | None,
    show: str,
    service: bool,
    seconds: int | None,
    socket: Path | None,
    state_directory: Path | None,
    as_json: bool,
) -> None:
    """Starts the agent on this machine, and shows what it does until you quit.

    Without --observe or --act it goes on as it was told last; at first it observes, where no file says else. What it
    changes in the kernel is put back when it ends. If an agent runs already, this joins it and leaves it running.
    """
    if trial_s is not None and mode != "act":
        raise click.UsageError("--confirm needs --act")
    if as_json and show == "auto":
        show = "plain"
    if as_json and show != "plain":
        raise click.UsageError("--json needs --show plain")
    places = _places(config, socket, state_directory)
    match "none" if service else _what_to_show(show, is_file_named=config is not None):
        case "none":
            _serve(places, mode=mode, trial_s=trial_s, seconds=seconds)
        case "tui":
            _with_agent(places, mode, trial_s, _Tui(seconds))
        case _:
            _with_agent(places, mode, trial_s, _Plain(seconds, as_json=as_json))


def _what_to_show(show: str, *, is_file_named: bool) -> str:
    if show != "auto":
        return show
    if sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return "tui"
    return "none" if is_file_named else "plain"


def _places(config: Path | None, socket: Path | None, state_directory: Path | None) -> Places:
    """Raises ConfigurationError. What the command line says goes before what the file says."""
    arguments: list[str] = []
    if config is None and CONFIGURATION_PATH.exists():
        config = CONFIGURATION_PATH
    own_state, own_socket = own_state_directory(), own_run_directory() / api.SOCKET_NAME
    if config is not None:
        from hostagent.configuration import load

        read = load(config)
        own_state, own_socket = read.state_directory, read.socket
        arguments += ["--config", str(config.absolute())]
    if socket is not None:
        arguments += ["--socket", str(socket.absolute())]
    if state_directory is not None:
        arguments += ["--state-directory", str(state_directory.absolute())]
    return Places(
        config=config,
        socket=socket or own_socket,
        state_directory=state_directory or own_state,
        arguments=tuple(arguments),
    )


# -- in this process -------------------------------------------------------------------------------------------------


def _serve(places: Places, *, mode: str | None, trial_s: int | None, seconds: int | None) -> None:
    from hostagent.daemon import run

    asyncio.run(
        run(
            places.config,
            socket=places.socket,
            state_directory=places.state_directory,
            mode=None if mode is None else api.Mode(mode),
            trial_s=trial_s or 0,  # nobody looks on who could confirm, unless it was asked for
            seconds=seconds,
        )
    )


# -- beside it -------------------------------------------------------------------------------------------------------


class _Tui:
    """The terminal UI."""

    def __init__(self, seconds: int | None) -> None:
        self._seconds = seconds

    def __call__(self, socket: Path) -> None:
        from cli.personal import SocketSecretary
        from tui.app import run_tui

        signal.alarm(self._seconds or 0)
        try:
            with contextlib.suppress(KeyboardInterrupt):  # signals end it as its own key does
                run_tui(socket, personal=SocketSecretary)
        finally:
            signal.alarm(0)


class _Plain:
    """A few lines a second, and a summary; or a snapshot a line, for programs."""

    def __init__(self, seconds: int | None, *, as_json: bool) -> None:
        self._seconds = seconds
        self._as_json = as_json

    def __call__(self, socket: Path) -> None:
        import msgspec

        from cli.live import live_lines, summary_lines
        from cli.watching import watch

        width = shutil.get_terminal_size((PLAIN_COLUMNS, 0)).columns

        def show(snapshot: api.Snapshot) -> None:
            if self._as_json:
                click.echo(msgspec.json.encode(snapshot))
            else:
                click.echo("\n".join(live_lines(snapshot, width)))

        first, last = asyncio.run(watch(socket, show, every_s=LIVE_S, seconds=self._seconds))
        if not self._as_json:
            click.echo("\n".join(summary_lines(first, last, width)))


def _with_agent(places: Places, mode: str | None, trial_s: int | None, look: _Tui | _Plain) -> None:
    """Joins the agent that is there, or starts one and ends it again."""
    from cli.agent_process import AgentEnded, AgentProcess, running_agent

    with answers_expected(), _all_signals_interrupt():
        if running_agent(places.socket) is not None:
            _say(f"an agent runs already on {places.socket}: this only watches it, and leaves it as it is")
            look(places.socket)
            return
        arguments = [*places.arguments, *(["--observe"] if mode == "observe" else [])]
        agent = AgentProcess(arguments, socket=places.socket, state_directory=places.state_directory)
        try:
            with agent:
                if mode == "act":
                    ask(places.socket, lambda client: _begin(client, trial_s))
                _look(agent, look, places.socket)
        except AgentEnded as error:
            if error.code is ExitCode.OK:
                _say(f"somebody ended the agent: {RESTORED}")
                return
            if error.is_bug:
                click.echo("\n".join(error.lines), err=True)
            leave(f"the agent: {error}", error.code)
        _say(f"the agent has ended: {RESTORED}")


async def _begin(client: LocalClient, trial_s: int | None) -> None:
    """`--act`: at once where a trial was confirmed before, else on trial."""
    if trial_s is None and (await client.status()).mode is api.Mode.ACT:
        return
    seconds = TRIAL_S if trial_s is None else trial_s
    await client.set_mode(api.ModeChange(mode=api.Mode.ACT, trial_s=seconds))
    if seconds:
        _say(f"it acts on trial: it observes again in {seconds} s unless you say `hostagent confirm`")


@contextlib.contextmanager
def _all_signals_interrupt() -> Iterator[None]:
    """Signals, and --for, end things as Ctrl-C does, so that the agent that we started is ended in good order."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = [signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _look(agent: AgentProcess, look: _Tui | _Plain, socket: Path) -> None:
    from hostagent.client import Unreachable

    try:
        look(socket)
    except Unreachable:
        agent.raise_if_ended(within_s=END_S)  # which says more than that nobody answers
        raise


def _say(line: str) -> None:
    click.echo(f"hostagent: {line}", err=True)
