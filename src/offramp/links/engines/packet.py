"""The packet engine: IP packets between two TCP sockets pass through this process, which delays and drops them.

    listener's socket --> TUN --read--> [ the link's pipe, up or down ] --write, swapped--> TUN --> dialer's socket

It needs CAP_NET_ADMIN and /dev/net/tun, and no namespace (tun.py says how).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

from offramp.links.engines.courier import Courier
from offramp.links.engines.endpoints import Endpoint
from offramp.links.engines.frames import mtu_for
from offramp.links.engines.link import WAYS, Abilities, Link, Way
from offramp.links.engines.observer import Observer
from offramp.links.engines.pipe import Delivery
from offramp.links.engines.segment import Segment, congestion_control
from offramp.links.engines.tun import TunSegment, swapped, way_of
from offramp.links.timeline import Timeline

# Of 600 Mbit/s TCP gets all, of 900 between 80 and 100 %: one core of Python, and what loses its turn is late.
ABILITIES: Final = Abilities(limit_mbit=600, lossless=False)
_PACKETS_A_TURN = 64  # read in one go, before the event loop sees to what is due


class PacketEngine:
    """Relays connections from an address to another over an emulated segment, from start() to close().

    Raises OSError where this process may not make a TUN device.
    """

    name: Final = "packet"

    def __init__(
        self, timeline: Timeline, listen: Endpoint, target: Endpoint, observer: Observer
    ) -> None:
        self._listen, self._observer = listen, observer
        self._loop = asyncio.get_running_loop()
        self.mtu = mtu_for(timeline, ABILITIES.limit_mbit)
        self._tun = TunSegment(self.mtu)
        self.link: Link[bytes] = Link(timeline, self._loop.time(), ABILITIES)
        self._couriers = {way: self._courier(way) for way in WAYS}
        self._segment = Segment(target, observer)
        self._dialer_port = 0
        self._congestion = "unknown"

    def _courier(self, way: Way) -> Courier[bytes]:
        def deliver(delivery: Delivery[bytes], late_s: float) -> None:
            self._tun.write(delivery.item)
            self._observer.delivered(way, delivery.size_bytes, late_s)

        return Courier(self.link.pipes[way], deliver)

    async def start(self) -> Endpoint:
        """Accept connections; returns the address. Raises OSError where it cannot listen there."""
        dialer = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # Only over the segment: nobody else on this network shall reach the target by this port.
        dialer.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._tun.name.encode())
        dialer.bind((self._tun.near, 0))
        self._dialer_port = dialer.getsockname()[1]
        self._congestion = congestion_control(dialer)
        self._loop.add_reader(self._tun.file, self._read)
        across = Endpoint(self._tun.far, self._dialer_port)
        return await self._segment.start(self._listen, dialer, across, self._tun.near)

    def _read(self) -> None:
        for _ in range(_PACKETS_A_TURN):
            packet = self._tun.read()
            if packet is None:
                break
            way = way_of(packet, self._dialer_port)
            if way is not None:
                self._send(way, packet)
        for way in WAYS:
            self._couriers[way].look()

    def _send(self, way: Way, packet: bytes) -> None:
        dropped = self.link.send(way, swapped(packet), len(packet), self._loop.time())
        if dropped is not None:
            self._observer.dropped(way, dropped)

    def facts(self) -> dict[str, Any]:
        """What a report names beside the engine; `segment` is where probes of its packets can be sent."""
        return {
            "mtu": self.mtu,
            "congestion": self._congestion,
            "segment": {"near": self._tun.near, "far": self._tun.far, "port": self._dialer_port},
        }

    def changed(self) -> None:
        """The link was switched, cut or restored."""
        mtu = mtu_for(self.link.timeline, ABILITIES.limit_mbit)
        if mtu > self.mtu:  # a smaller one would strand what open connections have on the way
            self.mtu = mtu
            self._tun.set_mtu(mtu)
        for way in WAYS:
            self._couriers[way].look()

    async def close(self) -> None:
        """Listen no more, reset every connection, and remove the device."""
        await self._segment.close()
        self._loop.remove_reader(self._tun.file)
        for way in WAYS:
            self._couriers[way].close()
        self._tun.close()
