"""Settings from a file, the environment and flags: file < environment < flags, merged here and nowhere else.

bundle = "bundle"                 offramp-device --config device.toml
[plan]                            OFFRAMP_DEVICE_PLAN__LAST_STAGE=1
last_stage = 0                    offramp-device --plan.last_stage 1
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from offramp.errors import InvalidSettings
from offramp.serving.settings import TierSettings
from offramp.validation import first_flaw

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
        for key, value in _read_toml(file):
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
        flaw = first_flaw(exc)
        key = flaw.key
        source = sources.get(key) or _nearest(key, sources)
        where = f"{source}: {key}" if source and source != f"--{key}" else source or key
        raise InvalidSettings(where, flaw.text) from exc


def _nearest(key: str, sources: Mapping[str, str]) -> str | None:
    """Where a key's own parts came from, or, for one that is missing, those of its table."""
    table = key.rpartition(".")[0]
    for prefix in (f"{key}.", f"{table}." if table else f"{key}."):
        for name, source in sources.items():
            if name.startswith(prefix):
                return source
    return None


def _read_toml(file: Path) -> list[tuple[str, Any]]:
    """Dotted names and values. tomllib lets a ValueError of `int()` and a RecursionError through."""
    try:
        return list(_dotted(tomllib.loads(file.read_text())))
    except OSError as exc:
        raise InvalidSettings(str(file), f"cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
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
