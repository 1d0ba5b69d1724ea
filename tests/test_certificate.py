"""The binomial tail, the walk along the candidates, and what a certificate is held to."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from offramp.exits.candidates import candidate_path
from offramp.exits.certificate import (
    Certificate,
    binomial_tail,
    fewest_samples,
    last_certified,
    losses,
    most_errors,
    rows_sha256,
)
from offramp.exits.thresholds import exit_taken


def exact_tail(samples: int, errors: int, epsilon: Fraction) -> Fraction:
    return sum(
        (
            math.comb(samples, k) * epsilon**k * (1 - epsilon) ** (samples - k)
            for k in range(errors + 1)
        ),
        Fraction(0),
    )


@pytest.mark.parametrize("samples", [1, 7, 299, 1000])
@pytest.mark.parametrize("epsilon", [Fraction(1, 200), Fraction(1, 100), Fraction(3, 10)])
def test_the_tail_is_that_of_exact_fractions(samples: int, epsilon: Fraction) -> None:
    for errors in {0, 1, min(4, samples), samples // 3, samples}:
        exact = float(exact_tail(samples, errors, epsilon))
        assert binomial_tail(samples, errors, float(epsilon)) == pytest.approx(exact, rel=1e-9)


def test_the_tail_does_not_underflow_where_its_first_term_does() -> None:
    assert (1 - 0.01) ** 200_000 == 0.0
    near_the_mean = binomial_tail(200_000, 2_000, 0.01)
    assert near_the_mean == pytest.approx(0.506, abs=1e-3)


def test_the_tail_of_fewer_than_no_errors_is_zero_and_more_errors_than_samples_are_refused() -> (
    None
):
    assert binomial_tail(10, -1, 0.1) == 0.0
    for errors, epsilon in ((11, 0.1), (1, 0.0), (1, 1.0)):
        with pytest.raises(ValueError, match="have no probability"):
            binomial_tail(10, errors, epsilon)


@pytest.mark.parametrize(
    ("samples", "epsilon", "errors"),
    [(1000, 0.005, 1), (1000, 0.01, 4), (5000, 0.01, 38), (5000, 0.02, 83), (298, 0.01, -1)],
)
def test_the_most_errors_are_the_last_that_the_tail_allows(
    samples: int, epsilon: float, errors: int
) -> None:
    assert most_errors(samples, epsilon, 0.05) == errors
    assert binomial_tail(samples, errors, epsilon) <= 0.05
    assert binomial_tail(samples, errors + 1, epsilon) > 0.05


@pytest.mark.parametrize(("epsilon", "fewest"), [(0.01, 299), (0.005, 598), (0.5, 5), (0.99, 1)])
def test_the_fewest_samples_are_ln_delta_over_ln_one_less_epsilon(
    epsilon: float, fewest: int
) -> None:
    assert fewest_samples(epsilon, 0.05) == fewest
    assert fewest_samples(0.5, 0.25) == 2  # a quotient that is whole
    assert most_errors(fewest, epsilon, 0.05) >= 0
    assert fewest == 1 or most_errors(fewest - 1, epsilon, 0.05) < 0


def test_the_walk_ends_at_the_first_failure_even_where_a_later_one_would_pass() -> None:
    assert last_certified(np.array([0, 4, 5, 0]), 1000, 0.01, 0.05) == 1
    assert last_certified(np.array([0, 4, 4]), 1000, 0.01, 0.05) == 2
    assert last_certified(np.array([5, 0]), 1000, 0.01, 0.05) == -1


def violating(risks: np.ndarray, errors: np.ndarray, n: int, epsilon: float, delta: float) -> float:
    """The share of trials (rows of errors) whose certified candidate has a risk above epsilon."""
    last = np.array([last_certified(seen, n, epsilon, delta) for seen in errors])
    return float(((last >= 0) & (risks[last] > epsilon)).mean())


def test_of_bernoulli_streams_at_most_delta_certify_a_risk_above_epsilon() -> None:
    chance, n, epsilon, delta, trials = np.random.default_rng(11), 600, 0.02, 0.1, 1000
    sigma = math.sqrt(delta * (1 - delta) / trials)
    # The hardest case: the walk passes everything safe, and what follows is hardly too risky.
    risks = np.array([0.0, 0.001, 0.0200001, 0.0200002])
    nested = chance.multinomial(n, [*np.diff(risks, prepend=0), 1 - risks[-1]], trials)
    errors = nested[:, :-1].cumsum(1)
    found = violating(risks, errors, n, epsilon, delta)
    assert found <= delta + 3 * sigma
    assert found > delta / 2  # and not by being blind: the tail at the most errors is 7 %
    # Independent streams, whose errors rise and fall along the path.
    risks = np.concatenate((np.linspace(0, 0.019, 15), np.linspace(0.0201, 0.05, 15)))
    errors = chance.binomial(n, risks, (trials, len(risks)))
    assert violating(risks, errors, n, epsilon, delta) <= delta + 3 * sigma


def test_the_two_losses_of_a_hand_made_case() -> None:
    labels = np.array([[0, 1, 1, 0], [0, 1, 0, 1]])
    last, truth = labels[-1], np.array([0, 1, 1, 1])
    assert losses(labels, last, truth, "accuracy-drop").tolist() == [
        [False, False, False, True],  # sample 2 is right early and wrong at the end: no error
        [False] * 4,
    ]
    assert losses(labels, last, None, "disagreement")[0].tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match="needs the right labels"):
        losses(labels, last, None, "accuracy-drop")


# --- certificates -------------------------------------------------------------------------------


def certificate(**changes: Any) -> Certificate:
    fields: dict[str, Any] = {
        "policy": "p" * 64,
        "network": "n" * 64,
        "risk": "accuracy-drop",
        "epsilon": 0.01,
        "delta": 0.05,
        "samples": 1000,
        "errors": 4,
        "p_value": binomial_tail(1000, 4, 0.01),
        "data": {"x.npz": "0" * 64},
        "fitted_on": rows_sha256(np.arange(3)),
        "certified_on": rows_sha256(np.arange(3, 6)),
    }
    return Certificate(**(fields | changes))


def test_a_certificate_says_what_it_promises_and_what_nobody_looked_at() -> None:
    said = "accuracy-drop at most 1 % with confidence 95 % (4 errors of 1,000, p = 0.0287)"
    assert str(certificate(compared_with_training="trained_on.bin")) == said
    assert str(certificate()) == f"{said}; overlap with training: not checked"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"risk": "regret"}, "risk: 'regret' is none of accuracy-drop, disagreement"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"delta": 1.0}, "delta"),
        ({"errors": 1001}, "errors: 1001 of 1000"),
        ({"samples": 0, "errors": 0}, "errors: 0 of 0"),
        ({"errors": 3}, "p_value: .* these errors give"),
        ({"p_value": 0.01}, "p_value: 0.01, but"),
        ({"errors": 5, "p_value": binomial_tail(1000, 5, 0.01)}, "above delta"),
    ],
)
def test_numbers_that_make_no_certificate_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        certificate(**changes)


def test_the_hash_of_rows_is_of_which_they_are_and_not_of_their_order() -> None:
    assert rows_sha256(np.array([5, 1])) == rows_sha256(np.array([1, 5]))
    assert rows_sha256(np.array([1, 5])) != rows_sha256(np.array([1, 6]))
    assert replace(certificate(), fitted_on="") != certificate()


# --- candidates ---------------------------------------------------------------------------------


def exits_of(count: int, exits: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, loss and cost; deeper exits are surer and make fewer errors, sure ones fewer still."""
    chance = np.random.default_rng(seed)
    depth = np.arange(1, exits + 1)[:, None] / exits
    confidence = chance.uniform(0, 1, (exits, count)) ** (1 / (1 + depth))
    loss = chance.uniform(size=(exits, count)) < 0.3 * (1 - confidence) * (1 - depth)
    return confidence, loss, np.linspace(1, exits, exits)


