"""The port of a tier that has TLS on: certificates, the gate, and the plaintext port on which it tells its health."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from offramp.errors import InvalidInput, InvalidSettings
from offramp.rpc.reread import Reread
from offramp.serving.access.callers import read_callers
from offramp.serving.access.certificates import Certificates
from offramp.serving.access.gate import Gate
from offramp.serving.access.handshakes import Handshakes
from offramp.serving.access.refusals import Refusals
from offramp.serving.listening import listen
from offramp.serving.settings import TlsSettings
from offramp.telemetry import TierMetrics

logger = logging.getLogger(__name__)
_REVIEW_S = 1.0
_QUESTION_BYTES = 1024  # a question about health is the name of a service
_QUESTIONS = 64  # at once


class SecurePort:
    """What TLS adds to a tier's server. Built in its event loop; start() it with the server, close() it after.

    Raises InvalidSettings where a file in the folder, or the one of callers, cannot be used.
    """

    def __init__(self, settings: TlsSettings, metrics: TierMetrics, *, handshake_s: float) -> None:
        folder = Path(settings.folder)
        file = Path(settings.callers or folder / "callers")
        try:
            self._certificates = Certificates(folder)
            by_token = read_callers(file).by_token
            callers = Reread([file], lambda: read_callers(file, by_token=by_token))
        except InvalidInput as exc:
            raise InvalidSettings("tls", str(exc)) from exc
        self._health_address, self._metrics = settings.health, metrics
        refusals = Refusals(metrics, "downstream")
        self._handshakes = Handshakes(refusals, handshake_s)
        self.gate = Gate(callers, self._handshakes, refusals)
        self._asks_certificates = not by_token
        self._health_server: Any = None
        self._reviewing: asyncio.Task[None] | None = None
        self._show_end()

    def bind(self, server: grpc.aio.Server, address: str) -> int:
        """The port, of 0 the one that was free. Raises RuntimeError where it cannot listen there."""
        credentials = self._certificates.server_credentials(
            asks_certificates=self._asks_certificates, begun=self._handshakes.begun
        )
        return int(server.add_secure_port(address, credentials))

    def bind_health(self, servicer: Any) -> str:
        """The address (HOST:PORT) at which probes will be told this health, and nothing else, without TLS.

        Raises InvalidSettings where it cannot listen there.
        """
        self._health_server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", _QUESTION_BYTES),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=_QUESTIONS,
        )
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._health_server)
        return listen(self._health_server.add_insecure_port, self._health_address, "tls.health")

    async def start(self) -> None:
        """Tell health, and look at the files every second."""
        self._reviewing = asyncio.create_task(self._review(), name="review of who may call")
        if self._health_server is not None:
            await self._health_server.start()

    async def _review(self) -> None:
        while True:
            await asyncio.sleep(_REVIEW_S)
            try:
                self.gate.review()
                self._handshakes.review()
                self._show_end()
            except Exception:
                logger.exception("the review of who may call failed")

    def _show_end(self) -> None:
        if (ends := self._certificates.ends) is not None:
            self._metrics.show_certificate(ends)

    async def close(self) -> None:
        """Tell nobody any more."""
        if self._reviewing is not None:
            self._reviewing.cancel()
            await asyncio.wait([self._reviewing])
        if self._health_server is not None:
            await self._health_server.stop(None)
