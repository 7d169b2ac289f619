"""Desired state in a real kernel: what is applied, and that everything is afterwards exactly as it was before."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from netns import Namespace, connect

from billpay.errors import EnvironmentFault
from dataplane import rules
from dataplane.desired import Chain, DesiredState, PolicyRoute, QueueRule, Sysctl

pytestmark = pytest.mark.netns

DESIRED = DesiredState(
    owner="test",
    queues=(
        QueueRule(family=4, chain=Chain.PREROUTING, interface="left", queue=3, skip_local=True),
        QueueRule(family=6, chain=Chain.PREROUTING, interface="left", queue=3, skip_local=True),
        QueueRule(family=4, chain=Chain.OUTPUT, interface="left", queue=4),
        QueueRule(family=6, chain=Chain.OUTPUT, interface="left", queue=4),
    ),
    routes=(
        PolicyRoute(
            family=4, mark=0x2_0000, table=102, priority=1002, prefix="default", interface="left", via="10.8.0.2"
        ),
        PolicyRoute(
            family=6, mark=0x2_0000, table=102, priority=1002, prefix="default", interface="left", via="fd08::2"
        ),
        PolicyRoute(family=4, mark=0x3_0000, table=103, priority=1003, prefix="10.7.0.0/16", interface="left"),
    ),
    sysctls=(Sysctl(name="net.ipv4.conf.left.rp_filter", value="2"), Sysctl(name="net.ipv4.ip_forward", value="1")),
)
FOREIGN = """*raw
:theirs - [0:0]
-A PREROUTING -i left -j theirs
-A theirs -p udp --dport 9 -j DROP
COMMIT
*mangle
-A POSTROUTING -p tcp -j MARK --set-xmark 0x7/0x7
COMMIT
"""


OWN = ("fd08::1", "fe80::")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace() as one, Namespace() as other:
        for name in ("all", "default"):  # else a route of the kernel's own comes a second later, in the middle
            one.run("sysctl", "-qw", f"net.ipv6.conf.{name}.accept_dad=0")
        connect(one, "left", other, "right")
        one.run("ip", "addr", "add", "10.8.0.1/24", "dev", "left")
        one.run("ip", "addr", "add", "fd08::1/64", "dev", "left", "nodad")
        while not all(f"local {address}" in one.run("ip", "-6", "route", "show", "table", "all") for address in OWN):
            time.sleep(0.02)  # the kernel makes them in its own time
        yield one


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "kernel.json"


def state(namespace: Namespace) -> dict[str, str]:
    """Everything that must be restored, without counters."""
    commands = [
        "iptables-save", "ip6tables-save", "nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all",
        "ip -6 route show table all", "tc qdisc", "sysctl -a --pattern net.(ipv4|ipv6).(conf.left|ip_forward)",
    ]  # fmt: skip
    found = {command: namespace.run(*command.split()) for command in commands}
    return {
        command: re.sub(r"counter packets \d+ bytes \d+|\[\d+:\d+\]|^#.*$|expires \d+sec", "", text, flags=re.MULTILINE)
        for command, text in found.items()
    }


def apply(namespace: Namespace, desired: DesiredState, record: Path) -> None:
    namespace.call(lambda: rules.apply(desired, record))


def restore(namespace: Namespace, record: Path) -> bool:
    return namespace.call(lambda: rules.restore(record))


@pytest.mark.parametrize("foreign", ["", FOREIGN], ids=["empty", "with rules of others"])
def test_restored_exactly_and_idempotently(namespace: Namespace, record: Path, foreign: str) -> None:
    if foreign:
        namespace.run("iptables-restore", "--noflush", text=foreign)
        namespace.run("ip6tables-restore", "--noflush", text=foreign)
    before = state(namespace)
    apply(namespace, DESIRED, record)
    applied = state(namespace)
    assert applied != before
    apply(namespace, DESIRED, record)
    assert state(namespace) == applied
    assert restore(namespace, record) is True
    assert state(namespace) == before
    assert restore(namespace, record) is False
    assert not record.exists()


def test_another_desired_state_replaces_the_first(namespace: Namespace, record: Path) -> None:
    before = state(namespace)
    apply(namespace, DESIRED, record)
    smaller = DesiredState(owner="test", queues=DESIRED.queues[:1])
    apply(namespace, smaller, record)
    assert "test-QPRE" in namespace.run("iptables-save")
    assert "test-" not in namespace.run("ip6tables-save")
    assert namespace.run("sysctl", "-n", "net.ipv4.ip_forward").strip() == "0"
    restore(namespace, record)
    assert state(namespace) == before


def test_what_was_missing_is_put_back_and_what_is_there_keeps_its_counters(namespace: Namespace, record: Path) -> None:
    apply(namespace, DESIRED, record)
    namespace.run("ip", "rule", "del", "priority", "1002")
    namespace.run("iptables", "-t", "raw", "-F", "test-QPRE")
    text = "*mangle\n[17:0] -I test-CPRE 1 -i left -j RETURN\nCOMMIT\n"
    namespace.run("ip6tables-restore", "--noflush", "-c", text=text)
    apply(namespace, DESIRED, record)
    assert "1002:" in namespace.run("ip", "rule")
    assert "--queue-num 3" in namespace.run("iptables-save")
    assert "RETURN" not in namespace.run("ip6tables-save")


KILLED_IN_BETWEEN = """
import os, signal, sys
from pathlib import Path
import msgspec
from dataplane import kernel_tools, rules
from dataplane.desired import DesiredState

