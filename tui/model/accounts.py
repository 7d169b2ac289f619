"""Accounts with neighbours: our counters beside theirs, what is owed and settled, and what was lost on the way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.text import Text

from billpay.money import show_nanodollars
from hostagent import api
from tui.model.columns import Column, Listing, Sorting, matching, number
from tui.model.texts import FAINT, STRONG, fingerprint_text, line, money_text, several

EMPTY: Final = "no neighbour: no gateway settles with this machine"
MAX_LINES: Final = 4  # of losses, and of settlements


def _known(amount: int | None) -> int:
    return -1 if amount is None else amount


COLUMNS: Final[tuple[Column[api.LinkAccount], ...]] = (
    Column("neighbour", 10, 0, lambda link: link.neighbour, most=40),
    Column("state", 12, 0, lambda link: link.state, most=40),
    number("we sent", 8, 0, lambda link: money_text(link.sent_nanodollars), lambda link: link.sent_nanodollars),
    number(
        "they got",
        8,
        1,
        lambda link: money_text(link.peer_received_nanodollars),
        lambda link: _known(link.peer_received_nanodollars),
    ),
    number(
        "they sent",
        9,
        3,
        lambda link: money_text(link.peer_sent_nanodollars),
        lambda link: _known(link.peer_sent_nanodollars),
    ),
    number("we got", 8, 0, lambda link: money_text(link.received_nanodollars), lambda link: link.received_nanodollars),
    number("lost", 7, 4, lambda link: money_text(link.lost_nanodollars), lambda link: link.lost_nanodollars),
    number("we owe", 8, 0, lambda link: money_text(link.owed_nanodollars), lambda link: link.owed_nanodollars),
    number("settled", 8, 2, lambda link: money_text(link.settled_nanodollars), lambda link: link.settled_nanodollars),
    number("times", 5, 5, lambda link: str(link.settlements), lambda link: link.settlements),
    Column("interface", 12, 6, lambda link: link.interface, most=15),
)


def key_of(link: api.LinkAccount) -> str:
    return f"{link.neighbour} {link.interface}"


def listing(links: Iterable[api.LinkAccount], sorting: Sorting, wanted: str) -> Listing[api.LinkAccount]:
    found = matching(wanted, links, lambda link: (link.neighbour, link.interface, link.state))
    return Listing(
        columns=COLUMNS,
        things=sorting.sort(COLUMNS, found),
        key=key_of,
        sorted_by=sorting.by,
        reverse=sorting.reverse,
    )


def detail(link: api.LinkAccount) -> list[Text]:
    agrees = "both books agree" if link.agrees else "! the books differ"
    return [
        line((link.neighbour, STRONG), f"  {link.state} on {link.interface}"),
        line(("fingerprint  ", FAINT), fingerprint_text(link.fingerprint)),
        line(
            f"{several(link.sent_packets, 'packet')} with a payment sent, {link.received_packets:,} received; "
            f"{agrees} up to interval {link.last_interval}"
        ),
    ]


def lines(accounts: api.Accounts) -> list[Text]:
    """What stands below the table: the host's sums, then the latest losses and settlements."""
    sums = (
        ("kept as our share", accounts.share_nanodollars, True),
        ("came back to us", accounts.refunded_nanodollars, True),
        ("returned to others", accounts.returned_nanodollars, True),
        ("in hand for others", accounts.in_hand_nanodollars, False),
        ("could not be returned", accounts.kept_nanodollars, False),
    )
    made = [" · ".join(f"{what} {show_nanodollars(amount)}" for what, amount, always in sums if amount or always)]
    made += _latest([_loss_text(loss) for loss in accounts.losses], "loss", "losses")
    made += _latest([_settlement_text(settlement) for settlement in accounts.settlements], "settlement", "settlements")
    return [line(text) for text in made]


def _loss_text(loss: api.LossLine) -> str:
    direction = "to" if loss.direction == "out" else "from"
    return f"{loss.kind}: {show_nanodollars(loss.nanodollars)} {direction} {loss.link} in interval {loss.interval}"


def _settlement_text(settlement: api.SettlementLine) -> str:
    who = f"we paid {settlement.link}" if settlement.debtor == "us" else f"{settlement.link} paid us"
    return f"settled: {who} {show_nanodollars(settlement.nanodollars)} ({settlement.reason})"


def _latest(texts: list[str], one: str, many: str) -> list[str]:
    """The latest first; how many more there are."""
    more = len(texts) - MAX_LINES
    rest = [f"{more:,} earlier {one} is not shown" if more == 1 else f"{more:,} earlier {many} are not shown"]
    return [*texts[::-1][:MAX_LINES], *(rest if more > 0 else [])]
