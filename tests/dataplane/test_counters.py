"""The counter file: what a killed process leaves behind, what others see, and how an open batch is settled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billpay.errors import EnvironmentFault, LocalProtocolError
from dataplane.counters import ACCEPTS, CounterFile, Settled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counters"


@pytest.fixture
def counters(path: Path) -> Iterator[CounterFile]:
    file = CounterFile.open(path, capacity=16)
    yield file
    file.close()


def reopen(file: CounterFile, path: Path) -> CounterFile:
    """As after a SIGKILL: whatever was pending in memory is gone."""
    file.close()
    return CounterFile.open(path)


def test_committed_values_survive_and_pending_ones_do_not(path: Path) -> None:
    first = CounterFile.open(path, capacity=16)
    sent = first.index("sent")
    first.add(sent, 20)
    first.begin(1)
    first.commit()
    first.add(sent, 5)
    assert first.value(sent) == 25
    assert first.committed("sent") == 20
    second = reopen(first, path)
    assert second.index("sent") == sent
    assert second.value(sent) == 20
    second.close()


@pytest.mark.parametrize(
    ("went_out", "settled", "value", "unexplained"),
    [
        (0, Settled.DISCARDED, 7, 0),
        (3, Settled.APPLIED, 67, 0),
        (2, Settled.UNEXPLAINED, 67, -1),
        (5, Settled.UNEXPLAINED, 67, 2),
        (None, Settled.UNEXPLAINED, 67, 3),
    ],
)
def test_the_kernels_count_settles_an_open_batch(
    path: Path, went_out: int | None, settled: Settled, value: int, unexplained: int
) -> None:
    first = CounterFile.open(path, capacity=16)
    sent = first.index("sent")
    first.add(sent, 7)
    first.begin(10)
    first.commit()
    first.rebase(1000)  # the rules' count when they were installed: 10 accepts before
    first.add(sent, 60)
    first.begin(3)
    second = reopen(first, path)
    recovery = second.recover(None if went_out is None else 1000 + went_out)
    assert (recovery.settled, recovery.open_accepts, recovery.unexplained_accepts) == (settled, 3, unexplained)
    assert second.value(sent) == second.committed("sent") == value
    second.begin(1)
    second.commit()
    second.close()


def test_a_batch_without_accepts_is_applied(path: Path) -> None:
    first = CounterFile.open(path, capacity=16)
    first.add(first.index("dropped"), 4)
    first.begin(0)
    second = reopen(first, path)
    assert second.recover(0).settled is Settled.APPLIED
    assert second.committed("dropped") == 4
    second.close()


def test_a_refused_verdict_is_not_expected_of_the_kernel(path: Path) -> None:
    first = CounterFile.open(path, capacity=16)
    first.rebase(0)
    first.begin(5)
    first.commit()
    first.refused(2)  # the rule counted 3
    first.begin(4)
    second = reopen(first, path)
    assert second.recover(7).settled is Settled.APPLIED
    second.close()


def test_a_writer_must_settle_before_it_counts_on(path: Path) -> None:
    first = CounterFile.open(path, capacity=16)
    first.begin(1)
    second = reopen(first, path)
    with pytest.raises(LocalProtocolError):
        second.begin(1)
    second.close()


def test_a_released_counter_is_gone_and_its_place_starts_at_zero(counters: CounterFile, path: Path) -> None:
    index = counters.index("grant.1")
    counters.add(index, 99)
    counters.begin(0)
    counters.commit()
    counters.release("grant.1")
    assert "grant.1" not in counters.snapshot()
    assert counters.index("grant.2") == index
    assert counters.value(index) == counters.committed("grant.2") == 0


def test_a_full_file_and_a_bad_name_are_our_own_faults(counters: CounterFile) -> None:
    for number in range(15):  # the accepts have one
        counters.index(f"c{number}")
    for name in ("one too many", "", "x" * 96):
        with pytest.raises(LocalProtocolError):
            counters.index(name)


def test_a_second_writer_is_refused_in_one_line(counters: CounterFile, path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="another reader process"):
        CounterFile.open(path)


def test_a_foreign_file_is_refused(path: Path) -> None:
    path.write_bytes(b"something else entirely")
    for way in (CounterFile.open, CounterFile.attach):
        with pytest.raises(EnvironmentFault, match="not a counter file"):
            way(path)


def test_another_process_sees_new_names_and_whole_batches(counters: CounterFile, path: Path) -> None:
    view = CounterFile.attach(path)
    left, right = counters.index("left"), counters.index("right")
    for _ in range(3):
        counters.add(left, 1)
        counters.add(right, 1)
        seen = view.snapshot()
        assert seen["left"] == seen["right"]
        counters.begin(2)
        counters.commit()
    assert view.snapshot() == {ACCEPTS: 6, "left": 3, "right": 3}
    with pytest.raises(LocalProtocolError):
        view.index("new")
    view.close()


@given(
    batches=st.lists(
        st.tuples(st.integers(0, 5), st.integers(-(10**15), 10**15), st.sampled_from(["done", "in", "out"]))
    )
)
def test_money_is_counted_exactly_when_its_packets_went_out(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[int, int, str]]
) -> None:
    """A model: batches that commit, and crashes before (`in`) and after (`out`) the verdicts left."""
    path = tmp_path_factory.mktemp("model") / "counters"
    file = CounterFile.open(path, capacity=16)
    index = file.index("money")
    kernel = money = 0
    for accepts, amount, fate in batches:
        accepts = max(accepts, 1)
        file.add(index, amount)
        file.begin(accepts)
        if fate != "in":
            kernel += accepts
            money += amount
        if fate == "done":
            file.commit()
        else:
            file = reopen(file, path)
            assert file.recover(kernel).unexplained_accepts == 0
        assert file.value(index) == file.committed("money") == money
    file.close()


WRITER = """
import sys
from pathlib import Path
from dataplane.counters import CounterFile
file = CounterFile.open(Path(sys.argv[1]), capacity=64)
file.recover(None)
names = [file.index(f"c{number}") for number in range(40)]
print("ready", flush=True)
while True:
    for index in names:
        file.add(index, 1)
    file.begin(0)
    file.commit()
"""


def test_a_killed_writer_leaves_all_counters_of_one_batch_equal(path: Path) -> None:
    """And so does every snapshot that another process takes while it writes at full speed."""
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        with writer.stdout:
            writer.stdout.readline()
            view = CounterFile.attach(path)
            for _ in range(300):
                values = {value for name, value in view.snapshot().items() if name != ACCEPTS}
                assert len(values) == 1
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
        view.close()
        survivor = CounterFile.open(path)
        survivor.recover(None)
        assert len({value for name, value in survivor.snapshot().items() if name != ACCEPTS}) == 1
        survivor.close()
