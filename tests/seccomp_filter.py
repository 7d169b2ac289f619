"""A filter of system calls as a unit's SystemCallFilter=~… with SystemCallErrorNumber=EPERM makes it."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_NUMBERS = {
    "x86_64": {"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438},
    "aarch64": {"ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438},
}
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2


def forbid(names: tuple[str, ...]) -> None:
    """For this process and whatever it becomes."""
    numbers = [_NUMBERS[platform.machine()][name] for name in names]
    steps = [(_LOAD, 0, 0, 0)]  # seccomp_data.nr
    steps += [(_JUMP_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code))
    c = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if c.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) or c.prctl(
        _PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), program, zero, zero
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
