"""What every verb shares: the group they hang on, and how trouble becomes one line and an exit code."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

import click

from billpay.errors import BillpayError, ConfigurationError, EnvironmentFault, RemoteProtocolError
from cli.exit_codes import ExitCode

P = ParamSpec("P")
R = TypeVar("R")

RUN_DIRECTORY = Path("/run/hostagent")
STATE_DIRECTORY = Path("/var/lib/hostagent")


def leave(message: str, code: ExitCode) -> NoReturn:
    """Says the one line that a person sees, and ends with `code`."""
    click.echo(f"hostagent: {message}", err=True)
    raise click.exceptions.Exit(int(code))


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turns the project's kinds of trouble into one line and an exit code; our own bugs keep their traceback."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except BillpayError as error:
            leave_for(error)
        except KeyboardInterrupt:
            leave("interrupted", ExitCode.INTERRUPTED)
        except BaseExceptionGroup as group:
            leave_for(_only_ours(group))

    return guarded


def leave_for(error: BillpayError) -> NoReturn:
    match error:
        case ConfigurationError():
            leave(str(error), ExitCode.CONFIGURATION)
        case EnvironmentFault():
            leave(str(error), ExitCode.ENVIRONMENT)
        case RemoteProtocolError():
            leave(f"the other side is at fault: {error}", ExitCode.PEER)
        case _:
            leave(str(error), ExitCode.FAILED)


def _only_ours(group: BaseExceptionGroup[BaseException]) -> BillpayError:
    """The first error of a task group, if all of them are ours; a bug among them is raised as it is."""
    ours, other = group.split(BillpayError)
    if ours is None or other is not None:
        raise group
    leaf: BaseException = ours
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    assert isinstance(leaf, BillpayError)
    return leaf


json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on standard output, for programs."
)
