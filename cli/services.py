"""Verbs of the gateway, a service that a unit file starts; those of the secretary are in `cli.secretary`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from billpay.errors import EnvironmentFault
from cli.command import json_option, leave, one_line_errors
from cli.exit_codes import ExitCode

config_option = click.option(
    "--config",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The TOML file; a commented sample of every key is in docs/samples/.",
)


@click.group()
def gateway() -> None:
    """An ISP's gateway: tolls, priorities, accounts."""


@gateway.command("run")
@config_option
@one_line_errors
def gateway_run(config: Path) -> None:
    """Runs the gateway in the foreground until it is told to stop."""
    from gateway.daemon import run

    asyncio.run(run(config))


@gateway.command("mark-price")
@click.argument("nanodollars", type=click.IntRange(0, 10**12))
@click.option("--socket", required=True, type=click.Path(path_type=Path), help="The gateway's admin socket.")
@one_line_errors
def gateway_mark_price(nanodollars: int, socket: Path) -> None:
    """A congestion mark costs NANODOLLARS from now on; hosts are told before it holds."""
    from gateway.admin import change_mark_price

    try:
        price = asyncio.run(change_mark_price(socket, nanodollars))
    except EnvironmentFault as fault:
        leave(str(fault), ExitCode.UNREACHABLE)
    click.echo(f"a mark costs {price.nanodollars_per_mark} n$ (price {price.serial} of {price.provider})")


@gateway.command("reload")
@click.option("--socket", required=True, type=click.Path(path_type=Path), help="The gateway's admin socket.")
@one_line_errors
def gateway_reload(socket: Path) -> None:
    """Reads tolls, alternatives, the preference and the engine again from the gateway's file, and publishes them.

    Anything else that was changed there needs a restart, and then nothing is taken in.
    """
    from gateway.admin import reload

    try:
        reloaded = asyncio.run(reload(socket))
    except EnvironmentFault as fault:
        leave(str(fault), ExitCode.UNREACHABLE)
    click.echo(f"{', '.join(reloaded.changed) or 'nothing'} changed; published with serial {reloaded.serial}")


@gateway.command("status")
@click.option("--socket", required=True, type=click.Path(path_type=Path), help="The gateway's admin socket.")
@json_option
@one_line_errors
def gateway_status(socket: Path, as_json: bool) -> None:
    """Links, tolls, backlog, accounts and losses of a running gateway."""
    from cli.show.gateway import show_gateway
    from cli.show.text import write_json
    from gateway.admin import read_status

    try:
        status = asyncio.run(read_status(socket))
    except EnvironmentFault as fault:
        leave(str(fault), ExitCode.UNREACHABLE)
    if as_json:
        write_json(status)
    else:
        show_gateway(status)
