"""Counters that survive a killed process: a MAP_SHARED file of named 64-bit integers, changed in batches with their
verdicts.

Decides: the file's layout, and what becomes of the one batch that was open when its writer died.
Refuses to know: what is counted, and how the kernel's own count is read.
Source: ARCHITECTURE ("Counters survive a killed process"): write the batch's intent, send the verdicts, commit; on
start settle the open batch by the kernel's rule counter.

The file holds two areas of absolute values. The word in the header names the current one. ``begin`` copies all values
into the other area and marks the batch open; the verdicts go out; ``commit`` makes that area the current one by a
single store. A process that dies leaves its stores behind in program order, so the file is at every instant either
idle or open, with both possible outcomes complete. Another process reads the current area, and again if the word
moved meanwhile (a seqlock). Each accepted verdict is counted here and by a rule in the kernel; their difference tells
whether an open batch went out. After a power loss the values are those of the last ``sync``.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from array import array
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from billpay.errors import EnvironmentFault, LocalProtocolError

CAPACITY: Final = 16_384
"""Counters in a file: a few for each link and two for each open grant; the file is sparse."""

NAME_BYTES_MAX: Final = 95
ACCEPTS: Final = "dataplane.accepts"

_MAGIC: Final = b"HACOUNT1"
_HEADER_BYTES: Final = 4096
_NAME_SLOT_BYTES: Final = NAME_BYTES_MAX + 1
_SNAPSHOT_ATTEMPTS: Final = 10_000
# Header words of 8 bytes, by index.
_CAPACITY_WORD, _USED_WORD, _STATE_WORD, _OFFSET_WORD, _NAMES_WORD = 1, 2, 3, 4, 5
# The state word: generation << 2 | current area << 1 | a batch is open.
_OPEN: Final = 1
_CURRENT: Final = 2


class Settled(Enum):
    """What `recover` did with the batch that was open."""

    NOTHING_OPEN = "nothing was open"
    APPLIED = "the verdicts had gone out"
    DISCARDED = "the verdicts had not gone out"
    UNEXPLAINED = "the kernel's count fits neither"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """The outcome, the accepted packets in the open batch, and how many the kernel's count differs by (0 =
    explained)."""

    settled: Settled
    open_accepts: int
    unexplained_accepts: int


class CounterFile:
    """One writer (`open`, holds a lock on the file) and any number of readers (`attach`, read only)."""

    def __init__(self, memory: mmap.mmap, *, capacity: int, descriptor: int | None, writable: bool) -> None:
        self._memory = memory
        self._descriptor = descriptor
        self._writable = writable
        view = memoryview(memory)
        self._view = view
        self._header = view[:_HEADER_BYTES].cast("Q")
        self._signed_header = view[:_HEADER_BYTES].cast("q")
        names_end = _HEADER_BYTES + capacity * _NAME_SLOT_BYTES
        self._names = view[_HEADER_BYTES:names_end]
        self._areas = (
            view[names_end : names_end + 8 * capacity].cast("q"),
            view[names_end + 8 * capacity : names_end + 16 * capacity].cast("q"),
        )
        self._capacity = capacity
        self._index_of: dict[str, int] = {}
        self._free: list[int] = []
        self._names_seen = -1
        self._values = array("q", bytes(8 * capacity))
        self._values_view = memoryview(self._values)
        self._read_names()
        if writable:
            self._clear_free_slots()
            self._load()
            self._accepts = self.index(ACCEPTS)

    # -- opening -----------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path, *, capacity: int = CAPACITY) -> CounterFile:
        """The writer's end; creates the file. Call `recover` before the first batch. Raises EnvironmentFault."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EnvironmentFault(
                "open counter file", str(path), error.strerror, "check the state directory"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            capacity = _initialise(descriptor, path, capacity)
            memory = mmap.mmap(descriptor, _file_bytes(capacity), mmap.MAP_SHARED)
        except BlockingIOError as error:
            os.close(descriptor)
            cause = "another reader process writes to it"
            raise EnvironmentFault("open counter file", str(path), cause, "stop the other daemon first") from error
        except BaseException:
            os.close(descriptor)
            raise
        return cls(memory, capacity=capacity, descriptor=descriptor, writable=True)

    @classmethod
    def attach(cls, path: Path) -> CounterFile:
        """A reading end for another process: `snapshot` and `committed` only. Raises EnvironmentFault."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise EnvironmentFault("open counter file", str(path), error.strerror, "start the daemon first") from error
        try:
            capacity = _capacity_of(descriptor, path)
            if capacity is None:
                raise EnvironmentFault("open counter file", str(path), "it is empty", "start the daemon first")
            memory = mmap.mmap(descriptor, _file_bytes(capacity), mmap.MAP_SHARED, mmap.PROT_READ)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(memory, capacity=capacity, descriptor=descriptor, writable=False)

    @classmethod
    def in_memory(cls, *, capacity: int = 1024) -> CounterFile:
        """The same without a file: for fakes and for tests of cores."""
        memory = mmap.mmap(-1, _file_bytes(capacity))
        memory[:16] = _MAGIC + struct.pack("@Q", capacity)
        return cls(memory, capacity=capacity, descriptor=None, writable=True)

    def close(self) -> None:
        for view in (*self._areas, self._names, self._header, self._signed_header, self._view):
            view.release()
        self._memory.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    # -- counting (the writer) ---------------------------------------------------------------------------------------

    def index(self, name: str) -> int:
        """The counter of that name, allocated at 0 when it is new. Raises LocalProtocolError when the file is full."""
        found = self._index_of.get(name)
        return self._allocate(name) if found is None else found

    def add(self, index: int, delta: int) -> None:
        """Pending until the commit of the batch in which it happens."""
        self._values[index] += delta

    def value(self, index: int) -> int:
        return self._values[index]

    def release(self, name: str) -> None:
        """Forgets a counter and its value, at once; nothing when there is no such name. Not while a batch is open."""
        index = self._index_of.pop(name, None)
        if index is None:
            return
        # The name goes first: a crash between the two leaves a nameless value, which opening clears.
        self._names[index * _NAME_SLOT_BYTES] = 0
        self._clear(index)
        self._free.append(index)
        self._header[_NAMES_WORD] += 1

    def begin(self, accepts: int) -> None:
        """The intent: all values as they will be once `accepts` verdicts that accept have gone out."""
        self._values[self._accepts] += accepts
        state = self._header[_STATE_WORD]
        if state & _OPEN:
            raise LocalProtocolError("a batch is open: recover() or commit() first")
        used = self._header[_USED_WORD]
        self._areas[0 if state & _CURRENT else 1][:used] = self._values_view[:used]
        self._header[_STATE_WORD] = state | _OPEN

    def commit(self) -> None:
        """The verdicts of the open batch have gone out."""
        # Open and current flip together with the generation in one store of 8 bytes.
        self._header[_STATE_WORD] = ((self._header[_STATE_WORD] & ~_OPEN) ^ _CURRENT) + 4

    def refused(self, accepts: int) -> None:
        """The kernel refused that many accepting verdicts (their interface had gone): its rule will never count
        them."""
        self._values[self._accepts] -= accepts

    # -- settling ----------------------------------------------------------------------------------------------------

    def recover(self, kernel_accepts: int | None) -> Recovery:
        """Settles the batch that a killed writer left open, by the kernel's count of accepted packets (None = not
        known).

        A count that fits neither outcome is reported. The batch is then applied if anything may have gone out: counting
        too much as sent shows as a loss on the link, counting too little would look like money from nowhere.
        """
        state = self._header[_STATE_WORD]
        if not state & _OPEN:
            if kernel_accepts is not None:
                self.rebase(kernel_accepts)
            return Recovery(settled=Settled.NOTHING_OPEN, open_accepts=0, unexplained_accepts=0)
        current = 1 if state & _CURRENT else 0
        committed = self._areas[current][self._accepts]
        intended = self._areas[1 - current][self._accepts] - committed
        settled, unexplained = self._judge(kernel_accepts, committed=committed, intended=intended)
        if settled is Settled.DISCARDED or (settled is Settled.UNEXPLAINED and unexplained + intended == 0):
            self._header[_STATE_WORD] = (state & ~_OPEN) + 4
        else:
            self.commit()
        self._load()
        if kernel_accepts is not None:
            self.rebase(kernel_accepts)
        return Recovery(settled=settled, open_accepts=intended, unexplained_accepts=unexplained)

    def rebase(self, kernel_accepts: int) -> None:
        """The kernel's rules now count from this reading on: after they were installed anew."""
        self._signed_header[_OFFSET_WORD] = self._values[self._accepts] - kernel_accepts

    # -- reading (any process) ---------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, int]:
        """All committed values as of one instant between two batches."""
        if self._names_seen != self._header[_NAMES_WORD]:
            self._read_names()
        values = self._committed_values()
        return {name: values[index] for name, index in self._index_of.items() if index < len(values)}

    def committed(self, name: str) -> int:
        """One committed value; 0 when there is no such counter."""
        return self.snapshot().get(name, 0)

    def sync(self) -> None:
        """Writes the file to the disk; blocks, so not in a packet loop. Works from a reading end too."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _judge(self, kernel_accepts: int | None, *, committed: int, intended: int) -> tuple[Settled, int]:
        if intended == 0:
            # Only drops and receipts: a drop that was not sent is a drop all the same once the queue is gone.
            return Settled.APPLIED, 0
        if kernel_accepts is None:
            return Settled.UNEXPLAINED, intended
        gone_out = kernel_accepts + self._signed_header[_OFFSET_WORD] - committed
        if gone_out == intended:
            return Settled.APPLIED, 0
        if gone_out == 0:
            return Settled.DISCARDED, 0
        return Settled.UNEXPLAINED, gone_out - intended

    def _committed_values(self) -> list[int]:
        for _ in range(_SNAPSHOT_ATTEMPTS):
            state = self._header[_STATE_WORD]
            values = self._areas[1 if state & _CURRENT else 0][: self._header[_USED_WORD]].tolist()
            if self._header[_STATE_WORD] >> 2 == state >> 2:
                return values
        raise EnvironmentFault("read counter file", "snapshot", "its writer never pauses", "report this as a bug")

    def _allocate(self, name: str) -> int:
        encoded = name.encode()
        if not 0 < len(encoded) <= NAME_BYTES_MAX:
            raise LocalProtocolError(f"a counter's name has 1 to {NAME_BYTES_MAX} bytes: {name[:120]!r}")
        if not self._writable:
            raise LocalProtocolError(f"only the writer allocates counters: {name!r}")
        used = self._header[_USED_WORD]
        if self._free:
            index = self._free.pop()
        elif used < self._capacity:
            index = used
        else:
            raise LocalProtocolError(f"the counter file is full ({self._capacity} counters): {name!r}")
        start = index * _NAME_SLOT_BYTES
        self._names[start + 1 : start + 1 + len(encoded)] = encoded
        self._names[start] = len(encoded)  # last: a name counts from its length on
        if index == used:
            self._header[_USED_WORD] = used + 1
        self._header[_NAMES_WORD] += 1
        self._index_of[name] = index
        return index

    def _read_names(self) -> None:
        self._names_seen = self._header[_NAMES_WORD]
        self._index_of = {}
        self._free = []
        for index in range(self._header[_USED_WORD]):
            start = index * _NAME_SLOT_BYTES
            length = self._names[start]
            if length:
                self._index_of[bytes(self._names[start + 1 : start + 1 + length]).decode(errors="replace")] = index
            else:
                self._free.append(index)

    def _clear_free_slots(self) -> None:
        for index in self._free:
            self._clear(index)

    def _clear(self, index: int) -> None:
        self._values[index] = self._areas[0][index] = self._areas[1][index] = 0

    def _load(self) -> None:
        current = self._areas[1 if self._header[_STATE_WORD] & _CURRENT else 0]
        used = self._header[_USED_WORD]
        self._values_view[:used] = current[:used]


def _file_bytes(capacity: int) -> int:
    return _HEADER_BYTES + capacity * (_NAME_SLOT_BYTES + 16)


def _initialise(descriptor: int, path: Path, capacity: int) -> int:
    """The capacity of the file, after laying out an empty one."""
    found = _capacity_of(descriptor, path)
    if found is not None:
        return found
    try:
        os.ftruncate(descriptor, _file_bytes(capacity))
        # The magic goes last: a file without it is laid out anew.
        os.pwrite(descriptor, struct.pack("@Q", capacity), 8)
        os.pwrite(descriptor, _MAGIC, 0)
        os.fsync(descriptor)
    except OSError as error:
        raise EnvironmentFault("create counter file", str(path), error.strerror, "free some disk space") from error
    return capacity


def _capacity_of(descriptor: int, path: Path) -> int | None:
    """The capacity that the file was laid out with, None when it was not. Raises EnvironmentFault on anything else."""
    head = os.pread(descriptor, 16, 0)
    if len(head) < 16 or head[:8] == bytes(8):
        return None
    capacity = int(struct.unpack_from("@Q", head, 8)[0])
    if head[:8] != _MAGIC or os.fstat(descriptor).st_size != _file_bytes(capacity):
        cause = "it is not a counter file of this version"
        raise EnvironmentFault("open counter file", str(path), cause, "move it away; its counts are lost to the books")
    return capacity
