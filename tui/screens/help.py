"""Every key, in words, and what the numbers mean."""

from __future__ import annotations

from typing import Final

from rich.text import Text

from tui.model.head import TABS
from tui.model.texts import line

KEYS: Final = (
    (
        "on every screen",
        (
            ("o", "observe: only count, and say what it would do"),
            ("x", "act, for 60 s unless you press c"),
            ("c", "confirm: it goes on acting"),
            ("space", "freeze the display; data go on behind it"),
            ("t", "themes, two of them for 16 colours"),
            ("?", "this help"),
            ("q", "quit; the agent goes on"),
        ),
    ),
    (
        "in tables",
        (
            ("↑ ↓ page home end", "choose a row; a click does, too"),
            ("enter", "details of the row; a second click, too"),
            ("/", "filter by program, task, kind, destination"),
            ("esc", "ends the filter, closes details"),
            ("s S", "sort by the next column; the other way round"),
            ("click on a title", "sort by it; once more: the other way round"),
        ),
    ),
    (
        "on some screens",
        (
            ("w", "flows: why it gets what it gets"),
            ("e", "flows, kinds: say what a program is worth"),
            ("tab", "kinds: programs or kinds; month: by which column"),
            ("r", "kinds: all rules in their order, with hits"),
            ("y d", "inbox: yes, no, then for how long; d ends a session"),
            ("u", "inbox: take an answer back, and what it taught"),
            ("v", "flows: sessions; paths: all ways; inbox: answered"),
            ("← → [ ]", "month: the month before, the next one"),
            ("+", "budgets: pay into the purse"),
            ("+ -", "sessions: worth half as much again, or less"),
            ("g", "nets: trust a gateway's key; paths: go that way"),
        ),
    ),
)
NUMBERS: Final = (
    "out, in: bit/s over the last second, k 10³, M 10⁶, G 10⁹",
    "amounts: dollars, m 10⁻³, µ 10⁻⁶, n 10⁻⁹",
    "price, worth: of a gigabyte, now; a GB is 10⁹ bytes",
    "pays, toll: of a packet, now; spent: in all",
    "– there is none   ? nobody told us yet   ! look at it",
    "plots: the last five minutes",
    "budgets: █ used, ▒ will be used at this pace, ░ left; ■ told",
    "sessions: ~ estimated, nobody bills it",
    "month: ~ as told or assumed, not yet confirmed   ! disputed",
)
WIDTH: Final = 19


def lines() -> list[Text]:
    made = [line(("screens: the number or the underlined letter", "bold"))]
    half = -(-len(TABS) // 2)
    for place in range(half):
        pieces = [_screen(place)] + ([_screen(place + half)] if place + half < len(TABS) else [])
        made.append(Text("  ").join(pieces))
    for title, keys in KEYS:
        made += [Text(), line((title, "bold")), *(_key(key, text) for key, text in keys)]
    return [*made, Text(), line(("numbers", "bold")), *(line(f"  {text}") for text in NUMBERS)]


def _screen(place: int) -> Text:
    tab = TABS[place]
    return line(("  ", ""), (f"{place + 1} {tab.name[0]}  ", "bold"), f"{tab.long_name:<24}")


def _key(key: str, text: str) -> Text:
    return line(("  ", ""), (f"{key:<{WIDTH}}", "bold"), text)
