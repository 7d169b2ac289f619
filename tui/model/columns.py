"""Tables as text: columns that fit, rows that are sorted and filtered, and cells for the visible rows only.

Decides which columns a width has room for, how wide they are, and the order of rows.  In a narrow terminal the least
important columns are left out; in a wide one the long texts get what is to spare.  Refuses to know what the rows are
about, and never makes the text of a row that nobody sees: there may be thousands, many times a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from rich.cells import cell_len

from tui.model.texts import cell, plain

GAP: Final = 2  # characters between columns
GUTTER: Final = 2  # the mark of the chosen row, and a blank

T = TypeVar("T")
Order = Callable[[T], int | str]


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """`rank`: 0 is always shown, the highest drops out first. `width`: characters, gap not included; `most` when there
    is room and the texts need it. `order`: what to sort by, the text when None; numbers begin with the largest.
    """

    title: str
    width: int
    rank: int
    text: Callable[[T], str]
    most: int = 0
    is_number: bool = False
    order: Order[T] | None = None


def number(title: str, width: int, rank: int, text: Callable[[T], str], order: Order[T]) -> Column[T]:
    return Column(title, width, rank, text, is_number=True, order=order)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Generic[T]):
    """What a table shows now. `key` is unique among `things`; `faint` rows matter less."""

    columns: Sequence[Column[T]]
    things: Sequence[T]
    key: Callable[[T], str]
    faint: Callable[[T], bool] = lambda _thing: False
    sorted_by: str = ""
    reverse: bool = False


@dataclass(slots=True)
class Sorting:
    """What a person chose; "" is the screen's own order."""

    by: str = ""
    reverse: bool = False

    def cycle(self, titles: Sequence[str]) -> None:
        """The next column, and after the last one the screen's own order again."""
        choices = ["", *titles]
        place = choices.index(self.by) if self.by in choices else 0
        self.by, self.reverse = choices[(place + 1) % len(choices)], False

    def choose(self, title: str) -> None:
        """By this column; the other way round when it was already."""
        self.by, self.reverse = title, self.by == title and not self.reverse

    def turn(self) -> None:
        self.reverse = not self.reverse

    def sort(self, columns: Sequence[Column[T]], things: Sequence[T]) -> Sequence[T]:
        column = next((column for column in columns if column.title == self.by), None)
        if column is None:
            return things[::-1] if self.reverse else things
        return sorted(things, key=column.order or column.text, reverse=column.is_number != self.reverse)

    def text(self) -> str:
        if not self.by:
            return "reversed" if self.reverse else ""
        return f"by {self.by}{', reversed' if self.reverse else ''}"


def matching(wanted: str, things: Iterable[T], texts: Callable[[T], Iterable[str]]) -> list[T]:
    """Those in whose texts each of the wanted words occurs, whatever their case."""
    words = wanted.lower().split()
    if not words:
        return list(things)
    found = []
    for thing in things:
        text = "\n".join(texts(thing)).lower()
        if all(word in text for word in words):
            found.append(thing)
    return found


def columns_for(columns: Sequence[Column[T]], width: int) -> list[Column[T]]:
    """Those that fit, in their order: the least important are left out first."""
    shown = list(columns)
    while GUTTER + sum(column.width + GAP for column in shown) - GAP > width:
        worst = max(shown, key=lambda column: column.rank)
        if worst.rank == 0:
            break
        shown.remove(worst)
    return shown


@dataclass(slots=True)
class Layout(Generic[T]):
    """Widths of a table's columns. What a column once needed it keeps, so that nothing jumps while rows change."""

    width: int
    choice: Sequence[Column[T]]  # what it was made of
    columns: list[Column[T]]
    widths: list[int]
    _needs: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, columns: Sequence[Column[T]], width: int) -> Layout[T]:
        shown = columns_for(columns, width)
        widths = [column.width for column in shown]
        return cls(width=width, choice=columns, columns=shown, widths=widths, _needs=list(widths))

    def learn(self, things: Iterable[T]) -> bool:
        """What these rows need; whether a width changed."""
        needs = list(self._needs)
        for thing in things:
            for place, column in enumerate(self.columns):
                if column.most > needs[place]:
                    needs[place] = max(needs[place], min(column.most, cell_len(plain(column.text(thing)))))
        if needs == self._needs:
            return False
        self._needs = needs
        before, self.widths = self.widths, self._spread()
        return before != self.widths

    def _spread(self) -> list[int]:
        """What is to spare goes to those that need it, the more important first."""
        widths = [column.width for column in self.columns]
        spare = max(0, self.width - GUTTER - sum(widths) - GAP * (len(widths) - 1))
        for place in sorted(range(len(widths)), key=lambda place: self.columns[place].rank):
            more = min(spare, self._needs[place] - widths[place])
            widths[place] += more
            spare -= more
        return widths

    def cells(self, thing: T) -> list[str]:
        return [
            cell(column.text(thing), width, right=column.is_number)
            for column, width in zip(self.columns, self.widths, strict=True)
        ]

    def titles(self, sorted_by: str, reverse: bool) -> list[str]:
        """An arrow at the column that is sorted by: ↓ when it is in its own way, ↑ when it is reversed."""
        made = []
        for column, width in zip(self.columns, self.widths, strict=True):
            title = cell(column.title, width, right=column.is_number)
            if column.title == sorted_by:
                arrow = "↑" if reverse else "↓"
                title = f"{title[1:]}{arrow}" if title.startswith(" ") else cell(f"{column.title}{arrow}", width)
            made.append(title)
        return made

    def column_at(self, x: int) -> Column[T] | None:
        left = GUTTER
        for column, width in zip(self.columns, self.widths, strict=True):
            if left <= x < left + width + GAP:
                return column
            left += width + GAP
        return None
