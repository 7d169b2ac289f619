"""The ways to one destination: how good each is and how surely, what it costs, why it is taken; and the map as text.

Decides the columns and the words.  What nobody knows is a question mark, and what nobody measured here stands in
parentheses: an ISP promised it, or the campus service said so.  Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from rich.text import Text

from hostagent import api
from tui.model.columns import Column, Listing, Sorting, number
from tui.model.texts import FAINT, LOUD, STRONG, UNKNOWN, duration_text, line, rate_text

EMPTY: Final = "no way is known yet: nothing was measured to there"
MEASURED: Final = "measured"
ONLY_WAY: Final = "the only one"
PPM_PER_PERCENT: Final = 10_000
DEEPEST: Final = 20  # levels of the map
LEGEND: Final = "( ) not measured here: promised, or from the campus service   ? nobody knows   ━ carries traffic"
_UNKNOWN: Final = -1  # sorts below 0


def _digits(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.{3 if abs(value) < 0.0995 else 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"


def ms(nanoseconds: float) -> str:
    return _digits(nanoseconds / 1e6)


def percent(ppm: float) -> str:
    return _digits(ppm / PPM_PER_PERCENT)


def nanodollars(picodollars: float) -> str:
    return _digits(picodollars / 1e3)


def rate(bit_s: float) -> str:
    return rate_text(round(bit_s))


def figure(known: api.Figure | None, text: Callable[[float], str]) -> str:
    if known is None:
        return UNKNOWN
    said = text(known.value) + (f" ±{_trimmed(text(known.uncertainty))}" if known.uncertainty else "")
    return said if known.source == MEASURED else f"({said})"


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text and text[-1].isdigit() else text


def _value(known: api.Figure | None) -> int:
    return _UNKNOWN if known is None else known.value


def figures(way: api.Way) -> tuple[tuple[str, api.Figure | None, Callable[[float], str]], ...]:
    """Name, what is known, how it reads."""
    return (
        ("delay ms", way.delay_ns, ms),
        ("jitter ms", way.jitter_ns, ms),
        ("lost %", way.loss_ppm, percent),
        ("marked %", way.marks_ppm, percent),
        ("bit/s", way.throughput_bit_s, rate),
        ("toll there n$", way.forward_toll_picodollars, nanodollars),
        ("toll back n$", way.return_toll_picodollars, nanodollars),
    )


def newest_s(way: api.Way) -> int | None:
    """How old the newest measurement of anything is."""
    return min((each.age_s for _, each, _ in figures(way) if each is not None and each.age_s is not None), default=None)


def age_text(age_s: int | None) -> str:
    return UNKNOWN if age_s is None else duration_text(age_s)


def share_text(ppm: int) -> str:
    return "<1 %" if 0 < ppm < PPM_PER_PERCENT else f"{ppm // PPM_PER_PERCENT} %"


def _cost(way: api.Way) -> str:
    return UNKNOWN if way.cost_picodollars is None else nanodollars(way.cost_picodollars)


COLUMNS: Final[tuple[Column[api.Way], ...]] = (
    Column("way", 19, 0, lambda way: way.way or ONLY_WAY, most=60),
    Column("for", 7, 3, lambda way: way.wants, most=12),
    number("share", 5, 0, lambda way: share_text(way.share_ppm), lambda way: way.share_ppm),
    number("delay ms", 10, 0, lambda way: figure(way.delay_ns, ms), lambda way: _value(way.delay_ns)),
    number("lost %", 10, 1, lambda way: figure(way.loss_ppm, percent), lambda way: _value(way.loss_ppm)),
    number(
        "n$ there",
        10,
        1,
        lambda way: figure(way.forward_toll_picodollars, nanodollars),
        lambda way: _value(way.forward_toll_picodollars),
    ),
    number("cost n$", 7, 0, _cost, lambda way: way.cost_picodollars or _UNKNOWN),
    number("seen", 6, 2, lambda way: age_text(newest_s(way)), lambda way: newest_s(way) or _UNKNOWN),
    Column("why", 20, 4, lambda way: way.reason, most=300),
)


_TO: Final[Column[api.Way]] = Column("to", 15, 0, lambda way: way.destination, most=39)


def listing(ways: Iterable[api.Way], sorting: Sorting, *, with_destination: bool = False) -> Listing[api.Way]:
    """In the agent's order, the ways of a class together; those that get no traffic are faint."""
    columns = (_TO, *COLUMNS) if with_destination else COLUMNS
    found = sorted(ways, key=lambda way: (way.destination, way.wants))
    return Listing(
        columns=columns,
        things=sorting.sort(columns, found),
        key=lambda way: f"{way.destination}\0{way.wants}\0{way.way}",
        faint=lambda way: not way.share_ppm,
        sorted_by=sorting.by,
        reverse=sorting.reverse,
    )


