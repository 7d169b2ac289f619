"""What is installed: units that systemd understands, that run the commands that there are, and that give away no more
than they have to; a package with everything in it; a script that takes all of it away again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import click
import pytest

import gateway.configuration
import hostagent.configuration
import secretary.configuration
from cli.command import RUN_DIRECTORY, STATE_DIRECTORY
from cli.exit_codes import ExitCode
from cli.main import main
from secretary.keys.sealing import SEAL_NAME

ROOT = Path(__file__).parent.parent
PACKAGING = ROOT / "packaging"
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))
USER_UNIT = PACKAGING / "systemd" / "user" / "hostagent.service"
SAMPLES = ROOT / "docs" / "samples"
PROGRAM = "/opt/hostagent/bin/hostagent"

AGENT, GATEWAY, SECRETARY = "hostagent", "hostagent-gateway", "hostagent-secretary"
DATA_PLANES = (AGENT, GATEWAY)
NAMES = (AGENT, GATEWAY, SECRETARY)
EVERY = (*NAMES, "user/hostagent")
EXPOSURE_MAX = {
    AGENT: 2.6,
    GATEWAY: 2.1,
    SECRETARY: 0.6,
}  # of 10, by `systemd-analyze security`; reached ones are lower
VERIFY_S = 60
BUILD_S = 120

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed: nobody but systemd can tell whether it understands a unit",
)


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


def mebibytes(text: str) -> int:
    return int(text[:-1]) * {"M": 1, "G": 1024}[text[-1]]


def test_there_is_a_unit_for_each_daemon() -> None:
    assert {path.stem for path in UNITS} == set(NAMES)


def verify(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *arguments],
        capture_output=True,
        text=True,
        timeout=VERIFY_S,
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "SYSTEMD_UNIT_PATH": f"{folder}:",
            "XDG_RUNTIME_DIR": str(folder),
            "HOME": str(folder),
        },
        check=False,
    )


def copy_unit(path: Path, folder: Path) -> Path:
    """systemd wants to see the program, which is not installed here."""
    copy = folder / path.name
    copy.write_text(path.read_text(encoding="utf-8").replace(PROGRAM, str(shutil.which("true"))))
    return copy


@needs_systemd
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_understands_the_unit(path: Path, tmp_path: Path) -> None:
    for unit in UNITS:
        copy_unit(unit, tmp_path)
    done = verify(tmp_path, str(tmp_path / path.name))
    complaints = [line for line in done.stderr.splitlines() if path.name in line]
    assert (done.returncode, complaints) == (0, []), done.stderr


@needs_systemd
def test_systemd_understands_the_users_unit(tmp_path: Path) -> None:
    done = verify(tmp_path, "--user", str(copy_unit(USER_UNIT, tmp_path)))
    complaints = [line for line in done.stderr.splitlines() if USER_UNIT.name in line]
    assert (done.returncode, complaints) == (0, []), done.stderr


@needs_systemd
def test_systemd_knows_all_keys_of_the_newer_units_but_the_new_ones(tmp_path: Path) -> None:
    """The pauses that grow came with 254; an older one names them in a complaint, and goes on."""
    copy_unit(PACKAGING / "systemd" / f"{AGENT}.service", tmp_path)
    (tmp_path / f"{AGENT}.service.d").mkdir()
    shutil.copy(PACKAGING / "systemd" / "newer.conf", tmp_path / f"{AGENT}.service.d")
    done = verify(tmp_path, str(tmp_path / f"{AGENT}.service"))
    complaints = [line for line in done.stderr.splitlines() if "newer.conf" in line]
    assert [line for line in complaints if not re.search("RestartSteps|RestartMaxDelaySec|notify-reload", line)] == []


@pytest.mark.expectation(23)
@needs_systemd
@pytest.mark.parametrize("unit", NAMES)
def test_systemd_finds_little_that_the_unit_gives_away(unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", str(PACKAGING / "systemd" / f"{unit}.service")],
        capture_output=True,
        text=True,
        timeout=VERIFY_S,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE_MAX[unit]


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_users_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for _ in range(2):
        subprocess.run(
            ["systemd-sysusers", f"--root={tmp_path}", str(PACKAGING / "sysusers.d" / "hostagent.conf")],
            check=True,
            capture_output=True,
            timeout=VERIFY_S,
        )
    made = (tmp_path / "etc" / "passwd").read_text(encoding="utf-8")
    assert re.findall(r"^([^:]+):.*/nologin$", made, re.MULTILINE) == [AGENT, SECRETARY, GATEWAY]
    for unit in NAMES:
        assert one(unit, "User") == one(unit, "Group") == unit


def assert_is_command(words: list[str]) -> None:
    """What stands behind `hostagent`."""
    found: click.Command = main
    while isinstance(found, click.Group):
        found = found.commands[words.pop(0)]
    known = {name for option in found.params for name in option.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("unit", EVERY)
def test_commands_exist_with_their_options(unit: str) -> None:
    for command in settings_of(unit)["ExecStart"] + settings_of(unit).get("ExecStopPost", []):
        program, *words = command.split()
        assert program == PROGRAM
        assert_is_command(words)


def test_commands_of_the_guide_exist_with_their_options() -> None:
    guide = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    commands = re.findall(r"^(?:sudo )?hostagent ([^#\n]+)", guide, re.MULTILINE)
    assert commands
    for command in commands:
        assert_is_command(command.split())


def test_files_of_the_guide_exist() -> None:
    guide = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:docs|packaging|scripts)/[\w./-]*\w", guide))
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
        assert state_directory == Path("/var/lib") / one(unit, "StateDirectory").split()[0]
        assert socket.parent == Path("/run") / one(unit, "RuntimeDirectory")
    for unit in (GATEWAY, SECRETARY):
        path = f"/etc/hostagent/{unit.removeprefix('hostagent-')}.toml"
        assert f"--config {path}" in one(unit, "ExecStart")
        assert one(unit, "ConditionPathExists") == path  # it waits for its configuration, and does not fail
    assert one(AGENT, "ExecStart") == (
        f"{PROGRAM} up --service --state-directory {agent.state_directory} --socket {agent.socket}"
    )
    assert (agent.state_directory, agent.socket.parent) == (STATE_DIRECTORY, RUN_DIRECTORY)
    assert agent.secretary is not None
    assert Path(agent.secretary.socket) == keeper.socket
    assert not Path(agent.secretary.certificate).is_relative_to(keeper.state_directory), "the agent cannot read there"


@pytest.mark.parametrize("unit", NAMES)
def test_unit_is_hardened(unit: str) -> None:
    for key in (
        *("NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictSUIDSGID", "RestrictNamespaces"),
        *("MemoryDenyWriteExecute", "LockPersonality", "PrivateDevices", "ProtectKernelModules"),
    ):
        assert one(unit, key) == "yes"
    assert one(unit, "ProtectSystem") == "strict"
    assert "ptrace" in settings_of(unit)["SystemCallFilter"][-1]


@pytest.mark.expectation(23)
@pytest.mark.parametrize("unit", EVERY)
def test_systemd_is_told_and_starts_it_again(unit: str) -> None:
    assert one(unit, "Type") == "notify"
    assert one(unit, "NotifyAccess") == "main"
    assert 10 <= int(one(unit, "WatchdogSec")) <= 60
    assert one(unit, "Restart") == "on-failure"
    assert int(one(unit, "RestartSec")) >= 1
    final = {str(int(code)) for code in (ExitCode.USAGE, ExitCode.CONFIGURATION)}
    assert set(one(unit, "RestartPreventExitStatus").split()) == final


@pytest.mark.expectation(12)
@pytest.mark.parametrize("unit", EVERY)
def test_ceilings_are_set_and_said(unit: str) -> None:
    guide = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    memory, processor = one(unit, "MemoryMax"), one(unit, "CPUQuota")
    assert mebibytes(memory) <= 1024
    assert f"{mebibytes(memory)} MiB" in guide
    assert processor.replace("%", " %") in guide
    for soft in settings_of(unit).get("MemoryHigh", []):
        assert mebibytes(soft) < mebibytes(memory)


@pytest.mark.parametrize("unit", [AGENT, "user/hostagent"])
def test_a_reload_reaches_the_agent_with_every_systemd(unit: str) -> None:
    assert one(unit, "ExecReload") == "kill -HUP $MAINPID"
    newer = (PACKAGING / "systemd" / "newer.conf").read_text(encoding="utf-8")
    assert "Type=notify-reload\nExecReload=\n" in newer


@pytest.mark.parametrize("unit", DATA_PLANES)
def test_data_planes_may_change_the_network_and_nothing_else(unit: str) -> None:
    network = "CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON"
    # The names of other users' programs are the agent's.
    allowed = {AGENT: f"{network} CAP_SYS_PTRACE", GATEWAY: network}
    assert one(unit, "CapabilityBoundingSet") == one(unit, "AmbientCapabilities") == allowed[unit]


def test_a_users_agent_has_no_privilege_at_all() -> None:
    settings = settings_of("user/hostagent")
    assert one("user/hostagent", "NoNewPrivileges") == "yes"
    assert not {"AmbientCapabilities", "User", "ExecStopPost"} & set(settings)
    assert "--observe" in one("user/hostagent", "ExecStart").split()


def test_secretary_has_no_network_and_no_capability() -> None:
    assert one(SECRETARY, "PrivateNetwork") == "yes"
    assert one(SECRETARY, "RestrictAddressFamilies") == "AF_UNIX"
    assert one(SECRETARY, "CapabilityBoundingSet") == ""
    assert "AmbientCapabilities" not in settings_of(SECRETARY)


def test_agent_reaches_the_secretarys_socket_and_nothing_behind_it() -> None:
    assert len({one(unit, "User") for unit in NAMES}) == 3
    assert one(AGENT, "SupplementaryGroups") == one(SECRETARY, "Group")  # the group of its socket's folder
    assert one(SECRETARY, "RuntimeDirectoryMode") == "0755"
    assert one(SECRETARY, "StateDirectoryMode") == "0700"
    hidden = [f"-/var/lib/{name}" for name in one(SECRETARY, "StateDirectory").split()]
    assert one(AGENT, "InaccessiblePaths").split() == hidden


def test_secretary_sees_who_calls_and_keeps_its_seal_apart() -> None:
    """In a user namespace of its own every caller would be nobody: it could not tell the agent from a person."""
    settings = settings_of(SECRETARY)
    assert "PrivateUsers" not in settings
    assert one(SECRETARY, "StateDirectory").split() == [SECRETARY, f"{SECRETARY}-seal"]
    assert one(SECRETARY, "LoadCredentialEncrypted") == SEAL_NAME  # without a path: it may be missing
    assert one(SECRETARY, "LimitCORE") == "0"


@pytest.mark.parametrize("unit", NAMES)
def test_no_unit_may_look_into_other_processes(unit: str) -> None:
    forbidden = settings_of(unit)["SystemCallFilter"][-1].removeprefix("~").split()
    assert {"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"} <= set(forbidden)


@needs_systemd
def test_a_secretary_with_a_network_has_only_what_the_drop_in_names(tmp_path: Path) -> None:
    copy_unit(PACKAGING / "systemd" / f"{SECRETARY}.service", tmp_path)
    (tmp_path / f"{SECRETARY}.service.d").mkdir()
    sample = PACKAGING / "systemd" / "secretary-network.conf"
    shutil.copy(sample, tmp_path / f"{SECRETARY}.service.d")
    done = verify(tmp_path, str(tmp_path / f"{SECRETARY}.service"))
    assert [line for line in done.stderr.splitlines() if sample.name in line] == []
    keys = re.findall(r"^(\w+)=", sample.read_text(encoding="utf-8"), re.MULTILINE)
    assert keys == ["PrivateNetwork", "RestrictAddressFamilies", "IPAddressAllow"]


def test_readers_reach_the_agents_socket_and_not_its_state() -> None:
    assert (one(AGENT, "RuntimeDirectoryMode"), one(AGENT, "StateDirectoryMode")) == ("0755", "0700")


# -- the package -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what is in the repository, without the network, as `pip install .` does it."""
    copy, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():  # not one that is only gone from the working tree
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(made), str(copy)],
        check=True,
        timeout=BUILD_S,
    )
    (found,) = made.glob("hostagent-*.whl")
    return found


