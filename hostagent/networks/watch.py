"""Looks at this host's networks, once a second.

Decides: when lease files are read again, and that a router whose MAC nobody knows yet is asked for it.
Refuses to know: what a network is (`hostagent.networks.judging`), how a kernel is asked (`dataplane.network_state`).

Bound to the network namespace of the thread that makes it. A look reads, and sends nothing itself; the kernel may ask
the link for a router's MAC, as it does for any packet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from billpay.errors import EnvironmentFault
from dataplane.network_state import NetworkReader, NetworkState
from hostagent.networks.judging import judge
from hostagent.networks.leases import NO_LEASE, Lease, read_lease
from hostagent.networks.situation import Canonical, Managed, Seen, Situation

LEASES_ANEW_LOOKS: Final = 20
"""A lease says the same until it is renewed; it is also read when an interface's addresses change."""


class Reader(Protocol):
    def read(self) -> NetworkState: ...

    def resolve(self, interface: str, router: str) -> None: ...

    def close(self) -> None: ...


class NetworkWatch:
    """`manager()` gives what NetworkManager said last, `canonical(keys)` the key under which a network was remembered.

    Raises EnvironmentFault when the kernel cannot be asked at all.
    """

    def __init__(
        self,
        *,
        manager: Callable[[], Managed] = Managed,
        canonical: Canonical = lambda keys: keys[0],
        reader: Reader | None = None,
        root: Path = Path("/"),
    ) -> None:
        self._reader: Reader = reader if reader is not None else NetworkReader()
        self._manager = manager
        self._canonical = canonical
        self._root = root
        self._situation: Situation | None = None
        self._leases: dict[str, tuple[tuple[str, ...], Lease]] = {}
        self._looks_left = 0

    def close(self) -> None:
        self._reader.close()

    def look(self) -> Situation:
        """What is the case, and what changed since the last look."""
        try:
            state = self._reader.read()
        except EnvironmentFault as fault:
            before = self._situation or Situation()
            return replace(before, changes=(), resumed_s=0, unread=str(fault))
        seen = Seen(state=state, managed=self._manager(), leases=self._read_leases(state))
        self._situation = judge(seen, self._situation, canonical=self._canonical)
        for network in self._situation.networks:
            if not network.is_settled:
                for router in network.routers:
                    self._reader.resolve(network.interface, router.address)
        return self._situation

    def _read_leases(self, state: NetworkState) -> dict[str, Lease]:
        self._looks_left -= 1
        is_due = self._looks_left < 0
        if is_due:
            self._looks_left = LEASES_ANEW_LOOKS
        found: dict[str, tuple[tuple[str, ...], Lease]] = {}
        for name in dict.fromkeys(each.interface for each in state.default_routes):
            interface = state.interface(name)
            if interface is None:
                continue
            addresses = tuple(each.address for each in interface.prefixes)
            known = self._leases.get(name)
            if known is None or is_due or known[0] != addresses:
                lease = read_lease(interface=name, index=interface.index, addresses=addresses, root=self._root)
                known = (addresses, lease)
            found[name] = known
        self._leases = found
        return {name: lease for name, (_, lease) in found.items() if lease != NO_LEASE}
