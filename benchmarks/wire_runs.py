"""The networks that the wire benchmark compares, each trained on from one run in a folder of its own.

base run --its recipe + codec or encoding, few epochs--> runs/wire/NAME --scored once--> runs/wire/NAME/score.json

A unit is skipped where it is done and gone on with where it was interrupted; two processes take different units.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from offramp.errors import InvalidInput
from offramp.training import Run, open_run, train

EPOCHS = 4
# A short cycle from weights that are good: a lower peak, and an average that forgets its beginning sooner.
_OPTIMISER = {"epochs": f"{EPOCHS}", "peak_rate": "0.05", "average": "0.99"}
_CODEC_DISTILLATION = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One network: with a codec at its first boundary, or on encoded images, or with neither."""

    name: str
    codec: str = ""  # as a recipe writes it
    media_type: str = ""
    quality: int = 0

    def recipe(self, base: str) -> str:
        """The text of its recipe, from that of the base run. Raises InvalidInput where that lacks a key."""
        text = base
        for key, value in _OPTIMISER.items():
            text = _replaced(text, rf"{key} = .*", f"{key} = {value}")
        if self.codec:
            text = _replaced(text, r"(\[\[exits\]\]\nat = .*)", rf"\1\ncodec = {self.codec}")
            text = _replaced(
                text, r"(\[regime\])", rf"\1\ncodec_distillation = {_CODEC_DISTILLATION}"
            )
        if self.media_type:
            encode = f'{{ media_type = "{self.media_type}", quality = {self.quality} }}'
            text = _replaced(text, r"(\[data\])", rf"\1\nencode = {encode}")
        return text


def _replaced(text: str, line: str, by: str) -> str:
    """The first such line, or neighbouring lines, by others."""
    changed, count = re.subn(f"(?m)^{line}$", by, text, count=1)
    if count == 0:
        raise InvalidInput("--base", f"its recipe has no line like {line!r}")
    return changed


def _codec(name: str, channels: int, bits: int, target_bytes: int = 0) -> Variant:
    layers = f"channels = {channels}, bits = {bits}, stride = 2, hidden = 64"
    return Variant(name=name, codec=f"{{ {layers}, target_bytes = {target_bytes} }}")


def _images(kind: str, *qualities: int) -> Iterator[Variant]:
    for quality in qualities:
        yield Variant(name=f"{kind}_q{quality}", media_type=f"image/{kind}", quality=quality)


PLAIN = Variant(name="plain")
# 8 x 8 places: a channel of one bit is 8 bytes, and 224 bytes of codes a message of 256.
BITS = (
    _codec("codec_8bit", 3, 8),
    _codec("codec_4bit", 7, 4),
    _codec("codec_2bit", 14, 2),
    _codec("codec_1bit", 28, 1),
)
# Many channels, of which training makes most cheap. A message adds 32 bytes, and codes come out some 6 % over their
# target, so that 216 and 466 missed the 256 and 512 bytes that they were meant for.
SIZES = (
    _codec("codec_160", 28, 4, 156),
    _codec("codec_224", 28, 4, 206),
    _codec("codec_240", 28, 4, 216),
    _codec("codec_480", 28, 4, 450),
    _codec("codec_500", 28, 4, 466),
)
CODECS = (*SIZES, *BITS)
IMAGES = (*_images("webp", 10, 30, 50), *_images("jpeg", 20, 30, 50, 75))
VARIANTS = (PLAIN, *CODECS, *IMAGES)


@contextmanager
def taken(folder: Path) -> Iterator[bool]:
    """Whether this process has the unit to itself; it lets go of it in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def trained(variant: Variant, runs: Path, base: Path, data: Path) -> Run:
    """The finished run of a variant, trained here as far as it is not yet."""
    out = runs / variant.name
    if not (out / "provenance.json").exists():
        # Beside the run, for a run copies its recipe into itself.
        recipe = runs / f"{variant.name}.toml"
        text = (base / "recipe.toml").read_text(encoding="utf-8")
        recipe.write_text(variant.recipe(text), encoding="utf-8")
        train(
            recipe,
            out,
            folder=data,
            weights_from=base,
            resume=(out / "recipe.toml").exists(),
            command=f"python -m benchmarks.wire --only {variant.name}",
        )
    return open_run(out)
