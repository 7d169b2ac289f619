"""Where each node and link of a network's map stands: in layers from this host to the destinations.

Decides: layers (the longest way from here; destinations last), the order in them (few crossings), and room for every
text, so that none covers another. Refuses to know: what a node looks like. Source: Sugiyama, Tagawa, Toda: Methods for
visual understanding of hierarchical system structures (1981): layers, dummies where a link passes a layer, barycentres.
Pure; the same map has the same picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

CHARACTER: Final = 7.3  # pixels, of a monospaced font of 12
LINE: Final = 17  # pixels from one line of text to the next
PAD: Final = 8
BETWEEN: Final = 14  # boxes below each other
CURVE: Final = 70  # pixels for links between a label and the next box
SWEEPS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """`label` stands at its beginning."""

    source: str
    target: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Of a node, with its lines of text."""

    name: str
    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A link: its points from left to right, and where its label begins (the baseline)."""

    edge: int  # its place among those that were given
    points: tuple[tuple[float, float], ...]
    is_back: bool  # its target is at the left
    label_x: float
    label_y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a link from one layer to the next. Names of dummies are pairs of the edge and the layer."""

    edge: int
    source: object
    target: object
    label: str


def layout(nodes: Mapping[str, Sequence[str]], edges: Sequence[Edge], last: frozenset[str]) -> Layout:
    """`nodes`: the lines of text of each. `last`: those of the last layer. Edges of unknown nodes are left out."""
    known = [(place, edge) for place, edge in enumerate(edges) if {edge.source, edge.target} <= nodes.keys()]
    layers_of = _layers(nodes, [edge for _, edge in known], last)
    pieces: list[_Piece] = []
    layers: list[list[object]] = [[] for _ in range(max(layers_of.values(), default=0) + 1)]
    for name in nodes:
        layers[layers_of[name]].append(name)
    for place, edge in known:
        pieces += _pieces(place, edge, layers_of, layers)
    _order(layers, pieces)
    back = {place for place, edge in known if layers_of[edge.source] > layers_of[edge.target]}
    return _Placing(nodes, layers, pieces).layout(back)


def _layers(nodes: Mapping[str, Sequence[str]], edges: Sequence[Edge], last: frozenset[str]) -> dict[str, int]:
    """The longest way from a beginning; links that close a circle do not count."""
    behind: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        behind[edge.source].append(edge.target)
    order: list[str] = []  # who is behind somebody comes before him
    state: dict[str, int] = {}  # 1: under way, 2: done
    forward: list[tuple[str, str]] = []
    for start in nodes:
        stack = [(start, iter(behind[start]))] if start not in state else []
        if stack:
            state[start] = 1
        while stack:
            name, rest = stack[-1]
            target = next(rest, None)
            if target is None:
                state[name] = 2
                order.append(name)
                stack.pop()
            elif state.get(target) != 1:
                forward.append((name, target))
                if target not in state:
                    state[target] = 1
                    stack.append((target, iter(behind[target])))
    layers = dict.fromkeys(nodes, 0)
    targets = defaultdict(list)
    for name, target in forward:
        targets[name].append(target)
    for name in reversed(order):
        for target in targets[name]:
            layers[target] = max(layers[target], layers[name] + 1)
    deepest = max(layers.values(), default=0)
    if any(layers[name] == deepest for name in nodes if name not in last) and last:
        deepest += 1
    layers.update({name: max(1, deepest) for name in nodes if name in last})
    return layers


def _pieces(place: int, edge: Edge, layers_of: Mapping[str, int], layers: list[list[object]]) -> list[_Piece]:
    """From layer to layer. A link that leads back is drawn from its end to its beginning."""
    start, end = edge.source, edge.target
    if layers_of[start] > layers_of[end]:
        start, end = end, start
    if layers_of[start] == layers_of[end]:
        return []
    found = []
    before: object = start
    for layer in range(layers_of[start] + 1, layers_of[end]):
        dummy = (place, layer)
        layers[layer].append(dummy)
        found.append(_Piece(place, before, dummy, edge.label if before is start else ""))
        before = dummy
    found.append(_Piece(place, before, end, edge.label if before is start else ""))
    return found


