"""The caller's side of one stream to one tier; clients and uplinks are both built on it.

    ask(), begin() -> Pending -> Exchange on the open stream -> tier
      |                     |
      +<----- reply --------+

The stream is opened anew with backoff when it breaks; what was under way on it fails with TierUnavailable. When its
names are used up, it is ended once everything under way is answered, and what waits goes on with the next one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import grpc.aio

from offramp.errors import (
    DeadlineExceeded,
    DegradedReason,
    InvalidInput,
    OfframpError,
    TierUnavailable,
)
from offramp.rpc.connection import Connection, Refused
from offramp.rpc.exchange import CountBytes, Exchange, response_from
from offramp.rpc.messages import ENVELOPE_BYTES, GRPC_PREFIX_BYTES, Sample
from offramp.rpc.names import check_lengths
from offramp.rpc.options import StreamOptions
from offramp.rpc.payload import payload_bytes
from offramp.rpc.pending import Hear, HearEarly, Pending, Reply, set_outcome
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.rpc.window import Window

logger = logging.getLogger(__name__)


class TierStream:
    """One stream to the tier at `target` (HOST:PORT). Start it in a running event loop; close it when done."""

    def __init__(
        self,
        target: str,
        options: StreamOptions | None = None,
        *,
        count_bytes: CountBytes = lambda _direction, _count: None,
        refused: Refused = lambda _reason, _text: None,
    ) -> None:
        self.target = target
        self._count_bytes = count_bytes
        self._options = options or StreamOptions()
        self._connection = Connection(target, self._options, refused)
        self._pending = Pending()
        self._connected = asyncio.Event()
        self._credits = 0
        self._window = Window(0)
        self._narrowed_by: DegradedReason = "overloaded"
        self._message_bytes = self._options.message_bytes  # or what the tier takes, if that is less
        self._closed = False
        self._told = asyncio.Event()  # the stream is open, closed, or refused by the tier
        self._task: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the tier has granted credits on a stream that is open."""
        return self._connected.is_set() and not self._closed

    @property
    def room(self) -> int:
        """How many samples more the tier takes now."""
        return self._window.size - len(self._pending) if self.is_connected else 0

    @property
    def load(self) -> tuple[int, int]:
        """How many samples are under way, and how many may be."""
        return len(self._pending), self._window.size

    @property
    def is_at_ease(self) -> bool:
        """Whether it takes one more, and at least half of what may be under way is not."""
        return 0 < self._window.size <= 2 * self.room

    @property
    def channel(self) -> grpc.aio.Channel:
        """For calls beside the stream. Raises TierUnavailable where there is none."""
        if self._task is None or self._closed:
            raise TierUnavailable("unreachable", f"the stream to {self.target} is not open")
        return self._connection.channel

    def start(self) -> None:
        """Open the channel and keep a stream on it until close()."""
        self._connection.open()
        self._keep()

    def _keep(self) -> None:
        self._task = asyncio.create_task(self._keep_open(), name=f"stream to {self.target}")

    async def renew(self) -> None:
        """Give up the connection, whatever is under way on it, and begin another.

        One that a link has swallowed would else be found out by keepalive only, or wait for TCP's backoff.
        """
        if self._closed or self._task is None:
            return
        dead = self._task
        dead.cancel()
        await asyncio.wait([dead])
        channel = self._connection.open()
        self._keep()
        if channel is not None:
            await channel.close()

    async def wait_serving(self) -> None:
        """Return once the stream is open and the tier's health, which it is asked to tell, is SERVING."""
        while True:
            await self._connected.wait()
            if await self._connection.wait_serving():
                return
            await asyncio.sleep(self._options.first_backoff_s)

    async def wait_connected(self, timeout_s: float) -> None:
        """Return once the stream is open.

        Raises TierUnavailable after timeout_s, once this side has closed it, or where the tier does not let it in.
        """
        try:
            await asyncio.wait_for(self._told.wait(), timeout_s)
        except TimeoutError:
            why = f": {self._connection.why_down}" if self._connection.why_down else ""
            raise TierUnavailable(
                "unreachable", f"{self.target} does not answer within {timeout_s:.3g} s{why}"
            ) from None
        if self._closed:
            raise TierUnavailable("unreachable", f"the stream to {self.target} is closed")
        if not self._connected.is_set():
            raise TierUnavailable("unreachable", f"{self.target}: {self._connection.why_down}")

    async def wait_room(self, timeout_s: float) -> None:
        """Return once the stream is open and another sample may go up. Raises TierUnavailable after timeout_s."""
        until = time.monotonic() + timeout_s
        while self.room < 1:
            left_s = until - time.monotonic()
            if not self.is_connected:
                await self.wait_connected(max(left_s, 0.0))
                continue
            try:
                await asyncio.wait_for(self._pending.one_less(), left_s)
            except TimeoutError:
                text = f"{self.target} had no room for one more within {timeout_s:.3g} s"
                raise TierUnavailable("overloaded", text) from None

    async def describe(self, timeout_s: float = 5.0) -> pb.DescribeResponse:
        """What the tier holds. Raises TierUnavailable."""
        if self._task is None or self._closed:
            raise TierUnavailable("unreachable", f"the stream to {self.target} is not open")
        until = time.monotonic() + timeout_s
        if self._connection.is_secured:  # where a try to connect fails, its channel is given up
            await self.wait_connected(timeout_s)
        return await self._connection.describe(until - time.monotonic())

    async def ask(self, sample: Sample, deadline: float, early: HearEarly | None = None) -> Reply:
        """The tier's answer, waited for until `deadline`, a time of time.monotonic(). Raises what begin() lets hear."""
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        give_up = self.begin(sample, deadline, partial(set_outcome, reply), early)
        try:
            return await reply
        finally:
            give_up()
            del reply  # with an error it would be a circle: that has this frame in its traceback

    def begin(
        self, sample: Sample, deadline: float, hear: Hear, early: HearEarly | None = None
    ) -> Callable[[], None]:
        """Ask; `hear` gets the answer or the error once, until `deadline`, unless what is returned is called before.

        early: gets what the tier says before that, if it does.

        Raises TierUnavailable where the stream is down, or has as much under way as the tier grants or answers in time;
        InvalidInput for a payload over either side's message limit or a name too long; DeadlineExceeded. What is heard:
        the answer, TierUnavailable, DeadlineExceeded, and whatever the tier's status stands for, each with the bytes
        that were moved. A sample that is given up is cancelled at the tier.
        """
        self._check(sample)
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("no time left for the hop")
        asked = self._pending.add(sample, deadline, left_s, partial(self._heard, hear), early)
        return partial(self._pending.give_up, asked)

    def _check(self, sample: Sample) -> None:
        if not self.is_connected:
            raise TierUnavailable("unreachable", f"{self.target} is not connected")
        if len(self._pending) >= self._credits:
            raise TierUnavailable("overloaded", f"{self.target} grants no more credits")
        if self.room < 1:
            raise TierUnavailable(self._narrowed_by, f"{self.target} is behind with what it has")
        check_lengths(sample.id.origin, sample.network, sample.policy)
        size = payload_bytes(sample.payload) + len(sample.exit_state)
        limit = self._message_bytes - ENVELOPE_BYTES
        if size > limit:
            raise InvalidInput("payload", f"{size} bytes, over the limit of {limit} in a message")

    def _heard(self, hear: Hear, outcome: Reply | OfframpError) -> None:
        if not isinstance(outcome, OfframpError):
            self._window.widen()
        elif (reason := _too_much_for(outcome)) is not None:
            self._window.narrow(len(self._pending) + 1)
            self._narrowed_by = reason
        hear(outcome)

    async def close(self) -> None:
        """End the stream; what is under way fails with TierUnavailable."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._closed = True
        self._connected.set()  # whoever waits for a connection waits in vain
        self._told.set()
        await self._connection.close()

    async def _keep_open(self) -> None:
        backoff_s = self._options.first_backoff_s
        while True:
            reason: DegradedReason = "unreachable"
            text, error = "given up", None
            try:
                await self._converse()
                text = "the tier ended the stream"
            except grpc.aio.AioRpcError as exc:
                text, error = f"{exc.code().name}: {exc.details()}", exc
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
                self._told.clear()
                self._pending.fail_all(reason, f"{self.target}: {text}")
            if self._connection.went_down(text, error):
                self._told.set()
            await asyncio.sleep(backoff_s * random.uniform(0.8, 1.0))  # noqa: S311
            backoff_s = min(2 * backoff_s, self._options.most_backoff_s)
            await self._connection.reopen()

    async def _converse(self) -> None:
        while await self._converse_once():
            logger.info("stream to %s has used up its names; opening another", self.target)

    async def _widen(self, call: Any) -> None:
        """Let the connection's windows grow before the first sample needs them."""
        size = min(self._options.padding_bytes, self._message_bytes - ENVELOPE_BYTES)
        if size > 0:
            data = pb.Request(padding=bytes(size)).SerializeToString()
            self._count_bytes("up", len(data) + GRPC_PREFIX_BYTES)
            await call.write(data)

    async def _converse_once(self) -> bool:
        """Serve one stream to its end; whether to go on with another at once."""
        # With one at hand until now there are samples that wait: rather fail them than wait for the tier.
        call = self._connection.stream(waits=not self._connected.is_set())
        data = await call.read()
        if not isinstance(data, bytes):
            return False  # ended before it began
        first = response_from(data)
        self._credits = first.credits
        self._window = Window(first.credits)
        own_bytes = self._options.message_bytes
        self._message_bytes = min(own_bytes, first.message_bytes or own_bytes)
        await self._widen(call)
        self._connected.set()
        self._told.set()
        self._connection.why_down = ""
        logger.info("stream to %s is open, %d credits", self.target, self._credits)
        exchange = Exchange(
            call,
            self._pending,
            message_bytes=self._message_bytes,
            count_bytes=self._count_bytes,
        )
        return await exchange.run(data)


def _too_much_for(error: OfframpError) -> DegradedReason | None:
    """The reason of an error that fewer samples at once would have helped against."""
    if isinstance(error, DeadlineExceeded):
        return "deadline"
    if isinstance(error, TierUnavailable) and error.reason == "overloaded":
        return "overloaded"
    return None
