"""The systemd units: systemd understands them, they run the commands that there are on the samples' paths, and they
give away no more than they have to.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

import gateway.configuration
import hostagent.configuration
import secretary.configuration
from cli.command import RUN_DIRECTORY, STATE_DIRECTORY
from cli.exit_codes import ExitCode
from cli.main import main

ROOT = Path(__file__).parent.parent
UNITS = sorted((ROOT / "packaging" / "systemd").glob("*.service"))
SAMPLES = ROOT / "docs" / "samples"
PROGRAM = "/opt/hostagent/bin/hostagent"

AGENT, GATEWAY, SECRETARY = "hostagent", "hostagent-gateway", "hostagent-secretary"
DATA_PLANES = (AGENT, GATEWAY)
SAMPLE_OF = {AGENT: "hostagent", GATEWAY: "gateway", SECRETARY: "secretary"}
VERIFY_S = 60


def settings_of(unit: str) -> dict[str, list[str]]:
    """What the unit file gives each key, in its order."""
    settings: dict[str, list[str]] = {}
    for line in (ROOT / "packaging" / "systemd" / f"{unit}.service").read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", "[")):
            settings.setdefault(key, []).append(value)
    return settings


def one(unit: str, key: str) -> str:
    values = settings_of(unit)[key]
    assert len(values) == 1, f"{key} is given {len(values)} times"
    return values[0]


def test_there_is_a_unit_for_each_daemon() -> None:
    assert {path.stem for path in UNITS} == set(SAMPLE_OF)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_understands_the_unit(path: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: nobody but systemd can tell whether it understands a unit")
    program = shutil.which("true")
    for unit in UNITS:  # systemd wants to see the program, which is not installed here
        (tmp_path / unit.name).write_text(unit.read_text(encoding="utf-8").replace(PROGRAM, str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / path.name)],
        capture_output=True,
        text=True,
        timeout=VERIFY_S,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if path.name in line]
    assert (done.returncode, complaints) == (0, []), done.stderr


def assert_is_command(words: list[str]) -> None:
    """What stands behind `hostagent`."""
    found: click.Command = main
    while isinstance(found, click.Group):
        found = found.commands[words.pop(0)]
    known = {name for option in found.params for name in option.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("unit", SAMPLE_OF)
def test_commands_exist_with_their_options(unit: str) -> None:
    for command in settings_of(unit)["ExecStart"] + settings_of(unit).get("ExecStopPost", []):
        program, *words = command.split()
        assert program == PROGRAM
        assert_is_command(words)


def test_commands_of_the_guide_exist_with_their_options() -> None:
    guide = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    commands = re.findall(r"^hostagent ([^#\n]+)", guide, re.MULTILINE)
    assert commands
    for command in commands:
        assert_is_command(command.split())


def test_files_of_the_guide_exist() -> None:
    guide = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:docs|packaging)/[\w./-]*\w", guide))
    assert {f"packaging/systemd/{path.name}" for path in UNITS} <= named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("unit", DATA_PLANES)
def test_kernel_is_restored_after_a_kill(unit: str) -> None:
    state = Path("/var/lib") / one(unit, "StateDirectory")
    assert one(unit, "ExecStopPost") == f"{PROGRAM} restore --state-directory {state}"


def test_paths_are_the_samples_and_the_commands() -> None:
    agent = hostagent.configuration.load(SAMPLES / "hostagent.toml")
    isp = gateway.configuration.load(SAMPLES / "gateway.toml")
    keeper = secretary.configuration.load(SAMPLES / "secretary.toml")
    for unit, state_directory, socket in (
        (AGENT, agent.state_directory, agent.socket),
        (GATEWAY, isp.state_directory, isp.admin_socket),
        (SECRETARY, keeper.state_directory, keeper.socket),
    ):
        assert state_directory == Path("/var/lib") / one(unit, "StateDirectory")
        assert socket.parent == Path("/run") / one(unit, "RuntimeDirectory")
        assert f"--config /etc/hostagent/{SAMPLE_OF[unit]}.toml" in one(unit, "ExecStart")
    assert (agent.state_directory, agent.socket.parent) == (STATE_DIRECTORY, RUN_DIRECTORY)
    assert Path(agent.secretary.socket) == keeper.socket
    assert not Path(agent.secretary.certificate).is_relative_to(keeper.state_directory), "the agent cannot read there"


@pytest.mark.parametrize("unit", SAMPLE_OF)
def test_unit_is_hardened_and_starts_again(unit: str) -> None:
    for key in (
        "NoNewPrivileges",
        "DynamicUser",
        "ProtectHome",
        "PrivateTmp",
        "RestrictSUIDSGID",
        "RestrictNamespaces",
    ):
        assert one(unit, key) == "yes"
    assert one(unit, "ProtectSystem") == "strict"
    assert one(unit, "MemoryMax")
    assert one(unit, "Restart") == "on-failure"
    final = {str(int(code)) for code in (ExitCode.USAGE, ExitCode.CONFIGURATION)}
    assert set(one(unit, "RestartPreventExitStatus").split()) == final


@pytest.mark.parametrize("unit", DATA_PLANES)
def test_data_planes_may_change_the_network_and_nothing_else(unit: str) -> None:
    network = "CAP_NET_ADMIN CAP_NET_RAW"
    allowed = {AGENT: f"{network} CAP_BPF CAP_PERFMON", GATEWAY: network}  # eBPF is the agent's
    assert one(unit, "CapabilityBoundingSet") == one(unit, "AmbientCapabilities") == allowed[unit]


def test_secretary_has_no_network_and_no_capability() -> None:
    assert one(SECRETARY, "PrivateNetwork") == "yes"
    assert one(SECRETARY, "RestrictAddressFamilies") == "AF_UNIX"
    assert one(SECRETARY, "CapabilityBoundingSet") == ""
    assert "AmbientCapabilities" not in settings_of(SECRETARY)


def test_agent_reaches_the_secretarys_socket_and_nothing_behind_it() -> None:
    assert one(AGENT, "User") == one(SECRETARY, "User")  # the socket is open to its owner alone
    assert one(SECRETARY, "PrivateUsers") == "yes"  # … who cannot look into the process from outside
    hidden = one(AGENT, "InaccessiblePaths").split()
    assert f"-/var/lib/private/{one(SECRETARY, 'StateDirectory')}" in hidden
