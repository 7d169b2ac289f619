"""Why a flow gets what it gets: by the rule that decided, and no other that is about the same kind."""

from __future__ import annotations

import pytest
from snapshots import household

from hostagent import api
from hostagent.desk import Refused
from hostagent.why import explain, find_flow


def answers(why: api.Why) -> dict[str, str]:
    return {line.question: line.answer for line in why.lines}


@pytest.mark.expectation(11)
def test_the_rule_that_decided_is_named() -> None:
    shown = household()
    flow = find_flow(shown.flows, "restic")
    rule = api.Rule(number=7, source="kinds", condition="program restic", kind="backup", flows=1)
    assert answers(explain(shown, flow, rule))["kind"].endswith("by kinds: program restic")
    assert answers(explain(shown, flow, None))["kind"].endswith("no rule names it")


def test_a_flow_that_nobody_knows_is_one_line() -> None:
    with pytest.raises(Refused, match="no flow is called 'nonsense'"):
        find_flow(household().flows, "nonsense")


def test_a_session_that_paces_the_flow_is_named_with_its_reason() -> None:
    shown = household()
    said = answers(explain(shown, find_flow(shown.flows, "restic"), None))["session"]
    assert said == "by task offsite: go, target 12800000 bit/s; a second may cost 42 µUSD, and does at this rate"
    assert "session" not in answers(explain(shown, find_flow(shown.flows, "zoom"), None))
