"""Steps that change an ISP: what its file says afterwards, and that its own gateway takes it in without a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

import gateway.configuration
from gateway.terms import changes
from lab.changing import after, said
from lab.configurations import Configurations, Places, to_toml
from lab.plan import make_plan
from lab.scenarios import find_scenario, list_scenarios
from lab.topology import Changing, Charge, Describe, Heed, Scenario, Toll


def file_of(scenario: Scenario, node: str, directory: Path) -> gateway.configuration.Configuration:
    made = Configurations(
        make_plan(scenario), family=4, places=Places(directory=Path("/lab")), certificate=lambda *_: "/lab/c.pem"
    )
    path = directory / "gateway.toml"
    path.write_text(to_toml(made.table(scenario.node(node), "gateway")), encoding="utf-8")
    return gateway.configuration.load(path)


DOUBLED = Charge(node="Y", toll=Toll(fixed_nanodollars=40))
DEAR_TO_Z = Charge(node="X", toll=Toll(towards="Z", fixed_nanodollars=99, proportional_ppm=10_000))
PROMISE = Describe(node="X", to="B", number=1, delay_ms=1, toll_nanodollars=2)
WITHDRAWN = Describe(node="X", to="B", number=1, available=False)
OTHER_DEFAULT = Describe(node="X", to="B", number=2, default=True)
DEAF = Heed(node="X", wishes=False)
STEPS = [DOUBLED, DEAR_TO_Z, PROMISE, WITHDRAWN, OTHER_DEFAULT, DEAF]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_a_gateway_takes_a_change_in_while_it_runs(step: Changing, tmp_path: Path) -> None:
    scenario = find_scenario("liar")
    before, now = file_of(scenario, step.node, tmp_path), file_of(after(scenario, step), step.node, tmp_path)
    assert changes(before, now)
    assert said(step).startswith(step.node)


def test_only_the_link_that_is_meant_is_charged_otherwise(tmp_path: Path) -> None:
    links = file_of(after(find_scenario("liar"), DEAR_TO_Z), "X", tmp_path).links
    tolls = {link.name: (link.toll.fixed_nanodollars_per_packet, link.toll.proportional_ppm) for link in links}
    assert tolls == {"A": (0, 0), "Y": (20, 0), "Z": (99, 10_000)}


def test_promises_withdrawals_and_the_default_are_the_routes(tmp_path: Path) -> None:
    def routes(step: Describe) -> list[tuple[int, list[tuple[int, int | None, int | None, bool]]]]:
        return [
            (route.default, [(a.number, a.delay_ms, a.toll_nanodollars, a.available) for a in route.alternatives])
            for route in file_of(after(find_scenario("liar"), step), "X", tmp_path).routes
            if len(route.alternatives) > 1
        ]

    assert routes(PROMISE) == 2 * [(0, [(1, 1, 2, True), (2, 25, None, True)])]
    assert routes(WITHDRAWN) == 2 * [(0, [(1, None, None, False), (2, 25, None, True)])]
    assert routes(OTHER_DEFAULT) == 2 * [(2, [(1, 25, None, True), (2, None, None, True)])]


def test_the_old_values_undo_it() -> None:
    scenario = find_scenario("greedy-toll")
    assert after(after(scenario, DOUBLED), Charge(node="Y", toll=Toll(fixed_nanodollars=20))) == scenario


def test_all_changes_of_the_labs_own_scenarios_are_taken_in(tmp_path: Path) -> None:
    count = 0
    for scenario in list_scenarios():
        now = scenario
        for step in scenario.steps:
            if isinstance(step, Changing):
                before, now = now, after(now, step)
                old, new = file_of(before, step.node, tmp_path), file_of(now, step.node, tmp_path)
                assert changes(old, new), (scenario.name, step)
                count += 1
    assert count >= 4
