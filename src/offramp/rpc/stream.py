"""The caller's side of one stream to one tier; clients and uplinks are both built on it.

    ask() -> Pending -> Exchange on the open stream -> tier
      |                     |
      +<----- reply --------+

The stream is opened anew with backoff when it breaks; what was under way on it fails with TierUnavailable.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from offramp.errors import DeadlineExceeded, DegradedReason, InvalidInput, TierUnavailable
from offramp.rpc.exchange import CountBytes, Exchange
from offramp.rpc.messages import ENVELOPE_BYTES, Sample
from offramp.rpc.payload import payload_bytes
from offramp.rpc.pending import Pending, Reply
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.rpc.v1 import tier_pb2_grpc

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How to reach a tier: message limit, reconnection backoff, and how soon a silent peer counts as dead."""

    message_bytes: int = 4 * 2**20
    first_backoff_s: float = 0.05
    most_backoff_s: float = 2.0
    keepalive_s: float = 10.0
    keepalive_timeout_s: float = 5.0

    def channel_arguments(self) -> list[tuple[str, int]]:
        """The same, as gRPC's channel arguments."""
        return [
            ("grpc.max_send_message_length", self.message_bytes),
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.keepalive_time_ms", round(self.keepalive_s * 1e3)),
            ("grpc.keepalive_timeout_ms", round(self.keepalive_timeout_s * 1e3)),
            ("grpc.initial_reconnect_backoff_ms", round(self.first_backoff_s * 1e3)),
            ("grpc.max_reconnect_backoff_ms", round(self.most_backoff_s * 1e3)),
        ]


def _stub(channel: grpc.aio.Channel) -> Any:
    return tier_pb2_grpc.TierStub(channel)  # type: ignore[no-untyped-call]


class TierStream:
    """One stream to the tier at `target` (HOST:PORT). Start it in a running event loop; close it when done."""

    def __init__(
        self,
        target: str,
        options: StreamOptions | None = None,
        *,
        count_bytes: CountBytes = lambda _direction, _count: None,
    ) -> None:
        self.target = target
        self._count_bytes = count_bytes
        self._options = options or StreamOptions()
        self._pending = Pending()
        self._connected = asyncio.Event()
        self._credits = 0
        self._closed = False
        self._channel: grpc.aio.Channel | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the tier has granted credits on a stream that is open."""
        return self._connected.is_set() and not self._closed

    def start(self) -> None:
        """Open the channel and keep a stream on it until close()."""
        self._channel = grpc.aio.insecure_channel(self.target, self._options.channel_arguments())
        self._task = asyncio.create_task(self._keep_open(), name=f"stream to {self.target}")

    async def wait_connected(self, timeout_s: float) -> None:
        """Return once the stream is open. Raises TierUnavailable after timeout_s, or once this side has closed it."""
        try:
            await asyncio.wait_for(self._connected.wait(), timeout_s)
        except TimeoutError:
            raise TierUnavailable(
                "unreachable", f"{self.target} does not answer within {timeout_s:g} s"
            ) from None
        if self._closed:
            raise TierUnavailable("unreachable", f"the stream to {self.target} is closed")

    async def describe(self, timeout_s: float = 5.0) -> pb.DescribeResponse:
        """What the tier holds. Raises TierUnavailable."""
        if self._channel is None or self._closed:
            raise TierUnavailable("unreachable", f"the stream to {self.target} is not open")
        try:
            response: pb.DescribeResponse = await _stub(self._channel).Describe(
                pb.DescribeRequest(), timeout=timeout_s, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as exc:
            raise TierUnavailable("unreachable", f"{self.target}: {exc.code().name}") from exc
        return response

    async def ask(self, sample: Sample, deadline: float) -> Reply:
        """The tier's answer, waited for until `deadline`, a time of time.monotonic().

        Raises TierUnavailable at once where the stream is down or its credits are used up; InvalidInput for a payload
        over the message limit; DeadlineExceeded; and whatever the tier's status stands for. A sample that is given up
        is cancelled at the tier.
        """
        if not self.is_connected:
            raise TierUnavailable("unreachable", f"{self.target} is not connected")
        if len(self._pending) >= self._credits:
            raise TierUnavailable("overloaded", f"{self.target} grants no more credits")
        size, limit = payload_bytes(sample.payload), self._options.message_bytes - ENVELOPE_BYTES
        if size > limit:
            raise InvalidInput("payload", f"{size} bytes, over the limit of {limit} in a message")
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("no time left for the hop")
        asked = self._pending.add(sample, deadline)
        try:
            async with asyncio.timeout(left_s):
                return await asked.reply
        except TimeoutError:
            raise DeadlineExceeded(f"{self.target} did not answer in time") from None
        finally:
            self._pending.drop(asked)

    async def close(self) -> None:
        """End the stream; what is under way fails with TierUnavailable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._closed = True
        self._connected.set()  # whoever waits for a connection waits in vain
        if self._channel is not None:
            await self._channel.close()

    async def _keep_open(self) -> None:
        backoff_s = self._options.first_backoff_s
        while True:
            reason: DegradedReason = "unreachable"
            text = "the tier ended the stream"
            try:
                await self._converse()
            except grpc.aio.AioRpcError as exc:
                text = f"{exc.code().name}: {exc.details()}"
                if exc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:  # a message over its limit
                    reason = "overloaded"
            except InvalidInput as exc:
                text = f"it sent nonsense: {exc}"
            except Exception:
                logger.exception("the stream to %s failed", self.target)
                text = "a fault of this side; its log has the cause"
            finally:
                if self.is_connected:
                    backoff_s = self._options.first_backoff_s
                self._connected.clear()
                self._pending.fail_all(reason, f"{self.target}: {text}")
            logger.info("stream to %s is down (%s)", self.target, text)
            await asyncio.sleep(backoff_s * random.uniform(0.8, 1.2))  # noqa: S311
            backoff_s = min(2 * backoff_s, self._options.most_backoff_s)

    async def _converse(self) -> None:
        call = _stub(self._channel).Stream(wait_for_ready=True)
        first = await call.read()
        if not isinstance(first, pb.Response):
            return  # ended before it began
        self._credits = first.credits
        self._connected.set()
        logger.info("stream to %s is open, %d credits", self.target, self._credits)
        exchange = Exchange(
            call,
            self._pending,
            message_bytes=self._options.message_bytes,
            count_bytes=self._count_bytes,
        )
        await exchange.run(first)
