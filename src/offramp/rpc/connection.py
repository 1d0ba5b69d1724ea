"""The channel to one tier, given up for a new one where that helps, and the calls that are made on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from offramp.errors import TierUnavailable
from offramp.rpc.cancellation import closed_is_unavailable, is_cancelled
from offramp.rpc.options import StreamOptions
from offramp.rpc.tls import Refusal
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.rpc.v1 import tier_pb2_grpc

logger = logging.getLogger(__name__)
Refused = Callable[[Refusal, str], None]  # told of each, with the words for the log
SERVICE = pb.DESCRIPTOR.services_by_name["Tier"].full_name


class Connection:
    """To the tier at `target` (HOST:PORT). open() it in a running event loop; close it when done."""

    def __init__(self, target: str, options: StreamOptions, refused: Refused) -> None:
        self.target, self._options, self._refused = target, options, refused
        self.why_down = ""  # in the words of the log; "" where it is not, as far as is known
        self._channel: grpc.aio.Channel | None = None

    @property
    def is_secured(self) -> bool:
        """Whether with TLS. Each try to connect is then a channel of its own, to show what the files hold by then."""
        return self._options.tls is not None

    @property
    def channel(self) -> grpc.aio.Channel:
        """For calls beside the stream; open() has made it."""
        assert self._channel is not None, "opened before"  # noqa: S101
        return self._channel

    def open(self) -> grpc.aio.Channel | None:
        """Begin with a new channel; returns the one until now, to be closed."""
        old, self._channel = self._channel, self._options.open_channel(self.target)
        return old

    async def reopen(self) -> None:
        """After a try that failed: with TLS, begin with a new channel."""
        if self.is_secured and (old := self.open()) is not None:
            await old.close()

    async def close(self) -> None:
        """Let go."""
        if self._channel is not None:
            await self._channel.close()

    def stream(self, *, waits: bool) -> Any:
        """A call whose messages are bytes as they travel, so that their sizes are known for nothing.

        waits: for a connection; not with TLS, where gRPC is to tell why there is none.
        """
        waits = waits and not self.is_secured
        return self.channel.stream_stream(f"/{SERVICE}/Stream")(wait_for_ready=waits)

    async def describe(self, timeout_s: float) -> pb.DescribeResponse:
        """What the tier holds. Raises TierUnavailable."""
        stub: Any = tier_pb2_grpc.TierStub(self._channel)  # type: ignore[no-untyped-call]
        try:
            with closed_is_unavailable(f"{self.target}: the connection was given up"):
                response: pb.DescribeResponse = await stub.Describe(
                    pb.DescribeRequest(), timeout=timeout_s, wait_for_ready=True
                )
        except grpc.aio.AioRpcError as exc:
            text = f"{self.target}: {exc.code().name}"
            if exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                text = f"{self.target} does not answer within {timeout_s:.3g} s"
            raise TierUnavailable("unreachable", text) from exc
        return response

    async def wait_serving(self) -> bool:
        """Return once the tier's health is SERVING, with True, or its watch has ended, with False.

        True as well where it tells nobody.
        """
        channel = self._channel
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            asking = health_pb2.HealthCheckRequest(service=SERVICE)
            async for answer in stub.Watch(asking, wait_for_ready=True):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return True
        except grpc.aio.AioRpcError as exc:
            return exc.code() is grpc.StatusCode.UNIMPLEMENTED
        except asyncio.CancelledError:
            if channel is self._channel or is_cancelled():
                raise
        return False

    def went_down(self, text: str, error: grpc.aio.AioRpcError | None) -> bool:
        """Log it, once for each cause, and tell of a refusal; whether the tier refused the caller."""
        tls = self._options.tls
        refusal = tls.refusal(error) if tls is not None and error is not None else None
        if refusal is not None:
            self._refused(refusal, f"{self.target}: {text}")
        if text != self.why_down:
            logger.info("stream to %s is down (%s)", self.target, text)
        self.why_down = text
        return refusal in ("identity", "token")
