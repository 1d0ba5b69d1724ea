"""The asyncio client: one stream to a tier, any number of samples under way."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType

from offramp.address import checked_address
from offramp.client.inputs import Image, payload_of
from offramp.errors import DeadlineExceeded, OfframpError
from offramp.rpc import (
    Answer,
    Origin,
    Payload,
    Sample,
    SampleId,
    StreamOptions,
    TierStream,
    Tls,
)
from offramp.rpc.pending import CallbackFailed
from offramp.rpc.results import read_results, release_results
from offramp.rpc.stored import Stored
from offramp.rpc.v1 import tier_pb2 as pb


@dataclass(frozen=True, slots=True)
class Timed:
    """One of many: its place among the inputs, the answer or the error, and the seconds it took the caller."""

    index: int
    outcome: Answer | OfframpError
    latency_s: float


async def _payload_within(image: Image, timeout_s: float) -> Payload:
    """The payload of an input; a file is read in a thread. Raises DeadlineExceeded where that takes too long."""
    if not isinstance(image, (Path, str)):
        return payload_of(image)
    try:
        return await asyncio.wait_for(asyncio.to_thread(payload_of, image), timeout_s)
    except TimeoutError:
        raise DeadlineExceeded(f"{image} was not read within {timeout_s:g} s") from None


class AsyncClient:
    """Asks the tier at `target` (HOST:PORT), with `tls` where it has TLS on. Use as an async context manager.

    Raises InvalidInput naming `address` where the target is none.

    async with AsyncClient("localhost:7101") as client:
        answer = await client.infer(Path("shoe.png"), deadline_s=0.2)
    """

    def __init__(
        self,
        target: str,
        *,
        name: str = "",
        network: str = "",
        policy: str = "",
        options: StreamOptions | None = None,
        tls: Tls | None = None,
    ) -> None:
        checked_address("address", target)
        options = options or StreamOptions()
        self._stream = TierStream(target, options if tls is None else replace(options, tls=tls))
        self._origin = Origin(name or socket.gethostname(), secrets.randbits(64))
        self._sequence = itertools.count()
        self._network, self._policy = network, policy

    async def __aenter__(self) -> AsyncClient:
        self._stream.start()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self._stream.close()

    async def describe(self, timeout_s: float = 5.0) -> pb.DescribeResponse:
        """What the tier holds and how far it goes. Raises TierUnavailable, after timeout_s at the latest."""
        return await self._stream.describe(timeout_s)

    async def results(
        self,
        *,
        after: int = 0,
        follow: bool = False,
        waiting: bool = False,
        inputs: bool = False,
        timeout_s: float = 5.0,
    ) -> AsyncGenerator[Stored, None]:
        """What the tier has kept of samples that it answered degraded: the results behind a cursor, in their order.

        follow: those to come as well, for ever; waiting: first those that wait for their full answer; inputs: with
        what their callers sent; timeout_s: for the connection. Raises TierUnavailable, and TierFailed where the tier
        keeps nothing.
        """
        await self._stream.wait_connected(timeout_s)
        request = pb.ResultsRequest(after=after, follow=follow, waiting=waiting, inputs=inputs)
        async with aclosing(read_results(self._stream.channel, request)) as found:
            async for stored in found:
                yield stored

    async def release(self, upto: int, timeout_s: float = 5.0) -> int:
        """Let the tier drop its results up to that cursor; how many that were. Raises as results() does."""
        await self._stream.wait_connected(timeout_s)
        return await release_results(self._stream.channel, upto, timeout_s)

    async def infer(
        self,
        image: Image,
        *,
        deadline_s: float = 5.0,
        policy: str | None = None,
        local: bool = False,
        early: Callable[[Answer], None] | None = None,
    ) -> Answer:
        """The answer to one image within deadline_s; reading a file, connecting and waiting for room are part of it.

        policy: an exit policy's name or id in place of the client's; local: the answer of the exit at hand, without
        a hop; early: is called with the answer so far, where the tier hands the sample on. Raises InvalidInput,
        BundleMismatch, TierUnavailable, DeadlineExceeded or TierFailed, and what `early` raises.
        """
        deadline = time.monotonic() + deadline_s
        payload = await _payload_within(image, deadline_s)
        await self._stream.wait_room(deadline - time.monotonic())
        sample = Sample(
            id=SampleId(self._origin, next(self._sequence)),
            boundary=0,
            network=self._network,
            policy=self._policy if policy is None else policy,
            deadline=deadline,
            payload=payload,
            local=local,
            early=early is not None,
        )
        try:
            answer = (await self._stream.ask(sample, deadline, early)).answer
        except CallbackFailed as exc:
            raise exc.cause from exc.cause.__cause__  # as it was raised
        return answer._replace(id=sample.id) if answer.stored else answer

    async def infer_many(
        self,
        images: Iterable[Image],
        *,
        in_flight: int = 8,
        deadline_s: float = 5.0,
        policy: str | None = None,
        local: bool = False,
        early: Callable[[int, Answer], None] | None = None,
    ) -> AsyncGenerator[Timed, None]:
        """The outcome of every image as it becomes ready, with so many under way at once (closed loop).

        early: is called with the place among the images and the answer so far, of each that is handed on.
        Raises ValueError where in_flight is below 1, and whatever iterating over the images, or `early`, raises.
        """
        if in_flight < 1:
            raise ValueError(f"in_flight: {in_flight} is below 1")
        inputs = enumerate(images)
        outcomes: asyncio.Queue[Timed | asyncio.Task[None]] = asyncio.Queue()

        async def one_after_another() -> None:
            for index, image in inputs:
                began = time.monotonic()
                outcome: Answer | OfframpError
                try:
                    outcome = await self.infer(
                        image,
                        deadline_s=deadline_s,
                        policy=policy,
                        local=local,
                        early=None if early is None else partial(early, index),
                    )
                except OfframpError as exc:
                    outcome = exc
                    await asyncio.sleep(0)  # some come without any wait, and others want to run
                outcomes.put_nowait(Timed(index, outcome, time.monotonic() - began))

        tasks = [asyncio.create_task(one_after_another()) for _ in range(in_flight)]
        for task in tasks:
            task.add_done_callback(outcomes.put_nowait)
        try:
            running = in_flight
            while running:
                outcome = await outcomes.get()
                if isinstance(outcome, Timed):
                    yield outcome
                else:
                    outcome.result()  # raises what the images, or `early`, raised
                    running -= 1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
