"""How right a way of answering is, and what it costs: each figure with its 95 % interval.

Accuracy and risk are shares of samples (Wilson's interval); FLOPs and bytes are means over them
(normal interval). Letters: N samples, E exits, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.evaluation.intervals import Estimate, mean, share
from offramp.evaluation.reference import Answers

_BINS = 15  # of the calibration error, as in Guo et al. 2017


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCosts:
    """What N samples cost by the exit at which they leave."""

    flops: NDArray[np.int64]  # (E,)
    bytes_up: NDArray[np.int64]  # (E, N), over all links
    compute_ms: NDArray[np.float64]  # (E,) of one sample by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """Who leaves at one exit: the share of all, and how many of them are right (None of nobody)."""

    share: float
    accuracy: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One way of answering."""

    accuracy: Estimate
    flops: Estimate
    bytes_up: Estimate
    compute_ms: float
    leaving: tuple[Leaving, ...] = ()


def score(answers: Answers, labels: NDArray[np.int64], costs: SampleCosts) -> Score:
    """The score of answers (N) against their labels (N,)."""
    right = answers.labels == labels
    leaving = []
    for k in range(len(costs.flops)):
        here = answers.exits == k
        count = int(here.sum())
        found = share(int(right[here].sum()), count) if count else None
        leaving.append(Leaving(share=count / len(labels), accuracy=found))
    return Score(
        accuracy=share(int(right.sum()), len(right)),
        flops=mean(costs.flops[answers.exits]),
        bytes_up=mean(costs.bytes_up[answers.exits, np.arange(len(labels))]),
        compute_ms=float(costs.compute_ms[answers.exits].mean()),
        leaving=tuple(leaving),
    )


def negative_log_likelihood(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean negative logarithm of the label's probability: (N, C), (N,)."""
    of_label = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(of_label, 1e-300)).mean())


def calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The expected calibration error: mean gap of confidence and accuracy over 15 equal bins.

    probabilities: (N, C); labels: (N,). Source: Naeini et al. 2015 (AAAI); Guo et al. 2017,
    arXiv 1706.04599, equation 3.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(labels))
