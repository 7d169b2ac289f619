"""The known network as a picture: one SVG that needs nothing else, with the numbers where a pointer rests.

Decides: what a box, a link and an accusation look like, and what is left out of a picture that is too large to be
read. Refuses to know: where things stand (`cli.show.map_layout`). Texts come from strangers: all are escaped. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from cli.show.map import alternative_text, link_texts
from cli.show.map_layout import LINE, PAD, Box, Edge, Layout, layout
from cli.show.map_layout import Line as Drawn
from cli.show.paths import ms, nanodollars
from cli.show.text import UNKNOWN, harmless
from hostagent import api

NODES_MOST: Final = 150
NAME_MOST: Final = 45  # characters: any address
TITLE_MOST: Final = 4000
HEAD: Final = 2 * LINE
FOOT: Final = 2 * LINE
STYLE: Final = """
.map text{font:12px "DejaVu Sans Mono","Liberation Mono",Menlo,Consolas,monospace;fill:#1a1a1a}
.map .ground{fill:#fff}.map .box{fill:#f4f4f4;stroke:#777}.map .here{fill:#dbeafe;stroke:#1d4ed8;stroke-width:2}
.map .destination{fill:#ecfdf5;stroke:#047857}.map .accused{fill:#fef2f2;stroke:#b91c1c;stroke-width:2.5}
.map .link{fill:none;stroke:#888;stroke-width:1.2;stroke-dasharray:5 4}
.map .used{stroke:#1d4ed8;stroke-width:3;stroke-dasharray:none}
.map .strong{font-weight:bold}.map .faint{fill:#555}.map .bad{fill:#b91c1c}
.map .head{fill:#888}.map .usedhead{fill:#1d4ed8}
@media (prefers-color-scheme:dark){.map text{fill:#e5e5e5}.map .ground{fill:#171717}.map .box{fill:#262626}
.map .here{fill:#1e3a8a}.map .destination{fill:#064e3b}.map .accused{fill:#450a0a}.map .faint{fill:#b0b0b0}
.map .used{stroke:#60a5fa}.map .usedhead{fill:#60a5fa}.map .bad{fill:#f87171}}
"""


def map_svg(known: api.NetworkMap) -> str:
    """One document. Traffic's links are thick, the others are dashed; who is accused has a red frame."""
    shown, left_out = _readable(known)
    nodes = {node.name: node for node in shown.nodes}
    edges = [Edge(source=link.source, target=link.target, label=label(link)) for link in shown.links]
    last = frozenset(node.name for node in shown.nodes if node.kind == "destination")
    placed = layout({name: _lines(node) for name, node in nodes.items()}, edges, last)
    width, height = max(placed.width, 620.0), placed.height + HEAD + FOOT
    size = f'width="{width:.0f}" height="{height:.0f}"'
    view = f'viewBox="0 0 {width:.0f} {height:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="map" role="img" {size} {view}>',
        f"<title>{_text(f'the known network: {known.network}')}</title>",
        f"<style>{STYLE}</style>{_HEADS}",
        f'<rect class="ground" {size}/>',
        f'<text class="strong" x="{PAD}" y="{LINE}">{_text(_cut(f"network: {known.network or UNKNOWN}", 80))}</text>',
        f'<g transform="translate(0 {HEAD})">',
        *_links(placed, shown),
        *_boxes(placed, nodes),
        "</g>",
        f'<text class="faint" x="{PAD}" y="{height - PAD:.0f}">{_text(_legend(left_out))}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


_HEADS: Final = "<defs>{}{}</defs>".format(
    *(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="8" refY="4" markerUnits="userSpaceOnUse" markerWidth="10" '
        f'markerHeight="10" orient="auto-start-reverse"><path class="{name}" d="M0 0 8 4 0 8z"/></marker>'
        for name in ("head", "usedhead")
    )
)


def _legend(left_out: int) -> str:
    more = f"; {left_out:,} nodes are left out" if left_out else ""
    return f"thick: carries traffic; numbers: of the whole way, there and back{more}"


def _readable(known: api.NetworkMap) -> tuple[api.NetworkMap, int]:
    """Of more nodes than can be looked at: this host, then ISPs, then destinations, those in use first."""
    if len(known.nodes) <= NODES_MOST:
        return known, 0
    used = {name for link in known.links if link.used for name in (link.source, link.target)}
    ranks = {"here": 0, "as": 1}
    first = sorted(known.nodes, key=lambda node: (node.name not in used, ranks.get(node.kind, 2)))[:NODES_MOST]
    names = {node.name for node in first}
    kept = api.NetworkMap(
        network=known.network,
        nodes=tuple(node for node in known.nodes if node.name in names),
        links=tuple(link for link in known.links if {link.source, link.target} <= names),
    )
    return kept, len(known.nodes) - len(kept.nodes)


def label(link: api.MapLink) -> str:
    """By which alternative, how long, how dear: `2: 21.0 ms 3.00 n$`."""
    number = "" if link.alternative is None else f"{link.alternative}: "
    toll = "" if link.toll_picodollars is None else f" {nanodollars(link.toll_picodollars)} n$"
    delay = UNKNOWN if link.delay_ns is None else f"{ms(link.delay_ns)} ms"
    return f"{number}{delay}{toll}"


def _lines(node: api.MapNode) -> list[str]:
    lines = [_cut(node.name, NAME_MOST)]
    if node.finding:
        lines.append("! accused")
    if node.alternatives:
        count = len(node.alternatives)
        lines.append(f"{count} alternative{'' if count == 1 else 's'}")
    return lines


def _boxes(placed: Layout, nodes: dict[str, api.MapNode]) -> Iterator[str]:
    for box in placed.boxes:
        node = nodes[box.name]
        kind = "accused" if node.finding else node.kind if node.kind in ("here", "destination") else "box"
        yield f"<g><title>{_text(_node_title(node))}</title>"
        size = f'width="{box.width:.1f}" height="{box.height:.1f}"'
        yield f'<rect class="{kind}" x="{box.x:.1f}" y="{box.y:.1f}" {size} rx="4"/>'
        yield from _texts(box)
        yield "</g>"


def _texts(box: Box) -> Iterator[str]:
    top = box.y + (box.height - LINE * len(box.lines)) / 2
    for place, text in enumerate(box.lines):
        style = "strong" if place == 0 else "bad" if text.startswith("!") else "faint"
        y = top + LINE * place + 12
        yield f'<text class="{style}" x="{box.x + PAD:.1f}" y="{y:.1f}">{_text(text)}</text>'


def _links(placed: Layout, known: api.NetworkMap) -> Iterator[str]:
    """Those that carry traffic are drawn last, and so above the others."""
    nodes = {node.name: node for node in known.nodes}
    for drawn in sorted(placed.lines, key=lambda line: known.links[line.edge].used):
        link = known.links[drawn.edge]
        style, head = ("link used", "usedhead") if link.used else ("link", "head")
        end = "start" if drawn.is_back else "end"
        yield f"<g><title>{_text(_link_title(link, nodes.get(link.source)))}</title>"
        yield f'<path class="{style}" marker-{end}="url(#{head})" d="{_path(drawn)}"/>'
        yield f'<text x="{drawn.label_x:.1f}" y="{drawn.label_y:.1f}">{_text(label(link))}</text></g>'


def _path(drawn: Drawn) -> str:
    """Straight through a column, bent between two."""
    (x, y), *others = drawn.points
    parts = [f"M{x:.1f} {y:.1f}"]
    for to_x, to_y in others:
        if to_y == y:
            parts.append(f"H{to_x:.1f}")
        else:
            middle = (x + to_x) / 2
            parts.append(f"C{middle:.1f} {y:.1f} {middle:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    return " ".join(parts)


def _node_title(node: api.MapNode) -> str:
    texts = [node.name, f"! {node.finding}" if node.finding else "", node.description]
    return "\n".join(harmless(text) for text in (*texts, *map(alternative_text, node.alternatives)) if text)


def _link_title(link: api.MapLink, source: api.MapNode | None) -> str:
    by = f" by alternative {link.alternative}" if link.alternative is not None else ""
    used = "carries traffic" if link.used else "carries no traffic"
    return "\n".join(map(harmless, (f"{link.source} to {link.target}{by}", used, *link_texts(link, source))))


def _cut(text: str, most: int) -> str:
    flat = harmless(text)
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def _text(text: str) -> str:
    """Escaped, with the line ends that are ours; what XML has no place for is no text."""
    return escape("\n".join(harmless(part) for part in text[:TITLE_MOST].split("\n")))
