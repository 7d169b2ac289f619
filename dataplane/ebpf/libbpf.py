"""libbpf by ctypes: objects, programs, maps, links, ring buffers.

Decides: nothing. Refuses to know: what the programs do. No link and no program is pinned: each lives as long as the
file descriptors of this process, so whatever ends us detaches us (ARCHITECTURE, "fail open"). Maps live as long, except
for the counters, which are pinned so that they outlive a killed reader (dataplane/ebpf/kernel_counters.py).
Source: libbpf 1.x (bpf.h, libbpf.h); bpf(2). Link types of after libbpf 1.1 (tcx) go through its plain
`bpf_link_create`.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

from billpay.errors import EnvironmentFault

LIBRARY: Final = "libbpf.so.1"
_LOG_LINES_KEPT: Final = 200

_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_SAMPLE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_P, _I, _U32, _U64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64

_SIGNATURES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "libbpf_set_print": (_P, [_PRINT]),
    "bpf_object__open_file": (_P, [ctypes.c_char_p, _P]),
    "bpf_object__load": (_I, [_P]),
    "bpf_object__close": (None, [_P]),
    "bpf_object__find_program_by_name": (_P, [_P, ctypes.c_char_p]),
    "bpf_object__find_map_by_name": (_P, [_P, ctypes.c_char_p]),
    "bpf_object__btf": (_P, [_P]),
    "btf__find_by_name_kind": (_I, [_P, ctypes.c_char_p, _U32]),
    "btf__type_by_id": (_P, [_P, _U32]),
    "btf__name_by_offset": (ctypes.c_char_p, [_P, _U32]),
    "bpf_program__fd": (_I, [_P]),
    "bpf_program__set_autoload": (_I, [_P, ctypes.c_bool]),
    "bpf_program__attach": (_P, [_P]),
    "bpf_map__fd": (_I, [_P]),
    "bpf_map__key_size": (_U32, [_P]),
    "bpf_map__value_size": (_U32, [_P]),
    "bpf_map__max_entries": (_U32, [_P]),
    "bpf_map__set_max_entries": (_I, [_P, _U32]),
    "bpf_map__reuse_fd": (_I, [_P, _I]),
    "bpf_map__initial_value": (_P, [_P, ctypes.POINTER(ctypes.c_size_t)]),
    "bpf_map__attach_struct_ops": (_P, [_P]),
    "bpf_link__fd": (_I, [_P]),
    "bpf_link__destroy": (_I, [_P]),
    "bpf_link_create": (_I, [_I, _I, _I, _P]),
    "bpf_map_create": (_I, [_I, ctypes.c_char_p, _U32, _U32, _U32, _P]),
    "bpf_map_update_elem": (_I, [_I, _P, _P, _U64]),
    "bpf_map_lookup_elem": (_I, [_I, _P, _P]),
    "bpf_map_lookup_elem_flags": (_I, [_I, _P, _P, _U64]),
    "bpf_map_lookup_and_delete_elem": (_I, [_I, _P, _P]),
    "bpf_map_delete_elem": (_I, [_I, _P]),
    "bpf_map_lookup_batch": (_I, [_I, _P, _P, _P, _P, ctypes.POINTER(_U32), _P]),
    "bpf_obj_pin": (_I, [_I, ctypes.c_char_p]),
    "bpf_obj_get": (_I, [ctypes.c_char_p]),
    "bpf_iter_create": (_I, [_I]),
    "bpf_prog_test_run_opts": (_I, [_I, _P]),
    "bpf_enable_stats": (_I, [_I]),
    "bpf_obj_get_info_by_fd": (_I, [_I, _P, ctypes.POINTER(_U32)]),
    "ring_buffer__new": (_P, [_I, _SAMPLE, _P, _P]),
    "ring_buffer__free": (None, [_P]),
    "ring_buffer__consume": (_I, [_P]),
    "ring_buffer__epoll_fd": (_I, [_P]),
}


class AttachType(IntEnum):
    """enum bpf_attach_type, the ones that we use (linux/bpf.h)."""

    CGROUP_INET_SOCK_CREATE = 2
    CGROUP_SOCK_OPS = 3
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    TCX_INGRESS = 46
    TCX_EGRESS = 47


class Update(IntEnum):
    """Flags of a map's update (linux/bpf.h)."""

    ANY = 0
    ONLY_NEW = 1
    ONLY_EXISTING = 2
    LOCKED = 4
    """Under the value's spin lock, which is itself left alone: no program sees half of it."""