def packages() -> list[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed: list[str] = tomllib.load(file)["tool"]["setuptools"]["packages"]
    return listed


def test_every_package_is_listed() -> None:
    """A folder that is not listed is missing on other people's machines only."""
    tops = {name.partition(".")[0] for name in packages()}
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for top in tops for path in (ROOT / top).rglob("__init__.py")
    }
    assert found == set(packages())


def test_the_package_has_every_file_of_ours(wheel: Path) -> None:
    ours = {
        str(path.relative_to(ROOT))
        for package in packages()
        for path in (ROOT / package.replace(".", "/")).iterdir()
        if path.is_file() and path.suffix != ".o"
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert ours - names == set()
    if shutil.which("clang"):
        assert {"dataplane/ebpf/host.bpf.o", "dataplane/ebpf/price.bpf.o"} <= names
    assert [name for name in names if name.startswith(("tests/", "bench/"))] == []


def test_a_fresh_environment_with_the_package_has_a_working_command(wheel: Path, tmp_path: Path) -> None:
    """What it depends on is the tests' own copy: there is no network here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=BUILD_S)
    (site,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = "import sys; sys.argv[0] = 'hostagent'; from cli.main import main; main()"
    environment = {"PYTHONPATH": f"{site}:{sysconfig.get_paths()['purelib']}", "PATH": os.environ["PATH"]}
    for words in (["--version"], ["kinds", "--help"], ["doctor", "--help"]):
        done = subprocess.run(
            [tmp_path / "venv" / "bin" / "python", "-c", code, *words],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    read = "import hostagent.configuration, secretary.kinds as kinds; print(kinds.__file__, len(kinds.shipped_kinds()))"
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-c", read],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert done.stdout.startswith(str(site)), done.stderr


# -- the script ------------------------------------------------------------------------------------------------------


def install(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "install", *options],
        env={
            "PATH": os.environ["PATH"],
            "DESTDIR": str(folder),
            "HOSTAGENT": str(Path(sys.executable).parent / "hostagent"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )


def tree(folder: Path) -> dict[str, str]:
    """Every path below, with its mode and, of a file, its text or where it leads."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = oct(path.lstat().st_mode)
        text = str(path.readlink()) if path.is_symlink() else path.read_text(errors="replace") if path.is_file() else ""
        found[str(path.relative_to(folder))] = f"{mode} {text}"
    return found


@pytest.mark.expectation(23)
def test_it_is_installed_twice_and_removed_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "usr/local/share/man").mkdir(parents=True)  # there before, and empty: not ours to remove
    (tmp_path / "usr/local/bin").mkdir()
    (tmp_path / "usr/local/bin/other").write_text("somebody's")
    before = tree(tmp_path)
    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    once = tree(tmp_path)
    for name in (
        "usr/local/bin/hostagent",
        "usr/local/lib/systemd/system/hostagent.service",
        "usr/local/lib/systemd/system/hostagent-secretary.service",
        "usr/local/lib/systemd/user/hostagent.service",
        "usr/local/lib/sysusers.d/hostagent.conf",
        "usr/local/lib/tmpfiles.d/hostagent.conf",
        "usr/local/share/man/man1/hostagent.1",
        "usr/local/share/man/man1/hostagent-doctor.1",
        "usr/local/share/bash-completion/completions/hostagent",
        "usr/local/share/zsh/site-functions/_hostagent",
        "usr/local/share/fish/vendor_completions.d/hostagent.fish",
        "usr/local/share/doc/hostagent/hostagent.toml",
    ):
        assert name in once, name
    assert once["usr/local/bin/hostagent"].endswith(f" {PROGRAM}")
    assert install(tmp_path).returncode == 0
    assert tree(tmp_path) == once
    assert install(tmp_path, "--remove").returncode == 0
    assert tree(tmp_path) == before
    assert install(tmp_path, "--remove").returncode == 0  # there is nothing left to do
    assert tree(tmp_path) == before


