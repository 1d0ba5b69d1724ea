"""The gRPC service of a tier: the stream, the unary call, the description, health and reflection."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from offramp.errors import InvalidInput, TierUnavailable
from offramp.rpc.connection import SERVICE
from offramp.rpc.status import code_of, status_of
from offramp.rpc.traceparent import traceparent_bytes
from offramp.rpc.v1 import tier_pb2 as pb
from offramp.serving.access import SecurePort
from offramp.serving.conversation import Conversation
from offramp.serving.engine import Engine
from offramp.serving.files import connections_within
from offramp.serving.held import Held
from offramp.serving.listening import listen
from offramp.serving.parsing import message_from
from offramp.serving.peers import Counting, Peers
from offramp.serving.results import ResultsServicer
from offramp.serving.settings import Limits

logger = logging.getLogger(__name__)
_PONG_MS = 20_000  # for the answer to a ping
_LAST_WORDS_S = 0.2  # for the status of a call that has just been answered to leave this machine
_LOOKS = 4  # at every stream in the time after which one is ended, rarer than every 15 s not
_LOOKS_EVERY_S = 15.0


class TierServicer:
    """Offers one engine over gRPC."""

    def __init__(self, engine: Engine, limits: Limits, *, version: str, batch: int) -> None:
        self._engine, self._limits = engine, limits
        self._version, self._batch = version, batch
        self._conversations: dict[Conversation, asyncio.Task[Any] | None] = {}
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

    async def end_idle(self) -> None:
        """End streams whose callers say nothing or take nothing, until cancelled."""
        while True:
            await asyncio.sleep(min(self._limits.idle_s / _LOOKS, _LOOKS_EVERY_S))
            now = time.monotonic()
            for conversation, task in list(self._conversations.items()):
                if task is None:
                    continue  # a unary call: its samples have deadlines
                if conversation.is_stalled(now):
                    self._engine.metrics.count_limit("stalled")
                    task.cancel()
                elif conversation.is_idle(now):
                    self._engine.metrics.count_limit("idle")
                    conversation.end_when_answered()

    def _begin(self, *, is_stream: bool) -> Conversation:
        """A conversation, until _end(): a context manager would be one more object that each idle stream holds."""
        conversation = Conversation(self._engine, self._limits, is_stream=is_stream)
        self._conversations[conversation] = asyncio.current_task() if is_stream else None
        self._idle.clear()
        if self._draining:  # the call was accepted just before
            conversation.end_when_answered()
        return conversation

    def _end(self, conversation: Conversation) -> None:
        del self._conversations[conversation]
        if not self._conversations:
            self._idle.set()

    async def Stream(  # noqa: N802
        self, _request_iterator: AsyncIterator[bytes], context: Any
    ) -> None:
        """Serve a caller until it leaves."""
        conversation = self._begin(is_stream=True)
        try:
            await conversation.run(context.read, context.write)
        except (InvalidInput, TierUnavailable) as exc:
            await context.abort(code_of(status_of(exc)), str(exc))
        finally:
            self._end(conversation)

    async def Infer(self, data: bytes, context: Any) -> pb.Response:  # noqa: N802
        """Answer one request; a single sample's status becomes the call's, and the call's trace that of its samples."""
        metadata = dict(context.invocation_metadata() or ())
        traceparent = traceparent_bytes(str(metadata.get("traceparent", "")))
        conversation = self._begin(is_stream=False)
        try:
            request = message_from(pb.Request, data)
            for sample in request.samples:
                sample.traceparent = sample.traceparent or traceparent
            response = await conversation.answer_once(request, context.time_remaining())
        except (InvalidInput, TierUnavailable) as exc:
            await context.abort(code_of(status_of(exc)), str(exc))
        finally:
            self._end(conversation)
        if len(response.results) == 1 and response.results[0].HasField("status"):
            status = response.results[0].status
            text = f"{status.field}: {status.message}" if status.field else status.message
            await context.abort(code_of(status), text)
        return response

    async def Describe(self, _data: bytes, _context: Any) -> pb.DescribeResponse:  # noqa: N802
        """What this tier holds and how far it goes."""
        held, former = self._engine.held, self._engine.former
        networks = [held] if former is None else [held, former]
        return pb.DescribeResponse(
            tier=pb.TierName.Name(self._engine.tier),
            version=self._version,
            networks=[_described(one) for one in networks],  # the one in use first
            plan=pb.Plan(last_stage=held.plan.last_stage, epoch=held.plan.epoch),
            limits=pb.Limits(
                message_bytes=self._limits.message_bytes,
                in_flight=self._limits.in_flight,
                batch=self._batch,
            ),
        )


