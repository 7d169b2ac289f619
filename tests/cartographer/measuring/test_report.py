"""Requests and reports as documents, what a run gathers, and its rows for a spreadsheet."""

from __future__ import annotations

import asyncio
import csv
import io
import random

import msgspec
import pytest
from scripted_path import ScriptedPath, path

from cartographer.measuring.ecn import EcnVerdict
from cartographer.measuring.gathering import Gathering, Named
from cartographer.measuring.packets import Answer, AnswerKind, Transport
from cartographer.measuring.report import (
    CSV_COLUMNS,
    Ecn,
    Hop,
    Interface,
    ProbeReport,
    ProbeRequest,
    Trouble,
    TroubleKind,
    csv_text,
    read_line,
)
from cartographer.measuring.run import Means, Run


async def ran(way: ScriptedPath, **options: object) -> list[ProbeReport]:
    request = ProbeRequest(destination="far.example", **options)  # type: ignore[arg-type]
    means = Means(
        prober=way,
        pause=way.pause,
        clock_ns=lambda: way.now_ns,
        draw=random.Random(1).randrange,
        link_bytes=1500,
    )
    return [report async for report in Run(request, way.routers[-1].address, means).steps()]


@pytest.mark.parametrize(
    "text",
    [
        '{"destination":""}',
        '{"destination":"a b"}',
        '{"destination":"a\\u001bb"}',
        '{"destination":"x","port":0}',
        '{"destination":"x","port":65536}',
        '{"destination":"x","rounds":0}',
        '{"destination":"x","interval_ms":1}',
        '{"destination":"x","max_hops":300}',
        '{"destination":"x","transport":"sctp"}',
        '{"destination":"x","max_packets":1000000}',
        '{"destination":"x","unknown":1}',
        "{}",
    ],
)
def test_a_request_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=ProbeRequest)


def test_ports_have_defaults_by_transport() -> None:
    assert ProbeRequest(destination="x").port_used == 0
    assert ProbeRequest(destination="x", transport=Transport.UDP).port_used == 33434
    assert ProbeRequest(destination="x", transport=Transport.TCP).port_used == 443
    assert ProbeRequest(destination="x", transport=Transport.TCP, port=80).port_used == 80


def test_lines_are_read_as_what_they_are() -> None:
    trouble = Trouble(error=TroubleKind.USAGE, operation="probe", target="x", cause="no such host", remedy="look again")
    assert read_line(msgspec.json.encode(trouble)) == trouble
    report = ProbeReport(destination="x", address="192.0.2.1", transport=Transport.ICMP, port=0, ecn=Ecn())
    assert read_line(msgspec.json.encode(report)) == report


@pytest.mark.parametrize("verdict", list(EcnVerdict))
def test_marks_are_trusted_only_when_seen_whole_and_given_up_only_when_seen_broken(verdict: EcnVerdict) -> None:
    said = Ecn(verdict=verdict)
    assert said.may_trust_marks is (verdict is EcnVerdict.TRUSTED)
    assert said.marks_survive is (verdict in (EcnVerdict.TRUSTED, EcnVerdict.REFUSED, EcnVerdict.UNKNOWN))


async def test_a_run_reports_after_each_step_and_the_last_is_final() -> None:
    reports = await ran(path(), rounds=5)
    assert [report.final for report in reports] == [False] * (len(reports) - 1) + [True]
    assert {report.doing for report in reports} >= {
        "measuring loss and delay",
        "checking ECN and the DSCP",
        "looking for the MTU",
    }
    last = reports[-1]
    assert last.doing == ""
    assert last.rounds_done == 5
    assert [hop.interfaces[0].address for hop in last.hops] == [f"192.0.2.{number}" for number in range(1, 6)]
    assert all((hop.sent, hop.answered) == (5, 5) for hop in last.hops)
    assert last.ecn is not None
    assert last.ecn.verdict is EcnVerdict.TRUSTED
    assert last.mtu is not None
    assert last.mtu.bytes == 1500
    assert last.links == ()
    first = last.hops[0].interfaces[0]
    assert (first.least_ns, first.mean_ns, first.worst_ns, first.deviation_ns) == (1_000_000, 1_000_000, 1_000_000, 0)


async def test_what_is_not_wanted_is_not_sent() -> None:
    way = path()
    last = (await ran(way, rounds=2, ecn=False, mtu=False))[-1]
    assert (last.ecn, last.dscp, last.mtu) == (None, None, None)
    assert way.sent <= 15


