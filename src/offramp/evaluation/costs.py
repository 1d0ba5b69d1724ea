"""What it costs to leave at each exit: FLOPs computed, bytes sent up.

Leaving at exit k costs every stage up to k with its head and its codecs, and a message at every cut
between tiers before k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Manifest


def flops_to_leave(manifest: Manifest) -> NDArray[np.int64]:
    """(E,) FLOPs of one sample that leaves at each exit: layers, heads and codecs on the way."""
    costs = manifest.costs
    return np.cumsum([cost.flops + cost.head_flops + cost.codec_flops for cost in costs])


def flops_without_heads(manifest: Manifest) -> int:
    """FLOPs of the same network without early exits: all layers and codecs, no head.

    A network that is never cut needs no codecs either; `flops_of_codecs` is what it would be less.
    """
    return sum(cost.flops + cost.codec_flops for cost in manifest.costs)


def flops_of_codecs(manifest: Manifest) -> int:
    """FLOPs of all codecs, whether or not their boundaries cross a link: they are computed all the same."""
    return sum(cost.codec_flops for cost in manifest.costs)


def cuts(stages: int) -> tuple[int, ...]:
    """The boundaries that cross a link where the device runs stage 0, the fog stage 1, the cloud the rest."""
    return tuple(range(1, min(stages, 3)))


def bytes_to_leave(message_bytes: NDArray[np.int64], crossed: Sequence[int]) -> NDArray[np.int64]:
    """(E, N) bytes up, over all links, of N samples that leave at each exit.

    message_bytes: (E, N) of each boundary's message; crossed: the boundaries that cross a link.
    """
    links = np.zeros_like(message_bytes)
    links[list(crossed)] = message_bytes[list(crossed)]
    return np.cumsum(links, axis=0)
