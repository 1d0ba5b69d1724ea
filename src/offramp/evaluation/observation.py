"""What calibration looks at: the bundle's own stages, run on unseen samples, and what leaving at each exit costs.

samples --all stages, piece by piece--> logits, gates --+
                                    --> messages' bytes --+--> Observed
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle, Manifest
from offramp.evaluation.calibration import Observed
from offramp.evaluation.costs import bytes_to_leave, cuts, flops_to_leave, flops_without_heads
from offramp.evaluation.messages import message_sizes, with_state
from offramp.evaluation.reference import Reference, run_stages

Unit = Literal["flops", "bytes"]
UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
_BATCH, _PIECE = 100, 2000  # boundaries are not kept from one piece to the next


def observe(
    bundle: Bundle,
    samples: NDArray[Any],
    labels: NDArray[np.int64] | None,
    unit: Unit,
    *,
    state_bytes: int = 0,
) -> Observed:
    """What all exits say of samples (N, ...), with the cost of leaving at each in FLOPs or bytes up.

    Bytes are those of whole messages over the two links of a device that runs stage 0, a fog node
    that runs stage 1 and a cloud that runs the rest. state_bytes: what the policy makes a sample
    carry from exit to exit. Raises InvalidBundle where the bundle lacks stages.
    """
    pieces, sizes = [], []
    for piece, reference in _references(bundle, samples):
        pieces.append((reference.logits, reference.gates))
        if unit == "bytes":
            sizes.append(message_sizes(bundle, piece, reference.boundaries))
    logits, gates = zip(*pieces, strict=True)
    return Observed(
        logits=tuple(np.concatenate(at_exit) for at_exit in zip(*logits, strict=True)),
        cost=_costs(bundle.manifest, len(samples), sizes, state_bytes),
        labels=labels,
        gates=tuple(
            None if at_exit[0] is None else np.concatenate(at_exit)
            for at_exit in zip(*gates, strict=True)
        ),
    )


def whole_cost(manifest: Manifest, observed: Observed, unit: Unit) -> float:
    """What a share of the cost is a share of.

    FLOPs of the network without its early exits' heads; mean bytes up of the plain split, in which nobody leaves early.
    """
    return float(flops_without_heads(manifest) if unit == "flops" else observed.cost[-1].mean())


def _references(bundle: Bundle, samples: NDArray[Any]) -> Iterator[tuple[NDArray[Any], Reference]]:
    for start in range(0, len(samples), _PIECE):
        piece = samples[start : start + _PIECE]
        yield piece, run_stages(bundle, piece, batch=_BATCH)


def _costs(
    manifest: Manifest, count: int, sizes: list[NDArray[np.int64]], state_bytes: int
) -> NDArray[np.float64]:
    """(E, N): FLOPs where no sizes of messages are given, else bytes."""
    if not sizes:
        flops = flops_to_leave(manifest).astype(np.float64)
        return np.repeat(flops[:, None], count, axis=1)
    messages = np.concatenate(sizes, axis=1)
    messages[1:] = with_state(messages[1:], state_bytes)
    return bytes_to_leave(messages, cuts(len(messages))).astype(np.float64)
