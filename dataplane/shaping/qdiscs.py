"""An interface's root qdisc with all that hangs on it: read, rehearsed, and put back as it was.

Decides: what can be put back exactly, and in which order it is made again. Refuses to know: what replaces it meanwhile.
Source: linux/pkt_sched.h, linux/pkt_cls.h; the dump functions of net/sched for what a dump leaves out.

What the kernel would make by itself comes back when the qdisc in its place goes. Anything else is made again from what
the kernel told of it; whether that gives the same is tried first, on a link that nobody uses. What a dump does not tell
(an eBPF filter's program, a table of sizes) cannot be made again, and then the user's qdisc is left alone.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from billpay.errors import EnvironmentFault
from dataplane import kernel_tools
from dataplane.record import QdiscUndo, Record, VirtualLinkUndo
from dataplane.shaping import rtnetlink as rt
from dataplane.shaping.htb import HANDLE, SizeTable
from dataplane.shaping.repeating import KINDS_WITH_CLASSES, new_htb, normalise, prepare, reason_against
from dataplane.shaping.rtnetlink import TcMessage, TcSocket

DIRECT_PACKETS: Final = 1000
"""Room for what is sent to no class, whatever queue length the interface has."""

_KERNELS_TX_QUEUE_LENGTH: Final = 1000
"""What the kernel sets when a qdisc comes to an interface whose queue length was 0."""


class Device(msgspec.Struct, frozen=True):
    """What we read of an `ip -details -json link show` entry."""

    ifindex: int
    ifname: str
    mtu: int
    link_type: str
    txqlen: int = 0
    num_tx_queues: int = 1


def read_device(name: str) -> Device:
    """Raises EnvironmentFault, also when there is no such interface."""
    arguments = ["ip", "-details", "-json", "link", "show", "dev", name]
    shown = kernel_tools.run(arguments, operation="read", target=name)
    return msgspec.json.decode(shown, type=list[Device])[0]


def has_ours(interface_index: int) -> bool:
    """Whether our tree is at the root there."""
    with TcSocket() as kernel:
        return _is_ours(_root_of(map(rt.read, kernel.dump(rt.RTM_GETQDISC, interface_index))))


def read_minors(interface_index: int) -> set[int]:
    """The minor numbers of the classes of our tree there."""
    with TcSocket() as kernel:
        handles = [rt.read(raw).handle for raw in kernel.dump(rt.RTM_GETTCLASS, interface_index)]
    return {handle & 0xFFFF for handle in handles if handle >> 16 == HANDLE}


def put_ours(device: Device, sizes: SizeTable, *, is_new: bool) -> None:
    """An HTB without classes, in the place of whatever is at the root; or another table of sizes for it."""
    attributes = [(rt.TCA_STAB, rt.pack_size_table(sizes))]
    if is_new:
        attributes += [(rt.TCA_KIND, b"htb\0"), (rt.TCA_OPTIONS, new_htb(DIRECT_PACKETS))]
    message = TcMessage(
        type=rt.RTM_NEWQDISC,
        interface_index=device.ifindex,
        handle=HANDLE << 16,
        parent=rt.TC_H_ROOT,
        info=0,
        attributes=tuple(attributes),
    )
    with TcSocket() as kernel:
        kernel.change(message, rt.CREATE | rt.REPLACE if is_new else 0, target=f"the qdisc of {device.ifname}")


def read_tree(interface_index: int) -> list[bytes]:
    """The root qdisc and all below it: qdiscs, classes, filters, chains, each as the kernel tells it."""
    with TcSocket() as kernel:
        return _read_tree(kernel, interface_index)


def _read_tree(kernel: TcSocket, index: int) -> list[bytes]:
    qdiscs = [raw for raw in kernel.dump(rt.RTM_GETQDISC, index) if rt.read(raw).parent != rt.TC_H_INGRESS]
    majors = {rt.read(raw).handle >> 16 for raw in qdiscs}
    classes = [raw for raw in kernel.dump(rt.RTM_GETTCLASS, index) if rt.read(raw).handle >> 16 in majors]
    places = [handle for raw in (*qdiscs, *classes) if (handle := rt.read(raw).handle)]
    attached = [
        raw
        for place in dict.fromkeys(places)
        for kind in (rt.RTM_GETTFILTER, rt.RTM_GETCHAIN)
        for raw in kernel.dump(kind, index, place)
    ]
    return [*qdiscs, *classes, *attached]


def _root_of(messages: Iterable[TcMessage]) -> TcMessage | None:
    return next((each for each in messages if each.type == rt.RTM_NEWQDISC and each.parent == rt.TC_H_ROOT), None)


def _is_ours(root: TcMessage | None) -> bool:
    return root is not None and root.kind == "htb" and root.handle == HANDLE << 16


# -- saving ----------------------------------------------------------------------------------------------------------


def save_root(device: Device, record: Record) -> None:
    """Writes into the record what puts the root qdisc back. Raises EnvironmentFault when that would not be exact."""
    messages = read_tree(device.ifindex)
    tree = [rt.read(raw) for raw in messages]
    is_default = not any(each.handle for each in tree if each.type == rt.RTM_NEWQDISC)
    if is_default:
        _rehearse_default(device, messages, record)
    else:
        _rehearse(device, messages, record)
    undo = QdiscUndo(
        interface=device.ifname,
        interface_index=device.ifindex,
        is_default=is_default,
        tx_queue_length=device.txqlen,
        messages=tuple(messages),
    )
    record.add(undo)


def _left_alone(device: Device, root: TcMessage | None, reason: str) -> EnvironmentFault:
    name = f"{root.kind} {rt.show_handle(root.handle)}" if root else "none"
    cause = f"its qdisc {name} cannot be put back exactly: {reason}; it is left alone, nothing is shaped there"
    return EnvironmentFault("shape", device.ifname, cause, f"if nobody needs it: tc qdisc del dev {device.ifname} root")


def _rehearse_default(device: Device, messages: Sequence[bytes], record: Record) -> None:
    """It is older than a change of net.core.default_qdisc if the kernel makes another one for a new interface."""
    tree = [rt.read(raw) for raw in messages]
    root = _root_of(tree)
    if root is None or root.kind == "noqueue":
        return
    with _scratch_link(device, record, is_up=True) as scratch:
        if scratch is None:
            return
        made = [rt.read(raw) for raw in read_tree(scratch)]
    if _looks(tree) != _looks(made):
        reason = f"the kernel would now make {' '.join(sorted({each.kind for each in made}))} instead"
        raise _left_alone(device, root, reason)


def _looks(tree: Iterable[TcMessage]) -> set[tuple[object, ...]]:
    """Without how many: a network card may have more queues than it uses."""
    return {
        (each.kind, each.parent == rt.TC_H_ROOT, *normalise(each)[4:]) for each in tree if each.type == rt.RTM_NEWQDISC
    }


def _rehearse(device: Device, messages: Sequence[bytes], record: Record) -> None:
    tree = [rt.read(raw) for raw in messages]
    root = _root_of(tree)
    if _is_ours(root):
        cause = f"it has a qdisc {rt.show_handle(HANDLE << 16)} of which we have no record; it is left alone"
        raise EnvironmentFault("shape", device.ifname, cause, f"tc qdisc del dev {device.ifname} root")
    for each in tree:
        if reason := reason_against(each):
            raise _left_alone(device, root, reason)
    with _scratch_link(device, record, is_up=False) as scratch:
        if scratch is None:
            raise _left_alone(device, root, "there is no ifb or dummy interface here to try it on")
        try:
            with TcSocket() as kernel:
                _replay(kernel, tree, scratch, device.ifname)
        except EnvironmentFault as fault:
            raise _left_alone(device, root, str(fault.cause)) from fault
        differing = _differing(messages, read_tree(scratch))
    if differing:
        raise _left_alone(device, root, f"{differing} would come back differently")


@contextlib.contextmanager
def _scratch_link(device: Device, record: Record, *, is_up: bool) -> Iterator[int | None]:
    """The index of a link with as many queues, as long as this lasts; None where the kernel can make none."""
    name = f"ha-try{device.ifindex}"
    undo = VirtualLinkUndo(name=name)
    record.add(undo)
    delete_link(name)
    # Only an ifb gets the queue of a real interface by default.
    index = None
    try:
        for kind in ("ifb",) if is_up else ("ifb", "dummy"):
            with contextlib.suppress(EnvironmentFault):
                index = make_link(
                    name, kind, mtu=device.mtu, tx_queue_length=device.txqlen, tx_queues=device.num_tx_queues
                )
                break
        if index is not None and is_up:
            bring_up(name)
        yield index
    finally:
        delete_link(name)
        record.discard(undo)


def make_link(name: str, kind: str, *, mtu: int = 1500, tx_queue_length: int = 1000, tx_queues: int = 1) -> int:
    """Its index; without an address of its own. Raises EnvironmentFault."""
    numbers = ["mtu", mtu, "txqueuelen", tx_queue_length, "numtxqueues", tx_queues]
    _ip("add", name, *(str(each) for each in numbers), "type", kind)
    with contextlib.suppress(EnvironmentFault):  # a kernel without IPv6 gives it none anyway
        _ip("set", "dev", name, "addrgenmode", "none")
    return socket.if_nametoindex(name)


def bring_up(name: str) -> None:
    _ip("set", "dev", name, "up")


def _ip(*arguments: str) -> None:
    kernel_tools.run(["ip", "link", *arguments], operation="run ip", target=f"link {' '.join(arguments)}")


def delete_link(name: str) -> None:
    """Nothing if there is none."""
    with contextlib.suppress(OSError):
        socket.if_nametoindex(name)
        _ip("delete", "dev", name)


def _differing(before: Iterable[bytes], after: Iterable[bytes]) -> str:
    """Names one object that is not the same, empty when all are. The order in which they are told does not count."""
    had, has = (Counter(normalise(rt.read(raw)) for raw in messages) for messages in (before, after))
    for each in (had - has) or (has - had):
        _, noun, kind, *place = each
        return f"{noun} {kind} {place[0]}".strip()
    return ""


# -- putting back ----------------------------------------------------------------------------------------------------


def restore_root(undo: QdiscUndo) -> None:
    """Nothing if the interface is gone, or somebody has put another qdisc there. Raises EnvironmentFault."""
    try:
        name = socket.if_indextoname(undo.interface_index)
    except OSError:
        return
    tree = [rt.read(raw) for raw in undo.messages]
    with TcSocket() as kernel:
        present = _read_tree(kernel, undo.interface_index)
        root = _root_of(map(rt.read, present))
        if _is_ours(root):
            if undo.is_default:
                _delete_root(kernel, undo.interface_index, name)
            else:
                _replay(kernel, tree, undo.interface_index, name)
        elif not undo.is_default and _is_begun(present, undo.messages):
            _replay(kernel, tree, undo.interface_index, name)
        else:
            return
        _restore_queue_length(undo, name)
        differing = "" if undo.is_default else _differing(undo.messages, _read_tree(kernel, undo.interface_index))
    if differing:
        cause = f"{differing} came back differently"
        raise EnvironmentFault("put back", f"the qdisc of {name}", cause, f"see tc -d qdisc show dev {name}")


def _is_begun(present: Iterable[bytes], wanted: Iterable[bytes]) -> bool:
    """Whether it is a part of the wanted tree and nothing else: what a restore leaves that was killed in the middle."""
    part, whole = ([rt.read(raw) for raw in messages] for messages in (present, wanted))
    root = _root_of(part)
    names = {_place(each) for each in whole}
    return root is not None and normalise(root) in map(normalise, whole) and {_place(each) for each in part} < names


def _delete_root(kernel: TcSocket, index: int, name: str) -> None:
    gone = TcMessage(
        type=rt.RTM_DELQDISC, interface_index=index, handle=HANDLE << 16, parent=rt.TC_H_ROOT, info=0, attributes=()
    )
    kernel.change(gone, 0, target=f"the qdisc of {name}")


def _restore_queue_length(undo: QdiscUndo, name: str) -> None:
    if undo.tx_queue_length == 0 and read_device(name).txqlen == _KERNELS_TX_QUEUE_LENGTH:
        _ip("set", "dev", name, "txqueuelen", "0")


def _replay(kernel: TcSocket, tree: Sequence[TcMessage], index: int, name: str) -> None:
    """Makes what is not there yet. The root takes the place of whatever is there, at once."""

    def make(message: TcMessage, flags: int) -> None:
        sent = prepare(message, index)
        kernel.change(sent, flags, target=f"{message.kind} {rt.show_handle(message.handle)} of {name}")

    qdiscs = _in_order([each for each in tree if each.type == rt.RTM_NEWQDISC])
    there = _places(kernel, index)
    for qdisc in qdiscs:
        if _place(qdisc) not in there:
            make(qdisc, rt.CREATE | (rt.REPLACE if qdisc.parent == rt.TC_H_ROOT else rt.EXCLUSIVE))
        if qdisc.kind in KINDS_WITH_CLASSES:
            for each in _in_order([each for each in tree if _is_class_of(each, qdisc)]):
                if _place(each) not in there:
                    make(each, rt.CREATE | rt.EXCLUSIVE)
    filters = [each for each in tree if each.type == rt.RTM_NEWTFILTER]
    # A hash table of u32 is there before a filter is put into it or leads to it; its first one comes with the head.
    for rank in range(3):
        there = _places(kernel, index)
        for each in filters:
            if _rank(each) == rank and _place(each) not in there:
                make(each, rt.CREATE if each.kind == "u32" else rt.CREATE | rt.EXCLUSIVE)


def _rank(message: TcMessage) -> int:
    """0: the head of the filters of one priority, 1: a hash table, 2: a filter. Only u32 has heads of its own."""
    if not message.handle:
        return 0 if message.kind == "u32" else -1
    return 1 if message.kind == "u32" and not message.handle & 0xFFF else 2


def _is_class_of(message: TcMessage, qdisc: TcMessage) -> bool:
    return message.type == rt.RTM_NEWTCLASS and message.handle >> 16 == qdisc.handle >> 16


def _in_order(messages: Sequence[TcMessage]) -> list[TcMessage]:
    """Each after what it hangs on. Otherwise backwards: the kernel tells the newest first."""
    ordered: list[TcMessage] = []
    waiting = [each for each in reversed(messages) if each.handle]
    while waiting:
        hanging = {each.handle for each in waiting}
        majors = {each.handle for each in waiting if each.type == rt.RTM_NEWQDISC}
        free = [each for each in waiting if each.parent not in hanging and each.parent & 0xFFFF_0000 not in majors]
        ordered += free or waiting
        waiting = [each for each in waiting if each not in ordered]
    return ordered


_Place = tuple[int, int, int, int, bytes | None]


def _place(message: TcMessage) -> _Place:
    """What no two objects of an interface share."""
    info = message.info if message.type == rt.RTM_NEWTFILTER else 0
    return message.type, message.handle, message.parent, info, rt.find(message.attributes, rt.TCA_CHAIN)


def _places(kernel: TcSocket, index: int) -> set[_Place]:
    return {_place(rt.read(raw)) for raw in _read_tree(kernel, index)}
