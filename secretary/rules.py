"""Which rule a flow falls under: the first that matches its protocol, destination and port.

Decides what a flow is worth to the user, by the rules file alone, and what counts as one flow. Refuses to know
budgets, grants and prices. Pure.  Source: Bill-Pay 2.4 (rules by application come first; learning comes later).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from billpay.errors import RemoteProtocolError
from billpay.messages import FlowSelector

PROTOCOLS = {"tcp": 6, "udp": 17, "any": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`protocol` 0, no destinations, no ports: any. Money in nanodollars, the rate for each second."""

    name: str
    protocol: int = 0
    destinations: tuple[IPv4Network | IPv6Network, ...] = ()
    ports: frozenset[int] = frozenset()
    strategy: str = "fixed"
    amount_nanodollars: int = 0
    willingness_nanodollars: int = 0
    target_bit_s: int = 0
    grant_nanodollars: int = 0
    rate_nanodollars_per_s: int = 0
    burst_nanodollars: int = 0
    lifetime_s: int = 600

    def matches(self, flow: FlowSelector) -> bool:
        if self.protocol not in (0, flow.protocol):
            return False
        if self.ports and flow.destination_port not in self.ports:
            return False
        if not self.destinations:
            return True
        address = ip_address(flow.destination)
        return any(address.version == network.version and address in network for network in self.destinations)


def find_rule(rules: Sequence[Rule], flow: FlowSelector) -> Rule | None:
    """The first that matches; None: the flow is worth nothing to the user."""
    return next((rule for rule in rules if rule.matches(flow)), None)


def check_exact(flow: FlowSelector) -> None:
    """Raises RemoteProtocolError unless it is one flow, and written in the one way in which flows are compared."""
    if not flow.protocol:
        raise RemoteProtocolError("not-one-flow", "name the protocol of the flow")
    try:
        source, destination = ip_address(flow.source), ip_address(flow.destination)
    except ValueError as error:
        raise RemoteProtocolError("bad-address", str(error)) from error
    if (str(source), str(destination)) != (flow.source, flow.destination) or "%" in flow.source + flow.destination:
        raise RemoteProtocolError("bad-address", f"write {source.compressed} and {destination.compressed}, no zone")
    if source.version != destination.version:
        raise RemoteProtocolError("bad-address", f"{source} and {destination} are not of one IP version")
