"""Paths and what each costs, and the accesses or networks that a sender can choose from, with what each costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.text import Text

from hostagent import api
from tui.model.columns import Column, Listing, Sorting, matching, number
from tui.model.texts import FAINT, NOTHING, STRONG, UNKNOWN, cell, cut, duration_text, line, money_text, price_text

EMPTY: Final = "no alternatives: nobody on the way has offered a choice yet"
NO_NETWORK: Final = "no network to choose from"
MARKED, COST = 6, 8  # cells of the mark of the network that is used, and of a price


def delay_text(delay_ns: int | None) -> str:
    return UNKNOWN if delay_ns is None else f"{delay_ns / 1e6:.1f} ms"


def _known(value: int | None) -> int:
    return -1 if value is None else value


COLUMNS: Final[tuple[Column[api.PathAlternative], ...]] = (
    Column("destination", 16, 0, lambda path: path.destination, most=40),
    Column("by", 8, 0, lambda path: path.as_name, most=20),
    number("way", 3, 0, lambda path: str(path.alternative), lambda path: path.alternative),
    Column("used", 4, 0, lambda path: "yes" if path.chosen else "", order=lambda path: not path.chosen),
    number("toll", 6, 0, lambda path: money_text(path.toll_nanodollars), lambda path: _known(path.toll_nanodollars)),
    number("delay", 8, 1, lambda path: delay_text(path.delay_ns), lambda path: _known(path.delay_ns)),
    number(
        "seen",
        6,
        3,
        lambda path: UNKNOWN if path.age_s is None else duration_text(path.age_s),
        lambda path: _known(path.age_s),
    ),
    Column("reason", 18, 2, lambda path: path.reason, most=300),
)


def listing(alternatives: Iterable[api.PathAlternative], sorting: Sorting, wanted: str) -> Listing[api.PathAlternative]:
    found = matching(wanted, alternatives, lambda path: (path.destination, path.as_name, path.reason))
    found.sort(key=lambda path: (path.destination, path.as_name, path.alternative))
    return Listing(
        columns=COLUMNS,
        things=sorting.sort(COLUMNS, found),
        key=lambda path: f"{path.destination}\0{path.as_name}\0{path.alternative}",
        sorted_by=sorting.by,
        reverse=sorting.reverse,
    )


def detail(path: api.PathAlternative) -> list[Text]:
    chosen = "used" if path.chosen else "not used"
    return [
        line((f"to {path.destination}, way {path.alternative} of {path.as_name}", STRONG), f"  {chosen}"),
        line(f"toll {money_text(path.toll_nanodollars)} a packet, delay {delay_text(path.delay_ns)}"),
        line(("reason  ", FAINT), path.reason or "none"),
    ]


# --- accesses ---------------------------------------------------------------------------------------------------------


ACCESS_COLUMNS: Final[tuple[Column[api.Access], ...]] = (
    Column("access to the Internet", 22, 0, lambda access: access.network or access.interface, most=40),
    Column("used", 4, 0, lambda access: "yes" if access.used else "", order=lambda access: not access.used),
    Column("by", 6, 1, lambda access: access.chosen_by if access.used else "", most=8),
    number("delay", 8, 0, lambda access: delay_text(access.delay_ns), lambda access: _known(access.delay_ns)),
    number("lost", 6, 2, lambda access: _lost(access.loss_ppm), lambda access: _known(access.loss_ppm)),
    number(
        "a GB",
        6,
        1,
        lambda access: price_text(access.price_nanodollars_per_mb),
        lambda access: _known(access.price_nanodollars_per_mb),
    ),
    number(
        "packet",
        6,
        0,
        lambda access: money_text(access.cost_nanodollars_per_packet),
        lambda access: _known(access.cost_nanodollars_per_packet),
    ),
    Column("reason", 18, 2, lambda access: access.reason, most=300),
)


def _lost(loss_ppm: int | None) -> str:
    return UNKNOWN if loss_ppm is None else f"{loss_ppm / 10_000:.2g} %"


def access_listing(accesses: Iterable[api.Access], sorting: Sorting) -> Listing[api.Access]:
    """The one that is used first; a filter is for destinations."""
    found = sorted(accesses, key=lambda access: (not access.used, access.network, access.interface))
    return Listing(
        columns=ACCESS_COLUMNS,
        things=sorting.sort(ACCESS_COLUMNS, found),
        key=lambda access: access.interface,
        sorted_by=sorting.by,
        reverse=sorting.reverse,
    )


def access_detail(access: api.Access) -> list[Text]:
    used = f"used, chosen by the {access.chosen_by}" if access.used else "not used"
    router = f", router {access.router}" if access.router else ""
    price = access.price_nanodollars_per_mb
    return [
        line((f"{access.network} on {access.interface}{router}", STRONG), f"  {used}"),
        line(
            f"delay {delay_text(access.delay_ns)}, lost {_lost(access.loss_ppm)}, "
            f"a GB {UNKNOWN if price is None else price_text(price)}, "
            f"a packet costs {money_text(access.cost_nanodollars_per_packet)}"
        ),
        line(("reason  ", FAINT), access.reason or "none"),
    ]


def is_word(access: api.Access) -> bool:
    """Whether a person has already said that it is to be taken."""
    return access.used and access.chosen_by == "person"


def switch_lines(access: api.Access, now: api.Access | None) -> list[Text]:
    """What a switch would change."""
    if is_word(access):
        return [line("the agent chooses again, as its configuration says")]
    before = f" instead of {now.network}" if now is not None and now.interface != access.interface else ""
    return [
        line(f"new connections go by {access.network} ({access.interface}){before}"),
        line("those that are there keep their access"),
        line(f"a packet costs {money_text(access.cost_nanodollars_per_packet)} there: {access.reason}"),
        line("it holds as long as that access is usable; the same key takes it back"),
    ]


# --- networks, where nobody says what an access is --------------------------------------------------------------------


def network_lines(networks: Sequence[api.Network], prices: Sequence[api.Price], width: int) -> list[Text]:
    """One line for each network: the sender's choice at the access, and what a megabyte costs on each now."""
    if not networks:
        return [line((NO_NETWORK, FAINT))]
    name = min(width * 3 // 8, max(22, *(len(network.title) for network in networks)))
    head = f"{cell('networks to choose from', name + MARKED)}{'out':>{COST}}{'in':>{COST}}  tariff"
    lines = [line((head, STRONG))]
    for network in sorted(networks, key=lambda network: (not network.active, network.title)):
        mark = "used  " if network.active else ""
        costs = f"{_cost(network, prices, 'out'):>{COST}}{_cost(network, prices, 'in'):>{COST}}"
        text = f"{mark:<{MARKED}}{cell(network.title, name)}{costs}  "
        lines.append(line(text, cut(_by_whom(network), width - len(text))))
    return lines


def _cost(network: api.Network, prices: Sequence[api.Price], direction: str) -> str:
    of_it = [
        price.nanodollars_per_mb
        for price in prices
        if price.interface == network.interface and price.direction == direction
    ]
    return price_text(max(of_it)) if of_it and network.active else NOTHING


def _by_whom(network: api.Network) -> str:
    gateway = network.gateway
    priced = "" if gateway is None else f"{gateway.kind} gateway{f' {gateway.name}' if gateway.name else ''}"
    return " · ".join(part for part in (network.tariff, priced) if part) or NOTHING
