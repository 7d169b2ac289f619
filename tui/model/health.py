"""Health: what the agent runs on, what it cannot do here, what is wrong, and whether its counters match the
interface's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from hostagent import api
from tui.model.texts import FAINT, STRONG, cell, date_text, duration_text, line, rate_text

_MODES: Final = {
    api.Mode.OBSERVE: "observing: counts, and says what it would do",
    api.Mode.TRIAL: "on trial: acts, and goes back to observing unless somebody confirms",
    api.Mode.ACT: "acting",
}
_HEALTH: Final = {
    api.Health.OK: "ok",
    api.Health.DEGRADED: "! degraded: traffic goes on, something is not as configured",
    api.Health.UNPAID: "! unpaid: traffic goes on, nothing can be paid",
}
LABEL: Final = 11


def lines(snapshot: api.Snapshot) -> list[Text]:
    status = snapshot.status
    up = max(0, snapshot.unix_s - status.started_unix_s)
    facts = [
        ("health", _HEALTH[status.health]),
        ("mode", _MODES[status.mode]),
        ("engine", status.engine + (f": {status.engine_reason}" if status.engine_reason else "")),
        *([("payments", status.payments_engine_reason)] if status.payments_engine_reason else []),
        ("secretary", status.secretary),
        ("agent", f"{status.name}, version {status.version}, up for {duration_text(up)}"),
        ("uses", f"{status.cpu_ppm / 10_000:.1f} % of a core, {status.memory_bytes / 1e6:.0f} MB of memory"),
    ]
    made = [_fact(label, text) for label, text in facts]
    made += [Text(), *_block("warnings", [_warning(warning) for warning in status.warnings], "none")]
    limits = [line(f"{limit.ability}: {limit.cause}") for limit in status.limits]
    made += [Text(), *_block("limits", limits, "nothing is missing on this machine")]
    return [*made, Text(), *meter_lines(snapshot.links)]


def _fact(label: str, text: str) -> Text:
    return line((cell(label, LABEL), FAINT), text)


def _warning(warning: api.Warning) -> Text:
    since = f" (since {date_text(warning.since_unix_s)})" if warning.since_unix_s else ""
    return line((f"! {warning.code}", STRONG), f": {warning.message}{since}")


def _block(label: str, texts: list[Text], none: str) -> list[Text]:
    """The label before the first line, the others below it."""
    shown = texts or [line((none, FAINT))]
    return [
        line((cell(label if place == 0 else "", LABEL), FAINT)).append_text(text) for place, text in enumerate(shown)
    ]


def meter_lines(links: Sequence[api.Link]) -> list[Text]:
    """Packets as we counted them beside what the interface counted."""
    if not links:
        return [line(("no interface is counted", FAINT))]
    name = min(16, max(9, *(len(link.interface) for link in links)))
    head = f"{cell('interface', name)}  {'':3}{'packets':>15}{'interface says':>16}{'differs':>9}{'now':>8}"
    made = [line((head, STRONG))]
    for link in links:
        rows = (
            ("out", link.sent_packets, link.interface_sent_packets, link.sent_bit_s),
            ("in", link.received_packets, link.interface_received_packets, link.received_bit_s),
        )
        for direction, ours, theirs, rate in rows:
            label = cell(link.interface if direction == "out" else "", name)
            made.append(Text(f"{label}  {direction:3}{ours:>15,}{theirs:>16,}{theirs - ours:>9,}{rate_text(rate):>8}"))
    return made
