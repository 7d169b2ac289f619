"""`hostagent probe DEST`: the path to a destination as packets find it, live, then as a table or for programs.

Decides: which options make sense together, who does the probing, and what trouble ends with. Refuses to know: how a
path is measured (`cartographer.measuring`), and how it is shown (`cli.show.probe`). Raw sockets and scapy are in the
prober's process, never in this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from cli.agent import socket_option
from cli.command import json_option, leave, one_line_errors
from cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from cartographer.measuring.report import ProbeReport, ProbeRequest, Trouble

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COLUMNS, LINES = 80, 24  # of a terminal that does not say
LINE_BYTES: Final = 4 << 20  # of a report: 64 hops with 16 interfaces, and a wide diamond's links
GRACE_S: Final = 5.0
REMEDY: Final = "run it with sudo, or have an agent running that does it for you: hostagent up"


@click.command()
@click.argument("destination")
@click.option("-4", "is_v4", is_flag=True, help="IPv4 only.")
@click.option("-6", "is_v6", is_flag=True, help="IPv6 only.")
@click.option("--icmp", "transport", flag_value="icmp", default="icmp", help="Echo requests (the default).")
@click.option("--udp", "transport", flag_value="udp", help="UDP, to a port that is probably closed.")
@click.option("--tcp", "transport", flag_value="tcp", help="SYNs; also asks the server whether it does ECN.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Of --udp (default 33434) or --tcp (default 443).")
@click.option("--rounds", type=click.IntRange(1, 1000), default=10, show_default=True, help="Probes to each hop.")
@click.option(
    "--interval",
    type=click.FloatRange(0.01, 60),
    default=1.0,
    show_default=True,
    help="Seconds between rounds. Many routers answer one a second at most.",
)
@click.option("--max-hops", type=click.IntRange(1, 64), default=30, show_default=True, help="No farther than this.")
@click.option("--multipath", is_flag=True, help="Look for all the ways that load balancers offer.")
@click.option("--names/--no-names", default=True, help="Reverse DNS of every hop.")
@click.option("--ecn/--no-ecn", default=True, help="Check whether ECN marks and the DSCP survive.")
@click.option("--dscp", type=click.IntRange(1, 63), default=46, show_default=True, help="The DSCP to check with.")
@click.option("--mtu/--no-mtu", default=True, help="Find the largest packet that passes.")
@socket_option
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="A row for each hop on standard output, with a line of titles.")
@one_line_errors
def probe(
    destination: str,
    is_v4: bool,
    is_v6: bool,
    transport: str,
    port: int | None,
    rounds: int,
    interval: float,
    max_hops: int,
    multipath: bool,
    names: bool,
    ecn: bool,
    dscp: int,
    mtu: bool,
    socket: Path,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Probes the path to DESTINATION: hops, delay, loss, ECN and DSCP, MTU.

    A name or an address. Works without Bill-Pay; docs/howto/probe.md says what each verdict means. Ctrl-C shows what
    there is.
    """
    import msgspec

    from cartographer.measuring.packets import Transport
    from cartographer.measuring.report import Family, ProbeRequest

    if is_v4 and is_v6:
        raise click.UsageError("-4 and -6 exclude each other")
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    if math.isnan(interval):  # which no range keeps out
        raise click.UsageError("--interval is a number of seconds")
    if port is not None and transport == "icmp":
        raise click.UsageError("ICMP has no ports: add --udp or --tcp")
    request = ProbeRequest(
        destination=destination,
        family=Family.IPV4 if is_v4 else Family.IPV6 if is_v6 else Family.ANY,
        transport=Transport(transport),
        port=port,
        rounds=rounds,
        interval_ms=round(interval * 1000),
        max_hops=max_hops,
        multipath=multipath,
        names=names,
        ecn=ecn,
        dscp=dscp,
        mtu=mtu,
        max_seconds=min(86_400, 600 + round(rounds * interval)),
    )
    try:
        msgspec.json.decode(msgspec.json.encode(request), type=ProbeRequest)  # checks what a constructor does not
    except msgspec.ValidationError as error:
        raise click.UsageError(f"{destination!r} is no destination: write a host's name or address") from error
    last, was_interrupted = asyncio.run(
        _watch(request, socket, is_live=sys.stdout.isatty() and not (as_json or as_csv))
    )
    if last is not None:
        _show(last, as_json=as_json, as_csv=as_csv)
    if was_interrupted:
        leave("interrupted", ExitCode.INTERRUPTED)
    if last is None:
        leave("the prober ended without a report", ExitCode.FAILED)