def detail(way: api.Way) -> list[Text]:
    """All that is known of one, with how surely, how old, and who says it."""
    chosen = "the choice" if way.chosen else "not the choice"
    lines = [
        line((f"to {way.destination} by {way.way or ONLY_WAY}", STRONG)),
        line(f"{chosen} for {way.wants}, {share_text(way.share_ppm)} of its flows"),
        line(("why  ", FAINT), way.reason or "nobody said"),
    ]
    for name, known, text in figures(way):
        if known is None:
            lines.append(line((f"{name:<14}", FAINT), f"{UNKNOWN}  not known"))
        else:
            seen = "nobody measured it here" if known.age_s is None else f"{duration_text(known.age_s)} ago"
            lines.append(line((f"{name:<14}", FAINT), f"{figure(known, text)}  {known.source}, {seen}"))
    return lines


# --- the map ----------------------------------------------------------------------------------------------------------


def map_texts(known: api.NetworkMap) -> list[Text]:
    """A tree from this host; who was told of already is not told of again."""
    links: dict[str, list[api.MapLink]] = {}
    for link in sorted(known.links, key=lambda link: (not link.used, link.alternative or 0, link.target)):
        links.setdefault(link.source, []).append(link)
    nodes = {node.name: node for node in known.nodes}
    lines = []
    for node in known.nodes:
        if node.kind == "here":
            lines.append(line((node.name, STRONG)))
            lines += _behind(node.name, "", links, nodes, {node.name}, 0)
    return lines or [line((EMPTY, FAINT))]


def _behind(
    name: str,
    before: str,
    links: dict[str, list[api.MapLink]],
    nodes: dict[str, api.MapNode],
    told: set[str],
    depth: int,
) -> Iterator[Text]:
    leading = links.get(name, ())
    if depth >= DEEPEST and leading:
        yield line(f"{before}…")
        return
    for place, link in enumerate(leading):
        is_last = place == len(leading) - 1
        corner, stroke, arrow = (
            ("┗" if is_last else "┣", "━", "▶") if link.used else ("└" if is_last else "├", "─", "→")
        )
        by = "" if link.alternative is None else f"{link.alternative}{stroke}"
        branch = f"{corner}{stroke}{by}{arrow} "
        is_new = link.target not in told
        told.add(link.target)
        style = STRONG if link.used else FAINT
        yield line(f"{before}{branch}", (link.target, style), f"  {_numbers(link, nodes.get(name))}")
        if is_new:
            below = before + (" " if is_last else "│") + " " * (len(branch) - 1)
            node = nodes.get(link.target)
            if node is not None and node.finding:
                yield line(f"{below}{'│' if links.get(link.target) else ' '} ", (f"! {node.finding}", LOUD))
            yield from _behind(link.target, below, links, nodes, told, depth + 1)


def _numbers(link: api.MapLink, source: api.MapNode | None) -> str:
    """Of the whole way by it, and what the ISP promised of its own part."""
    parts = [
        f"{UNKNOWN if link.delay_ns is None else ms(link.delay_ns)} ms",
        f"{UNKNOWN if link.toll_picodollars is None else nanodollars(link.toll_picodollars)} n$",
    ]
    parts += (
        f"its part promised in {ms(each.promised_delay_ns)} ms"
        for each in (source.alternatives if source is not None and link.alternative is not None else ())
        if each.number == link.alternative and each.promised_delay_ns is not None
    )
    return ", ".join(parts)


def screen_lines(way: api.Way | None, known: api.NetworkMap | None) -> Sequence[Text]:
    """What stands below the table: the chosen way, then the map."""
    lines = [line(("no way is chosen", FAINT))] if way is None else detail(way)
    lines.append(Text())
    lines += [line(("the map is asked for …", FAINT))] if known is None else map_texts(known)
    return [*lines, line((LEGEND, FAINT))]
