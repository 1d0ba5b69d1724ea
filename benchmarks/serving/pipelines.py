"""The systems of W2: how each puts a network of three stages on three tiers, and who carries what goes on.

offramp        caller -> device -> fog -> cloud          tiers hand on, over one stream each
floor          caller -> device -> fog -> cloud          the same with nothing but the bytes
mosec          caller -> device -> fog -> cloud          a worker behind each stage asks the next tier
mosec-caller   caller -> device, -> fog, -> cloud        the caller asks each tier, with what the last one gave it
kserve         caller -> device -> fog -> cloud          a model calls the next tier's
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.serving.install import is_installed, python_of
from benchmarks.serving.network import Prepared
from benchmarks.serving.running import Command
from benchmarks.serving.systems import PEERS, tier_command
from offramp.bundle import load_bundle

TIERS = ("device", "fog", "cloud")
Start = Callable[[Prepared, int, Sequence[int]], Command]  # of a tier's number and all ports


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """One row of the comparison.

    start: from the files, a tier's number and the ports of all to its command; asks_all: whether the caller speaks to
    every tier; peer: the environment that it needs, "" for this one.
    """

    name: str
    title: str
    protocol: str
    start: Start
    asks_all: bool = False
    peer: str = ""

    @property
    def is_there(self) -> bool:
        """Whether it can be run here."""
        return not self.peer or is_installed(self.peer)

    def address(self, ports: Sequence[int]) -> str:
        """What the caller is told."""
        asked = ports if self.asks_all else ports[:1]
        return ",".join(f"127.0.0.1:{port}" for port in asked)


def _offramp(prepared: Prepared, tier: int, ports: Sequence[int]) -> Command:
    flags: dict[str, object] = {"plan__last_stage": tier}
    if tier + 1 < len(ports):
        flags["uplink__address"] = f"127.0.0.1:{ports[tier + 1]}"
    return tier_command(TIERS[tier], prepared.three, ports[tier], **flags)


def _by_hand(program: Sequence[str], *, hands_on: bool) -> Start:
    def start(prepared: Prepared, tier: int, ports: Sequence[int]) -> Command:
        last = tier + 1 == len(ports)
        settings = load_bundle(prepared.three).manifest.policies[0].exits
        variables = {
            "MODEL": str((prepared.three / f"stage{tier}.onnx").absolute()),
            "PORT": str(ports[tier]),
            "EXIT": str(tier),
            "THRESHOLD": "" if last else repr(settings[tier].threshold),
            "NEXT": f"127.0.0.1:{ports[tier + 1]}" if hands_on and not last else "",
        }
        return Command(list(program), variables)

    return start


def _peer(peer: str, *, hands_on: bool) -> Start:
    program = (str(python_of(peer)), str(PEERS / f"{peer}_tier_server.py"))
    return _by_hand(program, hands_on=hands_on)


OURS, FLOOR = "offramp", "floor"
PIPELINES = {
    pipeline.name: pipeline
    for pipeline in (
        Pipeline(
            name=OURS, title="**offramp**, streams", protocol="offramp stream", start=_offramp
        ),
        Pipeline(
            name=FLOOR,
            title="floor: bare streams of grpc.aio, written by hand",
            protocol="bare stream",
            start=_by_hand((sys.executable, "-m", "benchmarks.serving.floor_tier"), hands_on=True),
        ),
        Pipeline(
            name="mosec",
            title="Mosec, each tier asks the next over HTTP",
            protocol="http",
            start=_peer("mosec", hands_on=True),
            peer="mosec",
        ),
        Pipeline(
            name="mosec-caller",
            title="Mosec, chained by the caller's asynchronous HTTP client",
            protocol="http chain",
            start=_peer("mosec", hands_on=False),
            asks_all=True,
            peer="mosec",
        ),
        Pipeline(
            name="kserve",
            title="KServe, each tier calls the next over gRPC",
            protocol="open inference",
            start=_peer("kserve", hands_on=True),
            peer="kserve",
        ),
    )
}


def choose(names: Sequence[str]) -> list[Pipeline]:
    """The named ones, ours first. Raises ValueError for a name that there is not, or that cannot be run here."""
    wanted = {OURS, *names}
    if unknown := wanted - set(PIPELINES):
        raise ValueError(f"no such system: {', '.join(sorted(unknown))}")
    chosen = [pipeline for name, pipeline in PIPELINES.items() if name in wanted]
    if missing := sorted({one.peer for one in chosen if not one.is_there}):
        raise ValueError(
            f"not installed: {', '.join(missing)}; run `python -m benchmarks.serving.install`"
        )
    return chosen
