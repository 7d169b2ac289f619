"""`hostagent lab …`: networks in namespaces on this machine, with the real daemons and real traffic."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cli.command import json_option, leave, one_line_errors
from cli.exit_codes import ExitCode


@click.group()
def lab() -> None:
    """Whole networks on this machine: real daemons, real packets, nothing left behind."""


@lab.command("list")
@json_option
@one_line_errors
def list_scenarios(as_json: bool) -> None:
    """The scenarios that come with it."""
    from cli.results import ScenarioName
    from cli.show.text import Grid, write, write_json
    from lab.scenarios import list_scenarios as scenarios

    found = scenarios()
    if as_json:
        write_json([ScenarioName(name=item.name, title=item.title) for item in found])
        return
    grid = Grid("scenario", "|what it shows")
    for item in found:
        grid.add(item.name, item.title)
    write(grid)


@lab.command("run")
@click.argument("scenario")
@json_option
@click.option("--ipv6", is_flag=True, help="Over IPv6 instead of IPv4.")
@click.option("--plain", is_flag=True, help="Plain progress lines instead of the terminal UI.")
@click.option("--seconds", type=click.IntRange(5, 3600), help="How long the traffic runs.")
@click.option(
    "--pcap",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write each link's packets into this folder.",
)
@one_line_errors
def run(scenario: str, as_json: bool, ipv6: bool, plain: bool, seconds: int | None, pcap: Path | None) -> None:
    """Runs SCENARIO (a name from `lab list`, or a TOML file) and reports who paid whom, and what it bought."""
    from lab.run import run_scenario

    terminal = sys.stdout.isatty() and sys.stdin.isatty() and not as_json and not plain
    report = run_scenario(scenario, ipv6=ipv6, seconds=seconds, pcap=pcap, tui=terminal, progress=_progress)
    if as_json:
        click.echo(report.to_json())
    else:
        report.print()
    if not report.holds:
        leave(f"{scenario}: {report.shortfall}", ExitCode.FAILED)


def _progress(line: str) -> None:
    click.echo(line, err=True)
