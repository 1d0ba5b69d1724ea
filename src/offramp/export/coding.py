"""Tables for entropy coding, fitted to the codes that held-out samples have at each boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Boundary, Network
from offramp.wire import Coding, pack

_WEIGHED = 500  # samples whose bytes are averaged for the record


def fit_coding(
    network: Network, boundaries: Sequence[Mapping[str, NDArray[Any]]]
) -> tuple[Network, dict[str, dict[str, float]]]:
    """The network with tables at every boundary that has a codec, and what they bring.

    boundaries: 1 .. E - 1 of the held-out samples, (N, ...) by tensor, as `run_stages` gives them.
    The record says, by boundary, the bytes of a sample packed, and coded on average over the first
    samples that the tables were fitted to.
    """
    fitted, record = [network.boundaries[0]], {}
    for k, (boundary, tensors) in enumerate(
        zip(network.boundaries[1:], boundaries, strict=True), start=1
    ):
        if boundary.codec is None:
            fitted.append(boundary)
            continue
        spec = boundary.tensors[0]
        codes = tensors[spec.name]
        coding = Coding.fitted(codes, spec.bits)
        sizes = [len(pack(sample, spec, coding)) for sample in codes[:_WEIGHED]]
        fitted.append(Boundary(**{**dict(boundary), "coding": coding}))
        record[f"boundary_{k}"] = {
            "packed_bytes": spec.size_bytes,
            "mean_bytes": round(float(np.mean(sizes)), 2),
        }
    return Network(**{**dict(network), "boundaries": tuple(fitted)}), record
