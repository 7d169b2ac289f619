"""Counters in a pinned array: over kills, reboots and changes of engine nothing is lost or counted twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from billpay.errors import EnvironmentFault
from dataplane.counters import ACCEPTS, CounterFile
from dataplane.ebpf import kernel_counters
from dataplane.ebpf.kernel_counters import (
    COUNTERS_MAX,
    GENERATION,
    CountersView,
    KernelCounters,
    fold_pinned,
    pinning_fault,
)

pytestmark = pytest.mark.netns

WRITER = """
import sys, time
from pathlib import Path
from dataplane.ebpf.kernel_counters import KernelCounters
counters = KernelCounters.open(Path(sys.argv[1]))
told, quiet = (counters.index(name) for name in ("told", "quiet"))
sys.stdout.write("ready\\n"); sys.stdout.flush()
while True:
    counters.add(told, 1)
    counters.add(quiet, 3)
    sys.stdout.write(f"{counters.value(told)}\\n"); sys.stdout.flush()
    if counters.value(told) % 7 == 0:
        counters.sync()
"""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Nothing stays in the kernel, whatever a test leaves."""
    yield tmp_path / "counters"
    fold_pinned(tmp_path / "counters")
    assert not (tmp_path / "bpf").exists()


def reboot(path: Path) -> None:
    """What the kernel held is gone."""
    for place in kernel_counters._places(path):
        kernel_counters._unpin(kernel_counters._pin_path(place, path))


def die(counters: KernelCounters) -> None:
    """As after SIGKILL: descriptors close, and nothing else is done."""
    counters.map.close()
    counters._file.close()


def test_what_was_counted_is_in_the_file_after_a_stop(path: Path) -> None:
    counters = KernelCounters.open(path)
    counters.add(counters.index("a"), 5)
    counters.add(counters.index("b"), -2)
    assert counters.value(counters.index("a")) == 5
    counters.close()
    file = CounterFile.open(path)
    assert file.recover(None).open_accepts == 0
    assert file.snapshot() == {ACCEPTS: 0, GENERATION: 0, "a": 5, "b": -2}
    file.close()


def test_the_array_is_adopted_after_a_kill(path: Path) -> None:
    counters = KernelCounters.open(path)
    number = counters.index("a")
    counters.sync()
    counters.add(number, 7)  # not in the file
    die(counters)
    again = KernelCounters.open(path)
    assert again.index("a") == number
    assert again.value(number) == 7
    assert CounterFile.attach(path).committed("a") == 7
    again.close()


def test_a_reboot_leaves_what_was_synced(path: Path) -> None:
    counters = KernelCounters.open(path)
    counters.add(counters.index("a"), 7)
    counters.sync()
    counters.add(counters.index("a"), 1)
    die(counters)
    reboot(path)
    again = KernelCounters.open(path)
    assert again.value(again.index("a")) == 7
    again.close()


def test_another_engine_goes_on_from_what_a_killed_reader_counted(path: Path) -> None:
    counters = KernelCounters.open(path)
    counters.add(counters.index("a"), 7)
    die(counters)
    assert fold_pinned(path)
    assert not fold_pinned(path)
    file = CounterFile.open(path)
    file.add(file.index("a"), 10)
    file.begin(0)
    file.commit()
    file.close()
    again = KernelCounters.open(path)
    assert again.value(again.index("a")) == 17
    again.close()


