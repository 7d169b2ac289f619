"""What is asked for, as a session: who pays for it at which end, and by which policy.

Decides: which requests make no sense, or promise what nobody here or there can keep. Refuses to know: engines (what
they can do is asked of them), sessions that are there. Pure; raises Refused.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Set

from dataplane.host_engine import Ability, EngineName, HostEngine
from hostagent import api
from hostagent.desk import Refused
from hostagent.reacting.naming import PROTOCOLS, plain_address
from hostagent.reacting.session import Role
from pricereactor.policies import RATE_KINDS
from pricereactor.policy import TaskPolicy


def role_of(request: api.SessionRequest, *, peer_addresses: Set[str], acts: bool) -> Role:
    """`acts`: not while a person only wants to see what the agent would do."""
    if not request.sends and not request.pays:
        raise Refused("nothing-to-do", "a flow that arrives and that its sender pays for needs no session here")
    if request.sends and request.pays:
        return Role.SENDER_PAYS
    remote = str(plain_address(request.remote))
    if remote not in peer_addresses:
        raise Refused("no-peer", f"no agent is known at {remote}: put it into [[peers]]")
    if not acts:
        raise Refused("observes", "it only observes: it promises nobody a rate, and asks nobody for one")
    return Role.OBEYS if request.sends else Role.RECEIVER_PAYS


def policy_of(request: api.SessionRequest, tasks: Mapping[str, TaskPolicy]) -> TaskPolicy | None:
    """None: who pays is at the other end."""
    if not request.pays:
        if request.policy is not None:
            raise Refused("not-ours-to-pay", "who pays decides: a policy belongs to a session that pays")
        return None
    if bool(request.task) == (request.policy is not None):
        raise Refused("no-policy", "give either the name of a task or a policy")
    policy = request.policy if request.policy is not None else tasks.get(request.task)
    if policy is None:
        there = ", ".join(sorted(tasks)) or "none"
        raise Refused("no-such-task", f"there is no task {request.task!r}; there are: {there}")
    if policy.kind not in RATE_KINDS:
        raise Refused("no-rate", f"a {policy.kind} task pays for its packets: rules of the secretary, no session")
    return policy


def check_engine(engine: HostEngine, request: api.SessionRequest) -> None:
    if request.sends and not request.adapts and (limit := limit_of(engine, Ability.PACE_FLOW)):
        raise Refused("cannot-pace", limit)
    if not request.sends and not counts_marks(engine, PROTOCOLS[request.protocol]):
        raise Refused("cannot-count", "this engine counts no marks of what arrives")


def limit_of(engine: HostEngine, ability: Ability) -> str:
    """Why the engine cannot; "": it can."""
    return next((limit.cause for limit in engine.limits if limit.ability is ability), "")


def counts_marks(engine: HostEngine, protocol: int) -> bool:
    """A meter that cannot see marks must not report that there are none."""
    if engine.name is EngineName.SOCKETS or limit_of(engine, Ability.COUNT):
        return False
    return protocol != socket.IPPROTO_UDP or not limit_of(engine, Ability.COUNT_UDP)