def _described(held: Held) -> pb.HeldNetwork:
    manifest, own = held.bundle.manifest, held.own_policy
    policies = sorted(manifest.policies, key=lambda policy: policy.id != own.id)
    return pb.HeldNetwork(
        name=manifest.name,
        digest=held.bundle.digest,
        stages=held.stages,
        policies=[pb.HeldPolicy(name=p.name, id=p.id) for p in policies],
        classes=manifest.network.classes,
        input_shape=manifest.network.takes.shape,
        input_dtype=manifest.network.takes.dtype,
    )


def _handlers(servicer: TierServicer, results: ResultsServicer) -> grpc.GenericRpcHandler:
    """As the generated code would register them, but what comes stays bytes.

    So a stream's sizes come for nothing, and bytes that are no message are refused here: gRPC would say UNKNOWN, and
    write a traceback into the log for each.
    """
    infer = grpc.unary_unary_rpc_method_handler(
        servicer.Infer, response_serializer=pb.Response.SerializeToString
    )
    describe = grpc.unary_unary_rpc_method_handler(
        servicer.Describe, response_serializer=pb.DescribeResponse.SerializeToString
    )
    stream = grpc.stream_stream_rpc_method_handler(servicer.Stream)
    methods = {"Stream": stream, "Infer": infer, "Describe": describe, **results.handlers()}
    return grpc.method_handlers_generic_handler(SERVICE, methods)


class TierServer:
    """The gRPC server. Start it, then stop() it: nothing that was accepted goes without an answer."""

    def __init__(
        self,
        servicer: TierServicer,
        results: ResultsServicer,
        limits: Limits,
        peers: Peers,
        secure: SecurePort | None = None,
    ) -> None:
        self._servicer, self._secure = servicer, secure
        self._ending_idle: asyncio.Task[None] | None = None
        idle_ms = round(limits.idle_s * 1e3)
        self._server = grpc.aio.server(
            interceptors=(*(() if secure is None else (secure.gate,)), Counting(peers)),
            options=[
                ("grpc.max_receive_message_length", limits.message_bytes),
                ("grpc.max_send_message_length", limits.message_bytes),
                # A second tier on the same port is a mistake, not a share.
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.max_allowed_incoming_connections", connections_within(limits.connections)),
                ("grpc.server_handshake_timeout_ms", round(limits.handshake_s * 1e3)),
                ("grpc.max_concurrent_streams", limits.streams_per_peer),  # of a connection
                ("grpc.max_connection_idle_ms", idle_ms),
                # A peer that has gone without a word, and would keep its streams for ever.
                ("grpc.keepalive_time_ms", idle_ms),
                ("grpc.keepalive_timeout_ms", _PONG_MS),
            ],
        )
        self._server.add_generic_rpc_handlers((_handlers(servicer, results),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        services = (SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(services, self._server)

    def add(self, handler: grpc.GenericRpcHandler) -> None:
        """Serve something more, to whoever may call this tier."""
        self._server.add_generic_rpc_handlers((handler,))

    def bind(self, address: str) -> str:
        """The address (HOST:PORT) that it will listen on. Raises InvalidSettings where it cannot."""
        if self._secure is None:
            return listen(self._server.add_insecure_port, address, "listen")
        return listen(partial(self._secure.bind, self._server), address, "listen")

    def bind_health(self) -> str:
        """Where probes will be told the health, without TLS; "" where `bind` gave a port that tells it.

        Raises InvalidSettings where it cannot listen there.
        """
        return "" if self._secure is None else self._secure.bind_health(self._health)

    async def start(self) -> None:
        """Listen, and say SERVING."""
        await self._server.start()
        if self._secure is not None:
            await self._secure.start()
        self._ending_idle = asyncio.create_task(self._servicer.end_idle(), name="idle streams")
        await self._say(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, drain_s: float) -> None:
        """Say NOT_SERVING, refuse what is new, and end once everything accepted is answered or drain_s is over."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._ending_idle is not None:
            self._ending_idle.cancel()
        self._servicer.drain()
        stopping = asyncio.create_task(self._server.stop(drain_s))
        idle = asyncio.create_task(self._servicer.wait_idle())
        await asyncio.wait([stopping, idle], return_when=asyncio.FIRST_COMPLETED)
        # What is still open answers no sample: somebody watches health, and would for ever.
        await self._server.stop(_LAST_WORDS_S)
        idle.cancel()
        await stopping
        if self._secure is not None:
            await self._secure.close()

    async def _say(self, status: Any) -> None:
        await asyncio.gather(*(self._health.set(name, status) for name in ("", SERVICE)))
