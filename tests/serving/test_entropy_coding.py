"""Boundaries whose codes are entropy-coded say across real tiers what the packed ones say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.tiers import running
from tests.serving.toy import SURE_AT, pixels
from tests.serving.wire import calling, sample, tensors

from offramp.bundle import Boundary, Manifest, Network, load_bundle, write_manifest
from offramp.client import AsyncClient
from offramp.rpc import Answer, Tier
from offramp.wire import Coding


def table(*likely: int) -> tuple[int, ...]:
    """Counts of 16 codes, of which these are likely."""
    share = (4096 - 16 + len(likely)) // len(likely)
    return tuple(share if code in likely else 1 for code in range(16))


# The codes that the images of SURE_AT have: 0 but for the second, 9 or 1, and the seventh, 9.
COUNTS = (table(0), table(1, 9), table(0), table(0), table(0), table(0), table(9))
UNLIKELY = pixels((1, 0, 0), (3, 5, 7), (2, 4, 9))


@pytest.fixture(scope="module")
def coded(scores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle "scores" with tables for its codes."""
    folder = tmp_path_factory.mktemp("coded") / "scores"
    shutil.copytree(scores, folder)
    manifest = load_bundle(folder).manifest
    first, codes, last = manifest.network.boundaries
    with_tables = Boundary(**{**dict(codes), "coding": Coding(COUNTS)})
    network = {**dict(manifest.network), "boundaries": (first, with_tables, last)}
    write_manifest(folder, Manifest(**{**dict(manifest), "network": Network(**network)}))
    return folder


async def answers(bundle: Path) -> list[Answer]:
    async with (
        running(Tier.CLOUD, bundle, 2) as cloud,
        running(Tier.FOG, bundle, 1, cloud.listen) as fog,
        running(Tier.DEVICE, bundle, 0, fog.listen) as device,
        AsyncClient(device.listen) as client,
    ):
        return [await client.infer(image) for image in (*SURE_AT, UNLIKELY)]


def told(answer: Answer) -> tuple[Any, ...]:
    legs = [leg.tier for leg in answer.trail]
    return answer.label, answer.exit, answer.tier, answer.degraded, legs


async def test_three_tiers_give_the_same_answers_with_and_without_coding(
    scores: Path, coded: Path
) -> None:
    packed, shorter = await answers(scores), await answers(coded)
    assert list(map(told, packed)) == list(map(told, shorter))
    for one, other in zip(packed, shorter, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    up = [
        (one.trail[-1].bytes_up, other.trail[-1].bytes_up)
        for one, other in zip(packed[1:], shorter[1:], strict=True)
    ]
    # 4 bytes packed; likely codes are 3, and unlikely ones stay as they were. The first message of a
    # stream also says its names, so the sizes are compared and not given.
    assert [before - after for before, after in up] == [1.0, 1.0, 0.0]


async def test_tables_make_another_network(scores: Path, coded: Path) -> None:
    assert load_bundle(scores).digest != load_bundle(coded).digest


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "payload.tensors[0].data"),
        (b"\x07\xff\xff", "payload.tensors[0].data"),
        (b"\x00" * 3, "payload.tensors[0].data"),
        (b"\x00" * 5, "payload.tensors[0].data"),
        (b"\x00" * 100_000, "payload.tensors[0].data"),
    ],
)
async def test_bytes_that_no_coder_wrote_are_refused_and_the_stream_goes_on(
    coded: Path, data: bytes, field: str
) -> None:
    async with running(Tier.CLOUD, coded, 2) as cloud, calling(cloud.listen) as caller:
        await caller.say(sample(0, boundary=1, payload=tensors(data)))
        assert await caller.status(0) == ("INVALID_ARGUMENT", field)
        (result,) = await caller.ask(sample(1, SURE_AT[1]))
        assert result.answer.label == 1
