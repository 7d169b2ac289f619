"""Looking at paths: tables and maps that fit, pictures in which no text covers another, and nothing unknown shown as 0.

`WRITE_GOLDEN=1 python -m pytest tests/cli/test_paths.py` writes the tables anew; look at the difference.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from scripted_agent import FakeAgent, ScriptedDesk
from snapshots import LARGE_MAP, LONG_WAYS, MAP, NOW_UNIX_S, QUALITY, WAYS, household

from billpay.errors import EnvironmentFault
from cartographer.measuring.packets import Transport
from cartographer.measuring.report import ProbeReport, ProbeRequest
from cli.asking_agent import agent_reports
from cli.exit_codes import ExitCode
from cli.paths import PathsDocument, addresses_of
from cli.paths import paths as paths_verb
from cli.show.map import map_lines
from cli.show.map_layout import CHARACTER, Edge, layout
from cli.show.map_page import page_html
from cli.show.map_picture import map_svg
from cli.show.paths import CSV_COLUMNS, EMPTY, digits, figure, grouped, ms, page_lines, spark, way_lines
from hostagent import api
from hostagent.client import LocalClient
from hostagent.schemas import schema_for
from hostagent.server import LocalServer

Look = Callable[..., Result]
GOLDEN = Path(__file__).parent / "golden" / "paths"
WIDTHS = (80, 100, 140)
LONGEST = "2001:db8:1234:5678:9abc:def0:1234:5678"
SVG = "{http://www.w3.org/2000/svg}"
FINDING = api.Finding(
    as_name="AS64513",
    alternative=1,
    kind="lies",
    since_unix_s=NOW_UNIX_S - 600,
    until_unix_s=NOW_UNIX_S + 3000,
    evidence="promises 5 ms, measured 41 ms ± 0.4 ms in 60 probes",
)
PATHS = api.Paths(
    alternatives=household().paths.alternatives,
    findings=(FINDING, msgspec.structs.replace(FINDING, as_name="AS64514", alternative=None, kind="of a newer agent")),
    accesses=(
        api.Access(
            interface="wlan0", network="Wi-Fi Home", router="192.0.2.1", used=True, chosen_by="agent",
            delay_ns=18_000_000, loss_ppm=0, price_nanodollars_per_mb=0, cost_nanodollars_per_packet=18,
            reason="the cheapest of 2",
        ),
        api.Access(interface="wwan0", network="LTE", router="2001:db8:ffff::1", used=False, chosen_by="agent"),
    ),
    checks=(
        api.PathCheck(destination="203.0.113.20", ecn="bleached", reason="ECT(0) arrives as not-ECT from hop 3 on",
                      age_s=40, mtu=1492),
        api.PathCheck(destination=LONGEST, ecn="unknown", reason="too little was answered", age_s=4000),
    ),
    destinations=12,
    probes_nanodollars=4_000,
    probes_limit_nanodollars=10_000_000,
    campus="https://cartographer.example:7421: 40 ways known there",
)  # fmt: skip


@pytest.fixture
def look(agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> Look:
    monkeypatch.setenv("HOSTAGENT_SOCKET", str(agent.socket))
    agent.desk.shown = msgspec.structs.replace(household(), paths=PATHS)
    return lambda *words: CliRunner().invoke(paths_verb, list(words))


def same_as_reviewed(name: str, lines: list[str]) -> None:
    file, text = GOLDEN / f"{name}.txt", "\n".join(lines) + "\n"
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8"), "WRITE_GOLDEN=1 writes it anew; review the difference"


def no_line_is_longer(lines: list[str], width: int) -> None:
    assert [line for line in lines if cell_len(line) > width or line != line.rstrip()] == []


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(10)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_and_is_as_it_was_reviewed(width: int) -> None:
    lines = page_lines(PATHS, grouped(WAYS), width)
    no_line_is_longer(lines, width)
    same_as_reviewed(f"page-{width}", lines)
    assert any(LONGEST in line for line in lines), "an address is never cut"


@pytest.mark.expectation(10)
@pytest.mark.parametrize("width", WIDTHS)
def test_long_addresses_ways_and_reasons_fit_too(width: int) -> None:
    lines = way_lines(grouped(LONG_WAYS), width)
    no_line_is_longer(lines, width)
    same_as_reviewed(f"long-{width}", lines)
    text = " ".join(" ".join(lines).split())
    assert LONGEST in text, "an address is never cut"
    assert all(each.reason in text for each in LONG_WAYS), "nor is a reason"
    assert all(part in text for each in LONG_WAYS for part in each.way.split())


@pytest.mark.expectation(21)
def test_what_is_not_known_is_a_question_mark_and_what_is_promised_is_in_parentheses() -> None:
    assert figure(None, ms) == "?"
    assert figure(api.Figure(value=0, uncertainty=0, age_s=1, source="measured"), ms) == "0"
    assert figure(api.Figure(value=25_000_000, uncertainty=0, age_s=None, source="promised"), ms) == "(25.0)"
    unknown = api.Way(destination="192.0.2.9", way="AS1:1", wants="default", chosen=False, share_ppm=0)
    numbers = way_lines((unknown,), 160)[2]
    assert numbers.split() == ["AS1:1", "0", "%", *["?"] * 10]


def test_small_numbers_are_not_rounded_to_nothing() -> None:
    assert [digits(value) for value in (0, 0.0001, 0.05, 1.234, 12.34, 1234.5)] == [
        *("0", "<0.001", "0.050", "1.23", "12.3", "1,234"),
    ]


def test_the_command_says_all_that_is_known(look: Look) -> None:
    done = look()
    assert (done.exit_code, done.stderr) == (0, "")
    no_line_is_longer(done.stdout.splitlines(), 80)
    for text in (
        *("203.0.113.20 for timely", "! AS64513 by alternative 1 promises what it does not keep", "41 ms ± 0.4 ms"),
        *("! AS64514 of a newer agent", "bleached", "1492", "wwan0", "12 destinations", "of 10 mUSD that they may"),
        "40 ways known there",
    ):
        assert text in done.stdout, text


def test_a_destination_and_a_class_leave_out_the_others(look: Look, agent: FakeAgent) -> None:
    done = look("203.0.113.20", "--wants", "timely")
    assert "2001:db8" not in done.stdout
    assert "203.0.113.77" not in done.stdout
    assert ("203.0.113.20", 1000) in agent.desk.asked
    refused = look("203.0.113.20", "--wants", "nonsense")
    assert (refused.exit_code, refused.stdout) == (ExitCode.REFUSED, "")
    assert "no way is known as the class nonsense sees it" in refused.stderr


def test_a_name_stands_for_its_addresses(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(0, 0, 0, "", ("203.0.113.20", 0)), (0, 0, 0, "", ("2001:DB8:4:5:6:7:8:9", 0, 0, 0))]
    monkeypatch.setattr("cli.paths.sockets.getaddrinfo", lambda *_, **__: found)
    done = look("www.example.org")
    assert "203.0.113.20 for timely" in done.stdout
    assert "2001:db8:4:5:6:7:8:9 for default" in done.stdout
    assert addresses_of("[2001:DB8::0:1]") == ("2001:db8::1",)


def test_who_is_not_known_is_one_line_with_a_remedy(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    done = look("198.51.100.200")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (ExitCode.REFUSED, "", 1)
    assert "no way to 198.51.100.200 is known: hostagent paths lists those that are" in done.stderr

    def unknown(*_: object, **__: object) -> None:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr("cli.paths.sockets.getaddrinfo", unknown)
    done = look("no.such.\x1bhost")
    assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.ENVIRONMENT, 1)
    assert "Name or service not known" in done.stderr
    assert "\x1b" not in done.stderr


def test_without_an_agent_it_is_one_line_and_its_code(tmp_path: Path) -> None:
    for words in ([], ["--map"], ["192.0.2.1", "--history"], ["--watch"], ["--html", "-"]):
        done = CliRunner().invoke(paths_verb, [*words, "--socket", str(tmp_path / "none.sock")])
        assert (done.exit_code, done.stderr.count("\n")) == (ExitCode.UNREACHABLE, 1), words
        assert "hostagent up" in done.stderr


def test_options_that_contradict_each_other_are_refused(look: Look) -> None:
    for words in (["--json", "--csv", "-"], ["--watch", "--json"], ["--map", "--history"], ["--watch", "--svg", "-"]):
        assert look(*words).exit_code == ExitCode.USAGE, words


def test_an_agent_that_knows_nothing_says_so() -> None:
    assert page_lines(api.Paths(), (), 80) == [EMPTY]
    assert map_lines(api.NetworkMap(network=""), 80) == ["no map: nobody is known on this network yet"]


def test_strangers_cannot_write_to_the_terminal_nor_into_the_picture() -> None:
    evil = "\x1b[2J\u202e</title><script>alert(1)</script>\n\r"
    way = msgspec.structs.replace(WAYS[0], way=evil, reason=evil, destination=evil, wants=evil)
    finding = msgspec.structs.replace(FINDING, as_name=evil, evidence=evil, kind=evil)
    node = api.MapNode(
        name=evil, kind="as", finding=evil, description=evil,
        alternatives=(api.MapAlternative(number=1, title=evil, available=True),),
    )  # fmt: skip
    network = api.NetworkMap(
        network=evil,
        nodes=(MAP.nodes[0], node),
        links=(api.MapLink(source="here", target=evil, alternative=None, used=True),),
    )
    lines = [*page_lines(api.Paths(findings=(finding,), campus=evil), (way,), 80), *map_lines(network, 80)]
    assert not set("\n".join(lines)) & set("\x1b\r\u202e")
    row = msgspec.structs.replace(QUALITY[0], destination=evil, way=evil)
    page = page_html(network, (way,), api.Paths(findings=(finding,), campus=evil), (row,), unix_s=NOW_UNIX_S)
    assert "<script" not in page
    assert not set(page + map_svg(network)) & set("\x1b\r\u202e")


# --- for programs -----------------------------------------------------------------------------------------------------


@pytest.mark.expectation(23)
def test_json_is_what_the_agent_said(look: Look) -> None:
    told = msgspec.json.decode(look("--json").stdout, type=PathsDocument)
    assert told.ways == tuple(grouped(WAYS))
    assert (told.findings, told.probes_nanodollars, told.map) == (PATHS.findings, 4_000, None)
    assert msgspec.json.decode(look("--map", "--json").stdout, type=PathsDocument).map == MAP
    shown = json.loads(look("203.0.113.20", "--history", "--json").stdout)
    assert len(shown["quality"]) == len(QUALITY)
    assert shown["quality"][0]["jitter_ns"] is None
    assert set(schema_for(PathsDocument, title="paths")["$defs"]) >= {"Way", "Figure", "NetworkMap", "QualityRow"}


@pytest.mark.expectation(21)
def test_csv_has_every_figure_with_its_age_and_nothing_for_what_is_not_known(look: Look) -> None:
    rows = list(csv.DictReader(io.StringIO(look("--csv", "-").stdout)))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert (rows[0]["delay_ns"], rows[0]["delay_ns_uncertainty"], rows[0]["delay_ns_age_s"]) == (
        *("21000000", "300000", "4"),
    )
    assert (rows[1]["delay_ns_source"], rows[1]["delay_ns_age_s"], rows[1]["loss_ppm"]) == ("promised", "", "")
    history = list(csv.DictReader(io.StringIO(look("203.0.113.20", "--history", "--csv", "-").stdout)))
    assert len(history) == len(QUALITY)
    assert history[0]["jitter_ns"] == ""


# --- the map ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "known"), [("map", MAP), ("large-map", LARGE_MAP)])
def test_the_map_in_a_terminal_is_as_it_was_reviewed(name: str, known: api.NetworkMap) -> None:
    lines = map_lines(known, 80)
    no_line_is_longer(lines, 80)
    same_as_reviewed(name, lines)
    text = "\n".join(lines)
    assert all(node.name in text for node in known.nodes)
    assert sum(line.count("▶ ") + line.count("→ ") for line in lines) >= len(known.links), "every link is there"


def test_used_links_stand_out_and_promises_stand_beside_what_is_measured() -> None:
    lines = map_lines(MAP, 100)
    (used,) = [line for line in lines if "━2━▶ AS64514" in line]
    assert "21.0 ms" in used
    assert "by Z promises 5.00 ms" in used
    assert any("└─1─→ AS64513  delay ?" in line for line in lines), "and what nobody measured is not known"


def test_a_circle_and_many_destinations_end() -> None:
    nodes = tuple(api.MapNode(name=f"n{number}", kind="as") for number in range(3))
    circle = tuple(
        api.MapLink(source=f"n{number}", target=f"n{(number + 1) % 3}", alternative=1, used=False)
        for number in range(3)
    )
    assert len(map_lines(api.NetworkMap(network="w", nodes=nodes, links=circle), 80)) < 20
    leaves = tuple(api.MapNode(name=f"192.0.2.{number}", kind="destination") for number in range(200))
    links = tuple(api.MapLink(source="here", target=leaf.name, alternative=None, used=True) for leaf in leaves)
    star = api.NetworkMap(network="w", nodes=(MAP.nodes[0], *leaves), links=links)
    assert "188 more destinations" in "\n".join(map_lines(star, 80))
    assert "51 nodes are left out" in map_svg(star)


def texts_of(svg: str) -> list[tuple[float, float, float, float]]:
    """Where each text stands: left, top, right, bottom."""
    found = []
    root = ElementTree.fromstring(svg)
    moved = root.find(f"{SVG}g")
    assert moved is not None
    for text in moved.iter(f"{SVG}text"):
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        found.append((x, y - 10, x + len(text.text or "") * CHARACTER, y + 2))
    return found


@pytest.mark.parametrize("known", [MAP, LARGE_MAP], ids=["5 nodes", "30 nodes"])
def test_no_text_of_the_picture_covers_another(known: api.NetworkMap) -> None:
    svg = map_svg(known)
    boxes = texts_of(svg)
    assert len(boxes) >= len(known.nodes) + len(known.links)
    for one, other in combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)
    root = ElementTree.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert all(left >= 0 and right <= width and top >= 0 and bottom <= height for left, top, right, bottom in boxes)


def test_a_pointer_that_rests_sees_the_numbers() -> None:
    titles = [title.text or "" for title in ElementTree.fromstring(map_svg(MAP)).iter(f"{SVG}title")]
    assert any("promises 5 ms, measured 41 ms" in title for title in titles)
    assert any("AS64512 to AS64514 by alternative 2\ncarries traffic\n21.0 ms" in title for title in titles)
    assert any("delay ?" in title for title in titles)


def test_boxes_do_not_cover_each_other_and_destinations_are_last() -> None:
    nodes = {node.name: [node.name] for node in LARGE_MAP.nodes}
    edges = [Edge(source=link.source, target=link.target, label="x") for link in LARGE_MAP.links]
    last = frozenset(node.name for node in LARGE_MAP.nodes if node.kind == "destination")
    placed = layout(nodes, edges, last)
    for one, other in combinations(placed.boxes, 2):
        beside = one.x + one.width <= other.x or other.x + other.width <= one.x
        assert beside or one.y + one.height <= other.y or other.y + other.height <= one.y
    assert {box.name for box in placed.boxes if box.x == max(each.x for each in placed.boxes)} == last
    assert len(placed.lines) == len(edges)


def test_a_network_of_hundreds_is_laid_out_soon() -> None:
    count = 150
    nodes = {f"n{number}": [f"n{number}"] for number in range(count)}
    edges = [Edge(source=f"n{n}", target=f"n{m}", label="1") for n in range(count) for m in (n + 1, n + 7) if m < count]
    began = time.process_time()
    assert len(layout(nodes, edges, frozenset()).boxes) == count
    assert time.process_time() - began < 5


# --- pictures and pages -----------------------------------------------------------------------------------------------


class Balanced(HTMLParser):
    """What was opened is closed in its order, but for those that have no end."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """Nothing stays open."""


def test_pictures_and_pages_are_whole_files(look: Look, tmp_path: Path) -> None:
    svg, html = tmp_path / "map.svg", tmp_path / "page.html"
    done = look("--svg", str(svg), "--html", str(html))
    assert (done.exit_code, done.stdout) == (0, f"wrote {svg}\nwrote {html}\n")
    ElementTree.fromstring(svg.read_text(encoding="utf-8"))
    page = html.read_text(encoding="utf-8")
    assert page.count("<svg") == 1 + 3, "the map, and what was measured: delay, loss, tolls"
    assert not any(word in page for word in ("<script", "<link", "<img", "url(http", "src=")), "it loads nothing"
    assert "AS64512:2 AS64514:1" in page
    reader = Balanced()
    reader.feed(page)
    assert reader.open == []
    assert json.loads(look("--svg", str(svg), "--json").stdout) == {"files": [str(svg)]}
    assert look("--svg", "-").stdout.startswith("<svg")
    refused = look("--svg", str(tmp_path / "no" / "such.svg"))
    assert (refused.exit_code, refused.stderr.count("\n")) == (ExitCode.ENVIRONMENT, 1)


@pytest.mark.expectation(21)
def test_a_stretch_without_measurements_is_a_gap_and_no_zero() -> None:
    rows = [row for row in QUALITY if row.from_unix_s not in {QUALITY[3].from_unix_s, QUALITY[4].from_unix_s}]
    page = page_html(MAP, WAYS, PATHS, rows, unix_s=NOW_UNIX_S)
    (delay,) = [part for part in page.split("<figure>") if "<title>delay ms</title>" in part]
    assert delay.count("<path fill") == 2, "one line before the gap, and one behind it"
    assert "jitter ms</title>" not in page, "and what was never measured has no chart"
    assert spark([1, None, 3]) == "▁ █"
    assert spark([None, None]) == ""


def test_a_time_without_measurements_says_so(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> tuple[api.QualityRow, ...]:
        return ()

    monkeypatch.setattr(ScriptedDesk, "quality", nothing)
    done = look("203.0.113.20", "--history")
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    assert "nothing was measured in that time" in done.stdout
    assert "nothing was measured in that time" in look("203.0.113.20", "--html", "-").stdout


@pytest.mark.parametrize("width", [80, 120])
def test_quality_over_time_fits(look: Look, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    done = look("203.0.113.20", "--history", "--since", "2026-11-10", "--rows", "5")
    assert (done.exit_code, done.stderr) == (0, "")
    no_line_is_longer(done.stdout.splitlines(), width)
    same_as_reviewed(f"history-{width}", done.stdout.splitlines())


# --- again and again --------------------------------------------------------------------------------------------------


def test_a_look_that_goes_on_ends_with_ctrl_c(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def interrupted() -> None:
        seen.append("")
        if len(seen) == 2:
            raise KeyboardInterrupt  # as asyncio does; where tests run in the background the signal itself is ignored
        await asyncio.sleep(0)

    monkeypatch.setattr("cli.paths._pause", interrupted)
    done = look("203.0.113.20", "--watch")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.count("203.0.113.20 for timely") == 2


# --- probes that the agent makes --------------------------------------------------------------------------------------

REQUEST = ProbeRequest(destination="203.0.113.20")


def report(rounds: int, *, final: bool = False) -> ProbeReport:
    return ProbeReport(
        destination="203.0.113.20", address="203.0.113.20", transport=Transport.ICMP, port=0,
        rounds_done=rounds, rounds=3, final=final,
    )  # fmt: skip


class ProbingDesk(ScriptedDesk):
    """What it is scripted to say, one after the other."""

    def __init__(self, *said: api.Probing) -> None:
        super().__init__()
        self.said = list(said)

    async def probing(self, number: int, after: int, wait_s: int) -> api.Probing:
        self.asked.append((number, after))
        if not self.said:
            await asyncio.sleep(wait_s)
        return self.said.pop(0)


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[[ProbingDesk], object]]:
    servers = []

    async def start(desk: ProbingDesk) -> Path:
        server = LocalServer(tmp_path / "probing.sock", desk)
        await server.start()
        servers.append(server)
        return tmp_path / "probing.sock"

    yield start
    for server in servers:
        await server.stop()


def said(sequence: int, shown: ProbeReport | None, *, done: bool = False, problem: str = "") -> api.Probing:
    return api.Probing(number=1, sequence=sequence, done=done, report=shown, problem=problem)


async def test_reports_of_the_agents_probe_come_one_after_the_other(serve) -> None:  # type: ignore[no-untyped-def]
    last = report(3, final=True)
    desk = ProbingDesk(said(2, report(1)), said(2, report(1)), said(4, last), said(5, last, done=True))
    socket = await serve(desk)
    assert [each.rounds_done async for each in agent_reports(socket, REQUEST)] == [1, 3]
    assert desk.told == [REQUEST]
    assert desk.asked == [(1, 1), (1, 2), (1, 2), (1, 4)]


async def test_a_probe_that_the_agent_gives_up_is_one_line_of_trouble(serve) -> None:  # type: ignore[no-untyped-def]
    socket = await serve(ProbingDesk(said(2, report(1)), said(3, report(1), done=True, problem="the agent ends")))
    reports = agent_reports(socket, REQUEST)
    assert (await anext(reports)).rounds_done == 1, "what came before the trouble"
    with pytest.raises(EnvironmentFault, match=r"have the agent probe 203\.0\.113\.20: the agent ends"):
        await anext(reports)


async def test_who_is_told_to_end_does_not_wait_for_the_next_report(serve) -> None:  # type: ignore[no-untyped-def]
    socket = await serve(ProbingDesk(said(2, report(1))))
    told = asyncio.Event()
    async for each in agent_reports(socket, REQUEST, told):
        assert each.rounds_done == 1
        told.set()
    async with LocalClient(socket) as client:
        await client.status()  # the agent goes on
