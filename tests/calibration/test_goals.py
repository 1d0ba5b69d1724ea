"""A budget kept on other samples, and any number of exits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from tests.calibration.made import Calibrate
from tests.test_bundle import edit_manifest

from offramp.bundle import load_bundle
from offramp.evaluation.calibration import (
    Form,
    Observed,
    certify,
    fit,
    fit_for_accuracy,
    never_early,
    spend,
)
from offramp.evaluation.reference import answer


def test_a_budget_is_kept_on_samples_that_it_was_not_chosen_on(
    calibrate: Calibrate, bundle: Path
) -> None:
    code, said = calibrate("--max-cost", "60%")
    assert (code, said["budget_met"], said["certificate"]) == (0, True, None)
    assert said["measured"]["mean_cost"] <= said["budget"] == 0.6 * said["cost"]["whole"]
    manifest = load_bundle(bundle).manifest
    assert [p.name for p in manifest.policies][3:] == ["budget"]
    assert manifest.certificates == ()
    assert manifest.provenance["calibrations"]["budget"]["budget_met"] is True
    _, absolute = calibrate("--max-cost", str(said["budget"]))
    assert absolute["policy"] == said["policy"]


def test_more_budget_never_costs_accuracy_where_it_was_fitted() -> None:
    chance = np.random.default_rng(5)
    labels = chance.integers(0, 4, 900)
    signal = np.eye(4)[labels]
    logits = tuple(
        (strength * signal + chance.normal(size=(900, 4))).astype(np.float32)
        for strength in (1.0, 2.0, 4.0)
    )
    cost = np.repeat([[1.0], [2.0], [4.0]], 900, axis=1)
    observed = Observed(logits=logits, cost=cost, labels=labels)
    fitted = fit_for_accuracy(never_early(Form(name="b"), observed, ()), observed)
    spent = [spend(fitted, observed, observed, budget=b) for b in np.linspace(1.2, 4.2, 15)]
    accuracy = [found.measured.accuracy or 0.0 for found in spent]
    assert accuracy == sorted(accuracy)
    assert all(found.budget_met for found in spent)
    assert spent[-1].measured.mean_cost <= 4.0


def test_a_budget_that_cannot_be_met_says_so_and_takes_the_cheapest(
    calibrate: Calibrate, bundle: Path
) -> None:
    edit_manifest(bundle, lambda m: [cost.update(flops=100) for cost in m["costs"]])
    code, said = calibrate("--cost", "flops", "--max-cost", "99.5")
    assert (code, said["budget_met"]) == (1, False)
    assert said["measured"]["exit_shares"][0] > 0.99
    record = load_bundle(bundle).manifest.provenance["calibrations"]["budget"]
    assert record["budget_met"] is False


@pytest.mark.parametrize("exits", [2, 4, 6])
def test_any_number_of_exits_is_certified_and_saves(exits: int) -> None:
    chance = np.random.default_rng(exits)

    def observed(count: int) -> Observed:
        labels = chance.integers(0, 5, count)
        depth = np.linspace(2, 8, exits)
        logits = tuple(
            (strength * np.eye(5)[labels] + chance.normal(size=(count, 5))).astype(np.float32)
            for strength in depth
        )
        cost = np.repeat(np.arange(1.0, exits + 1)[:, None], count, axis=1)
        return Observed(logits=logits, cost=cost, labels=labels)

    to_fit, to_check = observed(2000), observed(2000)
    fitted = fit(never_early(Form(name="c"), to_fit, ()), to_fit, "accuracy-drop")
    found = certify(fitted, to_check, "accuracy-drop", epsilon=0.02, delta=0.05)
    assert found.lets_some_leave
    assert found.measured.mean_cost < 0.9 * exits
    policy = fitted.policy(found.measured.candidate)
    exits_of_policy = answer(policy, to_check.logits).exits
    shares = np.bincount(exits_of_policy, minlength=exits) / 2000
    assert found.measured.exit_shares == pytest.approx(shares.tolist())
