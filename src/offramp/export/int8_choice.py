"""Which arrangement of int8 a stage gets: the one that answers most like float32 on held-out samples.

    for stage 0, 1, ...:  arrangements --each as a whole bundle, run--> accuracy, agreement
                          --no exit less accurate by more than allowed
                          --the fastest that agrees as well as the best, but for chance--> the next bundle

A stage is judged by all exits from its own on, for its codes are what they work with. The stages
before it are int8 already, so that errors add up as they will. Accuracy alone would choose by
chance: on 2,000 samples two arrangements differ in a few answers. How often they say what float32
says is the same few answers, without the luck of which of them were right. But for chance: within
one standard error (Breiman et al. 1984, Classification and Regression Trees, section 3.4.3).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from offramp.bundle import Bundle, Manifest, Network, Stage, load_bundle, write_manifest
from offramp.data.unseen import Unseen
from offramp.evaluation.reference import Reference, run_stages
from offramp.export.int8_nodes import LAYERS, arrangements
from offramp.export.int8_stage import int8_stage, prepared

BATCH = 100
_RANGED = 256  # samples that ranges are taken from; with 64 the ranges of Fashion-MNIST are the same within 5 %


class Outcome(NamedTuple):
    """A bundle on N samples with known labels."""

    bundle: Bundle
    reference: Reference
    labels: NDArray[np.int64]  # (N,)

    @property
    def accuracy(self) -> list[float]:
        """Of each exit by itself."""
        return [float((at.argmax(1) == self.labels).mean()) for at in self.reference.logits]

    def agreement(self, other: Outcome) -> list[float]:
        """Of each exit by itself: the share of samples on which both give the same label."""
        pairs = zip(self.reference.logits, other.reference.logits, strict=True)
        return [float((a.argmax(1) == b.argmax(1)).mean()) for a, b in pairs]

    def codes_off(self, other: Outcome) -> list[float | None]:
        """Of each boundary behind the first: the share of codes that differ; None without a codec."""
        found: list[float | None] = []
        boundaries = self.bundle.manifest.network.boundaries[1:]
        pairs = zip(self.reference.boundaries, other.reference.boundaries, strict=True)
        for boundary, (a, b) in zip(boundaries, pairs, strict=True):
            name = boundary.tensors[0].name
            found.append(None if boundary.codec is None else float((a[name] != b[name]).mean()))
        return found


def outcome(bundle: Bundle, samples: Unseen) -> Outcome:
    """A whole bundle on labelled samples."""
    if samples.labels is None:
        raise ValueError("labels: accuracy needs them")
    return Outcome(bundle, run_stages(bundle, samples.samples, batch=BATCH), samples.labels)


def choose(
    source: Outcome, samples: Unseen, max_loss: float, folder: Path
) -> tuple[Outcome, list[dict[str, Any]]]:
    """The bundle with every stage in int8 that can be, in a folder of `folder`, and how each came about.

    source: the float32 bundle on the samples; max_loss: how far the accuracy of any exit may fall
    below its own. A stage of which no arrangement keeps to that stays float32.
    """
    found, record = source, []
    for stage in range(len(source.bundle.manifest.network.stages)):
        tried, able = {}, {}
        for what, candidate in _candidates(found, stage, samples, folder):
            accuracy, agreement = candidate.accuracy, candidate.agreement(source)
            tried[what] = {"accuracy": accuracy[stage:], "agreement": agreement[stage:]}
            loss = max(a - b for a, b in zip(source.accuracy, accuracy, strict=True))
            if loss <= max_loss:
                able[what] = float(np.mean(agreement[stage:])), candidate
        chosen = fastest_of_the_best({what: at for what, (at, _) in able.items()}, len(samples))
        if chosen is not None:
            found = able[chosen][1]
        layers = dict(zip(("int8_layers", "layers"), _layers(found.bundle, stage), strict=True))
        record.append({"arrangement": chosen or "float32", **layers, "tried": tried})
    return found, record


def fastest_of_the_best(agreement: Mapping[str, float], samples: int) -> str | None:
    """The first whose share of so many samples is within one standard error of the largest; None of none.

    >>> fastest_of_the_best({"fast": 0.991, "exact": 0.992}, 2000)
    'fast'
    >>> fastest_of_the_best({"fast": 0.980, "exact": 0.992}, 2000)
    'exact'
    """
    best = max(agreement.values(), default=0.0)
    least = best - math.sqrt(best * (1 - best) / samples)
    return next((what for what, share in agreement.items() if share >= least), None)


def _candidates(
    before: Outcome, stage: int, samples: Unseen, folder: Path
) -> Iterator[tuple[str, Outcome]]:
    """Every arrangement of one stage, as a bundle that has been run."""
    network = before.bundle.manifest.network
    ready = prepared(before.bundle.stage_bytes(stage))
    given = _inputs(before, stage, samples)
    taken = [tensor.name for tensor in network.boundaries[stage].tensors]
    is_narrow = stage == 0 or network.boundaries[stage].codec is not None
    ways = arrangements(ready.graph, taken, _exact(network, stage), is_narrow=is_narrow)
    for k, (what, nodes) in enumerate(ways):
        model = int8_stage(ready, nodes, given)
        bundle = _with_stage(before.bundle, stage, model, folder / f"{stage}-{k}")
        yield what, outcome(bundle, samples)


def _inputs(before: Outcome, stage: int, samples: Unseen) -> Mapping[str, NDArray[Any]]:
    """What the stage is given, of some samples from all over."""
    every = max(1, len(samples) // _RANGED)
    if stage == 0:
        name = before.bundle.manifest.network.takes.name
        return {name: samples.samples[::every]}
    tensors = before.reference.boundaries[stage - 1]
    return {name: tensor[::every] for name, tensor in tensors.items()}


def _exact(network: Network, stage: int) -> list[str]:
    """The stage's outputs that eight bits would spoil: what decides, and codes."""
    own = network.stages[stage]
    found = [own.logits] if own.gate is None else [own.logits, own.gate]
    if stage + 1 < len(network.stages):
        following = network.boundaries[stage + 1]
        if following.codec is not None:
            found += [tensor.name for tensor in following.tensors]
    return found


def _with_stage(bundle: Bundle, stage: int, model: onnx.ModelProto, folder: Path) -> Bundle:
    """The same bundle with another file for one stage, in a new folder; without certificates."""
    folder.mkdir()
    stages = list(bundle.manifest.network.stages)
    for k in bundle.held:
        path = bundle.stage_path(k)
        if k != stage:
            (folder / path.name).symlink_to(path.resolve())
    content = model.SerializeToString()
    (folder / stages[stage].file).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    fields = dict(stages[stage]) | {"sha256": digest, "arithmetic": "int8"}
    stages[stage] = Stage(**fields)
    network = Network(**(dict(bundle.manifest.network) | {"stages": tuple(stages)}))
    changed = {"network": network, "certificates": ()}
    write_manifest(folder, Manifest(**(dict(bundle.manifest) | changed)))
    return load_bundle(folder)


def _layers(bundle: Bundle, stage: int) -> tuple[int, int]:
    """How many of a stage's layers (convolutions, matrix products) are int8, and how many there are.

    In the QDQ form a layer is int8 where what it takes was widened from 8 bits.
    """
    graph = onnx.load_model_from_string(bundle.stage_bytes(stage)).graph
    widened = {o for node in graph.node if node.op_type == "DequantizeLinear" for o in node.output}
    layers = [node for node in graph.node if node.op_type in LAYERS]
    return sum(set(node.input[:2]) <= widened for node in layers), len(layers)
