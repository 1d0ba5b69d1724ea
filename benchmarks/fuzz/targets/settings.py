"""A settings file, and after zero bytes variables of the environment: settings, or InvalidSettings naming the key."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.fuzz.places import MEMORY, ROOT
from offramp.errors import InvalidSettings
from offramp.serving.reading import read_settings
from offramp.serving.settings import Address, PlanSettings, TierSettings

MESSAGE, BETWEEN, MOST_BYTES = None, b"", 1024
DICTIONARY = (
    *("[uplink]", "[limits]", "[plan]", "[inference]", "address", "last_stage", "message_bytes"),
    *("bundle", "in_flight", "policy", "provider", "optimisation", "log_level", "true", "= ", '"'),
    *("F_UPLINK__ADDRESS=", "F_PLAN=", "1e400", "nan", "inf", "0x", "1979-05-27T07:32:00Z", "[["),
)


class _Settings(TierSettings):
    """A tier's; those of the three programs differ from it in their defaults."""

    listen: Address = "127.0.0.1:7101"
    metrics: Address = "127.0.0.1:9101"
    plan: PlanSettings = PlanSettings()


def seeds() -> list[bytes]:
    """The files of the three tiers, and one with variables."""
    files = [ROOT / tier / f"{tier}.toml" for tier in ("device", "fog", "cloud")]
    more = b'bundle = "b"\n[inference]\nthreads = 2\n\0F_PLAN__LAST_STAGE=1\0F_UPLINK__ADDRESS=a:1'
    return [*(file.read_bytes() for file in files), more]


@contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    """A file in memory."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as temporary:
        file = Path(temporary, "tier.toml")

        def read(data: bytes) -> None:
            content, *variables = data.split(b"\0")
            file.write_bytes(content)
            pairs = (one.decode(errors="replace").partition("=") for one in variables)
            environment = {name: value for name, _, value in pairs}
            with suppress(InvalidSettings):
                read_settings(_Settings, file=file, environment=environment, prefix="F_", flags={})

        yield read
