"""What a link profile file says. No number stands alone: each has its tag and its source beside it.

deploy/links/NAME.yaml
    round_trip_ms   quantiles, correlation time, and the share of it that the way up takes
    up, down        rate_mbit (quantiles, correlation time), queue_bytes, loss
    events          handover, radio-link failure, ...: how often, how long, hold or drop
    idle            after how long a pause the next packet waits, and how long

The delay is stated as a round trip because that is what was measured; no source here has one-way
delays. A fixed share goes to the way up, so both ways rise and fall together and the quantiles of
their sum are the stated ones. A table comes in parts, so that a measured body can have an estimated
tail and say so.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from offramp.errors import InvalidInput
from offramp.links.quantiles import Quantiles
from offramp.links.timeline import Idle, Kind, Loss
from offramp.validation import first_flaw

Tag = Literal["measured", "target", "estimate"]
_TARGET_SUFFIX = "-target"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Sourced(_Strict):
    """Where a number comes from, and what it is worth."""

    tag: Tag
    source: Annotated[str, Field(min_length=8)]


class Positive(Sourced):
    """One number above 0."""

    value: Annotated[float, Field(gt=0)]


class Share(Sourced):
    """One number from 0 to 1."""

    value: Annotated[float, Field(ge=0, le=1)]


class Count(Sourced):
    """A whole number above 0."""

    value: Annotated[int, Field(gt=0)]


class Part(Sourced):
    """Some quantiles of a table, by percent."""

    at: Annotated[
        dict[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0)]],
        Field(min_length=1),
    ]


class Table(_Strict):
    """A table of quantiles, in parts of one source each."""

    quantiles: Annotated[tuple[Part, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _merges(self) -> Self:
        percents = [percent for part in self.quantiles for percent in part.at]
        twice = sorted({percent for percent in percents if percents.count(percent) > 1})
        if twice:
            raise ValueError(f"{twice[0]:g} % is stated in two parts")
        try:
            _ = self.table
        except InvalidInput as exc:
            raise ValueError(exc.message) from exc
        return self

    @property
    def table(self) -> Quantiles:
        """All parts as one."""
        return Quantiles.of({k: value for part in self.quantiles for k, value in part.at.items()})

    @property
    def tag(self) -> Tag:
        """The tag of the part that the median lies in: of the greatest percent stated up to 50."""
        parts = {percent: part.tag for part in self.quantiles for percent in part.at}
        return parts[max(percent for percent in parts if percent <= 50)]


class Process(Table):
    """A table and the time in which a value forgets itself: rows t apart correlate by exp(-t / correlation_s)."""

    correlation_s: Positive | None = None

    @model_validator(mode="after")
    def _forgets(self) -> Self:
        if (self.correlation_s is None) != self.table.is_constant:
            raise ValueError(
                "correlation_s belongs to a table of more than one value, and only there"
            )
        return self


class RoundTrip(Process):
    """The delay, in ms, both ways together."""

    up_share: Share


class PacketLoss(_Strict):
    """The share of packets lost, and how many in a row."""

    mean: Share
    burst_packets: Positive

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.burst_packets.value < 1:
            raise ValueError("burst_packets is below 1")
        if self.mean.value > self.burst_packets.value / (1 + self.burst_packets.value):
            raise ValueError("mean is too large for bursts of that length")
        return self

    @property
    def loss(self) -> Loss | None:
        """Gilbert's case: nothing lost in the good state, all in the bad; None where nothing is lost.

        leave = 1 / burst and enter = leave * mean / (1 - mean), so that the share in the bad state is the mean.
        """
        mean, leave = self.mean.value, 1 / self.burst_packets.value
        return Loss(leave * mean / (1 - mean), leave, 0.0, 1.0) if mean else None


class Way(_Strict):
    """One direction."""

    rate_mbit: Process
    queue_bytes: Count
    loss: PacketLoss


class Event(_Strict):
    """What befalls both directions now and then: nothing passes for a while."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
    mode: Literal["hold", "drop"]
    per_minute: Positive
    duration_ms: Table


class IdlePromotion(_Strict):
    """The radio sleeps after `after_s` without traffic; the next packet then waits."""

    after_s: Positive
    delay_ms: Table

    @property
    def idle(self) -> Idle:
        """As a timeline has it."""
        return Idle(self.after_s.value, self.delay_ms.table)


class Profile(_Strict):
    """A link. `kind` is what its numbers allow it to be called."""

    name: str
    title: str
    note: str = ""
    round_trip_ms: RoundTrip
    up: Way
    down: Way
    events: tuple[Event, ...] = ()
    idle: IdlePromotion | None = None

    @model_validator(mode="after")
    def _calls_itself_a_target(self) -> Self:
        is_target = self.kind == "target"
        if is_target != self.name.endswith(_TARGET_SUFFIX):
            wanted = "must" if is_target else "must not"
            raise ValueError(f"the name {self.name!r} {wanted} end in {_TARGET_SUFFIX}")
        return self

    @property
    def kind(self) -> Kind:
        """`target` where any number is one; `measured` where the medians of delay and rates are; else `estimate`."""
        if any(sourced.tag == "target" for _, sourced in self.sourced()):
            return "target"
        tables = (self.round_trip_ms, self.up.rate_mbit, self.down.rate_mbit)
        return "measured" if all(table.tag == "measured" for table in tables) else "estimate"

    def sourced(self) -> Iterator[tuple[str, Sourced]]:
        """Every number, or part of a table, with its path in the file."""
        yield from _walk(self, "")


def _walk(value: object, path: str) -> Iterator[tuple[str, Sourced]]:
    if isinstance(value, Sourced):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            below = f"{path}.{name}" if path else name
            yield from _walk(getattr(value, name), below.removesuffix(".quantiles"))
    elif isinstance(value, tuple):
        for item in value:
            yield from _walk(item, f"{path}.{item.name}" if isinstance(item, Event) else path)


def _folder() -> Path:
    shipped = Path(str(files("offramp.links"))) / "profiles"  # in a wheel
    return shipped if shipped.is_dir() else Path(__file__).parents[3] / "deploy/links"


def profile_names() -> list[str]:
    """The profiles that come with offramp."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """The profile of that name, or in that file if the name ends in .yaml.

    Raises InvalidInput: no such profile (with near names), or the file's key that is wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return _read(Path(name))
    known = profile_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        these = f"near: {', '.join(near)}" if near else f"known: {', '.join(known)}"
        raise InvalidInput("profile", f"there is no {name!r}; {these}")
    return _read(_folder() / f"{name}.yaml")


def _read(path: Path) -> Profile:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise InvalidInput("profile", f"there is no file {path}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput("profile", f"{path} cannot be read: {exc}") from exc
    except (
        Exception
    ) as exc:  # of a date or a number that is none, PyYAML lets whatever is raised through
        raise InvalidInput(str(path), f"is no YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(content, dict):
        raise InvalidInput(str(path), "is no profile: it has no keys")
    try:
        return Profile.model_validate({"name": path.stem, **content})
    except ValidationError as exc:
        flaw = first_flaw(exc)
        raise InvalidInput(f"{path}: {flaw.key}".rstrip(": "), flaw.text) from exc
