"""The few calls of bpf(2) that tell what this kernel lets us do: load two instructions, attach them, ask who is there.

Decides: nothing. Refuses to know: what real programs do. Whatever is made here ends with its file descriptor; nothing
is pinned. Source: bpf(2); linux/bpf.h (the layouts of union bpf_attr and struct bpf_prog_info are stable).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

# Commands.
_PROG_LOAD, _PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD, _PROG_QUERY, _LINK_CREATE = 5, 13, 15, 16, 28

# Program types.
SCHED_CLS: Final = 3
CGROUP_SOCK: Final = 9

# Attach types.
CGROUP_INET_INGRESS: Final = 0
CGROUP_INET_EGRESS: Final = 1
CGROUP_INET_SOCK_CREATE: Final = 2
CGROUP_SOCK_OPS: Final = 3
CGROUP_INET4_CONNECT: Final = 10
CGROUP_INET6_CONNECT: Final = 11
TCX_INGRESS: Final = 46
TCX_EGRESS: Final = 47

ALLOW_MULTI: Final = 2
"""Attached with this flag, a program shares its control group with others; without it, it is alone there."""

TCX_NEXT: Final = -1
"""What a tcx program returns that has nothing to say: the next one decides."""

_NUMBERS: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "s390x": 351, "ppc64le": 361}
_ATTRIBUTE_BYTES: Final = 128
_PROGRAMS_MAX: Final = 64  # asked for at one place
_INFO_BYTES: Final = 232  # struct bpf_prog_info
_NAME_OFFSET: Final = 64  # in it

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    number = _NUMBERS.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) has no known number on {os.uname().machine}")
    result = int(_syscall(ctypes.c_long(number), command, attributes, len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _attributes(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, _ATTRIBUTE_BYTES)


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def program(kind: int, *, returns: int, attach: int = 0) -> Iterator[int]:
    """`return returns;`, loaded; its descriptor. Raises OSError."""
    instructions = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, returns, 0x95, 0, 0, 0), 16)
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = _attributes(
        struct.pack(
            "=IIQQIIQII16sII",
            kind,
            2,
            ctypes.addressof(instructions),
            ctypes.addressof(licence),
            *(0, 0, 0),  # no log of the verifier
            *(0, 0),
            b"hostagent_probe",
            0,
            attach,
        )
    )
    with _closing(_bpf(_PROG_LOAD, attributes)) as descriptor:
        yield descriptor


@contextmanager
def link(program_descriptor: int, target: int, attach: int) -> Iterator[int]:
    """Attached to an interface's index or a control group's descriptor until the block ends. Raises OSError."""
    attributes = _attributes(struct.pack("=IIII", program_descriptor, target, attach, 0))
    with _closing(_bpf(_LINK_CREATE, attributes)) as descriptor:
        yield descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """Who is attached at one place. `flags` are those of a control group."""

    identifiers: tuple[int, ...]
    flags: int


def attached(target: int, attach: int) -> Attached:
    """Reads only. Raises OSError: EINVAL where the kernel has no such place, EPERM without CAP_NET_ADMIN."""
    found = (ctypes.c_uint32 * _PROGRAMS_MAX)()
    data = struct.pack("=IIIIQII", target, attach, 0, 0, ctypes.addressof(found), _PROGRAMS_MAX, 0)
    attributes = _attributes(data)
    try:
        _bpf(_PROG_QUERY, attributes)
    except OSError as error:
        if error.errno != errno.ENOSPC:  # more of them than we asked for: those that fit are there
            raise
    flags, count = struct.unpack_from("=I", attributes, 12)[0], struct.unpack_from("=I", attributes, 24)[0]
    return Attached(identifiers=tuple(found[: min(count, _PROGRAMS_MAX)]), flags=flags)


def program_name(identifier: int) -> str:
    """At most 15 characters; "" when it has none, is gone, or is not ours to see."""
    info = ctypes.create_string_buffer(_INFO_BYTES)
    try:
        with _closing(_bpf(_PROG_GET_FD_BY_ID, _attributes(struct.pack("=III", identifier, 0, 0)))) as descriptor:
            data = struct.pack("=IIQ", descriptor, _INFO_BYTES, ctypes.addressof(info))
            _bpf(_OBJ_GET_INFO_BY_FD, _attributes(data))
    except OSError:
        return ""
    return info.raw[_NAME_OFFSET : _NAME_OFFSET + 16].split(b"\0")[0].decode("ascii", "replace")
