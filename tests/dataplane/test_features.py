"""What a machine can do is tried, within a time, and without privileges as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from netns import Namespace
from unprivileged import as_nobody

from dataplane.diagnosis import features, scratch_probe
from dataplane.diagnosis.features import EBPF_DIRECTORY, TRIED, Feature, FeatureName, State, by_name, privileges, probe
from dataplane.diagnosis.kernel_modules import Modules
from dataplane.diagnosis.scratch_probe import Scratch

PRINT_PROBE = (
    "import sys, msgspec; from dataplane.diagnosis.features import probe;"
    " sys.stdout.buffer.write(msgspec.json.encode(probe()))"
)
NOTHING_KNOWN = Modules(loaded=frozenset(), builtin=frozenset(), on_disk=frozenset())


def printed(command: list[str]) -> dict[FeatureName, Feature]:
    done = subprocess.run(command, capture_output=True, check=True)
    return by_name(msgspec.json.decode(done.stdout, type=list[Feature]))


def status(effective: int) -> str:
    return f"Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective:016x}\n"


# -- privileges ------------------------------------------------------------------------------------------------------


def test_effective_capabilities_are_what_counts() -> None:
    found = by_name(privileges(status(1 << 12 | 1 << 39)))
    assert {name for name, feature in found.items() if feature.works} == {
        FeatureName.NET_ADMIN,
        FeatureName.BPF_PRIVILEGE,
    }
    assert "CAP_PERFMON would add" in found[FeatureName.PERFMON].remedy


def test_sys_admin_includes_bpf_and_perfmon_but_no_network() -> None:
    found = by_name(privileges(status(1 << 21)))
    assert {name for name, feature in found.items() if feature.works} == {
        FeatureName.SYS_ADMIN,
        FeatureName.BPF_PRIVILEGE,
        FeatureName.PERFMON,
    }


# -- the whole of it -------------------------------------------------------------------------------------------------


@pytest.mark.netns
def test_every_feature_is_answered_once_in_order_and_as_the_tools_themselves_answer() -> None:
    found = probe()
    assert [each.name for each in found] == list(FeatureName)
    works = {each.name: each.works for each in found}
    with Namespace() as namespace:

        def accepts(*arguments: str) -> bool:
            return subprocess.run(namespace.command(*arguments), capture_output=True, check=False).returncode == 0

        assert works[FeatureName.HTB] == accepts("tc", "qdisc", "replace", "dev", "lo", "root", "handle", "1:", "htb")
        assert works[FeatureName.FQ] == accepts("tc", "qdisc", "replace", "dev", "lo", "root", "handle", "1:", "fq")
        assert works[FeatureName.IFB] == accepts("ip", "link", "add", "i0", "type", "ifb")
        assert works[FeatureName.DUMMY] == accepts("ip", "link", "add", "d0", "type", "dummy")
        queue = ("-t", "raw", "-A", "OUTPUT", "-j", "NFQUEUE", "--queue-num", "9")
        assert works[FeatureName.NFQUEUE] == accepts("iptables", *queue)
        assert works[FeatureName.NFQUEUE_IPV6] == accepts("ip6tables", *queue)


@pytest.mark.netns
def test_without_privileges_it_says_what_they_would_add() -> None:
    whole, found = by_name(probe()), printed(as_nobody(sys.executable, "-P", "-c", PRINT_PROBE))
    assert list(found) == list(FeatureName)
    for name in (FeatureName.NET_ADMIN, FeatureName.BPF_PRIVILEGE, FeatureName.BPF, FeatureName.TCX):
        assert found[name].state is State.REFUSED
        assert "CAP_" in found[name].remedy
    assert found[FeatureName.SOCKET_DIAGNOSIS].works
    assert not any(found[name].works for name in features.NEEDS_NET_ADMIN)
    if found[FeatureName.USER_NAMESPACES].works and whole[FeatureName.HTB].works:
        assert found[FeatureName.HTB].detail == "the kernel has it; using it needs CAP_NET_ADMIN"


@pytest.mark.netns
def test_the_privileges_of_a_service_are_enough_without_being_root() -> None:
    whole = by_name(probe())
    capabilities = ("net_admin", "bpf", "perfmon")
    found = printed(as_nobody(sys.executable, "-P", "-c", PRINT_PROBE, capabilities=capabilities))
    for name in (FeatureName.BPF, FeatureName.TCX, FeatureName.CGROUP_ATTACH):
        assert found[name].state is whole[name].state
    if found[FeatureName.USER_NAMESPACES].works:
        for name in (FeatureName.HTB, FeatureName.IFB, FeatureName.NFQUEUE, FeatureName.MARK):
            assert found[name].state is whole[name].state


# -- when trying fails -----------------------------------------------------------------------------------------------


def test_a_probe_that_hangs_is_ended_with_all_that_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        child = subprocess.Popen(["sh", "-c", "sleep 1000; true"], stdout=pipe, stderr=pipe, start_new_session=True)
        started.append(child)
        return child

    monkeypatch.setattr(features, "_start_child", start)
    monkeypatch.setattr(features, "PROBE_TIMEOUT_S", 0.05)
    found = by_name(probe())  # `sleep` has our pipes: this returns only when it is dead, too
    assert all(found[name].state is State.REFUSED for name in TRIED)
    assert "did not finish" in found[FeatureName.BPF].detail
    assert started[0].returncode == -9


def test_a_probe_that_fails_says_with_what(monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["sh", "-c", "echo cause >&2; exit 3"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    monkeypatch.setattr(features, "_start_child", start)
    assert by_name(probe())[FeatureName.HTB].detail == "the process that tries it failed: cause"


def test_an_interpreter_that_cannot_be_started_again_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "cannot be started" in by_name(probe())[FeatureName.TCX].detail


def test_a_program_outside_the_path_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hidden = tmp_path / "tc"
    hidden.write_text("#!/bin/sh\n")
    hidden.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(features, "_SYSTEM_PATHS", str(tmp_path))
    found = by_name(probe())
    assert (found[FeatureName.TC].detail, found[FeatureName.TC].remedy) == (
        f"{hidden} is not on the PATH",
        f"add {tmp_path} to PATH",
    )
    assert found[FeatureName.IP].remedy == "install iproute2"


def test_the_objects_that_are_looked_for_are_those_of_the_engine(tmp_path: Path) -> None:
    (tmp_path / "a.bpf.o").touch()
    assert features._objects(tmp_path).works
    assert "build-ebpf" in features._objects(tmp_path / "none").remedy
    assert (EBPF_DIRECTORY / "host.bpf.c").exists()


# -- what is not tried -----------------------------------------------------------------------------------------------


def never() -> None:
    raise AssertionError("tried")


def test_what_would_load_a_module_is_not_tried() -> None:
    modules = Modules(loaded=frozenset({"a"}), builtin=frozenset({"b"}), on_disk=frozenset({"ifb"}))
    for scratch in Scratch:
        found = scratch_probe._feature(FeatureName.IFB, scratch, modules, ("ifb", "a", "b"), never)
        assert (found.state, found.detail) == (State.WORKS, "not tried: its first use loads module ifb")
    found = scratch_probe._feature(FeatureName.IFB, Scratch.PRIVILEGED, modules, ("ifb", "gone"), never)
    assert (found.state, found.detail) == (State.MISSING, "this kernel has no module gone")


def test_a_kernel_that_takes_no_more_modules_lacks_those_on_the_disk() -> None:
    modules = Modules(loaded=frozenset(), builtin=frozenset({"b"}), on_disk=frozenset({"ifb"}), disabled=True)
    assert scratch_probe._feature(FeatureName.IFB, Scratch.PRIVILEGED, modules, ("ifb",), never).state is State.MISSING


@pytest.mark.parametrize(
    ("options", "state"),
    [
        ({"CONFIG_IFB"}, State.WORKS),
        ({"CONFIG_DUMMY"}, State.MISSING),
        (set(), State.REFUSED),
    ],
)
def test_without_a_place_to_try_the_kernels_configuration_is_asked(
    monkeypatch: pytest.MonkeyPatch, options: set[str], state: State
) -> None:
    monkeypatch.setattr(scratch_probe, "_kernel_configuration", lambda: frozenset(options))
    assert scratch_probe._feature(FeatureName.IFB, Scratch.NONE, NOTHING_KNOWN, ("ifb",), never).state is state


def test_without_a_place_to_try_loaded_modules_are_enough() -> None:
    modules = Modules(loaded=frozenset({"ifb"}), builtin=frozenset(), on_disk=frozenset())
    assert scratch_probe._feature(FeatureName.IFB, Scratch.NONE, modules, ("ifb",), never).works
