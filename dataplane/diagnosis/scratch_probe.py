"""Tries what the kernel can do, in a network namespace that ends with this process; prints a list of features as JSON.

Decides: how each thing is tried. Refuses to know: what it is for.
Source: unshare(2), user_namespaces(7), sock_diag(7); bpf(2); tc(8), ip-link(8), iptables-restore(8).

Started by `features`. Two things are tried outside of the new namespace, since they are not part of it: a
program that lets everything pass is attached to the control group's root for a few microseconds, and an empty request
goes to sock_diag. What would load a module is not tried (`kernel_modules`).
"""

from __future__ import annotations

import ctypes
import errno
import gzip
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from billpay.errors import EnvironmentFault
from dataplane import kernel_tools
from dataplane.desired import Family
from dataplane.diagnosis import bpf_probe
from dataplane.diagnosis.features import Feature, FeatureName, State, cgroup_v2_mount
from dataplane.diagnosis.kernel_modules import Module, Modules, read_modules

_CLONE_NEWUSER: Final = 0x1000_0000
_CLONE_NEWNET: Final = 0x4000_0000
_PR_SET_PDEATHSIG: Final = 1
_SIGKILL: Final = 9
_NETLINK_SOCK_DIAG: Final = 4
_LOOPBACK_INDEX: Final = 1  # in every network namespace
_NOT_ALLOWED: Final = frozenset({errno.EPERM, errno.EACCES})
_AS_ROOT: Final = "run as root or with CAP_NET_ADMIN"
_LIBRARY: Final = "libbpf.so.1"

_LIBC = ctypes.CDLL(None, use_errno=True)


class Scratch(Enum):
    """Where things can be tried."""

    PRIVILEGED = "a network namespace of our own"
    USER = "a user namespace of our own: what the kernel has, not what we may use"
    NONE = "nowhere: neither we nor users may make namespaces here"


# -- namespaces ------------------------------------------------------------------------------------------------------


def enter_scratch() -> Scratch:
    """Moves this process into a network namespace that nobody else has, as far as it may."""
    if _unshare(_CLONE_NEWNET) == 0:
        return Scratch.PRIVILEGED
    user, group = os.geteuid(), os.getegid()
    if _unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        return Scratch.NONE
    # iptables wants to be root, if only here.
    for name, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        try:
            Path(f"/proc/self/{name}").write_bytes(line.encode())
        except OSError:
            return Scratch.NONE
    return Scratch.USER


def _unshare(flags: int) -> int:
    """0, or the error."""
    return ctypes.get_errno() if _LIBC.unshare(flags) else 0


def user_namespaces() -> Feature:
    """A child tries, since one cannot come back."""
    child = os.fork()
    if child == 0:
        os._exit(_unshare(_CLONE_NEWUSER))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    name = FeatureName.USER_NAMESPACES
    if code == 0:
        return _works(name, "can be made")
    why = "user.max_user_namespaces allows no more" if code == errno.ENOSPC else os.strerror(code)
    detail = f"cannot be made: {why}"
    remedy = "none needed: they only let people without privileges try things"
    return Feature(name=name, state=State.REFUSED, detail=detail, remedy=remedy)


# -- eBPF ------------------------------------------------------------------------------------------------------------


def bpf() -> Feature:
    name = FeatureName.BPF
    try:
        with bpf_probe.program(bpf_probe.SCHED_CLS, returns=bpf_probe.TCX_NEXT):
            return _works(name, "a packet program was loaded")
    except OSError as error:
        if error.errno in _NOT_ALLOWED:
            remedy = "run as root or with CAP_BPF and CAP_NET_ADMIN (a unit's SystemCallFilter must allow bpf, too)"
            return Feature(name=name, state=State.REFUSED, detail="loading a program: not permitted", remedy=remedy)
        detail = f"loading a program: {error.strerror}"
        remedy = "take a kernel with CONFIG_BPF_SYSCALL=y and CONFIG_NET_CLS_BPF"
        return Feature(name=name, state=State.MISSING, detail=detail, remedy=remedy)


