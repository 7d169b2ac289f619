"""What this machine can do for the agent, found out by trying, within a time and without a trace.

Decides: what is tried where, and what a result means for the one who asked. Refuses to know: which engine needs what.
Source: capabilities(7), proc(5), bpf(2), user_namespaces(7), network_namespaces(7).

Kernel versions say little (distributions add and leave out), so nothing here looks at one. What would change this
machine is tried in a network namespace that nobody else has, by a child process (`scratch_probe`): it ends
with the child. Without the privilege for that, a user namespace shows what the kernel has, though not what we may use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

PROBE_TIMEOUT_S: Final = 2.5
"""Trying takes some 0.3 s; a program that hangs must not keep a user waiting."""

EBPF_DIRECTORY: Final = Path(__file__).parent.parent / "ebpf"
_BTF: Final = Path("/sys/kernel/btf/vmlinux")
_STRUCT_OPS_TYPE: Final = b"\0bpf_struct_ops_tcp_congestion_ops\0"
_BTF_BYTES_MAX: Final = 64 << 20


class State(StrEnum):
    WORKS = "works"
    MISSING = "missing"  # this machine does not have it
    REFUSED = "refused"  # it may be there, but not for us


class FeatureName(StrEnum):
    """Stable: docs/spec/doctor.md lists them."""

    NET_ADMIN = "privilege-net-admin"
    BPF_PRIVILEGE = "privilege-bpf"
    PERFMON = "privilege-perfmon"
    NET_RAW = "privilege-net-raw"
    SYS_ADMIN = "privilege-sys-admin"
    IP = "program-ip"
    TC = "program-tc"
    IPTABLES = "program-iptables"
    IP6TABLES = "program-ip6tables"
    NFT = "program-nft"
    BPF = "bpf"
    BTF = "btf"
    TCX = "tcx"
    CGROUP_V2 = "cgroup-v2"
    CGROUP_ATTACH = "cgroup-attach"
    STRUCT_OPS = "struct-ops-congestion-control"
    LIBBPF = "libbpf"
    EBPF_OBJECTS = "ebpf-objects"
    HTB = "htb"
    IFB = "ifb"
    FQ = "fq"
    FQ_CODEL = "fq-codel"
    DUMMY = "dummy"
    NFQUEUE = "nfqueue"
    NFQUEUE_IPV6 = "nfqueue-ipv6"
    MARK = "match-mark"
    ADDRTYPE = "match-addrtype"
    CONNTRACK = "match-conntrack"
    SOCKET_DIAGNOSIS = "socket-diagnosis"
    IPV6 = "ipv6"
    CONGESTION_CONTROLS = "congestion-controls"
    DEFAULT_CONGESTION_CONTROL = "default-congestion-control"
    ECN = "ecn"
    USER_NAMESPACES = "user-namespaces"


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """`detail`: what was found, in words. `remedy`: what a person can do about it, "" when nothing need be done."""

    name: FeatureName
    state: State
    detail: str
    remedy: str = ""

    @property
    def works(self) -> bool:
        return self.state is State.WORKS


TRIED: Final = (
    *(FeatureName.BPF, FeatureName.TCX, FeatureName.CGROUP_ATTACH, FeatureName.LIBBPF),
    *(FeatureName.HTB, FeatureName.IFB, FeatureName.FQ, FeatureName.FQ_CODEL, FeatureName.DUMMY),
    *(FeatureName.NFQUEUE, FeatureName.NFQUEUE_IPV6, FeatureName.MARK, FeatureName.ADDRTYPE, FeatureName.CONNTRACK),
    *(FeatureName.SOCKET_DIAGNOSIS, FeatureName.USER_NAMESPACES),
)
"""What the child process answers, in this order."""

NEEDS_NET_ADMIN: Final = frozenset(
    {
        *(FeatureName.HTB, FeatureName.IFB, FeatureName.FQ, FeatureName.FQ_CODEL, FeatureName.DUMMY),
        *(FeatureName.NFQUEUE, FeatureName.NFQUEUE_IPV6),
        *(FeatureName.MARK, FeatureName.ADDRTYPE, FeatureName.CONNTRACK),
    }
)
"""Tried in a user namespace, these say what the kernel has; using them outside needs the privilege."""

_CAPABILITIES: Final = (
    # Name, bit, whether CAP_SYS_ADMIN includes it, what it is for.
    (FeatureName.NET_ADMIN, 12, False, "queues, rules, shaping, every eBPF program of the network"),
    (FeatureName.BPF_PRIVILEGE, 39, True, "loading eBPF programs"),
    (FeatureName.PERFMON, 38, True, "eBPF programs that read the kernel's own values: whose socket it is"),
    (FeatureName.NET_RAW, 13, False, "packets that the agent itself sends: probes, keepalives"),
    (FeatureName.SYS_ADMIN, 21, False, "names of other people's eBPF programs, trying things in a namespace"),
)
_SYS_ADMIN_BIT: Final = 21
_PACKAGES: Final = {
    FeatureName.IP: ("ip", "iproute2"),
    FeatureName.TC: ("tc", "iproute2"),
    FeatureName.IPTABLES: ("iptables", "iptables"),
    FeatureName.IP6TABLES: ("ip6tables", "iptables"),
    FeatureName.NFT: ("nft", "nftables"),
}
_SYSTEM_PATHS: Final = "/usr/sbin:/sbin:/usr/local/sbin"


def probe() -> tuple[Feature, ...]:
    """Everything, in the order of FeatureName. Never raises for what is missing: that is an answer, too."""
    tried = _try_in_child()
    found = {each.name: each for each in _read_files()} | tried
    allowed = found[FeatureName.NET_ADMIN].works
    return tuple(found[name] if allowed else _as_unprivileged(found[name]) for name in FeatureName)


def by_name(features: Iterable[Feature]) -> dict[FeatureName, Feature]:
    return {each.name: each for each in features}


def _as_unprivileged(feature: Feature) -> Feature:
    if feature.name not in NEEDS_NET_ADMIN or not feature.works:
        return feature
    detail = "the kernel has it; using it needs CAP_NET_ADMIN"
    return Feature(name=feature.name, state=State.REFUSED, detail=detail, remedy="run as root or with CAP_NET_ADMIN")


# -- what files say --------------------------------------------------------------------------------------------------


def _read_files() -> Iterator[Feature]:
    yield from privileges(_text(Path("/proc/self/status")))
    yield from (_program(name) for name in _PACKAGES)
    yield from _btf()
    yield _cgroup_v2()
    yield _objects(EBPF_DIRECTORY)
    yield from _network(Path("/proc"))


def privileges(status: str) -> list[Feature]:
    """From the text of /proc/self/status: what this process may do now."""
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    effective = int(lines.get("CapEff", "0").strip() or "0", 16)
    features = []
    for name, bit, implied, purpose in _CAPABILITIES:
        capability = f"CAP_{name.removeprefix('privilege-').replace('-', '_').upper()}"
        if effective >> bit & 1:
            features.append(Feature(name=name, state=State.WORKS, detail=f"{capability}: {purpose}"))
        elif implied and effective >> _SYS_ADMIN_BIT & 1:
            features.append(Feature(name=name, state=State.WORKS, detail=f"{capability} by CAP_SYS_ADMIN: {purpose}"))
        else:
            remedy = f"{capability} would add: {purpose}"
            features.append(Feature(name=name, state=State.REFUSED, detail=f"no {capability}", remedy=remedy))
    return features


def _program(name: FeatureName) -> Feature:
    program, package = _PACKAGES[name]
    path = shutil.which(program)
    if path is None and (hidden := shutil.which(program, path=_SYSTEM_PATHS)):
        remedy = f"add {Path(hidden).parent} to PATH"
        return Feature(name=name, state=State.MISSING, detail=f"{hidden} is not on the PATH", remedy=remedy)
    if path is None:
        return Feature(name=name, state=State.MISSING, detail="not installed", remedy=f"install {package}")
    if name not in (FeatureName.IPTABLES, FeatureName.IP6TABLES):
        return Feature(name=name, state=State.WORKS, detail=path)
    version = _version(path)
    legacy = "legacy" in version
    remedy = "the unit files need the nf_tables variant: choose it with update-alternatives" if legacy else ""
    return Feature(name=name, state=State.WORKS, detail=f"{path}, {version}", remedy=remedy)


def _version(path: str) -> str:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=1, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "which does not say its version"
    return done.stdout.strip() or "which does not say its version"


def _btf() -> Iterator[Feature]:
    """BTF, and in it whether congestion control can be a program."""
    struct_ops = FeatureName.STRUCT_OPS
    try:
        with _BTF.open("rb") as file:
            data = file.read(_BTF_BYTES_MAX)
    except OSError as error:
        there = not isinstance(error, FileNotFoundError)
        cause = error.strerror or str(error)
        yield Feature(
            name=FeatureName.BTF,
            state=State.REFUSED if there else State.MISSING,
            detail=f"{_BTF}: {cause}",
            remedy="" if there else "take a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions have",
        )
        detail = "not to be found out without BTF"
        yield Feature(name=struct_ops, state=State.MISSING, detail=detail)
        return
    yield Feature(name=FeatureName.BTF, state=State.WORKS, detail=f"{_BTF}, {len(data) >> 10} KiB")
    if _STRUCT_OPS_TYPE in data:
        detail = "the kernel takes programs as tcp_congestion_ops"
        yield Feature(name=struct_ops, state=State.WORKS, detail=detail)
    else:
        remedy = "take a kernel with CONFIG_BPF_JIT=y and TCP in it"
        yield Feature(
            name=struct_ops, state=State.MISSING, detail="no struct_ops for tcp_congestion_ops", remedy=remedy
        )


def cgroup_v2_mount(mounts: Path = Path("/proc/self/mounts")) -> Path | None:
    for line in _text(mounts).splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] == "cgroup2":
            return Path(fields[1].replace("\\040", " "))
    return None


def _cgroup_v2() -> Feature:
    mount = cgroup_v2_mount()
    if mount is not None:
        return Feature(name=FeatureName.CGROUP_V2, state=State.WORKS, detail=f"mounted at {mount}")
    remedy = "mount -t cgroup2 none /sys/fs/cgroup (systemd does it with systemd.unified_cgroup_hierarchy=1)"
    return Feature(name=FeatureName.CGROUP_V2, state=State.MISSING, detail="not mounted", remedy=remedy)


def _objects(directory: Path) -> Feature:
    name = FeatureName.EBPF_OBJECTS
    objects = sorted(path.name for path in directory.glob("*.bpf.o"))
    if objects:
        return Feature(name=name, state=State.WORKS, detail=f"{', '.join(objects)} in {directory}")
    remedy = "run scripts/build-ebpf (needs clang and libbpf-dev), or install a package that has them"
    return Feature(name=name, state=State.MISSING, detail=f"no compiled eBPF programs in {directory}", remedy=remedy)


def _network(proc: Path) -> Iterator[Feature]:
    has_ipv6 = (proc / "net/if_inet6").exists()
    off = _text(proc / "sys/net/ipv6/conf/all/disable_ipv6").strip() == "1"
    yield Feature(
        name=FeatureName.IPV6,
        state=State.WORKS if has_ipv6 and not off else State.MISSING,
        detail="switched off by net.ipv6.conf.all.disable_ipv6" if off else "on" if has_ipv6 else "not in this kernel",
    )
    names = (FeatureName.CONGESTION_CONTROLS, FeatureName.DEFAULT_CONGESTION_CONTROL, FeatureName.ECN)
    ipv4 = proc / "sys/net/ipv4"
    available = _text(ipv4 / "tcp_available_congestion_control").split()
    allowed = _text(ipv4 / "tcp_allowed_congestion_control").split()
    default = _text(ipv4 / "tcp_congestion_control").strip()
    # Another network namespace than the initial one shows no list of its own: there, what is allowed is available.
    listed = available or allowed or ([default] if default else [])
    shown = " ".join(f"{each} (not for everyone)" if allowed and each not in allowed else each for each in listed)
    state = State.WORKS if listed else State.MISSING
    yield Feature(name=names[0], state=state, detail=shown or "not to be read")
    note = ", which does not slow down for ECN marks" if default == "bbr" else ""
    yield Feature(name=names[1], state=State.WORKS if default else State.MISSING, detail=f"{default or '?'}{note}")
    ecn = _text(ipv4 / "tcp_ecn").strip()
    meaning = {"0": "never", "1": "asked for and answered", "2": "answered, not asked for"}.get(ecn, "as it says")
    remedy = (
        "" if ecn in ("1", "3", "4", "5") else "sysctl net.ipv4.tcp_ecn=1, so that our own connections can be marked"
    )
    state = State.WORKS if ecn not in ("", "0") else State.MISSING
    yield Feature(name=names[2], state=state, detail=f"net.ipv4.tcp_ecn={ecn or '?'}: {meaning}", remedy=remedy)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# -- what trying says ------------------------------------------------------------------------------------------------


def _try_in_child() -> dict[FeatureName, Feature]:
    """What `dataplane.diagnosis.scratch_probe` answers; a child that dies or hangs has tried nothing."""
    answered: list[Feature] = []
    why = ""
    try:
        child = _start_child()
    except OSError as error:
        why = f"not tried: {sys.executable} cannot be started ({error.strerror})"
    else:
        try:
            output, complaint = child.communicate(timeout=PROBE_TIMEOUT_S)
            answered = msgspec.json.decode(output, type=list[Feature])
        except subprocess.TimeoutExpired:
            why = f"trying it did not finish within {PROBE_TIMEOUT_S} s"
        except msgspec.DecodeError:
            last = complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]
            why = f"the process that tries it failed: {last or f'code {child.returncode}'}"
        finally:
            _end(child)
    found = by_name(answered)
    return {
        name: found.get(name) or Feature(name=name, state=State.REFUSED, detail=why or "not answered", remedy="")
        for name in TRIED
    }


def _start_child() -> subprocess.Popen[bytes]:
    """In a session of its own, so that what it started ends with it."""
    arguments = [
        sys.executable,
        "-P",
        "-m",
        "dataplane.diagnosis.scratch_probe",
    ]  # -P: nothing from the directory we are in
    # Our own place on the search path: this also works in a checkout that is not installed.
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "XTABLES_LOCKFILE": "/dev/null"}
    return subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
