"""The settings of a tier: one frozen model a concern. offramp.serving.reading gets them from file and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from offramp.address import checked_address
from offramp.errors import DegradedReason, InvalidInput

_STRICT = ConfigDict(frozen=True, extra="forbid")


def _address(text: str) -> str:
    try:
        return checked_address("", text)
    except InvalidInput as exc:
        raise ValueError(exc.message) from None  # pydantic knows the field


def _addresses(text: str) -> str:
    return ",".join(_address(one.strip()) for one in text.split(","))


Address = Annotated[str, AfterValidator(_address)]
Addresses = Annotated[str, AfterValidator(_addresses)]


def _reasons(text: str) -> str:
    words = [word.strip() for word in text.split(",")]
    allowed = [reason for reason in get_args(DegradedReason) if reason != "policy"]
    if wrong := [word for word in words if word not in allowed]:
        raise ValueError(f"{wrong[0]!r} is none of {', '.join(allowed)}")
    return ",".join(words)


Reasons = Annotated[str, AfterValidator(_reasons)]
Seconds = Annotated[float, Field(gt=0)]
Answers = Literal["escalate", "answer-then-escalate", "local-only"]
Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]  # of onnxruntime, which computes


class PlanSettings(BaseModel):
    """How far this tier goes; -1: it runs no stage and passes samples on; None: to the bundle's last stage."""

    model_config = _STRICT
    last_stage: Annotated[int | None, Field(ge=-1)] = None
    epoch: Annotated[int, Field(ge=0)] = 0


class UplinkSettings(BaseModel):
    """The next tier, all its replicas, how long before a deadline the wait for it ends, and when it is not asked.

    breaker_failures, breaker_late_share: so many failures in a row, or that share of the latest requests, open the
    breaker; hop_quantile: a sample is not sent that has less time left than this share of the latest hops took.
    """

    model_config = _STRICT
    address: Addresses  # of several with commas between; of all that a name stands for
    name: str = (
        ""  # with TLS, what the next tier's certificate must say; empty: the host of its address
    )
    reserve_s: Annotated[float, Field(ge=0)] = 0.01
    keepalive_s: Annotated[float, Field(ge=5)] = 10.0  # a tier cuts who pings more often
    keepalive_timeout_s: Seconds = 5.0
    most_backoff_s: Seconds = 2.0
    breaker_failures: Annotated[int, Field(ge=1)] = 5
    breaker_late_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    hop_quantile: Annotated[float, Field(ge=0, le=1)] = 0.5


class Limits(BaseModel):
    """What this tier takes.

    streams counts unary calls too; streams_per_peer: of one host, or one identity; streams_hz: those that it may open
    a second. idle_s: a stream on which nothing was said for so long ends, and so does a connection without calls;
    handshake_s: how long a new connection may take to say what it is.
    """

    model_config = _STRICT
    message_bytes: Annotated[int, Field(ge=2048, le=2**30)] = 4 * 2**20
    in_flight: Annotated[int, Field(ge=1)] = 256
    default_time_left_s: Seconds = 5.0  # of a sample that names no time
    connections: Annotated[int, Field(ge=1, le=2**20)] = 16_384
    streams: Annotated[int, Field(ge=1)] = 8_192
    streams_per_peer: Annotated[int, Field(ge=1, le=2**31 - 1)] = 1_024
    streams_hz: Annotated[float, Field(gt=0)] = 100.0
    idle_s: Annotated[float, Field(ge=1, le=86_400)] = 120.0
    handshake_s: Annotated[float, Field(ge=0.1, le=3_600)] = 30.0


class BrownoutSettings(BaseModel):
    """Whether greedier exits are used under load, and at which pressure (1: samples are refused) over how long.

    above: a step further where the mean pressure of hold_s is more than that; below: a step back.
    """

    model_config = _STRICT
    on: bool = False
    above: Annotated[float, Field(gt=0, le=1)] = 0.8
    below: Annotated[float, Field(ge=0, lt=1)] = 0.5
    hold_s: Seconds = 0.5

    @model_validator(mode="after")
    def _below_is_below(self) -> BrownoutSettings:
        if self.below >= self.above:
            raise ValueError(f"below: {self.below} is not below `above`, {self.above}")
        return self


