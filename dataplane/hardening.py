"""What a process gives up about itself: others may not look into it, and when it dies it leaves no picture behind.

Decides: which of the kernel's doors into a running process are shut, and in which order. Refuses to know: which secret
is behind them. Source: prctl(2) PR_SET_DUMPABLE and PR_SET_NO_NEW_PRIVS, setrlimit(2), core(5), ptrace(2) "Ptrace
access mode checking", capabilities(7).

A process that is not dumpable writes no core, and its /proc/PID files belong to root: another process of the same user
can neither trace it, nor read its memory, nor take its descriptors. Who holds CAP_SYS_PTRACE can, and who may load
tracing eBPF programs (CAP_BPF with CAP_PERFMON): no process can defend itself against those. The process that has
them can give them up, once it needs them no more: `drop_capabilities`, `forbid_loading_programs`.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from billpay.errors import EnvironmentFault

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_GET_NO_NEW_PRIVS: Final = 39
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_LOWER: Final = 3
_CAPABILITY_VERSION_3: Final = 0x2008_0522
_FIRST_OF_OURS: Final = 3  # 0, 1 and 2 are for children, too

_LIBC = ctypes.CDLL(None, use_errno=True)


class Capability(enum.IntEnum):
    """Those that our units hand out. Numbers: linux/capability.h."""

    SETPCAP = 8
    NET_ADMIN = 12
    NET_RAW = 13
    SYS_PTRACE = 19
    PERFMON = 38
    BPF = 39


FOR_MAIN_ONLY: Final = (Capability.SYS_PTRACE, Capability.PERFMON, Capability.BPF)
"""What a packet reader or a watchdog has no use for. Main must not get back from a child what it has given up."""


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("process_id", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def harden() -> None:
    """First thing in a process that will hold a secret, before the secret is read. Raises EnvironmentFault.

    Done again it changes nothing. An exec makes a process dumpable again: children are not protected by this.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        raise EnvironmentFault("forbid core dumps of", "this process", error) from error
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    close_on_exec()


def is_hardened() -> bool:
    """What the kernel says of us, for a test or a health report."""
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    return _prctl(_PR_GET_DUMPABLE) == 0 and _prctl(_PR_GET_NO_NEW_PRIVS) == 1 and limits == (0, 0)


def close_on_exec() -> None:
    """No program that we start gets a descriptor of ours; Python opens its own this way, those inherited may not be."""
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number < _FIRST_OF_OURS:
            continue
        try:
            os.set_inheritable(number, False)
        except OSError:  # the directory that was just listed
            continue


def drop_capabilities(unwanted: Iterable[Capability]) -> None:
    """Gives them up for ever, in this thread and in what it starts. Raises EnvironmentFault.

    Call it before other threads are there: each has its own. Where we may not narrow the bounding set, it stays.
    """
    dropped = tuple(unwanted)
    for capability in dropped:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER, capability)
    if _holds(Capability.SETPCAP):
        for capability in dropped:
            _prctl(_PR_CAPBSET_DROP, capability)
    header, data = _read_capabilities()
    for capability in dropped:
        word, bit = divmod(capability, 32)
        data[word].effective &= ~(1 << bit)
        data[word].permitted &= ~(1 << bit)
        data[word].inheritable &= ~(1 << bit)
    if _LIBC.capset(ctypes.byref(header), data) != 0:
        raise _fault("give up capabilities of")


class _Machine(NamedTuple):
    """Numbers of a machine's system calls, and its own in linux/audit.h."""

    audit: int
    bpf: int
    seccomp: int


_MACHINES: Final = {
    "x86_64": _Machine(0xC000_003E, bpf=321, seccomp=317),
    "aarch64": _Machine(0xC000_00B7, bpf=280, seccomp=277),
    "riscv64": _Machine(0xC000_00F3, bpf=280, seccomp=277),
    "ppc64le": _Machine(0xC000_0015, bpf=361, seccomp=358),
    "s390x": _Machine(0x8000_0016, bpf=351, seccomp=348),
}
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # classic BPF: ld [k], jeq, jge, ret
_ALLOW: Final = 0x7FFF_0000
_REFUSE: Final = 0x0005_0000 | errno.EPERM
_CALL_AT, _AUDIT_AT, _FIRST_WORD_AT = 0, 4, 16  # in struct seccomp_data
_X32_CALLS: Final = 0x4000_0000  # the same machine's other numbers for the same calls
_BPF_PROG_LOAD: Final = 5
_SET_MODE_FILTER, _ALL_THREADS = 1, 1


def forbid_loading_programs() -> None:
    """No eBPF program is loaded from now on, by no thread of ours, nor what it starts. Raises EnvironmentFault.

    Those that are loaded go on, can be attached, and their maps be used. A thread that was there before keeps its
    capabilities whatever `drop_capabilities` does; this holds for it, too. Source: seccomp(2).
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise EnvironmentFault("forbid new eBPF programs in", "this process", f"unknown machine {platform.machine()}")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    low_word = _FIRST_WORD_AT + (4 if sys.byteorder == "big" else 0)
    steps = (  # each: what to do, how many to leave out if so and if not, a number
        (_LOAD, 0, 0, _AUDIT_AT),
        (_EQUAL, 0, 6, machine.audit),
        (_LOAD, 0, 0, _CALL_AT),
        (_AT_LEAST, 4, 0, _X32_CALLS),
        (_EQUAL, 0, 2, machine.bpf),
        (_LOAD, 0, 0, low_word),
        (_EQUAL, 1, 0, _BPF_PROG_LOAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    words = [ctypes.c_long(word) for word in (machine.seccomp, _SET_MODE_FILTER, _ALL_THREADS)]
    if _LIBC.syscall(*words, program) != 0:
        raise _fault("forbid new eBPF programs in")


def held_capabilities() -> frozenset[Capability]:
    """Of those that our units hand out, the ones that this thread may use or take up again."""
    _, data = _read_capabilities()
    return frozenset(each for each in Capability if data[each // 32].permitted >> (each % 32) & 1)


def threads_that_hold(capability: Capability) -> int:
    """How many threads of this process still have it: `drop_capabilities` speaks for its own thread only."""
    count = 0
    for thread in os.listdir("/proc/self/task"):
        try:
            lines = Path(f"/proc/self/task/{thread}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        permitted = next((line.split()[1] for line in lines if line.startswith("CapPrm:")), "0")
        count += int(permitted, 16) >> capability & 1
    return count


def _holds(capability: Capability) -> bool:
    return capability in held_capabilities()


def _read_capabilities() -> tuple[_CapabilityHeader, ctypes.Array[_CapabilityData]]:
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapabilityData * 2)()
    if _LIBC.capget(ctypes.byref(header), data) != 0:
        raise _fault("read capabilities of")
    return header, data


def _prctl(option: int, first: int = 0, second: int = 0) -> int:
    words = [ctypes.c_ulong(word) for word in (first, second, 0, 0)]
    result = int(_LIBC.prctl(ctypes.c_int(option), *words))
    if result < 0:
        raise _fault("protect")
    return result


def _fault(operation: str) -> EnvironmentFault:
    return EnvironmentFault(operation, "this process", os.strerror(ctypes.get_errno()))
