"""A Secret Service of the tests' own: gnome-keyring's daemon on a message bus of its own, under dbus-run-session."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import secretstorage

PASSWORD = "the password of a login"
END_S = 10

_INSIDE = r"""
printf %s "$1" | gnome-keyring-daemon --unlock --components=secrets >/dev/null || exit 1
echo "$DBUS_SESSION_BUS_ADDRESS"
read -r _  # until the test is done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealKeyring:
    """`address`: of the bus. `files`: where the daemon keeps what it was given, encrypted."""

    address: str
    files: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"DBUS_SESSION_BUS_ADDRESS": self.address}

    def lock(self) -> None:
        with contextlib.closing(secretstorage.dbus_init()) as bus:
            secretstorage.Collection(bus).lock()


@contextlib.contextmanager
def real_keyring(folder: Path) -> Iterator[RealKeyring]:
    """Unlocked. `folder` must be empty."""
    run = folder / "run"
    run.mkdir(mode=0o700)
    plain = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder), "XDG_RUNTIME_DIR": str(run)}
    process = subprocess.Popen(
        ["dbus-run-session", "--", "bash", "-c", _INSIDE, "inside", PASSWORD],
        env={**plain, "XDG_DATA_HOME": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, f"no Secret Service: {process.communicate()[1]}"
        yield RealKeyring(address=address, files=folder / "keyrings")
    finally:
        process.communicate(input="\n", timeout=END_S)  # the bus ends, and the daemon with it
