"""What one network of the wire benchmark scores: accuracy of its exits, and bytes of the messages that reach it.

A message carries one sample on a stream whose names were said: the request as it is serialised, and gRPC's 5 bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray

from benchmarks.wire_runs import Variant
from offramp.bundle import Boundary, Codec
from offramp.data import ImageSet
from offramp.evaluation.messages import message_bytes
from offramp.export.cost import stage_costs
from offramp.models import ExitNetwork, ExitOutputs
from offramp.rpc.payload import EncodedImage, Payload, TensorBytes, tensors_payload
from offramp.training import Run
from offramp.training.run import held_out, load_split
from offramp.wire import Coding, TensorSpec, encode_image

_BATCH = 500
_ZSTD_LEVEL = 19
_TIMED = 500  # samples whose coding is timed
Found = dict[str, Any]


def passes(
    network: ExitNetwork, images: NDArray[np.uint8], given: Iterator[torch.Tensor] | None = None
) -> Iterator[ExitOutputs]:
    """The network's outputs, a batch at a time; `given` takes the place of the first boundary's features."""
    for start in range(0, len(images), _BATCH):
        inputs = torch.from_numpy(images[start : start + _BATCH])
        with torch.inference_mode():
            yield network(inputs, None if given is None else {1: next(given)})


def accuracies(outputs: Iterable[ExitOutputs], labels: NDArray[np.int64]) -> list[float]:
    """Of every exit."""
    right = [torch.stack([logits.argmax(1) for logits in one.logits], 1).numpy() for one in outputs]
    found: list[float] = (np.concatenate(right) == labels[:, None]).mean(0).round(4).tolist()
    return found


def _sizes(payloads: Iterable[Payload], boundary: int) -> Found:
    sizes = [message_bytes(payload, boundary) for payload in payloads]
    return {"message_bytes": round(float(np.mean(sizes)), 2), "largest_bytes": max(sizes)}


def _held_out_bytes(codes: NDArray[np.uint8], boundary: Boundary) -> Found:
    sizes = _sizes((tensors_payload([sample], boundary) for sample in codes), 1)
    return {"held_out_bytes": sizes["message_bytes"]}


def device_share(network: ExitNetwork) -> float:
    """FLOPs of stage 0, its head and the encoder behind it, as a share of the network's without its early heads."""
    costs = stage_costs(network, (1,) * network.exit_count)
    here = costs[0].flops + costs[0].head_flops + costs[0].codec_flops
    total = sum(cost.flops + cost.codec_flops for cost in costs)
    return round(here / total, 4)


def codec_forms(network: ExitNetwork, held: ImageSet, test: ImageSet) -> dict[str, Found]:
    """The codes packed and entropy-coded, tables fitted to the held-out images; microseconds a sample."""
    codec = network.codec(1)
    if codec is None:
        raise ValueError("network: has no codec at boundary 1")
    spec = codec.spec
    fitted, codes = (
        np.concatenate(
            [c.numpy() for one in passes(network, part.images) for c in one.codes if c is not None]
        )
        for part in (held, test)
    )
    boundary = Boundary(
        tensors=(TensorSpec(name="codes_1", dtype="uint8", shape=codes.shape[1:], bits=spec.bits),),
        codec=Codec(channels=spec.channels, bits=spec.bits, stride=spec.stride),
    )
    coding = Coding.fitted(fitted, spec.bits)
    coded = Boundary(**{**dict(boundary), "coding": coding})
    began = time.process_time()
    written = [coding.encode(sample) for sample in codes[:_TIMED]]
    between = time.process_time()
    for data in written:
        coding.decode(data, codes.shape[1:], "codes")
    ended = time.process_time()
    per_sample = 1e6 / len(written)
    return {
        "packed": _sizes((tensors_payload([sample], boundary) for sample in codes), 1)
        | _held_out_bytes(fitted, boundary),
        "entropy-coded": _sizes((tensors_payload([sample], coded) for sample in codes), 1)
        | _held_out_bytes(fitted, coded)
        | {
            "encode_us": round((between - began) * per_sample),
            "decode_us": round((ended - between) * per_sample),
        },
    }


def feature_forms(network: ExitNetwork, held: ImageSet, test: ImageSet) -> dict[str, Found]:
    """The first boundary itself: float32; 8 bits over the range of the held-out images, as it is and under zstd."""
    top = max(float(one.features[0][0].max()) for one in passes(network, held.images))
    low = min(float(one.features[0][0].min()) for one in passes(network, held.images))
    step = (top - low) / 255
    zstd = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
    codes = [
        ((one.features[0][0] - low) / step).round().clamp(0, 255).to(torch.uint8)
        for one in passes(network, test.images)
    ]
    every = np.concatenate([part.numpy() for part in codes])
    shape = every.shape[1:]
    as_float = (TensorBytes(bytes(4 * int(np.prod(shape)))),)
    given = (part.float() * step + low for part in codes)
    int8 = accuracies(passes(network, test.images, given), test.labels)
    return {
        "float32": _sizes([as_float], 1),
        "int8": _sizes([(TensorBytes(every[0].tobytes()),)], 1) | {"test": int8},
        "int8, zstd": _sizes(((TensorBytes(zstd.compress(one.tobytes())),) for one in every), 1)
        | {"test": int8},
    }


def _scan(data: bytes) -> bytes:
    """A JPEG without what is the same in all of one quality and size: all before its scan, and the end marker."""
    start = data.index(b"\xff\xda")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    return data[start + 2 + length : -2]


def image_forms(images: NDArray[np.uint8], media_type: str, quality: int) -> dict[str, Found]:
    """The image itself, encoded from the set as it is; a JPEG without its header goes without its media type too."""
    files = [encode_image(image, media_type, quality=quality) for image in images]
    forms = {"file": _sizes((EncodedImage(data, media_type) for data in files), 0)}
    if media_type == "image/jpeg":
        headers = {data[: len(data) - len(_scan(data)) - 2] for data in files}
        if len(headers) != 1:
            raise ValueError(f"{media_type}: {len(headers)} headers, not one")
        forms["without header"] = _sizes((EncodedImage(_scan(data), "") for data in files), 0)
    return forms


def score(variant: Variant, run: Run, original: NDArray[np.uint8], data: Path) -> Found:
    """Accuracy of every exit on held-out and test images, forms of the message, and the device's share of FLOPs.

    original: the test images before any encoding that the variant asks for.
    """
    network, recipe = run.network, run.recipe
    held, test = held_out(recipe, data), load_split(recipe, "test", data)
    found: Found = {
        "name": variant.name,
        "recipe": {
            "codec": variant.codec,
            "media_type": variant.media_type,
            "quality": variant.quality,
        },
        "held_out": accuracies(passes(network, held.images), held.labels),
        "test": accuracies(passes(network, test.images), test.labels),
        "device_share": device_share(network),
        "weights_from": run.provenance["weights_from"]["sha256"],
        "sha256": held.sha256 | test.sha256,
    }
    if variant.codec:
        found["forms"] = codec_forms(network, held, test)
    elif variant.media_type:
        found["forms"] = image_forms(original, variant.media_type, variant.quality)
    else:
        found["forms"] = feature_forms(network, held, test) | {
            "PNG": image_forms(original, "image/png", 0)["file"]
        }
    return found
