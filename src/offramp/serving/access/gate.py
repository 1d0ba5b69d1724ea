"""In front of every service of a tier: nobody comes by whom the file of callers does not name.

call -> token or certificate -> a Caller -> the service, which may ask current_caller()
                |                  |
                |                  +-- no longer in the file: the call is ended
                +-- none: UNAUTHENTICATED, counted, and nothing of the call is read
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, NoReturn

import grpc
import grpc.aio

from offramp.rpc.reread import Reread
from offramp.rpc.tls import Refusal
from offramp.serving.access.callers import Caller, Callers
from offramp.serving.access.guarding import guard
from offramp.serving.access.handshakes import Handshakes
from offramp.serving.access.refusals import Refusals

_REFUSED = "not allowed to call this tier"  # all that whoever is refused learns
_BEARER = "bearer "
_CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller | None:
    """Who made the call that is being served; None where this tier asks nobody who they are (TLS is off)."""
    return _CALLER.get()


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets calls through. A stream is asked once, when it is opened, and ended when its caller may no longer call."""

    def __init__(
        self, callers: Reread[Callers], handshakes: Handshakes, refusals: Refusals
    ) -> None:
        self._callers, self._handshakes, self._refusals = callers, handshakes, refusals
        self._known = callers.value
        self._by_token = callers.value.by_token
        self._guarded: dict[str, grpc.RpcMethodHandler] = {}
        self._open: dict[asyncio.Timeout, Caller] = {}
        self._nothing = grpc.stream_stream_rpc_method_handler(self._no_such_method)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The handler that would serve the call, with the question in front of it."""
        guarded = self._guarded.get(details.method)
        if guarded is None:
            handler = await continuation(details)
            if handler is None:
                return self._nothing
            guarded = self._guarded[details.method] = guard(handler, self._admitted)
        return guarded

    async def _no_such_method(self, _requests: Any, context: Any) -> None:
        async with self._admitted(context):
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")

    @contextlib.asynccontextmanager
    async def _admitted(self, context: Any) -> Any:
        """The call of a caller who may call; it is aborted when there is none, or no longer."""
        self._handshakes.heard(context.peer())
        caller = self._token_of(context) if self._by_token else self._identity_of(context)
        if caller is None:
            await self._refuse(context)
        _CALLER.set(caller)
        try:
            async with asyncio.timeout(None) as until:
                self._open[until] = caller
                try:
                    yield
                finally:
                    del self._open[until]
        except TimeoutError:
            if not until.expired():
                raise
            await self._refuse(context)

    def _token_of(self, context: Any) -> Caller | None:
        for key, value in context.invocation_metadata() or ():
            if key == "authorization" and str(value).lower().startswith(_BEARER):
                return self._callers.value.with_token(str(value)[len(_BEARER) :].strip())
        return None

    def _identity_of(self, context: Any) -> Caller | None:
        return self._callers.value.with_identity(_identities(context))

    async def _refuse(self, context: Any) -> NoReturn:
        reason: Refusal = "token" if self._by_token else "identity"
        host = context.peer().rpartition(":")[0]
        who = "" if self._by_token else f" as {', '.join(sorted(_identities(context)))[:256]!r}"
        self._refusals.add(reason, host + who)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, _REFUSED)
        raise AssertionError("abort returns to nobody")

    def review(self) -> None:
        """End the calls of those whom the file no longer names, once it has changed."""
        callers = self._callers.value
        if callers is self._known:
            return
        self._known = callers
        now = asyncio.get_running_loop().time()
        for until, caller in self._open.items():
            if caller not in callers and not until.expired():
                until.reschedule(now)


def _identities(context: Any) -> set[str]:
    """DNS names and URIs of the peer's certificate, which gRPC has verified; a common name is no identity."""
    said = context.auth_context()
    return {
        name.decode(errors="replace")
        for key in ("peer_dns", "peer_uri")
        for name in said.get(key, ())
    }
