"""The stream engine: a TCP relay whose bytes wait in the link's two pipes. It needs no privilege.

    client <-> listener |-- up ------> one pipe for all connections ------>| dialer <-> target
                        |<----------- one pipe for all connections - down --|

TCP ends at the relay. So nothing is lost here, a full queue pushes back on whoever sends, and there is no slow
start: a first call is faster than over packets (2 to 3 times where it is short). A connection's opening does cross
the link and back before its first byte. Headers that packets would have are counted in every size, so that
goodput is that of the packet engine. Where a row drops, the relay holds: TCP's own retransmission would keep a
connection alive through some 15 minutes of that, so the relay ends none either; a peer that wants to know
sooner has keepalives, which cross the link like everything else.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from offramp.links.engines.brake import Brake
from offramp.links.engines.courier import Courier
from offramp.links.engines.endpoints import Endpoint
from offramp.links.engines.frames import HEADERS_BYTES, mtu_for, wire_bytes
from offramp.links.engines.link import WAYS, Abilities, Link, Way
from offramp.links.engines.observer import Observer
from offramp.links.engines.pipe import Delivery
from offramp.links.timeline import Timeline

logger = logging.getLogger(__name__)

# The rate up to which goodput has been validated; the relay itself moves several times as much.
ABILITIES: Final = Abilities(limit_mbit=1000, lossless=True)
_QUANTUM_BYTES = (
    18_000  # two jumbo packets; a chunk comes out when its last bit does, so a large one is late
)
_QUANTUM_S = 0.001
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds

_Event = Callable[[], None]


class StreamEngine:
    """Relays connections from an address to another over an emulated link, from start() to close()."""

    name: Final = "stream"

    def __init__(
        self, timeline: Timeline, listen: Endpoint, target: Endpoint, observer: Observer
    ) -> None:
        self._listen, self._target, self._observer = listen, target, observer
        self._loop = asyncio.get_running_loop()
        self.link: Link[_Event] = Link(timeline, self._loop.time(), ABILITIES)
        self._couriers = {way: self._courier(way) for way in WAYS}
        self._brakes = {way: Brake(self.link.pipes[way]) for way in WAYS}
        self._dials: set[asyncio.Task[None]] = set()
        self.ends: set[_End] = set()
        self._server: asyncio.Server | None = None
        self._set_sizes()

    def _courier(self, way: Way) -> Courier[_Event]:
        def deliver(delivery: Delivery[_Event], late_s: float) -> None:
            self._observer.delivered(way, delivery.size_bytes, late_s)
            delivery.item()

        return Courier(self.link.pipes[way], deliver)

    def _set_sizes(self) -> None:
        self.mtu = mtu_for(self.link.timeline, ABILITIES.limit_mbit)

    async def start(self) -> Endpoint:
        """Accept connections; returns the address. Raises OSError where it cannot listen there."""
        self._server = await self._loop.create_server(
            lambda: _End(self, "up", self._accepted), self._listen.host, self._listen.port
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        return Endpoint(host, port)

    def facts(self) -> dict[str, Any]:
        """What a report names beside the engine."""
        return {"mtu": self.mtu, "congestion": "none"}

    def changed(self) -> None:
        """The link was switched, cut or restored."""
        self._set_sizes()
        for way in WAYS:
            self._couriers[way].look()
            self._brakes[way].look()

    async def close(self) -> None:
        """Listen no more, and reset every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._dials:
            task.cancel()
        for end in list(self.ends):
            end.reset()
        await asyncio.gather(*self._dials, return_exceptions=True)
        for way in WAYS:
            self._couriers[way].close()
            self._brakes[way].close()

    # --- what the ends ask for ---------------------------------------------------------------

    def quantum_bytes(self, way: Way) -> int:
        """The most that one chunk holds: whole packets, at least one, at most a millisecond of the rate."""
        payload = self.mtu - HEADERS_BYTES
        rate = self.link.row(way, self._loop.time()).rate_bytes_s
        most = min(_QUANTUM_BYTES, int(rate * _QUANTUM_S))
        return max(1, most // payload) * payload

    def send(self, way: Way, payload_bytes: int, event: _Event) -> None:
        """`event` happens on the other side when so many bytes are across, in order."""
        now_s = self._loop.time()
        self.link.send(way, event, wire_bytes(payload_bytes, self.mtu), now_s)
        self._couriers[way].look()

    def brake(self, end: _End) -> None:
        """Stop this end's reading until its direction has room, if it has none."""
        self._brakes[end.way].apply(end)

    def observe(self, change: int) -> None:
        """A connection came or went."""
        self._observer.connected(change)

    # --- opening a connection ----------------------------------------------------------------

    def _accepted(self, lower: _End) -> None:
        self.send("up", 0, lambda: self._dial(lower))

    def _dial(self, lower: _End) -> None:
        task = self._loop.create_task(self._open(lower))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _open(self, lower: _End) -> None:
        def connected(upper: _End) -> None:
            if lower not in self.ends:
                upper.reset()
                return
            lower.peer, upper.peer = upper, lower
            self.send("down", 0, lambda: lower.go_on("opening"))
            upper.go_on("opening")

        try:
            await self._loop.create_connection(
                lambda: _End(self, "down", connected), self._target.host, self._target.port
            )
        except OSError as exc:
            logger.debug("cannot connect to %s: %s", self._target, exc)
            self.send("down", 0, lower.reset)


class _End(asyncio.BufferedProtocol):
    """One socket; what it reads goes to its peer, over the pipe of its way."""

    def __init__(self, engine: StreamEngine, way: Way, opened: Callable[[_End], None]) -> None:
        self._engine, self.way, self._opened = engine, way, opened
        self.peer: _End | None = None
        self._buffer = bytearray(_QUANTUM_BYTES)
        self._waits_for: set[str] = set()
        self._is_done_reading = self._is_done_writing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait until the connection has crossed the link."""
        self._transport: Any = transport
        self._engine.ends.add(self)
        if self.way == "up":
            self._engine.observe(1)
        self._waits_for.add("opening")
        # The loop starts to read after this call; in early releases of Python 3.11 even where reading was paused here.
        asyncio.get_running_loop().call_soon(self._pause_if_waiting)
        self._opened(self)

    def wait(self, reason: str) -> None:
        """Read nothing until go_on(reason)."""
        self._waits_for.add(reason)
        self._transport.pause_reading()

    def _pause_if_waiting(self) -> None:
        if self._waits_for:
            self._transport.pause_reading()

    def go_on(self, reason: str) -> None:
        """Read again, once no reason is left to wait."""
        self._waits_for.discard(reason)
        if not self._waits_for:
            self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room for one chunk."""
        return memoryview(self._buffer)[: self._engine.quantum_bytes(self.way)]

    def buffer_updated(self, nbytes: int) -> None:
        """Put a chunk on the link."""
        chunk, peer = bytes(memoryview(self._buffer)[:nbytes]), self._other()
        self._engine.send(self.way, nbytes, lambda: peer.write(chunk))
        self._engine.brake(self)

    def eof_received(self) -> bool:
        """No more from this side; the other direction goes on."""
        self._is_done_reading = True
        self._engine.send(self.way, 0, self._other().end_writing)
        self._close_if_done()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Unless it ended in order, the peer's socket is reset, after what was sent before."""
        self._engine.ends.discard(self)
        if self.way == "up":
            self._engine.observe(-1)
        if self.peer is not None and not (self._is_done_reading and self._is_done_writing):
            self._engine.send(self.way, 0, self.peer.reset)

    def pause_writing(self) -> None:
        """This socket takes no more: its peer shall not read."""
        self._other().wait("peer")

    def resume_writing(self) -> None:
        """This socket takes bytes again."""
        self._other().go_on("peer")

    def write(self, chunk: bytes) -> None:
        """Bytes from the peer have crossed the link."""
        if not self._transport.is_closing():
            self._transport.write(chunk)

    def end_writing(self) -> None:
        """The peer's end of stream has crossed the link."""
        self._is_done_writing = True
        with suppress(OSError):
            if not self._transport.is_closing():
                self._transport.write_eof()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._is_done_reading and self._is_done_writing:
            self._transport.close()

    def reset(self) -> None:
        """End this connection at once, as a reset does."""
        self._is_done_reading = self._is_done_writing = True
        if not self._transport.is_closing():
            handle = self._transport.get_extra_info("socket")
            with suppress(OSError):
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._transport.abort()

    def _other(self) -> _End:
        if self.peer is None:  # nothing is read before both are connected
            raise RuntimeError("an end has read before it had a peer")
        return self.peer
