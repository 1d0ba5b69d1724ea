"""The calls that read what a tier has kept, and let it go."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from offramp.errors import InvalidInput
from offramp.rpc.status import code_of, status_of
from offramp.rpc.stored import StoredRecord, stored_to_proto
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.serving.parsing import message_from
from offramp.serving.store import Store

logger = logging.getLogger(__name__)
_MOST_CURSOR = 2**63 - 1  # of SQLite


class ResultsServicer:
    """Of one store, or of none; message_bytes: no message is larger."""

    def __init__(self, store: Store | None, message_bytes: int) -> None:
        self._store, self._message_bytes = store, message_bytes

    async def _open(self, context: Any) -> Store:
        if self._store is None:
            text = "this tier keeps no results: it has no setting store.folder"
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)
            raise AssertionError  # abort() raises
        return self._store

    async def Results(  # noqa: N802
        self, data: bytes, context: Any
    ) -> AsyncIterator[pb.StoredResult]:
        """What waits, where it is asked for, then the results behind a cursor."""
        store = await self._open(context)
        try:
            request = message_from(pb.ResultsRequest, data)
        except InvalidInput as exc:
            await context.abort(code_of(status_of(exc)), str(exc))
        try:
            if request.waiting:
                async for record in store.waiting(inputs=request.inputs):
                    if (message := self._message(record)) is not None:
                        yield message
            after = min(request.after, _MOST_CURSOR)
            async for record in store.results(after, inputs=request.inputs, follow=request.follow):
                if (message := self._message(record)) is not None:
                    yield message
        except sqlite3.Error:
            await context.abort(grpc.StatusCode.INTERNAL, "the store cannot be read")

    def _message(self, record: StoredRecord) -> pb.StoredResult | None:
        try:
            return stored_to_proto(record, self._message_bytes)
        except (DecodeError, ValueError) as exc:  # a disk that does not keep what it was given
            logger.warning("stored sample %d makes no sense any more: %s", record.number, exc)
            return None

    async def Release(self, data: bytes, context: Any) -> pb.ReleaseResponse:  # noqa: N802
        """Drop results up to a cursor."""
        store = await self._open(context)
        try:
            request = message_from(pb.ReleaseRequest, data)
            return pb.ReleaseResponse(released=await store.release(min(request.upto, _MOST_CURSOR)))
        except InvalidInput as exc:
            await context.abort(code_of(status_of(exc)), str(exc))
        except sqlite3.Error:
            await context.abort(grpc.StatusCode.INTERNAL, "the store cannot be written")
        raise AssertionError  # abort() raises

    def handlers(self) -> dict[str, Any]:
        """By the method's name."""
        return {
            "Results": grpc.unary_stream_rpc_method_handler(
                self.Results, response_serializer=pb.StoredResult.SerializeToString
            ),
            "Release": grpc.unary_unary_rpc_method_handler(
                self.Release, response_serializer=pb.ReleaseResponse.SerializeToString
            ),
        }