def cgroup_attach() -> Feature:
    """To the root of the tree, where the agent's own programs go: another's exclusive one would be in the way there."""
    name = FeatureName.CGROUP_ATTACH
    mount = cgroup_v2_mount()
    if mount is None:
        return Feature(name=name, state=State.MISSING, detail="no cgroup v2 is mounted")
    try:
        root = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        return Feature(name=name, state=State.REFUSED, detail=f"{mount}: {error.strerror}")
    place = bpf_probe.CGROUP_INET_SOCK_CREATE
    try:
        with (
            bpf_probe.program(bpf_probe.CGROUP_SOCK, returns=1, attach=place) as program,
            bpf_probe.link(program, root, place),
        ):
            return _works(name, f"a socket program was attached to {mount} and taken off again")
    except OSError as error:
        if error.errno in _NOT_ALLOWED:
            remedy = "run as root or with CAP_BPF and CAP_NET_ADMIN"
            return Feature(name=name, state=State.REFUSED, detail="not permitted", remedy=remedy)
        remedy = "take a kernel with CONFIG_CGROUP_BPF=y"
        return Feature(name=name, state=State.MISSING, detail=error.strerror or str(error), remedy=remedy)
    finally:
        os.close(root)


def tcx(scratch: Scratch) -> Feature:
    """Attached in a namespace of our own; where there is none, the kernel is only asked who is attached to lo."""
    name = FeatureName.TCX
    try:
        if scratch is not Scratch.PRIVILEGED:
            bpf_probe.attached(_LOOPBACK_INDEX, bpf_probe.TCX_INGRESS)
            return _works(name, "the kernel knows it (asked, not tried)")
        with bpf_probe.program(
            bpf_probe.SCHED_CLS, returns=bpf_probe.TCX_NEXT, attach=bpf_probe.TCX_INGRESS
        ) as program:
            for place in (bpf_probe.TCX_INGRESS, bpf_probe.TCX_EGRESS):
                with bpf_probe.link(program, _LOOPBACK_INDEX, place):
                    pass
        return _works(name, "a packet program was linked to an interface and taken off again")
    except OSError as error:
        if error.errno in _NOT_ALLOWED:
            remedy = "run as root or with CAP_BPF and CAP_NET_ADMIN"
            return Feature(name=name, state=State.REFUSED, detail="not permitted", remedy=remedy)
        remedy = "take a kernel that has tcx links (CONFIG_NET_XGRESS)"
        return Feature(name=name, state=State.MISSING, detail=f"linking: {error.strerror}", remedy=remedy)


def libbpf() -> Feature:
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as error:
        detail = str(error).removeprefix(f"{_LIBRARY}: ")
        remedy = "install libbpf1 (Debian, Ubuntu) or libbpf (Fedora, Arch)"
        return Feature(name=FeatureName.LIBBPF, state=State.MISSING, detail=f"{_LIBRARY}: {detail}", remedy=remedy)
    return _works(FeatureName.LIBBPF, f"{_LIBRARY} can be loaded")


# -- sockets ---------------------------------------------------------------------------------------------------------


def socket_diagnosis(modules: Modules) -> Feature:
    """Asks for listening TCP sockets, of which nothing is kept."""
    name = FeatureName.SOCKET_DIAGNOSIS
    if sleeping := modules.among(("tcp_diag", "inet_diag"), Module.ON_DISK):
        return _works(name, _not_tried(sleeping))
    listening = 1 << 10
    request = struct.pack("=BBBBI48x", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, listening)
    header = struct.pack("=IHHII", 16 + len(request), 20, 0x301, 1, 0)  # SOCK_DIAG_BY_FAMILY, REQUEST | DUMP
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as diag:
            diag.settimeout(1.0)
            diag.send(header + request)
            answer = diag.recv(65536)
    except OSError as error:
        return Feature(name=name, state=State.MISSING, detail=error.strerror or str(error), remedy=_DIAG_REMEDY)
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind == 2 and (code := -struct.unpack_from("=i", answer, 16)[0]):  # NLMSG_ERROR
        return Feature(name=name, state=State.MISSING, detail=os.strerror(code), remedy=_DIAG_REMEDY)
    return _works(name, "the kernel tells every TCP socket's counters")


_DIAG_REMEDY: Final = "take a kernel with CONFIG_INET_TCP_DIAG"


