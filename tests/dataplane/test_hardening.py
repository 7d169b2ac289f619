"""A hardened process: nobody of its own user looks into it, it leaves no core, and what it gave up it cannot take back.

The attackers are processes of their own, as the same user, as the agent's, and with the agent's capabilities.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from leaks import shows

from dataplane.hardening import Capability

ROOT = Path(__file__).parent.parent.parent
ITS_USER, AGENTS_USER = "64001", "64002"
PYTHON = "/usr/bin/python3"
"""A user who is not root may not read the interpreter that root's own directory has."""

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        not Path(PYTHON).exists() or shutil.which("setpriv") is None,
        reason=f"no {PYTHON} or no setpriv: nothing to run as another user",
    ),
]

_VICTIM = """
import ctypes, os, sys
from dataplane.hardening import harden
if "open" not in sys.argv:
    harden()
seed = ctypes.create_string_buffer(bytes(range(7, 39)), 32)
print(os.getpid(), ctypes.addressof(seed), flush=True)
sys.stdin.readline()
"""
SEED = bytes(range(7, 39))

_ATTACK = r"""
import ctypes, os, sys
process, address = int(sys.argv[1]), int(sys.argv[2])
C = ctypes.CDLL(None, use_errno=True)
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result
def memory_file():
    descriptor = os.open(f"/proc/{process}/mem", os.O_RDONLY)
    return os.pread(descriptor, 32, address)
def process_vm_readv():
    kept = ctypes.create_string_buffer(32)
    mine, theirs = Part(ctypes.addressof(kept), 32), Part(address, 32)
    checked(C.process_vm_readv(process, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0))
    return kept.raw
def ptrace():
    checked(C.ptrace(16, process, None, None))
    os.waitpid(process, 0)
    C.ptrace(17, process, None, None)
    return "attached"
def descriptor():
    return checked(C.syscall(438, os.pidfd_open(process), 0, 0))
def environment():
    return open(f"/proc/{process}/environ", "rb").read(16)
def executable():
    return os.readlink(f"/proc/{process}/exe")
for attack in (memory_file, process_vm_readv, ptrace, descriptor, environment, executable):
    try:
        attack()
    except OSError:
        continue
    print(attack.__name__)
"""


def as_user(user: str, *capabilities: str) -> list[str]:
    kept = ",".join(["-all", *(f"+{each}" for each in capabilities)])
    ids = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"]
    return [*ids, "--inh-caps", kept, "--ambient-caps", kept, "--bounding-set", kept]


def python(user: list[str], code: str, *arguments: str) -> list[str]:
    return [*user, PYTHON, "-B", "-c", code, *arguments]


class Victim:
    """Holds the seed in its memory until it is told to end."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            python(as_user(ITS_USER), _VICTIM, *arguments),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        number, address = self._process.stdout.readline().split()
        self.process_id, self.address = int(number), address

    def fell_to(self, attacker: list[str]) -> set[str]:
        """Which attacks worked."""
        command = python(attacker, _ATTACK, str(self.process_id), self.address)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())

    def end(self) -> None:
        self._process.communicate("\n", timeout=10)


@pytest.fixture
def hardened() -> Iterator[Victim]:
    victim = Victim()
    yield victim
    victim.end()


def test_the_same_user_sees_into_an_ordinary_process_and_not_into_a_hardened_one(hardened: Victim) -> None:
    ordinary = Victim("open")
    try:
        everything = {"memory_file", "process_vm_readv", "ptrace", "descriptor", "environment", "executable"}
        assert ordinary.fell_to(as_user(ITS_USER)) == everything
    finally:
        ordinary.end()
    assert hardened.fell_to(as_user(ITS_USER)) == set()


def test_the_agents_user_sees_nothing_of_it(hardened: Victim) -> None:
    assert hardened.fell_to(as_user(AGENTS_USER)) == set()
    assert hardened.fell_to(as_user(AGENTS_USER, "net_admin", "net_raw", "bpf")) == set()


def test_with_the_capability_to_trace_only_system_calls_are_left_and_the_units_filter_takes_those(
    hardened: Victim,
) -> None:
    """What the agent's unit forbids by SystemCallFilter is what would work; /proc/PID/mem has a user's rights."""
    worked = hardened.fell_to(as_user(AGENTS_USER, "sys_ptrace"))
    assert worked == {"process_vm_readv", "ptrace", "descriptor", "executable"}
    assert hardened.fell_to(filtered("sys_ptrace")) == {"executable"}


def filtered(*capabilities: str) -> list[str]:
    """The agent's user behind a filter as systemd makes it: EPERM for what looks into others."""
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); from seccomp_filter import forbid; "
        "forbid(('ptrace', 'process_vm_readv', 'process_vm_writev', 'pidfd_getfd')); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return python(as_user(AGENTS_USER, *capabilities), code)


