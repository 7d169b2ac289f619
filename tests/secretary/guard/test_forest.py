"""The isolation forest: grown elsewhere, scored here as scikit-learn would."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from array import array
from importlib import import_module
from pathlib import Path

import msgspec
import numpy
import pytest

from secretary.guard.forest import FEATURES, Scorer, TrainingSet, add_evidence, bet
from secretary.guard.training import TREE_SAMPLES, TREES, WITHOUT_LIBRARY, grow


def training_set(count: int = 1200) -> TrainingSet:
    rng = random.Random(4)
    rows = array("f", (rng.gauss(0.0, 1.0) for _ in range(count * len(FEATURES))))
    times = array("I", (300 * number for number in range(count)))
    programs = array("H", (number % 2 for number in range(count)))
    return TrainingSet(
        rows=rows.tobytes(), times_s=times.tobytes(), programs=programs.tobytes(), names=["a", "b"], seed=9
    )


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(grow(training_set()))


@pytest.mark.row("BP-40")
def test_scores_are_those_of_scikit_learn(scorer: Scorer) -> None:
    training = training_set()
    rows = numpy.frombuffer(training.rows, dtype=numpy.float32).reshape(-1, len(FEATURES))
    hours = numpy.arange(len(rows)) * 300 // 3600
    half = (hours + hours // 24) % 2 == 0
    isolation_forest = import_module("sklearn.ensemble").IsolationForest
    model = isolation_forest(n_estimators=TREES, max_samples=TREE_SAMPLES, random_state=9).fit(rows[half])
    expected = -model.score_samples(rows[:50])
    found = [scorer.score(row) for row in rows[:50].tolist()]
    assert found == pytest.approx(expected.tolist(), abs=1e-6)


def test_p_values_are_conformal(scorer: Scorer) -> None:
    calibration = scorer.forest.calibration["a"]
    assert scorer.p_value("a", calibration[-1] + 0.01) == 1 / (len(calibration) + 1)
    assert scorer.p_value("a", 0.0) == 1.0
    assert scorer.p_value("never seen", 1.0) == 1.0
    rng = random.Random(8)
    fresh = [scorer.p_value("a", scorer.score([rng.gauss(0, 1) for _ in FEATURES])) for _ in range(600)]
    assert sum(p <= 0.1 for p in fresh) / len(fresh) == pytest.approx(0.1, abs=0.05)


def test_what_is_far_out_is_odd(scorer: Scorer) -> None:
    assert scorer.p_value("a", scorer.score([5.0] * len(FEATURES))) < 0.01


def test_a_bet_is_fair_and_honest_windows_bring_no_more_evidence_than_their_number() -> None:
    count = 100_000
    assert sum(bet((i + 0.5) / count) for i in range(count)) / count == pytest.approx(1.0, abs=0.02)
    assert sum(bet(i / 700) for i in range(1, 701)) / 700 <= 1.0
    rng = random.Random(2)
    alarms, evidence = 0, 0.0
    for _ in range(200_000):
        evidence = add_evidence(evidence, rng.randint(1, 700) / 700)
        if evidence > 10_000:
            alarms, evidence = alarms + 1, 0.0
    assert alarms <= 20


def test_the_worker_grows_the_same_forest(scorer: Scorer) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "secretary.guard.training"],
        input=msgspec.msgpack.encode(training_set()),
        capture_output=True,
        check=True,
    )
    assert done.stdout == msgspec.msgpack.encode(scorer.forest)


def test_without_scikit_learn_the_worker_says_so(tmp_path: Path) -> None:
    (tmp_path / "sklearn.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "secretary.guard.training"],
        input=msgspec.msgpack.encode(training_set()),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == WITHOUT_LIBRARY
    assert done.stderr.decode() == "no isolation forest: not here\n"


def test_the_secretary_never_loads_scikit_learn() -> None:
    code = (
        "import sys, secretary.guard.watching, secretary.guard.training\n"
        "print(sorted({'sklearn', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"[]\n"
