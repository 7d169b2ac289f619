"""What a host has measured itself: that it goes when the host leaves the network, or a person says so."""

from __future__ import annotations

from cartographer.campus.own import OwnSamples
from cartographer.values import Quantity

SECOND_NS = 1_000_000_000


def test_what_is_forgotten_is_not_reported() -> None:
    own = OwnSamples()
    statistics = own.of("203.0.113.20", "AS64512:1")
    assert statistics is not None
    statistics.on_sample(Quantity.DELAY_NS, 20_000_000, SECOND_NS)
    assert [each.way for each in own.quality(SECOND_NS)] == ["AS64512:1"]
    own.forget()
    assert list(own.quality(SECOND_NS)) == []
    assert own.estimate("203.0.113.20", "AS64512:1", Quantity.DELAY_NS, SECOND_NS) is None
