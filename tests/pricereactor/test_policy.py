"""What a task's policy may say, how its mistakes are named, and that its forms lose nothing."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from possible_policies import possible_policies

from billpay.errors import ConfigurationError
from pricereactor.policy import (
    TaskKind,
    TaskPolicy,
    ValuePoint,
    check,
    problems,
    read_policies,
    to_toml,
    usable_ladder,
    worth_nanodollars_per_s,
)

SAMPLE = """
[[tasks]]
name = "film"
kind = "streaming"
ladder_bit_s = [300_000, 750_000, 1_200_000]
value = [
  { rate_bit_s = 300_000, nanodollars_per_s = 1_000 },
  { rate_bit_s = 1_200_000, nanodollars_per_s = 2_500 },
]
min_bit_s = 300_000
max_bit_s = 2_000_000
session_budget_nanodollars = 5_000_000
day_budget_nanodollars = 20_000_000
price_ceiling_nanodollars_per_mb = 40_000
largest_rate_change_ppm = 500_000
largest_price_change_ppm = 300_000
attended = true
notice_s = 30

[[tasks]]
name = "backup"
kind = "transfer"
size_bytes = 20_000_000
deadline_s = 600
session_budget_nanodollars = 1_000_000
"""


def curve(*points: tuple[int, int]) -> tuple[ValuePoint, ...]:
    return tuple(ValuePoint(rate_bit_s=rate, nanodollars_per_s=money) for rate, money in points)


@pytest.mark.row("DPH-04")
def test_policy_of_a_task_says_everything_that_bounds_cost_and_quality_and_how_unstable_both_may_be() -> None:
    film, backup = read_policies(SAMPLE, "tasks.toml")
    assert (film.min_bit_s, film.max_bit_s, len(film.value)) == (300_000, 2_000_000, 2)
    assert (film.session_budget_nanodollars, film.day_budget_nanodollars) == (5_000_000, 20_000_000)
    assert film.price_ceiling_nanodollars_per_mb == 40_000
    assert (film.largest_rate_change_ppm, film.largest_price_change_ppm) == (500_000, 300_000)
    assert (backup.kind, backup.size_bytes, backup.deadline_s) == (TaskKind.TRANSFER, 20_000_000, 600)


@pytest.mark.row("DPH-04")
@given(st.lists(possible_policies(), max_size=4, unique_by=lambda policy: policy.name))
def test_toml_and_json_lose_nothing(policies: list[TaskPolicy]) -> None:
    assert read_policies(to_toml(policies), "tasks.toml") == tuple(policies)
    assert msgspec.json.decode(msgspec.json.encode(policies), type=list[TaskPolicy]) == policies


ELASTIC = {"willingness_nanodollars_per_s": 1}
STREAM = ELASTIC | {"kind": TaskKind.STREAMING, "ladder_bit_s": (300_000, 750_000)}
TRANSFER = ELASTIC | {"kind": TaskKind.TRANSFER, "size_bytes": 1_000_000, "deadline_s": 60}


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({}, "willingness_nanodollars_per_s", "an elastic task would never pay"),
        (
            STREAM | {"willingness_nanodollars_per_s": 0},
            "willingness_nanodollars_per_s",
            "nothing says what it is worth",
        ),
        ({"kind": TaskKind.BULK}, "willingness_nanodollars_per_s", "a bulk task would never pay"),
        ({"kind": TaskKind.TIMELY}, "willingness_nanodollars_per_s", "a timely task would never pay"),
        (ELASTIC | {"min_bit_s": 2_000_000, "max_bit_s": 1_000_000}, "min_bit_s", "is above max_bit_s 1000000"),
        (
            ELASTIC | {"session_budget_nanodollars": 2, "day_budget_nanodollars": 1},
            "session_budget_nanodollars",
            "2 is above the day's 1",
        ),
        (ELASTIC | {"value": curve((9_000, 1), (9_000, 2))}, "value[1].rate_bit_s", "does not rise"),
        (ELASTIC | {"value": curve((9_000, 2), (10_000, 1))}, "value[1].nanodollars_per_s", "more would be worth less"),
        (
            ELASTIC | {"value": curve((9_000, 1), (10_000, 2), (11_000, 4))},
            "value[2].nanodollars_per_s",
            "the curve is not concave",
        ),
        (STREAM | {"ladder_bit_s": ()}, "ladder_bit_s", "needs its encodings"),
        (STREAM | {"ladder_bit_s": (300_000, 300_000)}, "ladder_bit_s", "does not rise"),
        (STREAM | {"max_bit_s": 200_000}, "ladder_bit_s", "no encoding is within"),
        (ELASTIC | {"ladder_bit_s": (300_000,)}, "ladder_bit_s", "only a streaming task"),
        (TRANSFER | {"deadline_s": None}, "deadline_s", "missing"),
        (TRANSFER | {"size_bytes": None}, "size_bytes", "missing"),
        (TRANSFER | {"max_bit_s": 100_000}, "deadline_s", "take 80 s at max_bit_s 100000"),
        (TRANSFER | {"willingness_nanodollars_per_s": 0}, "session_budget_nanodollars", "at any cost"),
        (ELASTIC | {"size_bytes": 1}, "size_bytes", "only a transfer has it"),
    ],
)
def test_what_no_reactor_can_keep_to_is_refused_in_one_line(
    fields: dict[str, object], field: str, problem: str
) -> None:
    policy = TaskPolicy(name="task", **fields)  # type: ignore[arg-type]
    (found,) = problems(policy)
    assert found.field == field
    assert problem in found.problem
    with pytest.raises(ConfigurationError) as refused:
        check(policy)
    assert str(refused.value) == f"task policy: task.{field}: {found.problem} ({found.remedy})"


def test_file_with_two_tasks_of_one_name_or_an_unknown_key_says_where() -> None:
    with pytest.raises(ConfigurationError, match=r"^tasks.toml: tasks\[2\].name: 'film' is used twice"):
        read_policies(SAMPLE + SAMPLE, "tasks.toml")
    with pytest.raises(ConfigurationError, match=r"tasks\[0\].max_bit: unknown key \(did you mean max_bit_s\?\)"):
        read_policies('[[tasks]]\nname = "a"\nmax_bit = 1\n', "tasks.toml")
    with pytest.raises(ConfigurationError, match=r"tasks\[1\].deadline_s: missing"):
        read_policies(SAMPLE.replace("deadline_s = 600", ""), "tasks.toml")
    assert read_policies("", "tasks.toml") == ()


def test_value_is_straight_between_its_corners() -> None:
    points = curve((100_000, 10), (200_000, 30), (400_000, 40))
    worth = [worth_nanodollars_per_s(points, rate) for rate in (99_999, 100_000, 150_000, 200_000, 300_000, 10**9)]
    assert worth == [0, 10, 20, 30, 35, 40]
    assert worth_nanodollars_per_s((), 10) == 0


def test_ladder_is_what_lies_within_the_rates() -> None:
    policy = TaskPolicy(name="a", **(STREAM | {"ladder_bit_s": (30_000, 300_000, 900_000), "max_bit_s": 500_000}))  # type: ignore[arg-type]
    assert usable_ladder(policy) == (300_000,)


@given(possible_policies(), st.data())
def test_value_curve_that_is_possible_is_concave_between_any_two_rates(policy: TaskPolicy, data: st.DataObject) -> None:
    if len(policy.value) < 2:
        return
    rates = st.integers(policy.value[0].rate_bit_s, policy.value[-1].rate_bit_s)
    low, high = data.draw(rates), data.draw(rates)
    middle = worth_nanodollars_per_s(policy.value, (low + high) / 2)
    ends = (worth_nanodollars_per_s(policy.value, low) + worth_nanodollars_per_s(policy.value, high)) / 2
    assert middle >= ends * (1 - 1e-9)
