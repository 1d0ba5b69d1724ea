"""The netem engine: the kernel delays, shapes and drops; this process replays the rows.

    listener's socket -- offramp-near =veth= offramp-far -- dialer's socket (made in a namespace of its own)
                         netem, tbf          netem, tbf
                             ^ up                ^ down      lines into two `tc -batch`, a pair a row

Needs CAP_SYS_ADMIN (the namespace), CAP_NET_ADMIN, iproute2, and a kernel that has sch_netem. It does not emulate
an idle radio, for the kernel cannot know; and queue and drops are the kernel's (`tc -s qdisc`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import tempfile
from ipaddress import ip_network
from math import inf
from pathlib import Path
from typing import IO, Any, Final

from offramp.links.engines.endpoints import Endpoint
from offramp.links.engines.frames import mtu_for
from offramp.links.engines.link import WAYS, Abilities, Link, Row, Way
from offramp.links.engines.namespace import Namespace, run
from offramp.links.engines.netem import (
    TABLE,
    Shape,
    add_lines,
    change_lines,
    filler,
    jitter_table,
)
from offramp.links.engines.observer import Observer
from offramp.links.engines.segment import Segment, congestion_control
from offramp.links.timeline import State, Timeline

logger = logging.getLogger(__name__)

ABILITIES: Final = Abilities(limit_mbit=inf, lossless=False)
_NETWORKS = ip_network("198.18.128.0/17")  # of 4 addresses each; engine packet has the other half
_DISCARD_PORT = 9


def _addresses(number: int) -> tuple[str, str]:
    """Of the two ends of a link."""
    first = 4 * number % _NETWORKS.num_addresses
    return str(_NETWORKS[first + 1]), str(_NETWORKS[first + 2])


class NetemEngine:
    """Relays connections from an address to another over a veth pair, from start() to close().

    Raises OSError where the kernel or this process' rights do not allow it.
    """

    name: Final = "netem"

    def __init__(
        self, timeline: Timeline, listen: Endpoint, target: Endpoint, observer: Observer
    ) -> None:
        self._listen, self._observer = listen, observer
        self._loop = asyncio.get_running_loop()
        self.link: Link[None] = Link(timeline, self._loop.time(), ABILITIES)
        self.mtu = mtu_for(timeline, ABILITIES.limit_mbit)
        self._segment = Segment(target, observer)
        self._namespace = Namespace()
        # Links of one host must not share addresses; no two of them have one process number.
        self._near, self._far = _addresses(os.getpid())
        self._devices: dict[Way, str] = {
            "up": f"offramp-n{os.getpid()}"[:15],
            "down": f"offramp-f{os.getpid()}"[:15],
        }
        self._folder = tempfile.TemporaryDirectory(prefix="offramp-tc-")
        self._tc: dict[Way, subprocess.Popen[str]] = {}
        self._shapes: dict[Way, Shape] = {}
        self._rows: dict[Way, Row] = {}
        self._carried: dict[Way, int] = dict.fromkeys(WAYS, 0)
        self._congestion = "unknown"
        self._replaying: asyncio.Task[None] | None = None

    async def start(self) -> Endpoint:
        """Accept connections; returns the address. Raises OSError where something is refused."""
        self._make_devices()
        self._shape()
        for way in WAYS:
            self._tc[way] = self._open_tc(way)
            self._rows[way] = self.link.row(way, self._loop.time())
            self._tell(way, add_lines(self._devices[way], self._rows[way], self._shapes[way]))
        dialer = self._namespace.call(lambda: socket.create_server((self._far, 0)))
        self._congestion = congestion_control(dialer)
        across = Endpoint(self._far, dialer.getsockname()[1])
        self._replaying = self._loop.create_task(self._replay())
        return await self._segment.start(self._listen, dialer, across, self._near)

    def _make_devices(self) -> None:
        near, far = self._devices["up"], self._devices["down"]
        mtu = ["mtu", str(self.mtu)]
        pair = ["ip", "link", "add", near, *mtu, "type", "veth", "peer", "name", far, *mtu]
        run([*pair, "netns", self._namespace.path])
        for do, device, address in ((run, near, self._near), (self._namespace.run, far, self._far)):
            do(["ip", "address", "add", f"{address}/30", "dev", device])
            # One packet at a time: a bundle of 64 KB would be lost or delayed as one.
            do(["ip", "link", "set", device, "gso_max_segs", "1", "up"])

    def _shape(self) -> None:
        for way in WAYS:
            timeline = self.link.timeline
            direction = timeline.up if way == "up" else timeline.down
            text = jitter_table(direction)
            if text is not None:
                self._table_folder(way).mkdir(exist_ok=True)
                (self._table_folder(way) / f"{TABLE}.dist").write_text(text)
            self._shapes[way] = Shape(
                direction.queue_bytes, self.mtu, direction.loss, has_table=text is not None
            )

    def _table_folder(self, way: Way) -> Path:
        return Path(self._folder.name) / way

    def _open_tc(self, way: Way) -> subprocess.Popen[str]:
        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(
                ["tc", "-force", "-batch", "-"],  # noqa: S607
                stdin=subprocess.PIPE,
                text=True,
                env={**os.environ, "TC_LIB_DIR": str(self._table_folder(way))},
            )

        return start() if way == "up" else self._namespace.call(start)

    def _tell(self, way: Way, lines: list[str]) -> None:
        stdin: IO[str] | None = self._tc[way].stdin
        if stdin is not None:
            stdin.write("\n".join(lines) + "\n")
            stdin.flush()

    async def _replay(self) -> None:
        while True:
            now_s = self._loop.time()
            step_s = self.link.timeline.step_s
            steps = (now_s - self.link.origin_s) // step_s
            late_s = now_s - self.link.origin_s - steps * step_s
            for way in WAYS:
                self._put(way, self.link.row(way, now_s))
                self._count(way, late_s)
            await asyncio.sleep(self.link.origin_s + (steps + 1) * step_s - self._loop.time())

    def _put(self, way: Way, row: Row) -> None:
        before, self._rows[way] = self._rows[way], row
        if row == before:
            return
        self._tell(way, change_lines(self._devices[way], row, self._shapes[way]))
        if row.state == State.HOLD != before.state:
            self._send(way, filler(self._shapes[way]))
        elif before.state == State.HOLD != row.state:
            # tbf sleeps until the time that it worked out at the hold's rate; a packet makes it look again.
            self._send(way, [b""])

    def _send(self, way: Way, payloads: list[bytes]) -> None:
        if way == "up":
            _discard(payloads, self._far)
        else:
            self._namespace.call(lambda: _discard(payloads, self._near))

    def _count(self, way: Way, late_s: float) -> None:
        kind = "tx" if way == "up" else "rx"
        path = Path(f"/sys/class/net/{self._devices['up']}/statistics/{kind}_bytes")
        with contextlib.suppress(OSError):
            carried = int(path.read_text())
            self._observer.delivered(way, carried - self._carried[way], late_s)
            self._carried[way] = carried

    def facts(self) -> dict[str, Any]:
        """What a report names beside the engine."""
        return {"mtu": self.mtu, "congestion": self._congestion}

    def changed(self) -> None:
        """The link was switched, cut or restored; the packets' size stays."""
        before = self._shapes.copy()
        self._shape()
        for way in WAYS:
            if self._shapes[way] != before[way]:
                lines = change_lines(self._devices[way], self._rows[way], self._shapes[way])
                self._tell(way, lines)
            self._put(way, self.link.row(way, self._loop.time()))

    async def close(self) -> None:
        """Listen no more, reset every connection, and remove the devices."""
        if self._replaying is not None:
            self._replaying.cancel()
            await asyncio.gather(self._replaying, return_exceptions=True)
        await self._segment.close()
        for process in self._tc.values():
            if process.stdin is not None:
                process.stdin.close()
            process.wait()
        with contextlib.suppress(OSError):
            run(["ip", "link", "delete", self._devices["up"]])
        self._namespace.close()
        self._folder.cleanup()


def _discard(payloads: list[bytes], address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        for payload in payloads:
            sender.sendto(payload, (address, _DISCARD_PORT))


def why_not() -> str | None:
    """Why netem does not work here, found by trying it in a namespace that is thrown away; None: it does."""
    try:
        trial = Namespace()
    except OSError as exc:
        return f"{exc.strerror} (CAP_SYS_ADMIN)"
    try:
        trial.run(["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"])
    except FileNotFoundError:
        return "there is no program tc (package iproute2)"
    except OSError as exc:
        return exc.strerror
    finally:
        trial.close()
    return None
