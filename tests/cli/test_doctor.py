"""`hostagent doctor`: says what works, to people and to programs, and leaves everything as it was."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from netns import Namespace
from rich.console import Console
from unprivileged import as_nobody

from cli.doctor import doctor
from cli.doctor_report import Report, report_of, show
from cli.exit_codes import ExitCode
from dataplane.diagnosis import bpf_probe
from dataplane.diagnosis.conflicts import Conflict, ConflictKind, Together
from dataplane.diagnosis.engine_choice import choose
from dataplane.diagnosis.features import Feature, FeatureName, State, cgroup_v2_mount
from dataplane.host_engine import EngineName

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "spec" / "doctor.md"
COMMAND = (sys.executable, "-P", "-c", "from cli.doctor import doctor; doctor()")
CONFLICT = Conflict(
    kind=ConflictKind.SHAPER,
    together=Together.PARTLY,
    what="eth0: [somebody] shapes",
    consequence="no shaping there",
    remedy="remove it",
)


def machine(state: State) -> tuple[Feature, ...]:
    return tuple(Feature(name=name, state=state, detail=f"about {name}", remedy="mend it") for name in FeatureName)


def report(state: State) -> Report:
    features = machine(state)
    return report_of(choose(features), features, (CONFLICT,))


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


# -- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(State))
def test_people_see_what_works_what_does_not_and_what_to_do(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    show(report(state), Console(width=200, markup=False))
    shown = capsys.readouterr().out
    assert shown.startswith("engine: ebpf" if state is State.WORKS else "engine: none")
    assert ("not nfqueue: privilege-net-admin: about" in shown) == (state is not State.WORKS)
    for text in (*FeatureName, "→ mend it", CONFLICT.what, "works in part", CONFLICT.consequence, "→ remove it"):
        assert text in shown


def test_eighty_characters_are_enough_to_read_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    show(report(State.MISSING), Console(width=80, markup=False))
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.strip().startswith(name) for line in lines) for name in FeatureName)


def test_without_conflicts_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    features = machine(State.WORKS)
    show(report_of(choose(features), features, ()), Console(width=200, markup=False))
    assert "nothing else here touches" in capsys.readouterr().out


def test_the_exit_code_says_whether_the_agent_can_work_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.diagnosis.conflicts.find_conflicts", lambda directories: (CONFLICT,))
    for state, code in ((State.WORKS, ExitCode.OK), (State.MISSING, ExitCode.ENVIRONMENT)):
        monkeypatch.setattr("dataplane.diagnosis.features.probe", lambda state=state: machine(state))
        done = CliRunner().invoke(doctor, [])
        assert done.exit_code == code
    assert done.stderr.splitlines() == ["hostagent: no engine of the data plane works on this machine"]


def test_the_document_lists_every_name_and_its_sample_is_a_report() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([a-z0-9-]+)` \|", text, flags=re.MULTILINE))
    assert named == {*FeatureName, *ConflictKind}
    (sample,) = re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)
    msgspec.json.decode(sample, type=Report, strict=True)
    assert json.loads(sample).keys() == set(Report.__struct_fields__)
    for word in (*State, *Together, *EngineName):
        assert word in text


# -- on this machine -------------------------------------------------------------------------------------------------


def dressed() -> Namespace:
    """A namespace with something of everything that must stay as it is."""
    namespace = Namespace()
    namespace.run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    namespace.run("ip", "address", "add", "10.7.0.1/24", "dev", "veth0")
    namespace.run("ip", "link", "set", "veth0", "up")
    namespace.run("ip", "route", "add", "10.8.0.0/24", "dev", "veth0", "table", "77")
    namespace.run("ip", "rule", "add", "fwmark", "0x7", "lookup", "77", "priority", "900")
    namespace.run("tc", "qdisc", "add", "dev", "veth0", "root", "handle", "9:", "tbf", *TBF)
    namespace.run("tc", "qdisc", "add", "dev", "veth1", "clsact")
    namespace.run("iptables", "-t", "mangle", "-A", "OUTPUT", "-j", "MARK", "--set-mark", "7")
    namespace.run("nft", "add", "table", "inet", "mine")
    namespace.run("sysctl", "-qw", "net.ipv4.tcp_ecn=1")
    return namespace


TBF = ("rate", "10mbit", "burst", "10k", "latency", "50ms")


def state_of(namespace: Namespace) -> dict[str, str]:
    """Without the counters."""
    commands = (
        ("ip", "-details", "link", "show"),
        ("ip", "address", "show"),
        ("ip", "rule", "show"),
        ("ip", "-6", "rule", "show"),
        ("ip", "route", "show", "table", "all"),
        ("ip", "-6", "route", "show", "table", "all"),
        ("tc", "qdisc", "show"),
        ("tc", "filter", "show", "dev", "veth1", "ingress"),
        ("nft", "--stateless", "list", "ruleset"),
        ("sysctl", "-a", "--pattern", r"^net\."),
    )
    shown = {" ".join(each): namespace.run(*each) for each in commands}
    shown["modules"] = "\n".join(sorted(path.name for path in Path("/sys/module").iterdir()))
    # Dead neighbours' garbage and connection tracking's own clock move by themselves.
    return {name: re.sub(r"(expires|_count = ?|lft) ?\S+", "", text) for name, text in shown.items()}


def probes_left() -> list[str]:
    """Programs of ours at the root control group; others may come and go there while the test runs."""
    mount = cgroup_v2_mount()
    if mount is None:
        return []
    root = os.open(mount, os.O_RDONLY)
    try:
        found = bpf_probe.attached(root, bpf_probe.CGROUP_INET_SOCK_CREATE)
    finally:
        os.close(root)
    names = [bpf_probe.program_name(identifier) for identifier in found.identifiers]
    return [name for name in names if name == "hostagent_probe"]


@pytest.mark.netns
@pytest.mark.parametrize("as_root", [True, False])
def test_everything_is_as_before(as_root: bool, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with dressed() as namespace:
        before = state_of(namespace)
        command = [*COMMAND, "--state-directory", str(tmp_path)]
        done = run(namespace.command(*(command if as_root else as_nobody(*command))))
        assert done.returncode == 0, done.stderr
        assert state_of(namespace) == before
    assert list(tmp_path.iterdir()) == []
    assert probes_left() == []


@pytest.mark.netns
def test_programs_read_the_same_report_as_json(tmp_path: Path) -> None:
    with dressed() as namespace:
        done = run(namespace.command(*COMMAND, "--json", "--state-directory", str(tmp_path)))
    told = msgspec.json.decode(done.stdout, type=Report)
    assert [each.name for each in told.features] == list(FeatureName)
    assert told.engine is not None
    assert any(each.kind is ConflictKind.SHAPER and "veth0" in each.what for each in told.conflicts)
    assert done.stderr == ""


@pytest.mark.netns
def test_without_privileges_it_works_and_says_what_root_would_add(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    with Namespace() as namespace:
        done = run(namespace.command(*as_nobody(*COMMAND, "--json", "--state-directory", str(tmp_path / "state"))))
    told = msgspec.json.decode(done.stdout, type=Report)
    assert (done.returncode, told.engine) == (0, EngineName.SOCKETS)
    assert [each.engine for each in told.rejected] == [EngineName.EBPF, EngineName.NFQUEUE]
    assert all("CAP_NET_ADMIN" in each.why for each in told.rejected)
    unseen = {each.what for each in told.conflicts if each.kind is ConflictKind.UNSEEN}
    assert unseen >= {"iptables rules", "nftables rules", "eBPF programs at interfaces"}
    assert "would add" in " ".join(each.remedy for each in told.features)
