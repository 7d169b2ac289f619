"""Who may look at the local API, and who may change anything by it.

Decides: by the user and the groups of the process that connected, as the kernel vouches for them (SO_PEERCRED and
SO_PEERGROUPS, unix(7)): they are those of the moment of connecting, and no request can say otherwise.  Root and the
agent's own user may do everything; who may spend may read.  What cannot be known counts as a stranger.  Refuses to know
what is asked for.  `Permissions.allows` is pure; `permissions_of` reads the user database once, `peer_of` a socket.
"""

from __future__ import annotations

import enum
import grp
import os
import pwd
import socket as sockets
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from billpay.errors import ConfigurationError

ROOT: Final = 0
DEFAULT_GROUP: Final = "hostagent"
"""Its members may read where the configuration names no readers; nobody but root and the agent if it does not exist."""

OVERFLOW_ID: Final = 65534
"""Users and groups of a container that have no number here look like this one (user_namespaces(7)): it is nobody."""

NAMES_MAX: Final = 64
SO_PEERGROUPS: Final = 59  # <asm-generic/socket.h>, Linux 4.13; Python has no name for it
GROUPS_BYTES: Final = 1024  # as much as Python reads: 256 groups
CREDENTIALS: Final = struct.Struct("=iII")


class Right(enum.Enum):
    READ = "look"
    SPEND = "change anything"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """Without arguments: root and the agent's own user only."""

    readers: Who = NOBODY
    spenders: Who = NOBODY
    own_user_id: int = ROOT

    def is_own(self, peer: Peer) -> bool:
        return peer.user_id in (ROOT, self.own_user_id)

    def allows(self, peer: Peer, right: Right) -> bool:
        if self.is_own(peer) or self.spenders.has(peer):
            return True
        return right is Right.READ and self.readers.has(peer)

    @property
    def others_may(self) -> bool:
        """Somebody besides root and the agent's own user may do something."""
        named = self.readers.users | self.spenders.users
        return bool(named - {ROOT, self.own_user_id} or self.readers.groups or self.spenders.groups)

    def who_may(self, right: Right) -> str:
        names = (*self.spenders.names, *(self.readers.names if right is Right.READ else ()))
        own = () if self.own_user_id == ROOT else (f"user {self.own_user_id}",)
        return ", ".join(dict.fromkeys(("root", *own, *names)))

    def refusal(self, peer: Peer, right: Right) -> str:
        """One line."""
        return f"user {peer.user_id} may not {right.value}; these may: {self.who_may(right)}"


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


def permissions_of(
    readers: Sequence[str] | None = None,
    spenders: Sequence[str] = (),
    *,
    file: object = "the configuration",
    key: str = "api",
) -> Permissions:
    """Users by name or number, groups by "@name" or "@number". Raises ConfigurationError.

    `readers` None: whoever is in the group `hostagent`, if there is one.
    """
    if readers is None:
        readers = (f"@{DEFAULT_GROUP}",) if _group_exists(DEFAULT_GROUP) else ()
    return Permissions(
        readers=_who(readers, file, f"{key}.readers"),
        spenders=_who(spenders, file, f"{key}.spenders"),
        own_user_id=os.geteuid(),
    )


def _group_exists(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _who(names: Iterable[str], file: object, key: str) -> Who:
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
