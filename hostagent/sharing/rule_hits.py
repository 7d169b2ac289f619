"""Which rule put a flow into its class, and how often each rule did. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dataplane.metering import FlowMeter, Program, Reading
from dataplane.shaping.matching import Matcher
from hostagent import api
from hostagent.sharing.policy import Policy, condition_text

Place = tuple[str, str, str]
"""What a rule is counted by, since its number changes when another one comes before it: source, condition, kind."""


class RuleHits:
    """The rules of one policy; `after` is the next policy's, with the same counts."""

    def __init__(self, policy: Policy, hits: dict[Place, int] | None = None) -> None:
        self._policy = policy
        self._matcher = Matcher(policy.plan)
        self._places = [
            (source.value, condition_text(rule.match), policy.kinds[rule.traffic_class].name)
            for rule, source in zip(policy.plan.rules, policy.sources, strict=True)
        ]
        there = set(self._places)
        self._hits = {place: count for place, count in (hits or {}).items() if place in there}

    def after(self, policy: Policy) -> RuleHits:
        is_same = policy.plan.rules == self._policy.plan.rules and policy.sources == self._policy.sources
        return self if is_same and policy.kinds == self._policy.kinds else RuleHits(policy, self._hits)

    def count(self, flows: Sequence[FlowMeter], reading: Reading) -> None:
        """`flows`: those that are new."""
        programs = {meter.number: meter.program for meter in reading.programs}
        for flow in flows:
            number = self.rule_of(flow, programs.get(flow.program_number))
            if number is not None:
                place = self._places[number]
                self._hits[place] = self._hits.get(place, 0) + 1

    def rule_of(self, flow: FlowMeter, program: Program | None) -> int | None:
        """By its place in the plan; None: no rule did.

        Whether the flow came to us is not in the meter: the port under which a rule agrees with its class decides.
        """
        if program is None:
            return None
        for port in (flow.key.remote_port, flow.key.local_port):
            number = self._matcher.rule_of(program, flow.key.protocol, port, flow.key.remote)
            if number is not None and self._policy.plan.rules[number].traffic_class == flow.traffic_class:
                return number
        return None

    def view(self) -> tuple[api.Rule, ...]:
        return tuple(
            api.Rule(
                number=number,
                source=place[0],
                condition=place[1],
                kind=place[2],
                flows=self._hits.get(place, 0),
            )
            for number, place in enumerate(self._places)
        )
