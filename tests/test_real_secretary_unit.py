"""The secretary's unit under a real systemd: the key of a seal is optional, the sandbox lets the process harden itself,
and whoever has everything that the agent's unit has does not get at the key.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_systemd import SYSTEMD, Machine, booted

ROOT = Path(__file__).parent.parent
UNIT = "hostagent-secretary.service"
AGENT = "attacker.service"
STATE = "/var/lib/hostagent-secretary"

pytestmark = [
    pytest.mark.deep,
    pytest.mark.netns,
    pytest.mark.skipif(not SYSTEMD.exists(), reason="systemd is not on this machine's disk: nothing to boot"),
    pytest.mark.skipif(
        sys.version_info[:2] != (3, 11) or not shutil.which("/usr/bin/python3"),
        reason="the service's Python is the system's, and has to be the tests' version to share its packages",
    ),
]

# As the real process begins: hardened first, then the key; then it says that it is up.
_SERVICE = """
import ctypes, os, socket, sys
from pathlib import Path
from dataplane.hardening import harden, is_hardened
harden()
from secretary.keys.keeper import Keeper
keeper = Keeper(Path({state!r}), name="a", store="auto")
seed = ctypes.create_string_buffer(bytes(range(7, 39)), 32)
print(is_hardened(), keeper.identity.fingerprint, keeper.describe(), flush=True)
Path({state!r}, "address").write_text(str(ctypes.addressof(seed)))
told = os.environ["NOTIFY_SOCKET"].replace("@", chr(0))
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", told)
import time
while True:
    time.sleep(1)
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"WATCHDOG=1", told)
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with booted(tmp_path_factory.mktemp("machine"), ROOT) as made:
        made.run("rm", "-rf", STATE, f"{STATE}-seal", "/etc/credstore.encrypted", "/etc/hostagent")
        made.run("mount", "--make-rshared", "/")  # as a boot does; credentials are mounted for a unit from outside it
        made.run("systemd-sysusers", f"{ROOT}/packaging/sysusers.d/hostagent.conf")
        write(made, "/opt/service.py", _SERVICE.format(state=STATE))
        write(made, "/etc/hostagent/secretary.toml", "")
        install(made, UNIT, UNIT, "/opt/service.py")
        made.run("systemctl", "daemon-reload")
        yield made


def write(machine: Machine, path: str, text: str) -> None:
    machine.run("bash", "-c", 'mkdir -p "$(dirname "$2")"; printf %s "$1" >"$2"', "write", text, path)


def install(machine: Machine, source: str, name: str, script: str) -> None:
    """The unit as it is, with another program in it: our Python has its packages in root's own directory."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    lines = []
    for line in (ROOT / "packaging" / "systemd" / source).read_text(encoding="utf-8").splitlines():
        key = line.partition("=")[0]
        if key == "ExecStart":
            lines += [f"ExecStart=/usr/bin/python3 -B {script}", f"Environment=PYTHONPATH={ROOT}:/opt/packages"]
            lines += [f"BindReadOnlyPaths={packages}:/opt/packages"]
        elif key not in ("ExecStopPost", "ExecReload"):
            lines.append(line)
    write(machine, f"/etc/systemd/system/{name}", "\n".join(lines))
    machine.run("mkdir", "-p", "/opt/packages")


def said(machine: Machine) -> list[str]:
    """The last thing that the service printed: hardened, fingerprint, where the key is."""
    lines = machine.run("journalctl", "-u", UNIT, "-o", "cat", "--no-pager").splitlines()
    return [line for line in lines if line.startswith(("True ", "False "))][-1].split(" ", 2)


def test_without_a_credential_it_starts_and_keeps_the_seal_in_a_file_of_its_own(machine: Machine) -> None:
    machine.run("systemctl", "restart", UNIT)
    hardened, _, where = said(machine)
    assert hardened == "True"
    assert f"{STATE}-seal" in where
    assert machine.run("stat", "-c", "%a %U", f"{STATE}-seal/secretary-seal").split() == ["400", "hostagent-secretary"]


def test_with_a_credential_the_same_key_is_sealed_by_it(machine: Machine) -> None:
    machine.run("systemctl", "restart", UNIT)
    _, before, _ = said(machine)
    machine.run("mkdir", "-p", "/etc/credstore.encrypted")
    machine.run(
        *("systemd-creds", "encrypt", "--with-key=host", "--name=secretary-seal"),
        *(f"{STATE}-seal/secretary-seal", "/etc/credstore.encrypted/secretary-seal"),
    )
    machine.run("rm", f"{STATE}-seal/secretary-seal")
    machine.run("systemctl", "restart", UNIT)
    _, after, where = said(machine)
    assert after == before
    assert "systemd" in where


_ATTACK = """
import ctypes, os, socket
process, address = int(open("/opt/victim").read()), int(open("/opt/address").read())
C = ctypes.CDLL(None, use_errno=True)
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
def memory_file():
    os.pread(os.open(f"/proc/{process}/mem", os.O_RDONLY), 32, address)
def vm():
    kept = ctypes.create_string_buffer(32)
    mine, theirs = Part(ctypes.addressof(kept), 32), Part(address, 32)
    checked(C.process_vm_readv(process, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0))
def trace():
    checked(C.ptrace(16, process, None, None))
def descriptor():
    checked(C.syscall(438, os.pidfd_open(process), 0, 0))
def state():
    os.listdir("/var/lib/hostagent-secretary")
def seal():
    os.listdir("/var/lib/hostagent-secretary-seal")
def credential():
    open("/run/credentials/hostagent-secretary.service/secretary-seal").read()
def executable():
    os.readlink(f"/proc/{process}/exe")
for attack in (memory_file, vm, trace, descriptor, state, seal, credential, executable):
    try:
        attack()
        print("worked:", attack.__name__, flush=True)
    except OSError as error:
        print("refused:", attack.__name__, error.errno, flush=True)
from dataplane.hardening import Capability, drop_capabilities, forbid_loading_programs
forbid_loading_programs()
drop_capabilities((Capability.PERFMON,))
print("worked: giving up", flush=True)
told = os.environ["NOTIFY_SOCKET"].replace("@", chr(0))
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", told)
"""


def test_who_has_the_whole_of_the_agents_unit_gets_names_and_no_key(machine: Machine) -> None:
    machine.run("systemctl", "restart", UNIT)
    write(machine, "/opt/attack.py", _ATTACK)
    write(machine, "/opt/victim", machine.property(UNIT, "MainPID"))
    write(machine, "/opt/address", machine.run("cat", f"{STATE}/address"))
    install(machine, "hostagent.service", AGENT, "/opt/attack.py")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", AGENT)
    lines = machine.run("journalctl", "-u", AGENT, "-o", "cat", "--no-pager").splitlines()
    assert [line for line in lines if line.startswith("worked:")] == ["worked: executable", "worked: giving up"]
    assert len([line for line in lines if line.startswith("refused:")]) == 7
