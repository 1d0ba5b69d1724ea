"""Samples that are no images: windows of a signal, sequences of features, token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSet:
    """What ImageSet is for images, of raw tensors.

    samples: (N, ...) of any dtype that travels; labels: (N,) int64 in [0, len(classes)); sha256: by
    file, of its raw content. Raises InvalidInput where these do not hold.
    """

    name: str
    samples: NDArray[Any]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    sha256: dict[str, str]

    def __post_init__(self) -> None:
        if self.labels.shape != self.samples.shape[:1]:
            raise InvalidInput("labels", f"{self.labels.shape} for samples {self.samples.shape}")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise InvalidInput("labels", f"outside the {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.labels)
