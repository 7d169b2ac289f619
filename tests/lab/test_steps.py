"""Steps with their traffic, without any daemon: plain hosts, unmodified programs, and an end whenever it is wanted."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.namespaces import Network, inside_namespace
from lab.plan import make_plan
from lab.run import unsent
from lab.steps import Interrupted, Steps
from lab.topology import Scenario, Swallow, load

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

    def change(self, node: str, scenario: Scenario) -> None:
        self.done.append(("change", node, str(scenario.node(node).ignores_wishes)))


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


DEAF = """
[[steps]]
do = "heed"
name = "deaf"
node = "X"
wishes = false
"""
SWALLOW = """
[[steps]]
do = "swallow"
name = "keeps"
link = ["L", "B"]
[[steps]]
do = "swallow"
link = ["L", "B"]
share_ppm = 0
"""


def test_a_changed_isp_reads_its_file_again_and_the_time_is_noted(tmp_path: Path) -> None:
    faults = SomeFaults()
    isp = '{ name = "B", kind = "plain" }, { name = "X", kind = "isp", as_number = 1 }]'
    text = PLAIN.replace('{ name = "B", kind = "plain" }]', isp)
    path = tmp_path / "deaf.toml"
    path.write_text(text.replace('["L", "B"] }]', '["L", "B"] }, { ends = ["B", "X"] }]') + DEAF, encoding="utf-8")
    with (
        Network(make_plan(load(path))) as network,
        Steps(
            network,
            family=4,
            faults=faults,
            wires=None,
            directory=tmp_path,
            scale=1.0,
            progress=lambda _line: None,
            stop=threading.Event(),
        ) as steps,
    ):
        outcome = steps.run()
    assert faults.done == [("change", "X", "True")]
    assert outcome.changed_ns.keys() == {"deaf"}
    assert outcome.events[0].endswith("X ignores wishes")


@pytest.mark.parametrize("family", [4, 6])
def test_only_what_was_paid_is_swallowed_and_only_so_long(family: int, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    def send(steps: Steps, when: str) -> None:
        network, address = steps._network, steps._plan.address("B", family)
        ports = {"plain": 9001, "paid": 9002}
        version = socket.AF_INET if family == 4 else socket.AF_INET6
        receivers = {}
        for name, port in ports.items():
            receivers[name] = inside_namespace(network["B"].pid, lambda: socket.socket(version, socket.SOCK_DGRAM))
            receivers[name].bind((address, port))
            receivers[name].settimeout(0.5)
        sender = inside_namespace(network["A"].pid, lambda: socket.socket(version, socket.SOCK_DGRAM))
        sender.sendto(b"plain", (address, ports["plain"]))
        with_option(sender, family)
        sender.sendto(b"paid", (address, ports["paid"]))
        seen.append((when, *(arrives(receivers[name]) for name in ports)))
        for sock in (sender, *receivers.values()):
            sock.close()

    with steps_of(tmp_path, SWALLOW, family=family) as steps:
        first, second = (step for step in steps._plan.scenario.steps if isinstance(step, Swallow))
        send(steps, "before")
        steps._swallow(first)
        send(steps, "during")
        steps._swallow(second)
        send(steps, "after")
        assert unsent(steps._network) == {("L", "B"): 1}
    assert seen == [("before", 1, 1), ("during", 1, 0), ("after", 1, 1)]


def with_option(sock: socket.socket, family: int) -> None:
    """What any header looks like to the rule: IPv4 options, or a hop-by-hop header."""
    if family == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01\x01\x01\x01")
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, b"\x00\x00\x01\x04\x00\x00\x00\x00")


def arrives(sock: socket.socket) -> int:
    try:
        return int(bool(sock.recv(100)))
    except TimeoutError:
        return 0


def test_asked_to_end_it_ends_at_once_with_all_its_traffic(tmp_path: Path) -> None:
    stop = threading.Event()

    def end_with_the_first_word(_line: str) -> None:
        stop.set()

    with (
        pytest.raises(Interrupted),
        steps_of(tmp_path, EXCHANGE.replace("0.5", "600"), stop=stop, progress=end_with_the_first_word) as steps,
    ):
        steps.run()
