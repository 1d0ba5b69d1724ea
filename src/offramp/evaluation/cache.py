"""What all stages say of a set of inputs, computed once for a network.

    bundle, inputs -> NETWORK-INPUTS.npz there and sound? -> its content
                                 | no
                              run_stages -> the file, for the next time

A file is named by the network digest and the hash of the inputs, and says both in full. One that is
broken, or is another pair's, is computed again.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle, Network
from offramp.errors import InvalidInput
from offramp.evaluation.messages import message_sizes
from offramp.evaluation.reference import run_stages

CACHE = Path("~/.cache/offramp/logits")
_FORM = 1  # of a file's content
BATCH = 100
_PIECE = 20 * BATCH  # inputs between two calls of `watch`
_BROKEN = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)

Logits = tuple[NDArray[np.float32], ...]


class Outputs(NamedTuple):
    """Logits and gates of every exit, and what each sample would cost on the wire at every boundary."""

    logits: Logits  # E times (N, classes)
    gates: tuple[NDArray[np.float32] | None, ...]  # E times (N,); None where a stage has none
    message_bytes: NDArray[np.int64]  # (E, N): at boundary k; whole messages, one sample each


Watch = Callable[[int], None]


def inputs_sha256(inputs: NDArray[Any]) -> str:
    """SHA-256 (hex) of an array: its dtype and shape, then its content in row-major order."""
    digest = hashlib.sha256(f"{inputs.dtype.str} {inputs.shape} ".encode())
    digest.update(np.ascontiguousarray(inputs).data)
    return digest.hexdigest()


def cached_outputs(
    bundle: Bundle,
    inputs: NDArray[Any],
    folder: Path | None = None,
    *,
    watch: Watch = lambda _done: None,
) -> Outputs:
    """All that is kept of inputs (N, ...) as boundary 0 takes them.

    folder: where it is kept; CACHE by default, made where it is not there. watch: hears how many
    inputs are done. Raises InvalidInput where the folder cannot be written or the inputs do not fit
    the network; InvalidBundle where the bundle lacks stages.
    """
    check_inputs(bundle, inputs)
    network, data = bundle.digest, inputs_sha256(inputs)
    names = f"{_FORM} {network} {data} {BATCH}"
    path = (folder or CACHE).expanduser() / f"{network[:16]}-{data[:16]}.npz"
    found = _read(path, names, bundle.manifest.network, len(inputs))
    if found is None:
        found = _compute(bundle, inputs, watch)
        _write(path, names, found)
    watch(len(inputs))
    return found


def cached_logits(bundle: Bundle, inputs: NDArray[Any], folder: Path | None = None) -> Logits:
    """Logits of every exit, E times (N, classes); otherwise as `cached_outputs`."""
    return cached_outputs(bundle, inputs, folder).logits


def check_inputs(bundle: Bundle, inputs: NDArray[Any]) -> None:
    """Pass where there are inputs and boundary 0 takes them. Raises InvalidInput saying what it takes."""
    spec = bundle.manifest.network.boundaries[0].tensors[0]
    if inputs.shape[1:] != spec.shape or inputs.dtype != np.dtype(spec.dtype):
        wanted = f"{spec.dtype} {list(spec.shape)}, what network {bundle.digest[:12]} takes"
        raise InvalidInput("data", f"{inputs.dtype} {list(inputs.shape[1:])} each, not {wanted}")
    if len(inputs) == 0:
        raise InvalidInput("data", "holds no samples")


def _compute(bundle: Bundle, inputs: NDArray[Any], watch: Watch) -> Outputs:
    logits, gates, sizes = [], [], []
    for start in range(0, len(inputs), _PIECE):
        watch(start)
        piece = inputs[start : start + _PIECE]
        reference = run_stages(bundle, piece, batch=BATCH)
        logits.append(reference.logits)
        gates.append([gate for gate in reference.gates if gate is not None])
        sizes.append(message_sizes(bundle, piece, reference.boundaries))
    whole = iter([np.concatenate(of_exit) for of_exit in zip(*gates, strict=True)])
    return Outputs(
        tuple(np.concatenate(of_exit) for of_exit in zip(*logits, strict=True)),
        tuple(next(whole) if stage.gate else None for stage in bundle.manifest.network.stages),
        np.concatenate(sizes, axis=1),
    )


def _read(path: Path, names: str, network: Network, count: int) -> Outputs | None:
    """The content of a sound file; None for none, and for one that is broken or another's."""
    if not path.exists():
        return None
    exits = range(len(network.stages))
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["names"]) != names:
                return None
            found = Outputs(
                tuple(arrays[f"logits_{k}"] for k in exits),
                tuple(arrays[f"gate_{k}"] if network.stages[k].gate else None for k in exits),
                arrays["message_bytes"],
            )
    except _BROKEN:
        return None
    sound = (
        all(at.shape == (count, len(network.classes)) for at in found.logits)
        and all(gate is None or gate.shape == (count,) for gate in found.gates)
        and found.message_bytes.shape == (len(exits), count)
    )
    return found if sound else None


def _write(path: Path, names: str, found: Outputs) -> None:
    """The file in place at once, so that an interruption leaves none that is broken."""
    arrays: dict[str, Any] = {f"logits_{k}": at for k, at in enumerate(found.logits)}
    arrays |= {f"gate_{k}": at for k, at in enumerate(found.gates) if at is not None}
    arrays["message_bytes"] = found.message_bytes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            np.savez(file, names=np.array(names), **arrays)
        temporary.replace(path)
    except OSError as exc:
        raise InvalidInput("--cache", f"{path.parent} cannot be written: {exc.strerror}") from exc
