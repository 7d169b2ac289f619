"""Expectation propagation against sums over a fine grid."""

from __future__ import annotations

import math

import numpy as np
import pytest

from secretary.learning.contexts import Floats
from secretary.learning.inference import SLIP, infer, normal_below


def test_the_normal_distribution_function() -> None:
    z = np.linspace(-6, 6, 241)
    exact = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in z])
    assert np.abs(normal_below(z) - exact).max() < 2e-7


def by_sums(covariance: Floats, thresholds: Floats, signs: Floats, noise: float) -> tuple[float, float, float]:
    """The first value's mean and variance, and the logarithm of the probability of both answers."""
    axis = np.linspace(-8, 8, 801)
    first, second = np.meshgrid(axis, axis, indexing="ij")
    inverse = np.linalg.inv(covariance)
    density = np.exp(-0.5 * (inverse[0, 0] * first**2 + 2 * inverse[0, 1] * first * second + inverse[1, 1] * second**2))
    density /= density.sum()
    for values, threshold, sign in zip((first, second), thresholds, signs, strict=True):
        density = density * (SLIP + (1 - 2 * SLIP) * normal_below(sign * (values - threshold) / math.sqrt(noise)))
    total = density.sum()
    mean = float((density * first).sum() / total)
    return mean, float((density * first**2).sum() / total) - mean**2, math.log(total)


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("thresholds", [(0.0, 0.0), (0.8, -0.5), (-1.0, 1.5)])
def test_two_answers_say_what_sums_say(signs: tuple[int, int], thresholds: tuple[float, float]) -> None:
    covariance = np.array([[1.2, 0.7], [0.7, 0.9]])
    noise = 0.3
    found = infer(covariance[None], np.array([thresholds]), np.array(signs, dtype=float), np.array([noise]))
    mean, variance, evidence = by_sums(covariance, np.array(thresholds), np.array(signs), noise)
    k = covariance[0]
    assert k @ found.weights[0] == pytest.approx(mean, abs=0.02)
    # With slips of the hand, answers that contradict each other leave two peaks; a normal one is wider.
    assert k[0] - k @ found.precision[0] @ k == pytest.approx(variance, abs=0.05)
    assert found.log_evidence[0] == pytest.approx(evidence, abs=0.02)


def test_no_answers_say_nothing() -> None:
    found = infer(np.zeros((2, 0, 0)), np.zeros((2, 0)), np.zeros(0), np.ones(2))
    assert found.log_evidence.tolist() == [0.0, 0.0]
    assert found.weights.shape == (2, 0)
