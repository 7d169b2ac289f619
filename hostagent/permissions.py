"""Who may look at the local API, and who may change anything by it.

Decides: by the user and the groups of the process that connected (`dataplane.peers`).  Root and the agent's own user
may do everything; who may spend may read.  Refuses to know what is asked for.  `Permissions.allows` is pure;
`permissions_of` reads the user database once.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dataplane.peers import NOBODY, ROOT, Peer, Who, group_exists, who_is

DEFAULT_GROUP: Final = "hostagent"
"""Its members may read where the configuration names no readers; nobody but root and the agent if it does not exist."""


class Right(enum.Enum):
    READ = "look"
    SPEND = "change anything"


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
        readers = (f"@{DEFAULT_GROUP}",) if group_exists(DEFAULT_GROUP) else ()
    return Permissions(
        readers=who_is(readers, file=file, key=f"{key}.readers"),
        spenders=who_is(spenders, file=file, key=f"{key}.spenders"),
        own_user_id=os.geteuid(),
    )
