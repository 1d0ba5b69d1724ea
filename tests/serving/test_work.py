"""A batch in a stage: whatever its samples come as, each has what it would have had alone."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.serving.toy import SURE_AT

from offramp.bundle import load_bundle
from offramp.errors import InvalidInput
from offramp.rpc import EncodedImage, Origin, Payload, Sample, SampleId, TensorBytes
from offramp.serving.held import Held, Plan
from offramp.serving.runner import StageRunner
from offramp.serving.work import Work, run_stage
from offramp.wire import encode_image

NUMBERS = itertools.count()
FLAGS = TensorBytes(bytes(4))


def png(image: NDArray[np.uint8]) -> EncodedImage:
    return EncodedImage(encode_image(image, "image/png"), "image/png")


def plain(*tensors: NDArray[np.generic]) -> tuple[TensorBytes, ...]:
    return tuple(TensorBytes(tensor.tobytes()) for tensor in tensors)


def scores_of(*values: float) -> tuple[TensorBytes, ...]:
    return (*plain(np.array(values, np.float32)), FLAGS)


class Tier:
    """A bundle with all its stages open, and no batcher."""

    def __init__(self, folder: Path) -> None:
        bundle = load_bundle(folder)
        self.manifest = bundle.manifest
        stages = tuple(range(len(self.manifest.network.stages)))
        self.runner = StageRunner(bundle, stages)
        self.held = Held(
            bundle=bundle,
            own_policy=self.manifest.policies[0],
            plan=Plan(last_stage=stages[-1]),
            stages=stages,
            batcher=Mock(),
        )

    def works(self, boundary: int, *payloads: Payload) -> list[Work]:
        samples = [
            Sample(SampleId(Origin("x", 1), next(NUMBERS)), boundary, "", "", 1e9, payload)
            for payload in payloads
        ]
        return [Work(self.held, one, self.held.own_policy, boundary) for one in samples]

    def run(self, stage: int, works: list[Work]) -> list[Exception | None]:
        return run_stage(self.runner, self.manifest, stage, works)


@pytest.fixture
def tier(scores: Path) -> Tier:
    return Tier(scores)


def labels(works: list[Work]) -> list[int]:
    return [work.best.label for work in works if work.best is not None]


@pytest.mark.parametrize("form", ["tensors", "images", "both"])
def test_tensors_and_images_come_in_one_batch(tier: Tier, form: str) -> None:
    sure = [np.roll(SURE_AT[0], k, axis=1) for k in range(3)]
    images = [png(image) if form != "tensors" else plain(image) for image in sure]
    if form == "both":
        images[1] = plain(sure[1])
    works = tier.works(0, *images)
    assert tier.run(0, works) == [None] * 3
    assert labels(works) == [0, 1, 2]


def test_boundaries_of_several_tensors_and_packed_ones(tier: Tier) -> None:
    works = tier.works(2, scores_of(9, 0, 0), scores_of(0, 9, 0), scores_of(0, 0, 9))
    assert tier.run(2, works) == [None] * 3
    assert labels(works) == [0, 1, 2]
    packed = tier.works(
        1, *(plain(np.array([a, b, 0, 0], np.uint8)) for a, b in ((0x90, 0), (0x09, 0)))
    )
    assert tier.run(1, packed) == [None] * 2
    assert labels(packed) == [0, 1]


def test_what_was_computed_here_and_what_has_just_come_are_one_batch(tier: Tier) -> None:
    here = tier.works(0, plain(SURE_AT[1]))
    assert tier.run(0, here) == [None]
    works = here + tier.works(1, plain(np.array([0x90, 0, 0, 0], np.uint8)))
    assert tier.run(1, works) == [None] * 2
    assert labels(works) == [1, 0]


BROKEN: dict[str, tuple[int, Payload, Payload]] = {
    "a broken image": (0, plain(SURE_AT[0]), EncodedImage(b"\x89PNG\r\n", "image/png")),
    "a number that is none": (2, scores_of(9, 0, 0), scores_of(np.nan, 0, 0)),
    "padding that is set": (
        1,
        plain(np.array([0x90, 0, 0, 0], np.uint8)),
        plain(np.array([0x90, 0, 0, 1], np.uint8)),
    ),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("alone", [False, True])
def test_a_bad_payload_is_refused_by_itself_and_holds_nothing(
    tier: Tier, what: str, alone: bool
) -> None:
    stage, sound, broken = BROKEN[what]
    with no_collections():
        works = tier.works(stage, *([broken] if alone else [sound, broken, sound]))
        errors = tier.run(stage, works)
        wrong = errors.pop(0 if alone else 1)
        assert isinstance(wrong, InvalidInput)
        assert wrong.field.startswith("payload")
        assert errors == [None] * (0 if alone else 2)
        assert labels(works) == [0] * (0 if alone else 2)
        del works, errors, wrong
        assert not [one for one in gc.get_objects() if type(one) is Work]


def test_one_that_the_stage_cannot_take_is_refused_by_itself(
    tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tier.runner.run

    def choosy(stage: int, tensors: list[NDArray[np.generic]]) -> object:
        if (tensors[0] == 255).any():
            raise RuntimeError("an index out of range")
        return run(stage, tensors)

    monkeypatch.setattr(tier.runner, "run", choosy)
    odd = np.full((4, 4, 1), 255, np.uint8)
    with no_collections():
        works = tier.works(0, plain(SURE_AT[0]), plain(odd), plain(SURE_AT[0]))
        first, wrong, last = tier.run(0, works)
        assert (first, last) == (None, None)
        assert isinstance(wrong, InvalidInput)
        assert "cannot compute" in str(wrong)
        assert labels(works) == [0, 0]
        del works, first, wrong, last
        assert not [one for one in gc.get_objects() if type(one) is Work]


@contextmanager
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
