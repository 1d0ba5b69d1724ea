"""What a caller may send on a stream: messages one after the other, to a tier with the example's first two stages.

Whatever they are, the tier says one final result to each sample that was not cancelled, none of them a fault of its
own, or ends the stream with InvalidInput; and has nothing under way afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import numpy as np

from benchmarks.fuzz.complaints import complaining
from benchmarks.fuzz.places import EXAMPLE
from offramp.bundle import Bundle, load_bundle
from offramp.errors import InvalidInput
from offramp.rpc import Tier
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.serving.batching import Batcher
from offramp.serving.conversation import Conversation
from offramp.serving.engine import Engine
from offramp.serving.held import Held, Plan
from offramp.serving.runner import StageRunner
from offramp.serving.settings import Limits
from offramp.serving.store import NoStore
from offramp.serving.uplink import NoUplink
from offramp.serving.work import run_stage
from offramp.telemetry import TierMetrics
from offramp.wire import encode_image

MESSAGE, BETWEEN, MOST_BYTES = pb.Request, b"\xde\xad\xbe\xef", 4096
DICTIONARY = (
    "image/png",
    "image/jpeg",
    "image/webp",
    "uint8",
    "float32",
    "calibrated",
    "everything",
)
_STAGES, _FAULT = (0, 1), grpc.StatusCode.INTERNAL.value[0]


def _names(*more: pb.Name) -> list[pb.Name]:
    named = [pb.Name(network=""), pb.Name(policy=""), pb.Name(origin=pb.Origin(device="f", run=1))]
    return [*named, *more]


def _sample(sequence: int, boundary: int = 0, **more: Any) -> pb.Sample:
    return pb.Sample(
        id=pb.SampleId(sequence=sequence), boundary=boundary, time_left_us=5_000_000, **more
    )


def seeds() -> list[bytes]:
    """Images and tensors at every boundary, several together, twice the same, a cancel, names that are not."""
    bundle = load_bundle(EXAMPLE)
    pixels = np.zeros((28, 28, 1), np.uint8)
    pixels[8:20, 8:20] = 200

    def tensors(boundary: int) -> pb.Payload:
        made = [
            pb.Tensor(data=bytes(one.size_bytes))
            for one in bundle.manifest.network.boundaries[boundary].tensors
        ]
        return pb.Payload(tensors=pb.Tensors(tensors=made))

    def image(kind: str) -> pb.Payload:
        return pb.Payload(image=pb.Image(data=encode_image(pixels, kind), media_type=kind))

    policies = [
        pb.Name(number=k + 1, policy=p.name) for k, p in enumerate(bundle.manifest.policies)
    ]
    first = pb.Request(names=_names(*policies))
    asked = [_sample(k, k, payload=tensors(k)) for k in range(3)]
    images = [_sample(9, payload=image(f"image/{kind}")) for kind in ("png", "jpeg", "webp")]
    one = pb.Request(names=_names(), samples=asked[:1])
    typed = tensors(1)
    typed.tensors.tensors[0].dtype = "uint8"
    typed.tensors.tensors[0].shape.extend(bundle.manifest.network.boundaries[1].tensors[0].shape)
    streams = [
        [one],
        [first, *(pb.Request(samples=[sample]) for sample in asked)],
        *([first, pb.Request(samples=[sample])] for sample in images),
        [first, pb.Request(samples=asked[1:] + asked[1:])],
        [first, pb.Request(samples=[_sample(4, 1, payload=typed, policy=1, exit_state=b"\1")])],
        [first, pb.Request(samples=[_sample(5, local=True, payload=tensors(0), policy=2)])],
        [first, pb.Request(samples=asked, cancels=[pb.SampleId(sequence=1)])],
        [pb.Request(samples=[_sample(7, network=9, payload=tensors(0), traceparent=b"00-ab")])],
    ]
    return [BETWEEN.join(m.SerializeToString() for m in stream) for stream in streams]


class _Caller:
    """The other end of a stream: says what is in an input, and counts what it hears."""

    def __init__(self, data: bytes) -> None:
        self._parts = iter(data.split(BETWEEN))
        self.samples, self.cancels, self.finals = 0, 0, 0

    async def read(self) -> bytes | None:
        """The next message."""
        part = next(self._parts, None)
        if part is not None:
            await asyncio.sleep(0)  # results may come between two messages
        return part

    async def write(self, data: bytes) -> None:
        """A response, which must be one."""
        for result in pb.Response.FromString(data).results:
            self.finals += result.final
            if result.status.code == _FAULT:
                raise AssertionError(f"a fault of the tier: {result}")


def _asked(data: bytes) -> tuple[int, int]:
    """Samples and cancels in an input whose messages are all sound."""
    requests = [pb.Request.FromString(part) for part in data.split(BETWEEN)]
    return sum(len(r.samples) for r in requests), sum(len(r.cancels) for r in requests)


def _engine(bundle: Bundle) -> Engine:
    runner = StageRunner(bundle, _STAGES)
    took = runner.warm_up()
    metrics = TierMetrics("fog", _STAGES)
    stage = partial(run_stage, runner, bundle.manifest)
    held = Held(
        bundle=bundle,
        own_policy=bundle.manifest.policies[0],
        plan=Plan(last_stage=1),
        stages=_STAGES,
        batcher=Batcher(stage, most=8, metrics=metrics, took=took),
    )
    return Engine(
        tier=Tier.FOG,
        held=held,
        uplink=NoUplink(),
        metrics=metrics,
        most_in_flight=32,
        keeper=NoStore(),
    )


@contextmanager
def opened() -> Iterator[Callable[[bytes], None]]:
    """An engine, and a conversation with it for each input."""
    logging.disable(logging.CRITICAL)
    engine, limits = _engine(load_bundle(EXAMPLE)), Limits(message_bytes=2**16)
    with complaining() as loop:
        loop.call_soon(engine.held.batcher.start)

        async def converse(data: bytes) -> None:
            caller = _Caller(data)
            try:
                await Conversation(engine, limits).run(caller.read, caller.write)
            except InvalidInput:
                pass
            else:
                samples, cancels = _asked(data)
                if not samples - cancels <= caller.finals <= samples:
                    raise AssertionError(f"{caller.finals} final results to {samples} samples")
            if engine.in_flight:
                raise AssertionError(f"{engine.in_flight} samples are still under way")

        def talk(data: bytes) -> None:
            loop.run(converse(data))

        try:
            yield talk
        finally:
            engine.held.batcher.close()
            logging.disable(logging.NOTSET)
