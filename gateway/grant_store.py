"""Open grants on the disk: what a host was told is open stays open when the gateway starts again.

Decides nothing: keeps signed documents as they came, with the link that they came by. Each grant is a file of its own,
whole or absent; keys are inside, so the folder is ours alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from billpay.errors import EnvironmentFault
from billpay.messages import Signed

_SUFFIX = ".grant"


class StoredGrant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    link: str
    signed: Signed


class GrantStore:
    """`directory` is made when it is missing. A damaged file is reported by `load` and left where it is."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(
                "make folder", str(directory), error.strerror, "check the state directory"
            ) from error

    def put(self, grant: str, stored: StoredGrant) -> None:
        """On the disk when this returns. Raises EnvironmentFault."""
        path = self._path(grant)
        temporary = path.with_suffix(".new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(stored))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise EnvironmentFault("store grant", str(path), error.strerror, "free some disk space") from error

    def remove(self, grant: str) -> None:
        self._path(grant).unlink(missing_ok=True)

    def load(self) -> Iterator[tuple[str, StoredGrant | None]]:
        """Every grant by its id; None for a file that cannot be read any more."""
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                yield path.stem, msgspec.json.decode(path.read_bytes(), type=StoredGrant)
            except (OSError, msgspec.DecodeError):
                yield path.stem, None

    def _path(self, grant: str) -> Path:
        return self._directory / f"{grant}{_SUFFIX}"
