"""Others on this host: found without touching them, and judged in words."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from netns import Namespace

from dataplane.desired import Chain, DesiredState, QueueRule
from dataplane.diagnosis.conflicts import MARK_BITS, Conflict, ConflictKind, Together, judge
from dataplane.diagnosis.surroundings import (
    BoundQueue,
    CgroupProgram,
    Filter,
    FoundRecord,
    Interface,
    NftRule,
    NftTable,
    PacketProgram,
    PolicyRule,
    Qdisc,
    RunningAgent,
    SavedRule,
    Surroundings,
    Unseen,
    survey,
)
from dataplane.port import ACCEPT_BIT
from dataplane.record import RECORD_NAME
from dataplane.rules import apply, restore

HERE = Path("/var/lib/hostagent")
FIND = """
import sys, msgspec, pathlib
from dataplane.diagnosis.conflicts import find_conflicts
sys.stdout.buffer.write(msgspec.json.encode(find_conflicts([pathlib.Path(each) for each in sys.argv[1:]])))
"""


def only(**around: object) -> Conflict:
    """What is judged of the one thing that is there."""
    (found,) = judge(Surroundings(**around))  # type: ignore[arg-type]
    return found


def found_in(namespace: Namespace, *directories: Path) -> list[Conflict]:
    arguments = namespace.command(sys.executable, "-P", "-c", FIND, *map(str, directories))
    done = subprocess.run(arguments, capture_output=True, check=True)
    return msgspec.json.decode(done.stdout, type=list[Conflict])


def kinds(conflicts: list[Conflict]) -> list[tuple[ConflictKind, Together]]:
    return [(each.kind, each.together) for each in conflicts]


# -- judged ----------------------------------------------------------------------------------------------------------


def test_an_ordinary_machine_has_no_conflicts() -> None:
    plain = Surroundings(
        interfaces=(Interface(1, "lo"), Interface(2, "eth0")),
        qdiscs=(Qdisc("lo", "noqueue", "0:", True), Qdisc("eth0", "mq", "0:", True), Qdisc("eth0", "fq", "0:", False)),
        policy_rules=(PolicyRule(4, 0, "local", 0, 0xFFFF_FFFF), PolicyRule(4, 32766, "main", 0, 0xFFFF_FFFF)),
        chains=frozenset({(4, "filter", "INPUT")}),
        nft_tables=(NftTable("ip", "filter", ("INPUT",)),),
    )
    assert judge(plain) == ()


@pytest.mark.parametrize(
    ("interface", "tool"),
    [
        (Interface(3, "wg0", "wireguard"), "WireGuard"),
        (Interface(3, "tailscale0", "tun"), "Tailscale"),
        (Interface(3, "tun0", "tun"), "a tunnel of a program"),
        (Interface(3, "ipsec0", "xfrm"), "IPsec"),
    ],
)
def test_a_tunnel_is_a_vpn(interface: Interface, tool: str) -> None:
    found = only(interfaces=(interface,))
    assert (found.kind, found.together) == (ConflictKind.VPN, Together.YES)
    assert tool in found.what


def test_a_guests_tap_is_none() -> None:
    assert judge(Surroundings(interfaces=(Interface(3, "vnet0", "tun"),))) == ()


def test_wg_quicks_mark_is_not_ours() -> None:
    found = only(policy_rules=(PolicyRule(4, 32764, "51820", 51820, 0xFFFF_FFFF),))
    assert (found.kind, found.together) == (ConflictKind.VPN, Together.YES)


def test_tailscales_marks_meet_a_gateways_but_not_a_hosts() -> None:
    found = only(policy_rules=(PolicyRule(4, 5210, "main", 0x80000, 0xFF0000),))
    assert (found.kind, found.together) == (ConflictKind.MARK, Together.PARTLY)
    assert "Tailscale" in found.what
    assert "no harm on a host" in found.consequence


@pytest.mark.parametrize(
    ("text", "together"),
    [
        ("-j MARK --set-xmark 0x20000000/0x20000000", Together.NO),
        ("-j MARK --set-xmark 0x20000001/0xffffffff", Together.NO),
        ("-m mark --mark 0x40000/0xff0000 -j ACCEPT", Together.PARTLY),
        ("-j CONNMARK --restore-mark --nfmask 0xff0000 --ctmask 0xff0000", Together.PARTLY),
        ("-j MARK --set-xmark 0x1/0xffffffff", None),
        ("-m mark --mark 0x4000/0x4000 -j MASQUERADE", None),
        ("-m connmark --mark 0x20000000 -j ACCEPT", None),
        ("-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff", None),
    ],
)
def test_marks_in_iptables_rules(text: str, together: Together | None) -> None:
    found = judge(Surroundings(saved_rules=(SavedRule(4, "mangle", "FORWARD", text),)))
    assert [each.together for each in found] == ([together] if together else [])


MARK = {"meta": {"key": "mark"}}


@pytest.mark.parametrize(
    ("expression", "together"),
    [
        ({"match": {"op": "==", "left": {"&": [MARK, 0xFF0000]}, "right": 0x40000}}, Together.PARTLY),
        ({"match": {"op": "==", "left": MARK, "right": ACCEPT_BIT}}, Together.NO),
        ({"mangle": {"key": MARK, "value": {"|": [{"&": [MARK, 0xFFFF]}, 0x10000]}}}, Together.PARTLY),
        ({"mangle": {"key": MARK, "value": {"ct": {"key": "mark"}}}}, None),
        ({"match": {"op": "==", "left": {"ct": {"key": "mark"}}, "right": ACCEPT_BIT}}, None),
        ({"accept": None}, None),
        ("notrack", None),
    ],
)
def test_marks_in_nftables_rules(expression: object, together: Together | None) -> None:
    found = judge(Surroundings(nft_rules=(NftRule("inet", "my", "out", (expression,)),)))
    assert [each.together for each in found] == ([together] if together else [])


def test_our_own_rules_are_no_conflict() -> None:
    mark = f"{ACCEPT_BIT:#x}/{ACCEPT_BIT:#x}"
    around = Surroundings(
        saved_rules=(
            SavedRule(4, "mangle", "billpay-ho-COUT", f"-m mark --mark {mark} -j MARK --set-xmark 0x0/0x20000000"),
            SavedRule(4, "raw", "host-shape-QOUT", "-o eth0 -j NFQUEUE --queue-num 7418 --queue-bypass"),
        ),
        chains=frozenset({(4, "mangle", "billpay-ho-COUT"), (4, "raw", "host-shape-QOUT")}),
        queues=(BoundQueue(7418, 77),),
        qdiscs=(Qdisc("eth0", "htb", "7414:", True),),
        packet_programs=(PacketProgram("eth0", "egress", "on_leave"),),
        policy_rules=(PolicyRule(4, 7415, "74141", 0x20000, 0x0FFF0000),),
        agents=(RunningAgent(HERE, 76, True),),
        records=(FoundRecord(HERE / RECORD_NAME, HERE, "billpay-ho"),),
    )
    assert kinds(list(judge(around))) == [(ConflictKind.SECOND_AGENT, Together.NO)]


@pytest.mark.parametrize(
    ("rule", "together"),
    [
        (SavedRule(4, "filter", "INPUT", "-j NFQUEUE --queue-num 7417"), Together.NO),
        (SavedRule(6, "filter", "INPUT", "-j NFQUEUE --queue-balance 7410:7420 --queue-bypass"), Together.NO),
        (SavedRule(4, "raw", "OUTPUT", "-j NFQUEUE --queue-num 5"), Together.PARTLY),
        (SavedRule(4, "mangle", "FORWARD", "-j NFQUEUE --queue-num 5"), Together.YES),
    ],
)
def test_other_peoples_queues(rule: SavedRule, together: Together) -> None:
    found = only(saved_rules=(rule,))
    assert (found.kind, found.together) == (ConflictKind.QUEUE, together)


@pytest.mark.parametrize(
    ("queue", "together"),
    [
        ({"num": 7416, "flags": "bypass"}, Together.NO),
        ({"num": {"range": [7400, 7414]}}, Together.NO),
        ({"num": 3}, Together.YES),
        ({"num": {"numgen": {"mode": "inc", "mod": 4}}}, Together.YES),
        (None, Together.YES),
    ],
)
def test_other_peoples_queues_in_nftables(queue: object, together: Together) -> None:
    assert only(nft_rules=(NftRule("inet", "ids", "in", ({"queue": queue},)),)).together is together


def test_a_reader_of_our_queue_without_an_agent_is_a_second_one() -> None:
    found = only(queues=(BoundQueue(7416, 99),))
    assert (found.kind, found.together) == (ConflictKind.QUEUE, Together.NO)
    assert "process 99" in found.what


@pytest.mark.parametrize(
    ("qdisc", "maker"),
    [
        (Qdisc("eth0", "tbf", "8001:", True), "somebody"),
        (Qdisc("eth0", "htb", "1:", True), "wondershaper"),
        (Qdisc("ifb4eth0", "cake", "8002:", True), "SQM"),
    ],
)
def test_a_shaper_keeps_its_interface(qdisc: Qdisc, maker: str) -> None:
    found = only(qdiscs=(qdisc,))
    assert (found.kind, found.together) == (ConflictKind.SHAPER, Together.PARTLY)
    assert maker in found.what
    assert f"tc qdisc del dev {qdisc.interface} root" in found.remedy


def test_traffictoll_is_named_by_its_process() -> None:
    found = only(qdiscs=(Qdisc("eth0", "htb", "1:", True),), processes=frozenset({"tt"}))
    assert "TrafficToll" in found.what


def test_filters_that_take_arrivals_away_shape_them() -> None:
    assert only(filters=(Filter("eth0", "matchall", "", True),)).kind is ConflictKind.SHAPER


def test_other_peoples_programs() -> None:
    assert only(packet_programs=(PacketProgram("eth0", "ingress", "cil_from_netdev"),)).together is Together.YES
    assert only(filters=(Filter("eth0", "bpf", "theirs", False),)).together is Together.YES
    alone = CgroupProgram("cgroup/connect4", "theirs", shares=False)
    assert only(cgroup_programs=(alone,)).together is Together.NO
    assert judge(Surroundings(cgroup_programs=(alone._replace(shares=True),))) == ()


@pytest.mark.parametrize(
    ("tool", "around"),
    [
        ("Docker", {"interfaces": (Interface(3, "br-0123456789ab", "bridge"),)}),
        ("Podman", {"nft_tables": (NftTable("inet", "netavark", ("NETAVARK-HOSTPORT",)),)}),
        ("libvirt", {"interfaces": (Interface(3, "virbr0", "bridge"),)}),
        ("Kubernetes", {"chains": frozenset({(4, "nat", "KUBE-SERVICES")})}),
        ("LXC", {"interfaces": (Interface(3, "lxdbr0", "bridge"),)}),
    ],
)
def test_containers_are_forwarded_traffic(tool: str, around: dict[str, object]) -> None:
    found = next(each for each in judge(Surroundings(**around)) if each.kind is ConflictKind.CONTAINERS)  # type: ignore[arg-type]
    assert found.together is Together.YES
    assert found.what.startswith(tool)


def test_firewalls_work_together() -> None:
    around = Surroundings(
        chains=frozenset({(4, "filter", "ufw-before-input")}),
        nft_tables=(NftTable("inet", "firewalld"), NftTable("inet", "filter")),
    )
    assert [each.what for each in judge(around)] == ["ufw", "firewalld", "nftables table inet filter"]
    assert {each.together for each in judge(around)} == {Together.YES}


def test_a_priority_of_ours_that_somebody_has() -> None:
    found = only(policy_rules=(PolicyRule(4, 7415, "vpn", 0, 0xFFFF_FFFF),))
    assert (found.kind, found.together) == (ConflictKind.ROUTING, Together.PARTLY)


def test_an_agent_in_another_namespace_is_not_in_the_way() -> None:
    assert only(agents=(RunningAgent(HERE, 5, False),)).together is Together.PARTLY
    assert only(agents=(RunningAgent(HERE, 5, True),)).together is Together.NO


def test_what_a_killed_agent_left_is_named_with_what_undoes_it() -> None:
    found = only(records=(FoundRecord(HERE / RECORD_NAME, HERE, "billpay-ho"),))
    assert (found.kind, found.remedy) == (ConflictKind.LEFTOVERS, f"hostagent restore --state-directory {HERE}")
    assert "cannot be understood" in only(records=(FoundRecord(HERE / RECORD_NAME, HERE, "", False),)).what
    assert only(qdiscs=(Qdisc("eth0", "htb", "7414:", True),)).kind is ConflictKind.LEFTOVERS


def test_what_could_not_be_seen_is_not_called_harmless() -> None:
    found = only(unseen=(Unseen("nftables rules", "not permitted"),))
    assert (found.together, found.remedy) == (Together.UNKNOWN, "run doctor as root")


def test_what_does_not_work_comes_first() -> None:
    around = Surroundings(
        interfaces=(Interface(3, "docker0", "bridge"),),
        unseen=(Unseen("locks", "x"),),
        qdiscs=(Qdisc("eth0", "tbf", "8001:", True),),
        queues=(BoundQueue(7416, 99),),
    )
    order = [Together.NO, Together.PARTLY, Together.UNKNOWN, Together.YES]
    assert [each.together for each in judge(around)] == order


def test_our_bits_are_those_of_the_port() -> None:
    assert MARK_BITS == 0x2FFF_0000


# -- found -----------------------------------------------------------------------------------------------------------


@pytest.mark.netns
def test_an_empty_namespace_has_no_conflicts(tmp_path: Path) -> None:
    with Namespace() as namespace:
        assert [each for each in found_in(namespace, tmp_path) if each.kind is not ConflictKind.PROGRAM] == []


@pytest.mark.netns
def test_made_up_neighbours_are_all_found(tmp_path: Path) -> None:
    with Namespace() as namespace:
        wireguard = namespace.command("ip", "link", "add", "vpn0", "type", "wireguard")
        if subprocess.run(wireguard, capture_output=True, check=False).returncode:
            namespace.run("ip", "tuntap", "add", "vpn0", "mode", "tun")
        namespace.run("ip", "link", "add", "docker0", "type", "bridge")
        namespace.run("iptables", "-t", "nat", "-N", "DOCKER")
        namespace.run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
        tbf = ("rate", "10mbit", "burst", "10k", "latency", "50ms")
        namespace.run("tc", "qdisc", "add", "dev", "veth0", "root", "tbf", *tbf)
        namespace.run("ip6tables", "-t", "raw", "-A", "OUTPUT", "-j", "NFQUEUE", "--queue-num", "7416")
        namespace.run("iptables", "-A", "INPUT", "-j", "NFQUEUE", "--queue-num", "12")
        namespace.run("ip", "rule", "add", "fwmark", "0x80000/0xff0000", "lookup", "52", "priority", "5210")
        namespace.run("nft", "add", "table", "inet", "mine")
        found = [each for each in found_in(namespace, tmp_path) if each.kind is not ConflictKind.PROGRAM]
    expected = [
        (ConflictKind.QUEUE, Together.NO),
        (ConflictKind.MARK, Together.PARTLY),
        (ConflictKind.SHAPER, Together.PARTLY),
        (ConflictKind.QUEUE, Together.YES),
        (ConflictKind.VPN, Together.YES),
        (ConflictKind.CONTAINERS, Together.YES),
        (ConflictKind.FIREWALL, Together.YES),
    ]
    assert kinds(found) == expected
    names = ("ip6tables chain OUTPUT", "ip rule 5210", "veth0", "chain INPUT", "vpn0", "docker0, chain DOCKER", "mine")
    assert all(name in each.what for name, each in zip(names, found, strict=True))


@pytest.mark.netns
def test_what_a_killed_agent_leaves_is_found_with_and_without_its_record(tmp_path: Path) -> None:
    desired = DesiredState(
        owner="billpay-ho", queues=(QueueRule(family=4, chain=Chain.OUTPUT, interface="lo", queue=7416),)
    )
    record = tmp_path / RECORD_NAME
    with Namespace() as namespace:
        namespace.call(lambda: apply(desired, record))
        (with_record,) = (each for each in found_in(namespace, tmp_path) if each.kind is not ConflictKind.PROGRAM)
        assert with_record.what.startswith(str(record))
        kept = record.read_bytes()
        record.unlink()
        without = [each for each in found_in(namespace, tmp_path) if each.kind is ConflictKind.LEFTOVERS]
        assert len(without) == 2
        # What it says to do does it.
        for each in without:
            namespace.run("sh", "-ec", each.remedy)
        assert "billpay" not in namespace.run("iptables-save")
        record.write_bytes(kept)
        namespace.call(lambda: restore(record))


@pytest.mark.netns
def test_a_running_agent_is_found_by_its_lock_and_its_lock_is_not_touched(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        assert survey([tmp_path]).agents == ()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert survey([tmp_path]).agents == (RunningAgent(tmp_path, os.getpid(), True),)
    finally:
        os.close(descriptor)


def test_a_directory_without_anything_is_no_trouble(tmp_path: Path) -> None:
    around = survey([tmp_path, tmp_path / "none"])
    assert (around.agents, around.records) == ((), ())
    assert not any(str(tmp_path) in each.what for each in around.unseen)
