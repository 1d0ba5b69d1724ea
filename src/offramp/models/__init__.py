"""Networks with exits: a backbone, heads at named submodules, wire codecs between them."""

from offramp.models.attach import (
    CannotAttach,
    ExitAt,
    ExitNetwork,
    ExitOutputs,
    Preparation,
    attach,
)
from offramp.models.codec import CodecSpec, WireCodec
from offramp.models.heads import ExitHead, HeadSpec
from offramp.models.residual import SmallResNet

__all__ = [
    "CannotAttach",
    "CodecSpec",
    "ExitAt",
    "ExitHead",
    "ExitNetwork",
    "ExitOutputs",
    "HeadSpec",
    "Preparation",
    "SmallResNet",
    "WireCodec",
    "attach",
]
