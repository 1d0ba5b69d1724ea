import math

import numpy as np
import pytest

from offramp.exits import NEVER, ExitPolicy, ExitSetting, fit_temperature, fit_thresholds
from offramp.exits.confidence import softmax
from offramp.exits.thresholds import exit_taken


def logits_of(count: int, classes: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (count, classes))


def labels_of(logits: np.ndarray, seed: int = 1) -> np.ndarray:
    """Labels drawn so that the right temperature of `logits` is 2."""
    chance = np.random.default_rng(seed)
    return np.array([chance.choice(len(p), p=p) for p in softmax(logits, 2.0)])


def test_softmax_of_two_equal_logits_is_a_half_each_and_rows_sum_to_one() -> None:
    assert softmax([[1000.0, 1000.0]]).tolist() == [[0.5, 0.5]]
    np.testing.assert_allclose(softmax(logits_of(50)).sum(1), 1.0)


def test_the_most_probable_class_never_has_less_than_its_even_share() -> None:
    confidence = policy_of(0.5).decide(0, logits_of(50)).confidence
    assert (confidence >= 1 / 5).all()
    assert (confidence <= 1).all()


def test_a_fitted_temperature_beats_every_temperature_of_a_brute_force_grid() -> None:
    logits = logits_of(2000)
    labels = labels_of(logits)

    def loss(temperature: float) -> float:
        return -np.log(softmax(logits, temperature)[np.arange(len(labels)), labels]).mean()

    fitted = fit_temperature(logits, labels)
    best = min((0.05 * 1.01**k for k in range(600)), key=loss)
    assert loss(fitted) <= loss(best) + 1e-9
    assert fitted == pytest.approx(best, rel=0.01)
    assert fitted == pytest.approx(2.0, rel=0.1)  # what the labels were drawn with


def test_a_temperature_stays_within_its_bounds_where_the_exit_is_always_right() -> None:
    logits = np.array([[5.0, 0.0], [0.0, 5.0]])
    assert fit_temperature(logits, np.array([0, 1])) == pytest.approx(0.05)
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(20.0)


def test_a_temperature_needs_as_many_labels_as_logits() -> None:
    with pytest.raises(ValueError, match="labels: 1 for 2 logits"):
        fit_temperature([[0.0, 1.0]] * 2, np.array([1]))
    with pytest.raises(ValueError, match="labels: 0 for 0 logits"):
        fit_temperature(np.zeros((0, 2)), np.array([], np.int64))


def test_the_exit_taken_is_the_first_that_is_sure() -> None:
    confidence = np.array([[0.9, 0.2, 0.2], [0.9, 0.9, 0.2], [0.1, 0.1, 0.1]])
    assert exit_taken(confidence, [0.5, 0.5]).tolist() == [0, 1, 2]


def test_fitted_thresholds_agree_with_a_naive_loop_over_samples() -> None:
    chance = np.random.default_rng(2)
    confidence = chance.uniform(0.3, 1, (3, 400))
    correct = chance.uniform(size=(3, 400)) < confidence ** np.array([[1.0], [0.6], [0.3]])
    cost = [0.0, 10.0, 30.0]
    fitted = fit_thresholds(confidence, correct, cost, max_drop=0.01)

    right, paid, left = 0, 0.0, [0, 0, 0]
    for sample in range(400):
        k = 0
        while k < 2 and confidence[k, sample] < fitted.thresholds[k]:
            k += 1
        right += correct[k, sample]
        paid += cost[k]
        left[k] += 1
    assert fitted.accuracy == pytest.approx(right / 400)
    assert fitted.mean_cost == pytest.approx(paid / 400)
    assert fitted.exit_shares == pytest.approx([count / 400 for count in left])
    assert fitted.accuracy >= fitted.last_exit_accuracy - 0.01


