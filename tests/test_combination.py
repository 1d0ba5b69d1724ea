"""What exits say together, by hand and against a naive reference, and weights that are learned."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from offramp.exits import ExitPolicy, ExitSetting, fit_weights
from offramp.exits.confidence import log_softmax, softmax

NINE_TO_ONE = [[np.log(9.0), 0.0]]  # probabilities 0.9, 0.1
EVEN = [[0.0, 0.0]]
ONE_TO_NINE = [[0.0, np.log(9.0)]]


def combining(combine: str, *weights: float, temperature: float = 1.0) -> ExitPolicy:
    exits = tuple(ExitSetting(weight=w, temperature=temperature) for w in weights)
    return ExitPolicy(name="p", combine=combine, exits=exits)


def answers(policy: ExitPolicy, *logits: object) -> list[list[float]]:
    return [d.probabilities[0].tolist() for d in policy.decisions(logits)]


def sampled(exits: int, count: int = 2000, seed: int = 0) -> tuple[list[NDArray], NDArray]:
    """Logits of exits that see the truth through noise of their own, less of it the deeper they are, and the labels."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 4, count)
    truth = 2.0 * np.eye(4)[labels]
    return [truth + chance.normal(0, 2.0 - 0.4 * k, (count, 4)) for k in range(exits)], labels


def test_a_mean_is_of_the_exits_reached_so_far() -> None:
    first, second, third = answers(combining("mean", 1, 1, 1), NINE_TO_ONE, EVEN, ONE_TO_NINE)
    assert first == pytest.approx([0.9, 0.1])
    assert second == pytest.approx([0.7, 0.3], abs=1e-3)
    assert third == pytest.approx([0.5, 0.5], abs=1e-3)


def test_a_weighted_mean_by_hand() -> None:
    _, second = answers(combining("mean", 1, 3), NINE_TO_ONE, ONE_TO_NINE)
    assert second == pytest.approx([0.3, 0.7], abs=1e-3)


def test_a_geometric_mean_by_hand() -> None:
    # sqrt(9 * 1) : 1, and 9 ** (1 / 4) : 9 ** (3 / 4)
    _, even = answers(combining("geometric", 1, 1), NINE_TO_ONE, EVEN)
    assert even == pytest.approx([0.75, 0.25], abs=1e-3)
    _, weighted = answers(combining("geometric", 1, 3), NINE_TO_ONE, ONE_TO_NINE)
    assert weighted == pytest.approx([0.25, 0.75], abs=1e-3)


def test_an_exit_of_weight_none_is_left_out() -> None:
    for combine in ("mean", "geometric"):
        _, second = answers(combining(combine, 1, 0), NINE_TO_ONE, ONE_TO_NINE)
        assert second == pytest.approx([0.9, 0.1], abs=1e-3)


def test_temperatures_come_before_the_combination() -> None:
    _, second = answers(combining("mean", 1, 1, temperature=2.0), NINE_TO_ONE, EVEN)
    assert second == pytest.approx([(0.75 + 0.5) / 2, (0.25 + 0.5) / 2], abs=1e-3)


@pytest.mark.parametrize("combine", ["mean", "geometric"])
def test_running_means_in_float16_are_near_the_whole_ones(combine: str) -> None:
    logits, _ = sampled(5)
    weights = np.array([0.5, 2.0, 1.0, 0.1, 3.0])
    policy = combining(combine, *weights)
    for k, decision in enumerate(policy.decisions(logits)):
        share = weights[: k + 1, None, None] / weights[: k + 1].sum()
        if combine == "mean":
            whole = (share * np.stack([softmax(z) for z in logits[: k + 1]])).sum(0)
        else:
            whole = softmax((share * np.stack([log_softmax(z) for z in logits[: k + 1]])).sum(0))
        np.testing.assert_allclose(decision.probabilities, whole, atol=2e-3)
        np.testing.assert_allclose(decision.probabilities.sum(1), 1.0)


def test_a_class_beyond_float16_neither_overflows_nor_comes_back() -> None:
    _, second = answers(combining("geometric", 1, 1), [[0.0, -3e5]], [[0.0, 0.0]])
    assert second == pytest.approx([1.0, 0.0])


