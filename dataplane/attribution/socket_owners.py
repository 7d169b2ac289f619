"""Whose flow it is: flow -> socket -> process -> program.

Decides: which socket sends a flow's packets, and which process a socket belongs to when several have it. Refuses to
know: how the packets came here. Source: proc(5) for /proc/PID/fd; udp(7) and socket(7) for SO_REUSEPORT;
`dataplane.attribution.inet_diag`.

Meant to be asked while the first packet of a flow is held: the program waits for nothing, but its socket and, unless
it gave up at once, the program itself are still there.

Of several processes that have a socket the one that started last is named. Who opens a socket in order to hand it on
(systemd, inetd, a server before it forks its workers, a shell) starts before those who use it. This is wrong where a
program leaks a socket into a child that never uses it.

Where to look, the likeliest first: the control group in which the socket was made, the processes of its user, all
others. The search ends at the first of them that has an owner.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from dataplane.attribution.inet_diag import TCP, UDP, InetDiag, Socket
from dataplane.attribution.processes import Processes
from dataplane.metering import FlowKey, Program

CACHE_ENTRIES: Final = 8192

_SOCKET_PREFIX: Final = "socket:["


class Owner(NamedTuple):
    """`process_id` 0: no process has the socket now; the program is what the socket itself tells."""

    program: Program
    process_id: int


class _Holder(NamedTuple):
    process_id: int
    start_ticks: int
    descriptor: str


class SocketOwners:
    """Answers for the network namespace of the thread that makes it."""

    def __init__(self, processes: Processes, diag: InetDiag | None = None) -> None:
        self._processes = processes
        self._diag = diag or InetDiag()
        self._holders: OrderedDict[int, _Holder] = OrderedDict()

    def close(self) -> None:
        self._diag.close()

    def owner_of(self, key: FlowKey) -> Program | None:
        """None: no TCP or UDP socket of this namespace sends or receives this flow."""
        owner = self.find(key)
        return owner.program if owner else None

    def find(self, key: FlowKey) -> Owner | None:
        """The same with the process."""
        sockets = self._sockets(key)
        owners = [owner for owner in map(self.owner_of_socket, sockets) if owner]
        if len(owners) < 2:
            return owners[0] if owners else None
        return max(owners, key=self._started)

    def owner_of_socket(self, found: Socket, *, is_learnt: bool = False) -> Owner | None:
        """None: it belongs to the kernel, or nothing is known of the program that had it.

        is_learnt: it was among those of `learn`; do not search again.
        """
        process_id = self.process_of(found, is_learnt=is_learnt)
        program = self._processes.program(process_id) if process_id else None
        if program is not None:
            return Owner(program, process_id)
        if not found.inode:
            return None
        # Another user's, and we are not privileged, or it is gone since: the socket's own marks are what is left.
        program = self._processes.ended_program(name="", user_id=found.user_id, control_group_id=found.control_group_id)
        return Owner(program, 0)

    def process_of(self, found: Socket, *, is_learnt: bool = False) -> int:
        """0 when none has it, or none that we may look into."""
        if not found.inode:
            return 0
        known = self._holders.get(found.inode)
        if known is not None and (is_learnt or self._still_holds(known, found.inode)):
            return known.process_id
        if is_learnt:
            return 0
        return self._search({found.inode}, found.control_group_id, found.user_id).get(found.inode, 0)

    def learn(self, sockets: Iterable[Socket]) -> None:
        """Finds the processes of many sockets in one walk."""
        wanted: set[int] = set()
        for inode in {each.inode for each in sockets if each.inode}:
            known = self._holders.get(inode)
            if known is None or not self._still_holds(known, inode):
                self._holders.pop(inode, None)
                wanted.add(inode)
        if wanted:
            self._keep(self._scan(wanted, self._all()))

    # -- sockets -----------------------------------------------------------------------------------------------------

    def _sockets(self, key: FlowKey) -> list[Socket]:
        """One, but where the kernel cannot say which of those that share a port sends."""
        if key.protocol == TCP:
            return self._tcp_socket(key)
        if key.protocol != UDP or not key.local_port:
            return []
        candidates = [each for each in self._diag.udp_at(key.local_port) if _may_carry(each, key)]
        best = max((_closeness(each) for each in candidates), default=0)
        # Equals are SO_REUSEPORT's. For what arrives the kernel picks by hash, but any of them may have sent this.
        return [each for each in candidates if _closeness(each) == best]

    def _tcp_socket(self, key: FlowKey) -> list[Socket]:
        found = self._diag.find(
            protocol=TCP, local=key.local, local_port=key.local_port, remote=key.remote, remote_port=key.remote_port
        )
        if found is not None and not found.inode:
            # Not yet accepted: the connection is the listener's.
            anyone = bytes(len(key.remote))
            listener = self._diag.find(
                protocol=TCP, local=key.local, local_port=key.local_port, remote=anyone, remote_port=0
            )
            found = listener or found
        return [found] if found else []

    def _started(self, owner: Owner) -> tuple[int, int]:
        life = self._processes.life(owner.process_id) if owner.process_id else None
        return (life.start_ticks if life else -1, owner.process_id)

    # -- processes ---------------------------------------------------------------------------------------------------

    def _search(self, wanted: set[int], control_group_id: int, user_id: int) -> dict[int, int]:
        searched: set[int] = set()
        for candidates in self._candidates(control_group_id, user_id):
            fresh = [each for each in candidates if each not in searched]
            searched.update(fresh)
            found = self._scan(wanted, fresh)
            if found:
                self._keep(found)
                return {inode: holder.process_id for inode, holder in found.items()}
        return {}

    def _candidates(self, control_group_id: int, user_id: int) -> Iterator[list[int]]:
        yield self._processes.members(control_group_id)
        everyone = self._all()
        yield [each for each in everyone if self._user_of(each) == user_id]
        yield everyone

    def _all(self) -> list[int]:
        return [int(name) for name in os.listdir(self._processes.proc) if name.isdigit()]

    def _user_of(self, process_id: int) -> int | None:
        try:
            return os.stat(f"{self._processes.proc}/{process_id}").st_uid
        except OSError:
            return None

    def _scan(self, wanted: set[int], candidates: Iterable[int]) -> dict[int, _Holder]:
        """Who has the sockets: of several the one that started last, of those the higher id."""
        links = {f"{_SOCKET_PREFIX}{inode}]": inode for inode in wanted}
        found: dict[int, _Holder] = {}
        for process_id in candidates:
            held = self._held(process_id, links)
            life = self._processes.life(process_id) if held else None
            if life is None:
                continue
            for inode, descriptor in held.items():
                holder = _Holder(process_id, life.start_ticks, descriptor)
                known = found.get(inode)
                if known is None or (known.start_ticks, known.process_id) < (holder.start_ticks, process_id):
                    found[inode] = holder
        return found

    def _held(self, process_id: int, links: dict[str, int]) -> dict[int, str]:
        """Inode and descriptor of those among `links` that the process has open."""
        directory = f"{self._processes.proc}/{process_id}/fd/"
        held: dict[int, str] = {}
        try:
            descriptors = os.listdir(directory)
        except OSError:
            return held  # gone, or another user's
        for descriptor in descriptors:
            try:
                link = os.readlink(directory + descriptor)
            except OSError:
                continue
            if link in links:
                held[links[link]] = descriptor
                if len(held) == len(links):
                    break
        return held

    def _keep(self, found: dict[int, _Holder]) -> None:
        for inode, holder in found.items():
            self._holders[inode] = holder
            self._holders.move_to_end(inode)
        while len(self._holders) > CACHE_ENTRIES:
            self._holders.popitem(last=False)

    def _still_holds(self, holder: _Holder, inode: int) -> bool:
        """An inode's number is given again, and so is a process's; both at once, at one descriptor, never mind."""
        try:
            link = os.readlink(f"{self._processes.proc}/{holder.process_id}/fd/{holder.descriptor}")
        except OSError:
            return False
        return link == f"{_SOCKET_PREFIX}{inode}]"


def _may_carry(found: Socket, key: FlowKey) -> bool:
    """Whether a UDP socket of the right port can send packets of this flow."""
    if found.bound_interface_index not in (0, key.interface_index):
        return False
    if found.remote_port and (found.remote_port, found.remote) != (key.remote_port, key.remote):
        return False
    if any(found.local):
        return found.local == key.local
    return len(found.local) == len(key.local) or (len(key.local) == 4 and not found.is_v6_only)


def _closeness(found: Socket) -> int:
    """A connected socket goes before one that is bound to an address, which goes before a wildcard: as in udp(7)."""
    return 1 + 4 * bool(found.remote_port) + 2 * any(found.local) + (found.bound_interface_index > 0)
