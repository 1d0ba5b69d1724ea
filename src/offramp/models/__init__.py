"""Networks with exits: a backbone, heads at named submodules, wire codecs between them."""

from offramp.models.attach import CannotAttach, attach
from offramp.models.codec import CannotCode, CodecSpec, WireCodec, build_codec
from offramp.models.codec_start import start_codecs
from offramp.models.heads import ExitHead, HeadSpec
from offramp.models.network import ExitAt, ExitNetwork, ExitOutputs, Preparation
from offramp.models.zoo.small_resnet import SmallResNet

__all__ = [
    "CannotAttach",
    "CannotCode",
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
    "build_codec",
    "start_codecs",
]
