"""Each exit rule by hand, and what travels from exit to exit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from offramp.errors import InvalidInput
from offramp.exits import COMBINATIONS, NEVER, RULES, Decision, ExitPolicy, ExitSetting
from offramp.exits.rules import Evidence

HALF_AND_HALF = [0.0, 0.0]  # logits
NINE_TO_ONE = [np.log(9.0), 0.0]
THREE_QUARTERS_EACH_WAY = ([np.log(3.0), 0.0], [0.0, np.log(3.0)])


def confidence(rule: str, probabilities: list[list[float]], **seen: NDArray) -> list[float]:
    evidence = Evidence(np.array(probabilities), **seen)
    return RULES[rule].confidence(evidence, RULES[rule].remember(evidence, None)).tolist()


def policy(rule: str, thresholds: list[float], combine: str = "none") -> ExitPolicy:
    exits = tuple(ExitSetting(threshold=threshold) for threshold in thresholds)
    return ExitPolicy(name="p", rule=rule, combine=combine, exits=exits)


def random_logits(exits: int, count: int = 64, classes: int = 7, seed: int = 0) -> list[NDArray]:
    chance = np.random.default_rng(seed)
    shared = chance.normal(0, 2, (count, classes))
    return [shared + chance.normal(0, 1.5, (count, classes)) for _ in range(exits)]


def test_max_probability_is_the_largest_probability() -> None:
    assert confidence("max-probability", [[0.2, 0.7, 0.1]]) == [0.7]


def test_entropy_is_none_where_all_are_alike_and_all_where_one_is_certain() -> None:
    assert confidence("entropy", [[0.25] * 4, [0.0, 1.0, 0.0, 0.0]]) == pytest.approx([0.0, 1.0])
    # By hand: two of four classes at a half each have log 2 of at most log 4.
    assert confidence("entropy", [[0.5, 0.5, 0.0, 0.0]]) == pytest.approx([0.5])


def test_margin_is_the_lead_over_the_second() -> None:
    assert confidence("margin", [[0.2, 0.7, 0.1], [0.5, 0.0, 0.5]]) == pytest.approx([0.5, 0.0])


def test_a_gate_is_a_sigmoid_that_does_not_overflow() -> None:
    gate = np.float32([0.0, np.log(3.0), -1e30, 1e30])
    assert confidence("gate", [[0.5, 0.5]] * 4, gate=gate) == pytest.approx([0.5, 0.75, 0.0, 1.0])


def test_anytime_grows_as_the_deadline_comes_nearer() -> None:
    left = np.array([0.3, 0.02, -0.1])
    assert confidence("anytime", [[0.5, 0.5]] * 3, time_left_s=left) == [-0.3, -0.02, 0.1]
    early = policy("anytime", [-0.02, 0.0]).decide(0, [HALF_AND_HALF] * 3, time_left_s=left)
    assert early.leaves.tolist() == [False, True, True]


def test_without_a_deadline_anytime_goes_to_the_end() -> None:
    decisions = list(policy("anytime", [-1e6, 0.0]).decisions([[HALF_AND_HALF]] * 2))
    assert [d.leaves.tolist() for d in decisions] == [[False], [True]]


def test_patience_counts_the_exits_in_a_row_that_agree() -> None:
    # Labels by exit: 0 0 0 1, and 0 1 1 1.
    a, b = THREE_QUARTERS_EACH_WAY
    decisions = list(policy("patience", [3.0] * 4).decisions([[a, a], [a, b], [a, b], [b, b]]))
    assert [d.confidence.tolist() for d in decisions] == [[1, 1], [2, 1], [3, 2], [1, 3]]
    assert [d.leaves.tolist() for d in decisions[:3]] == [[False] * 2, [False] * 2, [True, False]]


def test_patience_of_one_answers_at_once_and_of_more_than_there_are_exits_at_the_end() -> None:
    logits = random_logits(3)
    at_once, _, _ = policy("patience", [1.0] * 3).decisions(logits)
    assert at_once.leaves.all()
    first, second, last = policy("patience", [4.0] * 3).decisions(logits)
    assert not first.leaves.any()
    assert not second.leaves.any()
    assert last.leaves.all()


def test_a_run_carries_its_label_in_as_few_bytes_as_hold_it() -> None:
    patience = policy("patience", [2.0, 2.0])
    assert [patience.state_bytes(classes) for classes in (2, 256, 257, 65_536)] == [2, 2, 3, 3]
    first, _ = patience.decisions([[[0.0, 0.0, 5.0]], [[0.0, 0.0, 5.0]]])
    assert first.state is not None
    assert first.state[0].tobytes() == b"\x02\x01"
    many = np.zeros((1, 300))
    many[0, 258] = 5
    assert patience.decide(0, many).state[0].tobytes() == b"\x02\x01\x01"  # little-endian


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_a_threshold_of_never_lets_nobody_leave_early(rule: str, combine: str) -> None:
    never = policy(rule, [NEVER, 0.0], combine)
    late = np.full(64, -3600.0)
    decision = never.decide(0, random_logits(1)[0], gate=late, time_left_s=late)
    assert not decision.leaves.any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_decisions_with_a_state_that_travelled_are_those_without_a_hop(
    rule: str, combine: str
) -> None:
    logits = random_logits(4)
    gates = [at_exit[:, 0] for at_exit in logits]
    left = [np.full(64, 0.3 - 0.1 * k) for k in range(4)]
    chosen = policy(rule, [0.5] * 4, combine)
    together = list(chosen.decisions(logits, gates=gates, time_left_s=left))

    state_type = chosen.state_type(7)
    carried = [b""] * 64
    for k, expected in enumerate(together):
        if k > 0 and state_type is not None:
            for data in carried:
                chosen.check_state(data, k, 7)
        # One by one, in another order than before, each from its own bytes.
        for n in reversed(range(64)):
            state = np.frombuffer(carried[n], state_type) if k > 0 and state_type else None
            alone: Decision = chosen.decide(
                k,
                logits[k][n : n + 1],
                state=state,
                gate=gates[k][n : n + 1],
                time_left_s=left[k][n : n + 1],
            )
            assert alone.leaves[0] == expected.leaves[n]
            assert alone.confidence[0] == pytest.approx(expected.confidence[n], abs=1e-12)
            np.testing.assert_allclose(
                alone.probabilities[0], expected.probabilities[n], atol=1e-12
            )
            if state_type is not None:
                carried[n] = alone.state[0].tobytes()
                assert len(carried[n]) == chosen.state_bytes(7)
                assert carried[n] == expected.state[n].tobytes()


def f2(*values: float) -> bytes:
    return np.array(values, "<f2").tobytes()


WRONG_STATES = {
    "none": ("mean", b""),
    "half of one": ("mean", f2(0.5, 0.5)),
    "one too long": ("mean", f2(0.5, 0.5, 0.0, 0.0)),
    "NaN": ("mean", f2(0.5, np.nan, 0.5)),
    "infinity": ("mean", f2(0.5, np.inf, 0.5)),
    "a probability below 0": ("mean", f2(-0.5, 1.0, 0.5)),
    "probabilities of 2": ("mean", f2(1.0, 1.0, 0.0)),
    "all of them 0": ("mean", f2(0.0, 0.0, 0.0)),
    "infinity of a logarithm": ("geometric", f2(0.0, -np.inf, -1.0)),
    "logarithms above the largest": ("geometric", f2(1.0, 0.0, -1.0)),
    "logarithms below the largest": ("geometric", f2(-1.0, -2.0, -3.0)),
    "a label that is no class": ("patience", b"\x03\x01"),
    "a run of none": ("patience", b"\x00\x00"),
    "a run longer than the exits": ("patience", b"\x00\x02"),
    "one where none is declared": ("max-probability", b"\x00"),
}


@pytest.mark.parametrize("mistake", WRONG_STATES)
def test_a_state_that_no_exit_can_have_left_is_refused(mistake: str) -> None:
    kind, data = WRONG_STATES[mistake]
    rule, combine = (kind, "none") if kind in RULES else ("max-probability", kind)
    chosen = policy(rule, [0.5] * 3, combine)
    with pytest.raises(InvalidInput, match="exit_state: ") as refusal:
        chosen.check_state(data, 1, 3)
    assert refusal.value.field == "exit_state"


def test_nothing_is_carried_to_the_first_exit() -> None:
    patience = policy("patience", [2.0, 2.0])
    patience.check_state(b"", 0, 3)
    with pytest.raises(InvalidInput, match="exit_state: 2 bytes at boundary 0"):
        patience.check_state(b"\x00\x01", 0, 3)


def test_a_deeper_exit_without_the_state_it_needs_is_refused() -> None:
    with pytest.raises(ValueError, match="state: exit 1"):
        policy("patience", [2.0, 2.0]).decide(1, [HALF_AND_HALF])


def test_a_gate_that_is_missing_is_refused_where_it_would_decide() -> None:
    gated = policy("gate", [0.5, 0.5])
    with pytest.raises(ValueError, match="gate: exit 0"):
        gated.decide(0, [HALF_AND_HALF])
    assert gated.decide(1, [HALF_AND_HALF]).leaves.all()
    off = ExitPolicy(name="p", rule="gate", exits=(ExitSetting(on=False), ExitSetting()))
    assert not off.decide(0, [NINE_TO_ONE]).leaves.any()
