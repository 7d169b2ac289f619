"""What is only on the disk is not tried: trying would load it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataplane.diagnosis.kernel_modules import Module, read_modules


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "lib" / "modules" / os.uname().release
    directory.mkdir(parents=True)
    (tmp_path / "sys/module/nf_tables").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/modules_disabled").write_text("0\n")
    (directory / "modules.builtin").write_text("kernel/net/sched/sch_htb.ko\n")
    dependencies = "kernel/net/sched/sch-fq.ko.xz: kernel/lib/x.ko.xz\nkernel/drivers/net/ifb.ko:\n"
    (directory / "modules.dep").write_text(dependencies)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("nf_tables", Module.READY),
        ("sch_htb", Module.READY),
        ("sch_fq", Module.ON_DISK),
        ("ifb", Module.ON_DISK),
        ("xt_mark", Module.ABSENT),
    ],
)
def test_states(root: Path, name: str, state: Module) -> None:
    assert read_modules(root).state(name) is state


def test_a_locked_kernel_loads_no_more(root: Path) -> None:
    (root / "proc/sys/kernel/modules_disabled").write_text("1\n")
    assert read_modules(root).state("ifb") is Module.LOCKED


def test_without_lists_nothing_is_known(tmp_path: Path) -> None:
    assert read_modules(tmp_path).state("ifb") is Module.UNKNOWN
