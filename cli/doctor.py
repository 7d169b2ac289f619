"""`hostagent doctor`: what this machine can do for the agent, who else is at work on it, and what to do about either.

Decides: the exit code. Refuses to know: how anything is found out, and how it is shown.
"""

from __future__ import annotations

from pathlib import Path

import click

from cli.command import STATE_DIRECTORY, json_option, leave, one_line_errors
from cli.exit_codes import ExitCode

GATEWAY_STATE_DIRECTORY = Path("/var/lib/hostagent-gateway")


@click.command()
@click.option(
    "--state-directory",
    default=STATE_DIRECTORY,
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False, readable=False),  # it is 0700, and anybody may ask
    help="Where the agent keeps its record of what it changed.",
)
@json_option
@one_line_errors
def doctor(state_directory: Path, as_json: bool) -> None:
    """Checks what works on this machine, and what else is at work there.

    Tries what the kernel has in a network namespace of its own and leaves nothing behind. Without root it says what
    privileges would add. Ends with 4 when no engine of the data plane works here.
    """
    import msgspec
    from rich.console import Console

    from cli.doctor_report import report_of, show
    from dataplane.diagnosis.conflicts import find_conflicts
    from dataplane.diagnosis.engine_choice import choose
    from dataplane.diagnosis.features import probe

    features = probe()
    conflicts = find_conflicts(dict.fromkeys((state_directory, GATEWAY_STATE_DIRECTORY)))
    report = report_of(choose(features), features, conflicts)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        show(report, Console(markup=False, highlight=False))
    if report.engine is None:
        leave("no engine of the data plane works on this machine", ExitCode.ENVIRONMENT)
