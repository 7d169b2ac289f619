"""Small files of the agent's own: written whole or not at all, and put aside when they are broken.

Decides: nothing else. Source: rename(2), which is atomic within a file system.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from billpay.errors import EnvironmentFault


def write_whole(path: Path, data: bytes) -> None:
    """For its owner alone. Raises EnvironmentFault."""
    new = path.with_suffix(".new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise EnvironmentFault("write", str(path), error.strerror, "make room on the disk") from error


def put_aside(path: Path, error: Exception) -> str:
    """What a person is told of it."""
    aside = path.with_suffix(".broken")
    with contextlib.suppress(OSError):
        path.replace(aside)
    return f"{path} could not be read ({error}) and is put aside as {aside.name}"
