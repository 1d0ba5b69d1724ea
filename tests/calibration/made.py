"""Images whose exits err in a known way, for the bundle "scores" of tests/serving/toy.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

COUNT, HELD = 3000, 0.4  # training images in all, and the share held out
BOUND = ("--max-drop", "0.02")
Calibrate = Callable[..., tuple[int, Any]]


def images_of(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images for "scores" whose exits err less the deeper they are and the surer they are, and their labels."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 3, count)
    images = np.zeros((count, 4, 4, 1), np.uint8)
    images[:, 3] = chance.integers(0, 256, (count, 4, 1))  # no stage looks there: each its own
    for k, doubt in enumerate((0.6, 0.3, 0.05)):
        margin = chance.integers(1, 10, count)
        wrong = chance.uniform(size=count) < doubt * (10 - margin) / 20
        shown = np.where(wrong, (labels + 1) % 3, labels)
        images[np.arange(count), k, shown, 0] = 16 * margin
    return images, labels


def one_line(said: str) -> str:
    """What the command said, which is one line."""
    assert said.startswith("offramp: ")
    assert said.count("\n") == 1
    return said
