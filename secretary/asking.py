"""Who asks the secretary, and what they may ask.

Decides: an agent asks for grants, a person for everything that a grant rests on; nobody gets from one to the other by
asking. A host that hands its agent's user the people's rights is told so (`Doors.warning`). Refuses to know sockets and
what is asked for. Source: Bill-Pay 2.4 (the secretary should interact with the user securely).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from dataplane.peers import NOBODY, ROOT, Peer, Who
from secretary.messages import AgentQuestion, AskBudget, PersonQuestion, Question


class Role(enum.Enum):
    AGENT = "agent"  # carries grants between secretary and gateways
    PERSON = "person"  # answers, pays in, reads statements: about what is their own
    KEEPER = "keeper"  # a person who may see and change everybody's


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Whoever is at the other end of a connection, for as long as it lasts. `user`: of a person, by name."""

    roles: frozenset[Role]
    user: str = ""

    def may_ask(self, question: Question) -> bool:
        if isinstance(question, AskBudget):
            return bool(self.roles)
        if isinstance(question, AgentQuestion):
            return Role.AGENT in self.roles
        return isinstance(question, PersonQuestion) and self.is_person

    @property
    def is_person(self) -> bool:
        return bool(self.roles & {Role.PERSON, Role.KEEPER})

    def speaks_for(self, user: str) -> bool:
        """Whether what concerns that user is theirs to see and to say; what concerns nobody by name is everybody's."""
        return Role.KEEPER in self.roles or user in ("", self.user)


STRANGER = Asker(roles=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Whom the configuration names. Root and the secretary's own user are keepers; without `agents` agents as well."""

    agents: Who = NOBODY
    people: Who = NOBODY
    keepers: Who = NOBODY
    own_user_id: int = ROOT

    def asker(self, peer: Peer, user: str) -> Asker:
        roles = set()
        is_own = peer.user_id in (ROOT, self.own_user_id)
        if self.agents.has(peer) or (is_own and self.agents == NOBODY):
            roles.add(Role.AGENT)
        if self.people.has(peer):
            roles.add(Role.PERSON)
        if self.keepers.has(peer) or is_own:
            roles.add(Role.KEEPER)
        return Asker(roles=frozenset(roles), user=user)

    @property
    def warning(self) -> str:
        """One line; "" when no agent can speak as a person."""
        users = self.agents.users & (self.people.users | self.keepers.users | {ROOT, self.own_user_id})
        groups = self.agents.groups & (self.people.groups | self.keepers.groups)
        if self.agents != NOBODY and not users and not groups:
            return ""
        return (
            "an agent may answer for people here, so whoever hijacks it can: give it a user of its own, [access] agents"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteDoors:
    """Whom certificates are of, by fingerprint, where the secretary lives outside the host's operating system."""

    askers: dict[str, Asker] = field(default_factory=dict)

    def asker(self, fingerprint: str) -> Asker:
        return self.askers.get(fingerprint, STRANGER)
