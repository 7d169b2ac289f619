"""What a gateway publishes: tariff, alternatives, and the price of the moment.

Decides the documents; refuses to know who asks.  Pure: the serial and the time are arguments.
Source: Bill-Pay 2.1 (published tolls), 2.2 (OADs with locally defined meaning); M3I (three time scales of price
change).
"""

from __future__ import annotations

from collections.abc import Mapping

from billpay.messages import (
    AlternativePrice,
    OadAlternative,
    OadDescription,
    PriceQuote,
    Tariff,
    Timescale,
    TollTerms,
)
from billpay.tolls import EgressToll
from gateway.configuration import Configuration, LinkSection, RouteSection
from gateway.plan import GatewayPlan
from gateway.routing import Routes

NS_PER_MS = 1_000_000
VALID_FOR_S = 3600
PICODOLLARS = 1000


def tariff_of(
    configuration: Configuration, *, issuer: str, serial: int, now_unix_s: int, congestion: Mapping[str, int]
) -> Tariff:
    """`congestion`: picodollars of each link now. Tolls change within seconds, the other kinds from month to month."""
    terms = configuration.tariff
    return Tariff(
        issuer=issuer,
        serial=serial,
        timescale=Timescale.NETWORK if terms.kind == "tolls" else Timescale.LONG_TERM,
        valid_from_unix_s=now_unix_s,
        currency=configuration.gateway.currency,
        kind=terms.kind,
        tolls=tuple(_toll_terms(link, congestion.get(link.name, 0)) for link in configuration.links),
        monthly_fee_nanodollars=terms.monthly_fee_nanodollars,
        congestion_bytes_per_s=terms.congestion_bytes_per_s,
        nanodollars_per_mbit_s=terms.nanodollars_per_mbit_s,
        picodollars_per_byte=terms.picodollars_per_byte,
        bundle_bytes=terms.bundle_bytes,
        reset_day=terms.reset_day,
    )


def _toll_terms(link: LinkSection, congestion_picodollars: int) -> TollTerms:
    toll = link.toll
    return TollTerms(
        link=link.name,
        fixed_nanodollars_per_packet=toll.fixed_nanodollars_per_packet,
        fixed_picodollars_per_byte=toll.fixed_picodollars_per_byte,
        proportional_ppm=toll.proportional_ppm,
        cap_nanodollars=toll.cap_nanodollars,
        congestion_picodollars=congestion_picodollars,
    )


def descriptions_of(
    configuration: Configuration, *, issuer: str, serial: int, now_unix_s: int, congestion: Mapping[str, int]
) -> tuple[OadDescription, ...]:
    """One for each route that leaves a choice."""
    links = {link.name: link for link in configuration.links}
    return tuple(
        OadDescription(
            issuer=issuer,
            as_number=configuration.gateway.as_number,
            serial=serial,
            prefix=route.prefix,
            alternatives=tuple(_alternatives(route, links, congestion)),
            published_unix_s=now_unix_s,
            expires_unix_s=now_unix_s + VALID_FOR_S,
        )
        for route in configuration.routes
        if len(route.alternatives) > 1
    )


def _alternatives(
    route: RouteSection, links: Mapping[str, LinkSection], congestion: Mapping[str, int]
) -> list[OadAlternative]:
    return [
        OadAlternative(
            number=item.number,
            title=item.title,
            delay_ns=None if item.delay_ms is None else item.delay_ms * NS_PER_MS,
            toll_nanodollars=_whole_toll(links[item.link], congestion.get(item.link, 0))
            if item.toll_nanodollars is None
            else item.toll_nanodollars,
            available=item.available,
        )
        for item in route.alternatives
    ]


def _whole_toll(link: LinkSection, congestion_picodollars: int) -> int:
    """Of a full-size packet, rounded up: what a sender has to reckon with."""
    toll = link.toll
    picodollars = toll.fixed_nanodollars_per_packet * PICODOLLARS
    picodollars += toll.fixed_picodollars_per_byte * 1500 + congestion_picodollars
    if toll.cap_nanodollars is not None:
        picodollars = min(picodollars, toll.cap_nanodollars * PICODOLLARS)
    return -(-picodollars // PICODOLLARS)


def quote(
    plan: GatewayPlan,
    routes: Routes,
    destination: str,
    packed: bytes,
    *,
    size_bytes: int,
    amount_nanodollars: int,
    congestion: Mapping[str, int],
) -> PriceQuote:
    """The router's price now (MV-48): the toll of a packet of this size and amount, for each alternative."""
    links = {link.name: link for link in plan.links}
    route = routes.find(packed)
    prices = []
    for alternative in () if route is None else route.alternatives:
        meter = EgressToll(links[alternative.link].toll)
        meter.congestion_picodollars = congestion.get(alternative.link, 0)
        prices.append(
            AlternativePrice(
                alternative=alternative.number,
                link=alternative.link,
                toll_picodollars=meter.picodollars(size_bytes, amount_nanodollars),
                congestion_picodollars=meter.congestion_picodollars,
            )
        )
    return PriceQuote(destination=destination, size_bytes=size_bytes, prices=tuple(prices))
