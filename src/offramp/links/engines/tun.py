"""A TUN device of our own whose only traffic is one emulated segment, in the namespace that we are in.

    socket of the listener     198.18.N.1:p -> 198.18.N.2:q   up     \\  the kernel hands both to us, for both go
    socket of the dialer       198.18.N.1:q -> 198.18.N.2:p   down   /  to the other end of the device
    what we write back has the two addresses swapped, so each socket sees a peer at 198.18.N.2

Swapping leaves the checksums of IP, TCP and UDP as they are (sums do not know an order), and there is no second
namespace to make, for which CAP_NET_ADMIN would not do. 198.18.0.0/15 is for tests of networks (RFC 2544).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

from offramp.links.engines.link import Way

_TUN = Path("/dev/net/tun")
_MAKE_TUN = 0x400454CA  # TUNSETIFF
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SET_FLAGS, _SET_ADDRESS, _SET_NETMASK, _SET_MTU, _SET_QUEUE = (
    *(0x8914, 0x8916, 0x891C),
    *(0x8922, 0x8943),
)
_UP_RUNNING = 0x41
_QUEUE_PACKETS = (
    10_000  # the kernel's 500 lose packets when this process is not scheduled for some ms
)
_MOST_DEVICES = 2**13  # networks of 4 addresses that lie in 198.18.0.0/17


class TunSegment:
    """The device, from construction to close(). Raises OSError where this process may not make one."""

    def __init__(self, mtu: int) -> None:
        self.file = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            wanted = struct.pack("16sH22x", b"offramp%d", _IFF_TUN | _IFF_NO_PI)
            made = fcntl.ioctl(self.file, _MAKE_TUN, wanted)
            self._name = made[:16].rstrip(b"\0")
            number = int(self._name.removeprefix(b"offramp")) % _MOST_DEVICES
            base = int.from_bytes(socket.inet_aton("198.18.0.0")) + 4 * number
            self.near = socket.inet_ntoa((base + 1).to_bytes(4))
            self.far = socket.inet_ntoa((base + 2).to_bytes(4))
            self._configure(mtu)
        except BaseException:
            os.close(self.file)
            raise

    @property
    def name(self) -> str:
        """The interface."""
        return self._name.decode()

    def _configure(self, mtu: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for request, address in ((_SET_ADDRESS, self.near), (_SET_NETMASK, "255.255.255.252")):
                packed = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
                fcntl.ioctl(control, request, self._name.ljust(16, b"\0") + packed)
            for request, number in (
                (_SET_QUEUE, _QUEUE_PACKETS),
                (_SET_MTU, mtu),
                (_SET_FLAGS, _UP_RUNNING),
            ):
                fcntl.ioctl(control, request, struct.pack("16si20x", self._name, number))

    def set_mtu(self, mtu: int) -> None:
        """Packets of connections that begin from now on are at most that large."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SET_MTU, struct.pack("16si20x", self._name, mtu))

    def read(self) -> bytes | None:
        """The next packet; None: there is none."""
        try:
            return os.read(self.file, 65_536)
        except BlockingIOError:
            return None

    def write(self, packet: bytes) -> None:
        """Hand a packet to the kernel, from the other end."""
        with suppress(OSError):  # the device is going down, or takes no more: a packet lost
            os.write(self.file, packet)

    def close(self) -> None:
        """The device is gone."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def way_of(packet: bytes, dialer_port: int) -> Way | None:
    """Which way a packet goes, by its ports; None: it is none of the segment's (IPv6, ICMP, a fragment)."""
    if len(packet) < 24 or packet[0] >> 4 != 4 or packet[9] not in (6, 17):
        return None
    if int.from_bytes(packet[6:8]) & 0x1FFF:
        return None
    start = (packet[0] & 0xF) * 4
    source, destination = struct.unpack_from("!HH", packet, start)
    if destination == dialer_port:
        return "up"
    return "down" if source == dialer_port else None


def swapped(packet: bytes) -> bytes:
    """The packet with source and destination address exchanged, every checksum still right."""
    return packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
