"""The judge behind the real cartographer: echoes in, objections in the choice."""

from __future__ import annotations

import pytest
from greedy_world import S, W, X

from cartographer.cartographer import Cartographer
from cartographer.judging import Judge, Kind

DESTINATION = "192.0.2.7"
BOTH = 0x800 | 0b11
ONE = 0x800 | 0b1


@pytest.mark.row("BP-18")
def test_echoes_of_dropped_paid_packets_become_an_objection_to_the_alternative() -> None:
    judge = Judge()
    cartographer = Cartographer(judge=judge)
    now_ns = 0
    for second in range(1, 14):
        for part in range(4):
            now_ns = second * S + part * S // 4
            cartographer.choose(DESTINATION, now_ns)
            for number, lost in ((1, 6), (2, 0)):
                oads = [(X, BOTH, number), (W, ONE, 1)]
                cartographer.on_oads_seen(DESTINATION, oads, 100, 90, now_ns, packets=10 - lost, lost=lost)
    found = judge.findings(now_ns)
    assert [(each.as_number, each.alternative, each.kind) for each in found] == [(X, 1, Kind.KEEPS_AND_DROPS)]
    choice = cartographer.choose(DESTINATION, now_ns)
    assert (X, 1) not in choice.chosen
    assert any("keeps payments and drops the packets" in why for _, _, why in choice.rejected)
