"""The network that is probed: a – r1 (balances by flow) – r2 | r3 – r4 – r5 – b, in namespaces, no limits on ICMP.

Decides nothing. With a delay the first link leads through the lab's wire process; without, packets arrive at once.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Final

from lab.namespaces import Namespace
from lab.steps import harm_of
from lab.wire import WireOrder, Wires

LINKS: Final = (("a", "r1"), ("r1", "r2"), ("r1", "r3"), ("r2", "r4"), ("r3", "r4"), ("r4", "r5"), ("r5", "b"))
DESTINATION: Final = "10.60.7.2"
HOPS: Final = (
    {"10.60.1.2"},
    {"10.60.2.2", "10.60.3.2"},
    {"10.60.4.2"},
    {"10.60.6.2"},
    {DESTINATION},
)
INTERFACES: Final = 6
_SETTINGS: Final = (
    "net.ipv4.ip_forward=1",
    "net.ipv4.icmp_ratelimit=0",
    "net.ipv4.fib_multipath_hash_policy=1",
)
_ONWARDS: Final = {"a": "1.2", "r2": "4.2", "r3": "5.2", "r4": "6.2", "r5": "7.2", "b": "7.1"}
_BACK: Final = {"r2": "2.1", "r3": "3.1", "r4": "4.1", "r5": "6.1"}
_SILENCE: Final = ("OUTPUT", "-p", "icmp", "--icmp-type", "time-exceeded", "-j", "DROP")


class Probed:
    """All namespaces by name. "a" is where the probing is done."""

    def __init__(self) -> None:
        self.spaces = {name: Namespace(name) for name in ("a", "r1", "r2", "r3", "r4", "r5", "b", "wires")}
        for space in self.spaces.values():
            space.wait_until_made()

    def __getitem__(self, name: str) -> Namespace:
        return self.spaces[name]

    def silence(self, *, on: bool) -> None:
        """r5 says nothing of itself."""
        self["r5"].run(["iptables", "-w", "-A" if on else "-D", *_SILENCE])

    def wire_up(self, *, by_wire: bool) -> None:
        for number, (left, right) in enumerate(LINKS, 1):
            if number == 1 and by_wire:
                for side, name in ((1, left), (2, right)):
                    self._veth("wires", f"w{side}", name, "l1", _mac(1, side))
                    self["wires"].run(["ip", "link", "set", f"w{side}", "up"])
            else:
                self._veth(left, f"l{number}", right, f"l{number}", _mac(number, 2))
                self[left].run(["ip", "link", "set", f"l{number}", "address", _mac(number, 1)])
        for name in _ONWARDS | {"r1": ""}:
            self[name].run(["sysctl", "-qw", *_SETTINGS])
            self[name].run(["ip", "-batch", "-"], stdin="\n".join(_commands(name)) + "\n")
        self["a"].run(["ethtool", "-K", "l1", "tx", "off"])  # the wire carries frames as they are: whole checksums

    def _veth(self, left: str, left_name: str, right: str, right_name: str, mac: str) -> None:
        far = ["peer", "name", right_name, "address", mac, "netns", str(self[right].pid)]
        self[left].run(["ip", "link", "add", left_name, "type", "veth", *far])


def _mac(link: int, side: int) -> str:
    return f"02:00:00:00:0{link}:0{side}"


def _commands(name: str) -> list[str]:
    commands = ["link set lo up"]
    for number, ends in enumerate(LINKS, 1):
        if name in ends:
            side = ends.index(name) + 1
            there = f"10.60.{number}.{3 - side} lladdr {_mac(number, 3 - side)}"
            commands += [
                f"link set l{number} up",
                f"addr add 10.60.{number}.{side}/24 dev l{number}",
                f"neigh replace {there} dev l{number} nud permanent",
            ]
    if name == "r1":
        commands.append("route add default nexthop via 10.60.2.2 dev l2 nexthop via 10.60.3.2 dev l3")
    else:
        commands.append(f"route add default via 10.60.{_ONWARDS[name]}")
    if name in _BACK:
        commands.append(f"route add 10.60.1.0/24 via 10.60.{_BACK[name]}")
    return commands


@contextlib.contextmanager
def probed(*, delay_ms: float) -> Iterator[Probed]:
    """delay_ms: of the first link, one way."""
    with contextlib.ExitStack() as stack:
        made = Probed()
        for space in made.spaces.values():
            stack.callback(space.end)
        made.wire_up(by_wire=delay_ms > 0)
        if delay_ms:
            harm = harm_of(delay_ms=delay_ms, loss_ppm=0, reorder_ppm=0)
            order = WireOrder(name="first", interfaces=("w1", "w2"), harm=harm, seed=1)
            wires = Wires([order], made["wires"].argv, sys.stderr.buffer)
            stack.callback(wires.close)
        yield made
