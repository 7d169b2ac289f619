"""The command line: promises to scripts, help for people, one line for every kind of trouble."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from billpay.errors import BillpayError, ConfigurationError, EnvironmentFault, LocalProtocolError, RemoteProtocolError
from cli.command import one_line_errors
from cli.exit_codes import ExitCode
from cli.main import main
from cli.show.gateway import show_gateway
from cli.show.text import as_json
from gateway.admin import GatewayStatus, LinkStatus, LossLine

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "spec" / "exit-codes.md"


def verbs(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += verbs(command, (*path, name))
    return found


def test_the_document_lists_exactly_the_exit_codes() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {(int(code), name) for code, name in rows} == {(int(code), code.name) for code in ExitCode}


@pytest.mark.parametrize("path", verbs(main), ids=" ".join)
def test_every_verb_has_help_in_whole_sentences(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*path, "--help"])
    assert done.exit_code == 0
    assert re.search(r"[.…]\s", done.output)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("a.toml", "links[0].name", "missing", "add it"), ExitCode.CONFIGURATION),
        (EnvironmentFault("listen on", "10.0.0.1:7414", "in use", "stop it"), ExitCode.ENVIRONMENT),
        (RemoteProtocolError("bad-signature", "it does not hold"), ExitCode.PEER),
        (LocalProtocolError("our bug"), ExitCode.FAILED),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (ExceptionGroup("tasks", [EnvironmentFault("write", "/x", "disk full")]), ExitCode.ENVIRONMENT),
    ],
)
def test_every_kind_of_trouble_is_one_line_and_its_code(error: BaseException, code: ExitCode) -> None:
    @click.command()
    @one_line_errors
    def verb() -> None:
        raise error

    done = CliRunner().invoke(verb)
    assert done.exit_code == code
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("hostagent: ")


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    @click.command()
    @one_line_errors
    def verb() -> None:
        raise ExceptionGroup("tasks", [EnvironmentFault("write", "/x", "disk full"), ZeroDivisionError()])

    assert isinstance(CliRunner().invoke(verb).exception, ExceptionGroup)
    assert not issubclass(ZeroDivisionError, BillpayError)


def test_a_gateways_table_and_document(capsys: pytest.CaptureFixture[str]) -> None:
    show_gateway(_gateway())
    shown = capsys.readouterr().out
    assert "R (AS 64512): packets running, 1 open grants" in shown
    assert "166 µUSD" in shown
    assert "loss: 19 nUSD to a in interval 2" in shown
    assert msgspec.json.decode(as_json(_gateway()), type=GatewayStatus) == _gateway()


def _gateway() -> GatewayStatus:
    link = LinkStatus(
        name="a",
        neighbour="A",
        state="agreed",
        sent_nanodollars=1,
        received_nanodollars=166_300,
        sent_packets=1,
        received_packets=2,
        retained_nanodollars=3,
        kept_nanodollars=4,
        carry_picodollars=5,
        congestion_picodollars=9000,
        backlog_bytes=0,
        dropped_packets=0,
        marked_packets=0,
        role="payer",
        role_refused_packets=0,
        role_refused_nanodollars=0,
        cut_packets=0,
        cut_nanodollars=0,
        unpaid_packets=0,
        peer_sent_nanodollars=None,
        peer_received_nanodollars=None,
        owed_by_us_nanodollars=0,
        owed_by_peer_nanodollars=0,
        settled_by_us_nanodollars=0,
        settled_by_peer_nanodollars=0,
        last_interval=0,
        standing="good",
        agrees=True,
        losses=(LossLine(direction="out", kind="loss", since_interval=1, interval=2, nanodollars=19),),
        settlements=(),
    )
    return GatewayStatus(
        name="R",
        as_number=64512,
        data_plane="running",
        open_grants=1,
        held_kept_nanodollars=0,
        links=(link,),
        counters={},
    )
