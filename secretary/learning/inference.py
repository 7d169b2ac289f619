"""What yes-or-no answers say about hidden values: Gaussian-process probit by expectation propagation, many models.

An answer says that value + noise was at least the price, or below it, in logarithms; a small share of answers says
nothing (a slip of the hand). Decides the posterior of the hidden values under each model, and how well each model
foretold the answers. Refuses to know what the values are of.

Source: Minka 2001 (EP); Rasmussen and Williams 2006, 3.6 (sites, marginal likelihood), with parallel updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from secretary.learning.contexts import Floats

SWEEPS: Final = 12
DAMPING: Final = 0.8
SLIP: Final = 0.01
"""The share of answers that is yes or no by mistake, each."""
_LEAST_PRECISION: Final = 1e-9


def normal_below(z: Floats) -> Floats:
    """The standard normal distribution function, to 2e-7 (Abramowitz and Stegun 7.1.26)."""
    x = np.abs(z) * 0.7071067811865476
    t = 1.0 / (1.0 + 0.3275911 * x)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * poly * np.exp(-x * x)
    return np.asarray(np.where(z < 0, tail, 1.0 - tail))


def normal_density(z: Floats) -> Floats:
    return np.asarray(np.exp(-0.5 * z * z) * 0.3989422804014327)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """For each model (first axis): a new value's mean is `prior + k·weights`, its variance `k0 - k·precision·k`."""

    weights: Floats  # models × answers
    precision: Floats  # models × answers × answers
    log_evidence: Floats  # models
    log_told: Floats  # models × answers: the logarithm of each answer's probability by all others


def infer(covariance: Floats, thresholds: Floats, signs: Floats, noise_variance: Floats) -> Posterior:
    """`thresholds`: models × answers, log price less the prior mean; `signs`: 1 accepted, -1 declined."""
    models, answers = thresholds.shape
    if answers == 0:
        return Posterior(
            weights=np.zeros((models, 0)),
            precision=np.zeros((models, 0, 0)),
            log_evidence=np.zeros(models),
            log_told=np.zeros((models, 0)),
        )
    noise = noise_variance[:, None]
    prior_variance = np.einsum("hii->hi", covariance)
    identity = np.eye(answers)
    tau = np.zeros((models, answers))
    nu = np.zeros((models, answers))
    mean = np.zeros((models, answers))
    variance = prior_variance.copy()
    for _ in range(SWEEPS):
        cavity_variance, cavity_mean = _cavity(tau, nu, mean, variance)
        _, slope, curve = _tilted(cavity_mean, cavity_variance, thresholds, signs, noise)
        curve = np.maximum(curve, _LEAST_PRECISION)
        new_tau = np.maximum(curve / np.maximum(1.0 - cavity_variance * curve, 1e-6), _LEAST_PRECISION)
        new_nu = slope + new_tau * (cavity_mean + cavity_variance * slope)
        tau += DAMPING * (new_tau - tau)
        nu += DAMPING * (new_nu - nu)
        precision, weights, mean, variance = _combine(covariance, prior_variance, identity, tau, nu)
    cavity_variance, cavity_mean = _cavity(tau, nu, mean, variance)
    log_z, _, _ = _tilted(cavity_mean, cavity_variance, thresholds, signs, noise)
    evidence = _log_evidence(covariance, identity, tau, nu, mean, log_z, cavity_mean, cavity_variance)
    return Posterior(weights=weights, precision=precision, log_evidence=evidence, log_told=log_z)


def _cavity(tau: Floats, nu: Floats, mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
    precision = np.maximum(1.0 / variance - tau, 1e-6)
    return 1.0 / precision, (mean / variance - nu) / precision


def _tilted(mean: Floats, variance: Floats, thresholds: Floats, signs: Floats, noise: Floats) -> tuple[Floats, ...]:
    """The logarithm of each answer's probability, its slope in the mean, and its curvature with the sign turned."""
    spread = np.sqrt(variance + noise)
    z = signs * (mean - thresholds) / spread
    probability = SLIP + (1.0 - 2.0 * SLIP) * normal_below(z)
    density = (1.0 - 2.0 * SLIP) * normal_density(z) / probability
    return (
        np.log(probability),
        signs * density / spread,
        density * (density + z) / (spread * spread),
    )


def _combine(
    covariance: Floats,
    prior_variance: Floats,
    identity: Floats,
    tau: Floats,
    nu: Floats,
) -> tuple[Floats, Floats, Floats, Floats]:
    root = np.sqrt(tau)
    scaled = identity + root[:, :, None] * covariance * root[:, None, :]
    precision = root[:, :, None] * np.linalg.inv(scaled) * root[:, None, :]
    through = np.matmul(covariance, precision)
    pulled = np.einsum("hij,hj->hi", covariance, nu)
    weights = nu - np.einsum("hij,hj->hi", precision, pulled)
    mean = np.einsum("hij,hj->hi", covariance, weights)
    variance = np.maximum(prior_variance - np.einsum("hij,hij->hi", through, covariance), 1e-9)
    return precision, weights, mean, variance


def _log_evidence(
    covariance: Floats,
    identity: Floats,
    tau: Floats,
    nu: Floats,
    mean: Floats,
    log_z: Floats,
    cavity_mean: Floats,
    cavity_variance: Floats,
) -> Floats:
    root = np.sqrt(tau)
    _, log_determinant = np.linalg.slogdet(identity + root[:, :, None] * covariance * root[:, None, :])
    joint = -0.5 * log_determinant + 0.5 * np.einsum("hi,hi->h", nu, mean)
    widened = 1.0 + tau * cavity_variance
    site = (
        -0.5 * np.log(widened)
        + 0.5 * (cavity_variance * nu * nu + 2.0 * nu * cavity_mean - tau * cavity_mean * cavity_mean) / widened
    )
    return np.asarray(joint + (log_z - site).sum(axis=1))
