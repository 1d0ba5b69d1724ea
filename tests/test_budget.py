"""A batch that shares a budget: how many leave where, which of them, and the thresholds that follow."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from offramp.exits import NEVER, ClosedBatch, budgeted_thresholds
from offramp.exits.budget import geometric_shares

COST = (1.0, 3.0, 7.0)


def uniform(exits: int, count: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(0.1, 1.0, (exits, count))


def test_shares_are_geometric_and_cost_the_budget() -> None:
    for budget in (1.5, 2.0, 11 / 3, 5.0, 6.9):
        shares = geometric_shares(COST, budget)
        assert shares.sum() == pytest.approx(1.0)
        assert shares @ np.array(COST) == pytest.approx(budget)
        assert shares[1] / shares[0] == pytest.approx(shares[2] / shares[1])


def test_even_shares_by_hand() -> None:
    assert geometric_shares(COST, 11 / 3) == pytest.approx([1 / 3] * 3)


def test_a_budget_beyond_either_end_takes_all_samples_there() -> None:
    assert geometric_shares(COST, 0.5).tolist() == [1.0, 0.0, 0.0]
    assert geometric_shares(COST, 9.0).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("cost", [(3.0, 1.0), (0.0, np.inf), (np.nan, 1.0)])
def test_a_cost_that_falls_or_is_no_number_is_refused(cost: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="cost"):
        geometric_shares(cost, 1.0)


def test_the_surest_leave_a_closed_batch_first() -> None:
    # Even shares: two of six at each exit. Samples 4 and 1 are the surest at exit 0, then 0 and 5 of those left.
    batch = ClosedBatch(samples=6, cost=COST, budget=22.0)
    confidence = np.array(
        [[0.5, 0.8, 0.1, 0.2, 0.9, 0.3], [0.9, 1.0, 0.2, 0.3, 1.0, 0.8], [1.0] * 6]
    )
    assert batch.going_on == (4, 2, 0)
    assert batch.exits(confidence).tolist() == [1, 0, 2, 2, 0, 1]


def test_the_earlier_of_two_samples_that_are_equally_sure_leaves() -> None:
    batch = ClosedBatch(samples=2, cost=(0.0, 1.0), budget=1.0)
    assert batch.exits(np.full((2, 2), 0.5)).tolist() == [0, 1]


@pytest.mark.parametrize("samples", [1, 7, 500])
def test_a_closed_batch_stays_within_its_budget_and_uses_most_of_it(samples: int) -> None:
    for budget in np.linspace(1.0, 8.0, 29):
        batch = ClosedBatch(samples=samples, cost=COST, budget=budget * samples)
        spent = np.array(COST)[batch.exits(uniform(3, samples))].sum()
        assert batch.budget_met
        assert spent <= budget * samples + 1e-6
        assert spent >= min(budget, 7.0) * samples - sum(COST)


def test_stage_by_stage_is_the_same_as_all_at_once() -> None:
    batch = ClosedBatch(samples=50, cost=COST, budget=150.0)
    confidence = uniform(3, 50)
    there, taken = np.arange(50), np.zeros(50, int)
    for k in range(3):
        leaves = batch.leaving(k, confidence[k, there])
        taken[there[leaves]] = k
        there = there[~leaves]
    assert len(there) == 0
    assert taken.tolist() == batch.exits(confidence).tolist()


def test_thresholds_keep_held_out_samples_within_the_budget() -> None:
    confidence = uniform(3, 4000)
    for budget in (1.2, 2.0, 4.0, 6.5):
        fitted = budgeted_thresholds(confidence, COST, budget)
        assert fitted.budget_met
        assert fitted.mean_cost <= budget + 1e-9
        assert fitted.mean_cost == pytest.approx(budget, rel=0.01)
        assert fitted.exit_shares == pytest.approx(geometric_shares(COST, budget), abs=0.001)
        # On samples that the thresholds were not fitted on.
        fresh = uniform(3, 4000, seed=1)
        first = fresh[0] >= fitted.thresholds[0]
        second = ~first & (fresh[1] >= fitted.thresholds[1])
        cost = 1.0 * first.mean() + 3.0 * second.mean() + 7.0 * (~first & ~second).mean()
        assert cost == pytest.approx(budget, rel=0.1)


def test_a_budget_below_the_first_exit_is_not_met_and_says_so() -> None:
    fitted = budgeted_thresholds(uniform(3, 100), COST, 0.9)
    assert not fitted.budget_met
    assert fitted.thresholds[0] == -NEVER
    assert fitted.exit_shares == (1.0, 0.0, 0.0)
    assert fitted.mean_cost == 1.0


def test_a_budget_of_the_last_exit_lets_nobody_leave_early() -> None:
    fitted = budgeted_thresholds(uniform(3, 100), COST, 7.0)
    assert fitted.thresholds == (NEVER, NEVER)
    assert (fitted.exit_shares, fitted.mean_cost) == ((0.0, 0.0, 1.0), 7.0)


def test_samples_that_are_equally_sure_leave_together_and_save_more() -> None:
    runs = np.array([[1.0] * 4, [2.0, 1.0, 2.0, 2.0], [3.0] * 4])
    fitted = budgeted_thresholds(runs, COST, 4.0)
    assert fitted.budget_met
    assert fitted.exit_shares == (1.0, 0.0, 0.0)


def test_confidences_that_fit_no_cost_or_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="2 exits"):
        budgeted_thresholds(uniform(3, 5), (1.0, 2.0), 1.0)
    with pytest.raises(ValueError, match="confidence"):
        budgeted_thresholds(np.full((2, 5), np.inf), (1.0, 2.0), 1.0)
    with pytest.raises(ValueError, match="confidence"):
        budgeted_thresholds(np.zeros((2, 0)), (1.0, 2.0), 1.0)
