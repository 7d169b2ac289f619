"""A real gateway process between two hosts in namespaces of its own, for tests that drive it from outside."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from netns import Namespace, Routed

from billpay.errors import EnvironmentFault
from dataplane.ebpf.kernel_counters import fold_pinned
from dataplane.payment_plane import COUNTERS_NAME
from neighbour.identity import NodeIdentity, PeerCertificate

START_S = 20.0
COMMAND = [sys.executable, "-m", "cli.main"]

CONFIGURATION = """
[gateway]
name = "R"
as_number = 64512
state_directory = "{state}"
engine = "{engine}"

[control]
listen = ["10.9.1.2:7414", "[fd09:1::2]:7414"]

[settlement]
interval_s = 1

[[links]]
name = "a"
interface = "ra"
peer = "host"
peer_certificate = "{host}"
secretary_certificate = "{secretary}"
peer_addresses = ["10.9.1.1", "fd09:1::1"]
toll = {{ fixed_nanodollars_per_packet = 1 }}

[[links]]
name = "b"
interface = "rb"
peer = "legacy"
rate_bit_s = 50_000_000
toll = {{ fixed_nanodollars_per_packet = 2, congestion = true, cap_nanodollars = 10 }}

[[routes]]
prefix = "10.9.1.0/24"
alternatives = [{{ number = 1, link = "a" }}]

[[routes]]
prefix = "10.9.2.0/24"
alternatives = [{{ number = 1, link = "b", title = "straight" }}, {{ number = 2, link = "a", via = "10.9.1.1" }}]

[[routes]]
prefix = "fd09:2::/64"
alternatives = [{{ number = 1, link = "b" }}]
"""


class RealGateway:
    """`a` is the host with a certificate of ours, `b` a legacy neighbour."""

    def __init__(self, directory: Path, *, engine: str = "auto") -> None:
        self.directory = directory
        self.engine = engine
        self.state = directory / "state"
        self.network = Routed()
        self.gateway = NodeIdentity.load_or_create(self.state, name="R")
        self.host = NodeIdentity.load_or_create(directory / "host", name="a")
        self.secretary = NodeIdentity.load_or_create(directory / "secretary", name="a")
        self.stranger = NodeIdentity.load_or_create(directory / "stranger", name="a")
        self.config = directory / "gateway.toml"
        self.write_config(CONFIGURATION)
        self.process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def write_config(self, template: str) -> None:
        self.config.write_text(
            template.format(
                state=self.state,
                engine=self.engine,
                host=self.host.certificate_path,
                secretary=self.secretary.certificate_path,
            )
        )

    @property
    def certificate(self) -> PeerCertificate:
        return self.gateway.certificate

    @property
    def admin(self) -> Path:
        return self.state / "admin.sock"

    def start(self) -> None:
        """Returns when it answers; fails with what it said otherwise."""
        log = (self.directory / "log").open("ab")
        self._log_start = log.tell()
        self.process = self.network.r.popen(*self.command(), stdout=log, stderr=log)
        log.close()
        deadline_s = time.monotonic() + START_S
        while not self.said(" is up"):
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline_s, self.log()
            time.sleep(0.02)

    def command(self) -> list[str]:
        return [*COMMAND, "gateway", "run", "--config", str(self.config)]

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def said(self, what: str) -> bool:
        """Since it was started the last time."""
        return what in self.log()[self._log_start :]

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=20)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        wait_until(self._has_left_the_kernel)
        self.network.close()

    def _has_left_the_kernel(self) -> bool:
        """Also the counters of one that was killed, as soon as its reader is gone, too."""
        try:
            fold_pinned(self.state / COUNTERS_NAME)
        except EnvironmentFault:  # a reader holds the file
            return False
        return True


@contextlib.contextmanager
def real_gateway(directory: Path, *, engine: str = "auto") -> Iterator[RealGateway]:
    gateway = RealGateway(directory, engine=engine)
    try:
        yield gateway
    finally:
        gateway.close()


def kernel_state(namespace: Namespace) -> dict[str, str]:
    """Qdiscs, rules without counters, tables, routes and sysctls of a namespace, as text that can be compared."""
    commands = {
        "iptables": ("iptables-save",),
        "ip6tables": ("ip6tables-save",),
        "nft": ("nft", "-s", "list", "ruleset"),
        "rules": ("sh", "-c", "ip rule; ip -6 rule"),
        "routes": ("sh", "-c", "ip route show table all; ip -6 route show table all"),
        "qdiscs": ("tc", "qdisc", "show"),
        "sysctls": ("sysctl", "-a", "--pattern", r"^net\.(ipv4|ipv6)\.(conf|ip_forward|tcp_ecn)"),
    }
    state = {name: namespace.run(*command, check=name != "sysctls") for name, command in commands.items()}
    for name in ("iptables", "ip6tables"):
        state[name] = re.sub(r"^#.*\n|\[\d+:\d+\]", "", state[name], flags=re.MULTILINE)
    return state


def children_of(pid: int) -> dict[str, int]:
    """The reader and the watchdog of a daemon, by the module that they run."""
    found: dict[str, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            parent = int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                words = entry.joinpath("cmdline").read_bytes().decode().split("\0")
                if "-m" in words:
                    found[words[words.index("-m") + 1]] = int(entry.name)
    return found


def wait_until(condition: object, *, patience_s: float = 10.0) -> None:
    """Polls a callable; fails when it does not become true."""
    assert callable(condition)
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {patience_s} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
