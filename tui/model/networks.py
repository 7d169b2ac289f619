"""Networks and gateways: where this machine is, whether that is metered and who says so, who prices it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.text import Text

from hostagent import api
from tui.model.columns import Column, Listing, Sorting, matching
from tui.model.texts import FAINT, NOTHING, STRONG, UNKNOWN, day_text, fingerprint_text, line, price_text, rate_text

EMPTY: Final = "no network: this machine has no default route"
NEW, CHANGED = "new", "changed"
_METERED: Final = {True: "metered", False: "not metered", None: "nobody says whether it is metered"}


def rates_text(network: api.Network) -> str:
    rates = [UNKNOWN if rate is None else rate_text(rate) for rate in (network.egress_bit_s, network.ingress_bit_s)]
    return " / ".join(rates)


def gateway_text(network: api.Network) -> str:
    if network.gateway is None:
        return NOTHING
    trust = network.gateway.trust
    return f"{network.gateway.kind}{f', {trust}' if trust in (NEW, CHANGED) else ''}"


COLUMNS: Final[tuple[Column[api.Network], ...]] = (
    Column("network", 22, 0, lambda network: network.title or network.key, most=44),
    Column("now", 4, 0, lambda network: "here" if network.active else "", order=lambda network: not network.active),
    Column("kind", 9, 2, lambda network: network.kind),
    Column("metered", 7, 0, lambda network: {True: "yes", False: "no", None: UNKNOWN}[network.metered]),
    Column("reaches", 7, 3, lambda network: network.connectivity),
    Column("out / in", 13, 0, rates_text, order=lambda network: network.egress_bit_s or 0),
    Column("gateway", 14, 0, gateway_text, most=24),
    Column("tariff", 16, 1, lambda network: network.tariff or NOTHING, most=100),
)


def listing(networks: Iterable[api.Network], sorting: Sorting, wanted: str) -> Listing[api.Network]:
    """Where we are first, then where we were last."""
    found = matching(wanted, networks, lambda network: (network.title, network.key, network.kind, network.interface))
    found.sort(key=lambda network: (not network.active, -network.last_seen_unix_s, network.key))
    return Listing(
        columns=COLUMNS,
        things=sorting.sort(COLUMNS, found),
        key=lambda network: network.key,
        faint=lambda network: not network.active,
        sorted_by=sorting.by,
        reverse=sorting.reverse,
    )


def can_be_trusted(network: api.Network | None) -> api.Gateway | None:
    """The gateway of a network whose fingerprint waits for a person's word."""
    gateway = network.gateway if network is not None else None
    return gateway if gateway is not None and gateway.fingerprint and gateway.trust in (NEW, CHANGED) else None


def detail(network: api.Network, prices: Iterable[api.Price]) -> list[Text]:
    router = f", router {network.router}" if network.router else ""
    because = f": {network.metered_because}" if network.metered_because else ""
    seen = f"known since {day_text(network.first_seen_unix_s)}" if network.first_seen_unix_s else ""
    if seen and not network.active:
        seen = f"seen {day_text(network.first_seen_unix_s)} to {day_text(network.last_seen_unix_s)}"
    lines = [
        line((network.title or network.key, STRONG), f"  {network.kind} on {network.interface or '?'}{router}"),
        line(f"{_METERED[network.metered]}{because}"),
        line(f"rates out / in {rates_text(network)} bit/s, {network.rate_source}" + (f" · {seen}" if seen else "")),
    ]
    if network.tariff:
        lines.append(line(("tariff  ", FAINT), network.tariff))
    lines += [_price_line(price) for price in prices if network.active and price.interface == network.interface]
    return [*lines, *gateway_lines(network.gateway)]


def _price_line(price: api.Price) -> Text:
    used = "" if price.used_ppm is None else f", {price.used_ppm // 10_000} % used"
    said = f"{price_text(price.nanodollars_per_mb)} a GB by {price.source}{used}"
    return line((f"price {price.direction:<3}  ", FAINT), said, f": {price.reason}" if price.reason else "")


def gateway_lines(gateway: api.Gateway | None) -> list[Text]:
    if gateway is None:
        return [line("no gateway: nobody prices this network")]
    loud = gateway.trust in (NEW, CHANGED)
    trust = f"{'! ' if loud else ''}trust: {gateway.trust}" if gateway.trust else ""
    who = [part for part in (gateway.name, gateway.url, gateway.how) if part]
    stands = [part for part in (trust, gateway.state) if part]
    title = (f"{gateway.kind} gateway  ", STRONG)
    if not gateway.fingerprint:
        return [line(title, " · ".join(who + stands))]
    return [
        line(title, " · ".join(who)),
        line(("fingerprint  ", FAINT), fingerprint_text(gateway.fingerprint)),
        line((" · ".join(stands), STRONG if loud else ""), "  g: trust it" if loud else ""),
    ]
