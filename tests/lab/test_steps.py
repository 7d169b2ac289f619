"""Steps with their traffic, without any daemon: plain hosts, unmodified programs, and an end whenever it is wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.namespaces import Network
from lab.plan import make_plan
from lab.steps import Interrupted, Steps
from lab.topology import load

pytestmark = pytest.mark.netns

PLAIN = """
name = "plain"
title = "two hosts and a router without any daemon"
nodes = [{ name = "A", kind = "plain" }, { name = "L", kind = "legacy" }, { name = "B", kind = "plain" }]
links = [{ ends = ["A", "L"] }, { ends = ["L", "B"] }]
"""
EXCHANGE = """
[[steps]]
do = "exchange"
name = "it"
source = "A"
destination = "B"
port = 7000
packets_per_s = 200
seconds = 0.5
"""
FLOOD = """
[[steps]]
do = "flood"
name = "noise"
source = "A"
destination = "B"
port = 9000
rate_bit_s = 1_000_000
"""
TRANSFERS = """
[[steps]]
do = "transfers"
seconds = 1
flows = [
  { name = "slow", source = "A", destination = "B", port = 5201, rate_bit_s = 1_000_000 },
  { name = "fast", source = "A", destination = "B", port = 5202, rate_bit_s = 20_000_000 },
]
"""
FETCH = """
[[steps]]
do = "fetch"
name = "page"
source = "A"
destination = "B"
port = 8080
megabytes = 0.5
"""
FAULTS = """
[[steps]]
do = "kill"
node = "L"
signal = "STOP"
[[steps]]
do = "restart"
node = "L"
"""


class SomeFaults:
    def __init__(self) -> None:
        self.done: list[tuple[str, ...]] = []

    def kill(self, node: str, signal_name: str) -> None:
        self.done.append(("kill", node, signal_name))

    def restart(self, node: str) -> None:
        self.done.append(("restart", node))


@contextmanager
def steps_of(
    tmp_path: Path,
    text: str,
    *,
    family: int = 4,
    faults: SomeFaults | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[str], None] = lambda _line: None,
) -> Iterator[Steps]:
    path = tmp_path / "plain.toml"
    path.write_text(PLAIN + text, encoding="utf-8")
    with (
        Network(make_plan(load(path))) as network,
        Steps(
            network,
            family=family,
            faults=faults or SomeFaults(),
            wires=None,
            directory=tmp_path,
            scale=1.0,
            progress=progress,
            stop=stop or threading.Event(),
        ) as steps,
    ):
        yield steps


@pytest.mark.parametrize("family", [4, 6])
def test_every_numbered_request_is_answered_once(family: int, tmp_path: Path) -> None:
    with steps_of(tmp_path, FLOOD + EXCHANGE, family=family) as steps:
        outcome = steps.run()
    ((name, stream, counted),) = outcome.exchanges
    assert (name, stream) == ("it", 2)
    assert counted.sent == counted.received > 50


def test_what_tcp_got_is_read_at_the_receiver(tmp_path: Path) -> None:
    with steps_of(tmp_path, TRANSFERS) as steps:
        outcome = steps.run()
    slow, fast = (done.goodput for done in outcome.transfers)
    assert 0 < slow.bit_s < fast.bit_s
    assert (slow.trouble, fast.trouble) == ("", "")


def test_curl_fetches_from_an_ordinary_server(tmp_path: Path) -> None:
    with steps_of(tmp_path, FETCH, family=6) as steps:
        (done,) = steps.run().transfers
    assert (done.goodput.bytes, done.goodput.trouble, done.source) == (500_000, "", "A")


def test_faults_are_done_in_order_and_are_in_the_report(tmp_path: Path) -> None:
    faults = SomeFaults()
    with steps_of(tmp_path, FAULTS, faults=faults) as steps:
        outcome = steps.run()
    assert faults.done == [("kill", "L", "STOP"), ("restart", "L")]
    assert [event.partition(": ")[2][:7] for event in outcome.events] == ["SIGSTOP", "daemon "]


def test_asked_to_end_it_ends_at_once_with_all_its_traffic(tmp_path: Path) -> None:
    stop = threading.Event()

    def end_with_the_first_word(_line: str) -> None:
        stop.set()

    with (
        pytest.raises(Interrupted),
        steps_of(tmp_path, EXCHANGE.replace("0.5", "600"), stop=stop, progress=end_with_the_first_word) as steps,
    ):
        steps.run()
