"""Batches of uint8 images, cut from memory and augmented a whole batch at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from offramp.data import ImageSet
from offramp.training.recipe import Data


def shift(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Each image moved by up to `reach` pixels both ways, black where nothing was.

    (N, H, W, C) -> the same.
    """
    count, height, width, _ = images.shape
    padded = torch.nn.functional.pad(images, (0, 0, reach, reach, reach, reach))
    top, left = torch.randint(0, 2 * reach + 1, (2, count), generator=generator)
    rows = (top[:, None] + torch.arange(height))[:, :, None]  # (N, H, 1)
    columns = (left[:, None] + torch.arange(width))[:, None, :]  # (N, 1, W)
    return padded[torch.arange(count)[:, None, None], rows, columns]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Every second image mirrored, by chance: (N, H, W, C) -> the same."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(2), images)


def erase(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A rectangle of noise, 2 to 25 % of the area, in that share of the images.

    Source: Zhong et al. 2017, arXiv 1708.04896.
    """
    count, height, width, _ = images.shape
    chance, area, ratio, top, left = torch.rand(5, count, generator=generator)
    side = ((0.02 + 0.23 * area) * height * width).sqrt()
    stretch = torch.exp((ratio - 0.5) * 1.6)
    tall, wide = (side * stretch).clamp(max=height), (side / stretch).clamp(max=width)
    row0, column0 = top * (height - tall), left * (width - wide)
    rows, columns = torch.arange(height)[None, :], torch.arange(width)[None, :]
    in_rows = (rows >= row0[:, None]) & (rows < (row0 + tall)[:, None])
    in_columns = (columns >= column0[:, None]) & (columns < (column0 + wide)[:, None])
    inside = in_rows[:, :, None] & in_columns[:, None, :] & (chance < share)[:, None, None]
    noise = torch.randint(0, 256, images.shape, generator=generator, dtype=torch.uint8)
    return torch.where(inside[..., None], noise, images)


class Batches:
    """An epoch's batches (images, labels).

    With `augment` they are shuffled and varied, anew each epoch, from seed and epoch alone. Of
    several processes that train together, each takes its share of every such batch.
    """

    def __init__(
        self, images: ImageSet, size: int, *, augment: Data | None = None, seed: int = 0
    ) -> None:
        self._images = torch.from_numpy(images.images)
        self._labels = torch.from_numpy(images.labels)
        self._size, self._augment, self._seed = size, augment, seed
        self.epoch = 0
        self.rank, self.processes = 0, 1

    def __len__(self) -> int:
        """Batches an epoch; a training epoch drops its last, incomplete one."""
        count = len(self._labels)
        return count // self._size if self._augment else -(-count // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self._seed * 100_003 + self.epoch)
        count = len(self._labels)
        order = torch.randperm(count, generator=generator) if self._augment else torch.arange(count)
        for k in range(len(self)):
            rows = order[k * self._size : (k + 1) * self._size]
            if self._augment:
                rows = rows[self.rank :: self.processes]
            images, labels = self._images[rows], self._labels[rows]
            if self._augment:
                images = self._varied(images, self._augment, generator)
            yield images, labels

    @staticmethod
    def _varied(images: Tensor, augment: Data, generator: torch.Generator) -> Tensor:
        if augment.flip:
            images = flip(images, generator)
        if augment.shift:
            images = shift(images, augment.shift, generator)
        if augment.erase:
            images = erase(images, augment.erase, generator)
        return images
