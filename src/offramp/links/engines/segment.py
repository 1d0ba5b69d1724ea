"""Two relays with a network between them that is emulated: the part that packet engines have in common.

    client <-> listener ==== TCP over the emulated segment ==== dialer <-> target

The middle connection is the kernel's: its handshake, slow start, loss recovery and retransmission are real. It is
opened before anything is read from the client. The congestion control is the system's, and changes what a
lossy link yields more than the profile does: every report names it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

from offramp.links.engines.endpoints import Endpoint
from offramp.links.engines.observer import Observer

logger = logging.getLogger(__name__)

_READ_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Open = Callable[[], Awaitable[Streams]]


class Segment:
    """The listener and the dialer. far: the dialer's listening socket, as the listener reaches it at `across`.

    near: the address that the listener's connections come from.
    """

    def __init__(self, target: Endpoint, observer: Observer) -> None:
        self._target, self._observer = target, observer
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(
        self, listen: Endpoint, dialer: socket.socket, across: Endpoint, near: str
    ) -> Endpoint:
        """Accept connections; returns the listener's address. Raises OSError where it cannot listen."""

        async def to_target() -> Streams:
            return await asyncio.open_connection(*self._target, limit=_READ_BYTES)

        async def to_dialer() -> Streams:
            return await asyncio.open_connection(*across, local_addr=(near, 0), limit=_READ_BYTES)

        self._servers.append(await asyncio.start_server(self._relay_to(to_target), sock=dialer))
        listener = await asyncio.start_server(
            self._relay_to(to_dialer, self._observer.connected), *listen, limit=_READ_BYTES
        )
        self._servers.append(listener)
        host, port = listener.sockets[0].getsockname()[:2]
        return Endpoint(host, port)

    def _relay_to(
        self, open_next: Open, counted: Callable[[int], None] = lambda change: None
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # asyncio sends at once only where a socket was made with its protocol named; `create_server` names none.
            handle = writer.get_extra_info("socket")
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.get_running_loop().create_task(relay((reader, writer), open_next))
            counted(1)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: counted(-1))

        return accepted

    async def close(self) -> None:
        """Listen no more, and reset every connection."""
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def relay(client: Streams, open_next: Open) -> None:
    """Open the next connection, then carry bytes both ways until both have ended; an error resets both."""
    writers = [client[1]]
    try:
        upward = await open_next()
        writers.append(upward[1])
        async with asyncio.TaskGroup() as both:
            both.create_task(_carry(client[0], upward[1]))
            both.create_task(_carry(upward[0], client[1]))
    except (OSError, ExceptionGroup) as exc:
        logger.debug("a connection ended: %s", exc)
        for writer in writers:
            _reset(writer)
    except asyncio.CancelledError:
        for writer in writers:
            _reset(writer)
        raise
    finally:
        for writer in writers:
            writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_READ_BYTES):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    handle = writer.get_extra_info("socket")
    with suppress(OSError):
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


def congestion_control(handle: socket.socket) -> str:
    """The algorithm that the system gives a TCP socket, such as cubic or bbr; `unknown` off Linux."""
    option = getattr(socket, "TCP_CONGESTION", None)
    if option is None:
        return "unknown"
    return handle.getsockopt(socket.IPPROTO_TCP, option, 16).rstrip(b"\0").decode()
