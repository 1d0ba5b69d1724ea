"""What a tier's own Python costs where nothing else runs: messages in and out, without gRPC and without stages.

    pb.Request as bytes -> Conversation -> Engine -> Batcher -> the same outputs every time -> pb.Response as bytes

Between two samples of a real tier a stage computes and gRPC moves bytes, and the processor's caches forget this code;
here it is all that they have to hold. `python -m benchmarks.serving.alone MESSAGES` prints microseconds a sample, for
messages of one sample and of 32.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.network import prepare
from offramp.bundle import Bundle, load_bundle
from offramp.rpc import Tier
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.serving.batching import Batcher
from offramp.serving.conversation import Conversation
from offramp.serving.engine import Engine
from offramp.serving.held import Held, Plan
from offramp.serving.runner import StageOutputs, StageRunner
from offramp.serving.settings import Limits
from offramp.serving.store import NoStore
from offramp.serving.uplink import NoUplink
from offramp.serving.work import run_stage
from offramp.telemetry import TierMetrics

_ROUNDS, _WARM = 7, 50


class _SameAgain(StageRunner):
    """Answers a batch with what the first one of its size got."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, [0])
        self._known: dict[int, StageOutputs] = {}

    def run(self, stage: int, tensors: Sequence[NDArray[Any]]) -> StageOutputs:
        size = len(tensors[0])
        if size not in self._known:
            self._known[size] = super().run(stage, tensors)
        return self._known[size]


class _Caller:
    """Both ends of a stream, as a conversation sees it."""

    def __init__(self) -> None:
        self._requests: asyncio.Queue[bytes] = asyncio.Queue()
        self._answered = asyncio.Event()
        self._results = 0

    async def read(self) -> bytes:
        """The next request."""
        return await self._requests.get()

    async def write(self, data: bytes) -> None:
        """A response."""
        self._results += len(pb.Response.FromString(data).results)
        self._answered.set()

    async def ask(self, message: bytes, samples: int) -> None:
        """Return once all of them have their results."""
        self._results = 0
        self._requests.put_nowait(message)
        while self._results < samples:
            self._answered.clear()
            await self._answered.wait()


def _message(bundle: Bundle, image: NDArray[np.float32], first: int, count: int) -> bytes:
    policy = bundle.manifest.policies[0].id
    request = pb.Request()
    request.names.add(number=0, origin=pb.Origin(device="alone", run=1))
    request.names.add(number=0, network=bundle.digest)
    request.names.add(number=0, policy=policy)
    for sequence in range(first, first + count):
        sample = request.samples.add(time_left_us=30_000_000)
        sample.id.sequence = sequence
        sample.payload.tensors.tensors.add(data=image.tobytes())
    return bytes(request.SerializeToString())


def _engine(bundle: Bundle) -> tuple[Engine, Batcher]:
    metrics = TierMetrics("device", [0])
    stage = partial(run_stage, _SameAgain(bundle), bundle.manifest)
    batcher = Batcher(stage, most=32, metrics=metrics)
    held = Held(
        bundle=bundle,
        own_policy=bundle.manifest.policies[0],
        plan=Plan(last_stage=0),
        stages=(0,),
        batcher=batcher,
    )
    engine = Engine(
        tier=Tier.DEVICE,
        held=held,
        uplink=NoUplink(),
        metrics=metrics,
        most_in_flight=256,
        keeper=NoStore(),
    )
    return engine, batcher


async def sample_us(together: int, messages: int) -> float:
    """CPU microseconds a sample, so many in a message: the least of several rounds."""
    prepared = prepare()
    bundle = load_bundle(prepared.one)
    engine, batcher = _engine(bundle)
    batcher.start()
    caller = _Caller()
    conversation = Conversation(engine, Limits())
    serving = asyncio.create_task(conversation.run(caller.read, caller.write))
    sequence, rounds = 0, []
    for count in (_WARM, *[messages] * _ROUNDS):
        made = [
            _message(bundle, prepared.images[0], sequence + k * together, together)
            for k in range(count)
        ]
        sequence += count * together
        began = time.process_time()
        for message in made:
            await caller.ask(message, together)
        rounds.append((time.process_time() - began) / (count * together))
    serving.cancel()
    batcher.close()
    return min(rounds[1:]) * 1e6


if __name__ == "__main__":
    print(json.dumps([asyncio.run(sample_us(n, int(sys.argv[1]) // n)) for n in (1, 32)]))
