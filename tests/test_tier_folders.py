"""A tier's folder: its settings file, its README and its Dockerfile say what the program does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from offramp.serving.reading import leaves, read_settings
from offramp.serving.settings import TierSettings
from offramp_cloud.__main__ import CloudSettings
from offramp_device.__main__ import DeviceSettings
from offramp_fog.__main__ import FogSettings

ROOT = Path(__file__).parents[1]
MODELS: dict[str, type[TierSettings]] = {
    "device": DeviceSettings,
    "fog": FogSettings,
    "cloud": CloudSettings,
}


def settings_of(tier: str) -> TierSettings:
    file = ROOT / tier / f"{tier}.toml"
    return read_settings(MODELS[tier], file=file, environment={}, prefix="", flags={})


def default(model: type[BaseModel], name: str) -> str:
    """The default as it would stand in a settings file, or "required"."""
    first, _, rest = name.partition(".")
    field = model.model_fields[first]
    if rest and isinstance(field.default, BaseModel):
        return default_in(field.default, rest)
    if rest:  # a table that may be left out, such as [uplink]
        (inner,) = [kind for kind in field.annotation.__args__ if kind is not type(None)]  # type: ignore[union-attr]
        return default(inner, rest)
    return "required" if field.is_required() else written(field.default)


def default_in(table: Any, name: str) -> str:
    for part in name.split("."):
        table = getattr(table, part)
    return written(table)


def written(value: Any) -> str:
    """As in a settings file; what only the bundle can tell is its last stage."""
    return "last" if value is None else f"`{json.dumps(value)}`"


@pytest.mark.parametrize("tier", MODELS)
def test_a_readme_lists_every_setting_with_its_default(tier: str) -> None:
    readme = (ROOT / tier / "README.md").read_text()
    listed = dict(re.findall(r"^\| `([a-z_.]+)` \| (\S+) \|", readme, flags=re.MULTILINE))
    model = MODELS[tier]
    # The cloud has nothing above it: its `uplink` can only be absent.
    names = [name for name, *_ in leaves(model) if name != "uplink"]
    assert listed == {name: default(model, name) for name in names}


def test_in_containers_each_tier_finds_the_next_one_and_ends_where_that_begins() -> None:
    device, fog, cloud = (settings_of(tier) for tier in MODELS)
    assert device.uplink is not None
    assert fog.uplink is not None
    assert device.uplink.address == f"fog:{fog.listen.rpartition(':')[2]}"
    assert fog.uplink.address == f"cloud:{cloud.listen.rpartition(':')[2]}"
    assert cloud.uplink is None
    assert [tier.plan.last_stage for tier in (device, fog, cloud)] == [0, 1, None]


@pytest.mark.parametrize("tier", MODELS)
def test_in_a_container_a_tier_listens_where_prometheus_and_the_next_container_look(
    tier: str,
) -> None:
    settings = settings_of(tier)
    scraped = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    exposed = (ROOT / tier / "Dockerfile").read_text()
    listen, metrics = (a.rpartition(":") for a in (settings.listen, settings.metrics))
    assert listen[0] == metrics[0] == "0.0.0.0"  # noqa: S104
    assert f'"{tier}:{metrics[2]}"' in scraped
    assert f"EXPOSE {listen[2]} {metrics[2]}" in exposed


def test_the_dockerfiles_differ_in_name_ports_and_description_only() -> None:
    def without_its_own(tier: str) -> str:
        text = (ROOT / tier / "Dockerfile").read_text()
        text = re.sub(r'image\.description=".*"', "", text)
        return re.sub(r"\b([79]10)\d\b", r"\1N", text.replace(tier, "TIER"))

    assert without_its_own("device") == without_its_own("fog") == without_its_own("cloud")