def test_the_combined_answer_is_what_thresholds_apply_to() -> None:
    exits = tuple(ExitSetting(threshold=0.8) for _ in range(3))
    policy = ExitPolicy(name="p", combine="mean", exits=exits)
    first, second, _ = policy.decisions([EVEN, NINE_TO_ONE, NINE_TO_ONE])
    assert (first.leaves[0], second.leaves[0]) == (False, False)  # 0.7 and not 0.9
    assert second.confidence[0] == pytest.approx(0.7, abs=1e-3)


def test_an_id_covers_combination_and_weights() -> None:
    ids = {
        combining("none", 1, 1).id,
        combining("mean", 1, 1).id,
        combining("mean", 1, 2).id,
        combining("geometric", 1, 1).id,
    }
    assert len(ids) == 4


def test_the_id_of_a_policy_without_combination_is_what_it_was_before_there_were_any() -> None:
    # So that a tier of an earlier version knows the policy: computed with one.
    policy = ExitPolicy(name="p", exits=(ExitSetting(threshold=0.9), ExitSetting()))
    assert policy.id == "8bbf842aa4e5b2e0d9e2d6a1081d5bbea886a2211d74bc09289b5cff5decf513"


@pytest.mark.parametrize(
    ("weights", "combine", "message"),
    [
        ((1.0, 2.0), "none", "weight: given"),
        ((0.0, 1.0), "mean", "weight: that of the first"),
        ((1.0, -1.0), "mean", "weight: -1.0"),
        ((1.0, float("nan")), "mean", "weight: nan"),
        ((1.0, 1.0), "stacking", "combine: 'stacking'"),
    ],
)
def test_weights_that_make_no_answer_are_refused(
    weights: tuple[float, ...], combine: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        combining(combine, *weights)


def loss(combine: str, weights: tuple[float, ...], logits: list[NDArray], labels: NDArray) -> list:
    decisions = combining(combine, *weights).decisions(logits)
    rows = np.arange(len(labels))
    return [-np.log(d.probabilities[rows, labels]).mean() for d in decisions]


@pytest.mark.parametrize("combine", ["mean", "geometric"])
def test_learned_weights_are_convex_and_beat_even_ones_and_each_exit_alone(combine: str) -> None:
    logits, labels = sampled(3)
    held, held_labels = sampled(3, seed=1)
    weights = fit_weights(logits, labels, combine)
    assert sum(weights) == pytest.approx(1.0)
    assert min(weights) > 0
    learned = loss(combine, weights, held, held_labels)
    even = loss(combine, (1, 1, 1), held, held_labels)
    alone = loss("none", (1, 1, 1), held, held_labels)
    assert (np.array(learned[1:]) < np.array(even[1:])).all()
    assert (np.array(learned[1:]) < np.array(alone[1:])).all()


@pytest.mark.parametrize("combine", ["mean", "geometric"])
def test_a_learned_weight_is_the_best_of_a_grid(combine: str) -> None:
    logits, labels = sampled(2)
    weights = fit_weights(logits, labels, combine)
    grid = [loss(combine, (1 - s, s), logits, labels)[1] for s in np.linspace(0.01, 0.99, 99)]
    assert loss(combine, weights, logits, labels)[1] <= min(grid) + 1e-6


def test_an_exit_that_knows_nothing_gets_little_weight() -> None:
    logits, labels = sampled(1)
    noise = np.random.default_rng(3).normal(0, 5, logits[0].shape)
    # Not none: what it adds is doubt, and the other exit is too sure of itself.
    assert fit_weights([logits[0], noise], labels, "mean")[1] < 0.15
    assert fit_weights([noise, logits[0]], labels, "mean")[0] < 0.2


def test_weights_need_something_to_combine_and_as_many_labels_as_logits() -> None:
    logits, labels = sampled(2, count=10)
    with pytest.raises(ValueError, match="combine: none"):
        fit_weights(logits, labels, "none")
    with pytest.raises(ValueError, match=r"labels: 9 for \[10, 10\] logits"):
        fit_weights(logits, labels[:9], "mean")
    with pytest.raises(ValueError, match="labels: 0"):
        fit_weights([np.zeros((0, 4))], labels[:0], "mean")
