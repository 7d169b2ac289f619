"""Five minutes of readings, and their pictures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tui.model.history import LENGTH, MISSING, MOST, STEP_S, History, plot

KEY = ("flow", "one")


def test_a_reading_is_kept_once_in_each_step() -> None:
    history = History()
    for second in range(10):
        history.note(1_000 + second, [(KEY, (second, 2 * second))])
    assert list(history.of(KEY, 0)) == [0, 2, 4, 6, 8]
    assert list(history.of(KEY, 1)) == [0, 4, 8, 12, 16]
    assert list(history.of(("flow", "nobody"))) == []


def test_it_is_bounded_and_forgets_what_is_gone() -> None:
    history = History()
    for step in range(3 * LENGTH):
        history.note(STEP_S * (step + 1), [(("flow", f"flow {step}"), (1,)), (KEY, (step,))])
    assert len(history) == 2
    assert len(history.of(KEY)) == LENGTH
    assert history.of(KEY)[-1] == 3 * LENGTH - 1


def test_what_was_not_heard_is_a_gap_and_a_clock_set_back_begins_again() -> None:
    history = History()
    for step in (1, 4, 5):
        history.note(STEP_S * step, [(KEY, (step,))])
    assert list(history.of(KEY)) == [1, MISSING, MISSING, 4, 5]
    history.note(STEP_S * 2, [(KEY, (7,))])
    assert list(history.of(KEY)) == [7]
    history.note(STEP_S * 10**9, [(KEY, (1 << 80,))])
    assert len(history.of(KEY)) == LENGTH
    assert history.of(KEY)[-1] == MOST


def test_pictures() -> None:
    assert plot([5] * LENGTH, 6, 2) == ["██████", "██████"]
    assert plot([0] * LENGTH, 6, 2) == ["      ", "▁▁▁▁▁▁"]
    assert plot([], 6, 2) == ["      ", "      "]
    rising = [*range(LENGTH - 50, LENGTH)]
    assert plot(rising, 6, 1) == ["    ▇█"]
    assert plot([MISSING, 3], 6, 1)[0] == "     █"


@given(st.lists(st.integers(min_value=-1, max_value=MOST), max_size=LENGTH), st.integers(0, 200), st.integers(1, 5))
def test_whatever_was_measured_a_picture_has_its_size(values: list[int], width: int, height: int) -> None:
    lines = plot(values, width, height)
    assert len(lines) == height
    assert all(len(line) == width for line in lines)
