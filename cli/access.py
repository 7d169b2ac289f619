"""`hostagent access`: the ways into the Internet, what each costs, and a person's word about which one to take.

Decides: which words mean "the agent chooses". Refuses to know: whether an interface leads anywhere, and what the agent
does about the word (it says so).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cli.agent import ask, socket_option
from cli.command import json_option, one_line_errors
from cli.show.text import UNKNOWN, Grid, money, per_gb, write_json, write_or
from hostagent import api

if TYPE_CHECKING:
    from hostagent.client import LocalClient

AUTO: Final = "auto"
PPM: Final = 1_000_000
NONE_THERE: Final = "no accesses: nothing leads into the Internet, or nobody looks"


@click.command()
@click.argument("interface", required=False, default="")
@socket_option
@json_option
@one_line_errors
def access(interface: str, socket: Path, as_json: bool) -> None:
    """The accesses to the Internet and what each costs; with INTERFACE: new connections go by it from now on.

    INTERFACE is one of those that are listed, and holds as long as it is usable; auto leaves it to the agent again, as
    its configuration says. Connections that are there keep their access.
    """
    if interface:
        said = ask(socket, lambda client: _change(interface, client))
        if not as_json:
            click.echo(said)
            return
    told = ask(socket, lambda client: client.paths()).accesses
    if as_json:
        write_json(told)
        return
    show_accesses(told)


async def _change(interface: str, client: LocalClient) -> str:
    change = api.AccessChange(interface="" if interface == AUTO else interface)
    await client.set_access(change)
    if not change.interface:
        return "the agent chooses, as its configuration says"
    if (await client.status()).mode is api.Mode.OBSERVE:
        return f"new connections would go by {interface}, but the agent only observes: hostagent act"
    return f"new connections go by {interface}"


def show_accesses(accesses: Sequence[api.Access]) -> None:
    grid = Grid("interface", "", "network", "by", ">delay", ">lost", ">a GB", ">a packet", "|why")
    for each in sorted(accesses, key=lambda one: not one.used):
        grid.add(
            each.interface,
            "used" if each.used else "",
            each.network,
            each.chosen_by if each.used else "",
            UNKNOWN if each.delay_ns is None else f"{each.delay_ns / 1e6:.1f} ms",
            UNKNOWN if each.loss_ppm is None else f"{each.loss_ppm * 100 / PPM:.2g} %",
            per_gb(each.price_nanodollars_per_mb) or UNKNOWN,
            money(each.cost_nanodollars_per_packet),
            each.reason,
        )
    write_or(grid, NONE_THERE)


access_verbs: tuple[click.Command, ...] = (access,)