async def test_multipath_adds_links() -> None:
    last = (await ran(path(2), rounds=1, ecn=False, mtu=False, multipath=True))[-1]
    assert [(link.ttl, link.near, link.far) for link in last.links] == [
        (1, "192.0.2.1", "192.0.2.2"),
        (2, "192.0.2.2", "192.0.2.3"),
    ]


@pytest.mark.expectation(21)
async def test_a_destination_that_limits_is_asked_at_a_pace_that_it_keeps() -> None:
    way = path()
    way.routers[4].answers_per_s = 1.0
    last = (await ran(way, rounds=40, interval_ms=100, ecn=False, mtu=False))[-1]
    assert last.loss.limited
    assert last.loss.share is not None
    assert last.loss.share.ppm == 0
    assert last.hops[4].limited


@pytest.mark.expectation(21)
async def test_where_every_hop_limits_alike_nothing_is_lost() -> None:
    way = path()
    for router in way.routers:
        router.answers_per_s = 1.0
    last = (await ran(way, rounds=40, interval_ms=100, ecn=False, mtu=False))[-1]
    assert last.loss.limited
    assert [hop.loss.ppm for hop in last.hops if hop.loss] == [0] * 5


async def test_a_router_that_says_there_is_no_way_ends_the_path_and_nothing_is_checked_behind_it() -> None:
    found = Gathering(ProbeRequest(destination="x"), "192.0.2.9")
    found.on_probe(1, Answer(kind=AnswerKind.TIME_EXCEEDED, address="192.0.2.1", round_trip_ns=5))
    found.on_probe(2, Answer(kind=AnswerKind.UNREACHABLE, address="192.0.2.2", round_trip_ns=5, code=1))
    report = found.report(packets_sent=2, seconds=0.1)
    assert not report.reached
    assert report.loss.share is None
    assert report.notes == ("192.0.2.2 says that there is no way further",)


def test_several_interfaces_of_a_hop_are_told_apart_and_answers_behind_the_end_forgotten() -> None:
    found = Gathering(ProbeRequest(destination="x"), "192.0.2.9")
    for address, times in (("192.0.2.1", (4, 6, 8)), ("192.0.2.2", (1,))):
        for time in times:
            found.on_probe(1, Answer(kind=AnswerKind.TIME_EXCEEDED, address=address, round_trip_ns=time))
    for ttl in (2, 3):
        found.on_probe(ttl, Answer(kind=AnswerKind.REPLY, address="192.0.2.9", round_trip_ns=9))
    found.names["192.0.2.1"] = Named(name="a.example", origin_as="64512")
    report = found.report(packets_sent=6, seconds=0.1)
    assert len(report.hops) == 2
    assert report.reached
    assert report.hops[0].interfaces == (
        Interface(
            address="192.0.2.1",
            answered=3,
            name="a.example",
            origin_as="64512",
            least_ns=4,
            mean_ns=6,
            worst_ns=8,
            deviation_ns=2,
        ),
        Interface(address="192.0.2.2", answered=1, least_ns=1, mean_ns=1, worst_ns=1, deviation_ns=0),
    )


def test_rows_have_every_column_and_no_formulas() -> None:
    evil = Interface(address="2001:db8::1", name="=HYPERLINK(1)", answered=1, mean_ns=5)
    report = ProbeReport(
        destination="far.example",
        address="2001:db8::9",
        transport=Transport.TCP,
        port=443,
        hops=(Hop(ttl=1, interfaces=(evil,), sent=2, answered=1), Hop(ttl=2, sent=2)),
    )
    first, second = csv.DictReader(io.StringIO(csv_text(report)))
    assert tuple(first) == CSV_COLUMNS
    assert first["name"] == "'=HYPERLINK(1)"
    assert (first["ttl"], first["interface"], first["mean_ns"], first["loss_ppm"]) == ("1", "2001:db8::1", "5", "")
    assert (second["ttl"], second["interface"], second["sent"], second["answered"]) == ("2", "", "2", "0")


def test_a_run_that_is_cancelled_leaves_no_task() -> None:
    async def go() -> int:
        way = path()
        request = ProbeRequest(destination="far.example", rounds=500, interval_ms=10)

        async def pause(nanoseconds: int) -> None:
            way.now_ns += nanoseconds
            await asyncio.sleep(0)

        means = Means(prober=way, pause=pause, clock_ns=lambda: way.now_ns, draw=random.randrange, link_bytes=1500)
        steps = Run(request, "192.0.2.5", means).steps()
        for _ in range(5):
            await anext(steps)
        await steps.aclose()
        return len(asyncio.all_tasks())

    assert asyncio.run(go()) == 1
