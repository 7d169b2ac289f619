"""What a daemon tells the service manager that started it: that it is up, that it lives, what it is at.

Decides: how a state is written and sent, and whether anybody asked for it. Refuses to know: when a daemon is up or
hung (`dataplane.service`). Source: sd_notify(3), sd_watchdog_enabled(3), systemd.service(5) for reloading.

One datagram holds lines NAME=value. Without NOTIFY_SOCKET nothing is sent: the daemon was started by hand. A manager
that does not listen is no reason to stop working, so no call raises.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

LOG = logging.getLogger("service")
NS_PER_US = 1000
STATUS_CHARACTERS = 200
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """`address` "": nobody listens. `watchdog_ns` None: nobody waits for signs of life."""

    def __init__(self, address: str = "", *, watchdog_ns: int | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_ns = watchdog_ns if address else None
        self._complained = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """Takes the variables out as well: the programs that we start are not the service."""
        address, period, owner = (environment.pop(name, "") for name in _VARIABLES)
        if not address.startswith(("/", "@")) or len(address) < 2:  # vsock is for whole machines
            return cls()
        ours = period.isdecimal() and int(period) > 0 and owner in ("", str(os.getpid()))
        return cls(address, watchdog_ns=int(period) * NS_PER_US if ours else None)

    @property
    def is_heard(self) -> bool:
        return bool(self._address)

    def ready(self, status: str = "") -> None:
        """Up, or through with reloading."""
        self._say("READY=1", _status(status))

    def reloading(self, now_ns: int) -> None:
        """`now_ns` by the monotonic clock: tells this reload from an earlier one. `ready` ends it."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={now_ns // NS_PER_US}")

    def stopping(self, status: str = "", *, within_ns: int) -> None:
        """From now on it ends, and needs up to so long to put everything back."""
        self._say("STOPPING=1", f"EXTEND_TIMEOUT_USEC={within_ns // NS_PER_US}", _status(status))

    def status(self, status: str) -> None:
        self._say(_status(status))

    def alive(self) -> None:
        if self.watchdog_ns is not None:
            self._say("WATCHDOG=1")

    def _say(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # a manager that is stuck must not hold us up
                sender.sendto("\n".join(filter(None, lines)).encode(), self._address)
        except OSError as error:
            if not self._complained:
                LOG.warning("the service manager does not listen: %s", error.strerror or error)
            self._complained = True


def _status(text: str) -> str:
    """One line, "" for none: a line break would start the next variable."""
    line = " ".join(text.split())
    return f"STATUS={line[:STATUS_CHARACTERS]}" if line else ""
