"""Counters that eBPF programs add to: their values in a pinned array of the kernel, their names and a copy in a file.

Decides: when an array that a predecessor left is believed, and what is copied where so that nothing is counted twice or
lost. Refuses to know: what is counted, and which programs count.
Source: ARCHITECTURE ("Counters survive a killed process"); bpf(2), BPF_OBJ_PIN and BPF_F_MMAPABLE.

A counter has the same number in the `CounterFile` and in the array. Number 0 is the file's own (ACCEPTS, of another
engine): in the array it is the generation, which the file keeps as a counter of that name. An array whose generation
is the file's is the truth, and the file its copy; any other pin is of another file or another time, and is thrown
away. Generation 0 in the file: no array, the file is the truth.

    open     pinned array of the file's generation: adopted. Otherwise a new one, filled from the file.
    sync     array -> file, at the latest every second: what a power loss leaves.
    close    (the programs are detached) array -> file and generation 0 in one commit, then the pin goes.
    kill     the pin stays; the next `open`, or `fold_pinned` before another engine, goes on from it.

The array is pinned in /sys/fs/bpf where that is a bpffs; elsewhere (and where it cannot be written to) one of our own
is mounted in the counter file's directory, whose being mounted is its own record: whoever folds unmounts it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane.counters import ACCEPTS, CAPACITY, CounterFile, Recovery
from dataplane.ebpf.libbpf import Map, create_array, pinned_map

GENERATION: Final = "dataplane.kernel_generation"
COUNTERS_MAX: Final = 16_384
"""Values in the array: what a counter file holds (gateway.h, GATEWAY_COUNTERS_MAX)."""

SHARED_BPFFS: Final = Path("/sys/fs/bpf")
PRIVATE_BPFFS: Final = "bpf"
_PIN: Final = "counters"
_BPFFS_MAGIC: Final = 0xCAFE4A11  # linux/magic.h
_MS_NOSUID_NODEV_NOEXEC: Final = 2 | 4 | 8  # sys/mount.h
_MNT_DETACH: Final = 2
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class KernelCounters:
    """The writer's end: `dataplane.port.Counters` for a core whose programs do most of the adding.

    `map` is the array, for the programs (`shared`). `add` is for counters to which no program adds, or while none is
    attached: it is not one step.
    """

    def __init__(self, file: CounterFile, array: Map, pin: Path | None, recovery: Recovery) -> None:
        self.map = array
        self.recovery = recovery
        self._file = file
        self._numbers = _numbers(file)
        self._pin = pin
        self._memory = array.mapped()
        self._view = memoryview(self._memory)
        self._words = self._view.cast("q")
        self._copied = b""

    @classmethod
    def open(cls, path: Path) -> KernelCounters:
        """Adopts what a killed predecessor left, or makes it anew. Raises EnvironmentFault."""
        file = CounterFile.open(path)
        try:
            # Rules that count packets for the file are another engine's, and gone by now.
            recovery = file.recover(None)
            assert file.index(ACCEPTS) == 0
            found = _find_pin(path, file.value(file.index(GENERATION)))
            if found is None:
                array = _new_array(file)
                pin = _pin_somewhere(array, path)
            else:
                pin, array = found
            counters = cls(file, array, pin, recovery)
        except BaseException:
            file.close()
            raise
        if found is not None:
            counters._clear_nameless()
            counters.sync()
        return counters

    @classmethod
    def in_memory(cls, *, capacity: int = CAPACITY) -> KernelCounters:
        """The same without a file and a pin: for tests of programs. Raises EnvironmentFault."""
        file = CounterFile.in_memory(capacity=capacity)
        return cls(file, _new_array(file), None, file.recover(None))

    @staticmethod
    def attach(path: Path) -> CountersView:
        """A reading end for another process. Raises EnvironmentFault."""
        return CountersView(path)

    # -- dataplane.port.Counters -------------------------------------------------------------------------------------

    def index(self, name: str) -> int:
        """The counter's number, allocated at 0 when the name is new."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = self._file.index(name)
            self._words[number] = 0
        return number

    def add(self, index: int, delta: int) -> None:
        self._words[index] += delta

    def value(self, index: int) -> int:
        return self._words[index]

    def release(self, name: str) -> None:
        """Forgets a counter to which no program adds any more; nothing when there is no such name."""
        number = self._numbers.pop(name, None)
        if number is not None:
            self._file.release(name)  # the name goes first: a value without one is cleared by whoever adopts it
            self._words[number] = 0

    # -- reading and keeping -----------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, int]:
        """All values as they are just now; a packet that is being counted may be in some of them."""
        return _named_values(self._file, self._numbers, self._words)

    def committed(self, name: str) -> int:
        """One value; 0 when there is no such counter."""
        return self.snapshot().get(name, 0)

    def sync(self) -> None:
        """The file becomes a copy, as a whole or not at all. Costs next to nothing when nothing was counted."""
        now = bytes(self._view)
        if now != self._copied:
            self._copy()
            self._file.begin(0)
            self._file.commit()
            self._copied = now

    def close(self) -> None:
        """The programs are detached: the file is the truth from now on, and the pin goes."""
        self._copy()
        self._file.add(self._file.index(GENERATION), -self._file.value(self._file.index(GENERATION)))
        self._file.begin(0)
        self._file.commit()
        self._words.release()
        self._view.release()
        self._memory.close()
        self.map.close()
        if self._pin is not None:
            _unpin(self._pin)
        self._file.close()

    def _copy(self) -> None:
        _copy(self._file, self._numbers, self._words)

    def _clear_nameless(self) -> None:
        """What a predecessor forgot and died over."""
        named = set(self._numbers.values())
        for number in range(1, len(self._words)):
            if self._words[number] and number not in named:
                self._words[number] = 0