def _order(layers: list[list[object]], pieces: Sequence[_Piece]) -> None:
    """Each next to the mean of those that it is linked with, to and fro."""
    before: dict[object, list[object]] = defaultdict(list)
    after: dict[object, list[object]] = defaultdict(list)
    for piece in pieces:
        after[piece.source].append(piece.target)
        before[piece.target].append(piece.source)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        linked = before if forward else after
        for number in range(1, len(layers)) if forward else range(len(layers) - 2, -1, -1):
            other = layers[number - 1 if forward else number + 1]
            places = {name: place for place, name in enumerate(other)}
            own = {name: float(place) for place, name in enumerate(layers[number])}
            for name in own:
                met = [places[each] for each in linked[name] if each in places]
                if met:
                    own[name] = sum(met) / len(met)
            layers[number].sort(key=lambda name: own[name])


class _Placing:
    """Pixels. In each column: boxes, then the labels of the links that leave it, then room for curves."""

    def __init__(
        self, nodes: Mapping[str, Sequence[str]], layers: Sequence[Sequence[object]], pieces: Sequence[_Piece]
    ) -> None:
        self._nodes = nodes
        self._layers = layers
        self._leaving: dict[object, list[_Piece]] = defaultdict(list)
        self._coming: dict[object, list[_Piece]] = defaultdict(list)
        places = {name: place for layer in layers for place, name in enumerate(layer)}
        for piece in sorted(pieces, key=lambda piece: places[piece.target]):
            self._leaving[piece.source].append(piece)
        for piece in sorted(pieces, key=lambda piece: places[piece.source]):
            self._coming[piece.target].append(piece)
        self._points: dict[int, list[tuple[float, float]]] = defaultdict(list)
        self._labels: dict[int, tuple[float, float]] = {}
        self._boxes: list[Box] = []

    def layout(self, back: set[int]) -> Layout:
        heights = [sum(self._height(name) + BETWEEN for name in layer) for layer in self._layers]
        tallest, x = max(heights, default=0.0), float(PAD)
        for layer, height in zip(self._layers, heights, strict=True):
            x = self._column(layer, x, PAD + (tallest - height) / 2)
        lines = (
            Line(
                edge=edge,
                points=tuple(points),
                is_back=edge in back,
                label_x=self._labels[edge][0],
                label_y=self._labels[edge][1],
            )
            for edge, points in sorted(self._points.items())
        )
        width = max((box.x + box.width for box in self._boxes), default=0.0) + PAD
        return Layout(width=width, height=tallest + 2 * PAD, boxes=tuple(self._boxes), lines=tuple(lines))

    def _height(self, name: object) -> float:
        if not isinstance(name, str):
            return LINE
        ports = max(len(self._leaving[name]), len(self._coming[name]))
        return LINE * max(len(self._nodes[name]), ports) + PAD

    def _column(self, layer: Sequence[object], x: float, y: float) -> float:
        """Gives where the next one begins."""
        texts = [text for name in layer if isinstance(name, str) for text in self._nodes[name]]
        box_width = max((len(text) for text in texts), default=0) * CHARACTER + 2 * PAD if texts else 0.0
        labels = max((len(piece.label) for name in layer for piece in self._leaving[name]), default=0) * CHARACTER
        right = x + box_width + labels + 2 * PAD
        for name in layer:
            height = self._height(name)
            if isinstance(name, str):
                lines = tuple(self._nodes[name])
                self._boxes.append(Box(name=name, x=x, y=y, width=box_width, height=height, lines=lines))
                self._arrive(name, x, y, height)
                self._leave(name, x + box_width, right, y, height)
            else:
                middle = y + height / 2
                for piece in self._coming[name]:
                    self._points[piece.edge] += [(x, middle), (right, middle)]
            y += height + BETWEEN
        return right + CURVE

    def _arrive(self, name: str, x: float, y: float, height: float) -> None:
        for place, piece in enumerate(self._coming[name]):
            self._points[piece.edge].append((x, _port(place, len(self._coming[name]), y, height)))

    def _leave(self, name: str, x: float, right: float, y: float, height: float) -> None:
        for place, piece in enumerate(self._leaving[name]):
            port = _port(place, len(self._leaving[name]), y, height)
            self._points[piece.edge] += [(x, port), (right, port)]
            self._labels[piece.edge] = (x + PAD, port - 4)


def _port(place: int, count: int, y: float, height: float) -> float:
    """On a box's side, so far from each other that a line of text fits between them."""
    return y + height / 2 + (place - (count - 1) / 2) * LINE
