"""An ISP's gateway, as its admin socket tells it."""

from __future__ import annotations

from cli.show.text import WIDE_COLUMNS, Grid, columns, money, write
from gateway.admin import GatewayStatus


def show_gateway(status: GatewayStatus) -> None:
    write(f"{status.name} (AS {status.as_number}): packets {status.data_plane}, {status.open_grants} open grants")
    write(f"engine of payments: {status.engine_reason}")
    if status.mark_price is not None:
        write(f"a mark costs {status.mark_price.nanodollars_per_mark} n$")
    is_wide = columns() >= WIDE_COLUMNS
    wide = (">kept", ">backlog", "books") if is_wide else ()
    grid = Grid("link", "state", ">received", ">sent", ">earned", ">toll now", ">we owe", ">they owe", *wide)
    for link in status.links:
        more = (money(link.kept_nanodollars), f"{link.backlog_bytes:,} B", "agree" if link.agrees else "open")
        grid.add(
            link.name,
            link.state,
            money(link.received_nanodollars),
            money(link.sent_nanodollars),
            money(link.retained_nanodollars),
            money(link.congestion_picodollars // 1000),
            money(link.owed_by_us_nanodollars - link.settled_by_us_nanodollars),
            money(link.owed_by_peer_nanodollars - link.settled_by_peer_nanodollars),
            *(more if is_wide else ()),
        )
    write(grid)
    for link in status.links:
        for loss in link.losses:
            direction = "to" if loss.direction == "out" else "from"
            write(f"{loss.kind}: {money(loss.nanodollars)} {direction} {link.name} in interval {loss.interval}")
