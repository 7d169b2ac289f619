"""What of a gateway may change while it runs: tolls, alternatives, whether preferences are followed, and the engine.

Decides: which changes of the configuration file are taken in by `hostagent gateway reload`, and what the packet core is
told. Refuses to know: files, sockets and documents. Pure.

The file is the one place where the terms are: a change is written there and the gateway told to read it again, so that
nothing has to be remembered apart, a restart means the same as a reload, and an operator sees by one file what holds.
A signal could not answer what is wrong with the file; the admin socket does. Whatever needs other interfaces, kernel
rules or agreements needs a restart, and is refused by name: then nothing at all has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import msgspec

from billpay.errors import LocalProtocolError
from gateway.commands import RouteTerms, SetTerms, TollTerms
from gateway.configuration import AlternativeSection, Configuration, LinkSection, RouteSection, TollSection, schedule_of

_FREE = {"preference": "honour", "engine": "auto"}
"""What of [gateway] may change, with values to compare the rest by."""

ROUTES_A_COMMAND = 500
"""So that a command stays far below the limit of a datagram to the reader."""


def changes(before: Configuration, after: Configuration) -> tuple[str, ...]:
    """The keys that have changed, as people write them. Raises LocalProtocolError for one that needs a restart."""
    held, wanted = _without_terms(before), _without_terms(after)
    for section in Configuration.__struct_fields__:
        if getattr(held, section) != getattr(wanted, section):
            changing = "tolls, alternatives, the preference and the engine"
            raise LocalProtocolError(f"{section}: only {changing} change without a restart")
    found = [f"gateway.{key}" for key in _FREE if getattr(before.gateway, key) != getattr(after.gateway, key)]
    links = zip(before.links, after.links, strict=True)
    found += [f"links.{new.name}.toll" for old, new in links if old.toll != new.toll]
    routes = zip(before.routes, after.routes, strict=True)
    found += [f"routes.{new.prefix}" for old, new in routes if old != new]
    return tuple(found)


def _without_terms(configuration: Configuration) -> Configuration:
    replace = msgspec.structs.replace
    return replace(
        configuration,
        gateway=replace(configuration.gateway, **_FREE),
        links=tuple(map(_bare_link, configuration.links)),
        routes=tuple(map(_bare_route, configuration.routes)),
    )


def _bare_link(link: LinkSection) -> LinkSection:
    return msgspec.structs.replace(link, toll=TollSection())


def _bare_route(route: RouteSection) -> RouteSection:
    """The kernel has a routing table for each place in the list, so the list itself stays as it is."""
    bare = tuple(AlternativeSection(number=item.number, link=item.link, via=item.via) for item in route.alternatives)
    return RouteSection(prefix=route.prefix, alternatives=bare)


def commands_for(configuration: Configuration) -> Iterator[SetTerms]:
    """All terms, for a packet core that may have others; routes that leave no choice have none."""
    honours = configuration.gateway.preference == "honour"
    tolls = tuple(_toll_terms(link) for link in configuration.links)
    routes = [_route_terms(route) for route in configuration.routes if len(route.alternatives) > 1]
    yield SetTerms(honours_preferences=honours, tolls=tolls, routes=tuple(routes[:ROUTES_A_COMMAND]))
    for start in range(ROUTES_A_COMMAND, len(routes), ROUTES_A_COMMAND):
        yield SetTerms(honours_preferences=honours, routes=tuple(routes[start : start + ROUTES_A_COMMAND]))


def _toll_terms(link: LinkSection) -> TollTerms:
    return TollTerms(
        link=link.name,
        schedule=schedule_of(link.toll),
        congestion=link.toll.congestion,
        target_utilisation_ppm=link.toll.target_utilisation_ppm,
    )


def _route_terms(route: RouteSection) -> RouteTerms:
    return RouteTerms(
        prefix=str(ip_network(route.prefix)),
        default=route.default,
        withdrawn=tuple(item.number for item in route.alternatives if not item.available),
    )
