"""A systemd of the tests' own: process 1 of a container made of namespaces, over a copy-on-write view of this machine.

It has its own mounts, processes, users' files, control groups and network; nothing that it does to files stays. What
it cannot show: limits of control groups that this machine mounts in version 1, a boot, a login.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from dataplane.attribution.processes import v2_mount

SYSTEMD = Path("/lib/systemd/systemd")
BOOT_S = 20.0
COMMAND_S = 60
NAMESPACES = ("--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net")

# Runs as process 1 of the namespaces, and becomes systemd. $1: an empty folder. $2: the checkout.
_INSIDE = r"""
set -e
W=$1
mount --make-rprivate /
mount -t tmpfs tmpfs "$W"
mkdir "$W/changes" "$W/work" "$W/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$W/changes,workdir=$W/work" "$W/root"
R=$W/root
mount -t proc proc "$R/proc"
mount -t sysfs sysfs "$R/sys"
mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
mount -t tmpfs tmpfs "$R/run"
mount -t tmpfs -o mode=1777 tmpfs "$R/tmp"
mount -t tmpfs -o mode=755 tmpfs "$R/dev"
for name in null zero full random urandom tty; do
    touch "$R/dev/$name"
    mount --bind "/dev/$name" "$R/dev/$name"
done
mkdir "$R/dev/pts" "$R/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$R/dev/pts"
ln -s pts/ptmx "$R/dev/ptmx"
ln -s /proc/self/fd "$R/dev/fd"
mkdir -p "$R$2" "$R/before"
mount --bind "$2" "$R$2"
cd "$R"
pivot_root . before
umount -l /before
rmdir /before
ip link set lo up
rm -f /etc/machine-id
echo 0123456789abcdef0123456789abcdef >/etc/machine-id
# What a boot would do to this machine (sysctl, udev, modules, file systems) is not done.
find /etc/systemd/system /etc/systemd/user /lib/systemd/system-generators -mindepth 1 -delete
find /lib/systemd/system -path '*.wants/*' -delete
cat >/etc/systemd/system/trial.target <<END
[Unit]
Description=Trial
Requires=systemd-journald.service
After=systemd-journald.service
END
exec env -i PATH="$PATH" container=trial /lib/systemd/systemd --system --unit=trial.target --log-target=journal
"""


class Machine:
    """Commands run in the container as root, with a plain environment."""

    def __init__(self, init_process_id: int) -> None:
        self._init = init_process_id

    def try_run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        plain = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
        return subprocess.run(
            ["nsenter", f"--target={self._init}", *NAMESPACES, *command],
            env=plain | environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def run(self, *command: str, **environment: str) -> str:
        done = self.try_run(*command, **environment)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}"
        return done.stdout

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "-P", name, unit).strip()

    def log(self) -> str:
        return self.try_run("journalctl", "--no-pager", "-n", "60", "-o", "cat").stdout

    def wait_for(self, unit: str, name: str, wanted: str, *, within_s: float = 30.0) -> None:
        deadline = time.monotonic() + within_s
        while (found := self.property(unit, name)) != wanted:
            assert time.monotonic() < deadline, f"{unit}: {name} is {found}, not {wanted}\n{self.log()}"
            time.sleep(0.1)


@contextlib.contextmanager
def booted(folder: Path, checkout: Path) -> Iterator[Machine]:
    """`folder` must be empty. Needs root, and control groups of version 2 somewhere."""
    mount = v2_mount()
    assert mount is not None, "no control groups of version 2 are mounted"
    group = mount / f"trial-{os.getpid()}"
    group.mkdir()

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    process = subprocess.Popen(
        ["unshare", "--fork", "--kill-child", *NAMESPACES, "bash", "-c", _INSIDE, "inside", str(folder), str(checkout)],
        preexec_fn=enter,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield _when_up(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            for child in _children(process.pid):
                os.kill(child, signal.SIGKILL)
        process.communicate(timeout=10)
        _remove(group)


def _when_up(process: subprocess.Popen[str]) -> Machine:
    deadline = time.monotonic() + BOOT_S
    while True:
        ended = process.poll()
        assert ended is None, f"no container: {process.communicate()[0]}"
        for child in _children(process.pid):
            machine = Machine(child)
            # Before it is systemd, nothing answers.
            if machine.try_run("systemctl", "is-active", "-q", "trial.target").returncode == 0:
                return machine
        assert time.monotonic() < deadline, "systemd does not come up"
        time.sleep(0.1)


def _children(process_id: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _remove(group: Path) -> None:
    deadline = time.monotonic() + 10
    for directory in sorted((each for each in group.rglob("*") if each.is_dir()), reverse=True):
        while directory.exists():  # its last process is just going
            try:
                directory.rmdir()
            except OSError:
                assert time.monotonic() < deadline, f"{directory} stays"
                time.sleep(0.05)
    group.rmdir()
