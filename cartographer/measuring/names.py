"""What an address is called, and whose it is: reverse DNS, and the AS that originates its prefix.

Decides: how many names are asked for at a time and how long they are waited for, and which prefix is the longest.
Refuses to know: probes. Nobody's trace waits for a name, and no network service is asked for an AS: a file says it.

The file, plain or gzip, has one prefix a line, "192.0.2.0/24 64512" (a RIB's prefix and origin) or as CAIDA's pfx2as
"192.0.2.0<TAB>24<TAB>64512"; "#" begins a comment. An origin of several, "64512_64513" (each announces it) or
"64512,64513" (a set), stays as it is. Names come from the system's resolver (getnameinfo(3)), and from strangers: one
that has more in it than letters, digits, dots and hyphens (RFC 1123 2.1, and "_") is none.
"""

from __future__ import annotations

import asyncio
import gzip
import queue
import re
import socket
import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from billpay.errors import ConfigurationError, EnvironmentFault

AT_A_TIME: Final = 8
WAIT_S: Final = 2.0
KEPT: Final = 4096
KEPT_S: Final = 3600.0

USUAL_FILES: Final = tuple(
    Path("/usr/share/hostagent") / name for name in ("origins.txt", "origins.txt.gz", "pfx2as.txt", "pfx2as.txt.gz")
)

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_LONGEST_NAME: Final = 253
_ORIGIN: Final = re.compile(r"\d{1,10}([_,]\d{1,10})*")
_GZIP: Final = b"\x1f\x8b"
_NOBODY: Final = 0  # the index of "no origin"


# --- names ------------------------------------------------------------------------------------------------------------


def ask_system(address: str) -> str | None:
    """Blocks as long as the resolver likes. None: it has no name."""
    try:
        return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]
    except OSError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    name: Future[str | None]
    since_s: float


