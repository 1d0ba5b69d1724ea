"""The network of the serving benchmark: one set of ONNX files and inputs for every system.

    W1   image (3, 32, 32) float32 -> the whole network -> logits                    runs/serving/w1
    W2   image -> stage 0 -> exit 0 | codes -> stage 1 -> exit 1 | codes -> stage 2  runs/serving/w2

A residual network for CIFAR images: blocks of 16, 32 and 64 channels, two, three and four of them (341,786 parameters;
He et al. 2015, arXiv 1512.03385, section 4.2, with 1x1 convolutions in the shortcuts). Its weights are random and its
inputs are noise: what a request costs depends on neither. So that all systems do the same work at three tiers, the
pool has 64 inputs of which 35, 16 and 13 leave at exits 0, 1 and 2 (55, 25 and 20 %): those were taken from many
for being clearly on their side of a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle, Manifest, load_bundle
from offramp.bundle.rewriting import rewrite
from offramp.evaluation.reference import run_stages
from offramp.exits import ExitPolicy, ExitSetting
from offramp.exits.confidence import softmax

FOLDER = Path("runs/serving")
SEED = 5
POOL = 64
LEAVING = (35, 16, 13)  # 55, 25 and 20 % of the pool
_CANDIDATES = 2048
_SHAPE = (3, 32, 32)
_CLASSES = 10
_CODE_CHANNELS = 8  # of 8 bits, so that codes are as long packed as they are in a plain array


class Prepared(NamedTuple):
    """What the systems are given: the bundles of W1 and W2, and the pool.

    images: (64, 3, 32, 32) float32; exits: (64,) int64, where each leaves in W2.
    """

    one: Path
    three: Path
    images: NDArray[np.float32]
    exits: NDArray[np.int64]

    @property
    def model(self) -> Path:
        """The one ONNX file of W1."""
        return self.one / "stage0.onnx"


def candidates(count: int, seed: int) -> NDArray[np.float32]:
    """Noise of many kinds of brightness, contrast and coarseness, so that the exits differ: (count, 3, 32, 32)."""
    chance = np.random.default_rng(seed)
    fine = chance.normal(size=(count, *_SHAPE))
    coarse = chance.normal(size=(count, 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    mixed, contrast = chance.uniform(size=(2, count, 1, 1, 1))
    level = chance.normal(size=(count, 3, 1, 1))
    noise = mixed * fine + (1 - mixed) * 2 * coarse
    return np.asarray(2 * contrast * noise + level, np.float32)


def confidences(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The largest probability of each sample: (N, classes) -> (N,)."""
    return np.asarray(softmax(logits, 1.0).max(1), np.float64)


def choose(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[float, float]]:
    """A pool with fixed exits: places among the candidates, the exit of each, thresholds of exits 0 and 1.

    first, second: (N,) confidences at exits 0 and 1. Those that leave at exit 0 are the surest there, those that leave
    at exit 2 the least sure at exit 1 of the unsure half; each threshold lies midway between the nearest of both sides.
    """
    by_first = np.argsort(first, kind="stable")
    unsure, sure = by_first[: len(first) // 2], by_first[-LEAVING[0] :]
    by_second = unsure[np.argsort(second[unsure], kind="stable")]
    middle, last = by_second[-LEAVING[1] :], by_second[: LEAVING[2]]
    going_on = np.concatenate((middle, last))
    thresholds = (
        float(first[sure].min() + first[going_on].max()) / 2,
        float(second[middle].min() + second[last].max()) / 2,
    )
    places = np.concatenate((sure, middle, last))
    return places, np.repeat(np.arange(3), LEAVING), thresholds


def _write(folder: Path, exits: Sequence[str]) -> Bundle:
    """A bundle of the network with exits at the named submodules."""
    import torch

    from offramp.data import TensorSet
    from offramp.export.bundle import Exporting, write_bundle
    from offramp.models import CodecSpec, ExitAt, HeadSpec, SmallResNet, attach
    from offramp.wire import TensorSpec

    torch.manual_seed(SEED)
    widths = (16,) * 2 + (32,) * 3 + (64,) * 4
    strides = (1, 1, 2, 1, 1, 2, 1, 1, 1)
    backbone = SmallResNet(channels=3, classes=_CLASSES, stem=16, widths=widths, strides=strides)
    places = [
        ExitAt(at=at, head=HeadSpec(kind="pool"), codec=CodecSpec(channels=_CODE_CHANNELS, bits=8))
        for at in exits
    ]
    takes = TensorSpec(name="image", dtype="float32", shape=_SHAPE)
    network = attach(backbone, places, prepare=None, takes=takes).eval()
    held = TensorSet(
        name="noise",
        samples=candidates(128, SEED + 1),
        labels=np.arange(128) % _CLASSES,
        classes=tuple(str(k) for k in range(_CLASSES)),
        sha256={},
    )
    named = Exporting(name=folder.name, command="python -m benchmarks.serving")
    return write_bundle(network, folder, held, named)


def _fixed(bundle: Bundle, thresholds: tuple[float, float]) -> Bundle:
    """The bundle with one policy of these thresholds, named `fixed`, before its others."""
    settings = [ExitSetting(threshold=threshold) for threshold in thresholds]
    policy = ExitPolicy(name="fixed", exits=(*settings, ExitSetting()))

    def first(manifest: Manifest) -> Manifest:
        others = tuple(old for old in manifest.policies if old.name != policy.name)
        return Manifest(**(dict(manifest) | {"policies": (policy, *others)}))

    return rewrite(bundle, first)


def _spread(bundle: Bundle) -> None:
    """Write the pool, its exits and the thresholds beside a bundle of three stages, and into its policy."""
    drawn = candidates(_CANDIDATES, SEED)
    logits = run_stages(bundle, drawn, batch=64).logits
    places, exits, thresholds = choose(confidences(logits[0]), confidences(logits[1]))
    order = np.random.default_rng(SEED).permutation(POOL)
    _fixed(bundle, thresholds)
    np.savez(FOLDER / "pool.npz", images=drawn[places][order], exits=exits[order])


def prepare() -> Prepared:
    """The files under runs/serving, made where they are not there (that needs the extra `train`)."""
    one, three = FOLDER / "w1", FOLDER / "w2"
    if not (FOLDER / "pool.npz").exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        if not one.exists():
            _write(one, ())
        _spread(load_bundle(three) if three.exists() else _write(three, ("blocks.1", "blocks.4")))
    pool = np.load(FOLDER / "pool.npz")
    return Prepared(one, three, pool["images"], pool["exits"])