left = int(sys.argv[3])
run = kernel_tools.run

def counted(arguments, **options):
    global left
    changes = "add" in arguments or arguments[0].endswith("-restore") or "delete" in arguments or "del" in arguments
    if changes:
        left -= 1
        if left == 0:
            if sys.argv[4] == "after":
                run(arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)
    return run(arguments, **options)

kernel_tools.run = counted
rules.apply(msgspec.json.decode(sys.argv[1], type=DesiredState), Path(sys.argv[2]))
rules.restore(Path(sys.argv[2]))
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("change", [1, 3, 7, 9, 10, 12, 15, 20])
def test_restored_by_another_process_after_a_kill_at_any_change(
    namespace: Namespace, record: Path, change: int, when: str
) -> None:
    before = state(namespace)
    desired = msgspec.json.encode(DESIRED).decode()
    arguments = [sys.executable, "-c", KILLED_IN_BETWEEN, desired, str(record), str(change), when]
    killed = subprocess.run(namespace.command(*arguments), check=False)
    assert killed.returncode == -9
    assert restore(namespace, record) is True
    assert state(namespace) == before


def test_the_oldest_of_two_owners_leaves_the_others_rules(namespace: Namespace, record: Path, tmp_path: Path) -> None:
    apply(namespace, DesiredState(owner="one", queues=DESIRED.queues[:2]), record)
    other = QueueRule(family=4, chain=Chain.PREROUTING, interface="left", queue=9)
    second = tmp_path / "second.json"
    apply(namespace, DesiredState(owner="two", queues=(other,)), second)
    restore(namespace, record)
    saved = namespace.run("iptables-save")
    assert "two-QPRE" in saved
    assert "one-" not in saved
    restore(namespace, second)


@pytest.mark.parametrize(
    ("spoil", "desired", "line"),
    [
        (
            "",
            DesiredState(owner="x", queues=(QueueRule(family=4, chain=Chain.OUTPUT, interface="nosuch", queue=1),)),
            "use interface nosuch: there is no such interface (there are: left, lo)",
        ),
        (
            "iptables -A FORWARD -j NFQUEUE --queue-num 3",
            DESIRED,
            "use NFQUEUE 3: another iptables rule uses it (choose another queue number)",
        ),
        (
            "ip -6 rule add priority 1002 lookup main",
            DESIRED,
            "use ip rule priority 1002: another rule has it (choose another priority)",
        ),
        (
            "ip route add blackhole 10.7.0.0/16 table 103",
            DESIRED,
            "add route 10.7.0.0/16 in table 103: there is one already (choose another table)",
        ),
        (
            "",
            DesiredState(owner="x", sysctls=(Sysctl(name="net.ipv4.no_such", value="1"),)),
            "read sysctl net.ipv4.no_such: No such file or directory (this kernel or interface has none)",
        ),
        (
            "",
            DesiredState(
                owner="x",
                routes=(
                    PolicyRoute(
                        family=4, mark=1, table=9, priority=9, prefix="default", interface="left", via="9.9.9.9"
                    ),
                ),
                sysctls=DESIRED.sysctls,
            ),
            "run ip route add default via 9.9.9.9 dev left table 9: ip: Error: Nexthop has invalid gateway.",
        ),
    ],
    ids=["interface", "queue", "priority", "route", "sysctl", "gateway"],
)
def test_a_conflict_is_one_line_and_leaves_nothing_behind(
    namespace: Namespace, record: Path, spoil: str, desired: DesiredState, line: str
) -> None:
    if spoil:
        namespace.run(*spoil.split())
    before = state(namespace)
    with pytest.raises(EnvironmentFault) as caught:
        apply(namespace, desired, record)
    assert str(caught.value) == line
    assert state(namespace) == before
    assert not record.exists()


def test_without_privileges_it_says_so(namespace: Namespace, record: Path) -> None:
    program = (
        "import sys, msgspec\nfrom pathlib import Path\nfrom dataplane import rules\n"
        "from dataplane.desired import DesiredState\nfrom billpay.errors import EnvironmentFault\n"
        "try: rules.apply(msgspec.json.decode(sys.argv[1], type=DesiredState), Path(sys.argv[2]))\n"
        "except EnvironmentFault as fault: print(fault)\n"
    )
    desired = msgspec.json.encode(DesiredState(owner="x", queues=DESIRED.queues[:1])).decode()
    arguments = [
        "setpriv",
        "--inh-caps=-all",
        "--bounding-set=-all",
        sys.executable,
        "-c",
        program,
        desired,
        str(record),
    ]
    output = namespace.run(*arguments)
    assert "not permitted (run as root or with CAP_NET_ADMIN)" in output
    assert output.count("\n") == 1


def test_a_sysctl_that_somebody_changed_meanwhile_stays(namespace: Namespace, record: Path) -> None:
    apply(namespace, DESIRED, record)
    namespace.run("sysctl", "-qw", "net.ipv4.conf.left.rp_filter=1")
    restore(namespace, record)
    assert namespace.run("sysctl", "-n", "net.ipv4.conf.left.rp_filter").strip() == "1"


def test_an_interface_that_is_gone_does_not_hinder_restoring(namespace: Namespace, record: Path) -> None:
    before = state(namespace)
    apply(namespace, DESIRED, record)
    namespace.run("ip", "link", "del", "left")
    restore(namespace, record)
    assert "test-" not in "".join(state(namespace).values())
    assert state(namespace)["nft list ruleset"] == before["nft list ruleset"]
