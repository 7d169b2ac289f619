"""All verbs for the person at this host, by subject; and the one that cleans up after a kill.

Decides: their order in the help. Refuses to know: what each does.
"""

from __future__ import annotations

from pathlib import Path

import click

from cli.access import access_verbs
from cli.agent import own_state_directory
from cli.command import json_option, one_line_errors
from cli.deciding import deciding_verbs
from cli.doctor import doctor
from cli.introspection import introspection_verbs
from cli.looking import looking_verbs
from cli.probe import probe
from cli.records import record_verbs
from cli.report import bugreport
from cli.running import running_verbs
from cli.sessions import session_verbs
from cli.task_launcher import run_task
from cli.up import up


def _own(_context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path:
    return value if value is not None else own_state_directory()


@click.command()
@click.option(
    "--state-directory",
    callback=_own,
    type=click.Path(path_type=Path, file_okay=False, readable=False),
    help="Where the agent or gateway keeps its record of what it changed.  [default: your agent's]",
)
@json_option
@one_line_errors
def restore(state_directory: Path, as_json: bool) -> None:
    """Puts the kernel back to what was there before, after an agent or gateway was killed."""
    from dataplane.clean_up import clean_up

    done = clean_up(state_directory)
    if as_json:
        from cli.results import Restored
        from cli.show.text import write_json

        write_json(Restored(state_directory=str(state_directory), restored=tuple(done)))
        return
    for line in done:
        click.echo(line)
    if not done:
        click.echo(f"nothing to restore: there is no record in {state_directory}")


host_sections: tuple[tuple[str, tuple[click.Command, ...]], ...] = (
    ("Run it", (up, *running_verbs)),
    ("Look at it", looking_verbs),
    ("The network around it", (probe, *access_verbs)),
    ("Tell it what you want", (*deciding_verbs, run_task)),
    ("Follow the price of congestion", session_verbs),
    ("What was", record_verbs),
    ("This machine", (doctor, restore, bugreport)),
    ("This command", introspection_verbs),
)
