"""Processes and control groups: made-up trees of the usual machines, and the real /proc."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dataplane.attribution.processes import CACHE_AGE_NS, CACHE_ENTRIES, Placement, Processes, placement, v2_mount
from dataplane.metering import UNATTRIBUTED, Kind, Program

HEX = "4f" * 32
SHORT = "4f" * 6


class Tree:
    """A made-up /proc and control groups."""

    def __init__(self, root: Path) -> None:
        self.proc, self.mount = root / "proc", root / "cgroup"
        self.proc.mkdir()
        self.mount.mkdir()
        self.now_ns = 0

    def processes(self) -> Processes:
        return Processes(proc=self.proc, mount=self.mount, now_ns=lambda: self.now_ns)

    def add(
        self,
        number: int,
        *,
        exe: str | None = "/usr/bin/curl",
        name: str = "curl",
        groups: str = "0::/",
        user: int = 1000,
        start: int = 7,
        state: str = "S",
        flags: int = 0,
    ) -> None:
        directory = self.proc / str(number)
        directory.mkdir(exist_ok=True)
        (directory / "exe").unlink(missing_ok=True)
        if exe is not None:
            (directory / "exe").symlink_to(exe)
        fields = [state, "1", "1", "1", "0", "-1", str(flags), *["0"] * 12, str(start), "0"]
        (directory / "stat").write_text(f"{number} ({name}) {' '.join(fields)}\n")
        (directory / "status").write_text(f"Name:\t{name}\nUid:\t{user}\t0\t0\t0\n")
        (directory / "cgroup").write_text(groups + "\n")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", Placement()),
        ("/system.slice/ssh.service", Placement("ssh.service")),
        ("/user.slice/user-1000.slice/session-2.scope", Placement("session-2.scope")),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-12.scope",
            Placement("app-firefox-12.scope"),
        ),
        ("/system.slice/backup.service/payload", Placement("backup.service")),
        ("/jobs/nightly", Placement("nightly")),
        (f"/system.slice/docker-{HEX}.scope", Placement(f"docker-{HEX}.scope", SHORT)),
        (f"/system.slice/docker-{HEX}.scope/system.slice/nginx.service", Placement("nginx.service", SHORT)),
        (f"/docker/{HEX}", Placement(HEX, SHORT)),
        (f"/machine.slice/libpod-{HEX}.scope/container", Placement(f"libpod-{HEX}.scope", SHORT)),
        (f"/machine.slice/libpod-conmon-{HEX}.scope", Placement(f"libpod-conmon-{HEX}.scope")),
        (
            f"/kubepods.slice/kubepods-burstable.slice/cri-containerd-{HEX}.scope",
            Placement(f"cri-containerd-{HEX}.scope", SHORT),
        ),
        (f"/kubepods/besteffort/pod12/{HEX}", Placement(HEX, SHORT)),
        (
            f"/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{HEX}",
            Placement("containerd.service", SHORT),
        ),
        ("/lxc.payload.web/system.slice/cron.service", Placement("cron.service", "web")),
        ("/lxc.monitor.web", Placement("lxc.monitor.web")),
        ("/lxc/web", Placement("web", "web")),
        (
            r"/machine.slice/machine-qemu\x2d1\x2dmy\x2dvm.scope/libvirt/emulator",
            Placement(r"machine-qemu\x2d1\x2dmy\x2dvm.scope", "my-vm"),
        ),
        (r"/machine.slice/machine-web.scope", Placement("machine-web.scope", "web")),
        (r"/machine.slice/systemd-nspawn@deb.service/payload", Placement("systemd-nspawn@deb.service", "deb")),
        ("/user.slice/session-2.scope/hostagent-task-backup", Placement("session-2.scope", "", "backup")),
        ("/hostagent-task-a/hostagent-task-b", Placement("", "", "b")),
        ("/hostagent-task-", Placement("hostagent-task-")),
        ("/../../init.scope", Placement("init.scope")),
    ],
)
def test_a_path_names_unit_container_and_task(path: str, expected: Placement) -> None:
    assert placement(path) == expected


def test_a_program_of_a_made_up_machine(tree: Tree) -> None:
    tree.add(5, groups="0::/system.slice/ssh.service", exe="/usr/sbin/sshd")
    assert tree.processes().program(5) == Program(
        kind=Kind.PROGRAM, executable="/usr/sbin/sshd", unit="ssh.service", user_id=1000
    )


def test_a_hybrid_machine_has_its_units_in_the_tree_called_systemd(tree: Tree) -> None:
    tree.add(5, groups="2:cpu:/x\n1:name=systemd:/system.slice/cron.service\n0::/hostagent-task-backup")
    program = tree.processes().program(5)
    assert program is not None
    assert (program.unit, program.task) == ("cron.service", "backup")


def test_a_machine_without_version_2_still_names_its_containers(tree: Tree) -> None:
    tree.add(5, groups=f"2:cpu:/docker/{HEX}\n1:name=systemd:/docker/{HEX}")
    program = tree.processes().program(5)
    assert program is not None
    assert program.container == SHORT


def test_a_replaced_executable_keeps_its_path(tree: Tree) -> None:
    tree.add(5, exe="/usr/bin/curl (deleted)")
    program = tree.processes().program(5)
    assert program is not None
    assert program.executable == "/usr/bin/curl"


def test_without_a_path_the_name_stands(tree: Tree) -> None:
    tree.add(5, exe=None, name="a) (b")
    program = tree.processes().program(5)
    assert program is not None
    assert program.executable == "a) (b"


def test_kernel_threads_are_unattributed(tree: Tree) -> None:
    tree.add(5, exe=None, flags=0x0020_8040)
    assert tree.processes().program(5) == UNATTRIBUTED


def test_a_process_that_is_gone_is_none_at_any_point(tree: Tree) -> None:
    processes = tree.processes()
    assert processes.program(5) is None
    for missing in ("status", "cgroup", "stat"):
        tree.add(5)
        (tree.proc / "5" / missing).unlink()
        assert processes.program(5) is None, missing
    tree.add(5)
    (tree.proc / "5" / "stat").write_text("")
    assert processes.program(5) is None


def test_a_number_given_again_is_another_program(tree: Tree) -> None:
    processes = tree.processes()
    tree.add(5, user=1000, start=7)
    assert _user(processes) == 1000
    tree.add(5, user=1001, start=8)
    assert _user(processes) == 1001


def test_an_exec_is_seen_at_once_and_another_user_within_a_second(tree: Tree) -> None:
    processes = tree.processes()
    tree.add(5, exe="/bin/sh", user=0)
    processes.program(5)
    tree.add(5, exe="/bin/sh", user=1)
    assert _user(processes) == 0
    tree.add(5, exe="/bin/cat", user=1)
    assert _user(processes) == 1
    tree.add(5, exe="/bin/cat", user=2)
    tree.now_ns += CACHE_AGE_NS
    assert _user(processes) == 2


def test_a_zombie_is_who_it_was(tree: Tree) -> None:
    processes = tree.processes()
    tree.add(5, exe="/bin/cat")
    alive = processes.program(5)
    tree.add(5, exe=None, state="Z", groups="0::/")
    assert processes.program(5) == alive
    assert alive is not None


def test_what_is_remembered_is_bounded(tree: Tree) -> None:
    processes = tree.processes()
    for start in range(CACHE_ENTRIES + 3):
        (tree.proc / "5" / "stat").unlink(missing_ok=True)
        if start == 0:
            tree.add(5, start=start)
        else:
            (tree.proc / "5" / "stat").write_text(f"5 (curl) S 1 1 1 0 -1 0 {'0 ' * 12}{start} 0\n")
        processes.program(5)
    assert len(processes._known) == CACHE_ENTRIES


def test_control_groups_are_found_by_number(tree: Tree) -> None:
    inner = tree.mount / "system.slice" / "ssh.service"
    inner.mkdir(parents=True)
    (inner / "cgroup.procs").write_text("12\n34\n")
    processes = tree.processes()
    number = inner.stat().st_ino
    assert processes.control_group_path(number) == "/system.slice/ssh.service"
    assert processes.control_group_path(tree.mount.stat().st_ino) == "/"
    assert processes.members(number) == [12, 34]
    assert processes.members(tree.mount.stat().st_ino) == []
    assert processes.members(0) == []


def test_a_new_control_group_is_found_after_a_second_and_a_gone_one_is_remembered(tree: Tree) -> None:
    processes = tree.processes()
    assert processes.control_group_path(1) is None
    late = tree.mount / "late.service"
    late.mkdir()
    number = late.stat().st_ino
    assert processes.control_group_path(number) is None
    tree.now_ns += 1_000_000_000
    assert processes.control_group_path(number) == "/late.service"
    late.rmdir()
    tree.now_ns += 5_000_000_000
    assert processes.control_group_path(1) is None  # walks again
    assert processes.control_group_path(number) == "/late.service"


def test_a_program_that_ended_is_named_by_what_the_kernel_noted(tree: Tree) -> None:
    group = tree.mount / "cron.service" / "hostagent-task-sync"
    group.mkdir(parents=True)
    ended = tree.processes().ended_program(name="curl", user_id=7, control_group_id=group.stat().st_ino)
    assert ended == Program(kind=Kind.PROGRAM, executable="curl", unit="cron.service", task="sync", user_id=7)


def test_where_version_2_is_mounted(tree: Tree) -> None:
    assert v2_mount(tree.proc) is None
    (tree.proc / "mounts").write_text("cgroup /a cgroup rw 0 0\ncgroup2 /sys/fs/c\\040g cgroup2 rw 0 0\n")
    assert v2_mount(tree.proc) == Path("/sys/fs/c g")


def test_this_very_process() -> None:
    processes = Processes()
    program = processes.program(os.getpid())
    assert program is not None
    assert program.executable == os.readlink("/proc/self/exe")
    assert program.user_id == os.getuid()
    assert processes.program(os.getpid()) == program


def test_a_child_that_ended_is_none() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert Processes().program(child.pid) is None


def _user(processes: Processes) -> int | None:
    program = processes.program(5)
    assert program is not None
    return program.user_id
