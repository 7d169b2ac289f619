"""`hostagent secretary replay`: the real judge over a file of requests, on a virtual clock; nobody is asked for real.

Decides: where events and rules come from, and what is printed. Refuses to know: how anything is judged
(`secretary.rehearsal`), and what a transfer is worth: that is the replay's secret (`secretary.replay`).
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from billpay.errors import ConfigurationError, EnvironmentFault
from cli.arguments import Understood
from cli.command import json_option, one_line_errors
from cli.words import NotUnderstood

if TYPE_CHECKING:
    from secretary.rehearsal import Rehearsal
    from secretary.ruling.rules import Rule

TOLD_EVERY = 500  # events
NS_PER_S = 1_000_000_000


def parse_zone(text: str) -> ZoneInfo:
    """Europe/Vienna, UTC."""
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise NotUnderstood(f"{text!r} is no time zone: write Europe/Vienna, or UTC") from error


@click.command()
@click.argument("events", metavar="EVENTS.jsonl", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A secretary's file: its rules, ceilings and manners of asking.  [default: none, as shipped]",
)
@click.option(
    "--rules",
    "rules_directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder of people's own rules, *.toml.  [default: the one of --config]",
)
@click.option("--summary-only", is_flag=True, help="With --json: the last line alone.")
@click.option(
    "--zone", type=Understood("zone", parse_zone), default="UTC", show_default=True, help="Where the people live."
)
@json_option
@one_line_errors
def replay(
    events: str, config: Path | None, rules_directory: Path | None, summary_only: bool, zone: ZoneInfo, as_json: bool
) -> None:
    """What the secretary would have decided on recorded or made-up requests, and how good that was.

    EVENTS.jsonl has one JSON object a line, - is standard input: {"t": seconds, "user": "…", "app": "…", "dest": "…",
    "network": "…", "bytes": n, "foreground": bool, "price_nanodollars": n, "truth_nanodollars": n}. The truth is what
    the transfer is worth to the user, who answers by it when asked; else nobody sees it before the summary.

    With --json a line for each request in the order of time, then {"summary": …}; without, tables of the summary.
    """
    import msgspec

    from secretary.hindsight import Summary
    from secretary.replay import Recording
    from secretary.replay import replay as replayed

    rehearsal = rehearsal_of(config, rules_directory)
    summary = Summary()
    with _opened(events) as file:
        recording = Recording(file, "standard input" if events == "-" else events)
        told = _Progress(len(recording))
        out = sys.stdout.buffer
        for line in replayed(recording, rehearsal, summary, zone=zone):
            told.one_more()
            if as_json and not summary_only:
                out.write(msgspec.json.encode(line) + b"\n")
        told.end()
        out.flush()
    if as_json:
        click.echo(msgspec.json.encode({"summary": summary.as_json()}))
        return
    from cli.show.hindsight import show_summary

    show_summary(summary)


def rehearsal_of(config: Path | None, rules_directory: Path | None) -> Rehearsal:
    """Raises ConfigurationError for the first mistake in any file: a replay under half of the rules says nothing."""
    from secretary.configuration import Configuration, SecretarySection, load
    from secretary.rehearsal import Rehearsal
    from secretary.settings import settings_of

    if config is None:
        nowhere = SecretarySection(name="replay", state_directory="/nonexistent")
        configuration, found = Configuration(secretary=nowhere), rules_directory
    else:
        configuration = load(config)
        found = rules_directory or configuration.rules_directory(config)
    if rules_directory is not None and not rules_directory.is_dir():
        raise ConfigurationError(rules_directory, "", "no such folder", "name the folder of the rules' files")
    own_rules = _rules_in(found) if found is not None else ()
    settings = settings_of(configuration, own_rules)
    return Rehearsal(settings.policy, settings.manners)


def _rules_in(directory: Path) -> tuple[Rule, ...]:
    from secretary.ruling.rulefiles import RuleFiles, load

    files = RuleFiles(directory)
    found = files.poll(time.time_ns())
    if files.faults:
        for path in sorted(directory.glob("*.toml")):
            load(path)  # raises the first mistake as it is written
        raise EnvironmentFault("read", str(directory), files.faults[0])
    return found.rules if found is not None else ()


@contextlib.contextmanager
def _opened(events: str) -> Iterator[BinaryIO]:
    """A file that can be read twice: what comes through a pipe is put into one of ours first."""
    try:
        file = sys.stdin.buffer if events == "-" else open(events, "rb")  # noqa: SIM115 - below
    except OSError as error:
        raise EnvironmentFault(
            "read", events, error.strerror, "name a file of events, or - for standard input"
        ) from error
    with contextlib.ExitStack() as stack:
        if events != "-":
            stack.enter_context(file)
        if not _can_be_read_twice(file):
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            file = copy
        yield file


def _can_be_read_twice(file: BinaryIO) -> bool:
    try:
        return file.seekable() and file.tell() >= 0
    except (OSError, io.UnsupportedOperation):
        return False


class _Progress:
    """On a terminal's standard error, and nowhere else."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._done = 0
        self._is_shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def one_more(self) -> None:
        self._done += 1
        if self._is_shown and self._done % TOLD_EVERY == 0:
            click.echo(f"\r{self._done:,} of {self._events:,} requests", nl=False, err=True)

    def end(self) -> None:
        if self._is_shown and self._done >= TOLD_EVERY:
            click.echo("\r\x1b[K", nl=False, err=True)