def test_it_leaves_no_core(tmp_path: Path) -> None:
    """Where the kernel writes cores to files; a pipe, as systemd-coredump's, gets nothing of it either."""
    code = """
import ctypes, os, resource, sys
if "open" in sys.argv:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
else:
    from dataplane.hardening import harden
    harden()
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))
    except ValueError:
        pass
seed = ctypes.create_string_buffer(bytes(range(7, 39)), 32)
os.abort()
"""
    for name in ("hardened", "open"):
        folder = tmp_path / name
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-B", "-c", code, name],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert done.returncode == -signal.SIGABRT
        cores = list(folder.iterdir())
        if name == "hardened":
            assert cores == []
        elif cores:  # else this machine's cores go elsewhere
            assert shows(cores[0].read_bytes(), SEED)


def run(code: str, *capabilities: str) -> str:
    user = as_user(AGENTS_USER, *capabilities)
    done = subprocess.run(python(user, code), cwd=ROOT, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_hardening_is_what_the_kernel_says_and_can_be_done_again() -> None:
    code = "from dataplane.hardening import *; print(is_hardened()); harden(); harden(); print(is_hardened())"
    assert run(code).split() == ["False", "True"]


def test_a_program_that_it_starts_gets_no_descriptor_of_it() -> None:
    code = """
import os, subprocess
from dataplane.hardening import harden
kept = os.open("/", os.O_RDONLY)
os.set_inheritable(kept, True)
harden()
print(subprocess.run(["ls", "/proc/self/fd"], capture_output=True, text=True, close_fds=False).stdout.split())
"""
    assert run(code) == "['0', '1', '2', '3']"  # 3: ls itself


def test_a_capability_that_was_dropped_does_not_come_back_and_is_not_inherited() -> None:
    code = """
import subprocess
from dataplane.hardening import *
print(sorted(each.name for each in held_capabilities()))
drop_capabilities((Capability.PERFMON, Capability.SYS_PTRACE))
drop_capabilities((Capability.PERFMON,))
print(sorted(each.name for each in held_capabilities()))
child = "from dataplane.hardening import *; print(sorted(each.name for each in held_capabilities()))"
print(subprocess.run(["/usr/bin/python3", "-B", "-c", child], capture_output=True, text=True).stdout.strip())
"""
    lines = run(code, "net_admin", "bpf", "perfmon", "sys_ptrace").splitlines()
    assert lines == ["['BPF', 'NET_ADMIN', 'PERFMON', 'SYS_PTRACE']", "['BPF', 'NET_ADMIN']", "['BPF', 'NET_ADMIN']"]
    assert {Capability.PERFMON, Capability.SYS_PTRACE} <= set(Capability)


def test_a_thread_that_was_there_before_is_told_of() -> None:
    code = """
import threading
from dataplane.hardening import *
done = threading.Event()
thread = threading.Thread(target=done.wait)
thread.start()
drop_capabilities((Capability.PERFMON,))
print(threads_that_hold(Capability.PERFMON))
done.set()
thread.join()
print(threads_that_hold(Capability.PERFMON))
"""
    assert run(code, "perfmon").split() == ["1", "0"]


def test_the_children_of_a_data_plane_have_nothing_that_looks_into_others() -> None:
    """What main gives up it could otherwise take back from a reader of its own user."""
    code = """
import os, sys
from dataplane import hardening, heartbeat, watchdog
heartbeat.die_with_parent = watchdog.die_with_parent = lambda parent: None
def page(path):
    print(sorted(each.name for each in hardening.held_capabilities()))
    sys.exit()
watchdog.HeartbeatFile = page
watchdog.main(["/nowhere", "1"])
"""
    assert run(code, "net_admin", "net_raw", "bpf", "perfmon", "sys_ptrace") == "['NET_ADMIN', 'NET_RAW']"
