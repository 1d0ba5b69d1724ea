"""Two bundles of one task on the same samples: exit for exit, stage for stage.

Such as int8 stages beside the float32 ones that they were made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.errors import InvalidInput
from offramp.evaluation.cache import cached_logits
from offramp.evaluation.intervals import Estimate, share
from offramp.evaluation.stage_times import StageTime, times_in_turn

_TIMED = 1000  # samples that stages are timed on


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitPair:
    """One exit by itself, its accuracy and its stage's time in both; agreement: the same label from both."""

    accuracy: Estimate
    other_accuracy: Estimate
    agreement: float
    time: StageTime
    other_time: StageTime
    size_bytes: int  # of the stage's file
    other_size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A bundle beside another, which is named here."""

    other: str
    other_network: str
    exits: tuple[ExitPair, ...]


def beside(
    bundle: Bundle,
    other: Bundle,
    samples: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    cache: Path | None = None,
) -> Beside:
    """Both bundles on samples (N, ...) and their labels (N,); times are at batch 1, the two in turn.

    cache: as `cached_outputs` takes it. Raises InvalidInput where the
    two are not of the same classes and number of exits, or do not take these samples.
    """
    ours, theirs = bundle.manifest.network, other.manifest.network
    if (ours.classes, len(ours.stages)) != (theirs.classes, len(theirs.stages)):
        text = f"network {other.digest[:12]} is of other classes, or has another number of exits"
        raise InvalidInput("--beside", text)
    said = cached_logits(bundle, samples, cache)
    other_said = cached_logits(other, samples, cache)
    times, other_times = times_in_turn([bundle, other], samples[:_TIMED])
    exits = []
    for k, (a, b) in enumerate(zip(said, other_said, strict=True)):
        mine, its = a.argmax(1), b.argmax(1)
        exits.append(
            ExitPair(
                accuracy=share(int((mine == labels).sum()), len(labels)),
                other_accuracy=share(int((its == labels).sum()), len(labels)),
                agreement=float((mine == its).mean()),
                time=times[k],
                other_time=other_times[k],
                size_bytes=len(bundle.stage_bytes(k)),
                other_size_bytes=len(other.stage_bytes(k)),
            )
        )
    return Beside(other=other.manifest.name, other_network=other.digest, exits=tuple(exits))
