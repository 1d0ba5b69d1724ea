"""The manifest: what a bundle says of itself, as manifest.json.

    network      what decides an answer besides the policy; its hash is the network digest
    costs        FLOPs, parameters and bytes per stage, for people and the planner
    policies     exit policies; the first one is the default
    certificates what is guaranteed of a policy on this very network
    brownouts    greedier thresholds for tiers with too much to do, each step measured
    provenance   what made it: command, recipe, seed, data hashes, scores

Unknown keys are errors in every part.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from offramp.exits import RULES, ExitPolicy
from offramp.exits.certificate import Certificate
from offramp.wire import Coding, TensorSpec

FORMAT: Final = 1
NAME_PATTERN: Final = r"^[A-Za-z0-9_.-]+$"
_STRICT = ConfigDict(frozen=True, extra="forbid")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Preparation(BaseModel):
    """What stage 0 does to an image before anything else; it lies in the graph."""

    model_config = _STRICT
    mean: tuple[float, ...]  # per channel, of values in [0, 1]
    std: tuple[float, ...]


class Codec(BaseModel):
    """The wire codec at a boundary: how many channels of how many bits, at which stride."""

    model_config = _STRICT
    channels: Annotated[int, Field(ge=1)]
    bits: Annotated[int, Field(ge=1, le=8)]
    stride: Annotated[int, Field(ge=1)]


class Boundary(BaseModel):
    """What goes into a stage: its tensors, in wire order, and the codec that made them (if any).

    coding: tables for entropy coding of the codec's one tensor of codes, channels first.
    """

    model_config = _STRICT
    tensors: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    codec: Codec | None = None
    coding: Coding | None = Field(default=None, exclude_if=lambda coding: coding is None)

    @model_validator(mode="after")
    def _coding_fits(self) -> Boundary:
        if self.coding is not None:
            codes = self.tensors[0]
            if self.codec is None or len(self.tensors) != 1 or codes.dtype != "uint8":
                raise ValueError("coding: of a boundary that is not one tensor of codes")
            if not self.coding.fits(codes.shape, codes.bits):
                raise ValueError(f"coding: not for {list(codes.shape)} codes of {codes.bits} bits")
        return self

    @property
    def is_packed(self) -> bool:
        """Whether a tensor's bytes are not its values one after the other."""
        return self.coding is not None or any(tensor.is_packed for tensor in self.tensors)

    @property
    def size_bytes(self) -> int:
        """Payload bytes per sample; the most, where they are entropy-coded."""
        return sum(tensor.size_bytes for tensor in self.tensors)


class Stage(BaseModel):
    """One ONNX file: a boundary's tensors in, logits, gate and the next boundary's tensors out.

    arithmetic: int8 where that is what most of its layers compute in; its tensors are the same.
    """

    model_config = _STRICT
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.onnx$")]
    sha256: Sha256
    logits: str
    # (N,) float32, before the sigmoid; None: the exit has no learned gate, and the digest no such key
    gate: str | None = Field(default=None, exclude_if=lambda gate: gate is None)
    arithmetic: Literal["float32", "int8"] = Field(
        default="float32", exclude_if=lambda arithmetic: arithmetic == "float32"
    )


class Network(BaseModel):
    """Preparation, classes, boundaries, stages: boundary k feeds stage k, which ends in exit k.

    Boundary 0 is one tensor: a uint8 image (H, W, C) where there is a preparation, else a raw
    tensor of any dtype and shape.
    """

    model_config = _STRICT
    preparation: Preparation | None
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    boundaries: Annotated[tuple[Boundary, ...], Field(min_length=1)]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_boundary_a_stage(self) -> Network:
        if len(self.boundaries) != len(self.stages):
            raise ValueError(f"{len(self.boundaries)} boundaries for {len(self.stages)} stages")
        names = [tensor.name for boundary in self.boundaries for tensor in boundary.tensors]
        if len(set(names)) != len(names):
            raise ValueError("boundaries: a tensor's name occurs twice")
        return self

    @model_validator(mode="after")
    def _one_input(self) -> Network:
        if len(self.boundaries[0].tensors) != 1 or self.boundaries[0].codec is not None:
            raise ValueError("boundaries.0: the input is one tensor, without a codec")
        if self.preparation is not None:
            channels = len(self.preparation.mean)
            if len(self.preparation.std) != channels:
                raise ValueError("preparation: mean and std differ in length")
            dtype, shape = self.takes.dtype, self.takes.shape
            if dtype != "uint8" or len(shape) != 3 or shape[2] != channels:
                raise ValueError(
                    f"preparation: of images of {channels} channels, but boundary 0 is {dtype} "
                    f"{list(shape)}"
                )
        return self

    @property
    def takes(self) -> TensorSpec:
        """The one tensor of boundary 0, per sample."""
        return self.boundaries[0].tensors[0]

    @property
    def digest(self) -> str:
        """The network digest: SHA-256 (hex) of this part of the manifest, in canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


class StageCost(BaseModel):
    """FLOPs (2 per multiply-accumulate) per sample, and parameters, of a stage's three parts."""

    model_config = _STRICT
    flops: Annotated[int, Field(ge=0)]  # the layers, without head and codec
    parameters: Annotated[int, Field(ge=0)]
    head_flops: Annotated[int, Field(ge=0)]
    head_parameters: Annotated[int, Field(ge=0)]
    codec_flops: Annotated[int, Field(ge=0)]  # the decoder before it and the encoder behind it
    codec_parameters: Annotated[int, Field(ge=0)]
    boundary_bytes: Annotated[int, Field(ge=1)]  # payload of the boundary that feeds the stage


