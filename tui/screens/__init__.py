"""One module for each screen, and their order: that of the tabs."""

from __future__ import annotations

from typing import Final

from tui.screens.accounts import AccountsPage
from tui.screens.budgets import BudgetsPage
from tui.screens.flows import FlowsPage
from tui.screens.health import HealthPage
from tui.screens.inbox import InboxPage
from tui.screens.kinds import KindsPage
from tui.screens.month import MonthPage
from tui.screens.networks import NetworksPage
from tui.screens.page import Page
from tui.screens.paths import PathsPage

ALL: Final[tuple[type[Page], ...]] = (
    FlowsPage,
    KindsPage,
    InboxPage,
    BudgetsPage,
    PathsPage,
    MonthPage,
    NetworksPage,
    AccountsPage,
    HealthPage,
)