class Inference(BaseModel):
    """How the stages are computed by onnxruntime, and the most samples that a batch holds.

    batch_wait_s: how long a stage that is free waits for more than it has, at most, and never beyond a deadline.
    spinning: threads beyond the first wait for work awake; optimisation: how far a graph is rewritten when it is
    opened; cache: a folder in which the rewritten graphs are kept for the next start, "" for none.
    """

    model_config = _STRICT
    threads: Annotated[int, Field(ge=1)] = 1
    batch: Annotated[int, Field(ge=1)] = 32
    batch_wait_s: Annotated[float, Field(ge=0, le=1)] = 0.0
    spinning: bool = False
    optimisation: Literal["none", "basic", "extended", "all"] = "all"
    provider: Provider = "cpu"
    cache: str = ""

    @model_validator(mode="after")
    def _cache_is_of_the_processor(self) -> Inference:
        if self.cache and self.provider != "cpu":
            raise ValueError(
                f"cache: keeps graphs for the provider 'cpu' only, not {self.provider!r}"
            )
        return self


class TlsSettings(BaseModel):
    """Who this tier is and who may call it: a folder, which turns TLS on, at the port and at the uplink.

    folder holds ca.crt, tls.crt, tls.key and, unless `callers` names another file, callers; health: where probes are
    told, without TLS, whether the tier serves. See offramp.serving.access.
    """

    model_config = _STRICT
    folder: str = ""
    callers: str = ""
    health: Address = "127.0.0.1:7110"


class StoreSettings(BaseModel):
    """Where samples that were answered degraded are kept until they have their full answer, and how those are got.

    most_bytes: of inputs and answers; what would be more is not kept. rate: so many are asked again in a second, at
    most. keep_s: how long results stay, and how long a full answer is waited for, while the tier runs. most_wait_s: how
    long a degraded answer waits for the disk.
    """

    model_config = _STRICT
    folder: Annotated[str, Field(min_length=1)]
    most_bytes: Annotated[int, Field(ge=2**16)] = 256 * 2**20
    rate: Annotated[float, Field(gt=0)] = 10.0
    reasons: Reasons = "unreachable,deadline,overloaded"
    keep_s: Seconds = 7 * 86_400.0
    most_wait_s: Seconds = 0.05


class BundleSettings(BaseModel):
    """How another bundle comes into use while the tier runs: a folder that is watched, or a push; both are off.

    watch_s: how often `bundle` is looked at, 0: never; push: whether Bundles.Push is served, and folder: where what is
    pushed is kept, over restarts; keep_s: how long the former bundle is held unasked for; verify_key: the public key
    that every bundle has to be signed with, "" for none.
    """

    model_config = _STRICT
    watch_s: Annotated[float, Field(ge=0)] = 0.0
    push: bool = False
    folder: str = ""
    most_bytes: Annotated[int, Field(ge=2**12, le=2**34)] = 2**30
    keep_s: Annotated[float, Field(gt=0)] = 60.0
    verify_key: str = ""

    @model_validator(mode="after")
    def _pushed_ones_are_kept(self) -> BundleSettings:
        if self.push and not self.folder:
            raise ValueError("folder: is to be named where `push` is true, for what is pushed")
        return self


class TierSettings(BaseModel):
    """What every tier is told.

    answers: what becomes of a sample that no exit here is sure of: it is handed on; it is, and the caller has the
    answer so far at once; or that answer is all.
    """

    model_config = _STRICT
    bundle: Path
    policy: str = ""  # name or id; empty: the bundle's first
    answers: Answers = "escalate"
    listen: Address
    metrics: Address
    plan: PlanSettings
    uplink: UplinkSettings | None = None
    store: StoreSettings | None = None
    limits: Limits = Limits()
    tls: TlsSettings = TlsSettings()
    inference: Inference = Inference()
    brownout: BrownoutSettings = BrownoutSettings()
    bundles: BundleSettings = BundleSettings()
    tier_profile: str = (
        ""  # the machine to stand for in a rehearsal, by name or file; empty: itself
    )
    drain_s: Seconds = 10.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
