"""What the agent keeps of what a person said, over restarts: the mode, and words about programs. One small JSON file.

Decides: that a file that cannot be read is put aside, never overwritten, and said. Refuses to know: what words mean.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from billpay.errors import EnvironmentFault
from hostagent.api import Mode
from hostagent.sharing.words import Word

FILE_NAME = "said.json"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """`mode` None: nobody said; `confirmed`: a trial was confirmed once, so acting needs no more trials."""

    version: int = 1
    mode: Mode | None = None
    confirmed: bool = False
    words: tuple[Word, ...] = ()


def read(state_directory: Path) -> tuple[Kept, str]:
    """And one line about a file that is put aside, "" without one. Raises EnvironmentFault when it cannot be read."""
    path = state_directory / FILE_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Kept), ""
    except FileNotFoundError:
        return Kept(), ""
    except OSError as error:
        raise EnvironmentFault("read", str(path), error.strerror, "check who owns it") from error
    except msgspec.DecodeError as error:
        aside = path.with_suffix(".broken")
        path.replace(aside)
        return (
            Kept(),
            f"{path} could not be read ({error}) and is put aside as {aside.name}; what was said is forgotten",
        )


def write(state_directory: Path, kept: Kept) -> None:
    """Whole or not at all. Raises EnvironmentFault."""
    path = state_directory / FILE_NAME
    new = path.with_suffix(".new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(kept))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise EnvironmentFault("write", str(path), error.strerror, "make room on the disk") from error
