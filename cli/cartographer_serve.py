"""`hostagent cartographer serve` and `status`: the campus service, which pools what many hosts measured."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from billpay.errors import EnvironmentFault
from cli.command import json_option, leave, one_line_errors
from cli.exit_codes import ExitCode


@click.command("serve")
@click.option(
    "--config",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The TOML file; a commented sample of every key is docs/samples/cartographer.toml.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output when it listens.")
@one_line_errors
def serve(config: Path, as_json: bool) -> None:
    """Pools the path measurements of an organisation's hosts, in the foreground, until it is told to stop."""
    import msgspec

    from cartographer.campus.server import run
    from cli.results import Listening

    def on_ready(urls: tuple[str, ...], hosts: int) -> None:
        if as_json:
            ready = Listening(event="ready", listen=urls, hosts=hosts)
            click.echo(msgspec.json.encode(ready).decode())
        else:
            click.echo(f"listens at {', '.join(urls)} for {hosts} hosts")

    asyncio.run(run(config, on_ready))


@click.command("status")
@click.option("--socket", required=True, type=click.Path(path_type=Path), help="The service's status socket.")
@json_option
@one_line_errors
def status(socket: Path, as_json: bool) -> None:
    """What a running campus service has: hosts, lines, prefixes; no host's name and no prefix."""
    from cartographer.campus.status import read_status
    from cli.show.text import write_json

    try:
        found = asyncio.run(read_status(socket))
    except EnvironmentFault as fault:
        leave(str(fault), ExitCode.UNREACHABLE)
    if as_json:
        write_json(found)
        return
    click.echo(f"listens at      {', '.join(found.listen)}")
    click.echo(f"hosts           {found.admitted_hosts} admitted, {found.reporting_hosts} with something that counts")
    click.echo(f"known           {found.lines} lines about {found.prefixes} prefixes; {found.shown_prefixes} are shown")
    click.echo(f"descriptions    {found.descriptions} of ISPs")
    click.echo(f"since the start {found.reports} reports, {found.questions} questions, {found.refused} refused")
    click.echo(f"database        {found.database}")
    if found.trouble:
        click.echo(f"trouble         {found.trouble}")
