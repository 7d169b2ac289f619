"""Network namespaces for a planned topology: made, wired, and gone again whatever happens to us.

Decides nothing: carries out a `lab.plan.Plan`. A namespace lives as long as its holder process (and what runs
inside); holders and all other processes are started with a parent-death signal, so that a SIGKILLed lab leaves
nothing behind either. Nothing is mounted, named under /run/netns or changed in the namespace that the lab was started
from.

Parent-death signals follow the *thread* that started a process: use a `Network` from one thread that outlives it.
Source: prctl(2) PR_SET_PDEATHSIG, network_namespaces(7), user_namespaces(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

from billpay.errors import EnvironmentFault
from lab.plan import ETHERNET_MTU, Cable, End, Plan
from lab.topology import DEFAULT_DESTINATION

_CLONE_NEWNET = 0x4000_0000
_LIBC = ctypes.CDLL(None, use_errno=True)
_IN_USER_NAMESPACE = "HOSTAGENT_LAB_USER_NAMESPACE"  # set for the lab that was started again inside one
_TOOLS = ("ip", "tc", "ethtool", "nsenter", "unshare", "setpriv", "iptables", "ip6tables", "nft")
_TBF_BURST_BYTES = 5_000  # three full packets: a burst that hardly shows next to the queue
_TBF_QUEUE_S = 0.05
_HOLDER_START_S = 5.0
_END_S = 3.0

_SYSCTLS = {
    "net/ipv4/conf/all/rp_filter": "0",  # forward and backward paths differ on purpose
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/tcp_ecn": "1",
    "net/ipv4/tcp_no_metrics_save": "1",  # a transfer must not inherit what an earlier one learnt
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/router_solicitations": "0",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
}
_FORWARDING_SYSCTLS = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}

Result = TypeVar("Result")


def outliving_nobody(argv: Sequence[str]) -> list[str]:
    """The command, killed when the thread that starts it ends."""
    return ["setpriv", "--pdeathsig", "KILL", *argv]


class Namespace:
    """One network namespace and the process that holds it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._holder = subprocess.Popen(
            outliving_nobody(["unshare", "--net", "sleep", "infinity"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the lab, which then takes things down in order
        )

    @property
    def pid(self) -> int:
        return self._holder.pid

    def wait_until_made(self) -> None:
        """Returns when the holder is in a namespace of its own.  Raises EnvironmentFault when it cannot be."""
        ours = os.readlink("/proc/self/ns/net")
        deadline_s = time.monotonic() + _HOLDER_START_S
        while time.monotonic() < deadline_s:
            if self._holder.poll() is not None:
                complaint = (self._holder.stderr.read() if self._holder.stderr else b"").decode(errors="replace")
                raise EnvironmentFault("make network namespace", self.name, complaint.strip(), "run as root")
            with contextlib.suppress(OSError):
                made = os.readlink(f"/proc/{self.pid}/ns/net") != ours
                if made and Path(f"/proc/{self.pid}/comm").read_text(encoding="ascii").strip() == "sleep":
                    return
            time.sleep(0.002)
        raise EnvironmentFault("make network namespace", self.name, f"not there after {_HOLDER_START_S} s")

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The command as it has to be started to run inside, dying with the lab."""
        return outliving_nobody(["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *argv])

    def run(self, argv: Sequence[str], *, stdin: str = "") -> str:
        """Runs a short command inside and returns its output.  Raises EnvironmentFault when it fails."""
        done = subprocess.run(self.argv(argv), input=stdin, capture_output=True, text=True, check=False, timeout=30)
        if done.returncode != 0:
            raise EnvironmentFault(
                " ".join(argv[:3]), f"in namespace {self.name}", done.stderr.strip() or f"status {done.returncode}"
            )
        return done.stdout

    def start(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Starts a command inside; the pid is the command's own (setpriv and nsenter become it)."""
        return subprocess.Popen(
            self.argv(argv), stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True, cwd="/"
        )

    def inside(self, function: Callable[[], Result]) -> Result:
        """Calls a function in a thread that has entered the namespace (a socket made there stays there)."""
        return inside_namespace(self.pid, function)

    def end(self) -> None:
        end_process(self._holder, patience_s=0.0)


def inside_namespace(pid: int, function: Callable[[], Result]) -> Result:
    """Calls `function` in a fresh thread inside the network namespace of `pid`; what it raises is raised here."""
    outcome: list[Result] = []
    trouble: list[BaseException] = []

    def work() -> None:
        try:
            enter_namespace(pid)
            outcome.append(function())
        except BaseException as fault:  # carried over to the calling thread, not swallowed
            trouble.append(fault)

    thread = threading.Thread(target=work, name=f"inside-{pid}")
    thread.start()
    thread.join()
    if trouble:
        raise trouble[0]
    return outcome[0]


def enter_namespace(pid: int) -> None:
    """Moves the calling thread into the network namespace of `pid`."""
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise EnvironmentFault("enter network namespace of process", str(pid), os.strerror(code), "run as root")
    finally:
        os.close(descriptor)


def end_process(process: subprocess.Popen[bytes], *, patience_s: float = _END_S) -> None:
    """SIGTERM, and SIGKILL after `patience_s` (at once when 0).  Only ever this process, by its pid."""
    if process.poll() is None and patience_s > 0:
        process.terminate()
        process.send_signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience_s)
    if process.poll() is None:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


class Network:
    """The namespaces of a plan, wired.  A context manager; leaving it ends all holders and so everything inside."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.namespaces: dict[str, Namespace] = {}
        self.wire_namespace: Namespace | None = None

    def __enter__(self) -> Network:
        try:
            self._build()
        except BaseException:
            self._take_down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._take_down()

    def __getitem__(self, node: str) -> Namespace:
        return self.namespaces[node]

    def wire_interfaces(self, cable: Cable) -> tuple[str, str]:
        """The wire process's two interfaces of a cable, facing its first and its second end."""
        return (f"w{cable.number}a", f"w{cable.number}b")

    def _build(self) -> None:
        for node in self.plan.scenario.nodes:
            self.namespaces[node.name] = Namespace(node.name)
        if any(cable.link.has_wire for cable in self.plan.cables):
            self.wire_namespace = Namespace("wires")
        for namespace in self._all():
            namespace.wait_until_made()
        for node in self.plan.scenario.nodes:
            namespace = self.namespaces[node.name]
            forwards = self.plan.forwards(node.name)
            namespace.inside(lambda forwards=forwards: _write_sysctls(forwards))  # type: ignore[misc]
        for cable in self.plan.cables:
            self._lay(cable)
        for node in self.plan.scenario.nodes:
            self._address(node.name)
        for node in self.plan.scenario.nodes:
            self._route(node.name)

    def _lay(self, cable: Cable) -> None:
        """Makes the veth pair of a cable (two pairs when a wire process sits between) with plain, unoffloaded ends."""
        first, second = cable.ends
        if cable.link.has_wire and self.wire_namespace is not None:
            near, far = self.wire_interfaces(cable)
            wires = self.wire_namespace
            commands = [
                _veth(near, None, peer=first.interface, peer_mac=first.mac, peer_pid=self[first.node].pid),
                _veth(far, None, peer=second.interface, peer_mac=second.mac, peer_pid=self[second.node].pid),
                f"link set {near} up",
                f"link set {far} up",
            ]
            wires.inside(lambda: _write(Path("/proc/sys/net/ipv6/conf/default/disable_ipv6"), "1"))
            wires.run(["ip", "-batch", "-"], stdin="\n".join(commands) + "\n")
            for interface in (near, far):
                _offloads_off(wires, interface)
        else:
            command = _veth(
                first.interface, first.mac, peer=second.interface, peer_mac=second.mac, peer_pid=self[second.node].pid
            )
            self[first.node].run(["ip", "-batch", "-"], stdin=command + "\n")
        for end in cable.ends:
            _offloads_off(self[end.node], end.interface)
            if cable.link.rate_bit_s:
                self[end.node].run(_rate_command(end, cable.link.rate_bit_s))

    def _address(self, node: str) -> None:
        """Addresses and permanent neighbour entries: no ARP or ND packet competes with what is measured."""
        commands = ["link set lo up"]
        for host in self.plan.hosts:
            if host.node == node:
                commands += [f"addr add {host.ipv4}/32 dev lo", f"addr add {host.ipv6}/128 dev lo nodad"]
        for cable in self.plan.cables_of(node):
            own = cable.end_at(node)
            other = cable.end_at(own.peer)
            commands += [
                f"addr add {own.ipv4}/24 dev {own.interface}",
                f"addr add {own.ipv6}/64 dev {own.interface} nodad",
                f"link set {own.interface} mtu {ETHERNET_MTU} up",
                f"neigh replace {other.ipv4} lladdr {other.mac} dev {own.interface} nud permanent",
                f"neigh replace {other.ipv6} lladdr {other.mac} dev {own.interface} nud permanent",
            ]
        self[node].run(["ip", "-batch", "-"], stdin="\n".join(commands) + "\n")

    def _route(self, node: str) -> None:
        commands = []
        for route in self.plan.routes:
            if route.node == node:
                source = f" src {route.source}" if route.source else ""
                anywhere = "::/0" if route.family == 6 else "0.0.0.0/0"  # "default" alone would mean IPv4
                destination = anywhere if route.destination == DEFAULT_DESTINATION else route.destination
                commands.append(f"route add {destination} via {route.via} dev {route.interface}{source}")
        if commands:
            self[node].run(["ip", "-batch", "-"], stdin="\n".join(commands) + "\n")

    def _all(self) -> list[Namespace]:
        return [*self.namespaces.values(), *([self.wire_namespace] if self.wire_namespace else [])]

    def _take_down(self) -> None:
        for namespace in self._all():
            namespace.end()
        self.namespaces.clear()
        self.wire_namespace = None


def _veth(name: str, mac: str | None, *, peer: str, peer_mac: str, peer_pid: int) -> str:
    address = f" address {mac}" if mac else ""
    return f"link add {name}{address} type veth peer name {peer} address {peer_mac} netns {peer_pid}"


def _offloads_off(namespace: Namespace, interface: str) -> None:
    """What passes is what a real link would carry: whole packets with whole checksums, one at a time."""
    switches = [word for name in ("tso", "gso", "gro", "tx") for word in (name, "off")]
    namespace.run(["ethtool", "-K", interface, *switches])


def _rate_command(end: End, rate_bit_s: int) -> list[str]:
    queue_bytes = max(10 * ETHERNET_MTU, int(rate_bit_s / 8 * _TBF_QUEUE_S))
    burst_bytes = max(_TBF_BURST_BYTES, rate_bit_s // 8 // 1000)  # at fast rates at least one timer tick's worth
    shape = ["rate", f"{rate_bit_s}bit", "burst", str(burst_bytes), "limit", str(queue_bytes)]
    return ["tc", "qdisc", "add", "dev", end.interface, "root", "tbf", *shape]


def _write_sysctls(forwards: bool) -> None:
    for name, value in {**_SYSCTLS, **(_FORWARDING_SYSCTLS if forwards else {})}.items():
        _write(Path("/proc/sys") / name, value)


def _write(path: Path, value: str) -> None:
    """/proc/sys/net shows the namespace of the reading thread."""
    try:
        path.write_text(value, encoding="ascii")
    except OSError as fault:
        raise EnvironmentFault("write", str(path), fault.strerror, "run as root") from fault


# --- privilege --------------------------------------------------------------------------------------------------------


def check_tools() -> None:
    """Raises EnvironmentFault naming the first missing program."""
    for tool in _TOOLS:
        if shutil.which(tool) is None:
            raise EnvironmentFault("find program", tool, "it is not on PATH", "run `make setup`")


def gain_privilege(argv: Sequence[str] | None = None) -> None:
    """Makes sure that namespaces can be made: as root, or by starting this program again in a user namespace.

    Does not return in the second case when that works.  Raises EnvironmentFault when it does not.
    """
    check_tools()
    if os.geteuid() == 0:
        if os.environ.get(_IN_USER_NAMESPACE) and not os.access("/run/xtables.lock", os.W_OK):
            # iptables locks a file in /run, which is the real root's: in a mount namespace of our own it is ours.
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True, capture_output=True)
        return
    probe = subprocess.run(["unshare", "-Urnm", "true"], capture_output=True, text=True, check=False, timeout=10)
    if probe.returncode != 0 or os.environ.get(_IN_USER_NAMESPACE):
        cause = probe.stderr.strip() or "no user namespaces here"
        raise EnvironmentFault("make network namespaces", "without root", cause, "run with sudo")
    command = list(argv) if argv is not None else [sys.executable, *sys.orig_argv[1:]]
    os.environ[_IN_USER_NAMESPACE] = "1"
    os.execvp("unshare", ["unshare", "-Urnm", "--", *command])  # noqa: S606 - becomes the same program, as its own root
