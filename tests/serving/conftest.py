"""Bundles by hand, and programs that serve them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")

from tests.serving import toy
from tests.serving.pki import Pki
from tests.serving.tiers import Program


@pytest.fixture(scope="session")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle "scores" of toy.py. Not to be changed."""
    return toy.scores_bundle(tmp_path_factory.mktemp("bundles") / "scores")


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle "raw" of toy.py. Not to be changed."""
    return toy.raw_bundle(tmp_path_factory.mktemp("bundles") / "raw")


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Everybody's certificates, one that has expired, and those of strangers. Not to be changed."""
    made = Pki(tmp_path_factory.mktemp("pki") / "made")
    made.make()
    made.make("expired", days=-1)
    Pki(made.folder / "others").make()
    return made


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Starts programs that are killed, where they still run, when the test ends."""
    started: list[Program] = []

    def begin(tier: str, bundle: Path, *flags: str, **options: Any) -> Program:
        started.append(Program(tier, bundle, *flags, **options))
        return started[-1]

    yield begin
    for one in started:
        one.kill()
