"""The networks of `python -m benchmarks.parity --zoo`: a line of table each, and no code for any of them.

Two are of this project's zoo, the others of packages; one has published weights. What a network is asked about is made
of CIFAR-10 images, enlarged where it wants more pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.models.zoo import CifarResNet, MSDNet, RecurrentClassifier

WEIGHTS = "weights/resnet56-4bfd9763.th"
CLASSES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One network: where its code and weights come from, how to get it, and the submodules of its exits.

    size: of its images, the CIFAR-10 ones with each pixel repeated; 0: an image's rows as a sequence of float32.
    samples: how many.
    """

    name: str
    origin: str
    build: Callable[[Path], nn.Module]
    exits: tuple[str, str]
    size: int = 32
    samples: int = 96
    trained: bool = False


def _resnet56(folder: Path) -> nn.Module:
    network = CifarResNet(channels=3, classes=CLASSES, depth=56)
    weights = torch.load(folder / WEIGHTS, weights_only=True, map_location="cpu")["state_dict"]
    network.load_state_dict({name.removeprefix("module."): w for name, w in weights.items()})
    return network


def _pytorchcv(name: str) -> nn.Module:
    from pytorchcv.model_provider import get_model

    network: nn.Module = get_model(name)
    return network


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            image_size=64,
            patch_size=8,
            hidden_size=96,
            num_hidden_layers=6,
            num_attention_heads=6,
            intermediate_size=192,
            initializer_range=0.1,
            num_labels=CLASSES,
        )
    )


FAMILIES = (
    Family(
        name="CIFAR ResNet-56",
        origin="published weights",
        build=_resnet56,
        exits=("layer1.4", "layer2.4"),
        samples=1017,
        trained=True,
    ),
    Family(
        name="DenseNet-40 (k = 12)",
        origin="pytorchcv, random",
        build=lambda _: _pytorchcv("densenet40_k12_cifar10"),
        exits=("features.stage1.unit6", "features.stage2.unit6.conv"),  # inside a dense unit
    ),
    Family(
        name="MobileNetV2",
        origin="pytorchcv, random",
        build=lambda _: _pytorchcv("mobilenetv2_w1"),
        exits=("features.stage2", "features.stage4"),
        size=224,
        samples=32,
    ),
    Family(
        name="MSDNet",
        origin="zoo, random",
        build=lambda _: MSDNet(channels=3, classes=CLASSES),
        exits=("layers.3", "layers.8"),
    ),
    Family(
        name="ViT",
        origin="transformers, random",
        build=lambda _: _vit(),
        exits=("vit.layers.1", "vit.layers.3"),
        size=64,
    ),
    Family(
        name="LSTM, three layers",
        origin="zoo, random",
        build=lambda _: RecurrentClassifier(channels=96, classes=CLASSES, width=64),
        exits=("layers.0", "layers.1"),
        size=0,
    ),
)


def samples_of(family: Family, images: NDArray[np.uint8]) -> NDArray[Any]:
    """What the network is asked about, made of CIFAR-10 images (N, 32, 32, 3)."""
    some = images[: family.samples]
    if family.size == 0:
        return some.reshape(len(some), 32, 96).astype(np.float32) / 255.0
    repeats = family.size // 32
    return some.repeat(repeats, axis=1).repeat(repeats, axis=2)


def settle(module: nn.Module, run: Callable[[Tensor], object], samples: NDArray[Any]) -> None:
    """Give the batch norms of `module` the mean statistics of a few batches; everything is then in evaluation mode."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    module.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
    with torch.no_grad():
        for batch in torch.from_numpy(samples[:96]).split(24):
            run(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()
