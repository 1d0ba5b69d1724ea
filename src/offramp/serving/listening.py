"""Where a gRPC server listens, with the reason where it cannot."""

from __future__ import annotations

import socket
from collections.abc import Callable

from offramp.errors import InvalidSettings


def listen(add_port: Callable[[str], int], address: str, setting: str) -> str:
    """Have a server's add_..._port listen on HOST:PORT; the address with the port that it got, where that was 0.

    Raises InvalidSettings naming the setting where it cannot.
    """
    try:
        port = add_port(address)
    except RuntimeError as exc:
        text = f"cannot listen on {address}{_why_not(address)}"
        raise InvalidSettings(setting, text) from exc
    return f"{address.rpartition(':')[0]}:{port}"


def _why_not(address: str) -> str:
    """Why nobody can listen on HOST:PORT, which gRPC does not tell: ": " and the system's words, or "" where it can."""
    host, _, port = address.rpartition(":")
    try:
        places = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        for family, kind, protocol, _, place in places:
            with socket.socket(family, kind, protocol) as trying:
                trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trying.bind(place)
    except OSError as exc:
        return f": {exc.strerror}"
    return ""
