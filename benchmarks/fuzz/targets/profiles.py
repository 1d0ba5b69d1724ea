"""A file of YAML as the profile of a link and as that of a machine: a profile, or InvalidInput naming the key."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.fuzz.places import MEMORY, ROOT
from offramp.errors import InvalidInput
from offramp.links.profile import load_profile
from offramp.serving.tier_profile import read_tier_profile

MESSAGE, BETWEEN, MOST_BYTES = None, b"", 2048
DICTIONARY = (
    "value:",
    "tag:",
    "source:",
    "measured",
    "slowdown:",
    "&a",
    "*a",
    "<<:",
    "!!",
    "2001-99-99",
)


def seeds() -> list[bytes]:
    """Those that are short, and the beginnings of others."""
    links = [ROOT / "deploy/links" / f"{name}.yaml" for name in ("metro-fibre", "wan-region")]
    machines = sorted((ROOT / "deploy/tiers").glob("*.yaml"))
    return [file.read_bytes()[:MOST_BYTES] for file in (*links, *machines)]


@contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    """A file in memory."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as temporary:
        file = Path(temporary, "profile.yaml")

        def read(data: bytes) -> None:
            file.write_bytes(data)
            with suppress(InvalidInput):
                load_profile(str(file))
            with suppress(InvalidInput):
                read_tier_profile(str(file))

        yield read