_MAP_TYPE_ARRAY: Final = 2
_MAP_FLAG_MMAPABLE: Final = 1 << 10
_BTF_KIND_DATASEC: Final = 15
_BTF_TYPE: Final = struct.Struct("=III")  # struct btf_type: name, info (its low 16 bits: how many members), size
_BTF_VARIABLE: Final = struct.Struct("=III")  # struct btf_var_secinfo: type, offset, size


class _TestRunOptions(ctypes.Structure):
    """struct bpf_test_run_opts (bpf.h)."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", _P),
        ("data_out", _P),
        ("data_size_in", _U32),
        ("data_size_out", _U32),
        ("ctx_in", _P),
        ("ctx_out", _P),
        ("ctx_size_in", _U32),
        ("ctx_size_out", _U32),
        ("retval", _U32),
        ("repeat", _I),
        ("duration", _U32),
        ("flags", _U32),
        ("cpu", _U32),
        ("batch_size", _U32),
    )


class _MapCreateOptions(ctypes.Structure):
    """struct bpf_map_create_opts (bpf.h)."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", _U32),
        ("btf_key_type_id", _U32),
        ("btf_value_type_id", _U32),
        ("btf_vmlinux_value_type_id", _U32),
        ("inner_map_fd", _U32),
        ("map_flags", _U32),
        ("map_extra", _U64),
        ("numa_node", _U32),
        ("map_ifindex", _U32),
    )


_SKB_BYTES: Final = 192  # struct __sk_buff (linux/bpf.h), and where its fields are that a test run may set
_SKB_MARK, _SKB_PRIORITY, _SKB_INGRESS, _SKB_INTERFACE = 8, 32, 36, 40
_SKB_CONTROL, _SKB_WIRE_BYTES, _SKB_GSO_SEGMENTS, _SKB_GSO_SIZE = 48, 160, 164, 176
_GROWTH_BYTES: Final = 512
"""What a program may make a packet of a test run longer by."""


class TestRun(NamedTuple):
    """What one packet became."""

    retval: int  # what the program returned: TCX_NEXT is -1
    data_out: bytes  # with its Ethernet header
    mark: int
    priority: int
    duration_ns: int  # of one of the repetitions


