"""The prober's process, and whole runs over real packets: routers that misbehave in known ways are told apart."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import sys
import time
from collections.abc import Iterator

import pytest
from probed_path import DESTINATIONS, ProbedPath

from billpay.errors import EnvironmentFault
from cartographer.measuring.ecn import DscpVerdict, EcnVerdict, PeerVerdict
from cartographer.measuring.packets import Transport
from cartographer.measuring.report import Family, ProbeReport, ProbeRequest, Trouble, TroubleKind, read_line
from cartographer.measuring.run import Means, Run
from cartographer.measuring.worker import Refused, own_end, resolve

BOTH = (4, 6)
HOPS = {
    4: ("10.8.1.2", "10.8.2.2", "10.8.3.2", "10.8.4.2"),
    6: ("fd08:1::2", "fd08:2::2", "fd08:3::2", "fd08:4::2"),
}


@pytest.fixture(scope="module")
def net() -> Iterator[ProbedPath]:
    path = ProbedPath()
    yield path
    path.close()


async def one(request: ProbeRequest) -> ProbeReport:
    from cartographer.measuring.wire import WireProber, WireTerms

    with WireProber(WireTerms(packets_per_s=1000)) as prober:
        means = Means(
            prober=prober,
            pause=lambda nanoseconds: asyncio.sleep(nanoseconds / 1e9),
            clock_ns=time.monotonic_ns,
            draw=random.Random(1).randrange,
            link_bytes=own_end(request.destination)[1],
            own_address=own_end(request.destination)[0],
        )
        reports = [report async for report in Run(request, request.destination, means).steps()]
    assert [report.final for report in reports[:-1]] == [False] * (len(reports) - 1)
    assert reports[-1].final
    return reports[-1]


def probed(net: ProbedPath, **options: object) -> dict[int, ProbeReport]:
    """IPv4 and IPv6 at once."""

    async def go() -> list[ProbeReport]:
        words: dict[str, object] = {"rounds": 2, "interval_ms": 20, "wait_ms": 300, **options}
        return await asyncio.gather(
            *(one(ProbeRequest(destination=DESTINATIONS[v], **words)) for v in BOTH)  # type: ignore[arg-type]
        )

    return dict(zip(BOTH, net.a.call(lambda: asyncio.run(go())), strict=True))


def addresses(report: ProbeReport) -> tuple[str, ...]:
    return tuple(hop.interfaces[0].address if hop.interfaces else "" for hop in report.hops)


@pytest.mark.netns
@pytest.mark.expectation(19)
@pytest.mark.parametrize("transport", list(Transport))
def test_a_good_path_is_seen_as_it_is(net: ProbedPath, transport: Transport) -> None:
    for version, report in probed(net, transport=transport).items():
        assert addresses(report) == HOPS[version]
        assert report.reached
        assert report.loss.share is not None
        assert report.loss.share.ppm == 0
        assert report.ecn is not None
        assert report.ecn.verdict is EcnVerdict.TRUSTED, report.ecn
        assert report.ecn.words == "whole at the destination"
        assert report.dscp is not None
        assert report.dscp.verdict is DscpVerdict.KEPT
        assert report.mtu is not None
        assert (report.mtu.bytes, report.mtu.swallowed) == (1500, False)
        if transport is Transport.ICMP:
            assert report.ecn.returns is EcnVerdict.TRUSTED


@pytest.mark.netns
@pytest.mark.expectation(19)
def test_bleaching_and_a_remarked_dscp_are_placed(net: ProbedPath) -> None:
    bleaching = net.rules(net.r1, "forward", "ip ecn set not-ect", "ip6 ecn set not-ect")
    remarking = net.rules(net.r2, "forward", "ip dscp ef ip dscp set af11", "ip6 dscp ef ip6 dscp set af11")
    with bleaching, remarking:
        found = probed(net, mtu=False)
    for report in found.values():
        assert report.ecn is not None
        assert (report.ecn.verdict, report.ecn.between_ttls) == (EcnVerdict.BLEACHED, (1, 2)), report.ecn
        assert not report.ecn.marks_survive
        assert report.dscp is not None
        assert (report.dscp.verdict, report.dscp.between_ttls) == (DscpVerdict.REMARKED, (2, 3)), report.dscp
        assert "DSCP 46 becomes 10" in report.dscp.words
        assert [hop.ecn for hop in report.hops] == [2, 0, 0, 0]
        assert [hop.dscp for hop in report.hops] == [46, 46, 10, 10]


@pytest.mark.netns
@pytest.mark.expectation(19)
def test_a_router_that_drops_ect_is_a_black_hole_with_a_place(net: ProbedPath) -> None:
    with net.rules(net.r2, "forward", "ip ecn != not-ect drop", "ip6 ecn != not-ect drop"):
        found = probed(net, mtu=False)
    for report in found.values():
        assert report.ecn is not None
        assert (report.ecn.verdict, report.ecn.between_ttls) == (EcnVerdict.DROPPED, (2, 3)), report.ecn
        assert report.loss.share is not None
        assert report.loss.share.ppm == 0
        assert report.dscp is not None
        assert report.dscp.verdict is DscpVerdict.KEPT


@pytest.mark.netns
@pytest.mark.expectation(19)
def test_a_server_s_answer_to_ecn_is_read_and_a_dropped_syn_found(net: ProbedPath) -> None:
    listening = (
        "import socket; s=socket.create_server(('::',443),family=10,dualstack_ipv6=True); print(1,flush=1); s.accept()"
    )
    server = net.b.popen(sys.executable, "-c", listening, stdout=-1)
    try:
        assert server.stdout is not None
        server.stdout.readline()
        agrees = probed(net, transport=Transport.TCP, mtu=False)
        with net.sysctl(net.b, "net.ipv4.tcp_ecn=0"):
            refuses = probed(net, transport=Transport.TCP, mtu=False)
        with net.rules(net.r3, "forward", "tcp flags & (syn | ecn | cwr) == syn | ecn | cwr drop"):
            drops = probed(net, transport=Transport.TCP, mtu=False)
    finally:
        server.kill()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()
    wanted = (
        (agrees, PeerVerdict.AGREES, EcnVerdict.TRUSTED),
        (refuses, PeerVerdict.REFUSES, EcnVerdict.REFUSED),
        (drops, PeerVerdict.SYN_DROPPED, EcnVerdict.DROPPED),
    )
    for reports, peer, verdict in wanted:
        for report in reports.values():
            assert report.ecn is not None
            assert (report.ecn.peer, report.ecn.verdict) == (peer, verdict), report.ecn


@pytest.mark.netns
def test_a_narrow_link_that_says_so_and_one_that_is_kept_quiet(net: ProbedPath) -> None:
    quiet = ("icmp type destination-unreachable icmp code frag-needed drop", "icmpv6 type packet-too-big drop")
    with net.narrow(1380):
        told = probed(net, ecn=False)
        for flag in ("-4", "-6"):  # what our kernel has learnt from that
            net.a.run("ip", flag, "route", "flush", "cache")
        with net.rules(net.r2, "output", *quiet):
            swallowed = probed(net, ecn=False)
    for version in BOTH:
        mtu = told[version].mtu
        assert mtu is not None
        assert (mtu.bytes, mtu.said_by, mtu.swallowed) == (1380, HOPS[version][1], False), mtu
        assert mtu.between_ttls == (2, 3)
        mtu = swallowed[version].mtu
        assert mtu is not None
        assert (mtu.bytes, mtu.said_by, mtu.swallowed) == (1380, "", True), mtu
        assert mtu.between_ttls == (2, 3)


@pytest.mark.netns
@pytest.mark.expectation(21)
def test_a_silent_hop_and_one_that_limits_its_answers_lose_nothing(net: ProbedPath) -> None:
    silent = net.rules(net.r1, "output", "icmp type time-exceeded drop", "icmpv6 type time-exceeded drop")
    limited = net.sysctl(net.r2, "net.ipv4.icmp_ratelimit=1000", "net.ipv6.icmp.ratelimit=1000")
    with silent, limited:
        found = probed(net, rounds=40, ecn=False, mtu=False)
    for version, report in found.items():
        assert addresses(report) == ("", *HOPS[version][1:])
        assert report.hops[1].limited, report.hops[1]
        assert report.hops[1].answered < 20
        assert [hop.loss.ppm for hop in report.hops if hop.loss] == [0, 0, 0, 0]
        assert report.loss.share is not None
        assert report.loss.share.ppm == 0
        assert report.loss.between_ttls is None


@pytest.mark.netns
@pytest.mark.expectation(21)
def test_real_loss_is_counted_and_placed(net: ProbedPath) -> None:
    with net.rules(net.r2, "forward", "numgen random mod 100 < 30 drop"):
        found = probed(net, rounds=80, ecn=False, mtu=False, interval_ms=15, wait_ms=200, max_slow_seconds=0)
    for report in found.values():
        share = report.loss.share
        assert share is not None
        assert share.least_ppm < 300_000 < share.most_ppm or 150_000 < share.ppm < 450_000
        assert report.loss.between_ttls == (2, 3), report.loss
        assert [hop.loss.ppm for hop in report.hops[:2] if hop.loss] == [0, 0]
        assert not report.loss.limited


@pytest.mark.netns
@pytest.mark.expectation(21)
def test_a_destination_that_limits_its_answers_is_asked_more_slowly(net: ProbedPath) -> None:
    rule = "{0} type echo-request limit rate over 8/second burst 1 packets drop"
    with net.rules(net.b, "input", *(rule.format(name) for name in ("icmp", "icmpv6"))):
        found = probed(net, rounds=40, interval_ms=40, ecn=False, mtu=False)
    for report in found.values():
        assert report.loss.limited, report.loss
        assert report.loss.share is not None
        assert report.loss.share.ppm == 0
        assert "limits its answers" in report.loss.words


# --- the process ------------------------------------------------------------------------------------------------------


async def worker(net: ProbedPath, text: str) -> tuple[int, list[ProbeReport | Trouble]]:
    arguments = net.a.command(sys.executable, "-m", "cartographer.measuring.worker")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe)
    out, _ = await process.communicate(text.encode())
    assert process.returncode is not None
    return process.returncode, [read_line(line) for line in out.splitlines()]


@pytest.mark.netns
async def test_the_process_writes_lines_and_a_last_one(net: ProbedPath) -> None:
    code, lines = await worker(net, '{"destination":"10.8.4.2","rounds":3,"interval_ms":50,"names":false}')
    assert code == 0
    last = lines[-1]
    assert isinstance(last, ProbeReport)
    assert last.final
    assert addresses(last) == HOPS[4]
    assert last.packets_sent < 60


@pytest.mark.netns
async def test_bounds_end_a_run_with_what_there_is(net: ProbedPath) -> None:
    text = '{"destination":"10.8.4.2","rounds":9,"interval_ms":10,"max_packets":20,"names":false}'
    code, lines = await worker(net, text)
    assert code == 0
    last = lines[-1]
    assert isinstance(last, ProbeReport)
    assert last.final
    assert last.packets_sent <= 20
    assert "stopped" in last.notes[0]


@pytest.mark.netns
async def test_a_signal_ends_it_with_a_final_report(net: ProbedPath) -> None:
    arguments = net.a.command(sys.executable, "-m", "cartographer.measuring.worker")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b'{"destination":"fd08:4::2","rounds":900,"names":false}')
    process.stdin.close()
    first = read_line(await process.stdout.readline())
    assert isinstance(first, ProbeReport)
    process.terminate()
    rest = await process.stdout.read()
    assert await process.wait() == 0
    last = read_line(rest.splitlines()[-1])
    assert isinstance(last, ProbeReport)
    assert last.final
    assert last.notes == ("stopped early",)


@pytest.mark.netns
async def test_no_route_and_a_bad_request_are_one_line(net: ProbedPath) -> None:
    code, lines = await worker(net, '{"destination":"10.8.4.2","ports":1}')
    assert code == 1
    assert isinstance(lines[0], Trouble)
    assert lines[0].error is TroubleKind.USAGE
    assert "ports" in lines[0].cause
    net.a.run("ip", "-6", "route", "del", "default")
    try:
        code, lines = await worker(net, '{"destination":"2001:db8::1"}')
    finally:
        net.a.run("ip", "-6", "route", "add", "default", "via", "fd08:1::2")
    assert code == 1
    assert isinstance(lines[0], Trouble)
    assert lines[0].error is TroubleKind.ENVIRONMENT
    assert "IPv6" in lines[0].remedy


@pytest.mark.parametrize(
    ("destination", "family", "word"),
    [
        ("192.0.2.1", Family.IPV6, "IPv6"),
        ("2001:db8::1", Family.IPV4, "IPv4"),
        ("224.0.0.1", Family.ANY, "one host"),
        ("255.255.255.255", Family.ANY, "one host"),
        ("0.0.0.0", Family.ANY, "one host"),
        ("ff02::1", Family.ANY, "one host"),
        ("fe80::1", Family.ANY, "own link"),
    ],
)
async def test_what_is_no_destination_is_refused(destination: str, family: Family, word: str) -> None:
    with pytest.raises(Refused, match=word):
        await resolve(destination, family)


async def test_addresses_are_written_in_one_way() -> None:
    assert await resolve("2001:DB8:0::1", Family.ANY) == "2001:db8::1"
    assert await resolve("::ffff:192.0.2.1", Family.ANY) == "192.0.2.1"
    assert await resolve("localhost", Family.IPV4) == "127.0.0.1"


@pytest.mark.parametrize(
    ("number", "family", "kind", "said"),
    [
        (socket.EAI_NONAME, Family.ANY, Refused, "no such host"),
        (socket.EAI_NONAME, Family.IPV6, Refused, "it has no IPv6 address.*try -4"),
        (socket.EAI_AGAIN, Family.ANY, EnvironmentFault, "no name server answers"),
    ],
)
async def test_names_that_cannot_be_looked_up(
    monkeypatch: pytest.MonkeyPatch, number: int, family: Family, kind: type[Exception], said: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "scripted")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(kind) as caught:
        await resolve("far.example", family)
    assert re.search(said, str(caught.value))
