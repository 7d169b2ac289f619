"""What a gateway wants in the kernel: a routing table for each further alternative, and its links' packets in the queue
where its reader treats them there. Programs in the kernel meet every packet by themselves.

Decides: which rules, tables and marks the configuration means; `dataplane.rules` brings them about and takes them away.
Packets to the gateway itself stay out of the queue, but on a link with a tunnel, whose datagrams come to our address.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from dataplane.desired import Chain, DesiredState, Family, PolicyRoute, QueueRule
from dataplane.payment_engines import PaymentEngine
from dataplane.port import with_oad_mark
from gateway.configuration import AlternativeSection, Configuration, LinkSection

OWNER = "billpay-gw"
QUEUE = 7414
FIRST_TABLE = 74140
FIRST_PRIORITY = 7414
FAMILIES: tuple[Family, Family] = (4, 6)


def desired_state(configuration: Configuration, engine: PaymentEngine) -> DesiredState:
    """The first alternative of each route is the kernel's own route and needs nothing."""
    links = {link.name: link for link in configuration.links}
    queues = tuple(_queue_rules(configuration)) if engine is PaymentEngine.NFQUEUE else ()
    return DesiredState(owner=OWNER, queues=queues, routes=tuple(_policy_routes(configuration, links)))


def _queue_rules(configuration: Configuration) -> Iterator[QueueRule]:
    return (
        QueueRule(
            family=family,
            chain=Chain.PREROUTING,
            interface=link.interface,
            queue=QUEUE,
            skip_local=not link.tunnel_remote,
        )
        for link in configuration.links
        for family in FAMILIES
    )


def _policy_routes(configuration: Configuration, links: dict[str, LinkSection]) -> Iterator[PolicyRoute]:
    for route in configuration.routes:
        network = ip_network(route.prefix)
        family: Family = 4 if network.version == 4 else 6
        single = network.prefixlen == network.max_prefixlen
        prefix = "default" if network.prefixlen == 0 else str(network.network_address) if single else str(network)
        for index, alternative in enumerate(route.alternatives[1:], start=1):
            yield _policy_route(family, prefix, index, alternative, links[alternative.link])


def _policy_route(
    family: Family, prefix: str, index: int, alternative: AlternativeSection, link: LinkSection
) -> PolicyRoute:
    return PolicyRoute(
        family=family,
        mark=with_oad_mark(0, index),
        table=FIRST_TABLE + index,
        priority=FIRST_PRIORITY + index,
        prefix=prefix,
        interface=link.interface,
        via=alternative.via or None,
    )
