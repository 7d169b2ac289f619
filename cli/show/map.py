"""The known network as text: who is behind whom, which links carry traffic, what was promised and what is measured.

Decides: the tree's form, and what is left out of it. Refuses to know: how anything is measured. A network is no tree:
what is behind somebody is written where he is nearest to this host, and elsewhere that it is above or below. Pure.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from cli.show.paths import ms, nanodollars, short_span, wrapped
from cli.show.text import PIPE_COLUMNS, UNKNOWN, harmless, money
from hostagent import api

DEEPEST: Final = 40  # levels
LEAVES_MOST: Final = 12  # destinations behind one ISP
EMPTY: Final = "no map: nobody is known on this network yet"
LEGEND: Final = (
    "━▶ carries traffic, ─→ does not; 2: the ISP's alternative 2",
    "numbers of a link are those of the whole way by it, a promise is its ISP's part",
)


def map_lines(known: api.NetworkMap, width: int) -> list[str]:
    if not known.links and len(known.nodes) <= 1:
        return [EMPTY]
    tree = _Tree(known, min(width, PIPE_COLUMNS))
    lines = wrapped(f"network: {known.network or UNKNOWN}", width, 0)
    for start in tree.starts():
        lines += tree.node(start, "", "")
    alone = [node for node in known.nodes if node.name not in tree.shown]
    if alone:
        lines += ["", "not on any way that was seen:"]
        for node in alone:
            lines += tree.node(node.name, "  ", "  ")
    return [*lines, "", *(line for text in LEGEND for line in wrapped(text, width, 0))]


class _Tree:
    def __init__(self, known: api.NetworkMap, width: int) -> None:
        self.shown: set[str] = set()
        self._width = width
        self._nodes = {node.name: node for node in known.nodes}
        self._links: dict[str, list[api.MapLink]] = defaultdict(list)
        for link in known.links:
            self._links[link.source].append(link)
        for links in self._links.values():
            links.sort(key=lambda link: (not link.used, link.alternative or 0, link.target))
        self._targets = {link.target for link in known.links}
        self._told_at = self._nearest()

    def starts(self) -> list[str]:
        """This host, and whoever has somebody behind him but is behind nobody."""
        here = [name for name, node in self._nodes.items() if node.kind == "here"]
        return here + [name for name in self._links if name not in self._targets and name not in here]

    def _nearest(self) -> dict[str, api.MapLink | None]:
        """By which link each is told of: the shortest way from here; None: it is a beginning."""
        found: dict[str, api.MapLink | None] = {}
        for start in self.starts():
            found.setdefault(start)
            waiting = deque([start])
            while waiting:
                for link in self._links.get(waiting.popleft(), ()):
                    if link.target not in found:
                        found[link.target] = link
                        waiting.append(link.target)
        return found

    def node(
        self, name: str, first: str, rest: str, numbers: str = "", by: api.MapLink | None = None, depth: int = 0
    ) -> Iterator[str]:
        """Its line begins with `first`, all below it with `rest`."""
        node = self._nodes.get(name)
        is_here = self._told_at.get(name) is by
        behind = self._links.get(name, [])
        again = "" if is_here or not behind else " (above)" if name in self.shown else " (below)"
        title = f"{first}{harmless(name)}{again}"
        yield from self._fitted(title, numbers, rest)
        if not is_here or node is None:
            return
        self.shown.add(name)
        bar = rest + ("│ " if behind and depth < DEEPEST else "  ")
        for text in node_texts(node, {link.alternative for link in behind}):
            yield from self._wrapped(text, bar)
        if behind and depth >= DEEPEST:
            yield f"{rest}…"
            return
        yield from self._behind(behind, rest, depth)

    def _behind(self, links: Sequence[api.MapLink], rest: str, depth: int) -> Iterator[str]:
        links, left_out = self._without_many_leaves(links)
        for place, link in enumerate(links):
            is_last = place == len(links) - 1 and not left_out
            corner, line, arrow = (
                ("┗" if is_last else "┣", "━", "▶") if link.used else ("└" if is_last else "├", "─", "→")
            )
            number = "" if link.alternative is None else f"{link.alternative}{line}"
            branch = f"{rest}{corner}{line}{number}{arrow} "
            below = rest + (" " if is_last else "│") + " " * (len(branch) - len(rest) - 1)
            yield from self.node(link.target, branch, below, self._numbers(link), link, depth + 1)
        if left_out:
            yield f"{rest}└ {left_out:,} more destinations"

    def _without_many_leaves(self, links: Sequence[api.MapLink]) -> tuple[list[api.MapLink], int]:
        kept: list[api.MapLink] = []
        leaves = 0
        for link in links:
            node = self._nodes.get(link.target)
            if node is not None and node.kind == "destination":
                leaves += 1
                if leaves > LEAVES_MOST:
                    self.shown.add(link.target)
                    continue
            kept.append(link)
        return kept, max(0, leaves - LEAVES_MOST)

    def _numbers(self, link: api.MapLink) -> str:
        return ", ".join(link_texts(link, self._nodes.get(link.source)))

    def _fitted(self, title: str, numbers: str, rest: str) -> Iterator[str]:
        """Numbers behind the name, or below it where there is no room."""
        if not numbers or len(title) + 2 + len(numbers) <= self._width:
            yield f"{title}  {numbers}".rstrip()
            return
        yield title
        yield from self._wrapped(numbers, f"{rest}  ")

    def _wrapped(self, text: str, before: str) -> Iterator[str]:
        for line in wrapped(text, self._width - len(before), 0):
            yield f"{before}{line}"


def node_texts(node: api.MapNode, told: Collection[int | None] = ()) -> list[str]:
    """What is known of it besides its name, and besides what is `told` at the links by its alternatives."""
    texts = [f"! {node.finding}"] if node.finding else []
    if node.description:
        texts.append(f"signed: {node.description}")
    texts += [alternative_text(each) for each in node.alternatives if each.number not in told]
    return texts


def alternative_text(each: api.MapAlternative) -> str:
    promises = promise(each)
    title = f" {each.title}" if each.title else ""
    return f"{each.number}{title}: {promises or 'promises nothing'}{'' if each.available else ', not available now'}"


def promise(each: api.MapAlternative) -> str:
    delay = "" if each.promised_delay_ns is None else f"{ms(each.promised_delay_ns)} ms"
    toll = "" if each.promised_toll_nanodollars is None else money(each.promised_toll_nanodollars)
    said = " and ".join(part for part in (delay, toll) if part)
    return f"promises {said}" if said else ""


def link_texts(link: api.MapLink, source: api.MapNode | None) -> list[str]:
    """What was measured of the whole way by it, and what the ISP promised of its part."""
    texts = [f"{ms(link.delay_ns)} ms" if link.delay_ns is not None else f"delay {UNKNOWN}"]
    texts.append(f"{nanodollars(link.toll_picodollars)} n$" if link.toll_picodollars is not None else f"toll {UNKNOWN}")
    if link.age_s is not None:
        texts.append(f"{short_span(link.age_s)} ago")
    if source is not None and link.alternative is not None:
        for each in source.alternatives:
            if each.number == link.alternative:
                title = f"{each.title} " if each.title else ""
                texts.append(f"{title}{promise(each) or 'promises nothing'}")
    return texts
