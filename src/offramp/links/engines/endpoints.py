"""Where a link listens and what it leads to."""

from __future__ import annotations

import socket
from typing import NamedTuple

from offramp.address import checked_address
from offramp.errors import InvalidInput


class Endpoint(NamedTuple):
    """A host, by name or number, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(field: str, text: str) -> Endpoint:
    """HOST:PORT or [IPv6]:PORT. Raises InvalidInput naming the field."""
    host, _, port = checked_address(field, text).rpartition(":")
    return Endpoint(host.strip("[]"), int(port))


def check_resolves(field: str, endpoint: Endpoint) -> None:
    """Raises InvalidInput naming the field where the host's name leads to no address."""
    try:
        socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except OSError as exc:  # gaierror is one
        raise InvalidInput(field, f"{endpoint.host!r} does not resolve: {exc.strerror}") from exc