class _Library:
    """libbpf with typed calls, and what it last complained of."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY, use_errno=True)
        except OSError as error:
            raise EnvironmentFault("use eBPF", LIBRARY, "it is not installed", "install libbpf1") from error
        self.log: list[str] = []
        self._print = _PRINT(self._keep)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._library.libbpf_set_print(self._print)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def _keep(self, _level: int, text: bytes, arguments: int) -> int:
        """libbpf gives a printf format and a va_list: let C format it."""
        line = ctypes.create_string_buffer(4096)
        ctypes.CDLL(None).vsnprintf(line, ctypes.c_size_t(4096), text, ctypes.c_void_p(arguments))
        self.log.append(line.value.decode(errors="replace").rstrip())
        del self.log[:-_LOG_LINES_KEPT]
        return 0


_loaded: list[_Library] = []


def library() -> _Library:
    """Raises EnvironmentFault when libbpf is not there."""
    if not _loaded:
        _loaded.append(_Library())
    return _loaded[0]


def _fault(operation: str, target: str, code: int) -> EnvironmentFault:
    number = abs(code) if code < 0 else ctypes.get_errno()
    cause = os.strerror(number) if number else "libbpf refused it"
    refused = any("BEGIN PROG LOAD LOG" in line for line in library().log)
    if refused:
        return EnvironmentFault(
            operation, target, "this kernel's verifier refuses the program", "report it with its log"
        )
    if number in (errno.EPERM, errno.EACCES):
        return EnvironmentFault(operation, target, cause, "run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
    told = library().log[-1:]
    return EnvironmentFault(operation, target, f"{cause} ({told[0]})" if told else cause)


class Map:
    """One map by its descriptor. Keys and values are bytes of the stated sizes."""

    def __init__(self, descriptor: int, *, name: str, key_size: int, value_size: int, max_entries: int) -> None:
        self.descriptor = descriptor
        self.name = name
        self.key_size, self.value_size, self.max_entries = key_size, value_size, max_entries
        self._value = ctypes.create_string_buffer(value_size or 1)

    def lookup(self, key: bytes) -> bytes | None:
        """A copy of the value; None when the key is not there."""
        code = library().bpf_map_lookup_elem(self.descriptor, key, self._value)
        return None if code else self._value.raw

    def take(self, key: bytes) -> bytes | None:
        """The value, removed in the same step."""
        code = library().bpf_map_lookup_and_delete_elem(self.descriptor, key, self._value)
        return None if code else self._value.raw

    def lookup_locked(self, key: bytes) -> bytes | None:
        """A copy of the value as no program is in the middle of changing it: for values with a spin lock."""
        code = library().bpf_map_lookup_elem_flags(self.descriptor, key, self._value, int(Update.LOCKED))
        return None if code else self._value.raw

    def update(self, key: bytes, value: bytes, flags: int = Update.ANY) -> None:
        """Raises EnvironmentFault, as when the map is full."""
        if code := library().bpf_map_update_elem(self.descriptor, key, value, int(flags)):
            raise _fault("write eBPF map", self.name, code)

    def mapped(self, *, writable: bool = True) -> mmap.mmap:
        """The values of an array map made with BPF_F_MMAPABLE, as memory; a value starts at each multiple of 8 bytes.

        Raises EnvironmentFault.
        """
        size = (self.value_size + 7) // 8 * 8 * self.max_entries
        pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            return mmap.mmap(self.descriptor, pages, mmap.MAP_SHARED, access)
        except OSError as error:
            raise EnvironmentFault("map memory of", self.name, error.strerror or str(error)) from error

    def pin(self, path: Path) -> None:
        """The map outlives us under this name in a bpffs. Raises EnvironmentFault."""
        if code := library().bpf_obj_pin(self.descriptor, str(path).encode()):
            raise _fault("pin eBPF map", str(path), code)

    def close(self) -> None:
        """Of a map that `create_array` or `pinned_map` opened; those of an object end with it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def push(self, value: bytes) -> None:
        """For a queue. Raises EnvironmentFault when it is full."""
        if code := library().bpf_map_update_elem(self.descriptor, None, value, 0):
            raise _fault("write eBPF map", self.name, code)

    def delete(self, key: bytes) -> None:
        """Nothing if it is not there."""
        library().bpf_map_delete_elem(self.descriptor, key)

    def items(self, chunk: int = 4096) -> Iterator[tuple[bytes, bytes]]:
        """Every entry, in batches (hash and array maps); an entry that comes or goes meanwhile may be missed."""
        keys = ctypes.create_string_buffer(chunk * self.key_size)
        values = ctypes.create_string_buffer(chunk * self.value_size)
        token_in, token_out = (ctypes.create_string_buffer(max(8, self.key_size)) for _ in range(2))
        start: Any = None
        while True:
            count = _U32(chunk)
            code = library().bpf_map_lookup_batch(
                self.descriptor, start, token_out, keys, values, ctypes.byref(count), None
            )
            if code and abs(code) != errno.ENOENT:
                if abs(code) == errno.ENOSPC and chunk < self.max_entries:  # a bucket larger than the batch
                    chunk *= 2
                    keys = ctypes.create_string_buffer(chunk * self.key_size)
                    values = ctypes.create_string_buffer(chunk * self.value_size)
                    continue
                raise _fault("read eBPF map", self.name, code)
            key_bytes, value_bytes = keys.raw, values.raw
            for number in range(count.value):
                yield (
                    key_bytes[number * self.key_size : (number + 1) * self.key_size],
                    value_bytes[number * self.value_size : (number + 1) * self.value_size],
                )
            if code:
                return
            token_in.raw = token_out.raw
            start = token_in


