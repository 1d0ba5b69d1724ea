"""What one sample costs on the wire: its whole message on a stream that goes on, gRPC's 5 bytes included.

Names have been said by then, and one message carries one sample; both are how a lone device sends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.rpc.messages import GRPC_PREFIX_BYTES, Sample, SampleId, write_sample
from offramp.rpc.names import NamesSaid, Origin
from offramp.rpc.payload import Payload, tensors_payload
from offramp.rpc.v1 import tier_pb2 as pb

_SEQUENCE, _TIME_LEFT_S = 5_000, 10.0  # numbers take the bytes that their size needs


def message_bytes(payload: Payload, boundary: int, *, exit_state: bytes = b"") -> int:
    """Bytes of a request that carries this payload of a boundary and nothing else."""
    sample = Sample(
        id=SampleId(Origin("device", 1), _SEQUENCE),
        boundary=boundary,
        network="",
        policy="",
        deadline=0.0,
        payload=payload,
        exit_state=exit_state,
    )
    request = pb.Request()
    write_sample(sample, request.samples.add(), NamesSaid(), _TIME_LEFT_S)
    return int(request.ByteSize()) + GRPC_PREFIX_BYTES


def with_state(sizes: NDArray[np.int64], state_bytes: int) -> NDArray[np.int64]:
    """Sizes of messages of one sample each, where the sample also carries so many bytes of exit state.

    A tag and a length stand before the state, and the length before the sample may take a byte more. Any shape.
    """
    if state_bytes == 0:
        return sizes
    framed = sizes - GRPC_PREFIX_BYTES - 1  # the length of the sample, and the sample
    sample = framed - _length_bytes(framed - _length_bytes(framed))
    grown = sample + 1 + _length_bytes(np.int64(state_bytes)) + state_bytes
    return np.asarray(sizes - framed + _length_bytes(grown) + grown)


def _length_bytes(size: NDArray[np.int64] | np.int64) -> NDArray[np.int64]:
    """What protobuf writes a length in: 7 bits a byte."""
    limits = np.array([1 << 7, 1 << 14, 1 << 21, 1 << 28], np.int64)
    return np.asarray(1 + np.searchsorted(limits, size, side="right"), np.int64)


def message_sizes(
    bundle: Bundle, inputs: NDArray[Any], boundaries: Sequence[Mapping[str, NDArray[Any]]]
) -> NDArray[np.int64]:
    """(E, N) message bytes of N samples at boundaries 0 .. E - 1, as their tensors are sent.

    inputs: (N, ...), the tensor of boundary 0; boundaries: of boundaries 1 .. E - 1, (N, ...) by
    tensor's name.
    """
    network = bundle.manifest.network
    first = network.boundaries[0].tensors[0].name
    rows = []
    for k, (boundary, tensors) in enumerate(
        zip(network.boundaries, ({first: inputs}, *boundaries), strict=True)
    ):
        arrays = [tensors[spec.name] for spec in boundary.tensors]
        payloads = (tensors_payload(of_sample, boundary) for of_sample in zip(*arrays, strict=True))
        rows.append([message_bytes(payload, k) for payload in payloads])
    return np.array(rows, np.int64)
