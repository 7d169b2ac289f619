"""The campus service over TLS: what it takes and gives, and what strangers, liars and broken hosts get."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from campus_reports import MS, OTHER_WAY, PREFIX, WAY, line, report, vouched
from campus_service import Campus
from click.testing import CliRunner

from billpay.errors import ConfigurationError, EnvironmentFault, RemoteProtocolError
from billpay.messages import Signed
from cartographer.campus.client import CampusClient, CampusCourier, description_of
from cartographer.campus.configuration import IspSection, load
from cartographer.campus.messages import (
    DESCRIPTIONS_MAX,
    ESTIMATES_MAX,
    LINES_MAX,
    RELAYED_BYTES_MAX,
    RELAYED_MAX,
    REPORT_BYTES_MAX,
    Descriptions,
    FoundOut,
    Prior,
    Priors,
    PriorsRequest,
    Receipt,
    Report,
    Vouched,
)
from cartographer.campus.own import OwnSamples, primed
from cartographer.campus.reporting import Reporter
from cartographer.campus.server import CampusServer
from cartographer.campus.status import read_status
from cartographer.chooser import Chooser
from cartographer.costing import belief_of
from cartographer.statistics import WayStatistics
from cartographer.values import Quantity, Wants
from cli.cartographer_serve import serve, status
from cli.exit_codes import ExitCode
from lab.simulator.chance import stream
from neighbour.control import ANSWER_BYTES_MAX, Unreachable
from neighbour.identity import NodeIdentity

QUESTION = PriorsRequest(prefixes=(PREFIX,))


@pytest.fixture
def campus(tmp_path: Path) -> Campus:
    return Campus(tmp_path, hosts=6)


@contextlib.asynccontextmanager
async def clients(campus: Campus, server: CampusServer) -> AsyncIterator[list[CampusClient]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(campus.client(server, host)) for host in campus.hosts]


async def refusal(call: object) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        await call  # type: ignore[misc]
    return caught.value.code


class RawClient(CampusClient):
    """Says whatever a test wants."""

    async def raw(self, path: str, body: bytes) -> tuple[int, dict[str, str]]:
        status, answer = await self._exchange("POST", self.url + path, io.BytesIO(body), None)  # type: ignore[arg-type]
        return status, json.loads(answer)


@pytest.mark.row("BP-32")
async def test_hosts_report_and_get_back_what_the_others_know(campus: Campus) -> None:
    async with campus.running() as server, clients(campus, server) as hosts:
        for number, host in enumerate(hosts[:4]):
            assert await hosts[5].priors(QUESTION) == Priors() or number == 3
            said = report(1, line(50 + number), line(20, way=OTHER_WAY), findings=(FoundOut(as_number=7, kind="lies"),))
            assert (await host.report(said)).sequence == 1
        answer = await hosts[5].priors(QUESTION)
        assert {(one.way, one.quantity, one.hosts) for one in answer.estimates} == {
            (WAY, Quantity.DELAY_NS, 4),
            (OTHER_WAY, Quantity.DELAY_NS, 4),
        }
        delay = next(one for one in answer.estimates if one.way == WAY)
        assert delay.value == pytest.approx(51.5 * MS, rel=0.01)
        assert [(one.as_number, one.hosts) for one in answer.findings] == [(7, 4)]
        mine = await hosts[0].priors(QUESTION)  # its own 50 ms are not in it
        assert next(one for one in mine.estimates if one.way == WAY).value == pytest.approx(52 * MS, rel=0.01)
        elsewhere = PriorsRequest(place="north", prefixes=(PREFIX,))
        assert await hosts[5].priors(elsewhere) == Priors(findings=answer.findings)


async def test_a_stranger_does_not_get_in(campus: Campus, tmp_path: Path) -> None:
    stranger = campus.identity("stranger")
    async with campus.running() as server:
        async with campus.client(server, stranger) as client:
            with pytest.raises(Unreachable):
                await client.report(report(1, line()))
        impostor = NodeIdentity.load_or_create(tmp_path / "impostor", name=campus.hosts[0].name)
        async with campus.client(server, impostor) as client:  # the right name with the wrong key
            with pytest.raises(Unreachable):
                await client.priors(QUESTION)
        async with CampusClient(campus.hosts[0], stranger.certificate, server.urls[0]) as client:
            with pytest.raises(Unreachable):  # nor does a host talk to another server
                await client.priors(QUESTION)
        assert (await server.status()).reports == 0


@pytest.mark.row("BP-32")
async def test_a_narrower_prefix_is_refused_and_nothing_of_the_report_is_taken(campus: Campus) -> None:
    async with campus.running() as server, clients(campus, server) as hosts:
        narrow = report(1, line(), line(prefix="198.51.100.7/32"))
        assert await refusal(hosts[0].report(narrow)) == "narrow-prefix"
        assert await refusal(hosts[0].priors(PriorsRequest(prefixes=("198.51.100.7/32",)))) == "narrow-prefix"
        assert await refusal(hosts[0].priors(PriorsRequest(prefixes=("here",)))) == "bad-prefix"
        found = await server.status()
        assert (found.lines, found.reports, found.refused) == (0, 0, 3)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/reports", b'{"sequence": 1, "lines": [{"mean": NaN}]}', (400, "malformed")),
        ("/v1/reports", b'{"sequence": 1e400}', (400, "malformed")),
        ("/v1/reports", b'{"sequence": 1, "program": "ssh"}', (400, "malformed")),
        ("/v1/reports", b"[" * 100_000, (400, "malformed")),
        ("/v1/reports", b"\xff\xfe", (400, "malformed")),
        ("/v1/reports", b" " * (REPORT_BYTES_MAX + 1), (413, "too-large")),
        ("/v1/priors", msgspec.json.encode({"prefixes": [PREFIX] * 129}), (400, "malformed")),
        ("/v1/elsewhere", b"", (404, "unknown-path")),
    ],
)
async def test_what_cannot_be_is_one_line_for_the_sender(
    campus: Campus, path: str, body: bytes, said: tuple[int, str]
) -> None:
    async with campus.running() as server, RawClient(campus.hosts[0], server.certificate, server.urls[0]) as client:
        number, problem = await client.raw(path, body)
        assert (number, problem["code"]) == said
        assert "\n" not in problem["message"]
        assert (await server.status()).lines == 0


async def test_who_sends_slowly_does_not_take_up_room(campus: Campus, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never_whole() -> AsyncIterator[bytes]:
        yield b'{"sequence": 1, '
        await asyncio.Event().wait()

    monkeypatch.setattr("cartographer.campus.server.BODY_S", 0.05)
    async with campus.running() as server, campus.client(server, campus.hosts[0]) as client:
        status, answer = await client._exchange("POST", client.url + "/v1/reports", never_whole(), None)  # type: ignore
        assert (status, json.loads(answer)["code"]) == (408, "too-slow")


async def test_replay_changes_nothing(campus: Campus) -> None:
    async with campus.running() as server, clients(campus, server) as hosts:
        for host in hosts[:3]:
            await host.report(report(1, line(50)))
        before = await hosts[5].priors(QUESTION)
        latest = await hosts[0].report(report(2, line(50)))
        assert await hosts[0].report(report(1, line(999))) == latest
        assert await hosts[0].report(report(2, line(999))) == latest
        assert await hosts[5].priors(QUESTION) == before


@pytest.mark.row("BP-32")
@pytest.mark.parametrize("lie_ms", [0, 1, 60_000])
async def test_a_lying_host_moves_nothing(campus: Campus, lie_ms: int) -> None:
    async with campus.running() as server, clients(campus, server) as hosts:
        for number, host in enumerate(hosts[:4]):
            await host.report(report(1, line(50 + number / 10)))
        await hosts[4].report(report(1, line(lie_ms, count=1_000_000, spread=1)))
        (found,) = (await hosts[5].priors(QUESTION)).estimates
        assert found.hosts == 4
        assert found.value == pytest.approx(50 * MS, rel=0.01)


async def test_who_calls_too_often_is_refused_and_others_are_not(tmp_path: Path) -> None:
    campus = Campus(tmp_path, hosts=2, reports_per_minute=2, questions_per_minute=1)
    async with campus.running() as server, clients(campus, server) as (eager, other):
        for sequence in (1, 2):
            await eager.report(report(sequence, line()))
        assert await refusal(eager.report(report(3, line()))) == "too-many-calls"
        await eager.priors(QUESTION)
        assert await refusal(eager.descriptions()) == "too-many-calls"
        await other.report(report(1, line()))
        campus.now_ns += 30 * 10**9
        await eager.report(report(3, line()))


async def test_everything_is_there_after_a_restart(campus: Campus) -> None:
    async with campus.running() as server, clients(campus, server) as hosts:
        for host in hosts[:3]:
            await host.report(report(3, line(50)))
        before = await hosts[5].priors(QUESTION)
    campus.unix_s += 300
    async with campus.running() as server, clients(campus, server) as hosts:
        after = await hosts[5].priors(QUESTION)
        assert [one.value for one in after.estimates] == [one.value for one in before.estimates] != []
        assert [one.age_periods for one in after.estimates] == [1]
        assert (await hosts[0].report(report(2, line(999)))).sequence == 3


async def test_a_host_that_is_put_out_takes_along_what_it_said(campus: Campus) -> None:
    async with campus.running() as server, clients(campus, server) as hosts:
        for host in hosts[:4]:
            await host.report(report(1, line(50)))
        assert (await server.status()).reporting_hosts == 4
        campus.put_out(campus.hosts[0])
        newcomer = campus.identity("newcomer")
        campus.admit(newcomer)
        await server.reload()
        assert await refusal(hosts[0].priors(QUESTION)) == "not-admitted"  # on the connection that it still has
        async with campus.client(server, campus.hosts[0]) as again:
            with pytest.raises(Unreachable):
                await again.priors(QUESTION)
        async with campus.client(server, newcomer) as new:
            assert len((await new.priors(QUESTION)).estimates) == 1
        found = await server.status()
        assert (found.admitted_hosts, found.reporting_hosts) == (6, 3)
        campus.write_configuration().write_text("[campus]\n")
        with pytest.raises(ConfigurationError):
            await server.reload()
        assert (await server.status()).admitted_hosts == 6


async def test_what_is_old_is_forgotten(campus: Campus) -> None:
    async with campus.running() as server, clients(campus, server) as hosts:
        for host in hosts[:3]:
            await host.report(report(1, line(50)))
        campus.unix_s += 8 * 86_400
        assert await hosts[5].priors(QUESTION) == Priors()
        await server._forget()
        assert (await server.status()).lines == 0


async def test_descriptions_come_from_hosts_behind_other_gateways(campus: Campus, tmp_path: Path) -> None:
    isp = NodeIdentity.load_or_create(tmp_path / "isp", name="isp", draw=lambda size: bytes([1]) * size)
    campus.isps = (IspSection(as_number=64512, certificate=str(isp.certificate_path)),)
    async with campus.running() as server, clients(campus, server) as hosts:
        await hosts[0].report(report(1, descriptions=(vouched(1), vouched(3, as_number=64513))))
        (found,) = await hosts[1].descriptions()  # of the other ISP nobody knows the key, and one host is not enough
        assert description_of(found).alternatives[0].title == "fibre"
        for host in hosts[1:4]:
            await host.report(report(1, descriptions=(vouched(3, as_number=64513),)))
        assert [description_of(one).as_number for one in await hosts[5].descriptions()] == [64512, 64513]


async def test_forged_descriptions_are_refused(campus: Campus, tmp_path: Path) -> None:
    isp = NodeIdentity.load_or_create(tmp_path / "isp", name="isp", draw=lambda size: bytes([1]) * size)
    campus.isps = (IspSection(as_number=64512, certificate=str(isp.certificate_path)),)
    right = vouched(1)
    changed = Signed(
        kind=right.signed.kind,
        document=right.signed.document.replace(b"fibre", b"fiber"),
        signer=right.signed.signer,
        signature=right.signed.signature,
    )
    async with campus.running() as server, clients(campus, server) as hosts:

        async def code(one: Vouched) -> str:
            return await refusal(hosts[0].report(report(1, line(), descriptions=(one,))))

        assert await code(Vouched(signed=changed, public_key=right.public_key)) == "bad-signature"
        assert await code(Vouched(signed=right.signed, public_key=vouched(2).public_key)) == "wrong-signer"
        assert await code(vouched(3, as_number=7, prefix="here\0")) == "bad-prefix"
        assert await code(vouched(2)) == "wrong-signer"  # well signed, by another key than that ISP's
        assert (await server.status()).lines == 0


async def test_a_database_that_fails_is_a_refusal_and_shows(campus: Campus, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> Receipt:
        raise EnvironmentFault("use database", "/x", "disk full")

    async with campus.running() as server, clients(campus, server) as hosts:
        with monkeypatch.context() as patch:
            patch.setattr(type(server._store), "take", fails)
            assert await refusal(hosts[0].report(report(1, line()))) == "out-of-order-here"
        assert "disk full" in server.status_line()
        await server._forget()
        assert server.status_line() == "6 hosts admitted, 0 reports, 0 questions"


def courier(
    client: CampusClient, *, lines: OwnSamples, told: list[str], reporter: Reporter, now_ns: int
) -> CampusCourier:
    return CampusCourier(
        client, reporter, quality=lambda: lines.quality(now_ns), tell=told.append, now_ns=lambda: now_ns
    )


async def test_a_service_that_is_away_is_normal(campus: Campus) -> None:
    told: list[str] = []
    reporter, lines = Reporter(lambda: 0.5), OwnSamples()
    measured = lines.of("198.51.100.7", WAY)
    assert measured is not None
    measured.on_sample(Quantity.DELAY_NS, 50 * MS, 0)
    async with campus.running() as server:
        away = server.urls[0]
    async with CampusClient(campus.hosts[0], server.certificate, away) as client:
        one = courier(client, lines=lines, told=told, reporter=reporter, now_ns=0)
        assert [await one.exchange() for _ in range(2)] == [False, False]
    assert len(told) == 1
    assert away in one.trouble
    assert reporter.wait_ns(0) == 60 * 10**9
    async with campus.running() as server, campus.client(server, campus.hosts[0]) as client:
        again = courier(client, lines=lines, told=told, reporter=reporter, now_ns=0)
        assert await again.exchange()
        assert (await server.status()).lines == 1  # nothing was lost


async def test_a_host_that_was_set_up_anew_is_heard_at_once(campus: Campus) -> None:
    lines = OwnSamples()
    measured = lines.of("198.51.100.7", WAY)
    assert measured is not None
    measured.on_sample(Quantity.DELAY_NS, 50 * MS, 0)
    async with campus.running() as server, campus.client(server, campus.hosts[0]) as client:
        await client.report(report(40, line(70)))
        assert await courier(client, lines=lines, told=[], reporter=Reporter(lambda: 0.5), now_ns=0).exchange()
        assert (await client.report(report(1))).sequence == 41


@pytest.mark.row("BP-32")
async def test_twenty_hosts_find_the_best_of_eight_ways_with_four_samples_each(tmp_path: Path) -> None:
    """Each has measured three of the ways, with a noise of a third: alone no one could know; then they all exchange."""
    campus = Campus(tmp_path, hosts=20)
    means_ms = {f"AS64512:{number}": 60.0 + 8 * number for number in range(1, 9)}
    wants, destination, now_ns = Wants(delay_nanodollars_per_ms=1000), "198.51.100.7", 10**9
    chosen: dict[bool, list[str]] = {False: [], True: []}
    async with campus.running() as server:
        known = []
        for number, client in enumerate([campus.client(server, host) for host in campus.hosts]):
            chance, own, reporter = stream(1, "host", number), OwnSamples(), Reporter(lambda: 0.5)
            reporter.priors(destination, now_ns)
            for way in chance.sample(sorted(means_ms), 3):
                statistics = own.of(destination, way)
                assert statistics is not None
                for _ in range(4):
                    statistics.on_sample(Quantity.DELAY_NS, chance.gauss(1, 0.3) * means_ms[way] * MS, now_ns)
            known.append((client, own, reporter))
        for _ in range(2):  # who came first learns from who came last
            for client, own, reporter in known:
                assert await courier(client, lines=own, told=[], reporter=reporter, now_ns=now_ns).exchange()
        for client, own, reporter in known:
            await client.close()
            for shared in (False, True):
                beliefs = []
                for way in means_ms:
                    fresh = primed(reporter, own, destination, way, now_ns) if shared else None
                    alone = WayStatistics()
                    if (estimate := own.estimate(destination, way, Quantity.DELAY_NS, now_ns)) is not None:
                        alone.on_prior(Quantity.DELAY_NS, estimate)
                    belief = belief_of(way, fresh or alone, wants, now_ns=now_ns)
                    assert belief is not None
                    beliefs.append(replace(belief, measured_ns=now_ns))
                chooser = Chooser()
                chooser.deliberate(beliefs, now_ns=now_ns)
                assert chooser.current is not None
                chosen[shared].append(chooser.current)
    regrets = {shared: sum(means_ms[way] for way in ways) / 20 / 68 - 1 for shared, ways in chosen.items()}
    assert regrets[True] < 0.05 < 3 * 0.05 < regrets[False]


# --- the command ------------------------------------------------------------------------------------------------------


def started(path: Path) -> tuple[subprocess.Popen[bytes], dict[str, object]]:
    program = "from cli.cartographer_serve import serve; serve()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--config", str(path), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    try:
        return process, json.loads(said)
    except ValueError:
        ended(process, signal.SIGKILL)
        raise


def ended(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    process.send_signal(number)
    assert process.stdout is not None
    process.stdout.close()
    return process.wait(10)


async def test_the_command_listens_and_ends_in_good_order_and_a_kill_loses_nothing(
    campus: Campus,
) -> None:
    path, socket = campus.write_configuration(), campus.directory / "service" / "status.sock"
    process, ready = started(path)
    certificate = NodeIdentity.load_or_create(campus.directory / "service", name="cartographer").certificate
    assert (ready["event"], ready["hosts"]) == ("ready", 6)
    (url,) = ready["listen"]  # type: ignore[misc]
    async with CampusClient(campus.hosts[0], certificate, str(url)) as client:
        await client.report(report(1, line(50)))
    ended(process, signal.SIGKILL)
    process, _ = started(path)
    try:
        found = await read_status(socket)
        assert (found.database, found.lines, found.reporting_hosts, found.reports) == ("sqlite", 1, 1, 0)
    finally:
        assert ended(process, signal.SIGTERM) == 0


async def test_status_for_people_and_programs(campus: Campus) -> None:
    async with campus.running() as server, clients(campus, server) as hosts:
        await hosts[0].report(report(1, line(50)))
        socket = str(campus.configuration.status_socket)
        assert campus.configuration.status_socket.stat().st_mode & 0o777 == 0o600
        shown = await asyncio.to_thread(CliRunner().invoke, status, ["--socket", socket])
        assert shown.exit_code == 0
        assert "6 admitted, 1 with something that counts" in shown.output
        read = await asyncio.to_thread(CliRunner().invoke, status, ["--socket", socket, "--json"])
        assert json.loads(read.output)["lines"] == 1
    for text in (shown.output, read.output):
        assert PREFIX not in text
        assert campus.hosts[0].fingerprint not in text
    gone = await asyncio.to_thread(CliRunner().invoke, status, ["--socket", socket])
    assert gone.exit_code == ExitCode.UNREACHABLE


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"listen": '["127.0.0.1:99999"]'}, "campus.listen[0]: 99999 is no port"),
        ({"listen": '["localhost:1"]'}, "campus.listen"),
        ({"database": '"mysql://x"'}, "campus.database: mysql:// is not known"),
        ({"databse": '"x"'}, "did you mean database?"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    keys = {"state_directory": f'"{tmp_path}"', "listen": '["127.0.0.1:0"]'} | changes
    path = tmp_path / "cartographer.toml"
    text = "".join(f"{key} = {value}\n" for key, value in keys.items())
    path.write_text(f'[campus]\n{text}[hosts]\ndirectory = "{tmp_path}"\n')
    shown = CliRunner().invoke(serve, ["--config", str(path)])
    assert shown.exit_code == ExitCode.CONFIGURATION
    assert said in shown.output
    assert len(shown.output.strip().splitlines()) == 1


def test_nobody_admitted_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "cartographer.toml"
    path.write_text(f'[campus]\nstate_directory = "{tmp_path}"\nlisten = ["127.0.0.1:0"]\n')
    with pytest.raises(ConfigurationError, match="nobody is admitted"):
        load(path)


def test_every_message_is_bounded() -> None:
    """The largest report fits into what the server reads, the largest answer into what a host reads."""
    largest = line(
        prefix="2001:db8:ffff::/48", way=" ".join(["AS65535:11"] * 14), count=10**6, mean=6 * 10**10, spread=6 * 10**10
    )
    small = vouched()
    signed = msgspec.structs.replace(small.signed, document=b"x" * 65_536)
    whole = Report(
        sequence=2**53,
        lines=(largest,) * LINES_MAX,
        descriptions=(Vouched(signed=signed, public_key=small.public_key),) * DESCRIPTIONS_MAX,
    )
    assert len(msgspec.json.encode(whole)) < REPORT_BYTES_MAX
    estimate = Prior(
        prefix=largest.prefix,
        way=largest.way,
        quantity=Quantity.FORWARD_TOLL_PICODOLLARS,
        value=10**12,
        uncertainty=10**12,
        spread=10**12,
        samples_milli=10**6,
        hosts=10**6,
        age_periods=8_640,
    )
    assert len(msgspec.json.encode(Priors(estimates=(estimate,) * ESTIMATES_MAX))) < ANSWER_BYTES_MAX
    document = b"x" * (RELAYED_BYTES_MAX // RELAYED_MAX)
    one = Vouched(signed=msgspec.structs.replace(signed, document=document), public_key=small.public_key)
    assert len(msgspec.json.encode(Descriptions(descriptions=(one,) * RELAYED_MAX))) < ANSWER_BYTES_MAX