# -- what is tried in the namespace ----------------------------------------------------------------------------------


def links_and_qdiscs(scratch: Scratch, modules: Modules) -> Iterator[Feature]:
    """Interfaces are named like nobody's; loopback takes any qdisc."""
    for name, kind, module in (
        (FeatureName.HTB, "htb", "sch_htb"),
        (FeatureName.FQ, "fq", "sch_fq"),
        (FeatureName.FQ_CODEL, "fq_codel", "sch_fq_codel"),
    ):
        arguments = ["tc", "qdisc", "replace", "dev", "lo", "root", "handle", "1:", kind]
        yield _feature(name, scratch, modules, (module,), partial(_run, arguments))
    for name, kind in ((FeatureName.IFB, "ifb"), (FeatureName.DUMMY, "dummy")):
        arguments = ["ip", "link", "add", f"{kind}probe", "type", kind]
        yield _feature(name, scratch, modules, (kind,), partial(_run, arguments))


_RULES: Final = (
    # Feature, its modules, table, rule.
    (FeatureName.NFQUEUE, ("xt_NFQUEUE", "nfnetlink_queue"), "raw", "-j NFQUEUE --queue-num 7416 --queue-bypass"),
    (FeatureName.MARK, ("xt_mark",), "mangle", "-m mark --mark 0x1/0x1 -j MARK --set-xmark 0x0/0x1"),
    (FeatureName.ADDRTYPE, ("xt_addrtype",), "raw", "-m addrtype ! --dst-type LOCAL"),
    (FeatureName.CONNTRACK, ("xt_conntrack", "nf_conntrack"), "mangle", "-m conntrack --ctstate NEW"),
)


def rules(scratch: Scratch, modules: Modules) -> Iterator[Feature]:
    """The rules that dataplane/rules.py writes, by the same program."""
    for name, needed, table, rule in _RULES:
        yield _feature(name, scratch, modules, (*_tables(modules, table), *needed), _rule(4, table, rule))
    name = FeatureName.NFQUEUE_IPV6
    if not Path("/proc/net/if_inet6").exists():
        yield Feature(name=name, state=State.MISSING, detail="this kernel has no IPv6")
        return
    _, needed, table, rule = _RULES[0]
    yield _feature(name, scratch, modules, (*_tables(modules, table), *needed), _rule(6, table, rule))


def _rule(family: Family, table: str, rule: str) -> Callable[[], None]:
    program = "iptables-restore" if family == 4 else "ip6tables-restore"
    text = "\n".join([f"*{table}", f"-A OUTPUT {rule}", "COMMIT", ""])
    return lambda: _run([program, "--noflush", "--wait"], text)


def _tables(modules: Modules, table: str) -> tuple[str, ...]:
    """What iptables itself needs: either variant's modules, whichever of them this kernel has."""
    variants = (("nf_tables", "nft_compat", "x_tables"), ("ip_tables", f"iptable_{table}", "x_tables"))
    known = (each for each in variants if not modules.among(each, Module.ABSENT))
    return next(known, ())


def _run(arguments: list[str], text: str | None = None) -> None:
    kernel_tools.run(arguments, operation="try", target=arguments[0], text=text)


def _feature(
    name: FeatureName, scratch: Scratch, modules: Modules, needed: tuple[str, ...], attempt: Callable[[], None]
) -> Feature:
    """Tries it, unless that would load a module or there is no place for it."""
    if locked := modules.among(needed, Module.LOCKED):
        detail = f"module {', '.join(locked)} is not loaded, and this kernel takes no more modules"
        return Feature(name=name, state=State.MISSING, detail=detail, remedy="load it at boot: /etc/modules-load.d")
    if sleeping := modules.among(needed, Module.ON_DISK):
        if absent := modules.among(needed, Module.ABSENT):
            return _missing_module(name, absent)
        return _works(name, _not_tried(sleeping))
    if scratch is Scratch.NONE:
        return _by_configuration(name, modules, needed)
    try:
        attempt()
    except EnvironmentFault as fault:
        refused = fault.cause == "not permitted"
        state = State.REFUSED if refused else State.MISSING
        return Feature(name=name, state=state, detail=str(fault.cause), remedy=fault.remedy or _kernel_remedy(name))
    return _works(name, "tried")


