"""What is trained and compared: the values of `benchmarks/configs/imagenette/protocol.toml`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from offramp.errors import InvalidSettings
from offramp.models import CodecSpec, ExitAt, HeadSpec
from offramp.validation import first_flaw

PROTOCOL = Path(__file__).parents[1] / "configs" / "imagenette" / "protocol.toml"

_STRICT = ConfigDict(frozen=True, extra="forbid")
_Count = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0)]
_Quality = Annotated[int, Field(ge=1, le=95)]


class Exit(BaseModel):
    """Where an exit sits, its head, and its own codec if it is not the one under study."""

    model_config = _STRICT
    at: str
    head: HeadSpec
    codec: CodecSpec | None = None

    def exit_at(self, codec: CodecSpec | None) -> ExitAt:
        """The same, as `attach` takes it, with this codec behind it."""
        return ExitAt(at=self.at, head=self.head, codec=codec)


class Training(BaseModel):
    """How heads and codecs are trained; rates are the peaks of one-cycle schedules."""

    model_config = _STRICT
    batch: _Count
    head_epochs: _Count
    head_rate: _Positive
    reconstruction_steps: Annotated[int, Field(ge=0)]
    peak_rate: _Positive
    temperature: _Positive  # of the probabilities that the uncompressed network teaches


class Variant(BaseModel):
    """One wire codec at the device's boundary, and for how many epochs it is trained."""

    model_config = _STRICT
    name: str
    epochs: _Positive
    codec: CodecSpec


class Images(BaseModel):
    """How images are sent instead: qualities at full size, sides and qualities of smaller ones."""

    model_config = _STRICT
    qualities: tuple[_Quality, ...]
    small_sides: tuple[_Count, ...]
    small_qualities: tuple[_Quality, ...]


class Protocol(BaseModel):
    """The whole comparison."""

    model_config = _STRICT
    seed: int
    held_out: _Count
    device_exit: Exit
    fog_exit: Exit
    training: Training
    codecs: Annotated[tuple[Variant, ...], Field(min_length=1)]
    images: Images


def read_protocol(path: Path = PROTOCOL) -> Protocol:
    """The protocol of a TOML file. Raises InvalidSettings naming the file and the key."""
    try:
        return Protocol.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise InvalidSettings(str(path), f"cannot be read: {exc.strerror}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise InvalidSettings(str(path), str(exc)) from exc
    except ValidationError as exc:
        flaw = first_flaw(exc)
        raise InvalidSettings(f"{path}: {flaw.key}", flaw.text) from exc
