"""`hostagent run`: a command whose traffic has a name of its own."""

from __future__ import annotations

import click

from cli.command import one_line_errors


@click.command("run", context_settings={"ignore_unknown_options": True})
@click.option("--task", required=True, metavar="NAME", help="What rules and meters call it: 1 to 32 of a-z, 0-9, -.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@one_line_errors
def run_task(task: str, command: tuple[str, ...]) -> None:
    """Runs COMMAND, and all that it starts, as one task: counted together, and shaped by rules that name the task.

    Put -- before a command that has options: hostagent run --task backup -- rsync -a here: there:
    """
    from dataplane.attribution.tasks import launch

    launch(task, command)
