"""What the gateway's main process and its reader say to each other.

Commands get an answer each; events come on their own. Bodies are JSON of the tagged structs below
(`dataplane.command` frames them).
"""

from __future__ import annotations

import msgspec

from billpay.messages import Grant, GrantUsage
from billpay.tolls import TollSchedule


class _Tagged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Base: the type's name travels with it."""


class Tick(_Tagged, frozen=True, kw_only=True):
    """Once a second: tells the core the time of day (it has no clock), and lets it forget what expired."""


class OpenGrant(_Tagged, frozen=True, kw_only=True):
    """A verified grant of the host behind `link`: opens it, or replaces an older serial.

    `closed`: it pays nothing any more; what was spent of it is still asked for.
    """

    link: str
    grant: Grant
    closed: bool = False


class CloseGrant(_Tagged, frozen=True, kw_only=True):
    """Of the host behind `link`, for ever; another's grant is as good as unknown."""

    link: str
    grant: str


class ForgetGrant(_Tagged, frozen=True, kw_only=True):
    """A closed one, with its counters: its receipt is written, and who opens grants knows that it is closed."""

    link: str
    grant: str


class AskGrant(_Tagged, frozen=True, kw_only=True):
    link: str
    grant: str


class SetLink(_Tagged, frozen=True, kw_only=True):
    """Terms of a link: whether the neighbour takes headers, and whether its payments count."""

    link: str
    agreed: bool
    in_default: bool


class TollTerms(_Tagged, frozen=True, kw_only=True):
    """What packets pay that leave by a link."""

    link: str
    schedule: TollSchedule
    congestion: bool
    target_utilisation_ppm: int


class RouteTerms(_Tagged, frozen=True, kw_only=True):
    """Which alternatives of a route are withdrawn, and which one is taken unless asked otherwise."""

    prefix: str
    default: int
    withdrawn: tuple[int, ...]


class SetTerms(_Tagged, frozen=True, kw_only=True):
    """Tolls and routes from the next packet on; those that are not named stay as they are."""

    honours_preferences: bool
    tolls: tuple[TollTerms, ...] = ()
    routes: tuple[RouteTerms, ...] = ()


class AskReport(_Tagged, frozen=True, kw_only=True):
    """For the admin API, price queries and tariff pushes."""


Command = Tick | OpenGrant | CloseGrant | ForgetGrant | AskGrant | SetLink | SetTerms | AskReport


class Done(_Tagged, frozen=True, kw_only=True):
    pass


class GrantAnswer(_Tagged, frozen=True, kw_only=True):
    usage: GrantUsage


class Refused(_Tagged, frozen=True, kw_only=True):
    """`code` is what the control API answers with."""

    code: str
    message: str


class LinkReport(_Tagged, frozen=True, kw_only=True):
    name: str
    agreed: bool
    in_default: bool
    congestion_picodollars: int
    backlog_bytes: int
    backlog_packets: int
    tunnel_alive: bool = True  # False: headers to this neighbour would go through a tunnel, which is silent


class Report(_Tagged, frozen=True, kw_only=True):
    links: tuple[LinkReport, ...]
    open_grants: int


Answer = Done | GrantAnswer | Refused | Report


class Alarm(_Tagged, frozen=True, kw_only=True):
    """Something that an operator should see; `kind` is stable. At most one of a kind and link each second."""

    kind: str
    link: str
    count: int


Event = Alarm
