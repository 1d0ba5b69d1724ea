"""The machine that a tier stands for in a rehearsal, from a YAML file of deploy/tiers or one's own.

deploy/tiers/raspberry-pi-4.yaml -> TierProfile -> batches are stretched by `slowdown`
                                                -> stages above `memory_bytes` are refused
                                                -> metrics and the log say which machine it is

PyYAML is imported when a profile is asked for and not before: no tier needs it otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from offramp.bundle import Bundle
from offramp.errors import InvalidSettings
from offramp.validation import first_flaw

SETTING = "tier_profile"
REFERENCE = "AMD EPYC 9004, one core, float32"
_STRICT = ConfigDict(frozen=True, extra="forbid")
_SUFFIXES = (".yaml", ".yml")


class Figure(BaseModel):
    """A number, whether it was measured, is its vendor's or is an estimate of ours, and where it comes from."""

    model_config = _STRICT
    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    tag: Literal["measured", "specified", "estimate"]
    source: Annotated[str, Field(min_length=1)]


class Slowdown(Figure):
    """Time of a stage there over its time on the reference; at least 1, for a wait makes nothing faster."""

    value: Annotated[float, Field(ge=1, allow_inf_nan=False)]


class Watts(BaseModel):
    """What the whole machine draws in each state, in watts."""

    model_config = _STRICT
    idle: Figure
    busy: Figure
    sending: Figure


class TierProfile(BaseModel):
    """A machine: how slow, how much memory, how many watts. What is left out is not known."""

    model_config = _STRICT
    name: str
    description: Annotated[str, Field(min_length=1)]
    slowdown: Slowdown
    memory_bytes: Figure | None = None
    watts: Watts | None = None

    @property
    def watts_by_state(self) -> dict[str, float]:
        """idle, busy and sending; empty where they are not known."""
        return {} if self.watts is None else {state: figure.value for state, figure in self.watts}

    def check_memory(self, bundle: Bundle, stages: Iterable[int]) -> None:
        """Raises InvalidSettings naming the first stage whose file, with those before it, is above the memory.

        The files are the least that the stages take; onnxruntime's own buffers come on top.
        """
        if self.memory_bytes is None:
            return
        needed = 0
        for stage in stages:
            needed += bundle.stage_path(stage).stat().st_size
            if needed > self.memory_bytes.value:
                text = (
                    f"{self.name} has {self.memory_bytes.value:,.0f} bytes of memory; "
                    f"stage {stage} and those before it take {needed:,}"
                )
                raise InvalidSettings(SETTING, text)

    def __str__(self) -> str:
        return f"{self.name}, {self.slowdown.value:g} times as slow as {REFERENCE}"


ITSELF = TierProfile(
    name="none",
    description="the machine that the tier runs on",
    slowdown=Slowdown(value=1.0, tag="specified", source="by definition"),
)


def shipped_profiles() -> dict[str, Path]:
    """The files of the profiles that come with offramp, by name."""
    here = Path(__file__).resolve()
    folder = here.parent / "tier_profiles"  # in a wheel
    if not folder.is_dir():
        folder = here.parents[3] / "deploy" / "tiers"  # in the repository
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def read_tier_profile(name: str) -> TierProfile:
    """The profile of that name, or of that path where it ends in .yaml or .yml; ITSELF where it is empty.

    Raises InvalidSettings naming the setting and what is wrong: no such name (with near ones), a file that cannot
    be read or is no profile (with the key), PyYAML missing.
    """
    if not name:
        return ITSELF
    path = Path(name) if name.endswith(_SUFFIXES) else _shipped(name)
    values = _read_yaml(path)
    if not isinstance(values, dict):
        raise InvalidSettings(SETTING, f"{path}: is no table of keys")
    try:
        return TierProfile.model_validate({**values, "name": path.stem})
    except ValidationError as exc:
        flaw = first_flaw(exc)
        raise InvalidSettings(SETTING, f"{path}: {flaw.key}: {flaw.text}") from exc


def _shipped(name: str) -> Path:
    shipped = shipped_profiles()
    if name not in shipped:
        near = get_close_matches(name, shipped, n=3) or list(shipped)
        text = f"there is no profile {name!r}; near it: {', '.join(near)}"
        raise InvalidSettings(SETTING, text)
    return shipped[name]


def _read_yaml(path: Path) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as exc:
        text = "needs PyYAML, which is not installed: pip install 'offramp[links]'"
        raise InvalidSettings(SETTING, text) from exc
    try:
        return yaml.safe_load(path.read_text())
    except OSError as exc:
        raise InvalidSettings(SETTING, f"{path}: cannot be read: {exc.strerror}") from exc
    except (
        Exception
    ) as exc:  # of a date or a number that is none, PyYAML lets whatever is raised through
        text = " ".join(str(exc).split())
        raise InvalidSettings(SETTING, f"{path}: is no YAML: {text}") from exc
