"""`hostagent probe`: options that make sense, what is shown at each width, and trouble as one line."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from probed_path import ProbedPath
from scripted_agent import FakeAgent

import cli.probe
from cartographer.measuring.ecn import DscpVerdict, EcnVerdict
from cartographer.measuring.packets import Transport
from cartographer.measuring.report import (
    Dscp,
    Ecn,
    Family,
    FlowLink,
    Hop,
    Interface,
    Loss,
    Mtu,
    ProbeReport,
    ProbeRequest,
    Share,
)
from cli.exit_codes import ExitCode
from cli.probe import probe
from cli.show.probe import ms, percent, probe_lines
from hostagent.desk import Refused

LONG = "2001:db8:1234:5678:9abc:def0:1234:{:x}"
ALL_OF_IT = [sys.executable, "-c", "from cli.probe import probe; probe()"]


def long_path() -> ProbeReport:
    """Everything that can be in a report, with the longest addresses that there are."""
    share = Share(ppm=123_456, least_ppm=100_000, most_ppm=150_000)
    hops = []
    for ttl in range(1, 12):
        several = tuple(
            Interface(
                address=LONG.format(0x1000 + 16 * ttl + number),
                answered=10 - number,
                name="a-rather-long-name-of-a-router.somewhere.example" if ttl == 3 else "",
                origin_as="64512",
                least_ns=123_456,
                mean_ns=12_345_678,
                worst_ns=1_234_567_890,
                deviation_ns=999_000,
            )
            for number in range(2 if ttl == 4 else 1)
        )
        silent = ttl == 7
        hops.append(
            Hop(
                ttl=ttl,
                interfaces=() if silent else several,
                sent=1000,
                answered=0 if silent else 871,
                loss=share,
                limited=ttl == 5,
                ecn=None if silent else 2,
                dscp=None if silent else 46,
            )
        )
    return ProbeReport(
        destination="far.example",
        address=LONG.format(0x1F00),
        transport=Transport.TCP,
        port=443,
        reached=True,
        final=True,
        rounds_done=1000,
        rounds=1000,
        hops=tuple(hops),
        loss=Loss(share=share, words="12.3 % lost (95 %: 10 % to 15 %), most of it between hop 2 and hop 3"),
        ecn=Ecn(verdict=EcnVerdict.BLEACHED, words="ECT(0) is cleared between hop 2 (…) and hop 3 (…)"),
        dscp=Dscp(verdict=DscpVerdict.KEPT, words="DSCP 46 is whole at the destination"),
        mtu=Mtu(bytes=1400, words="1400 bytes: 2001:db8::1 says so"),
        links=(
            FlowLink(ttl=3, near=LONG.format(0x1030), far=LONG.format(0x1040)),
            FlowLink(ttl=3, near=LONG.format(0x1030), far=LONG.format(0x1041)),
        ),
        packets_sent=12_345,
        seconds=1000.25,
        notes=("stopped early",),
    )


# -- what is shown ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120, 200])
def test_it_fits_and_no_address_is_cut(width: int) -> None:
    lines = probe_lines(long_path(), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for ttl in (1, 2, 4, 5, 11):
        assert LONG.format(0x1000 + 16 * ttl) in text
    assert LONG.format(0x1041) in text
    assert "871/1000~" in text
    assert "~ limits its answers" in text
    assert "bleached: ECT(0) is cleared" in text
    assert ("64512" in text) is (width >= 120)
    assert "note  stopped early" in text


def test_a_run_that_goes_on_says_what_it_does() -> None:
    now = msgspec.structs.replace(long_path(), final=False, doing="looking for the MTU", hops=(), seconds=1.5)
    lines = probe_lines(now, 80)
    assert lines[1] == "1000 of 1000 rounds, 12345 packets, 1.5 s: looking for the MTU"
    assert "nobody has answered yet" in lines


def test_names_of_strangers_are_harmless() -> None:
    report = long_path()
    evil = Interface(address="192.0.2.1", name="\x1b[31mred\x07", answered=1)
    shown = "\n".join(probe_lines(msgspec.structs.replace(report, hops=(Hop(ttl=1, interfaces=(evil,)),)), 80))
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_numbers_are_short() -> None:
    assert [ms(each) for each in (None, 12_345, 1_234_567, 99_960_000, 1_234_567_890)] == [
        *("", "0.01", "1.23", "100", "1235")
    ]
    assert [percent(each) for each in (0, 1_000, 99_000, 123_456, 1_000_000)] == [
        "0 %",
        "0.1 %",
        "9.9 %",
        "12 %",
        "100 %",
    ]


# -- options ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ProbeRequest]:
    """What the prober was asked; it answers with a long path."""
    requests: list[ProbeRequest] = []

    async def scripted(request: ProbeRequest, told: asyncio.Event, socket: Path) -> AsyncGenerator[ProbeReport, None]:
        requests.append(request)
        yield msgspec.structs.replace(long_path(), final=False)
        yield long_path()

    monkeypatch.setattr(cli.probe, "reports", scripted)
    return requests


def run(*words: str) -> Result:
    return CliRunner().invoke(probe, list(words))


def test_options_become_one_request(asked: list[ProbeRequest]) -> None:
    done = run(
        "far.example", "-6", "--tcp", "--port", "80", "--rounds", "3", "--interval", "0.5", "--no-ecn", "--no-names"
    )
    assert done.exit_code == 0, done.output
    (request,) = asked
    assert request.family is Family.IPV6
    assert (request.transport, request.port) == (Transport.TCP, 80)
    assert (request.rounds, request.interval_ms) == (3, 500)
    assert (request.ecn, request.names, request.mtu, request.multipath) == (False, False, True, False)
    assert run("far.example").exit_code == 0
    assert asked[1].transport is Transport.ICMP


def test_json_is_one_document_and_csv_has_a_row_for_each_interface(asked: list[ProbeRequest]) -> None:
    assert msgspec.json.decode(run("far.example", "--json").stdout, type=ProbeReport) == long_path()
    rows = list(csv.DictReader(io.StringIO(run("far.example", "--csv").stdout)))
    assert len(rows) == 12
    assert rows[0]["ecn_verdict"] == "bleached"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("far.example", "-4", "-6"), "exclude each other"),
        (("far.example", "--json", "--csv"), "exclude each other"),
        (("far.example", "--port", "80"), "ICMP has no ports"),
        (("far.example", "--udp", "--port", "0"), "1<=x<=65535"),
        (("far.example", "--udp", "--port", "70000"), "1<=x<=65535"),
        (("far.example", "--rounds", "0"), "1<=x<=1000"),
        (("two words",), "no destination"),
        (("",), "no destination"),
        ((), "Missing argument"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(
    words: tuple[str, ...], said: str, asked: list[ProbeRequest]
) -> None:
    done = run(*words)
    assert done.exit_code == ExitCode.USAGE
    assert said in done.output
    assert not asked


def test_without_the_right_to_raw_sockets_and_an_agent_one_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("dataplane.hardening.held_capabilities", frozenset)
    done = run("192.0.2.1", "--socket", str(tmp_path / "none.sock"))
    assert done.exit_code == ExitCode.ENVIRONMENT
    assert done.stderr == (
        "hostagent: probe 192.0.2.1: raw sockets are not allowed"
        " (run it with sudo, or have an agent running that does it for you: hostagent up)\n"
    )


def test_the_agent_probes_for_who_may_not(monkeypatch: pytest.MonkeyPatch, agent: FakeAgent) -> None:
    monkeypatch.setattr("dataplane.hardening.held_capabilities", frozenset)
    done = run("192.0.2.1", "--rounds", "3", "--socket", str(agent.socket))
    (asked,) = agent.desk.told
    assert isinstance(asked, ProbeRequest)
    assert (asked.destination, asked.rounds) == ("192.0.2.1", 3)
    assert done.exit_code == ExitCode.ENVIRONMENT
    assert "nothing is probed here" in done.stderr
    agent.desk.refusal = Refused("too-many-probes", "4 probes are under way: wait for one to end")
    assert run("192.0.2.1", "--socket", str(agent.socket)).exit_code == ExitCode.REFUSED


# -- the real one ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> Iterator[ProbedPath]:
    path = ProbedPath()
    yield path
    path.close()


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(net: ProbedPath) -> Command:
    def go(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(net.a.command(*ALL_OF_IT, *words), capture_output=True, text=True, check=False)

    return go


@pytest.mark.netns
@pytest.mark.parametrize("destination", ["10.8.4.2", "fd08:4::2"])
def test_a_real_path_as_a_table(command: Command, destination: str) -> None:
    done = command(destination, "--rounds", "2", "--interval", "0.05", "--no-names")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{destination} by ICMP"
    assert [line.split()[1] for line in lines[4:8]][-1] == destination
    assert "trusted: whole at the destination" in done.stdout
    assert "1500 bytes" in done.stdout


@pytest.mark.netns
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("::1", "-4"), ExitCode.USAGE, "hostagent: probe ::1: is no IPv4 address (leave out -4)\n"),
        (("224.0.0.1",), ExitCode.USAGE, "hostagent: probe 224.0.0.1: is no address of one host"),
    ],
)
def test_trouble_is_one_line_with_a_remedy(command: Command, words: tuple[str, ...], code: ExitCode, said: str) -> None:
    done = command(*words)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1
    assert "(" in done.stderr
    assert done.stderr.startswith(said)


@pytest.mark.netns
def test_no_route_is_the_environment_s_fault(net: ProbedPath, command: Command) -> None:
    net.a.run("ip", "-6", "route", "del", "default")
    try:
        done = command("2001:db8::7")
    finally:
        net.a.run("ip", "-6", "route", "add", "default", "via", "fd08:1::2")
    assert done.returncode == ExitCode.ENVIRONMENT
    assert done.stderr.startswith("hostagent: find a way to 2001:db8::7: ")
    assert "-4" in done.stderr


@pytest.mark.netns
def test_ctrl_c_in_a_terminal_shows_what_there_is(net: ProbedPath) -> None:
    controller, terminal = pty.openpty()
    arguments = net.a.command(*ALL_OF_IT, "10.8.4.2", "--rounds", "500", "--interval", "0.1", "--no-names")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(arguments, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    seen, told = b"", False
    while select.select([controller], [], [], 20)[0]:
        try:
            seen += os.read(controller, 65_536)
        except OSError:  # the terminal's other end is closed
            break
        if not told and b"10.8.4.2 " in seen.replace(b"10.8.4.2 by", b"") and b"measuring" in seen:
            told = True
            process.send_signal(signal.SIGINT)
    assert process.wait() == ExitCode.INTERRUPTED
    os.close(controller)
    last = seen.decode().rpartition("\x1b[J")[2]
    assert "10.8.3.2" in last
    assert "stopped early" in last
    assert last.strip().endswith("hostagent: interrupted")


def test_an_interval_that_is_no_number_is_a_wrong_option() -> None:
    result = CliRunner().invoke(probe, ["203.0.113.1", "--interval", "nan"])
    assert result.exit_code == ExitCode.USAGE
    assert "--interval" in result.output
