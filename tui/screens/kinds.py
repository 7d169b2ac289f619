"""Screen 2: kinds of traffic above, programs below; or all rules. A person can say what a program is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import Static

from hostagent import api
from tui.model import kinds, rules
from tui.model.state import State
from tui.model.texts import FAINT, joined, line, price_text, several
from tui.screens.asking import Asked
from tui.screens.page import TablePage, plots, rate_pictures
from tui.screens.words import ask_worth
from tui.source import Source
from tui.widgets.grid import Grid


class KindsPage(TablePage):
    NAME = "kinds"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "other", "Other", key_display="tab"),
        Binding("e", "worth", "Worth"),
        Binding("r", "rules", "Rules"),
    ]

    def __init__(self, state: State, source: Source) -> None:
        super().__init__(state, source)
        self._kinds: Grid[api.Kind] = Grid("kind-table", "no kinds: the agent does not tell traffic apart")
        self._programs: Grid[api.Program] = Grid("program-table", "no program yet: whoever sends something shows up")
        self._rules: Grid[rules.Rule] = Grid("rule-table", rules.EMPTY)
        self._rule_notes = Static(id="rule-notes", markup=False)
        self._with_rules = False
        self._asked = Asked(self, "rules", lambda secretary: secretary.rules())

    def tables(self) -> Sequence[Grid[Any]]:
        return (self._rules,) if self._with_rules else (self._programs, self._kinds)

    def compose(self) -> Any:
        yield self._kinds
        yield self._programs
        yield self._rules
        yield self._rule_notes
        yield from self.foot()

    def on_mount(self) -> None:
        super().on_mount()
        self._show_tables()

    def _show_tables(self) -> None:
        self._kinds.display = self._programs.display = not self._with_rules
        self._rules.display = self._with_rules
        self._rule_notes.display = False

    def total(self) -> int:
        shown = self.state.shown
        return len(rules.rules_of(shown.rules, self._asked.value)) if shown is not None else 0

    def counted(self) -> str:
        if self._with_rules:
            shown, total = len(self._rules.things), self.total()
            return several(total, "rule") if shown == total else f"{shown:,} of {several(total, 'rule')}"
        return f"{several(len(self._kinds.things), 'kind')}, {several(len(self._programs.things), 'program')}"

    def fill(self) -> None:
        shown = self.state.shown
        if self._with_rules:
            self._fill_rules()
            return
        self._kinds.show(
            kinds.kind_listing(shown.kinds if shown is not None else (), self.sorting(self._kinds), self.wanted)
        )
        self._programs.show(
            kinds.program_listing(
                shown.programs if shown is not None else (), self.sorting(self._programs), self.wanted
            )
        )

    def _fill_rules(self) -> None:
        shown = self.state.shown
        self._asked.look()
        found = rules.rules_of(shown.rules if shown is not None else (), self._asked.value)
        self._rules.show(rules.listing(found, self.sorting(self._rules), self.wanted))
        notes = rules.notes(self._asked.value, self._asked.trouble)
        self._rule_notes.display = bool(notes)
        self._rule_notes.update(joined(notes))

    def pane_lines(self, width: int) -> Sequence[Text]:
        chosen = self.table.selected
        shown = self.state.shown
        if chosen is None or shown is None:
            return [line(("nothing is chosen", FAINT))]
        if isinstance(chosen, rules.Rule):
            return rules.detail(chosen)
        if isinstance(chosen, api.Kind):
            key, lines = ("kind", chosen.name), kinds.kind_detail(chosen, shown.rules)
        else:
            key, lines = ("program", kinds.program_key(chosen)), kinds.program_detail(chosen, shown.worths)
        return [*lines, *plots(rate_pictures(self.state.history, key), width)]

    def action_rules(self) -> None:
        """All rules instead of kinds and programs; once more: back."""
        self._with_rules = not self._with_rules
        self._show_tables()
        self._asked.again()
        self.tables()[0].focus()
        self.refresh_page()
        self.call_after_refresh(self.refresh_page)

    def action_other(self) -> None:
        if self._with_rules:
            self.action_rules()
            return
        (self._kinds if self._programs.has_focus else self._programs).focus()
        self.call_after_refresh(self.refresh_page)

    def action_worth(self) -> None:
        program = self._programs.selected
        if self._with_rules or self._kinds.has_focus or program is None:
            self.app.notify("choose a program: what kinds are worth stands in the configuration", severity="warning")
            return
        worth = program.worth_nanodollars_per_mb
        now = "nobody said until now" if worth is None else f"now {price_text(worth)} a GB, as {program.traffic_class}"
        ask_worth(self, program.name, now)
