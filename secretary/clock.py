"""The clocks that a host's parts read, together, so that a test can be weeks ahead of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

from secretary.transfers import Moment

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LOCAL_TIME = Path("/etc/localtime")
_ZONES = "/zoneinfo/"


class Clock(Protocol):
    """What drivers read time from; deciding parts get numbers."""

    def monotonic_ns(self) -> int:
        """Stands still while the machine sleeps."""
        ...

    def unix_s(self) -> int: ...

    def moment(self) -> Moment: ...

    def zone(self) -> ZoneInfo:
        """Of the person: days and months begin by it."""
        ...


class SystemClock:
    """The real ones. Source: clock_gettime(2)."""

    def __init__(self) -> None:
        try:
            self._boot = _BOOT_ID.read_text().strip()
        except OSError:
            self._boot = ""
        self._zone = local_zone()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def unix_s(self) -> int:
        return int(time.time())

    def moment(self) -> Moment:
        boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return Moment(unix_s=self.unix_s(), boot_ns=boot_ns, boot=self._boot, zone=self._zone)

    def zone(self) -> ZoneInfo:
        return self._zone


def local_zone() -> ZoneInfo:
    """The machine's time zone by its name, so that summer and winter are told apart; UTC where it has none."""
    try:
        path = str(_LOCAL_TIME.resolve(strict=True))
        return ZoneInfo(path.partition(_ZONES)[2])
    except (OSError, ValueError, KeyError):
        return ZoneInfo("UTC")
