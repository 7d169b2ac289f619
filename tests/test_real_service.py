"""The whole life of the installed service with a real systemd: installed by scripts/install, up, reloaded, hung,
killed, removed. The systemd is process 1 of a container (tests/real_systemd.py).
"""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_systemd import SYSTEMD, Machine, booted

ROOT = Path(__file__).parent.parent
AGENT = "hostagent.service"
PLACES = ("/usr/local", "/opt", "/etc", "/var/lib")
# The container has no network: what pip would fetch is what the tests run with.
OFFLINE = {"PYTHON": "/usr/bin/python3", "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
INTERFACE = "trial0"

pytestmark = [
    pytest.mark.deep,
    pytest.mark.netns,
    pytest.mark.skipif(not SYSTEMD.exists(), reason="systemd is not on this machine's disk: nothing to boot"),
    pytest.mark.skipif(
        sys.version_info[:2] != (3, 11) or not shutil.which("/usr/bin/python3"),
        reason="the service's Python is the system's, and has to be the tests' version to share its packages",
    ),
]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted(tmp_path_factory.mktemp("machine"), ROOT) as made:
        for name in ("/var/lib/hostagent", "/run/hostagent", "/etc/hostagent", "/opt/hostagent"):
            made.run("rm", "-rf", name)  # of an agent on the machine that this is a view of
        made.run("ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "trial1")
        made.run("ip", "addr", "add", "10.99.0.1/24", "dev", INTERFACE)
        made.run("ip", "link", "set", INTERFACE, "up")
        made.run("ip", "link", "set", "trial1", "up")
        made.run("tc", "qdisc", "replace", "dev", INTERFACE, "root", "handle", "5:", "pfifo", "limit", "77")
        yield made


@pytest.fixture(scope="module")
def before(machine: Machine) -> str:
    """Everything that was there, and the qdisc."""
    return machine.run("find", *PLACES, "-xdev") + qdisc(machine)


@pytest.fixture(scope="module")
def installed(machine: Machine, before: str) -> Machine:
    packages = sysconfig.get_paths()["purelib"]
    machine.run("/usr/bin/python3", "-m", "venv", "--without-pip", "/opt/hostagent")
    here = "/opt/hostagent/lib/python3.11/site-packages"
    line = f"import site; site.addsitedir({packages!r})"
    machine.run("bash", "-c", 'echo "$1" >"$2"', "write", line, f"{here}/tests.pth")
    machine.run(f"{ROOT}/scripts/install", **OFFLINE)
    return machine


def qdisc(machine: Machine) -> str:
    return machine.run("tc", "qdisc", "show", "dev", INTERFACE, "root")


def status(machine: Machine) -> dict[str, object]:
    found = json.loads(machine.run("hostagent", "status", "--json"))
    assert isinstance(found, dict)
    return found


def configure(machine: Machine, text: str) -> None:
    machine.run("bash", "-c", 'printf %s "$1" >/etc/hostagent/hostagent.toml', "write", text)


def set_seconds(machine: Machine, seconds: int) -> None:
    folder = f"/etc/systemd/system/{AGENT}.d"
    text = f"[Service]\nWatchdogSec={seconds}\nRestartSec=100ms\n"
    machine.run("bash", "-c", f'mkdir -p {folder}; printf "$1" >{folder}/trial.conf', "write", text)
    machine.run("systemctl", "daemon-reload")


CONFIGURATION = f"""
[agent]
name = "trial"
state_directory = "/var/lib/hostagent"
socket = "/run/hostagent/hostagent.sock"
mode = "act"
engine = "ENGINE"
[[links]]
interface = "{INTERFACE}"
egress_bit_s = 40_000_000
"""


@pytest.mark.expectation(23)
def test_it_starts_without_a_configuration_as_a_user_of_its_own(installed: Machine) -> None:
    installed.wait_for(AGENT, "ActiveState", "active")
    assert status(installed)["mode"] == "observe"
    process = installed.property(AGENT, "MainPID")
    owner = installed.run("stat", "-c", "%U", f"/proc/{process}").strip()
    assert owner == "hostagent"
    assert "health" in installed.run("hostagent", "status")
    # Everybody reaches the socket; who is nobody is told so.
    refused = installed.try_run("setpriv", "--reuid=65534", "--clear-groups", "hostagent", "status")
    assert refused.returncode != 0
    assert "may not look" in refused.stderr


@pytest.mark.expectation(2)
@pytest.mark.parametrize("engine", ["ebpf", "nfqueue"])
def test_after_a_kill_the_kernel_is_as_before_and_the_agent_comes_back(installed: Machine, engine: str) -> None:
    was = qdisc(installed)
    configure(installed, CONFIGURATION.replace("ENGINE", engine))
    set_seconds(installed, 30)
    installed.run("rm", "-rf", "/var/lib/hostagent/mode", "/var/lib/hostagent/mode.json")
    installed.run("systemctl", "restart", AGENT)
    assert status(installed)["engine"] == engine, installed.log()
    process = installed.property(AGENT, "MainPID")
    installed.run("kill", "-KILL", process)
    installed.wait_for(AGENT, "NRestarts", "1")
    installed.wait_for(AGENT, "ActiveState", "active")
    assert installed.property(AGENT, "MainPID") != process
    installed.run("systemctl", "stop", AGENT)
    assert qdisc(installed) == was
    assert "ha-ifb" not in installed.run("ip", "link")
    assert "billpay" not in installed.run("iptables-save")


@pytest.mark.expectation(23)
def test_a_hung_agent_is_started_again(installed: Machine) -> None:
    configure(installed, CONFIGURATION.replace("ENGINE", "auto"))
    set_seconds(installed, 1)
    installed.run("systemctl", "restart", AGENT)
    installed.run("kill", "-STOP", installed.property(AGENT, "MainPID"))
    installed.wait_for(AGENT, "NRestarts", "1")
    installed.wait_for(AGENT, "ActiveState", "active")
    log = installed.log()
    assert "Watchdog timeout" in log
    assert "Fatal Python error: Aborted" in log  # where it hung


@pytest.mark.expectation(20)
def test_a_reload_keeps_the_process_and_a_wrong_file_keeps_the_configuration(installed: Machine) -> None:
    set_seconds(installed, 30)
    configure(installed, CONFIGURATION.replace("ENGINE", "auto"))
    installed.run("systemctl", "restart", AGENT)
    process = installed.property(AGENT, "MainPID")
    configure(installed, CONFIGURATION.replace("ENGINE", "steam"))
    installed.run("systemctl", "reload", AGENT)
    installed.wait_for(AGENT, "ActiveState", "active")
    wait_for_status(installed, "stays as it was")
    configure(installed, CONFIGURATION.replace("ENGINE", "auto"))
    installed.run("systemctl", "reload", AGENT)
    wait_for_status(installed, "act")
    assert installed.property(AGENT, "MainPID") == process
    assert installed.property(AGENT, "NRestarts") == "0"


def wait_for_status(machine: Machine, part: str) -> None:
    machine.run(
        "bash",
        "-c",
        f"for i in $(seq 100); do systemctl show -P StatusText {AGENT} | grep -qF '{part}' && exit; "
        f"sleep 0.1; done; systemctl show -P StatusText {AGENT} >&2; exit 1",
    )


def test_the_secretary_has_a_user_of_its_own_and_answers_the_agents(installed: Machine) -> None:
    unit, path = "hostagent-secretary.service", "/run/hostagent-secretary/secretary.sock"
    installed.run("cp", f"{ROOT}/docs/samples/secretary.toml", "/etc/hostagent/")
    installed.run("systemctl", "start", unit)
    owner = installed.run("stat", "-c", "%U", f"/proc/{installed.property(unit, 'MainPID')}").strip()
    assert owner == "hostagent-secretary"
    code = f"import socket; socket.socket(socket.AF_UNIX).connect('{path}')"
    agent = ("setpriv", "--reuid=hostagent", "--regid=hostagent")
    installed.run(*agent, "--groups=hostagent-secretary", "/usr/bin/python3", "-c", code)
    others = installed.try_run(*agent, "--clear-groups", "/usr/bin/python3", "-c", code)
    assert "PermissionError" in others.stderr
    key = installed.try_run(*agent, "--groups=hostagent-secretary", "cat", "/var/lib/hostagent-secretary/node.key")
    assert "Permission denied" in key.stderr
    installed.run("systemctl", "stop", unit)
    installed.run("rm", "/etc/hostagent/secretary.toml")


@pytest.mark.expectation(23)
def test_a_users_own_agent_counts_without_any_privilege(installed: Machine) -> None:
    installed.run("systemctl", "stop", AGENT)
    installed.run("rm", "-f", "/etc/hostagent/hostagent.toml")
    installed.run("useradd", "--create-home", "alice")
    unit = """[Service]
Type=notify
User=alice
ExecStart=/lib/systemd/systemd --user --unit=trial.target
Environment=XDG_RUNTIME_DIR=/run/alice
RuntimeDirectory=alice
RuntimeDirectoryMode=0700
Delegate=yes
"""
    installed.run("bash", "-c", 'printf %s "$1" >/etc/systemd/system/alice.service', "write", unit)
    installed.run("bash", "-c", "printf '[Unit]\\n' >/etc/systemd/user/trial.target")
    installed.run("systemctl", "start", "alice.service")

    def as_alice(*command: str) -> str:
        user = ("setpriv", "--reuid=alice", "--regid=alice", "--clear-groups")
        return installed.run(*user, *command, XDG_RUNTIME_DIR="/run/alice", HOME="/home/alice")

    as_alice("systemctl", "--user", "start", "hostagent")
    assert as_alice("systemctl", "--user", "is-active", "hostagent").strip() == "active"
    found = json.loads(as_alice("hostagent", "status", "--json"))
    assert (found["engine"], found["mode"]) == ("sockets", "observe")
    assert as_alice("systemctl", "--user", "show", "-P", "StatusText", "hostagent").strip()
    as_alice("systemctl", "--user", "stop", "hostagent")
    installed.run("systemctl", "stop", "alice.service")
    installed.run("userdel", "--remove", "alice")
    installed.run("rm", "/etc/systemd/system/alice.service", "/etc/systemd/user/trial.target")


@pytest.mark.expectation(23)
def test_installing_again_is_an_upgrade_and_removing_leaves_nothing(installed: Machine, before: str) -> None:
    installed.run("systemctl", "restart", AGENT)
    process = installed.property(AGENT, "MainPID")
    installed.run(f"{ROOT}/scripts/install", **OFFLINE)
    assert installed.property(AGENT, "MainPID") not in (process, "0")
    installed.run(f"{ROOT}/scripts/install", "--remove")
    assert installed.try_run("systemctl", "is-active", AGENT).stdout.strip() == "inactive"
    assert "/var/lib/hostagent\n" in installed.run("find", "/var/lib", "-maxdepth", "1")  # data is kept
    installed.run(f"{ROOT}/scripts/install", "--remove", "--purge")
    installed.run("rm", "-rf", f"/etc/systemd/system/{AGENT}.d")
    left = installed.run("find", *PLACES, "-xdev") + qdisc(installed)
    known = set(before.splitlines())
    # systemd-sysusers and userdel leave their own back-ups of the user database.
    backups = {f"/etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")} | {
        "/etc/.pwd.lock"
    }
    assert set(left.splitlines()) - known - backups == set()
    assert known - set(left.splitlines()) == set()
    assert "hostagent" not in installed.run("cat", "/etc/passwd", "/etc/group")