class Names:
    """Names of addresses, asked in threads that nobody waits for at the end. is_on False: nothing is ever asked."""

    def __init__(
        self,
        *,
        is_on: bool = True,
        ask: Callable[[str], str | None] = ask_system,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_on = is_on
        self._ask = ask
        self._clock_s = clock_s
        self._asked: dict[str, _Asked] = {}
        self._wanted: queue.SimpleQueue[tuple[str, Future[str | None]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Names:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Threads end after what they ask now."""
        for _ in self._threads:
            self._wanted.put(None)
        self._threads.clear()
        self._is_on = False

    def want(self, address: str) -> None:
        """Asks for it in the background, unless that was done in the last hour."""
        if self._is_on:
            self._future(address)

    def known(self, address: str) -> str | None:
        """Without asking and waiting."""
        asked = self._asked.get(address)
        return asked.name.result() if asked is not None and asked.name.done() else None

    async def of(self, addresses: Iterable[str], *, wait_s: float = WAIT_S) -> dict[str, str | None]:
        """Names of all that are known `wait_s` later, or earlier if that are all."""
        several = list(dict.fromkeys(addresses))
        if self._is_on and several:
            futures = [asyncio.wrap_future(self._future(address)) for address in several]
            await asyncio.wait(futures, timeout=wait_s)
        return {address: self.known(address) for address in several}

    def _future(self, address: str) -> Future[str | None]:
        now_s = self._clock_s()
        asked = self._asked.get(address)
        if asked is not None and now_s - asked.since_s < KEPT_S:
            return asked.name
        if len(self._asked) >= KEPT:
            del self._asked[next(iter(self._asked))]
        asked = self._asked[address] = _Asked(name=Future(), since_s=now_s)
        if len(self._threads) < min(AT_A_TIME, len(self._asked)):
            thread = threading.Thread(target=self._work, name="names", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._wanted.put((address, asked.name))
        return asked.name

    def _work(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            address, future = wanted
            future.set_result(_harmless(self._ask(address)))


def _harmless(name: str | None) -> str | None:
    if name is None:
        return None
    name = name.removesuffix(".")
    return name if len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) else None


# --- origins ----------------------------------------------------------------------------------------------------------


class Origins:
    """The AS that originates the longest prefix an address is in. A million prefixes take 20 MB."""

    def __init__(self, prefixes: Iterable[tuple[str, int, str]] = ()) -> None:
        """Each as address, length and origin. Raises ValueError for one that is none."""
        self._names = [""]
        indices: dict[str, int] = {}
        ranges: dict[int, list[tuple[int, int, int]]] = {32: [], 128: []}
        for address, length, origin in prefixes:
            bits, number = _number(address)
            if not 0 <= length <= bits or not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{address}/{length} {origin}")
            index = indices.get(origin)
            if index is None:
                index = indices[origin] = len(self._names)
                self._names.append(origin)
            ranges[bits].append((number >> (bits - length) << (bits - length), length, index))
        self._v4: tuple[MutableSequence[int], MutableSequence[int]] = (array("Q"), array("L"))
        self._v6: tuple[MutableSequence[int], MutableSequence[int]] = ([], array("L"))
        _flatten(ranges[32], 32, *self._v4)
        _flatten(ranges[128], 128, *self._v6)

    def __bool__(self) -> bool:
        """Whether there is any data."""
        return bool(self._v4[0] or self._v6[0])

    def of(self, address: str) -> str | None:
        """ "64512" or, where several originate it, "64512_64513". None: nobody is known to."""
        bits, number = _number(address)
        starts, indices = self._v4 if bits == 32 else self._v6
        place = bisect_right(starts, number) - 1
        return self._names[indices[place]] or None if place >= 0 else None


def read_origins(path: Path) -> Origins:
    """Raises EnvironmentFault if it cannot be read, ConfigurationError for a line that is none."""
    lines = _Lines(path)
    try:
        return Origins(lines.prefixes())
    except OSError as error:
        raise EnvironmentFault("read origins", str(path), error.strerror or error) from error
    except (ValueError, EOFError) as error:
        remedy = 'a line is "192.0.2.0/24 64512", or prefix, length and AS with tabs between'
        raise ConfigurationError(path, f"line {lines.number}", str(error), remedy) from error


def usual_origins() -> Origins:
    """From the first of USUAL_FILES that is there; empty where there is none."""
    for path in USUAL_FILES:
        if path.exists():
            return read_origins(path)
    return Origins()


class _Lines:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.number = 0

    def prefixes(self) -> Iterator[tuple[str, int, str]]:
        with self._path.open("rb") as file:
            is_gzip = file.read(2) == _GZIP
        opener = gzip.open if is_gzip else open
        with opener(self._path, "rt", encoding="ascii") as lines:
            for self.number, line in enumerate(lines, 1):
                words = line.partition("#")[0].replace("/", " ").split()
                if len(words) == 3:
                    yield words[0], int(words[1]), words[2]
                elif words:
                    raise ValueError(f"{len(words)} words, not a prefix and its AS")


def _number(address: str) -> tuple[int, int]:
    """Its bits and its value. Raises ValueError."""
    family, bits = (socket.AF_INET6, 128) if ":" in address else (socket.AF_INET, 32)
    try:
        return bits, int.from_bytes(socket.inet_pton(family, address), "big")
    except OSError as error:
        raise ValueError(f"not an address: {address}") from error


def _flatten(
    ranges: list[tuple[int, int, int]], bits: int, starts: MutableSequence[int], indices: MutableSequence[int]
) -> None:
    """Nested prefixes become ranges side by side: from each start to the next, one origin."""

    def begin(start: int, index: int) -> None:
        if starts and starts[-1] == start:
            indices[-1] = index
        else:
            starts.append(start)
            indices.append(index)

    around: list[tuple[int, int]] = []  # last address and origin of those that we are in, the narrowest last

    def leave() -> None:
        last, _ = around.pop()
        if last + 1 < 1 << bits:
            begin(last + 1, around[-1][1] if around else _NOBODY)

    for start, length, index in sorted(ranges):
        while around and around[-1][0] < start:
            leave()
        begin(start, index)
        around.append((start + (1 << (bits - length)) - 1, index))
    while around:
        leave()
