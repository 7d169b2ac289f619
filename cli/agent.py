"""How the verbs reach the agent: which socket, and what its silence or refusal ends with.

Decides: the default socket, and the exit code for each way of not getting an answer. Refuses to know what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from cli.command import RUN_DIRECTORY, STATE_DIRECTORY, leave
from cli.exit_codes import ExitCode
from hostagent.api import SOCKET_NAME

if TYPE_CHECKING:
    from hostagent.client import LocalClient

T = TypeVar("T")

SOCKET_VARIABLE = "HOSTAGENT_SOCKET"
CONFIGURATION_PATH = Path("/etc/hostagent/hostagent.toml")


def own_run_directory() -> Path:
    """Where an agent that this user starts puts its socket."""
    if os.geteuid() == 0:
        return RUN_DIRECTORY
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(base) / "hostagent" if base.startswith("/") else own_state_directory()


def own_state_directory() -> Path:
    """Where an agent that this user starts keeps what it has to keep."""
    if os.geteuid() == 0:
        return STATE_DIRECTORY
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "hostagent"


def default_socket() -> Path:
    """The system's agent if there is one, else this user's."""
    system = RUN_DIRECTORY / SOCKET_NAME
    return system if system.exists() else own_run_directory() / SOCKET_NAME


def _resolve(_context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path:
    return value if value is not None else default_socket()


socket_option = click.option(
    "--socket",
    envvar=SOCKET_VARIABLE,
    show_envvar=True,
    type=click.Path(path_type=Path),
    callback=_resolve,
    help=f"The agent's local socket.  [default: {RUN_DIRECTORY / SOCKET_NAME} if it is there, else your own agent's]",
)


@contextlib.contextmanager
def answers_expected() -> Iterator[None]:
    """No agent, and an agent that does not want to, are one line and an exit code."""
    from hostagent.client import NotAllowed, Unreachable
    from hostagent.desk import Refused

    try:
        yield
    except Unreachable as error:
        leave(str(error), ExitCode.UNREACHABLE)
    except (Refused, NotAllowed) as error:
        leave(str(error), ExitCode.REFUSED)


def ask(socket: Path, question: Callable[[LocalClient], Awaitable[T]]) -> T:
    """The answer; without one, one line and the exit code."""
    from hostagent.client import LocalClient

    async def talk() -> T:
        async with LocalClient(socket) as client:
            return await question(client)

    with answers_expected():
        return asyncio.run(talk())