class CountersView:
    """All counters for another process, whichever engine counts: from the array where there is a valid one, else from
    the file.

    Without the privilege to open the pin the file is read, which is a second behind.
    """

    def __init__(self, path: Path) -> None:
        """Raises EnvironmentFault when there is no counter file."""
        self._path = path
        self._file = CounterFile.attach(path)
        self._words: memoryview | None = None

    def snapshot(self) -> dict[str, int]:
        words = self._valid_words()
        if words is not None:
            return _named_values(self._file, _numbers(self._file), words)
        values = self._file.snapshot()
        values.pop(GENERATION, None)
        return values

    def committed(self, name: str) -> int:
        """One value; 0 when there is no such counter."""
        return self.snapshot().get(name, 0)

    def sync(self) -> None:
        """Writes the file to the disk; blocks."""
        self._file.sync()

    def close(self) -> None:
        self._words = None
        self._file.close()

    def _valid_words(self) -> memoryview | None:
        """The array of the file's present generation, which changes when another reader begins with a new one."""
        generation = self._file.committed(GENERATION)
        if self._words is not None and self._words[0] != generation:
            self._words = None
        if self._words is None and generation:
            with contextlib.suppress(EnvironmentFault):
                found = _find_pin(self._path, generation)
                if found is not None:
                    _, array = found
                    self._words = memoryview(array.mapped(writable=False)).cast("q")
                    array.close()
        return self._words


def fold_pinned(path: Path) -> bool:
    """Makes the file of those counters the truth again after a reader was killed; whether there was an array to fold.

    Before an engine starts that counts in the file, and when everything is put back. Nothing if there is no file.
    Raises EnvironmentFault, also when a reader is alive.
    """
    if not path.exists():
        return False
    file = CounterFile.open(path)
    found = None
    try:
        generation = file.snapshot().get(GENERATION, 0)
        if generation:
            file.recover(None)
            found = _find_pin(path, generation)
            if found is not None:
                with contextlib.closing(found[1]), found[1].mapped(writable=False) as memory:
                    words = memoryview(memory).cast("q")
                    _copy(file, _numbers(file), words)
                    words.release()
            file.add(file.index(GENERATION), -file.value(file.index(GENERATION)))
            file.begin(0)
            file.commit()
    finally:
        file.close()
    for place in _places(path):
        _unpin(_pin_path(place, path))
    return found is not None


def pinning_fault(path: Path) -> str:
    """Why no array of these counters can be pinned here; "" when it can."""
    if any(os.access(place, os.W_OK) for place in _places(path)) or _may_mount():
        return ""
    return f"{SHARED_BPFFS} is no bpffs that we may write to, and mounting one is not permitted"


# -- values ----------------------------------------------------------------------------------------------------------


def _numbers(file: CounterFile) -> dict[str, int]:
    return {name: file.index(name) for name in file.snapshot()}


def _named_values(file: CounterFile, numbers: dict[str, int], words: memoryview) -> dict[str, int]:
    values = {name: words[number] for name, number in numbers.items()}
    values[ACCEPTS] = file.committed(ACCEPTS)
    values.pop(GENERATION, None)
    return values


