"""One deployment against the baselines, all measured in the same run on the same images.

three_tier     device 0 | fog 1 | cloud 2, the bundle's own policy
first_exit     the same tiers, everybody leaves at the first exit
plain_split    the same tiers, nobody leaves before the last exit
all_device     every stage on the device, the last exit answers
cloud_png      the image as PNG through the same hops, every stage in the cloud, the last exit answers
cloud_jpeg     the same with JPEG of quality 75
cloud_raw      in place of these two, where the network takes raw tensors and no images: the tensor itself
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle
from offramp.client import AsyncClient, Timed
from offramp.client.inputs import Image
from offramp.evaluation.deployment import Deployment
from offramp.evaluation.figures import Figures, RunFigures, figures_of
from offramp.rpc import EncodedImage
from offramp.wire import encode_image

WARM_UP = (
    200  # images before the clock starts: sessions, streams and names are then as they will stay
)
DEADLINE_S = 30.0  # far from any measured latency: no answer here is cut short

Form = Literal["raw", "png", "jpeg"]
Watch = Callable[[str, Timed], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to answer: where the stages run, by which policy, from which form of the image.

    alone: over how many images it is measured with one in flight as well.
    """

    name: str
    last_stages: tuple[tuple[str, int], ...]
    policy: str = ""
    form: Form = "raw"
    alone: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """All images; over loopback, fewer of them with one in flight as well.

    unanswered: images whose time ran out without an answer; they are in none of the figures.
    """

    run: RunFigures
    alone: RunFigures | None = None
    unanswered: int = 0


def arms(stages: int, *, of_images: bool = True, policies: Sequence[str] = ()) -> tuple[Arm, ...]:
    """The deployment and its baselines for a network of that many stages, those of one deployment side by side.

    policies: more of the bundle's to deploy, each an arm of its name.
    """
    last = stages - 1
    split = (("device", 0), ("fog", min(1, last)), ("cloud", last))
    cloud = (("device", -1), ("fog", -1), ("cloud", last))
    forms: tuple[Form, ...] = ("png", "jpeg") if of_images else ("raw",)
    return (
        Arm(name="three_tier", last_stages=split, alone=1000),
        *(Arm(name=policy, last_stages=split, policy=policy) for policy in policies),
        Arm(name="first_exit", last_stages=split, policy="first-exit"),
        Arm(name="plain_split", last_stages=split, policy="final-exit"),
        Arm(name="all_device", last_stages=(("device", last),), policy="final-exit"),
        *(
            Arm(name=f"cloud_{form}", last_stages=cloud, policy="final-exit", form=form)
            for form in forms
        ),
    )


def encoded(images: NDArray[Any], form: Form) -> list[Image]:
    """The samples in that form, images (N, H, W, C) unless it is raw: N."""
    if form == "raw":
        return list(images)
    media_type = f"image/{form}"
    return [EncodedImage(encode_image(image, media_type), media_type) for image in images]


def compare(
    bundle: Bundle,
    images: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    in_flight: int = 8,
    watch: Watch = lambda _arm, _timed: None,
) -> dict[str, ArmResult]:
    """Every arm's result, by name. Starts and stops the tiers; `watch` sees each outcome as it arrives.

    images: (N, H, W, C) uint8, or raw (N, ...); labels: (N,).
    """
    results = {}
    network = bundle.manifest.network
    measured = arms(len(network.stages), of_images=network.preparation is not None)
    for last_stages, group in by_deployment(measured):
        with Deployment(bundle.folder, dict(last_stages)) as deployment:
            for arm in group:
                inputs = encoded(images, arm.form)
                results[arm.name] = asyncio.run(
                    _measure(arm, deployment.device, inputs, labels, in_flight, watch)
                )
    return results


def by_deployment(
    all_arms: Sequence[Arm],
) -> Iterator[tuple[tuple[tuple[str, int], ...], list[Arm]]]:
    """The arms that can share their processes, and the last stage of each tier there."""
    for last_stages in dict.fromkeys(arm.last_stages for arm in all_arms):
        yield last_stages, [arm for arm in all_arms if arm.last_stages == last_stages]


async def _measure(
    arm: Arm,
    device: str,
    inputs: Sequence[Image],
    labels: NDArray[np.int64],
    in_flight: int,
    watch: Watch,
) -> ArmResult:
    async with AsyncClient(device, name="demo", policy=arm.policy) as client:

        async def run(some: Sequence[Image], at_once: int, seen: Watch) -> list[Timed]:
            outcomes = []
            async for timed in client.infer_many(some, in_flight=at_once, deadline_s=DEADLINE_S):
                outcomes.append(timed)
                seen(arm.name, timed)
            return outcomes

        await run(inputs[:WARM_UP], in_flight, lambda _arm, _timed: None)
        together = await run(inputs, in_flight, watch)
        singly = await run(inputs[: arm.alone], 1, lambda _arm, _timed: None)
    return ArmResult(run=figures_of(together, labels), alone=figures_of(singly, labels))


def as_json(bundle: Bundle, results: Mapping[str, ArmResult]) -> dict[str, object]:
    """The same figures as one object: bundle, tiers, overall, baselines."""
    three = results["three_tier"]
    alone = three.alone.tiers if three.alone else {}
    return {
        "bundle": {"name": bundle.manifest.name, "network": bundle.digest}
        | {"policy": bundle.manifest.policies[0].id},
        "tiers": {
            name: _figures_json(figures, alone.get(name))
            for name, figures in three.run.tiers.items()
        },
        "overall": overall_json(three),
        "baselines": {
            name: overall_json(result) for name, result in results.items() if name != "three_tier"
        },
    }


def overall_json(result: ArmResult) -> dict[str, object]:
    """An arm's figures over all tiers, with the numbers of degraded answers and of missing ones."""
    figures = _figures_json(result.run.overall, result.alone.overall if result.alone else None)
    return figures | {"degraded": result.run.degraded, "unanswered": result.unanswered}


def _figures_json(together: Figures, alone: Figures | None) -> dict[str, object]:
    if alone is None:
        return asdict(together)
    keys = ("p50_ms", "p95_ms", "p99_ms", "bytes_up_per_sent")
    return asdict(together) | {"one_in_flight": {key: getattr(alone, key) for key in keys}}
