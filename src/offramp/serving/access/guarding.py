"""A question before every call of a service, whatever the form of its methods."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc

Admitted = Callable[[Any], AbstractAsyncContextManager[None]]
_FORMS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def guard(handler: grpc.RpcMethodHandler, admitted: Admitted) -> grpc.RpcMethodHandler:
    """The same handler, whose calls are served within `admitted(context)`; what that aborts is not read."""
    behaviour = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    is_one = not handler.request_streaming
    parse = handler.request_deserializer if is_one else None

    async def guarded(request: Any, context: Any) -> Any:
        async with admitted(context):
            outcome = behaviour(parse(request) if parse else request, context)
            if not hasattr(outcome, "__aiter__"):
                return await outcome
            async for response in outcome:
                await context.write(response)
            return None

    form = _FORMS[handler.request_streaming, handler.response_streaming]
    # One message stays bytes until its sender may call.
    deserializer = None if is_one else handler.request_deserializer
    return form(guarded, deserializer, handler.response_serializer)