class BrownoutStep(BaseModel):
    """Greedier thresholds of the early exits, and what they were measured to do if every tier used them.

    accuracy: None where the samples had no labels; exit_shares: who left at each exit.
    """

    model_config = _STRICT
    thresholds: tuple[FiniteFloat, ...]
    accuracy: Annotated[float, Field(ge=0, le=1)] | None
    exit_shares: tuple[Annotated[float, Field(ge=0, le=1)], ...]


class Brownout(BaseModel):
    """The way on from a policy for a tier that has more to do than it can: step by step, the greediest last.

    samples: how many each step was measured on; the thresholds were fitted on others. No certificate covers them.
    """

    model_config = _STRICT
    policy: Sha256  # its id
    samples: Annotated[int, Field(ge=1)]
    steps: Annotated[tuple[BrownoutStep, ...], Field(min_length=1)]


class Manifest(BaseModel):
    """The whole of manifest.json. Unknown keys are errors."""

    model_config = _STRICT
    format: Literal[1] = FORMAT
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    network: Network
    costs: tuple[StageCost, ...]
    policies: Annotated[tuple[ExitPolicy, ...], Field(min_length=1)]
    certificates: tuple[Certificate, ...] = ()
    brownouts: tuple[Brownout, ...] = Field(default=(), exclude_if=lambda brownouts: not brownouts)
    provenance: dict[str, Any]

    @model_validator(mode="after")
    def _parts_agree(self) -> Manifest:
        stages = len(self.network.stages)
        if len(self.costs) != stages:
            raise ValueError(f"costs: {len(self.costs)} for {stages} stages")
        for policy in self.policies:
            if len(policy.exits) != stages:
                raise ValueError(
                    f"policies: {policy.name} has {len(policy.exits)} exits of {stages}"
                )
        names = [policy.name for policy in self.policies]
        if len(set(names)) != len(names):
            raise ValueError(f"policies: a name occurs twice in {names}")
        for k, (cost, boundary) in enumerate(zip(self.costs, self.network.boundaries, strict=True)):
            if cost.boundary_bytes != boundary.size_bytes:
                raise ValueError(
                    f"costs.{k}.boundary_bytes: not the {boundary.size_bytes} of its tensors"
                )
        return self

    @model_validator(mode="after")
    def _gates_are_there(self) -> Manifest:
        stages = self.network.stages[:-1]
        for policy in self.policies:
            for k, (stage, setting) in enumerate(zip(stages, policy.exits, strict=False)):
                if RULES[policy.rule].needs_gate and setting.on and stage.gate is None:
                    raise ValueError(
                        f"policies: {policy.name} goes by the gate of exit {k}, and stage {k} has none"
                    )
        return self

    @model_validator(mode="after")
    def _certificates_hold_here(self) -> Manifest:
        ids = {policy.id for policy in self.policies if not RULES[policy.rule].goes_by_time}
        for k, certificate in enumerate(self.certificates):
            if certificate.network != self.network.digest:
                raise ValueError(
                    f"certificates.{k}: stale: of network {certificate.network[:12]}, and this "
                    f"is {self.network.digest[:12]}; calibrate again"
                )
            if certificate.policy not in ids:
                raise ValueError(
                    f"certificates.{k}: of policy {certificate.policy[:12]}, which is not here, or "
                    "goes by the time"
                )
        return self

    @model_validator(mode="after")
    def _brownouts_go_down(self) -> Manifest:
        for k, brownout in enumerate(self.brownouts):
            policy = self.policy(brownout.policy)
            if policy is None or policy.id != brownout.policy:
                raise ValueError(f"brownouts.{k}: of policy {brownout.policy[:12]}, not here")
            above = [s.threshold if s.on else math.inf for s in policy.exits[:-1]]
            for n, step in enumerate(brownout.steps):
                where = f"brownouts.{k}.steps.{n}.thresholds"
                if len(step.thresholds) != len(above):
                    raise ValueError(f"{where}: {len(step.thresholds)} of {len(above)} early exits")
                if any(
                    lower > higher for lower, higher in zip(step.thresholds, above, strict=True)
                ):
                    raise ValueError(f"{where}: above those of the step before")
                above = list(step.thresholds)
        return self

    @cached_property
    def certified(self) -> frozenset[str]:
        """The ids of the policies that have a certificate."""
        return frozenset(certificate.policy for certificate in self.certificates)

    def policy(self, wanted: str) -> ExitPolicy | None:
        """The policy of that name or id; the default for an empty string; None if there is none."""
        if not wanted:
            return self.policies[0]
        return self._policies.get(wanted)

    def brownout(self, policy_id: str) -> tuple[BrownoutStep, ...]:
        """The steps on from the policy of that id; none where none were prepared."""
        return self._brownouts.get(policy_id, ())

    @cached_property
    def _brownouts(self) -> dict[str, tuple[BrownoutStep, ...]]:
        return {brownout.policy: brownout.steps for brownout in self.brownouts}

    @cached_property
    def _policies(self) -> dict[str, ExitPolicy]:
        ids = {policy.id: policy for policy in reversed(self.policies)}
        return {**ids, **{policy.name: policy for policy in reversed(self.policies)}}
