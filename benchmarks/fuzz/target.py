"""The targets by name, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from benchmarks.fuzz.places import CORPUS


class Target(Protocol):
    """What a module of `benchmarks.fuzz.targets` has."""

    MESSAGE: (
        Any  # what an input is, to change it as that: a kind of message, "json", or None for bytes
    )
    BETWEEN: bytes  # what lies between two messages of one input
    MOST_BYTES: int  # of an input
    DICTIONARY: tuple[str, ...]  # words worth putting in

    def seeds(self) -> list[bytes]:
        """Real inputs to begin with."""

    def opened(self) -> AbstractContextManager[Callable[[bytes], None]]:
        """What takes an input: it returns where all is as it should be, and raises where not."""


# What is tried, by name, and its share of the time.
TARGETS = {
    "requests": ("the service: what a caller sends", 3),
    "responses": ("the service: what a tier above says", 2),
    "payloads": ("tensors, codes and images", 2),
    "manifests": ("manifest.json", 2),
    "sums": ("SHA256SUMS", 1),
    "stages": ("the check of a stage", 2),
    "settings": ("settings files and variables", 2),
    "profiles": ("profiles of links and machines", 1),
}


def target(name: str) -> Target:
    """The target of that name."""
    return cast("Target", import_module(f"benchmarks.fuzz.targets.{name}"))


def corpus(name: str) -> list[Path]:
    """The inputs that are kept of a target."""
    return sorted((CORPUS / name).iterdir()) if (CORPUS / name).is_dir() else []
