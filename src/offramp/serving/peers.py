"""Who calls, and how much of this tier each of them may hold: streams and unary calls open, streams a second.

    call --Counting--> enter() --> counted by peer --> the service --> leave()
                          |
                          +--> TierUnavailable("overloaded"), counted, and in the log once in a while

A peer is the identity that its certificate proved, or else the host that it calls from; all that is behind one relay
or address translator is one peer. gRPC tells nothing of a connection before its first call, so that nothing here can
limit how fast connections come: docs/operations.md has a rule for the kernel.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from offramp.errors import TierUnavailable
from offramp.rpc.status import code_of, status_of
from offramp.serving.access.guarding import guard
from offramp.serving.seldom import Seldom
from offramp.serving.settings import Limits
from offramp.telemetry import TierMetrics
from offramp.telemetry.metrics import LimitName

logger = logging.getLogger(__name__)
_BURST = (
    256  # streams of one peer at once before its rate counts: a fog's devices come back together
)
_MOST_KNOWN = 4096  # peers that are remembered
_NETWORK = 64  # leading bits of an IPv6 address: the rest, a host may choose as it likes


class _Peer:
    """The calls that it has open, and how many streams it may open now."""

    __slots__ = ("at", "open", "streams")

    def __init__(self, now: float) -> None:
        self.open, self.streams, self.at = 0, float(_BURST), now


class Peers:
    """The calls of all peers. clock: seconds that only grow."""

    def __init__(
        self, limits: Limits, metrics: TierMetrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits, self._metrics, self._clock = limits, metrics, clock
        self._peers: dict[str, _Peer] = {}  # the one that came longest ago first
        self._open = 0
        self._lines = Seldom(clock)

    def __len__(self) -> int:
        return len(self._peers)

    def enter(self, name: str, *, is_stream: bool) -> None:
        """One more call of that peer, until leave(). Raises TierUnavailable where it is one too many."""
        now, limits = self._clock(), self._limits
        peer = self._peers.pop(name, None) or _Peer(now)
        self._peers[name] = peer
        if len(self._peers) > _MOST_KNOWN:
            self._forget_one()
        if self._open >= limits.streams:
            self._refuse("streams", name, f"{limits.streams} calls are open here")
        if peer.open >= limits.streams_per_peer:
            text = f"{limits.streams_per_peer} calls from your side are open here"
            self._refuse("streams_per_peer", name, text)
        if is_stream:
            earned = (now - peer.at) * limits.streams_hz
            peer.streams, peer.at = min(peer.streams + earned, _BURST), now
            if peer.streams < 1:
                self._refuse("streams_hz", name, "your side opens streams too fast")
            peer.streams -= 1
        peer.open += 1
        self._open += 1

    def leave(self, name: str) -> None:
        """One less of those that entered."""
        self._peers[name].open -= 1
        self._open -= 1

    def _forget_one(self) -> None:
        """The one that called longest ago, of those that have nothing open."""
        for name, peer in self._peers.items():
            if not peer.open:
                del self._peers[name]
                return

    def _refuse(self, limit: LimitName, name: str, text: str) -> None:
        self._metrics.count_limit(limit)
        if count := self._lines.add():
            line = "limits.%s: refused a call of %s (%d refused since the last such line)"
            logger.warning(line, limit, name, count)
        raise TierUnavailable("overloaded", text)


class Counting(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """In front of every service of a server: a call is served where its peer may have one more, and counted."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._counted: dict[str, grpc.RpcMethodHandler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """The handler that would serve the call, counted; None where there is none."""
        counted = self._counted.get(details.method)
        if counted is None and (handler := await continuation(details)) is not None:
            is_stream = handler.request_streaming or handler.response_streaming
            admitted = partial(self._admitted, is_stream=is_stream)
            counted = self._counted[details.method] = guard(handler, admitted)
        return counted

    @contextlib.asynccontextmanager
    async def _admitted(self, context: Any, *, is_stream: bool) -> AsyncIterator[None]:
        peer = peer_of(context)
        try:
            self._peers.enter(peer, is_stream=is_stream)
        except TierUnavailable as exc:
            await context.abort(code_of(status_of(exc)), str(exc))
        try:
            yield
        finally:
            self._peers.leave(peer)


def peer_of(context: Any) -> str:
    """The name of who makes a gRPC call."""
    identities = context.peer_identities()
    return identities[0].decode(errors="replace") if identities else host_of(context.peer())


def host_of(address: str) -> str:
    """The host of an address as gRPC writes it, without the port; of IPv6 its network of 64 bits.

    >>> host_of("ipv4:10.0.0.1:52000"), host_of("ipv6:%5B2001:db8::1%5D:52000")
    ('10.0.0.1', '2001:db8::/64')
    """
    kind, _, rest = unquote(address).partition(":")
    host = rest.rpartition(":")[0].strip("[]")
    if kind != "ipv6":
        return host or kind
    try:
        return str(ipaddress.ip_network((host.partition("%")[0], _NETWORK), strict=False))
    except ValueError:
        return host
