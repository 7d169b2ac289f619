"""Scenario files: what is read, what is refused, and that all that come with the lab are sound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from billpay.errors import ConfigurationError
from lab.plan import make_plan
from lab.scenarios import DIRECTORY, find_scenario, list_scenarios
from lab.topology import LEAST_SCALE, Exchange, NodeKind, Pause, load

SMALL = """
name = "small"
title = "two hosts and an ISP"
[[nodes]]
name = "A"
kind = "host"
[[nodes]]
name = "X"
kind = "isp"
as_number = 64512
[[nodes]]
name = "B"
kind = "host"
[[links]]
ends = ["A", "X"]
[[links]]
ends = ["X", "B"]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "scenario.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(DIRECTORY.glob("*.toml")), ids=lambda path: path.stem)
def test_every_scenario_that_comes_with_the_lab_is_sound(path: Path) -> None:
    scenario = load(path)
    assert scenario.name == path.stem
    assert make_plan(scenario).routes


def test_the_main_scenario_comes_first_and_is_found_by_name() -> None:
    assert list_scenarios()[0].name == "figure1"
    assert find_scenario("figure1").node("Y").as_number == 64513


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(ConfigurationError, match="figure1"):
        find_scenario("no-such-thing")


def test_a_file_elsewhere_is_taken_by_its_path(tmp_path: Path) -> None:
    scenario = find_scenario(written(tmp_path, SMALL))
    assert [node.kind for node in scenario.nodes] == [NodeKind.HOST, NodeKind.ISP, NodeKind.HOST]
    assert scenario.neighbours("X") == ["A", "B"]


def test_durations_add_up_without_what_runs_in_the_background(tmp_path: Path) -> None:
    steps = """
    [[steps]]
    do = "exchange"
    name = "behind"
    source = "A"
    destination = "B"
    port = 7000
    packets_per_s = 10
    seconds = 100
    background = true
    [[steps]]
    do = "pause"
    seconds = 3
    """
    scenario = load(written(tmp_path, SMALL + steps))
    assert isinstance(scenario.steps[0], Exchange)
    assert scenario.seconds == 3


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        ('[[links]]\nends = ["A", "Q"]\n', "no node 'Q'"),
        ('[[links]]\nends = ["A", "X"]\n', "joined twice"),
        ('[[links]]\nends = ["A", "A"]\n', "to itself"),
        ('[[nodes]]\nname = "A"\nkind = "plain"\n', "used twice"),
        ('[[nodes]]\nname = "Z"\nkind = "isp"\n', "AS number"),
        ('[[routes]]\nnode = "A"\nvia = "B"\n', "no link to B"),
        ('[[steps]]\ndo = "impair"\nlink = ["A", "X"]\n', "wire = true"),
        ('[[steps]]\ndo = "dance"\n', "dance"),
        ('[[links]]\nends = ["A", "B"]\nrate = 5\n', "unknown key"),
        ('[[nodes]]\nname = "much-too-long"\nkind = "plain"\n', "name"),
        ("nodes = ", "not TOML"),
    ],
)
def test_mistakes_are_one_line_that_names_the_file(tmp_path: Path, addition: str, complaint: str) -> None:
    path = written(tmp_path, SMALL + addition)
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_scenario_in_the_documentation_is_sound(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "lab.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    scenario = load(written(tmp_path, example))
    assert [type(step).__name__ for step in scenario.steps] == ["Exchange"]
    assert make_plan(scenario).routes


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        (
            '[[expect]]\nthat = "answered"\nexchange = "nothing"\nat_least_percent = 1\n',
            "no exchange or transfer 'nothing'",
        ),
        ('[[expect]]\nthat = "loss"\nlink = ["A", "B"]\n', "neither a link nor a tunnel to B"),
        ('[[steps]]\ndo = "stop"\nname = "noise"\n', "no flood 'noise'"),
        ('[[steps]]\ndo = "heed"\nnode = "A"\nwishes = true\n', "A is no ISP"),
        ('[[steps]]\ndo = "charge"\nnode = "X"\ntoll = { towards = "Q" }\n', "X has no link to Q"),
        ('[[steps]]\ndo = "describe"\nnode = "X"\nto = "B"\nnumber = 3\n', "X has no alternative 3 to B"),
        ('[[steps]]\ndo = "swallow"\nlink = ["A", "B"]\n', "A has no link to B"),
        (2 * '[[steps]]\ndo = "heed"\nname = "deaf"\nnode = "X"\nwishes = true\n', "two changes have one name"),
        (
            '[[expect]]\nthat = "found"\nby = "A"\nisp = "X"\nkind = "lies"\nafter = "never"\nwithin_s = 1\n',
            "there is no change 'never'",
        ),
    ],
)
def test_expectations_of_what_never_happens_are_mistakes(tmp_path: Path, addition: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        load(written(tmp_path, SMALL + addition))


def test_a_run_of_another_length_stretches_the_traffic_and_no_fixed_pause() -> None:
    scenario = find_scenario("figure1")
    fixed = sum(step.seconds for step in scenario.steps if isinstance(step, Pause))
    scale = scenario.scale_for(2 * scenario.seconds)
    assert (scenario.seconds - fixed) * scale + fixed == pytest.approx(2 * scenario.seconds)
    assert scenario.scale_for(1) == LEAST_SCALE