def test_data_and_settings_stay_unless_they_are_purged(tmp_path: Path) -> None:
    assert install(tmp_path).returncode == 0
    for name in ("etc/hostagent/hostagent.toml", "var/lib/hostagent/node.key"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
    assert install(tmp_path, "--remove").returncode == 0
    assert (tmp_path / "var/lib/hostagent/node.key").read_text() == "mine"
    assert (tmp_path / "etc/hostagent/hostagent.toml").read_text() == "mine"
    assert install(tmp_path, "--remove", "--purge").returncode == 0
    assert [path for path in tmp_path.rglob("*") if "hostagent" in path.name] == []


def test_a_gateway_takes_the_place_of_a_host(tmp_path: Path) -> None:
    assert install(tmp_path).returncode == 0
    assert install(tmp_path, "--gateway").returncode == 0
    units = {path.name for path in (tmp_path / "usr/local/lib/systemd").rglob("*.service")}
    assert units == {"hostagent-gateway.service"}
    assert install(tmp_path, "--remove").returncode == 0
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(("version", "newer"), [("252", False), ("253", False), ("254", True), ("257", True)])
def test_what_only_a_newer_systemd_knows_is_given_to_it_alone(tmp_path: Path, version: str, newer: bool) -> None:
    assert install(tmp_path, SYSTEMD_VERSION=version).returncode == 0
    found = tmp_path / "usr/local/lib/systemd/system/hostagent.service.d/newer.conf"
    assert found.exists() == newer


def test_somebodys_own_command_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    (tmp_path / "usr/local/bin/hostagent").write_text("mine")
    before = tree(tmp_path / "usr")
    done = install(tmp_path)
    assert done.returncode == 1
    assert "is not ours" in done.stderr
    assert tree(tmp_path / "usr") == before


def test_without_a_program_there_are_no_man_pages_and_it_is_said(tmp_path: Path) -> None:
    done = install(tmp_path, HOSTAGENT=str(tmp_path / "none"))
    assert done.returncode == 0
    assert "no man pages and completions" in done.stdout
    assert not (tmp_path / "usr/local/share/man").exists()


@pytest.mark.parametrize("options", [["--purge"], ["--uninstall"], ["host"]])
def test_what_it_does_not_understand_it_does_not_do(tmp_path: Path, options: list[str]) -> None:
    assert install(tmp_path, *options).returncode == 1
    assert tree(tmp_path) == {}
