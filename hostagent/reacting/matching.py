"""Programs that know nothing of sessions: which of their flows get one, and when it is over (DPH-33).

Decides: by rules, the first that matches; a flow that is idle or gone has none any more. Refuses to know: engines,
policies. Pure. Source: M3I scenarios 3.4 (session launchers, so that applications need no change).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from dataplane.metering import FlowKey, FlowMeter, Program
from dataplane.shaping.matching import Matcher
from dataplane.shaping.plan import NO_SHAPING, Match, Rule, ShapingPlan
from hostagent import api

IDLE_NS = 30_000_000_000
_NAMES = {6: "tcp", 17: "udp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRule:
    """Flows that match follow the price of congestion under the policy of `task`; `pays` False: their receiver's."""

    task: str
    match: Match
    sends: bool = True
    pays: bool = True


class Launcher:
    """Keeps the rules compiled."""

    def __init__(self) -> None:
        self._rules: tuple[SessionRule, ...] = ()
        self._matcher = Matcher(NO_SHAPING)
        self._unnamed: dict[FlowKey, Program] = {}  # asked before; once its program is known it is asked again

    def use(self, rules: Sequence[SessionRule]) -> None:
        if tuple(rules) != self._rules:
            self._rules = tuple(rules)
            self._unnamed = {}
            self._matcher = Matcher(
                ShapingPlan(
                    classes=NO_SHAPING.classes,
                    rules=tuple(Rule(match=rule.match, traffic_class=0) for rule in self._rules),
                )
            )

    def request_for(self, flow: FlowMeter, program: Program) -> api.SessionRequest | None:
        """The session that it should have; None: none."""
        key = flow.key
        if key.protocol not in _NAMES or not key.local_port or not key.remote_port:
            return None
        if self._unnamed.get(key) == program:
            return None
        for port in (key.remote_port, key.local_port):  # who began is not told: the service may be either end's
            number = self._matcher.rule_of(program, key.protocol, port, key.remote)
            if number is not None:
                return _request(self._rules[number], key)
        self._unnamed[key] = program
        return None

    def forget_others(self, flows: Iterable[FlowKey]) -> None:
        """Those that are not there any more."""
        self._unnamed = {key: self._unnamed[key] for key in flows if key in self._unnamed}


def _request(rule: SessionRule, key: FlowKey) -> api.SessionRequest:
    return api.SessionRequest(
        protocol=_NAMES[key.protocol],
        local=str(ip_address(key.local)),
        local_port=key.local_port,
        remote=str(ip_address(key.remote)),
        remote_port=key.remote_port,
        sends=rule.sends,
        pays=rule.pays,
        task=rule.task if rule.pays else "",
    )


def is_idle(flow: FlowMeter, now_ns: int) -> bool:
    return now_ns - flow.last_ns >= IDLE_NS