def _copy(file: CounterFile, numbers: dict[str, int], words: memoryview) -> None:
    """Into the file's pending values."""
    for name, number in numbers.items():
        if number and name != GENERATION:
            file.add(number, words[number] - file.value(number))


def _new_array(file: CounterFile) -> Map:
    """Filled from the file, of a generation that the file knows before anybody can find the array."""
    array = create_array("counters", value_size=8, max_entries=COUNTERS_MAX)
    generation = secrets.randbits(62) + 1
    try:
        with array.mapped() as memory:
            words = memoryview(memory).cast("q")
            for number in _numbers(file).values():
                words[number] = file.value(number)
            words[0] = generation
            words.release()
    except BaseException:
        array.close()
        raise
    file.add(file.index(GENERATION), generation - file.value(file.index(GENERATION)))
    file.begin(0)
    file.commit()
    return array


# -- pins ------------------------------------------------------------------------------------------------------------


def _find_pin(path: Path, generation: int) -> tuple[Path, Map] | None:
    """The array that belongs to the file. Raises EnvironmentFault when pins cannot be opened."""
    for place in _places(path) if generation else ():
        pin = _pin_path(place, path)
        if not pin.exists():
            continue
        array = pinned_map(pin)
        if array is None:
            continue
        if array.value_size == 8 and array.max_entries == COUNTERS_MAX:
            found = array.lookup(bytes(4))
            if found is not None and int.from_bytes(found, "little") == generation:
                return pin, array
        array.close()
    return None


def _pin_somewhere(array: Map, path: Path) -> Path:
    """In place of what had that name. Raises EnvironmentFault when no bpffs takes it."""
    private = path.parent / PRIVATE_BPFFS
    try:
        if _is_bpffs(SHARED_BPFFS):
            with contextlib.suppress(OSError, EnvironmentFault):
                return _pin(array, _pin_path(SHARED_BPFFS, path))
        if not _is_bpffs(private):
            _mount(private)
        return _pin(array, _pin_path(private, path))
    except OSError as error:
        array.close()
        raise EnvironmentFault("pin counters", str(private), error.strerror or str(error)) from error
    except BaseException:
        array.close()
        raise


def _pin(array: Map, pin: Path) -> Path:
    pin.parent.mkdir(mode=0o700, exist_ok=True)
    pin.unlink(missing_ok=True)
    array.pin(pin)
    return pin


def _unpin(pin: Path) -> None:
    """The pin, its directory, and the bpffs if it is ours."""
    with contextlib.suppress(OSError):
        pin.unlink(missing_ok=True)
        pin.parent.rmdir()
    place = pin.parent.parent
    # The kernel may put files of its own there (maps.debug); directories are of other counter files.
    if place != SHARED_BPFFS and _is_bpffs(place) and not any(each.is_dir() for each in place.iterdir()):
        _LIBC.umount2(os.fsencode(place), _MNT_DETACH)
        with contextlib.suppress(OSError):
            place.rmdir()


def _places(path: Path) -> Iterator[Path]:
    for place in (SHARED_BPFFS, path.parent / PRIVATE_BPFFS):
        if _is_bpffs(place):
            yield place


def _pin_path(place: Path, path: Path) -> Path:
    """A directory for each counter file; the name has no dot, which a bpffs does not take."""
    return place / f"billpay-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]}" / _PIN


def _is_bpffs(place: Path) -> bool:
    information = ctypes.create_string_buffer(256)
    if _LIBC.statfs(os.fsencode(place), information):
        return False
    return int.from_bytes(information.raw[: ctypes.sizeof(ctypes.c_long)], "little") == _BPFFS_MAGIC  # f_type


def _mount(place: Path) -> None:
    """Raises EnvironmentFault."""
    place.mkdir(mode=0o700, exist_ok=True)
    if _LIBC.mount(b"bpf", os.fsencode(place), b"bpf", _MS_NOSUID_NODEV_NOEXEC, b"mode=0700"):
        cause = os.strerror(ctypes.get_errno())
        with contextlib.suppress(OSError):
            place.rmdir()
        raise EnvironmentFault("mount bpffs", str(place), cause, f"mount a bpffs at {SHARED_BPFFS}")


def _may_mount() -> bool:
    """Whether we hold CAP_SYS_ADMIN."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 21 & 1)
    return False
