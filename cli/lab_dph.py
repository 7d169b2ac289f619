"""`hostagent lab run dph`: the experiment on prices of congestion, as a report.

Decides: what is written where. Refuses to know: what is measured (`lab.dph`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from billpay.errors import EnvironmentFault
from cli.command import leave
from cli.exit_codes import ExitCode

NAME: Final = "dph"
TITLE: Final = "Shares by willingness to pay, stability, marking rules, billing, honesty: measured, as a report"
HTML: Final = Path("dph-report.html")


def run_experiment(
    *, as_json: bool, html: Path | None, quick: bool, simulated: bool, progress: Callable[[str], None]
) -> None:
    """Ends with FAILED where an expectation does not hold."""
    from lab.dph.effort import effort_of
    from lab.dph.page import page_of
    from lab.dph.running import run_dph

    if html is None and not as_json:
        html = HTML
    if html is not None:
        _require_writable(html)
    report = run_dph(effort_of(quick=quick, simulated=simulated, progress=progress))
    if html is not None:
        html.write_text(page_of(report), encoding="utf-8")
    if as_json:
        click.echo(report.to_json())
    else:
        held = len(report.expectations()) - len(report.failing)
        click.echo(f"{held} of {len(report.expectations())} expectations hold; the report is in {html}")
    if not report.holds:
        leave(f"{NAME}: {report.shortfall}", ExitCode.FAILED)


def _require_writable(html: Path) -> None:
    """Before minutes of work, not after them."""
    if not html.parent.is_dir():
        raise EnvironmentFault("write", str(html), "no such directory", "name a file in one that is there")
    try:
        with html.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise EnvironmentFault("write", str(html), error.strerror or error, "name another file") from error
