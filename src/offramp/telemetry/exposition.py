"""The page that Prometheus reads, in a thread of its own."""

from __future__ import annotations

import logging
import socket
import threading
from http.server import ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler

from offramp.errors import InvalidSettings

logger = logging.getLogger(__name__)
_READERS = 16  # at once, each a thread; more are turned away
_PATIENCE_S = 5.0  # with one that asks for nothing, or does not take its page
_POLL_S = 0.1  # how long close() may take; prometheus_client's own server takes 0.5


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        handler: Any = MetricsHandler.factory(registry)
        handler.timeout = _PATIENCE_S
        self._room = threading.BoundedSemaphore(_READERS)
        super().__init__((host, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that goes away is no news, and a traceback on standard error no log line."""
        logger.debug("a reader of the metrics failed", exc_info=True)

    def server_bind(self) -> None:
        # HTTPServer's own asks the name service who we are, which may take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()[:2]


class Exposition:
    """Serves a registry over HTTP at an address (HOST:PORT) until close().

    Raises InvalidSettings where it cannot listen there.
    """

    def __init__(self, address: str, registry: CollectorRegistry) -> None:
        host, _, port = address.rpartition(":")
        try:
            self._server = _Server(host.strip("[]"), int(port), registry)
        except OSError as exc:
            text = f"cannot listen on {address}: {exc.strerror}"
            raise InvalidSettings("metrics", text) from exc
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving, and let go of the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