def _by_configuration(name: FeatureName, modules: Modules, needed: tuple[str, ...]) -> Feature:
    """No place to try: what lists of modules say, else the configuration that the kernel was built with."""
    if absent := modules.among(needed, Module.ABSENT):
        return _missing_module(name, absent)
    unknown = modules.among(needed, Module.UNKNOWN)
    built = _kernel_configuration() if unknown else frozenset()
    options = [_OPTIONS[each] for each in unknown if each in _OPTIONS]
    lacking = [option for option in options if option not in built]
    if built and not lacking:
        return _works(name, "the kernel is built with it (not tried)")
    if not unknown:
        return _works(name, "the kernel has its modules (not tried)")
    if built:
        detail = f"the kernel is built without {', '.join(lacking)}"
        return Feature(name=name, state=State.MISSING, detail=detail, remedy=_kernel_remedy(name))
    return Feature(
        name=name, state=State.REFUSED, detail="could not be tried: no namespace of our own", remedy=_AS_ROOT
    )


_OPTIONS: Final = {
    "sch_htb": "CONFIG_NET_SCH_HTB",
    "sch_fq": "CONFIG_NET_SCH_FQ",
    "sch_fq_codel": "CONFIG_NET_SCH_FQ_CODEL",
    "ifb": "CONFIG_IFB",
    "dummy": "CONFIG_DUMMY",
    "xt_NFQUEUE": "CONFIG_NETFILTER_XT_TARGET_NFQUEUE",
    "nfnetlink_queue": "CONFIG_NETFILTER_NETLINK_QUEUE",
    "xt_mark": "CONFIG_NETFILTER_XT_MARK",
    "xt_addrtype": "CONFIG_NETFILTER_XT_MATCH_ADDRTYPE",
    "xt_conntrack": "CONFIG_NETFILTER_XT_MATCH_CONNTRACK",
    "nf_conntrack": "CONFIG_NF_CONNTRACK",
}


def _kernel_configuration() -> frozenset[str]:
    """Options that are y or m; none when the kernel keeps it to itself."""
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{os.uname().release}")):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace")
        return frozenset(line.split("=")[0] for line in text.splitlines() if line.endswith(("=y", "=m")))
    return frozenset()


def _missing_module(name: FeatureName, absent: list[str]) -> Feature:
    detail = f"this kernel has no module {', '.join(absent)}"
    return Feature(name=name, state=State.MISSING, detail=detail, remedy=_kernel_remedy(name))


_KERNEL_OPTION: Final = {
    FeatureName.HTB: "CONFIG_NET_SCH_HTB",
    FeatureName.IFB: "CONFIG_IFB",
    FeatureName.NFQUEUE: "CONFIG_NETFILTER_XT_TARGET_NFQUEUE and CONFIG_NETFILTER_NETLINK_QUEUE",
    FeatureName.NFQUEUE_IPV6: "CONFIG_NETFILTER_XT_TARGET_NFQUEUE and CONFIG_IP6_NF_RAW",
    FeatureName.MARK: "CONFIG_NETFILTER_XT_MARK",
    FeatureName.ADDRTYPE: "CONFIG_NETFILTER_XT_MATCH_ADDRTYPE",
}


def _kernel_remedy(name: FeatureName) -> str:
    option = _KERNEL_OPTION.get(name)
    return f"take a kernel with {option}" if option else "nothing: the agent does without"


def _not_tried(modules: list[str]) -> str:
    return f"not tried: its first use loads module {', '.join(modules)}"


def _works(name: FeatureName, detail: str) -> Feature:
    return Feature(name=name, state=State.WORKS, detail=detail)


def main() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    modules = read_modules()
    # What is not part of a network namespace first, since a user namespace would take our privileges from it.
    found = [user_namespaces(), bpf(), cgroup_attach(), libbpf(), socket_diagnosis(modules)]
    outside = tcx(Scratch.NONE)
    scratch = enter_scratch()
    found.append(tcx(scratch) if scratch is Scratch.PRIVILEGED else outside)
    found += links_and_qdiscs(scratch, modules)
    found += rules(scratch, modules)
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
