"""The exported artefact: the contract between the torch side and the serving side."""

from offramp.bundle.loading import Bundle, load_bundle, write_manifest
from offramp.bundle.manifest import (
    Boundary,
    Brownout,
    BrownoutStep,
    Codec,
    Manifest,
    Network,
    Preparation,
    Stage,
    StageCost,
)

__all__ = [
    "Boundary",
    "Brownout",
    "BrownoutStep",
    "Bundle",
    "Codec",
    "Manifest",
    "Network",
    "Preparation",
    "Stage",
    "StageCost",
    "load_bundle",
    "write_manifest",
]