def test_a_pin_that_was_folded_is_not_believed_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the commit and taking the pin away."""
    counters = KernelCounters.open(path)
    counters.add(counters.index("a"), 7)
    die(counters)
    with monkeypatch.context() as patched:
        patched.setattr(kernel_counters, "_unpin", lambda _: None)
        assert fold_pinned(path)
    again = KernelCounters.open(path)
    assert again.value(again.index("a")) == 7
    again.add(again.index("a"), 1)
    again.close()
    assert CounterFile.attach(path).committed("a") == 8


def test_killed_before_the_new_array_could_be_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = KernelCounters.open(path)
    first.add(first.index("a"), 7)
    first.close()
    with monkeypatch.context() as patched:
        patched.setattr(kernel_counters, "_pin_somewhere", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            KernelCounters.open(path)
    again = KernelCounters.open(path)
    assert again.value(again.index("a")) == 7
    again.close()


def test_a_pin_of_another_file_of_that_name_is_not_believed(path: Path) -> None:
    counters = KernelCounters.open(path)
    counters.add(counters.index("a"), 7)
    die(counters)
    path.unlink()
    again = KernelCounters.open(path)
    assert again.value(again.index("a")) == 0
    again.close()


def test_a_name_that_was_forgotten_begins_at_nothing(path: Path) -> None:
    counters = KernelCounters.open(path)
    number = counters.index("a")
    counters.add(number, 7)
    counters.sync()
    counters.release("a")
    counters.release("never there")
    counters._words[number] = 3  # a program that was late
    assert counters.value(counters.index("b")) == 0
    assert "a" not in counters.snapshot()
    counters.sync()
    counters.close()
    assert CounterFile.attach(path).committed("b") == 0


def test_another_process_reads_whichever_engine_counts(path: Path) -> None:
    CounterFile.open(path).close()
    view = CountersView(path)
    counters = KernelCounters.open(path)
    counters.add(counters.index("a"), 7)
    assert view.snapshot() == {ACCEPTS: 0, "a": 7}
    counters.close()
    assert view.committed("a") == 7
    file = CounterFile.open(path)
    file.add(file.index("a"), 1)
    file.begin(0)
    file.commit()
    file.close()
    assert view.committed("a") == 8
    counters = KernelCounters.open(path)
    counters.add(counters.index("a"), 1)
    assert view.committed("a") == 9
    counters.close()
    view.close()


def test_without_the_pin_the_file_is_read(path: Path) -> None:
    counters = KernelCounters.open(path)
    counters.add(counters.index("a"), 7)
    counters.sync()
    counters.add(counters.index("a"), 1)
    reboot(path)
    view = CountersView(path)
    assert view.committed("a") == 7
    view.close()
    counters.close()


def test_only_one_writes(path: Path) -> None:
    counters = KernelCounters.open(path)
    with pytest.raises(EnvironmentFault, match="another reader"):
        KernelCounters.open(path)
    with pytest.raises(EnvironmentFault, match="another reader"):
        fold_pinned(path)
    counters.close()


def test_programs_find_the_values_where_we_say(path: Path) -> None:
    counters = KernelCounters.open(path)
    number = counters.index("a")
    counters.map.update(number.to_bytes(4, "little"), (41).to_bytes(8, "little"))  # as a program would
    counters.add(number, 1)
    assert counters.value(number) == 42
    assert counters.map.max_entries == COUNTERS_MAX
    counters.close()


def test_a_bpffs_of_the_system_is_used_and_stays(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    kernel_counters._mount(shared)
    try:
        monkeypatch.setattr(kernel_counters, "SHARED_BPFFS", shared)
        assert pinning_fault(path) == ""
        counters = KernelCounters.open(path)
        assert not (tmp_path / "bpf").exists()
        counters.add(counters.index("a"), 7)
        die(counters)
        again = KernelCounters.open(path)
        assert again.value(again.index("a")) == 7
        again.close()
        assert not [each for each in shared.iterdir() if each.is_dir()]
    finally:
        subprocess.run(["umount", str(shared)], check=True)


def test_nothing_is_lost_or_doubled_by_kills(path: Path) -> None:
    """The writer dies wherever it is, again and again; in between another engine takes over."""
    rng = random.Random(3)
    before = 0
    for number in range(12):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.random() / 20)
        os.kill(process.pid, signal.SIGKILL)
        told = [before, *(int(line) for line in process.stdout.read().split("\n")[:-1])]
        process.wait()
        process.stdout.close()
        assert told == list(range(before, told[-1] + 1))  # it went on from where its predecessor was
        if number % 3 == 0:
            assert fold_pinned(path)
            values = CounterFile.attach(path).snapshot()
        else:
            values = CountersView(path).snapshot()
        assert told[-1] <= values["told"] <= told[-1] + 1  # one may have been counted, and not told
        assert 0 <= 3 * values["told"] - values["quiet"] <= 3  # it died between the two
        before = values["told"]
        counters = KernelCounters.open(path)
        counters.add(counters.index("quiet"), 3 * before - values["quiet"])
        die(counters)
    assert before > 100
