"""A person says what a session is worth while it runs: its rate follows, its limits and its counts stay (DPH-27)."""

from __future__ import annotations

from typing import Any, cast

import pytest
from session_worlds import MS, Kelly, World, plain_policy

from hostagent.desk import Refused
from hostagent.reacting.reacting import Reacting
from pricereactor.policies import reactor_for_task
from pricereactor.policy import TaskPolicy
from pricereactor.rates import RateReactor


def elastic(policy: TaskPolicy) -> RateReactor:
    return reactor_for_task(policy, now_ns=0, round_trip_ns=100 * MS)


@pytest.mark.row("DPH-27")
@pytest.mark.parametrize("sender_pays", [True, False])
def test_the_rate_follows_a_persons_word_and_the_bill_goes_on(sender_pays: bool) -> None:
    # 1,000 nanodollars a mark: each 100,000 a second buy a megabit above the link's two.
    world = World(elastic, sender_pays=sender_pays, own_rate_bit_s=50_000_000)
    world.run(12_000)
    payer = world.sender if sender_pays else world.receiver
    assert payer is not None
    assert world.rate_bit_s == pytest.approx(3_000_000, rel=0.05)
    before = payer.view()
    assert payer.revalue(2_000_000)
    assert (payer.view().worth_ppm, payer.view().number) == (2_000_000, before.number + 1)
    world.run(12_000)
    assert world.rate_bit_s == pytest.approx(4_000_000, rel=0.05)
    assert payer.view().spent_nanodollars == 1_000 * payer.view().marks > before.spent_nanodollars
    assert payer.revalue(500_000), "against the policy, and not against the last word"
    world.run(12_000)
    assert world.rate_bit_s == pytest.approx(2_500_000, rel=0.05)


@pytest.mark.row("DPH-27")
def test_a_worthier_session_keeps_its_budget() -> None:
    world = World(elastic, policy=plain_policy(session_budget_nanodollars=4_000_000), own_rate_bit_s=50_000_000)
    world.run(500)
    world.sender.revalue(100_000_000)
    world.run(30_000)
    view = world.sender.view()
    assert 2_000_000 < view.spent_nanodollars <= 4_000_000 == view.session_budget_nanodollars


def test_what_was_said_before_the_sender_was_heard_holds_then() -> None:
    made: list[TaskPolicy] = []

    class Listening(Kelly):
        def revalue(self, policy: TaskPolicy) -> None:
            made.append(policy)

    world = World(Listening, sender_pays=False)
    assert world.receiver is not None
    assert world.receiver.revalue(3_000_000)
    world.run(1_000)
    assert [policy.willingness_nanodollars_per_s for policy in made] == [300_000]


def test_a_reactor_that_knows_no_such_thing_is_left_as_it_is() -> None:
    world = World(Kelly)
    assert not world.sender.revalue(2_000_000)
    assert world.sender.view().worth_ppm == 1_000_000


async def test_only_who_pays_can_say_it() -> None:
    worlds = World(Kelly, sender_pays=False), World(Kelly)
    sessions = {"0" * 32: worlds[0].sender, "1" * 32: worlds[1].sender}
    driver = cast("Any", object.__new__(Reacting))  # only what `revalue` reads of it
    driver._sessions = sessions
    for name, code in (("0" * 32, "not-ours-to-pay"), ("1" * 32, "cannot-revalue"), ("2" * 32, "no-such-session")):
        with pytest.raises(Refused) as refused:
            await driver.revalue(name, 1_500_000)
        assert refused.value.code == code
