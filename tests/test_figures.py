"""The figures of a run, on four images that can be checked by hand; and where a deployment may differ."""

from __future__ import annotations

import numpy as np
import pytest

from offramp.client import Timed
from offramp.errors import DeadlineExceeded
from offramp.evaluation.agreement import Difference, differences, ties
from offramp.evaluation.figures import figures_of, percentiles_ms
from offramp.evaluation.reference import Answers, Reference
from offramp.exits import ExitPolicy, ExitSetting
from offramp.rpc import Answer, Leg, Tier

PROBABILITIES = np.array([0.25, 0.75], np.float32)


def answer(label: int, exit_index: int, *trail: Leg, degraded: str | None = None) -> Answer:
    return Answer(
        label=label,
        probabilities=PROBABILITIES,
        exit=exit_index,
        tier=trail[0].tier,
        degraded=degraded,
        trail=trail,
    )


def four() -> list[Timed]:
    """Two images stay on the device, one goes to the fog and one to the cloud; the fog's is wrong."""
    at_device = Leg(tier=Tier.DEVICE)
    device_sent = Leg(tier=Tier.DEVICE, bytes_up=100, bytes_down=40)
    fog_sent = Leg(tier=Tier.FOG, bytes_up=60, bytes_down=20)
    return [
        Timed(0, answer(1, 0, at_device), 0.001),
        Timed(1, answer(1, 0, at_device, degraded="unreachable"), 0.003),
        Timed(2, answer(0, 1, Leg(tier=Tier.FOG), device_sent), 0.010),
        Timed(3, answer(1, 2, Leg(tier=Tier.CLOUD), fog_sent, device_sent), 0.020),
    ]


LABELS = np.array([1, 1, 1, 1])


def test_share_and_accuracy_are_of_the_images_that_a_tier_answered() -> None:
    tiers = figures_of(four(), LABELS).tiers
    assert [tiers[t].share for t in ("device", "fog", "cloud")] == [0.5, 0.25, 0.25]
    assert [tiers[t].accuracy for t in ("device", "fog", "cloud")] == [1.0, 0.0, 1.0]


def test_bytes_of_a_tier_are_its_link_upwards_averaged_over_all_images() -> None:
    tiers = figures_of(four(), LABELS).tiers
    assert [tiers[t].bytes_up for t in ("device", "fog", "cloud")] == [50, 15, 0]
    assert [tiers[t].bytes_down for t in ("device", "fog", "cloud")] == [20, 5, 0]


def test_bytes_per_sent_are_of_those_that_were_sent() -> None:
    tiers = figures_of(four(), LABELS).tiers
    assert tiers["device"].bytes_up_per_sent == 100
    assert tiers["fog"].bytes_up_per_sent == 60
    assert tiers["cloud"].bytes_up_per_sent is None


def test_overall_is_the_sum_over_links_and_all_images() -> None:
    run = figures_of(four(), LABELS)
    assert (run.overall.bytes_up, run.overall.bytes_down) == (65, 25)
    assert (run.overall.share, run.overall.accuracy) == (1.0, 0.75)
    assert run.overall.p50_ms == pytest.approx(6.5)
    assert run.degraded == 1


def test_an_error_among_the_outcomes_is_raised_not_averaged_away() -> None:
    with pytest.raises(DeadlineExceeded):
        figures_of([*four(), Timed(4, DeadlineExceeded("late"), 1.0)], LABELS)


def test_percentiles_of_nothing_are_none() -> None:
    assert percentiles_ms(np.array([])) == (None, None, None)


def test_a_deployment_differs_where_label_or_exit_does() -> None:
    reference = Answers(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 1]), np.full(4, 0.9))
    tied = np.array([False, False, False, True])
    assert differences(four(), reference, tied) == [Difference(3, (1, 2), (1, 1), True)]


def test_a_tie_is_a_confidence_on_the_threshold_of_an_exit_that_is_on() -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.8, 0.2], [0.90005, 0.09995]], np.float32))
    reference = Reference((logits, logits), ())
    on = ExitPolicy(name="on", exits=(ExitSetting(threshold=0.9), ExitSetting()))
    off = ExitPolicy(name="off", exits=(ExitSetting(on=False, threshold=0.9), ExitSetting()))
    assert ties(on, reference).tolist() == [True, False, True]
    assert not ties(off, reference).any()
