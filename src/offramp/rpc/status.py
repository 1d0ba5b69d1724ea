"""Errors to gRPC status codes and back: the one table at each edge."""

from __future__ import annotations

import grpc

from offramp.errors import (
    BundleMismatch,
    DeadlineExceeded,
    DegradedReason,
    InvalidInput,
    OfframpError,
    TierFailed,
    TierUnavailable,
)
from offramp.rpc.v1 import tier_pb2 as pb

_MOST_TEXT = 500  # characters of a status's field or message
_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_BY_REASON: dict[DegradedReason, grpc.StatusCode] = {
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "mismatch": grpc.StatusCode.FAILED_PRECONDITION,
}


def status_of(error: BaseException) -> pb.Status:
    """The status that a peer may see. An unknown error is INTERNAL and keeps its text to itself."""
    code, field, message = (
        grpc.StatusCode.INTERNAL,
        "",
        "a fault of this tier; its log has the cause",
    )
    if isinstance(error, TierFailed):
        field, message = error.field, error.message
    elif isinstance(error, InvalidInput):
        code, field, message = grpc.StatusCode.INVALID_ARGUMENT, error.field, error.message
    elif isinstance(error, BundleMismatch):
        code, field, message = grpc.StatusCode.FAILED_PRECONDITION, error.field, error.message
    elif isinstance(error, DeadlineExceeded):
        code, message = grpc.StatusCode.DEADLINE_EXCEEDED, str(error)
    elif isinstance(error, TierUnavailable):
        code = _BY_REASON.get(error.reason, grpc.StatusCode.UNAVAILABLE)
        message = str(error)
    return pb.Status(code=code.value[0], field=_short(field), message=_short(message))


def _short(text: str) -> str:
    """What a caller sent may be in it, and is not sent back, or on, at any length."""
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}..."


def code_of(status: pb.Status) -> grpc.StatusCode:
    """gRPC's code of a status; UNKNOWN where it has none of that number."""
    return _BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)


def error_of(status: pb.Status) -> OfframpError:
    """The error that a tier's status stands for; TierFailed where none of ours says the same."""
    code = code_of(status)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidInput(status.field, status.message)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(status.message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return TierUnavailable("overloaded", status.message)
    if code is grpc.StatusCode.UNAVAILABLE:
        return TierUnavailable("unreachable", status.message)
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return BundleMismatch(status.field, status.message)
    return TierFailed(status.field, f"{code.name}: {status.message}")