def scored(
    path: np.ndarray, confidence: np.ndarray, loss: np.ndarray, cost: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Risk and mean cost of every candidate, by a loop."""
    columns = np.arange(confidence.shape[1])
    taken = [exit_taken(confidence, thresholds) for thresholds in path]
    return (
        np.array([loss[t, columns].mean() for t in taken]),
        np.array([cost[t].mean() for t in taken]),
    )


@pytest.mark.parametrize("exits", [2, 3, 6])
def test_a_path_goes_from_nobody_to_everybody_in_small_steps_and_only_down(exits: int) -> None:
    confidence, loss, cost = exits_of(800, exits, exits)
    path = candidate_path(confidence, loss, cost)
    assert path.shape[1] == exits - 1
    assert np.isinf(path[0]).all()
    assert (exit_taken(confidence, path[-1]) == 0).all()
    assert ((path[1:] < path[:-1]).sum(1) == 1).all()  # one threshold a step
    assert (path[1:] <= path[:-1]).all()
    risk, mean_cost = scored(path, confidence, loss, cost)
    assert (np.diff(mean_cost) <= 1e-12).all()
    assert (np.diff(risk) <= np.maximum(0.002, 0.05 * risk[:-1])).all()
    assert len(path) < 100 * exits


def test_with_one_early_exit_no_threshold_of_a_full_search_is_cheaper_at_its_risk() -> None:
    confidence, loss, cost = exits_of(400, 2, 1)
    risk, mean_cost = scored(candidate_path(confidence, loss, cost), confidence, loss, cost)
    every = np.sort(confidence[0])[:, None]
    all_risks, all_costs = scored(every, confidence, loss, cost)
    for epsilon in (0.01, 0.03, 0.06):
        best = all_costs[all_risks <= epsilon].min()
        assert mean_cost[risk <= epsilon].min() <= best + 0.05  # one step of 5 % of the samples


def test_equal_confidences_leave_together_and_counts_stay_whole() -> None:
    confidence = np.array([[1.0, 1.0, 2.0, 2.0], [1.0, 2.0, 3.0, 1.0], [3.0] * 4])
    loss = np.zeros((3, 4), np.bool_)
    path = candidate_path(confidence, loss, [1, 2, 3])
    assert set(path[np.isfinite(path)].tolist()) <= {1.0, 2.0, 3.0}
    assert path[-1, 0] == 1.0


def test_a_path_may_save_what_differs_from_sample_to_sample() -> None:
    confidence = np.array([[0.9, 0.8], [1.0, 1.0]])
    loss = np.zeros((2, 2), np.bool_)
    path = candidate_path(confidence, loss, [[0, 0], [10, 20]])
    assert path[:, 0].tolist() == [math.inf, 0.9, 0.8]


@pytest.mark.parametrize(
    ("confidence", "loss", "cost"),
    [
        (np.ones((2, 3)), np.ones((2, 4), bool), [1, 2]),
        (np.ones((2, 3)), np.ones((2, 3), bool), [1, 2, 3, 4]),
        (np.ones((2, 0)), np.ones((2, 0), bool), [1, 2]),
        (np.ones((2, 3)), np.ones((2, 3), bool), [2, 1]),
    ],
)
def test_shapes_that_do_not_fit_and_a_cost_that_falls_are_refused(
    confidence: np.ndarray, loss: np.ndarray, cost: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"do not fit|leaving later is cheaper"):
        candidate_path(confidence, loss, cost)


def test_a_network_without_early_exits_has_one_candidate() -> None:
    path = candidate_path(np.ones((1, 3)), np.zeros((1, 3), bool), [1])
    assert path.shape == (1, 0)
