"""Exit policies fitted on samples that training did not see: temperatures first, then thresholds.

    logits --(temperature per exit)--> confidence --(least cost within the drop)--> thresholds

The policies that need no threshold, `final-exit` and `first-exit`, are the baselines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.exits import ExitPolicy, ExitSetting, fit_temperature, fit_thresholds
from offramp.exits.confidence import softmax

RULE = "max-probability"


class Calibration(NamedTuple):
    """Fitted policies, the default first, and what they gave on the samples they were fitted on."""

    policies: tuple[ExitPolicy, ...]
    record: dict[str, Any]


def constant_policies(temperatures: Sequence[float]) -> tuple[ExitPolicy, ExitPolicy]:
    """`final-exit` (all early exits off) and `first-exit` (nobody goes on): nothing to fit."""
    off = [ExitSetting(on=False, temperature=t) for t in temperatures[:-1]]
    last = ExitSetting(temperature=temperatures[-1])
    early = [ExitSetting(temperature=t, threshold=0.0) for t in temperatures[:-1]]
    return (
        ExitPolicy(name="final-exit", rule=RULE, exits=(*off, last)),
        ExitPolicy(name="first-exit", rule=RULE, exits=(*early, last)),
    )


def _score(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float
) -> dict[str, float]:
    """Accuracy of one exit, and its negative log-likelihood before and after the temperature."""
    rows = np.arange(len(labels))
    likelihood = {
        key: float(-np.log(np.maximum(softmax(logits, t)[rows, labels], 1e-300)).mean())
        for key, t in (("loss", 1.0), ("calibrated_loss", temperature))
    }
    accuracy = float((logits.argmax(1) == labels).mean())
    return {key: round(value, 6) for key, value in ({"accuracy": accuracy} | likelihood).items()}


def calibrate(
    logits: Sequence[NDArray[np.float32]],
    labels: NDArray[np.int64],
    boundary_bytes: Sequence[int],
    *,
    max_drop: float,
) -> Calibration:
    """Policies `calibrated` (the default), `final-exit` and `first-exit`.

    logits: E times (N, classes), of samples that training did not see; labels: (N,);
    boundary_bytes: of boundaries 0 .. E - 1. Leaving at exit k costs the bytes of boundaries 1 ..
    k, which have gone up by then. max_drop: how far the accuracy may fall below the last exit's, a
    share. Raises ValueError where shapes differ or it is below 0.
    """
    temperatures = [fit_temperature(at_exit, labels) for at_exit in logits]
    final, first = constant_policies(temperatures)
    confidence = np.stack([final.decide(k, at).confidence for k, at in enumerate(logits)])
    correct = np.stack([at.argmax(1) == labels for at in logits])
    cost = np.cumsum([0, *boundary_bytes[1:]])
    fitted = fit_thresholds(confidence, correct, cost, max_drop=max_drop)
    settings = [
        ExitSetting(temperature=t, threshold=threshold)
        for t, threshold in zip(temperatures, fitted.thresholds, strict=False)
    ]
    last = ExitSetting(temperature=temperatures[-1])
    record = {
        "samples": len(labels),
        "exits": [
            _score(at, labels, t) | {"temperature": t}
            for at, t in zip(logits, temperatures, strict=True)
        ],
        "thresholds": {"max_drop": max_drop, **fitted._asdict()},
    }
    calibrated = ExitPolicy(name="calibrated", rule=RULE, exits=(*settings, last))
    return Calibration((calibrated, final, first), record)
