"""Bytes from outside as messages. gRPC's own parsing would say UNKNOWN of what is none, with a traceback in the log."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from offramp.errors import InvalidInput

M = TypeVar("M", bound=Message)


def message_from(kind: type[M], data: bytes) -> M:
    """The message of those bytes. Raises InvalidInput where they are none."""
    try:
        message: M = kind.FromString(data)
    except DecodeError:
        raise InvalidInput("request", "its bytes are not a message of this protocol") from None
    return message
