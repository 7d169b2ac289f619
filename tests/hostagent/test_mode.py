"""Nothing that nobody confirmed stays."""

from __future__ import annotations

import pytest

from billpay.errors import LocalProtocolError
from hostagent.api import Mode, ModeChange
from hostagent.mode import ModeKeeper

S = 1_000_000_000


@pytest.mark.expectation(22)
def test_a_trial_that_nobody_confirms_ends_in_observing() -> None:
    keeper = ModeKeeper(Mode.OBSERVE)
    keeper.change(ModeChange(mode=Mode.ACT, trial_s=60), 5 * S)
    assert (keeper.mode, keeper.acts, keeper.seconds_left(5 * S)) == (Mode.TRIAL, True, 60)
    assert not keeper.rolled_back(64 * S)
    assert keeper.seconds_left(64 * S + 1) == 1
    assert keeper.rolled_back(65 * S)
    assert (keeper.mode, keeper.seconds_left(65 * S), keeper.rolled_back(66 * S)) == (Mode.OBSERVE, None, False)


def test_a_confirmed_trial_stays() -> None:
    keeper = ModeKeeper(Mode.OBSERVE)
    keeper.change(ModeChange(mode=Mode.ACT, trial_s=60), 0)
    keeper.change(ModeChange(mode=Mode.ACT), 30 * S)
    assert (keeper.mode, keeper.kept, keeper.rolled_back(99 * S)) == (Mode.ACT, Mode.ACT, False)


def test_what_is_kept_while_a_trial_runs_is_observing() -> None:
    keeper = ModeKeeper(Mode.ACT)
    keeper.change(ModeChange(mode=Mode.ACT, trial_s=60), 0)
    assert keeper.kept is Mode.OBSERVE


@pytest.mark.parametrize("change", [ModeChange(mode=Mode.TRIAL), ModeChange(mode=Mode.ACT, trial_s=-1)])
def test_a_change_that_is_none_is_refused(change: ModeChange) -> None:
    with pytest.raises(LocalProtocolError):
        ModeKeeper(Mode.OBSERVE).change(change, 0)
