"""`hostagent lab …`: networks in namespaces on this machine, with the real daemons and real traffic."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from cli import lab_dph
from cli.command import json_option, leave, one_line_errors
from cli.exit_codes import ExitCode
from dataplane.payment_engines import WantedPaymentEngine


@click.group()
def lab() -> None:
    """Whole networks on this machine: real daemons, real packets, nothing left behind."""


@lab.command("list")
@json_option
@one_line_errors
def list_scenarios(as_json: bool) -> None:
    """The scenarios that come with it (`lab run`), and the studies (`lab study`)."""
    from cli.results import SCENARIO, STUDY, ScenarioName
    from cli.show.text import Grid, write, write_json
    from lab.scenarios import list_scenarios as scenarios
    from lab.studies import studies

    found = [ScenarioName(name=item.name, title=item.title) for item in scenarios()]
    found.append(ScenarioName(name=lab_dph.NAME, title=lab_dph.TITLE))
    found += [ScenarioName(name=study.name, title=study.question, kind=STUDY) for study in studies()]
    if as_json:
        write_json(found)
        return
    for kind, titles in ((SCENARIO, ("scenario", "|what it shows")), (STUDY, ("study", "|what it asks"))):
        grid = Grid(*titles)
        for item in found:
            if item.kind == kind:
                grid.add(item.name, item.title)
        write(*([""] if kind == STUDY else []), grid)


@lab.command("run")
@click.argument("scenario")
@json_option
@click.option("--ipv6", is_flag=True, help="Over IPv6 instead of IPv4.")
@click.option("--plain", is_flag=True, help="Plain progress lines instead of the terminal UI.")
@click.option("--seconds", type=click.IntRange(5, 3600), help="How long the traffic runs.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "ebpf", "nfqueue"]),
    default="auto",
    show_default=True,
    help="What treats packets that pay.",
)
@click.option(
    "--pcap",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write each link's packets into this folder.",
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="dph: the report's file.")
@click.option("--quick", is_flag=True, help="dph: two minutes instead of ten.")
@click.option("--simulated", is_flag=True, help="dph: only on the virtual clock; needs no privilege.")
@one_line_errors
def run(
    scenario: str,
    as_json: bool,
    ipv6: bool,
    plain: bool,
    seconds: int | None,
    engine: WantedPaymentEngine,
    pcap: Path | None,
    html: Path | None,
    quick: bool,
    simulated: bool,
) -> None:
    """Runs SCENARIO (a name from `lab list`, or a TOML file) and reports who paid whom, and what it bought.

    `dph` is an experiment of many runs, simulated and on real packets; its report is an HTML file with figures.
    """
    if scenario == lab_dph.NAME:
        if ipv6 or plain or seconds or pcap or engine != "auto":
            raise click.UsageError("dph takes --quick, --simulated, --html and --json alone")
        lab_dph.run_experiment(as_json=as_json, html=html, quick=quick, simulated=simulated, progress=_progress)
        return
    if html or quick or simulated:
        raise click.UsageError("--html, --quick and --simulated are of dph alone")
    from lab.run import run_scenario

    terminal = sys.stdout.isatty() and sys.stdin.isatty() and not as_json and not plain
    report = run_scenario(
        scenario, ipv6=ipv6, seconds=seconds, engine=engine, pcap=pcap, tui=terminal, progress=_progress
    )
    if as_json:
        click.echo(report.to_json())
    else:
        report.print()
    if not report.holds:
        leave(f"{scenario}: {report.shortfall}", ExitCode.FAILED)


@lab.command("simulate")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@click.option("--series", is_flag=True, help="Rates, marks and queues over time as well (with --json).")
@click.option("--mode", type=click.Choice(["fluid", "packets"]), help="Instead of the file's.")
@click.option("--seed", type=click.IntRange(0, 2**32), help="Instead of the file's.")
@click.option("--seconds", type=click.FloatRange(0, 1_000_000, min_open=True), help="Of virtual time, likewise.")
@click.option("--namespaces", is_flag=True, help="On real packets instead: real daemons and programs, in real time.")
@one_line_errors
def simulate(
    file: Path,
    as_json: bool,
    series: bool,
    mode: str | None,
    seed: int | None,
    seconds: float | None,
    namespaces: bool,
) -> None:
    """Runs the experiment in FILE (TOML or JSON) on a virtual clock: who gets what at which price, and how steadily.

    No network is touched, unless it is to run in --namespaces. docs/spec/experiment.md says what FILE may say.
    """
    from cli.show.simulation import show_results
    from cli.show.text import write_json
    from lab.simulator.experiment import Overrides

    if namespaces and mode is not None:
        raise click.UsageError("--namespaces is a mode of its own: leave out --mode")
    overrides = Overrides(mode=mode, seed=seed, seconds=seconds)
    if namespaces:
        from lab.bridge import running as bridge

        results = bridge.run_file(file, overrides=overrides, series=series, progress=_progress)
    else:
        from lab.simulator.running import run_file

        results = run_file(file, overrides=overrides, series=series, progress=_once_it_is_long(_progress))
    if as_json:
        write_json(results)
    else:
        show_results(results)


@lab.command("study")
@click.argument("name")
@json_option
@click.option("--seed", type=click.IntRange(0, 2**32), default=1, show_default=True, help="Repeats every draw.")
@one_line_errors
def study(name: str, as_json: bool, seed: int) -> None:
    """Answers the question of the study NAME (from `lab list`) on the simulator; it takes some seconds."""
    from billpay.errors import ConfigurationError
    from cli.show.study import show_study
    from cli.show.text import write_json
    from lab.studies import studies

    known = {each.name: each for each in studies()}
    if name not in known:
        raise ConfigurationError(name, "", "no such study", f"there are {', '.join(known)}")
    found = known[name].run(seed)
    if as_json:
        write_json(found)
    else:
        show_study(known[name].question, found)


def _once_it_is_long(progress: Callable[[str], None], after_s: float = 2.0) -> Callable[[str], None]:
    """Short runs say nothing."""
    began = time.monotonic()

    def told(line: str) -> None:
        if time.monotonic() - began > after_s:
            progress(line)

    return told


def _progress(line: str) -> None:
    click.echo(line, err=True)
