"""The record of what was changed in the kernel: on the disk before each change, with what undoes it.

Decides: the file's form. Refuses to know: how a change is undone. Source: ARCHITECTURE (safety).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from billpay.errors import EnvironmentFault
from dataplane.desired import DesiredState, Family, Sysctl

RECORD_NAME = "kernel-state.json"
"""In a daemon's state directory; `hostagent restore` looks for it there."""
ACCESS_RECORD = "access-routes.json"
"""Beside it: which access new flows go by (`dataplane.access_routes`)."""
QUEUE_RECORD = "queue.json"
"""In a gateway's state directory: what was at the root of its links before their queues (`gateway.kernel_queue`)."""


class ChainUndo(msgspec.Struct, frozen=True, kw_only=True, tag="chain", forbid_unknown_fields=True):
    """Remove the jumps from `hook` to our chain, and the chain."""

    family: Family
    table: str
    hook: str
    chain: str


class TableUndo(msgspec.Struct, frozen=True, kw_only=True, tag="table", forbid_unknown_fields=True):
    """Remove empty base chains that were not there before, and the table if it was not (chains_before None)."""

    family: Family
    table: str
    chains_before: list[str] | None


class RuleUndo(msgspec.Struct, frozen=True, kw_only=True, tag="rule", forbid_unknown_fields=True):
    """Remove an `ip rule`."""

    family: Family
    priority: int
    mark: int
    mask: int
    table: int


class ShownRuleUndo(msgspec.Struct, frozen=True, kw_only=True, tag="shown rule", forbid_unknown_fields=True):
    """Remove an `ip rule` by all that `ip -N rule show` says of it after its priority."""

    family: Family
    priority: int
    shown: str


class RouteUndo(msgspec.Struct, frozen=True, kw_only=True, tag="route", forbid_unknown_fields=True):
    """Remove a route."""

    family: Family
    table: int
    prefix: str


class SysctlUndo(msgspec.Struct, frozen=True, kw_only=True, tag="sysctl", forbid_unknown_fields=True):
    """Write the old value back, unless somebody has changed ours meanwhile."""

    before: Sysctl
    ours: str


class QdiscUndo(msgspec.Struct, frozen=True, kw_only=True, tag="qdisc", forbid_unknown_fields=True):
    """Put the root qdisc back with all that hangs on it, unless somebody has replaced ours meanwhile.

    messages: what the kernel told of it (`dataplane.shaping.qdiscs`); is_default: it comes back when ours goes.
    """

    interface: str
    interface_index: int
    is_default: bool
    tx_queue_length: int
    messages: tuple[bytes, ...]


class VirtualLinkUndo(msgspec.Struct, frozen=True, kw_only=True, tag="link", forbid_unknown_fields=True):
    """Remove an interface that we made."""

    name: str


Undo = ChainUndo | TableUndo | RuleUndo | ShownRuleUndo | RouteUndo | SysctlUndo | QdiscUndo | VirtualLinkUndo


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    desired: DesiredState
    undos: list[Undo]


@dataclass(slots=True, kw_only=True)
class Record:
    """The undos of one desired state, oldest first."""

    path: Path
    desired: DesiredState
    undos: list[Undo] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Record | None:
        """None when nothing was changed. Raises EnvironmentFault when the file cannot be read or understood."""
        try:
            document = msgspec.json.decode(path.read_bytes(), type=_Document)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EnvironmentFault("read", str(path), error.strerror, "check its permissions") from error
        except msgspec.DecodeError as error:
            remedy = "undo the changes by hand, then remove the file"
            raise EnvironmentFault("read", str(path), f"not a record of kernel changes: {error}", remedy) from error
        return cls(path=path, desired=document.desired, undos=document.undos)

    def add(self, *undos: Undo) -> None:
        """Appends what is not there yet, and returns when it is on the disk."""
        new = [undo for undo in undos if not any(_same_place(undo, known) for known in self.undos)]
        if not new:
            return
        self.undos += new
        self._write()

    def discard(self, *undos: Undo) -> None:
        """Forgets what is undone already."""
        left = [undo for undo in self.undos if undo not in undos]
        if len(left) < len(self.undos):
            self.undos = left
            self._write()

    def _write(self) -> None:
        data = msgspec.json.encode(_Document(desired=self.desired, undos=self.undos))
        temporary = self.path.with_name(self.path.name + ".new")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise EnvironmentFault("write", str(self.path), error.strerror, "check the state directory") from error

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        _sync_directory(self.path.parent)


def _same_place(undo: Undo, known: Undo) -> bool:
    """The oldest record of a place counts: a later look at it would already see our own change."""
    if isinstance(undo, TableUndo) and isinstance(known, TableUndo):
        return (undo.family, undo.table) == (known.family, known.table)
    if isinstance(undo, SysctlUndo) and isinstance(known, SysctlUndo):
        return undo.before.name == known.before.name
    if isinstance(undo, QdiscUndo) and isinstance(known, QdiscUndo):
        return undo.interface_index == known.interface_index
    return undo == known


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
