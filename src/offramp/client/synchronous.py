"""The blocking client: the asyncio one on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, TypeVar

from offramp.address import checked_address
from offramp.client.asynchronous import AsyncClient, Timed
from offramp.client.inputs import Image
from offramp.errors import TierUnavailable
from offramp.rpc import Answer, StreamOptions, Tls
from offramp.rpc.stored import Stored
from offramp.rpc.v1 import tier_pb2 as pb

T = TypeVar("T")
_LAST_MOMENT_S = 0.1
_MOST_CANCELS = 50  # for a task may miss one: wait_for() gives what is there at that moment
_CLOSED = "this client is closed"
_OWN_THREAD = (
    "a client cannot be used from `early`, which runs in its own thread and would wait for itself"
)


class Client:
    """Asks the tier at `target` (HOST:PORT), with `tls` where it has TLS on. Use as a context manager.

    It may be used from several threads. Raises InvalidInput naming `address` where the target is none.

    with Client("localhost:7101") as client:
        answer = client.infer(Path("shoe.png"), deadline_s=0.2)
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
        self._is_closed = False
        # Of what goes to the loop before it ends. A collection of garbage may need it again in the same thread; the
        # loop's own thread never takes it, for another may wait for the loop with it.
        self._lock = threading.RLock()
        checked_address("address", target)  # before there is a thread to end
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"client of {target}", daemon=True
        )
        self._thread.start()

        async def build() -> AsyncClient:
            client = AsyncClient(
                target, name=name, network=network, policy=policy, options=options, tls=tls
            )
            return await client.__aenter__()

        self._client = self._run(build())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError(_OWN_THREAD)
        with self._lock:
            if self._is_closed:
                coroutine.close()
                raise TierUnavailable("unreachable", _CLOSED)
            outcome = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return outcome.result()
        except CancelledError:
            raise TierUnavailable("unreachable", _CLOSED) from None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream and its thread; what is under way fails with TierUnavailable."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(_OWN_THREAD)
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            ended = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        ended.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        await self._client.__aexit__(None, None, None)
        for _ in range(_MOST_CANCELS):
            if not (others := asyncio.all_tasks() - {asyncio.current_task()}):
                break
            await asyncio.wait(others, timeout=_LAST_MOMENT_S)  # gRPC's own end by themselves
            for task in others:  # of other threads
                task.cancel()
        await asyncio.get_running_loop().shutdown_asyncgens()  # an infer_many that was left early

    def describe(self, timeout_s: float = 5.0) -> pb.DescribeResponse:
        """What the tier holds and how far it goes. Raises TierUnavailable, after timeout_s at the latest."""
        return self._run(self._client.describe(timeout_s))

    def infer(
        self,
        image: Image,
        *,
        deadline_s: float = 5.0,
        policy: str | None = None,
        local: bool = False,
        early: Callable[[Answer], None] | None = None,
    ) -> Answer:
        """The answer to one image; see AsyncClient.infer.

        `early` is called in the client's own thread, in which the client cannot be used: RuntimeError.
        """
        return self._run(
            self._client.infer(
                image, deadline_s=deadline_s, policy=policy, local=local, early=early
            )
        )

    def infer_many(
        self,
        images: Iterable[Image],
        *,
        in_flight: int = 8,
        deadline_s: float = 5.0,
        policy: str | None = None,
        local: bool = False,
        early: Callable[[int, Answer], None] | None = None,
    ) -> Iterator[Timed]:
        """The outcome of every image as it becomes ready; see AsyncClient.infer_many."""
        return self._each(
            self._client.infer_many(
                images,
                in_flight=in_flight,
                deadline_s=deadline_s,
                policy=policy,
                local=local,
                early=early,
            )
        )

    def results(
        self,
        *,
        after: int = 0,
        follow: bool = False,
        waiting: bool = False,
        inputs: bool = False,
        timeout_s: float = 5.0,
    ) -> Iterator[Stored]:
        """What the tier has kept of samples that it answered degraded; see AsyncClient.results."""
        return self._each(
            self._client.results(
                after=after, follow=follow, waiting=waiting, inputs=inputs, timeout_s=timeout_s
            )
        )

    def release(self, upto: int, timeout_s: float = 5.0) -> int:
        """Let the tier drop its results up to that cursor; how many that were."""
        return self._run(self._client.release(upto, timeout_s))

    def _each(self, values: AsyncGenerator[T, None]) -> Iterator[T]:
        asking: asyncio.Task[Any] | None = None

        async def following() -> T | None:
            nonlocal asking
            asking = asyncio.current_task()
            return await anext(values, None)

        async def ending() -> None:
            for _ in range(_MOST_CANCELS):  # where this thread was interrupted while it waited
                if asking is None or asking.done():
                    break
                asking.cancel()
                await asyncio.wait([asking], timeout=_LAST_MOMENT_S)
            with suppress(RuntimeError):  # collected together with this, they are being closed
                await values.aclose()

        try:
            while (value := self._run(following())) is not None:
                yield value
        finally:
            # Nothing may wait for the loop where this is collected as garbage: in the loop's own thread, which then
            # closes the values by itself, and in a program that ends.
            if threading.current_thread() is not self._thread and not sys.is_finalizing():
                with suppress(TierUnavailable):  # closed, and so are they
                    self._run(ending())
