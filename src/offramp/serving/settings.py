"""The settings of a tier: one frozen model a concern; file < environment < flags, merged here and nowhere else.

bundle = "bundle"                 offramp-device --config device.toml
[plan]                            OFFRAMP_DEVICE_PLAN__LAST_STAGE=1
last_stage = 0                    offramp-device --plan.last_stage 1
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from offramp.errors import InvalidSettings

_STRICT = ConfigDict(frozen=True, extra="forbid")


def _address(text: str) -> str:
    match = re.fullmatch(r"(?:[^\s:\[\]]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", text)
    if match is None or int(match[1]) > 65_535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return text


def _addresses(text: str) -> str:
    return ",".join(_address(one.strip()) for one in text.split(","))


Address = Annotated[str, AfterValidator(_address)]
Addresses = Annotated[str, AfterValidator(_addresses)]
Seconds = Annotated[float, Field(gt=0)]
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
    reserve_s: Annotated[float, Field(ge=0)] = 0.01
    keepalive_s: Annotated[float, Field(ge=5)] = 10.0  # a tier cuts who pings more often
    keepalive_timeout_s: Seconds = 5.0
    most_backoff_s: Seconds = 2.0
    breaker_failures: Annotated[int, Field(ge=1)] = 5
    breaker_late_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    hop_quantile: Annotated[float, Field(ge=0, le=1)] = 0.5


class Limits(BaseModel):
    """What this tier takes."""

    model_config = _STRICT
    message_bytes: Annotated[int, Field(ge=2048, le=2**30)] = 4 * 2**20
    in_flight: Annotated[int, Field(ge=1)] = 256
    default_time_left_s: Seconds = 5.0  # of a sample that names no time


class Inference(BaseModel):
    """How the stages are computed by onnxruntime, and the most samples that a batch holds.

    spinning: threads beyond the first wait for work awake; optimisation: how far a graph is rewritten when it is
    opened; cache: a folder in which the rewritten graphs are kept for the next start, "" for none.
    """

    model_config = _STRICT
    threads: Annotated[int, Field(ge=1)] = 1
    batch: Annotated[int, Field(ge=1)] = 32
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


class TierSettings(BaseModel):
    """What every tier is told."""

    model_config = _STRICT
    bundle: Path
    policy: str = ""  # name or id; empty: the bundle's first
    listen: Address
    metrics: Address
    plan: PlanSettings
    uplink: UplinkSettings | None = None
    limits: Limits = Limits()
    inference: Inference = Inference()
    tier_profile: str = (
        ""  # the machine to stand for in a rehearsal, by name or file; empty: itself
    )
    drain_s: Seconds = 10.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"


Settings = TypeVar("Settings", bound=TierSettings)


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The dotted name and the type (as text) of every setting of a model."""
    for name, info in model.model_fields.items():
        kinds = [info.annotation]
        if get_origin(info.annotation) is UnionType:
            kinds = [kind for kind in get_args(info.annotation) if kind is not type(None)]
        inner = kinds[0]
        if inner in (None, type(None)):
            continue  # a setting that this tier does not have
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", getattr(inner, "__name__", str(inner))


def add_flags(parser: argparse.ArgumentParser, model: type[TierSettings]) -> None:
    """A flag for every setting, named as in the file."""
    group = parser.add_argument_group("settings, over those of the file and the environment")
    for name, kind in leaves(model):
        group.add_argument(f"--{name}", dest=f"set {name}", metavar=kind.upper())


def read_settings(
    model: type[Settings],
    *,
    file: Path | None,
    environment: Mapping[str, str],
    prefix: str,
    flags: Mapping[str, Any],
) -> Settings:
    """The settings of a file, the environment variables with that prefix and the flags, the later over the earlier.

    Raises InvalidSettings naming the key and the file, variable or flag that it came from.
    """
    values = {
        name: info.default.model_dump()
        for name, info in model.model_fields.items()
        if isinstance(info.default, BaseModel)
    }
    sources: dict[str, str] = {}
    if file is not None:
        for key, value in _dotted(_read_toml(file)):
            _put(values, key, value)
            sources[key] = str(file)
    for variable, value in environment.items():
        if variable.startswith(prefix):
            key = variable.removeprefix(prefix).lower().replace("__", ".")
            _put(values, key, value)
            sources[key] = f"${variable}"
    for flag, value in flags.items():
        if flag.startswith("set ") and value is not None:
            key = flag.removeprefix("set ")
            _put(values, key, value)
            sources[key] = f"--{key}"
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        source = sources.get(key) or _nearest(key, sources)
        where = f"{source}: {key}" if source and source != f"--{key}" else source or key
        unknown = first["type"] == "extra_forbidden"
        text = "no such setting" if unknown else first["msg"].removeprefix("Value error, ")
        raise InvalidSettings(where, text) from exc


def _nearest(key: str, sources: Mapping[str, str]) -> str | None:
    """Where a key's own parts came from, or, for one that is missing, those of its table."""
    table = key.rpartition(".")[0]
    for prefix in (f"{key}.", f"{table}." if table else f"{key}."):
        for name, source in sources.items():
            if name.startswith(prefix):
                return source
    return None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as exc:
        raise InvalidSettings(str(file), f"cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InvalidSettings(str(file), f"is no TOML: {exc}") from exc


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, dict):
            inner = values[table] = {}
        values = inner
    if value != {}:  # an empty table says nothing, except that there is one
        values[last] = value
    else:
        values.setdefault(last, value)
