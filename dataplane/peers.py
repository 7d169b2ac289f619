"""Who a process at the other end of a unix socket is, and whom a configuration names.

Decides: nothing but what the kernel vouches for (SO_PEERCRED and SO_PEERGROUPS, unix(7)): user and groups of the moment
of connecting, which no request can say otherwise. What cannot be known counts as a stranger. Refuses to know what is
asked for, and who may have it. `peer_of` reads a socket, `who_is` the user database once; the rest is pure.
"""

from __future__ import annotations

import grp
import pwd
import socket as sockets
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from billpay.errors import ConfigurationError

OVERFLOW_ID: Final = 65534
"""Users and groups of a container that have no number here look like this one (user_namespaces(7)): it is nobody."""

ROOT: Final = 0
NAMES_MAX: Final = 64
SO_PEERGROUPS: Final = 59  # <asm-generic/socket.h>, Linux 4.13; Python has no name for it
GROUPS_BYTES: Final = 1024  # as much as Python reads: 256 groups
CREDENTIALS: Final = struct.Struct("=iII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process at the other end of a connection."""

    user_id: int
    group_id: int
    process_id: int = 0
    groups: frozenset[int] = frozenset()  # supplementary ones

    @property
    def all_groups(self) -> frozenset[int]:
        return self.groups | {self.group_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Users and groups by number; `names` as they were written."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()
    names: tuple[str, ...] = ()

    def has(self, peer: Peer) -> bool:
        return peer.user_id in self.users or not self.groups.isdisjoint(peer.all_groups)


NOBODY: Final = Who()


class _Connected(Protocol):
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def peer_of(connection: _Connected) -> Peer:
    """Raises OSError for a socket that is no unix socket."""
    read = connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, CREDENTIALS.size)
    process_id, user_id, group_id = CREDENTIALS.unpack(read)
    return Peer(user_id=user_id, group_id=group_id, process_id=process_id, groups=_groups(connection))


def _groups(connection: _Connected) -> frozenset[int]:
    try:
        read = connection.getsockopt(sockets.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES)
    except OSError:  # in more groups than we can read, or an old kernel: its user still counts
        return frozenset()
    return frozenset(number for (number,) in struct.iter_unpack("=I", read))


def group_exists(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def who_is(names: Iterable[str], *, file: object, key: str) -> Who:
    """Users by name or number, groups by "@name" or "@number". Raises ConfigurationError."""
    users: set[int] = set()
    groups: set[int] = set()
    written = tuple(names)
    if len(written) > NAMES_MAX:
        raise ConfigurationError(file, key, f"{len(written)} names", f"name {NAMES_MAX} at most; name a group instead")
    for number, name in enumerate(written):
        kind, known = ("group", groups) if name.startswith("@") else ("user", users)
        try:
            found = _number(name)
        except (KeyError, ValueError) as error:
            remedy = "write a user's name or number, or @ and a group's"
            raise ConfigurationError(file, f"{key}[{number}]", f"there is no {kind} {name!r}", remedy) from error
        if found == OVERFLOW_ID:
            problem = f"{name!r} also stands for everybody in a container"
            raise ConfigurationError(file, f"{key}[{number}]", problem, f"name another {kind}")
        known.add(found)
    return Who(users=frozenset(users), groups=frozenset(groups), names=written)


def _number(name: str) -> int:
    text = name.removeprefix("@")
    if text.isascii() and text.isdigit():
        number = int(text)
        if number >= 2**32 - 1:
            raise ValueError(name)
        return number
    return grp.getgrnam(text).gr_gid if name.startswith("@") else pwd.getpwnam(text).pw_uid
