"""People whose guard has learnt, once for all tests."""

from __future__ import annotations

import pytest

from bench.guard import HOME, STEADY, Trained, train


@pytest.fixture(scope="session")
def steady() -> Trained:
    """One program that pays every minute, with the widest noise that the promise covers; ten days; no forest."""
    return train(STEADY, 0.67, 11, days=10, forest=False)


@pytest.fixture(scope="session")
def home() -> Trained:
    """Four programs, with a forest."""
    return train(HOME, 0.45, 12, days=10)
