"""`hostagent secretary …`: the digital secretary's process, and what a person asks it.

Decides: the verbs' order in the help, and which question each look is. Refuses to know: how an answer is shown
(`cli.show.secretary`), how the secretary is reached (`cli.secretary_line`), and how anything is judged.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from billpay.messages import FlowSelector
from cli.agent import SOCKET_VARIABLE
from cli.agent import ask as ask_agent
from cli.agent import default_socket as agents_socket
from cli.command import json_option, leave, one_line_errors
from cli.exit_codes import ExitCode
from cli.prices import AMOUNT
from cli.secretary_inbox import inbox_verbs
from cli.secretary_line import ask, own_name, socket_option
from cli.secretary_money import money_verbs, write_text
from cli.secretary_replay import replay
from cli.sections import SectionedGroup
from cli.services import config_option
from cli.show.text import write_json
from secretary.ruling.rules import PROTOCOLS
from secretary.transfers import Transfer

if TYPE_CHECKING:
    from hostagent import api
    from hostagent.client import LocalClient

BYTES_PER_MB = 1_000_000


def _agents(_context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path:
    return value if value is not None else agents_socket()


agent_option = click.option(
    "--agent",
    envvar=SOCKET_VARIABLE,
    show_envvar=True,
    type=click.Path(path_type=Path),
    callback=_agents,
    help="The local socket of the agent that knows FLOW.  [default: as `hostagent why` has it]",
)


@click.group(cls=SectionedGroup)
def secretary() -> None:
    """The digital secretary: decides what a transfer is worth, keeps the budget, signs every grant."""


@click.command("run")
@config_option
@one_line_errors
def run(config: Path) -> None:
    """Runs the secretary in the foreground until it is told to stop."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # what the learner computes is small; read when it is loaded
    from secretary.process import run as run_process

    asyncio.run(run_process(config))


@click.command()
@socket_option
@json_option
@one_line_errors
def status(socket: Path, as_json: bool) -> None:
    """The secretary's key, purse, open grants, what it learned from, and what it warns of."""
    from secretary.messages import AskStatus, SecretaryStatus

    told = ask(socket, AskStatus(), SecretaryStatus)
    if as_json:
        write_json(told)
        return
    from cli.show.secretary import show_status

    show_status(told)


@click.command()
@socket_option
@json_option
@one_line_errors
def rules(socket: Path, as_json: bool) -> None:
    """Rules in the order of trying, how often each decided, and what is wrong in their files."""
    from secretary.messages import AskRules, Rules

    told = ask(socket, AskRules(), Rules)
    if as_json:
        write_json(told)
        return
    from cli.show.secretary import show_rules

    show_rules(told)


@click.command()
@click.argument("flow", required=False)
@click.option("--program", default="", help="File name of the program.")
@click.option("--dest", default="", help="With whom: a name or an address.")
@click.option("--network", default="", help="The network that the host is on, as rules name it.")
@click.option("--kind", default="", help="Kind of traffic.  [default: the program's, by the shipped table]")
@click.option("--task", default="", help="The label of `hostagent run --task`.")
@click.option("--user", default=None, help="Whose transfer.  [default: yours]")
@click.option("--price", type=AMOUNT, default="0", help="Of all of it: 0.03, 30 mUSD.  [default: not known]")
@click.option("--bytes", "size_bytes", type=click.IntRange(0, 2**53), default=0, help="Its size.  [default: not known]")
@click.option("--foreground/--background", default=None, help="Whether you look at it.  [default: not known]")
@agent_option
@socket_option
@json_option
@one_line_errors
def why(
    flow: str | None,
    program: str,
    dest: str,
    network: str,
    kind: str,
    task: str,
    user: str | None,
    price: int,
    size_bytes: int,
    foreground: bool | None,
    agent: Path,
    socket: Path,
    as_json: bool,
) -> None:
    """What would be decided about a transfer now, and why: which rule, which estimate and how sure, which budget.

    FLOW is a part of a flow of the agent that runs, or of its program's name, that only one has; options say the rest,
    or all of it. Nothing is promised, asked or learned by it.
    """
    from secretary.messages import AskWhy, WhyView

    said = Transfer(
        user=own_name() if user is None else user,
        program=program,
        kind=kind,
        task=task,
        destination=dest,
        network=network,
        foreground=foreground,
        size_bytes=size_bytes,
        price_nanodollars=price,
    )
    selector = None
    if flow is not None:
        found = the_flow(flow, agent)
        said, selector = with_flow(said, found), selector_of(found.flow)
    if not (said.program or said.destination or said.kind):
        raise click.UsageError("say which transfer: a FLOW of the agent, or --program, --dest or --kind")
    told = ask(socket, AskWhy(transfer=with_kind(said), flow=selector), WhyView)
    if as_json:
        write_json(told)
        return
    from cli.show.secretary import show_why

    show_why(told)


def the_flow(part: str, agent: Path) -> api.Flow:
    """The only one of the agent's that has it: the agent itself says which, or that it is none or several."""

    async def both(client: LocalClient) -> tuple[api.Why, tuple[api.Flow, ...]]:
        return await client.why(part), await client.flows()

    named, flows = ask_agent(agent, both)
    found = next((each for each in flows if each.flow == named.flow), None)
    if found is None:
        leave(f"{named.flow} has just ended", ExitCode.REFUSED)
    return found


def with_flow(said: Transfer, flow: api.Flow) -> Transfer:
    """What the options do not say, by what the agent knows; the price of what is to come, where its size is said."""
    price = said.price_nanodollars
    if not price and said.size_bytes and flow.price_nanodollars_per_mb is not None:
        price = -(-said.size_bytes * flow.price_nanodollars_per_mb // BYTES_PER_MB)
    return msgspec.structs.replace(
        said,
        program=said.program or flow.program,
        kind=said.kind or flow.traffic_class,
        task=said.task or flow.task,
        destination=said.destination or flow.destination,
        network=said.network or flow.network,
        price_nanodollars=price,
    )


def selector_of(flow: str) -> FlowSelector | None:
    """Of "tcp 192.0.2.1:40000 → 198.51.100.2:443"; None for a protocol that no rule names."""
    protocol, _, ends = flow.partition(" ")
    number = PROTOCOLS.get(protocol)
    if not number:
        return None
    (source, source_port), (destination, port) = (_end(text) for text in ends.split(" → "))
    return FlowSelector(
        source=source, destination=destination, protocol=number, source_port=source_port, destination_port=port
    )


def _end(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def with_kind(said: Transfer) -> Transfer:
    from secretary.kinds import shipped_kinds
    from secretary.replay import kind_of

    if said.kind or not said.program:
        return said
    return msgspec.structs.replace(said, kind=kind_of(said.program, shipped_kinds()))


@click.command("rotate-key")
@click.option(
    "--certificate",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Writes the new certificate into this file, - for standard output.",
)
@socket_option
@json_option
@one_line_errors
def rotate_key(certificate: str | None, socket: Path, as_json: bool) -> None:
    """Makes a new key for grants, which the old one signs, so that gateways follow; says what else is to be done."""
    from secretary.messages import Rotated, RotateKey

    told = ask(socket, RotateKey(), Rotated)
    if certificate is not None:
        write_text(told.certificate, certificate)
    if as_json:
        write_json(told)
        return
    from cli.show.secretary import show_rotated

    show_rotated(told)


looks = (status, rules, why)
for title, verbs in (
    ("Run it", (run, rotate_key)),
    ("Look at it", looks),
    ("Answer it", inbox_verbs),
    ("Money", money_verbs),
    ("Try it", (replay,)),
):
    secretary.add_section(title, verbs)
