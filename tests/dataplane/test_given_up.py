"""What the agent gives up once its eBPF programs are loaded: with it a hijacked agent reads the secretary's key out of
memory, however hardened the secretary is; without it the agent still does all of its work.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from unprivileged import as_nobody

ROOT = Path(__file__).parent.parent.parent
UNITS = ("net_admin", "net_raw", "bpf", "perfmon", "sys_ptrace")
"""Capabilities of packaging/systemd/hostagent.service."""

pytestmark = pytest.mark.netns

_VICTIM = """
import ctypes, os, sys
from dataplane.hardening import harden
harden()
seed = ctypes.create_string_buffer(bytes(range(7, 39)), 32)
print(os.getpid(), ctypes.addressof(seed), flush=True)
sys.stdin.readline()
"""

_ATTACK = """
import struct, sys, threading
from pathlib import Path
from billpay.errors import EnvironmentFault
from dataplane.ebpf.libbpf import BpfObject
from dataplane.hardening import Capability, drop_capabilities, forbid_loading_programs

def attack():
    try:
        peek = BpfObject(Path(sys.argv[1]))
    except EnvironmentFault as fault:
        print(fault.cause)
    else:
        peek.map("wanted").update(bytes(4), struct.pack("QQ", int(sys.argv[2]), int(sys.argv[3])))
        print(peek.run_iterator("peek") == bytes(range(7, 39)))

def late():
    go.wait()
    attack()

go = threading.Event()
thread = threading.Thread(target=late)
thread.start()
given_up = sys.argv[4:]
if "programs" in given_up:
    forbid_loading_programs()
drop_capabilities(Capability[name] for name in given_up if name != "programs")
attack()
go.set()
thread.join()
"""


@pytest.fixture(scope="module")
def peek(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("no clang: the attacker's program cannot be compiled")
    folder = tmp_path_factory.mktemp("peek")
    folder.chmod(0o755)
    made = folder / "peek.bpf.o"
    include = f"-I/usr/include/{subprocess.check_output(['uname', '-m'], text=True).strip()}-linux-gnu"
    source = str(ROOT / "tests" / "peek.bpf.c")
    subprocess.run(
        [clang, "-O2", "-g", "-target", "bpf", "-mcpu=v3", include, "-c", source, "-o", str(made)], check=True
    )
    return made


@pytest.fixture
def victim() -> Iterator[list[str]]:
    """Process id, and the address of its seed."""
    command = ["setpriv", "--reuid", "64001", "--regid", "64001", "--clear-groups"]
    command += ["--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search"]
    process = subprocess.Popen(
        [*command, sys.executable, "-B", "-c", _VICTIM],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().split()
    process.communicate("\n", timeout=10)


def attack(peek: Path, victim: list[str], *given_up: str) -> list[str]:
    """What came of it in the thread that gave up, and in one that was there before."""
    command = [sys.executable, "-B", "-c", _ATTACK, str(peek), *victim, *given_up]
    done = subprocess.run(
        as_nobody(*command, capabilities=UNITS), cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_who_may_load_tracing_programs_reads_any_memory(peek: Path, victim: list[str]) -> None:
    """The danger is real: all of this with the unit's capabilities, as another user, against a hardened process."""
    assert attack(peek, victim) == ["True", "True"]
    assert attack(peek, victim, "SYS_PTRACE") == ["True", "True"]


def test_without_perfmon_nobody_may_but_a_thread_that_was_there_before(peek: Path, victim: list[str]) -> None:
    here, older = attack(peek, victim, "PERFMON")
    assert "not permitted" in here
    assert older == "True"


def test_once_loading_is_forbidden_no_thread_may(peek: Path, victim: list[str]) -> None:
    for given_up in (["programs"], ["programs", "PERFMON"]):
        for said in attack(peek, victim, *given_up):
            assert "not permitted" in said


_ENGINE = """
import asyncio, json, subprocess, sys, time
from pathlib import Path
from dataplane.ebpf_engine import EbpfEngine
from dataplane.hardening import Capability, drop_capabilities, forbid_loading_programs
from dataplane.hardening import held_capabilities, threads_that_hold
from dataplane.shaping.plan import NO_SHAPING, ShapedLink, ShapingPlan, TrafficClass
from dataplane.shaping.trafficcontrol import TrafficControl

def plan_of(names, *classes):
    links = tuple(ShapedLink(interface=name, egress_bit_s=10_000_000) for name in names)
    return ShapingPlan(classes=(*NO_SHAPING.classes, *classes), links=links)

async def main(folder):
    engine = EbpfEngine(
        control=TrafficControl(folder / "record.json"), ecn_record_path=folder / "ecn.json", now_ns=time.monotonic_ns
    )
    await engine.start(plan_of(["d0"]))
    forbid_loading_programs()
    drop_capabilities((Capability.PERFMON, Capability.SYS_PTRACE))
    said = {"left": threads_that_hold(Capability.PERFMON), "held": sorted(each.name for each in held_capabilities())}
    subprocess.run(["ip", "link", "add", "d1", "type", "veth", "peer", "name", "p1"], check=True)
    subprocess.run(["ip", "link", "set", "d1", "up"], check=True)
    await engine.apply(plan_of(["d0", "d1"], TrafficClass(name="a", congestion_control="price")))
    said["limits"] = [each.ability.value for each in engine.limits]
    said["controls"] = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    for _ in range(12):
        await engine.on_second()
    said["links"] = [each.interface for each in (await engine.read()).links]
    said["flows"] = len(await engine.flows())
    said["qdisc"] = subprocess.run(["tc", "qdisc", "show", "dev", "d1"], capture_output=True, text=True).stdout
    await engine.close()
    said["after"] = subprocess.run(["tc", "qdisc", "show", "dev", "d1"], capture_output=True, text=True).stdout
    print(json.dumps(said))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_the_engine_does_all_of_its_work_without_what_it_gave_up(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(0o777)
    prepared = 'ip link add d0 type veth peer name p0 && ip link set d0 up && ip link set lo up && exec "$@"'
    command = as_nobody(sys.executable, "-B", "-c", _ENGINE, str(folder), capabilities=UNITS)
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", prepared, "prepared", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["left"], said["held"]) == (0, ["BPF", "NET_ADMIN", "NET_RAW"])
    assert said["limits"] == ["ask first"]
    assert "price" in said["controls"]
    assert said["links"] == ["d0", "d1"]
    assert "htb 7414:" in said["qdisc"]
    assert "htb" not in said["after"]


def test_price_is_registered_late_and_again_after_another_agent_had_the_name() -> None:
    code = """
from billpay.errors import EnvironmentFault
from dataplane.ebpf.congestion import PriceControl
first = PriceControl(registered=False)
second = PriceControl(registered=False)
first.register()
try:
    second.register()
except EnvironmentFault as fault:
    print(fault.cause)
first.close()
second.register()
second.register()
print("registered")
second.close()
"""
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["the name is taken", "registered"], done.stderr
