"""The gRPC service of a tier: the stream, the unary call, the description, health and reflection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from offramp.errors import InvalidInput, InvalidSettings
from offramp.rpc.status import code_of
from offramp.rpc.stream import SERVICE
from offramp.rpc.traceparent import traceparent_bytes
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.serving.conversation import Conversation
from offramp.serving.engine import Engine
from offramp.serving.results import ResultsServicer
from offramp.serving.settings import Limits

logger = logging.getLogger(__name__)
_LAST_WORDS_S = 0.2  # for the status of a call that has just been answered to leave this machine


class TierServicer:
    """Offers one engine over gRPC."""

    def __init__(self, engine: Engine, limits: Limits, *, version: str, batch: int) -> None:
        self._engine, self._limits = engine, limits
        self._version, self._batch = version, batch
        self._conversations: set[Conversation] = set()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def drain(self) -> None:
        """Refuse new samples and let every stream end once its own are answered."""
        self._draining = True
        self._engine.drain()
        for conversation in self._conversations:
            conversation.end_when_answered()

    async def wait_idle(self) -> None:
        """Return once no stream and no unary call is being served."""
        await self._idle.wait()

    @contextlib.contextmanager
    def _conversation(self) -> Iterator[Conversation]:
        conversation = Conversation(self._engine, self._limits)
        self._conversations.add(conversation)
        self._idle.clear()
        if self._draining:  # the call was accepted just before
            conversation.end_when_answered()
        try:
            yield conversation
        finally:
            self._conversations.remove(conversation)
            if not self._conversations:
                self._idle.set()

    async def Stream(  # noqa: N802
        self, _request_iterator: AsyncIterator[bytes], context: Any
    ) -> None:
        """Serve a caller until it leaves."""
        try:
            with self._conversation() as conversation:
                await conversation.run(context.read, context.write)
        except InvalidInput as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))

    async def Infer(self, request: pb.Request, context: Any) -> pb.Response:  # noqa: N802
        """Answer one request; a single sample's status becomes the call's, and the call's trace that of its samples."""
        metadata = dict(context.invocation_metadata() or ())
        traceparent = traceparent_bytes(str(metadata.get("traceparent", "")))
        for sample in request.samples:
            sample.traceparent = sample.traceparent or traceparent
        try:
            with self._conversation() as conversation:
                response = await conversation.answer_once(request, context.time_remaining())
        except InvalidInput as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(exc))
        if len(response.results) == 1 and response.results[0].HasField("status"):
            status = response.results[0].status
            text = f"{status.field}: {status.message}" if status.field else status.message
            await context.abort(code_of(status), text)
        return response

    async def Describe(self, _request: pb.DescribeRequest, _context: Any) -> pb.DescribeResponse:  # noqa: N802
        """What this tier holds and how far it goes."""
        held, manifest = self._engine.held, self._engine.held.bundle.manifest
        own = held.own_policy
        policies = sorted(manifest.policies, key=lambda policy: policy.id != own.id)
        return pb.DescribeResponse(
            tier=pb.TierName.Name(self._engine.tier),
            version=self._version,
            networks=[
                pb.HeldNetwork(
                    name=manifest.name,
                    digest=held.bundle.digest,
                    stages=held.stages,
                    policies=[pb.HeldPolicy(name=p.name, id=p.id) for p in policies],
                    classes=manifest.network.classes,
                    input_shape=manifest.network.takes.shape,
                    input_dtype=manifest.network.takes.dtype,
                )
            ],
            plan=pb.Plan(last_stage=held.plan.last_stage, epoch=held.plan.epoch),
            limits=pb.Limits(
                message_bytes=self._limits.message_bytes,
                in_flight=self._limits.in_flight,
                batch=self._batch,
            ),
        )


def _handlers(servicer: TierServicer, results: ResultsServicer) -> grpc.GenericRpcHandler:
    """As the generated code would register them, but a stream's messages stay bytes: their sizes come for nothing."""
    infer = grpc.unary_unary_rpc_method_handler(
        servicer.Infer, pb.Request.FromString, pb.Response.SerializeToString
    )
    describe = grpc.unary_unary_rpc_method_handler(
        servicer.Describe, pb.DescribeRequest.FromString, pb.DescribeResponse.SerializeToString
    )
    stream = grpc.stream_stream_rpc_method_handler(servicer.Stream)
    methods = {"Stream": stream, "Infer": infer, "Describe": describe, **results.handlers()}
    return grpc.method_handlers_generic_handler(SERVICE, methods)


class TierServer:
    """The gRPC server. Start it, then stop() it: nothing that was accepted goes without an answer."""

    def __init__(self, servicer: TierServicer, results: ResultsServicer, limits: Limits) -> None:
        self._servicer = servicer
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limits.message_bytes),
                ("grpc.max_send_message_length", limits.message_bytes),
                # A second tier on the same port is a mistake, not a share.
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        self._server.add_generic_rpc_handlers((_handlers(servicer, results),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        services = (SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(services, self._server)

    def bind(self, address: str) -> str:
        """The address (HOST:PORT) that it will listen on. Raises InvalidSettings where it cannot."""
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as exc:
            raise InvalidSettings("listen", f"cannot listen on {address}") from exc
        return f"{address.rpartition(':')[0]}:{port}"

    async def start(self) -> None:
        """Listen, and say SERVING."""
        await self._server.start()
        await self._say(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, drain_s: float) -> None:
        """Say NOT_SERVING, refuse what is new, and end once everything accepted is answered or drain_s is over."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._servicer.drain()
        stopping = asyncio.create_task(self._server.stop(drain_s))
        idle = asyncio.create_task(self._servicer.wait_idle())
        await asyncio.wait([stopping, idle], return_when=asyncio.FIRST_COMPLETED)
        # What is still open answers no sample: somebody watches health, and would for ever.
        await self._server.stop(_LAST_WORDS_S)
        idle.cancel()
        await stopping

    async def _say(self, status: Any) -> None:
        await asyncio.gather(*(self._health.set(name, status) for name in ("", SERVICE)))
