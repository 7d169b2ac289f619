"""`hostagent paths`: which ways lead to a destination, how good and how dear each is, and why one is taken.

Decides: which questions the agent is asked, what a name of a destination stands for, and which options make sense
together. Refuses to know: how anything is shown (`cli.show.paths`, `cli.show.map`), measured or chosen (the agent).
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket as sockets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cli.agent import answers_expected, ask, socket_option
from cli.arguments import MOMENT
from cli.command import json_option, leave, one_line_errors
from cli.exit_codes import ExitCode
from cli.records import csv_option
from cli.show.text import columns, harmless, write_json
from hostagent import api

if TYPE_CHECKING:
    from hostagent.client import LocalClient

WATCH_S: Final = 2
COLUMNS, LINES = 120, 24  # where there is no terminal
ADDRESSES_MAX: Final = 8  # of a name
ROWS_MAX: Final = 10_000
WAYS_MAX: Final = 1000  # that the agent is asked for
DAY_S: Final = 86_400
UNMEASURED: Final = "nothing was measured in that time (a row is written every five minutes)"
SHOW: Final = "hostagent paths lists those that are known, once traffic went there; hostagent probe looks at any"


class PathsDocument(api.Paths, frozen=True, kw_only=True):
    """What `--json` prints: the agent's `Paths`, and its ways; with --map the map, with --history the quality."""

    ways: tuple[api.Way, ...] = ()
    map: api.NetworkMap | None = None
    quality: tuple[api.QualityRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What is looked at. `addresses`: those of the destination; (): all that are known."""

    name: str
    addresses: tuple[str, ...]
    wants: str
    with_map: bool = False
    since_unix_s: int | None = None  # of the quality; None: it is not asked for
    until_unix_s: int = 0

    async def document(self, client: LocalClient) -> PathsDocument:
        """Asks for what is needed and no more."""
        from cli.show.paths import grouped
        from hostagent.desk import QualityQuery

        told = await client.paths()
        ways: list[api.Way] = []
        rows: list[api.QualityRow] = []
        asked = self.addresses or ("",)
        for address in asked:
            ways += await client.ways(address, WAYS_MAX)
            if self.since_unix_s is not None:
                query = QualityQuery(
                    since_unix_s=self.since_unix_s,
                    until_unix_s=self.until_unix_s,
                    destination=address,
                    limit=ROWS_MAX,
                )
                rows += await client.quality(query)
        known = None
        if self.with_map:
            with_ways = [each for each in self.addresses if any(way.destination == each for way in ways)]
            known = await client.network_map(with_ways[0] if with_ways else "".join(self.addresses[:1]))
        return PathsDocument(
            alternatives=self._ours(told.alternatives),
            findings=told.findings,
            accesses=told.accesses,
            checks=self._ours(told.checks),
            destinations=told.destinations,
            probes_nanodollars=told.probes_nanodollars,
            probes_limit_nanodollars=told.probes_limit_nanodollars,
            campus=told.campus,
            ways=tuple(grouped(way for way in ways if self.wants in ("", way.wants))),
            map=known,
            quality=tuple(rows),
        )

    def _ours(self, values: tuple[_Towards, ...]) -> tuple[_Towards, ...]:
        if not self.addresses:
            return values
        return tuple(each for each in values if each.destination in self.addresses)


if TYPE_CHECKING:
    from typing import TypeVar

    _Towards = TypeVar("_Towards", api.PathAlternative, api.PathCheck)


@click.command()
@click.argument("destination", required=False, default="")
@click.option("--wants", default="", metavar="CLASS", help="Only as this class of traffic sees them, such as timely.")
@click.option("--watch", "is_live", is_flag=True, help=f"Again every {WATCH_S} s, until Ctrl-C.")
@click.option("--map", "with_map", is_flag=True, help="Who is behind whom: promised against measured.")
@click.option("--history", is_flag=True, help="How good each way was, over time.")
@click.option("--since", type=MOMENT, help="With --history, --html: a moment, or `6h` for so long ago.  [default: 1d]")
@click.option(
    "--rows", type=click.IntRange(1, ROWS_MAX), default=12, show_default=True, help="With --history: of each way."
)
@click.option("--svg", type=click.Path(dir_okay=False, allow_dash=True), help="Draws the map into this file.")
@click.option(
    "--html", type=click.Path(dir_okay=False, allow_dash=True), help="Picture, ways and history, all in this file."
)
@csv_option
@socket_option
@json_option
@one_line_errors
def paths(
    destination: str,
    wants: str,
    is_live: bool,
    with_map: bool,
    history: bool,
    since: datetime | None,
    rows: int,
    svg: str | None,
    html: str | None,
    csv_file: str | None,
    socket: Path,
    as_json: bool,
) -> None:
    """Ways to DESTINATION: delay, loss, tolls, what each costs, and why one is taken.

    DESTINATION is a name or an address; without it, all that are known. Also who is greedy and the evidence, whether
    marks arrive, the ways into the Internet, and what paid probes cost. docs/howto/paths.md says what the words mean.
    """
    _refuse_contradictions(
        {"--watch": is_live, "--json": as_json, "--csv": csv_file is not None, "--svg or --html": bool(svg or html)}
    )
    if with_map and (csv_file is not None or history):
        raise click.UsageError("--map is neither a table nor a history")
    now_unix_s = int(time.time())
    begin = now_unix_s - DAY_S if since is None else int(since.timestamp())
    look = _Look(
        name=destination,
        addresses=addresses_of(destination) if destination else (),
        wants=wants,
        with_map=with_map or bool(svg or html),
        since_unix_s=begin if history or html else None,
        until_unix_s=now_unix_s,
    )
    if is_live:
        _watch(socket, look, with_map=with_map, rows=rows if history else 0)
        return
    told = _known(ask(socket, look.document), look)
    if svg or html:
        _draw(told, svg, html, now_unix_s, as_json=as_json)
    elif as_json:
        write_json(told)
    elif csv_file is not None:
        _write_csv(told, csv_file, history=history)
    else:
        click.echo("\n".join(_lines(told, columns(), with_map=with_map, rows=rows if history else 0)))
        if len(told.ways) >= WAYS_MAX and not (with_map or history):
            click.echo(f"these are the first {WAYS_MAX:,} ways: name a destination to see its own", err=True)


def _refuse_contradictions(said: dict[str, bool]) -> None:
    chosen = [name for name, is_said in said.items() if is_said]
    if len(chosen) > 1 and set(chosen) != {"--json", "--svg or --html"}:
        raise click.UsageError(f"{chosen[0]} and {chosen[1]} exclude each other")


def addresses_of(destination: str) -> tuple[str, ...]:
    """As the agent writes them. Leaves with one line where a name stands for none."""
    text = destination.strip().strip("[]")
    try:
        return (str(ip_address(text)),)
    except ValueError:
        pass
    try:
        found = sockets.getaddrinfo(text, None, type=sockets.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or "that is no name"
        leave(f"no address of {harmless(destination)}: {cause} (write its address)", ExitCode.ENVIRONMENT)
    return tuple(dict.fromkeys(str(ip_address(str(each[4][0]).partition("%")[0])) for each in found))[:ADDRESSES_MAX]


def _known(told: PathsDocument, look: _Look) -> PathsDocument:
    """Leaves with one line where nothing is known of what was asked for."""
    if look.addresses and not (told.ways or told.alternatives or told.quality) and not look.wants:
        name = harmless(look.name)
        stands_for = "" if look.addresses[0] == look.name else f" ({', '.join(look.addresses)})"
        leave(f"no way to {name}{stands_for} is known: {SHOW}", ExitCode.REFUSED)
    if look.wants and not told.ways:
        leave(f"no way is known as the class {harmless(look.wants)} sees it: {SHOW}", ExitCode.REFUSED)
    return told


def _lines(told: PathsDocument, width: int, *, with_map: bool, rows: int) -> list[str]:
    from cli.show.map import map_lines
    from cli.show.paths import history_lines, page_lines

    if with_map:
        assert told.map is not None
        return map_lines(told.map, width)
    if rows:
        return history_lines(told.quality, width, rows) or [UNMEASURED]
    return page_lines(told, told.ways, width)


def _draw(told: PathsDocument, svg: str | None, html: str | None, now_unix_s: int, *, as_json: bool) -> None:
    from cli.results import Written
    from cli.show.amounts import write_csv as write_text
    from cli.show.map_page import page_html
    from cli.show.map_picture import map_svg

    assert told.map is not None
    if svg:
        write_text(map_svg(told.map), svg)
    if html:
        write_text(page_html(told.map, told.ways, told, told.quality, unix_s=now_unix_s), html)
    files = tuple(file for file in (svg, html) if file and file != "-")
    if as_json:
        write_json(Written(files=files))
    else:
        for file in files:
            click.echo(f"wrote {file}")


def _write_csv(told: PathsDocument, file: str, *, history: bool) -> None:
    from cli.show.amounts import csv_of, write_csv
    from cli.show.paths import ways_csv

    write_csv(csv_of(told.quality, api.QualityRow) if history else ways_csv(told.ways), file)


def _watch(socket: Path, look: _Look, *, with_map: bool, rows: int) -> None:
    """Ctrl-C is how a look ends, and no error."""
    with answers_expected(), contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_show_again(socket, look, with_map=with_map, rows=rows))


async def _show_again(socket: Path, look: _Look, *, with_map: bool, rows: int) -> None:
    from cli.watching import Screen
    from hostagent.client import LocalClient

    screen = Screen() if sys.stdout.isatty() else None
    async with LocalClient(socket) as client:
        while True:
            told = await look.document(client)
            width, height = shutil.get_terminal_size((COLUMNS, LINES))  # anew each time: people change it
            lines = _lines(told, width, with_map=with_map, rows=rows)
            if screen is not None:
                screen.show(_fitting(lines, height - 1))
            else:
                click.echo("\n".join((*lines, "")))
            await _pause()


async def _pause() -> None:
    await asyncio.sleep(WATCH_S)


def _fitting(lines: Sequence[str], height: int) -> list[str]:
    if len(lines) <= max(1, height):
        return list(lines)
    return [*lines[: max(0, height - 1)], f"… {len(lines) - height + 1} more lines: make the window taller"]