def test_no_thresholds_of_a_naive_search_are_cheaper_and_accurate_enough() -> None:
    chance = np.random.default_rng(3)
    confidence = chance.uniform(0.3, 1, (2, 120))
    correct = chance.uniform(size=(2, 120)) < confidence
    fitted = fit_thresholds(confidence, correct, [0.0, 1.0], max_drop=0.0)
    for threshold in np.append(confidence[0], 2.0):
        leaves = confidence[0] >= threshold
        accuracy = np.where(leaves, correct[0], correct[1]).mean()
        if accuracy >= correct[1].mean():
            assert fitted.mean_cost <= (~leaves).mean() + 1e-9


def test_nobody_leaves_early_where_every_early_exit_is_wrong() -> None:
    confidence = np.full((2, 10), 0.9)
    correct = np.array([[False] * 10, [True] * 10])
    fitted = fit_thresholds(confidence, correct, [0, 1], max_drop=0.0)
    assert fitted.exit_shares == (0.0, 1.0)
    assert fitted.thresholds == (NEVER,)


def test_a_network_whose_only_exit_is_its_own_needs_no_threshold() -> None:
    correct = np.array([[True, True, True, False]])
    fitted = fit_thresholds(np.full((1, 4), 0.5), correct, [7.0], max_drop=0.0)
    assert fitted == ((), 0.75, 0.75, (1.0,), 7.0)


def test_a_drop_below_zero_and_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="max_drop"):
        fit_thresholds(np.full((2, 4), 0.5), np.ones((2, 4), bool), [0, 1], max_drop=-0.1)
    with pytest.raises(ValueError, match="do not fit"):
        fit_thresholds(np.full((2, 4), 0.5), np.ones((2, 3), bool), [0, 1], max_drop=0.1)


def policy_of(threshold: float, *, on: bool = True, name: str = "p") -> ExitPolicy:
    return ExitPolicy(name=name, exits=(ExitSetting(threshold=threshold, on=on), ExitSetting()))


def test_raising_a_threshold_never_raises_the_exit_rate() -> None:
    logits = logits_of(500)
    rates = [policy_of(t).decide(0, logits).leaves.mean() for t in np.linspace(0, 1.1, 50)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == (1.0, 0.0)


def test_a_label_is_the_first_of_those_that_an_answer_shows_as_equal() -> None:
    policy = ExitPolicy(name="p", exits=(ExitSetting(), ExitSetting()))
    decision = policy.decide(0, np.array([[0.0, 1e-9], [0.0, 1e-3]]))
    assert decision.probabilities.argmax(1).tolist() == [1, 1]
    shown = decision.probabilities.astype(np.float32)  # what a tier sends, and labels by
    assert decision.labels.tolist() == [int(row.argmax()) for row in shown] == [0, 1]


def test_a_confidence_at_the_threshold_leaves() -> None:
    assert policy_of(0.5).decide(0, [[0.0, 0.0]]).leaves.tolist() == [True]


def test_everybody_leaves_at_the_last_exit_and_nobody_at_one_that_is_off() -> None:
    logits = logits_of(20)
    assert policy_of(2.0).decide(1, logits).leaves.all()
    assert not policy_of(0.0, on=False).decide(0, logits).leaves.any()


def test_a_policys_id_changes_with_what_it_decides_and_not_with_its_name() -> None:
    assert policy_of(0.5).id == policy_of(0.5, name="other").id
    ids = {policy_of(0.5).id, policy_of(0.6).id, policy_of(0.5, on=False).id}
    assert len(ids) == 3
    assert all(len(id_) == 64 for id_ in ids)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"threshold": math.inf}, "threshold"),
    ],
)
def test_a_setting_that_is_no_usable_number_is_refused(settings: dict, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        ExitSetting(**settings)


def test_an_unknown_rule_and_a_policy_without_exits_are_refused() -> None:
    with pytest.raises(ValueError, match="max-probability"):
        ExitPolicy(name="p", rule="oracle", exits=(ExitSetting(),))
    with pytest.raises(ValueError, match="exits"):
        ExitPolicy(name="p", exits=())
