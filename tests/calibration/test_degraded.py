"""What degraded answers are worth: those of an exit to the samples that it was not sure of."""

import numpy as np
import pytest

from offramp.evaluation.brownout import brownout_of
from offramp.evaluation.calibration import Form, Observed
from offramp.evaluation.degraded import degraded_answers
from offramp.evaluation.goals import Budget, Reached

RNG = np.random.default_rng(1)


def observed(count: int) -> Observed:
    """Two exits of three classes, the later one right more often, both the surer the righter."""
    labels = RNG.integers(0, 3, count)
    logits = []
    for noise in (1.5, 0.3):
        scores = RNG.normal(0, noise, (count, 3))
        scores[np.arange(count), labels] += 2.0
        logits.append(scores.astype(np.float32))
    cost = np.repeat([[1.0], [3.0]], count, axis=1)
    return Observed(logits=tuple(logits), cost=cost, labels=labels)


@pytest.fixture(scope="module")
def reached() -> tuple[Reached, Observed, Observed]:
    to_fit, to_check = observed(800), observed(800)
    base = Form(name="budget").never_early([1.0, 1.0])
    return Budget(amount=2.0).reach(base, to_fit, to_check, 3.0), to_fit, to_check


def test_those_handed_on_are_counted_by_hand(
    reached: tuple[Reached, Observed, Observed],
) -> None:
    made, _, check = reached
    (found,) = degraded_answers(made, check)
    decision = made.policy.decide(0, check.logits[0])
    stay = ~decision.leaves
    right = decision.labels == check.labels
    assert found.handed_on == stay.sum() > 0
    assert found.accuracy == pytest.approx(right[stay].mean())
    assert found.all_accuracy == pytest.approx(right.mean())
    assert found.interval is not None
    assert found.interval[0] < found.accuracy < found.interval[1]
    assert found.accuracy < right[~stay].mean()


def test_without_labels_nothing_is_said(reached: tuple[Reached, Observed, Observed]) -> None:
    made, _, check = reached
    bare = Observed(logits=check.logits, cost=check.cost)
    assert degraded_answers(made, bare) == []


def test_steps_of_a_brownout_go_down_and_are_measured_on_the_other_samples(
    reached: tuple[Reached, Observed, Observed],
) -> None:
    made, fit, check = reached
    found = brownout_of(made, fit, check)
    assert found is not None
    thresholds = [made.policy.exits[0].threshold, *(step.thresholds[0] for step in found.steps)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert 1 <= len(found.steps) <= 4
    assert (found.policy, found.samples) == (made.policy.id, 800)
    last = found.steps[-1]
    leaves = made.policy.decide(0, check.logits[0]).confidence >= last.thresholds[0]
    assert last.exit_shares[0] == pytest.approx(leaves.mean())
    assert last.accuracy is not None
    assert last.accuracy < (made.measured.accuracy or 0)
