"""Capture files that other people's tools read: the classic pcap format with nanosecond stamps, Ethernet frames.

Decides nothing.  Source: the pcap file format (draft-ietf-opsawg-pcap), magic 0xa1b23c4d, link type 1.
"""

from __future__ import annotations

import struct
from pathlib import Path
from types import TracebackType

_MAGIC_NANOSECONDS = 0xA1B23C4D
_SNAP_BYTES = 65535
_LINK_TYPE_ETHERNET = 1
_RECORD = struct.Struct("<IIII")


class CaptureFile:
    """Writes one file; a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=1 << 18)
        self._file.write(struct.pack("<IHHiIII", _MAGIC_NANOSECONDS, 2, 4, 0, 0, _SNAP_BYTES, _LINK_TYPE_ETHERNET))

    def write(self, frame: bytes, *, second: int, nanosecond: int, whole_bytes: int) -> None:
        self._file.write(_RECORD.pack(second, nanosecond, len(frame), whole_bytes))
        self._file.write(frame)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> CaptureFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
