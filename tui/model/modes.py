"""What changes when the agent begins to act, or stops: what a person should read before saying yes."""

from __future__ import annotations

from typing import Final

from rich.text import Text

from billpay.money import show_nanodollars
from hostagent import api
from tui.model.kinds import state_text
from tui.model.texts import line, several

TRIAL_S: Final = 60
MOST_KINDS: Final = 4


def act_lines(snapshot: api.Snapshot) -> list[Text]:
    status = snapshot.status
    network = next((network for network in snapshot.networks if network.active), None)
    where = network.title if network is not None else status.network
    limited = [kind for kind in snapshot.kinds if kind.state is not api.KindState.RUNS]
    lines = [
        line(f"· {several(len(snapshot.kinds), 'kind')} of traffic share {where or 'the link'} by what they are worth"),
        *(line(f"· {kind.name}: {state_text(kind)}") for kind in limited[:MOST_KINDS]),
    ]
    if status.budget_today_nanodollars:
        lines.append(line(f"· payments may leave, up to {show_nanodollars(status.budget_today_nanodollars)} today"))
    return [
        *lines,
        Text(),
        line(f"It is a trial of {TRIAL_S} s: unless you press c in that time,"),
        line("everything goes back to how it is now."),
    ]


def observe_lines(snapshot: api.Snapshot) -> list[Text]:
    limited = [kind.name for kind in snapshot.kinds if kind.state is not api.KindState.RUNS]
    faster = f"· no longer slowed: {', '.join(limited[:MOST_KINDS])}" if limited else "· nothing is slowed any more"
    return [
        line("· all traffic goes as the kernel sends it"),
        line(faster),
        line("· nothing is paid"),
        line("It goes on to count, and says what it would do."),
    ]
