"""Parts that die at any moment, and messages that come again: the money is the same to the nanodollar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_sessions import BEGINS_MS, C1, C3, KEY, P2, SESSION, mark_price

from billpay.messages import Signed
from billpay.signing import SigningKey, sign
from market.asking import Certified, Heard, Open, Question, Read, Refused, Tell, Total, Totals
from market.authority import Authority, Register
from market.metering import MeteringPolicy
from market.parts import ChargingPart, Kept, MediationPart, MeterPart, Outcome, Part, answer, decode, encode

RUN = "00" * 16
CHANGE_MS = BEGINS_MS + 3_250
AUTHORITY = Authority("authority", SigningKey(b"\xaa" * 32))
KEYS = {"meter": SigningKey(b"\x21" * 32), "mediation": SigningKey(b"\x22" * 32), "p2": P2}
CERTIFICATES = [AUTHORITY.certify(name, key.public_key) for name, key in KEYS.items()]


def known() -> Register:
    register = Register(AUTHORITY.public_key)
    for certificate in CERTIFICATES:
        register.admit(certificate)
    return register


@dataclass
class Living:
    """A part with its disk. It can be made anew from the disk at any time, as a process is."""

    make: Callable[[], Part]
    kept: list[bytes] = field(default_factory=list)
    said: list[Signed] = field(default_factory=list)
    heard: int = 0

    def __post_init__(self) -> None:
        self.part = self.make()

    def ask(self, question: Question) -> Outcome:
        outcome = answer(self.part, question, BEGINS_MS)
        if outcome.keep is not None:
            self.kept.append(encode(outcome.keep))
        self.said.extend(outcome.say)
        return outcome

    def die(self) -> None:
        self.part = self.make()
        past: list[Kept] = [decode(each) for each in self.kept]
        self.part.replay(past, list(self.said))

    def pass_on(self, following: Living, *, twice: bool) -> None:
        """Everything that is not heard yet; `twice`: it died before it had noted that it was heard."""
        while self.heard < len(self.said):
            told = Tell(signed=self.said[self.heard])
            first = following.ask(told).answer
            if isinstance(first, Refused):
                assert first.again
                return
            if twice:
                assert following.ask(told).answer == Heard(news=False)
            self.heard += 1


STEP = st.tuples(st.sampled_from(["", "meter", "mediation", "charging"]), st.booleans(), st.booleans())


@pytest.mark.row("DPH-15")
@given(st.lists(STEP, min_size=12, max_size=12))
def test_whoever_dies_whenever_the_bill_is_exact(steps: list[tuple[str, bool, bool]]) -> None:
    """A reading each 500 ms and at the change; a part that dies after each, things said twice or held back."""
    policy = MeteringPolicy(checkpoint_ms=500, flush_ms=500)
    parts = {
        "meter": Living(lambda: MeterPart(name="meter", key=KEYS["meter"], register=known(), policy=policy)),
        "mediation": Living(lambda: MediationPart(key=KEYS["mediation"], register=known())),
        "charging": Living(lambda: ChargingPart(key=P2, register=known(), mediation="mediation")),
    }
    meter, mediation, charging = parts["meter"], parts["mediation"], parts["charging"]
    prices = [mark_price(1, 1_000, BEGINS_MS - 1_000), mark_price(2, 777, CHANGE_MS)]
    for each in parts.values():
        for price in prices:
            assert isinstance(each.ask(Tell(signed=sign(P2, price))).answer, Heard)
    mediation.ask(Open(session=SESSION, key=KEY, meter="meter", regularity_ms=500))
    times = sorted([CHANGE_MS, *(BEGINS_MS + 500 * step for step in range(11))])
    for at, (dies, twice, held_back) in zip(times, steps, strict=True):
        marks = (at - BEGINS_MS) // 10
        meter.ask(Read(run=RUN, key=KEY, unix_ms=at, packets=9 * marks, bytes=marks, ce_packets=marks))
        if dies:
            parts[dies].die()
        if not held_back:
            meter.pass_on(mediation, twice=twice)
            mediation.pass_on(charging, twice=twice)
    meter.pass_on(mediation, twice=False)
    mediation.pass_on(charging, twice=False)
    total = charging.ask(Totals(session=SESSION, key=KEY)).answer
    assert isinstance(total, Total)
    assert (total.marks, total.nanodollars) == (500, 325 * 1_000 + 175 * 777)


def test_a_part_takes_nobodys_word_but_its_own_operators() -> None:
    mediation = Living(lambda: MediationPart(key=KEYS["mediation"], register=known()))
    meter = Living(lambda: MeterPart(name="other", key=KEYS["meter"], register=known(), policy=MeteringPolicy()))
    meter.ask(Read(run=RUN, key=KEY, unix_ms=BEGINS_MS, packets=0, bytes=0, ce_packets=0))
    meter.ask(Read(run=RUN, key=KEY, unix_ms=BEGINS_MS + 1, packets=9, bytes=9, ce_packets=1, ends=True))
    refused = mediation.ask(Tell(signed=meter.said[0])).answer
    assert isinstance(refused, Refused)
    assert (refused.code, refused.again) == ("wrong-signer", False)
    charging = Living(lambda: ChargingPart(key=P2, register=known(), mediation="mediation"))
    stranger = charging.ask(Tell(signed=sign(C3, mark_price(1, 1, BEGINS_MS)))).answer
    assert isinstance(stranger, Refused)
    assert (stranger.code, stranger.again) == ("not-certified", True)  # it may be certified later
    charging.ask(Certified(certificate=AUTHORITY.certify("c1", C1.public_key)))
    foreign = charging.ask(Tell(signed=sign(C1, mark_price(1, 1, BEGINS_MS, provider="c1")))).answer
    assert isinstance(foreign, Refused)
    assert foreign.code == "wrong-signer"
    for part in (mediation, charging, meter):
        wrong = part.ask(Open(session="00" * 16, key=KEY, meter="m", regularity_ms=500) if part is not mediation
                         else Read(run=RUN, key=KEY, unix_ms=1, packets=0, bytes=0, ce_packets=0)).answer  # fmt: skip
        assert isinstance(wrong, Refused)
        assert wrong.code == "not-here"
