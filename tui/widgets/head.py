"""The line of tabs, which a mouse can click."""

from __future__ import annotations

from rich.text import Text
from textual import events
from textual.message import Message
from textual.widgets import Static

from tui.model.head import tab_texts
from tui.model.texts import STRONG


class TabLine(Static):
    """The chosen one stands in brackets: that needs no colour."""

    class Clicked(Message):
        def __init__(self, place: int) -> None:
            super().__init__()
            self.place = place

    def __init__(self) -> None:
        super().__init__(id="tabs", markup=False)
        self._ends: list[int] = []

    def show(self, chosen: int, questions: int, width: int) -> None:
        made, ends = Text(no_wrap=True), []
        texts = tab_texts(width, questions)
        for place, text in enumerate(texts):
            before = "[" if place == chosen else "]" if place == chosen + 1 else " "
            made.append(before)
            if place == chosen:
                made.append(text, "reverse bold")
            elif "!" in text:
                made.append(text, STRONG)
            else:
                made.append(text[:2]).append(text[2:3], "underline").append(text[3:])
            ends.append(made.cell_len)
        made.append("]" if chosen == len(texts) - 1 else " ")
        self._ends = ends
        self.update(made)

    def on_click(self, event: events.Click) -> None:
        place = next((place for place, end in enumerate(self._ends) if event.x < end), None)
        if place is not None:
            self.post_message(self.Clicked(place))
