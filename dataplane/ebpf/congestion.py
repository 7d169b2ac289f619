"""The congestion control "price", registered with the kernel as long as this process lives.

Decides: nothing; price.bpf.c does, socket by socket. Refuses to know: who sets a socket's weight, and why.
Source: struct_ops of tcp_congestion_ops, as a link (Linux 6.4): any other registration outlives a killed agent.

Once we are gone no socket can choose "price" any more. Those that have it keep it, with the weight that they last had,
until they are closed: each holds the programs. The next agent moves them over by choosing "price" for them again.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane.ebpf.libbpf import BpfObject, Link, Map, library

NAME: Final = "price"
"""As a socket chooses it (TCP_CONGESTION)."""

WEIGHTS: Final = "socket_weights"

_OBJECT: Final = Path(__file__).parent / "price.bpf.o"
_BTF: Final = Path("/sys/kernel/btf/vmlinux")
_WHAT: Final = f'TCP congestion control "{NAME}"'
_BPF_F_LINK: Final = 1 << 13
_BPF_STRUCT_OPS: Final = 44  # enum bpf_attach_type


class PriceControl:
    """Registered until `close`. `weights`: a socket's weight, a u32; by its descriptor from here."""

    def __init__(self, *, weights: Map | None = None, path: Path = _OBJECT, registered: bool = True) -> None:
        """`weights`: another object's map to use. Raises EnvironmentFault; also when another agent has the name.

        Loading needs CAP_PERFMON, registering does not: who will give that up loads first and registers when it has to.
        """
        if not _BTF.exists():
            raise EnvironmentFault("register", _WHAT, "this kernel has no BTF", "CONFIG_DEBUG_INFO_BTF is needed")
        self._object = _LinkedObject(path, shared={WEIGHTS: weights} if weights else None, max_entries={NAME: 1})
        self._link: Link | None = None
        self.weights = weights or self._object.map(WEIGHTS)
        if registered:
            try:
                self.register()
            except EnvironmentFault:
                self._object.close()
                raise

    def register(self) -> None:
        """Sockets may choose it from now on. Idempotent. Raises EnvironmentFault."""
        if self._link is None:
            self._link = self._object.link()

    def __enter__(self) -> PriceControl:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._link is not None:
            self._link.close()
        self._object.close()


class _LinkedObject(BpfObject):
    """An object whose struct_ops map is registered by a link, which libbpf before 1.2 does not know of."""

    def _find_map(self, name: str) -> int:
        found = super()._find_map(name)
        if name == NAME:
            set_flags = library().bpf_map__set_map_flags
            set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
            set_flags(found, _BPF_F_LINK)  # before loading; refused afterwards, when it is there already
        return found

    def link(self) -> Link:
        """Registers. Raises EnvironmentFault."""
        lib, found = library(), super()._find_map(NAME)
        ctypes.set_errno(0)
        written = lib.bpf_map__attach_struct_ops(found)
        number, filled_in = ctypes.get_errno(), lib.bpf_map__fd(found)
        if not written and number != errno.EBUSY:  # busy: filled in by an attempt before, when the name was taken
            raise _refused(number)
        if not written or lib.bpf_link__fd(written) == filled_in:  # libbpf before 1.2 has filled the map in, no more
            descriptor = lib.bpf_link_create(filled_in, 0, _BPF_STRUCT_OPS, None)
        else:
            descriptor = os.dup(lib.bpf_link__fd(written))
        if written:
            lib.bpf_link__destroy(written)
        if descriptor < 0:
            raise _refused(-descriptor)
        return Link(descriptor)


def _refused(number: int) -> EnvironmentFault:
    if number == errno.EEXIST:
        return EnvironmentFault("register", _WHAT, "the name is taken", "stop the other agent on this machine")
    return EnvironmentFault("register", _WHAT, os.strerror(number), "it needs Linux 6.4 and CAP_SYS_ADMIN")
