"""The sweep of what a paying transfer reacts to."""

from __future__ import annotations

import pytest

from lab.studies import signals
from lab.studies.signals import Payment, Reaction


@pytest.mark.row("BP-56")
def test_who_hears_the_toll_has_the_link_for_less_and_no_queue() -> None:
    outcomes = {(outcome.reaction, outcome.payment): outcome for outcome in signals.run(1, seconds=40).outcomes}
    assert len(outcomes) == 5
    deaf = outcomes[Reaction.LOSS, Payment.WORTH]
    for (reaction, _), outcome in outcomes.items():
        assert outcome.largest_share == pytest.approx(0.25, abs=0.02)
        if reaction is Reaction.LOSS:
            continue
        assert outcome.utilisation == pytest.approx(0.95, abs=0.02)  # what the toll law aims at
        assert outcome.sent_again_share < deaf.sent_again_share
        assert outcome.queue_mean_ms < deaf.queue_mean_ms / 20
        assert outcome.nanodollars_per_mb < deaf.nanodollars_per_mb / 4
        assert outcome.toll_swing < 0.25
    worth, toll = outcomes[Reaction.TOLL, Payment.WORTH], outcomes[Reaction.TOLL, Payment.TOLL]
    assert toll.nanodollars_per_mb == pytest.approx(worth.nanodollars_per_mb, rel=0.02)  # the rest comes back anyway
