"""The caller's side of the calls about what a tier has kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio

from offramp.errors import OfframpError, TierFailed
from offramp.rpc.cancellation import closed_is_unavailable
from offramp.rpc.status import error_of
from offramp.rpc.stored import Stored, stored_from_proto
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.rpc.v1 import tier_pb2_grpc

_CLOSED = "the stream is closed"


def _stub(channel: grpc.aio.Channel) -> Any:
    return tier_pb2_grpc.TierStub(channel)  # type: ignore[no-untyped-call]


async def read_results(
    channel: grpc.aio.Channel, request: pb.ResultsRequest
) -> AsyncGenerator[Stored, None]:
    """What the tier says. Raises TierUnavailable, TierFailed, or InvalidInput where it makes no sense."""
    call = _stub(channel).Results(request)
    try:
        with closed_is_unavailable(_CLOSED):
            async for message in call:
                yield stored_from_proto(message)
    except grpc.aio.AioRpcError as exc:
        raise _error_of(exc) from exc
    finally:
        call.cancel()


async def release_results(channel: grpc.aio.Channel, upto: int, timeout_s: float) -> int:
    """How many results up to that cursor the tier has dropped. Raises as read_results does."""
    request = pb.ReleaseRequest(upto=upto)
    try:
        with closed_is_unavailable(_CLOSED):
            response: pb.ReleaseResponse = await _stub(channel).Release(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as exc:
        raise _error_of(exc) from exc
    return int(response.released)


def _error_of(error: grpc.aio.AioRpcError) -> OfframpError:
    code, text = error.code(), error.details() or ""
    if (
        code is grpc.StatusCode.UNIMPLEMENTED
    ):  # the tier's own words, or gRPC's of one that knows no such call
        return TierFailed("", text)
    return error_of(pb.Status(code=code.value[0], message=text))
