"""Flows that follow the price of congestion, and the tasks whose policies they keep to.

Decides: the columns, and how an estimate is told from what is billed. Refuses to know: where the values come from, and
how a table is laid out (`cli.show.text`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cli.show.text import UNKNOWN, WIDE_COLUMNS, Grid, columns, facts, lines_of, money, rate, write
from cli.show.traffic import short_flow
from hostagent import api

EMPTY: Final = "no sessions: no flow follows the price of congestion (hostagent session open, or [[sessions]])"
SHORT_ID: Final = 8
"""Digits that tell a few sessions apart."""


def session_grid(sessions: Sequence[api.Session], *, is_wide: bool) -> Grid:
    """In a narrow terminal without what names a session for programs; `session end` takes a part of its flow, too."""
    wide = ("session", "flow", "role"), (">of", ">worth", "|why")
    before, after = wide if is_wide else ((), ())
    grid = Grid(
        *before, "program", "task", "verdict", ">bit/s", ">target", ">n$/MB", "charged", ">marks", ">spent", *after
    )
    for each in sessions:
        known = (each.session[:SHORT_ID], short_flow(each.flow), role(each))
        more = (
            "" if each.session_budget_nanodollars is None else money(each.session_budget_nanodollars),
            "" if each.worth_ppm == 1_000_000 else f"×{each.worth_ppm / 1_000_000:.3g}",
            each.reason,
        )
        grid.add(
            *(known if is_wide else ()),
            each.program.rpartition("/")[2] or short_flow(each.flow),
            each.task,
            each.verdict,
            rate(each.rate_bit_s, nothing="0"),
            "none" if each.target_bit_s is None else rate(each.target_bit_s, nothing="0"),
            price(each),
            charged(each),
            marks(each),
            spent(each),
            *(more if is_wide else ()),
        )
    return grid


def session_lines(sessions: Sequence[api.Session], width: int) -> list[str]:
    """As `show_sessions`, for a screen of so many characters."""
    grid = session_grid(sessions, is_wide=width >= WIDE_COLUMNS)
    return lines_of(grid if grid else EMPTY, width)


def show_sessions(sessions: Sequence[api.Session]) -> None:
    grid = session_grid(sessions, is_wide=columns() >= WIDE_COLUMNS)
    write(grid if grid else EMPTY)


def show_session(session: api.Session) -> None:
    """All of one."""
    write(
        f"session {session.session}",
        facts(
            [
                ("flow", f"{session.flow}{f', {role(session)}' if role(session) else ''}"),
                ("task", f"{session.task or 'none'}{f' ({session.kind})' if session.kind else ''}"),
                ("verdict", f"{session.verdict}: {session.reason}" if session.reason else session.verdict),
                ("price", _price_sentence(session)),
                ("a mark", money(session.nanodollars_per_mark) if session.pays else "the far end's to know"),
            ]
        ),
    )


def _price_sentence(session: api.Session) -> str:
    if not session.pays:
        return "the far end pays, and says the rate"
    if not session.source:
        return "not known yet: nobody has said anything"
    return f"{price(session)} n$/MB, {charged(session)}"


def role(session: api.Session) -> str:
    """Of most there is nothing to say: they leave here, and we pay."""
    if not session.sends:
        return "arrives"
    return "" if session.pays else "far end pays"


def price(session: api.Session) -> str:
    """Of a megabyte. Where nobody has said one it is not 0."""
    if not session.pays:
        return ""
    told = session.price_nanodollars_per_mb
    return UNKNOWN if told is None else f"{told:,}"


def charged(session: api.Session) -> str:
    """Whether what we see is what is charged."""
    if not session.source or not session.pays:
        return ""
    return "billed" if session.billed else f"estimate: {session.source}"


def marks(session: api.Session) -> str:
    """Of what arrived lately."""
    return "" if session.marked_ppm is None else f"{session.marked_ppm / 10_000:.1f} %"


def spent(session: api.Session) -> str:
    """An estimate stands behind a ~: nobody bills it."""
    if not session.pays:
        return ""
    return f"{'' if session.billed or not session.spent_nanodollars else '~'}{money(session.spent_nanodollars)}"
