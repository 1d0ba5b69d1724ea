"""What is measured of a bundle and of the images sent to it, as plain values for the record.

Everything runs through the exported stages on onnxruntime. Logits and bytes are kept beside the
bundles, so that a second call only reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.imagenette.sending import Sending, send
from offramp.bundle import Bundle
from offramp.data import ImageSet
from offramp.evaluation.costs import flops_without_heads
from offramp.evaluation.intervals import share
from offramp.evaluation.messages import message_sizes
from offramp.evaluation.reference import answer, run_stages
from offramp.exits import ExitPolicy
from offramp.export.policy import calibrate

_BATCH = 50


class Measured(NamedTuple):
    """Of E exits and N images: logits of every exit, and bytes of each boundary's message."""

    logits: tuple[NDArray[np.float32], ...]  # E times (N, classes)
    message_bytes: NDArray[np.int64]  # (E, N), boundary 0 first


def kept(path: Path, make: Any) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file, which `make` gives where there is none yet."""
    if not path.exists():
        temporary = path.with_suffix(".part.npz")
        np.savez(temporary, **make())
        temporary.replace(path)
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def measure(bundle: Bundle, images: ImageSet, path: Path) -> Measured:
    """A bundle's answers and messages, kept at `path`."""

    def make() -> dict[str, NDArray[Any]]:
        reference = run_stages(bundle, images.images, batch=_BATCH)
        logits = {f"logits_{k}": at for k, at in enumerate(reference.logits)}
        sizes = message_sizes(bundle, images.images, reference.boundaries)
        return {**logits, "message_bytes": sizes}

    arrays = kept(path, make)
    exits = len(bundle.manifest.network.stages)
    logits = tuple(arrays[f"logits_{k}"] for k in range(exits))
    return Measured(logits, arrays["message_bytes"])


def measure_sending(
    bundle: Bundle, images: ImageSet, sending: Sending, path: Path
) -> dict[str, NDArray[Any]]:
    """The last exit's logits of images sent that way, and their bytes, kept at `path`."""

    def make() -> dict[str, NDArray[Any]]:
        sent = send(images.images, sending)
        return {
            "logits": run_stages(bundle, sent.images, batch=_BATCH).logits[-1],
            "message_bytes": sent.message_bytes,
            "without_tables": sent.without_tables,
        }

    return kept(path, make)


def accuracy_of(labels: NDArray[np.int64], truth: NDArray[np.int64]) -> dict[str, float]:
    """A share, with its 95 % interval (Wilson)."""
    found = share(int((labels == truth).sum()), len(truth))
    return {key: round(getattr(found, key), 4) for key in ("value", "low", "high")}


def device_share(bundle: Bundle) -> float:
    """Of the network's FLOPs, heads and codecs left away: what the device computes, all included."""
    costs = bundle.manifest.costs
    first = costs[0].flops + costs[0].head_flops + costs[0].codec_flops
    return round(first / sum(cost.flops for cost in costs), 4)


def _policy_of(bundle: Bundle) -> ExitPolicy:
    """The policy fitted on held-out images."""
    return next(p for p in bundle.manifest.policies if p.name == "calibrated")


def device_policy(
    device: NDArray[np.float32], cloud: NDArray[np.float32], held: ImageSet, max_drop: float
) -> ExitPolicy:
    """When the device answers itself and when it sends the image, fitted on held-out images.

    device, cloud: logits (N, classes) of its exit, and of the whole network without exits.
    """
    # What the image costs to send does not matter: with one exit, fewer sent is always less.
    return calibrate([device, cloud], held.labels, [0, 1], max_drop=max_drop).policies[0]


def features_record(bundle: Bundle, measured: Measured, truth: NDArray[np.int64]) -> dict[str, Any]:
    """Of a bundle with codecs: every exit, the cascade, and bytes up over each link."""
    answers = answer(_policy_of(bundle), measured.logits)
    up = [measured.message_bytes[k] * (answers.exits >= k) for k in (1, 2)]
    codec = bundle.manifest.network.boundaries[1].codec
    export = bundle.manifest.provenance["export"]
    return {
        "codec": None if codec is None else dict(codec),
        "packed_bytes": bundle.manifest.network.boundaries[1].size_bytes,
        "message_bytes": round(float(measured.message_bytes[1].mean()), 1),
        "second_message_bytes": round(float(measured.message_bytes[2].mean()), 1),
        "device_flops_share": device_share(bundle),
        "codec_flops_share": round(
            sum(cost.codec_flops for cost in bundle.manifest.costs)
            / flops_without_heads(bundle.manifest),
            4,
        ),
        "exits": [accuracy_of(at.argmax(1), truth) for at in measured.logits],
        "held_out_exits": [score["accuracy"] for score in export["calibration"]["exits"]],
        "cascade": {
            "accuracy": accuracy_of(answers.labels, truth),
            "shares": [round(float((answers.exits == k).mean()), 4) for k in range(3)],
            "first_link_bytes": round(float(up[0].mean()), 1),
            "both_links_bytes": round(float((up[0] + up[1]).mean()), 1),
        },
        "parity": export["parity"],
    }


def sending_record(
    sending: Sending,
    arrays: dict[str, NDArray[Any]],
    device: tuple[NDArray[np.bool_], NDArray[np.int64]],
    truth: NDArray[np.int64],
) -> dict[str, Any]:
    """Of one way to send images: all of them, and only those that the device's exit lets go on.

    device: (N,) whether it answers itself, and its labels.
    """
    leaves, device_labels = device
    cloud_labels = arrays["logits"].argmax(1)
    record: dict[str, Any] = {
        **sending._asdict(),
        "message_bytes": round(float(arrays["message_bytes"].mean()), 1),
        "accuracy": accuracy_of(cloud_labels, truth),
        "cascade": {
            "accuracy": accuracy_of(np.where(leaves, device_labels, cloud_labels), truth),
            "first_link_bytes": round(float((arrays["message_bytes"] * ~leaves).mean()), 1),
        },
    }
    if sending.media == "jpeg":
        record["without_tables"] = round(float(arrays["without_tables"].mean()), 1)
    return record
