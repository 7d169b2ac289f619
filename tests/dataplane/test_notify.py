"""What a daemon tells its service manager: the real protocol, heard on sockets of the tests' own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.notify import Notifier

SECOND_NS = 1_000_000_000


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The address as NOTIFY_SOCKET has it, and the manager's end."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@hostagent-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1) if request.param == "abstract" else address)
        listening.settimeout(5)
        yield address, listening


def heard(listening: socket.socket) -> list[str]:
    return listening.recv(4096).decode().split("\n")


def test_every_state_is_one_datagram(manager: tuple[str, socket.socket]) -> None:
    address, listening = manager
    notifier = Notifier(address, watchdog_ns=30 * SECOND_NS)
    notifier.ready("counts on eth0")
    assert heard(listening) == ["READY=1", "STATUS=counts on eth0"]
    notifier.ready()
    assert heard(listening) == ["READY=1"]
    notifier.reloading(1_234_567_890)
    assert heard(listening) == ["RELOADING=1", "MONOTONIC_USEC=1234567"]
    notifier.alive()
    assert heard(listening) == ["WATCHDOG=1"]
    notifier.stopping("stopping", within_ns=60 * SECOND_NS)
    assert heard(listening) == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=60000000", "STATUS=stopping"]


def test_a_status_cannot_say_more_than_a_status(manager: tuple[str, socket.socket]) -> None:
    address, listening = manager
    Notifier(address).status("network\nREADY=1\nMAINPID=1 " + "x" * 4000)
    said = heard(listening)
    assert len(said) == 1
    assert said[0].startswith("STATUS=network READY=1 MAINPID=1 xxx")
    assert len(said[0]) < 300


def test_without_a_watchdog_no_sign_of_life_is_sent(manager: tuple[str, socket.socket]) -> None:
    address, listening = manager
    Notifier(address).alive()
    listening.setblocking(False)
    with pytest.raises(BlockingIOError):
        listening.recv(4096)


def test_environment_is_read_and_taken_out() -> None:
    environment = {
        "NOTIFY_SOCKET": "/run/systemd/notify",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/bin",
    }
    notifier = Notifier.from_environment(environment)
    assert notifier.is_heard
    assert notifier.watchdog_ns == 30 * SECOND_NS
    assert environment == {"PATH": "/bin"}  # the programs that we start are not the service


@pytest.mark.parametrize(
    ("address", "period", "owner", "is_heard", "watchdog_ns"),
    [
        ("", "30000000", "", False, None),
        ("relative", "30000000", "", False, None),
        ("vsock:2:1234", "30000000", "", False, None),
        ("@", "30000000", "", False, None),
        ("/run/n", "", "", True, None),
        ("/run/n", "0", "", True, None),
        ("/run/n", "-5", "", True, None),
        ("/run/n", "soon", "", True, None),
        ("/run/n", "2000000", "", True, 2 * SECOND_NS),
        ("/run/n", "2000000", "1", True, None),  # another process is watched
    ],
)
def test_what_the_environment_may_say(
    address: str, period: str, owner: str, is_heard: bool, watchdog_ns: int | None
) -> None:
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": period, "WATCHDOG_PID": owner}
    notifier = Notifier.from_environment(environment)
    assert (notifier.is_heard, notifier.watchdog_ns) == (is_heard, watchdog_ns)


def test_a_manager_that_is_gone_or_stuck_does_not_stop_us(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = Notifier(str(tmp_path / "gone"))
    gone.ready()
    gone.status("still here")
    assert len(caplog.messages) == 1  # said once
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
        stuck.bind(str(tmp_path / "stuck"))
        notifier = Notifier(str(tmp_path / "stuck"))
        for number in range(2000):  # more than any queue of datagrams holds
            notifier.status(str(number))


def test_a_program_of_ours_is_heard_through_the_environment(manager: tuple[str, socket.socket]) -> None:
    address, listening = manager
    code = "from dataplane.notify import Notifier; Notifier.from_environment().ready('up')"
    root = Path(__file__).parent.parent.parent
    subprocess.run([sys.executable, "-c", code], env={"NOTIFY_SOCKET": address, "PYTHONPATH": str(root)}, check=True)
    assert heard(listening) == ["READY=1", "STATUS=up"]
