"""Grows an isolation forest in a process of its own: `python -m secretary.guard.training < rows > forest`.

Decides nothing: it reads windows (`TrainingSet`, msgpack), fits scikit-learn's trees to one half of them, calibrates on
the other, and writes `Forest`. The secretary never imports scikit-learn: its memory is this process's, and ends with
it. Without scikit-learn the exit status is 3, and the guard goes on without a forest.

The halves alternate by hours, not by windows: neighbours are alike, and would calibrate each other too well. Each day
begins with the other half, so both know every hour of the day.
"""

from __future__ import annotations

import sys
from array import array
from importlib import import_module
from typing import Any

import msgspec

from secretary.guard.forest import FEATURES, Forest, Scorer, TrainingSet, add_evidence, usual_path

TREES = 200
TREE_SAMPLES = 256
WITHOUT_LIBRARY = 3
PART_S = 3600


def grow(training: TrainingSet) -> Forest:
    """Raises ImportError without scikit-learn."""
    numpy = import_module("numpy")  # not at the top: large, and perhaps not there
    isolation_forest = import_module("sklearn.ensemble").IsolationForest
    rows = numpy.frombuffer(training.rows, dtype=numpy.float32).reshape(-1, len(FEATURES))
    hours = numpy.frombuffer(training.times_s, dtype=numpy.uint32) // PART_S
    odd = (hours + hours // 24) % 2 == 1
    samples = min(TREE_SAMPLES, int((~odd).sum()))
    model = isolation_forest(n_estimators=TREES, max_samples=samples, random_state=training.seed, n_jobs=1)
    model.fit(rows[~odd])
    trees = _flatten(model, samples)
    scorer = Scorer(trees)
    scores: dict[str, list[float]] = {}
    names = array("H", training.programs)
    for number in numpy.flatnonzero(odd).tolist():
        name = training.names[names[number]]
        scores.setdefault(name, []).append(scorer.score(rows[number].tolist()))
    calibrated = msgspec.structs.replace(trees, calibration={name: sorted(found) for name, found in scores.items()})
    scorer = Scorer(calibrated)
    reached = {name: _reached(scorer, name, found) for name, found in scores.items()}
    return msgspec.structs.replace(calibrated, reached=reached)


def _reached(scorer: Scorer, name: str, scores: list[float]) -> float:
    """By the program's own calibration windows, one after the other as they were."""
    evidence = highest = 0.0
    for score in scores:
        evidence = add_evidence(evidence, scorer.p_value(name, score))
        highest = max(highest, evidence)
    return highest


def _flatten(model: Any, samples: int) -> Forest:
    roots: list[int] = []
    features, values, left, right = array("b"), array("d"), array("I"), array("I")
    for estimator, chosen in zip(model.estimators_, model.estimators_features_, strict=True):
        tree, base = estimator.tree_, len(features)
        roots.append(base)
        depths = [0] * tree.node_count
        for node in range(tree.node_count):
            low, high = int(tree.children_left[node]), int(tree.children_right[node])
            if low < 0:
                features.append(-1)
                values.append(depths[node] + usual_path(int(tree.n_node_samples[node])))
                left.append(0)
                right.append(0)
                continue
            depths[low] = depths[high] = depths[node] + 1
            features.append(int(chosen[tree.feature[node]]))
            values.append(float(tree.threshold[node]))
            left.append(base + low)
            right.append(base + high)
    return Forest(
        roots=roots,
        features=features.tobytes(),
        values=values.tobytes(),
        left=left.tobytes(),
        right=right.tobytes(),
        samples=samples,
        calibration={},
    )


def main() -> int:
    training = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=TrainingSet)
    try:
        forest = grow(training)
    except ImportError as error:
        print(f"no isolation forest: {error}", file=sys.stderr)
        return WITHOUT_LIBRARY
    sys.stdout.buffer.write(msgspec.msgpack.encode(forest))
    return 0


if __name__ == "__main__":
    sys.exit(main())
