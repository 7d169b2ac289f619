"""Plain lines of a live agent: what a second shows, what comes first, and the summary at the end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from rich.cells import cell_len
from scripted_agent import FakeAgent, started
from snapshots import NOW_UNIX_S, household, many_flows

from cli.exit_codes import ExitCode
from cli.live import SORTS, live_lines, summary_lines, top_lines
from cli.preview import preview_of
from cli.watching import Screen, watch
from dataplane.shaping.htb import Direction, build_tree
from dataplane.shaping.plan import ShapedLink, ShapingPlan, TrafficClass
from dataplane.shaping.trafficcontrol import _class_line
from hostagent import api
from hostagent.client import LocalClient, Unreachable

Run = Callable[..., Result]
COMMAND = (sys.executable, "-P", "-m", "cli.main")
PATIENCE_S = 30


def test_a_second_is_a_few_lines_with_what_a_person_asks_first() -> None:
    lines = live_lines(household(), 200)
    assert lines[0].startswith("12:26:40")
    for text in ("observes", "Wi-Fi Home", "out 14.3 Mbit/s", "price 1.2 USD/GB", "data plan of Hotspot Phone 52 %"):
        assert text in lines[0]
    assert "2 questions wait" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["restic", "firefox", "zoom", "curl"]
    assert "takes what the others leave" in lines[1]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_is_longer_than_the_screen(width: int) -> None:
    shown = household(flows=many_flows(200, 1))
    assert all(cell_len(line) <= width for line in live_lines(shown, width))


def test_wide_characters_are_as_wide_as_they_are() -> None:
    named = msgspec.structs.replace(household().programs[0], name="微信" * 20, decision="通" * 80)
    shown = msgspec.structs.replace(household(), programs=(named,))
    assert [cell_len(line) for line in live_lines(shown, 80)[1:]] == [80]


def test_an_agent_that_knows_nothing_yet_is_shown_too() -> None:
    empty = msgspec.structs.replace(household(), programs=(), links=(), prices=(), budgets=(), questions=())
    bare = msgspec.structs.replace(empty, status=msgspec.structs.replace(empty.status, network=""))
    assert live_lines(bare, 80) == [f"{live_lines(bare, 80)[0][:8]}  observes  no network  out 0 bit/s  in 0 bit/s"]
    assert "no program sent or received anything" in summary_lines(bare, bare, 80)


@pytest.mark.parametrize("by", ["program", "flow", "kind"])
@pytest.mark.parametrize("sort", SORTS)
def test_top_is_sorted_and_bounded(by: str, sort: str) -> None:
    shown = household(flows=many_flows(300, 1))
    lines = top_lines(shown, by=by, sort=sort, width=120, rows=5)
    assert len([line for line in lines[4:] if not line.startswith(" ")]) == 5


def test_the_busiest_comes_first_and_equals_keep_their_places() -> None:
    lines = top_lines(household(), by="program", sort="out", width=80, rows=9)
    assert [line.split()[0] for line in lines[4:]] == ["restic", "zoom", "curl", "firefox", "dnf", "ssh"]


def test_the_summary_says_what_passed_and_where_money_stands() -> None:
    last = household(unix_s=NOW_UNIX_S + 65)
    lines = summary_lines(household(), last, 100)
    assert lines[1] == "watched for 1 min 5 s: the agent observes: counts, and says what it would do"
    assert any(line.startswith("restic   backup   3.81 GB") for line in lines)
    assert any(line.startswith("data plan of Hotspot Phone") for line in lines)


# -- over the socket -------------------------------------------------------------------------------------------------


def test_into_a_pipe_top_is_block_after_block(run: Run) -> None:
    done = run("top", "--for", "2s", "--rows", "2")
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    blocks = done.stdout.rstrip("\n").split("\n\n")
    assert sum(block.startswith("program") for block in blocks) >= 2


def test_top_for_programs_is_a_snapshot_a_line(run: Run) -> None:
    lines = run("top", "--for", "1s", "--json").stdout.splitlines()
    assert [msgspec.json.decode(line, type=api.Snapshot).status.name for line in lines] == ["laptop"] * len(lines)
    assert lines


def test_on_a_terminal_lines_take_each_others_place(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.show(["one", "two"])
    screen.show(["three"])
    assert capsys.readouterr().out == "\x1b[H\x1b[Jone\x1b[K\ntwo\x1b[K\n\x1b[J\x1b[Hthree\x1b[K\n\x1b[J"


async def test_an_agent_that_ends_is_said(agent: FakeAgent) -> None:
    shown: list[api.Snapshot] = []

    def show(snapshot: api.Snapshot) -> None:
        shown.append(snapshot)
        agent.desk.stopped.set()

    with pytest.raises(Unreachable):
        await watch(agent.socket, show, every_s=0.02)
    assert shown


async def test_who_watches_sees_what_changes(agent: FakeAgent) -> None:
    modes: list[api.Mode] = []

    def show(snapshot: api.Snapshot) -> None:
        modes.append(snapshot.status.mode)
        agent.show(household(mode=api.Mode.ACT))
        if snapshot.status.mode is api.Mode.ACT:
            os.kill(os.getpid(), signal.SIGTERM)

    async with asyncio.timeout(PATIENCE_S):
        first, last = await watch(agent.socket, show, every_s=0.05)
    assert (modes[0], modes[-1]) == (api.Mode.OBSERVE, api.Mode.ACT)
    assert (first.status.mode, last.status.mode) == (api.Mode.OBSERVE, api.Mode.ACT)


@pytest.mark.expectation(10)
async def test_several_watch_at_once(agent: FakeAgent) -> None:
    """The daemon is the server of all."""
    shown: list[api.Snapshot] = []
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(follow(agent.socket, shown) for _ in range(8)))
    assert len(shown) == 8


async def follow(socket: Path, shown: list[api.Snapshot]) -> None:
    async with LocalClient(socket) as client:
        shown.append(await anext(client.events()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_top_in_good_order(agent: FakeAgent, number: signal.Signals) -> None:
    with started([*COMMAND, "top", "--socket", str(agent.socket)]) as (process, _):
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (ExitCode.OK, "")


# -- preview ---------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(22)
def test_the_preview_is_what_the_engine_tells_the_kernel() -> None:
    """Class for class, of the very tree: only the queues inside are not spelled out."""
    preview = preview_of(household(), {"wlan0": 3})
    plan = ShapingPlan(
        classes=tuple(
            TrafficClass(
                name=each.name, weight=each.weight, minimum_bit_s=each.minimum_bit_s, cap_bit_s=floor(each.cap_bit_s)
            )
            for name in ("control", "default", "call", "game", "web", "update", "backup")
            for each in household().kinds
            if each.name == name
        )
    )
    link = ShapedLink(interface="wlan0", egress_bit_s=20_000_000, ingress_bit_s=100_000_000)
    for shown, direction, device in zip(preview.links, Direction, ("wlan0", "ha-ifb3"), strict=True):
        tree = build_tree(plan, link, direction)
        told = [f"tc {_class_line(device, each)}" for each in tree.classes]
        assert [line for line in shown.commands if "class" in line] == told
        assert shown.changes


def floor(cap_bit_s: int | None) -> int | None:
    return None if cap_bit_s is None else max(64_000, cap_bit_s)


def test_an_engine_that_cannot_shape_changes_nothing() -> None:
    shown = household()
    status = msgspec.structs.replace(shown.status, engine="sockets")
    preview = preview_of(msgspec.structs.replace(shown, status=status), {})
    assert [(each.changes, each.commands) for each in preview.links] == [(False, ())] * 2


def test_without_a_rate_only_caps_and_minimums_change_anything() -> None:
    shown = household()
    kinds = tuple(msgspec.structs.replace(each, cap_bit_s=None, minimum_bit_s=0) for each in shown.kinds)
    links = tuple(msgspec.structs.replace(each, egress_bit_s=None, ingress_bit_s=None) for each in shown.links)
    preview = preview_of(msgspec.structs.replace(shown, links=links, kinds=kinds), {})
    assert [(each.changes, each.rate_bit_s) for each in preview.links] == [(False, None)] * 2
    assert all("not known" in each.why for each in preview.links)
