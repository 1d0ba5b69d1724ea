"""The form that every data set takes: images, labels, and the hash of what they were read from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.errors import InvalidInput

# How a user says where files lie; `demo` always knows.
WITH_OPTIONS = (
    "with --data (of place, train, export) or --folder (of calibrate, quantize, evaluate)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """A data set, or a part of one.

    images: (N, H, W, C) uint8; labels: (N,) int64 in [0, len(classes)); sha256: by file, of its raw
    content. Raises InvalidInput where these do not hold.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    sha256: dict[str, str]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise InvalidInput(
                "images", f"{self.images.dtype} {self.images.shape}, not uint8 (N, H, W, C)"
            )
        if self.labels.shape != (len(self.images),):
            raise InvalidInput("labels", f"{self.labels.shape} for {len(self.images)} images")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise InvalidInput("labels", f"outside the {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def samples(self) -> NDArray[np.uint8]:
        """The images, by the name that samples of any kind have."""
        return self.images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    def take(self, rows: NDArray[np.int64]) -> ImageSet:
        """The same set, these rows only."""
        return ImageSet(
            name=self.name,
            images=self.images[rows],
            labels=self.labels[rows],
            classes=self.classes,
            sha256=self.sha256,
        )


def hold_out(count: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows held out, both sorted.

    They are the same for the same three numbers on every machine.
    """
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    held = round(count * share)
    return np.sort(order[held:]), np.sort(order[:held])
