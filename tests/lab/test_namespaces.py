"""Networks of namespaces: built as planned, and gone whatever happens, with nothing changed outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from billpay.errors import EnvironmentFault
from lab.namespaces import Namespace, Network
from lab.plan import Plan, make_plan
from lab.scenarios import find_scenario

pytestmark = pytest.mark.netns

MARK = "HOSTAGENT_LAB_TEST_MARK"
WAIT_S = 10.0


def figure1() -> Plan:
    return make_plan(find_scenario("figure1"))


def outside() -> list[str]:
    """Everything in our own namespace that the lab could have changed."""
    commands = (
        ["ip", "-d", "link"],
        ["ip", "addr"],
        ["ip", "route", "show", "table", "all"],
        ["ip", "-6", "route", "show", "table", "all"],
        ["ip", "rule"],
        ["ip", "netns"],
        ["tc", "qdisc"],
        ["nft", "list", "ruleset"],
        ["sysctl", "-a", "--pattern", "^net.ipv[46].(conf|ip_forward)"],
    )
    return [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands]


def heard(network: Network, one: str, other: str, family: int) -> str:
    """Whom `other` hears when `one` sends it a datagram."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with (
        network[other].inside(lambda: socket.socket(kind, socket.SOCK_DGRAM)) as there,
        network[one].inside(lambda: socket.socket(kind, socket.SOCK_DGRAM)) as here,
    ):
        there.bind((network.plan.address(other, family), 7000))
        there.settimeout(WAIT_S)
        here.sendto(b"hello", there.getsockname()[:2])
        return str(there.recvfrom(100)[1][0])


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def marked(mark: str) -> list[int]:
    """Every process that was started with our mark in its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return [pid for pid in found if alive(pid)]


def until_none(mark: str) -> list[int]:
    """Those that are left after a while; mostly none at once."""
    deadline_s = time.monotonic() + WAIT_S
    while (left := marked(mark)) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return left


def test_hosts_reach_each_other_by_both_families_and_nothing_is_left() -> None:
    before = outside()
    with Network(figure1()) as network:
        pids = [namespace.pid for namespace in network.namespaces.values()]
        for family in (4, 6):
            for one, other in (("A", "B"), ("B", "A"), ("C", "A")):
                assert heard(network, one, other, family) == network.plan.address(one, family)
        assert network["X"].run(["ip", "-br", "link", "show", "to-Y"]).split()[2] == network.plan.end("X", "Y").mac
    assert not any(alive(pid) for pid in pids)
    assert outside() == before


def test_rates_and_offloads_are_as_on_a_real_wire() -> None:
    with Network(figure1()) as network:
        assert "rate 10Mbit" in network["Y"].run(["tc", "qdisc", "show", "dev", "to-B"])
        features = network["Y"].run(["ethtool", "-k", "to-B"])
        for name in ("tcp-segmentation-offload", "generic-receive-offload", "tx-checksumming"):
            assert f"{name}: off" in features
        hops = network["A"].run(["ip", "route", "get", network.plan.address("B", 4)])
        assert f"src {network.plan.address('A', 4)}" in hops


def test_a_failing_command_is_named_with_its_namespace() -> None:
    with Network(figure1()) as network, pytest.raises(EnvironmentFault, match="in namespace X") as caught:
        network["X"].run(["ip", "link", "show", "no-such-link"])
    assert "\n" not in str(caught.value)


def test_when_building_fails_what_was_built_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Namespace] = []
    plain_init = Namespace.__init__

    def remembering(self: Namespace, name: str) -> None:
        plain_init(self, name)
        made.append(self)

    def failing(self: Network, node: str) -> None:
        raise EnvironmentFault("address", node, "no")

    monkeypatch.setattr(Namespace, "__init__", remembering)
    monkeypatch.setattr(Network, "_address", failing)
    with pytest.raises(EnvironmentFault), Network(figure1()):
        pass
    assert len(made) == 6
    assert not any(alive(namespace.pid) for namespace in made)


BUILD_AND_WAIT = """
import sys, time
from lab.namespaces import Network, gain_privilege
from lab.plan import make_plan
from lab.scenarios import find_scenario
gain_privilege([sys.executable, *sys.orig_argv[1:]])
with Network(make_plan(find_scenario("figure1"))) as network:
    network["A"].start(["sleep", "infinity"])
    network["Y"].run(["iptables", "-t", "raw", "-A", "PREROUTING", "-j", "ACCEPT"])
    print("built", flush=True)
    time.sleep(600)
"""


def start_program(mark: str, *prefix: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", BUILD_AND_WAIT],
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "built\n", process.communicate()[1]
    return process


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_lab_that_is_killed_or_interrupted_leaves_nothing(how: signal.Signals, tmp_path: Path) -> None:
    mark = tmp_path.name
    before = outside()
    process = start_program(mark)
    assert len(marked(mark)) >= 8
    process.send_signal(how)
    process.communicate(timeout=WAIT_S)
    assert until_none(mark) == []
    assert outside() == before


def test_without_root_it_builds_in_a_user_namespace_of_its_own(tmp_path: Path) -> None:
    # User 1000 without capabilities, who may still read our files: root outside is user 1000 in a user namespace.
    drop = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
    probe = subprocess.run([*drop, "unshare", "-Urnm", "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"this machine lets nobody make user namespaces: {probe.stderr.strip()}")
    process = start_program(tmp_path.name, *drop)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WAIT_S)
    assert until_none(tmp_path.name) == []