def _show(report: ProbeReport, *, as_json: bool, as_csv: bool) -> None:
    from cli.show.text import columns, write_json

    if as_json:
        write_json(report)
    elif as_csv:
        from cartographer.measuring.report import csv_text

        click.echo(csv_text(report), nl=False)
    else:
        from cli.show.probe import probe_lines

        click.echo("\n".join(probe_lines(report, columns())))


async def _watch(request: ProbeRequest, socket: Path, *, is_live: bool) -> tuple[ProbeReport | None, bool]:
    """The last report, and whether somebody ended it."""
    from cli.show.probe import probe_lines
    from cli.watching import Screen

    screen = Screen() if is_live else None
    last: ProbeReport | None = None
    told = asyncio.Event()
    with _told_to_end(told):
        async with contextlib.aclosing(reports(request, told, socket)) as coming:
            async for report in coming:
                last = report
                if screen is not None:
                    width, height = shutil.get_terminal_size((COLUMNS, LINES))  # anew each time: people change it
                    screen.show(probe_lines(report, width)[: max(1, height - 1)])
    if screen is not None:
        screen.show([])  # what stays is printed below as a whole
    return last, told.is_set()


@contextlib.contextmanager
def _told_to_end(told: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        loop.add_signal_handler(number, told.set)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)  # which sets the default
            signal.signal(number, handler)


# --- who probes -------------------------------------------------------------------------------------------------------


async def reports(request: ProbeRequest, told: asyncio.Event, socket: Path) -> AsyncGenerator[ProbeReport, None]:
    """Reports as they come, the last one final; once `told` is set, soon that one. The one place that knows who probes:
    we where we may, else the agent.

    Leaves with one line where there is nobody who may.
    """
    from cli.asking_agent import agent_reports
    from dataplane.hardening import Capability, held_capabilities
    from hostagent.client import NotAllowed, Unreachable
    from hostagent.desk import Refused

    if Capability.NET_RAW in held_capabilities():
        async with contextlib.aclosing(own_reports(request, told)) as coming:
            async for report in coming:
                yield report
        return
    try:
        async with contextlib.aclosing(agent_reports(socket, request, told)) as coming:
            async for report in coming:
                yield report
    except (Refused, NotAllowed) as error:
        leave(str(error), ExitCode.REFUSED)
    except Unreachable:
        leave(f"probe {request.destination}: raw sockets are not allowed ({REMEDY})", ExitCode.ENVIRONMENT)


async def own_reports(request: ProbeRequest, told: asyncio.Event) -> AsyncGenerator[ProbeReport, None]:
    """Of a prober's process that we start. It is in a session of its own: Ctrl-C is for us, and we tell it."""
    import msgspec

    from cartographer.measuring.report import Trouble, read_line
    from cartographer.measuring.worker import MODULE

    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", MODULE, stdin=pipe, stdout=pipe, start_new_session=True, limit=LINE_BYTES
    )
    assert process.stdin is not None
    assert process.stdout is not None
    telling = asyncio.create_task(_tell(process, told))
    try:
        process.stdin.write(msgspec.json.encode(request))
        process.stdin.close()
        while line := await process.stdout.readline():
            said = read_line(line)
            if isinstance(said, Trouble):
                _leave_for(said)
            yield said
        await process.wait()
    finally:
        telling.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _tell(process: asyncio.subprocess.Process, told: asyncio.Event) -> None:
    """It answers with a final report; one that does not is ended."""
    await told.wait()
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        await asyncio.sleep(GRACE_S)
        process.kill()


def _leave_for(trouble: Trouble) -> NoReturn:
    from cartographer.measuring.report import TroubleKind
    from cli.show.text import harmless

    remedy = f" ({trouble.remedy})" if trouble.remedy else ""
    target = f" {trouble.target}" if trouble.target else ""
    code = ExitCode.USAGE if trouble.error is TroubleKind.USAGE else ExitCode.ENVIRONMENT
    leave(harmless(f"{trouble.operation}{target}: {trouble.cause}{remedy}"), code)