class Link:
    """An attached program; detached by `close`, or by the kernel when this process ends."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def create_array(name: str, *, value_size: int, max_entries: int) -> Map:
    """A map of our own, whose memory can be mapped; objects get it as `shared`. Raises EnvironmentFault."""
    options = _MapCreateOptions(sz=ctypes.sizeof(_MapCreateOptions), map_flags=_MAP_FLAG_MMAPABLE)
    descriptor = library().bpf_map_create(
        _MAP_TYPE_ARRAY, name.encode(), 4, value_size, max_entries, ctypes.byref(options)
    )
    if descriptor < 0:
        raise _fault("make eBPF map", name, descriptor)
    return Map(descriptor, name=name, key_size=4, value_size=value_size, max_entries=max_entries)


def pinned_map(path: Path) -> Map | None:
    """The map of that name in a bpffs; None when there is none. Raises EnvironmentFault."""
    descriptor = library().bpf_obj_get(str(path).encode())
    if descriptor < 0:
        if descriptor == -errno.ENOENT:
            return None
        raise _fault("open pinned eBPF map", str(path), descriptor)
    info = ctypes.create_string_buffer(256)
    size = _U32(len(info))
    if code := library().bpf_obj_get_info_by_fd(descriptor, info, ctypes.byref(size)):
        os.close(descriptor)
        raise _fault("open pinned eBPF map", str(path), code)
    _, _, key_size, value_size, max_entries = struct.unpack_from("=IIIII", info.raw)  # struct bpf_map_info
    return Map(descriptor, name=path.name, key_size=key_size, value_size=value_size, max_entries=max_entries)


class Program:
    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor = descriptor
        self.name = name

    def attach(self, target: int, kind: AttachType, *, where: str) -> Link:
        """`target`: an interface's index (tcx) or a control group's descriptor. Raises EnvironmentFault."""
        descriptor = library().bpf_link_create(self.descriptor, target, int(kind), None)
        if descriptor < 0:
            raise _fault(f"attach {self.name}", where, descriptor)
        return Link(descriptor)

    def test_run(
        self,
        data: bytes,
        *,
        ifindex: int = 0,
        ingress_ifindex: int = 0,
        mark: int = 0,
        priority: int = 0,
        control: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0),
        gso_size: int = 0,
        gso_segs: int = 0,
        wire_bytes: int = 0,
        repeat: int = 1,
        flags: int = 0,
    ) -> TestRun:
        """Runs a traffic control program on one packet (Ethernet header first) that goes nowhere.

        `ifindex`: of the packet's device, which must exist (0: lo); `control`: skb->cb. A gso_size makes it an
        offloaded packet of no stated kind (the kernel sets no gso_type). Raises EnvironmentFault.
        """
        context = ctypes.create_string_buffer(_SKB_BYTES)
        struct.pack_into("=I", context, _SKB_MARK, mark)
        struct.pack_into("=I", context, _SKB_PRIORITY, priority)
        struct.pack_into("=II", context, _SKB_INGRESS, ingress_ifindex, ifindex)
        struct.pack_into("=5I", context, _SKB_CONTROL, *control)
        struct.pack_into("=II", context, _SKB_WIRE_BYTES, wire_bytes, gso_segs)
        struct.pack_into("=I", context, _SKB_GSO_SIZE, gso_size)
        given = ctypes.create_string_buffer(data, len(data))
        became = ctypes.create_string_buffer(len(data) + _GROWTH_BYTES)
        after = ctypes.create_string_buffer(_SKB_BYTES)
        address = ctypes.addressof
        options = _TestRunOptions(
            sz=ctypes.sizeof(_TestRunOptions),
            data_in=address(given),
            data_size_in=len(data),
            data_out=address(became),
            data_size_out=len(became),
            ctx_in=address(context),
            ctx_size_in=_SKB_BYTES,
            ctx_out=address(after),
            ctx_size_out=_SKB_BYTES,
            repeat=repeat,
            flags=flags,
        )
        if code := library().bpf_prog_test_run_opts(self.descriptor, ctypes.byref(options)):
            raise _fault("try eBPF program", self.name, code)
        (mark_after,) = struct.unpack_from("=I", after.raw, _SKB_MARK)
        (priority_after,) = struct.unpack_from("=I", after.raw, _SKB_PRIORITY)
        return TestRun(
            retval=ctypes.c_int32(options.retval).value,
            data_out=became.raw[: options.data_size_out],
            mark=mark_after,
            priority=priority_after,
            duration_ns=options.duration,
        )

    def statistics(self) -> tuple[int, int]:
        """Runs and nanoseconds, counted while `counting_run_time` is held."""
        info = ctypes.create_string_buffer(256)
        size = _U32(len(info))
        if code := library().bpf_obj_get_info_by_fd(self.descriptor, info, ctypes.byref(size)):
            raise _fault("read statistics of", self.name, code)
        run_time_ns, run_count = struct.unpack_from("=QQ", info.raw, 192)  # struct bpf_prog_info
        return run_count, run_time_ns


class BpfObject:
    """One compiled object, loaded. `shared` maps are those of another object, or our own, by name."""

    def __init__(
        self,
        path: Path,
        *,
        shared: dict[str, Map] | None = None,
        max_entries: dict[str, int] | None = None,
        without: tuple[str, ...] = (),
        constants: dict[str, int] | None = None,
    ) -> None:
        """Raises EnvironmentFault: not built, not permitted, refused by the verifier.

        `without`: programs to leave; `constants`: values of `const volatile` variables, by name.
        """
        lib = library()
        self.path = path
        if not path.exists():
            remedy = "install clang and libbpf-dev, then run scripts/build-ebpf"
            raise EnvironmentFault("load", str(path), "the eBPF programs are not built", remedy)
        lib.log.clear()
        self._object: int | None = lib.bpf_object__open_file(str(path).encode(), None)
        if not self._object:
            raise _fault("open", str(path), 0)
        try:
            for name, other in (shared or {}).items():
                if code := lib.bpf_map__reuse_fd(self._find_map(name), other.descriptor):
                    raise _fault("share eBPF map", name, code)
            for name, entries in (max_entries or {}).items():
                lib.bpf_map__set_max_entries(self._find_map(name), entries)
            if constants:
                self._set_constants(constants)
            for name in without:
                lib.bpf_program__set_autoload(self._find_program(name), False)
            if code := lib.bpf_object__load(self._object):
                raise _fault("load", path.name, code)
        except EnvironmentFault:
            self.close()
            raise

    def _find_map(self, name: str) -> int:
        found: int | None = library().bpf_object__find_map_by_name(self._object, name.encode())
        assert found, f"{self.path.name} has no map {name}"
        return found

    def _find_program(self, name: str) -> int:
        found: int | None = library().bpf_object__find_program_by_name(self._object, name.encode())
        assert found, f"{self.path.name} has no program {name}"
        return found

    def _set_constants(self, constants: dict[str, int]) -> None:
        """Writes them into the .rodata section, which is still ours before the load; BTF says where each one is."""
        lib = library()
        btf = lib.bpf_object__btf(self._object)
        section = lib.btf__type_by_id(btf, lib.btf__find_by_name_kind(btf, b".rodata", _BTF_KIND_DATASEC))
        assert section, f"{self.path.name} has no constants"
        size = ctypes.c_size_t()
        values = lib.bpf_map__initial_value(self._find_map(".rodata"), ctypes.byref(size))
        _, information, _ = _BTF_TYPE.unpack(ctypes.string_at(section, _BTF_TYPE.size))
        left = dict(constants)
        for number in range(information & 0xFFFF):
            at = section + _BTF_TYPE.size + number * _BTF_VARIABLE.size
            kind, offset, length = _BTF_VARIABLE.unpack(ctypes.string_at(at, _BTF_VARIABLE.size))
            named, _, _ = _BTF_TYPE.unpack(ctypes.string_at(lib.btf__type_by_id(btf, kind), _BTF_TYPE.size))
            name = lib.btf__name_by_offset(btf, named).decode()
            if name in left:
                ctypes.memmove(values + offset, left.pop(name).to_bytes(length, "little"), length)
        assert not left, f"{self.path.name} has no constants {sorted(left)}"

    def map(self, name: str) -> Map:
        lib, found = library(), self._find_map(name)
        return Map(
            lib.bpf_map__fd(found),
            name=name,
            key_size=lib.bpf_map__key_size(found),
            value_size=lib.bpf_map__value_size(found),
            max_entries=lib.bpf_map__max_entries(found),
        )

    def program(self, name: str) -> Program:
        return Program(library().bpf_program__fd(self._find_program(name)), name)

    def run_iterator(self, name: str) -> bytes:
        """Attaches an iterator program, reads it to its end, detaches it. Raises EnvironmentFault."""
        lib = library()
        link = lib.bpf_program__attach(self._find_program(name))
        if not link:
            raise _fault("attach", name, 0)
        try:
            descriptor = lib.bpf_iter_create(lib.bpf_link__fd(link))
            if descriptor < 0:
                raise _fault("read", name, descriptor)
            with os.fdopen(descriptor, "rb") as file:
                return file.read()
        finally:
            lib.bpf_link__destroy(link)

    def close(self) -> None:
        """Idempotent. Maps and programs that nobody else holds are gone."""
        if self._object:
            library().bpf_object__close(self._object)
            self._object = None


class RingBuffer:
    """Samples of a ring buffer map. `descriptor` becomes readable when there are some."""

    def __init__(self, source: Map, on_sample: Callable[[bytes], None]) -> None:
        def take(_context: int, data: int, size: int) -> int:
            on_sample(ctypes.string_at(data, size))
            return 0

        self._take = _SAMPLE(take)  # kept: C calls it
        self._ring: int | None = library().ring_buffer__new(source.descriptor, self._take, None, None)
        if not self._ring:
            raise _fault("read", source.name, 0)
        self.descriptor: int = library().ring_buffer__epoll_fd(self._ring)

    def consume(self) -> None:
        """Hands over everything that is there."""
        library().ring_buffer__consume(self._ring)

    def close(self) -> None:
        if self._ring:
            library().ring_buffer__free(self._ring)
            self._ring = None


def counting_run_time() -> Link:
    """While it is open the kernel counts every eBPF program's runs and nanoseconds (about 70 ns a run themselves)."""
    descriptor = library().bpf_enable_stats(0)
    if descriptor < 0:
        raise _fault("count", "eBPF run time", descriptor)
    return Link(descriptor)
