"""`hostagent bugreport`: one file for whoever is to find out what is wrong.

Decides: whose agent it is about. Refuses to know: what is in the file, and what is left out (`hostagent.bugreport`).
"""

from __future__ import annotations

from pathlib import Path

import click

from billpay.errors import ConfigurationError
from cli.agent import CONFIGURATION_PATH, own_state_directory, socket_option
from cli.command import json_option, one_line_errors


@click.command()
@click.option("--full", is_flag=True, help="With addresses and names, which pseudonyms stand for else.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file.  [default: hostagent-report-DATE.tar.gz in this folder]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"The agent's TOML file.  [default: {CONFIGURATION_PATH} if it is there]",
)
@click.option(
    "--state-directory",
    type=click.Path(path_type=Path, file_okay=False, readable=False),
    help="The agent's.  [default: what its file says, else your own agent's]",
)
@socket_option
@json_option
@one_line_errors
def bugreport(
    full: bool, output: Path | None, config: Path | None, state_directory: Path | None, socket: Path, as_json: bool
) -> None:
    """Writes what somebody needs to find a bug: versions, features, states, the last lines of the log.

    It works when the agent does not. Nothing is sent anywhere: look into it before you give it away.
    """
    from hostagent.bugreport import collect

    if config is None and CONFIGURATION_PATH.exists():
        config = CONFIGURATION_PATH
    path = collect(state_directory or _state_directory(config), socket, config, full=full, output=output)
    if as_json:
        from cli.results import Written
        from cli.show.text import write_json

        write_json(Written(files=(str(path),)))
    else:
        click.echo(f"wrote {path}: it was sent nowhere")


def _state_directory(config: Path | None) -> Path:
    """What a wrong file says is of no use here: the report is about it, too."""
    if config is not None:
        from hostagent.configuration import load

        try:
            return load(config).state_directory
        except ConfigurationError:
            pass
    return own_state_directory()
