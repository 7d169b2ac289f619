"""What a person is told once of the secretary: questions that wait, budgets that are used up, money that is out.

Decides: what is news. Refuses to know: how it is shown, and what a budget allows. Pure.
"""

from __future__ import annotations

from billpay.money import show_nanodollars
from secretary.messages import Budget, BudgetLine

QUESTIONS = "secretary-questions"
BUDGET = "budget"
MONEY_IS_OUT = "money-is-out"
FULL_PERCENT = 100

News = tuple[str, str]
"""A notice's code and its words."""


class Telling:
    """Looks at what the secretary says each second, and gives what of it was not said before."""

    def __init__(self) -> None:
        self._is_new = True
        self._questions = 0
        self._percents: dict[tuple[str, str, int], int] = {}
        self._is_out = False

    def on_budget(self, budget: Budget) -> list[News]:
        """What was told before the agent's start is not told again, unless a budget is used up."""
        news = [] if budget.questions <= self._questions else [(QUESTIONS, _waiting(budget.questions))]
        self._questions = budget.questions
        told = {(line.name, line.scope, line.resets_unix_s): line for line in budget.lines}
        for key, line in told.items():
            least = FULL_PERCENT - 1 if self._is_new else 0
            if line.noticed_percent > max(least, self._percents.get(key, 0)):
                news.append((BUDGET, _reached(line)))
        self._percents = {key: max(line.noticed_percent, self._percents.get(key, 0)) for key, line in told.items()}
        self._is_new = False
        return news

    def on_money(self, out: str) -> list[News]:
        """`out`: what goes unpaid for want of money; "" for nothing."""
        was_out, self._is_out = self._is_out, bool(out)
        if was_out == self._is_out:
            return []
        return [(MONEY_IS_OUT, out or "there is money again: what was slowed for want of it is paid for")]


def _waiting(questions: int) -> str:
    wait = "1 question waits" if questions == 1 else f"{questions} questions wait"
    return f"{wait} at the secretary: hostagent secretary inbox"


def _reached(line: BudgetLine) -> str:
    name = line.name if line.scope == "all" else f"{line.name} ({line.scope})"
    used, limit = show_nanodollars(line.spent_nanodollars), show_nanodollars(line.limit_nanodollars)
    said = f"{line.noticed_percent} % of budget {name} are used for this {line.period}: {used} of {limit}"
    if line.noticed_percent < FULL_PERCENT:
        return said
    return f"{said}; " + ("nothing more is paid" if line.hard else "what is paid now is slowed")
