"""The certificate's benchmark: its joint grid held against a loop, its interval, its rows and their table."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product

import numpy as np
import pytest
from benchmarks.certificate import EPSILONS, clopper_pearson, markdown, rows_of
from benchmarks.hindsight import grid_means, least_cost, levels_of

from offramp.evaluation.calibration import Observed
from offramp.exits.thresholds import exit_taken


@pytest.mark.parametrize("exits", [2, 3, 4])
def test_every_combination_has_the_mean_that_a_loop_finds(exits: int) -> None:
    chance = np.random.default_rng(exits)
    confidence, values = chance.uniform(size=(exits, 60)), chance.uniform(size=(exits, 60))
    levels = [np.sort(chance.choice(at, 5, replace=False)) for at in confidence[:-1]]
    found = grid_means(confidence, values, levels)
    assert found.shape == (6,) * (exits - 1)
    for places in product(range(6), repeat=exits - 1):
        thresholds = [np.append(at, np.inf)[k] for at, k in zip(levels, places, strict=True)]
        taken = exit_taken(confidence, thresholds)
        assert found[places] == pytest.approx(values[taken, np.arange(60)].mean())


def test_the_least_cost_keeps_the_risk_and_counts_what_it_tried() -> None:
    chance = np.random.default_rng(3)
    confidence = chance.uniform(size=(2, 300))
    loss = chance.uniform(size=(2, 300)) < [[0.2], [0.0]] * (1 - confidence)
    cost = np.repeat([[1.0], [2.0]], 300, axis=1)
    least, tried = least_cost(confidence, loss, cost, 0.02)
    assert tried == len(levels_of(confidence)[0]) + 1
    naive = min(
        2 - leaves.mean()
        for leaves in (confidence[0] >= t for t in [*levels_of(confidence)[0], 2.0])
        if (loss[0] & leaves).mean() <= 0.02
    )
    assert least == pytest.approx(naive)


def test_the_exact_interval_is_that_of_the_tables() -> None:
    assert clopper_pearson(0, 200) == pytest.approx((0, 0.01828), abs=1e-5)
    assert clopper_pearson(5, 10) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    assert clopper_pearson(10, 10)[1] == 1.0


def observed(count: int, seed: int) -> Observed:
    """Three exits, each surer than the one before."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 4, count)
    logits = tuple(
        (strength * np.eye(4)[labels] + chance.normal(size=(count, 4))).astype(np.float32)
        for strength in (3.0, 4.0, 5.0)
    )
    cost = np.repeat([[1.0], [2.0], [4.0]], count, axis=1)
    return Observed(logits=logits, cost=cost, labels=labels)


def test_certified_policies_keep_their_risk_and_save_less_than_hindsight() -> None:
    rows = list(rows_of(observed(1500, 1), observed(4000, 2), 4.0, splits=20, seed=1))
    assert len(rows) == 2 * 2 * len(EPSILONS)
    for row in rows:
        assert row.holds(4000)
        assert row.mean_risk <= row.epsilon
        assert 0 < row.saved <= row.saved_in_hindsight < 0.75
    assert rows[0].saved < rows[2].saved  # the same draws, a larger epsilon
    found = {
        "network": "a" * 64,
        "bundle": "made",
        "exits": 3,
        "fitted_on": {"name": "one", "samples": 1500},
        "pool": {"name": "other", "samples": 4000},
        "splits": 20,
        "delta": 0.05,
        "bar": {"epsilon": 0.01, "n": 2000, "ratio": 0.7},
        "rows": [asdict(row) | {"ratio": row.ratio, "holds": row.holds(4000)} for row in rows],
    }
    text = markdown({"found": found, "command": "python -m benchmarks.certificate"})
    assert text.count("reached") == len(rows)
    assert "python -m benchmarks.certificate" in text
