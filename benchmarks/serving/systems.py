"""The systems of W1: how each is started, and which client speaks to it; for a new one, a line and a file in peers/."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.install import is_installed, python_of
from benchmarks.serving.network import Prepared
from benchmarks.serving.running import Command, free_port

PEERS = Path(__file__).parent / "peers"
FLOOR, WAITING = "floor", "offramp-waiting"
WAIT_S = 0.002  # as long as peers/mosec_server.py has Mosec wait


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One row of the comparison.

    start: from the files and a port to the command; peer: the environment that it needs, "" for this one; batches:
    whether one message may hold several images.
    """

    name: str
    title: str
    protocol: str
    start: Callable[[Prepared, int], Command]
    peer: str = ""
    batches: bool = False
    within_s: float = 30.0

    @property
    def is_there(self) -> bool:
        """Whether it can be run here."""
        return not self.peer or is_installed(self.peer)


def _floor(prepared: Prepared, port: int) -> Command:
    words = [sys.executable, "-m", "benchmarks.serving.floor", str(prepared.model), str(port)]
    return Command(words)


def tier_command(tier: str, bundle: Path, port: int, **flags: object) -> Command:
    """A tier as users start it; its metrics and health are always on. flags: settings, `__` for a dot."""
    settings = {
        "bundle": bundle,
        "listen": f"127.0.0.1:{port}",
        "metrics": f"127.0.0.1:{free_port()}",
        **flags,
    }
    words = [sys.executable, "-m", f"offramp_{tier}"]
    for name, value in settings.items():
        words += [f"--{name.replace('__', '.')}", str(value)]
    return Command(words)


def _offramp(prepared: Prepared, port: int) -> Command:
    return tier_command("device", prepared.one, port, plan__last_stage=0)


def _offramp_that_waits(prepared: Prepared, port: int) -> Command:
    return tier_command(
        "device", prepared.one, port, plan__last_stage=0, inference__batch_wait_s=WAIT_S
    )


def _peer(name: str, title: str, protocol: str, *, within_s: float = 30.0) -> System:
    """A server in peers/, in the environment of its name."""

    def start(prepared: Prepared, port: int) -> Command:
        words = [str(python_of(name)), str(PEERS / f"{name}_server.py")]
        return Command(words, {"MODEL": str(prepared.model.absolute()), "PORT": str(port)})

    return System(
        name=name, title=title, protocol=protocol, start=start, peer=name, within_s=within_s
    )


SYSTEMS = {
    system.name: system
    for system in (
        System(
            name=FLOOR,
            title="bare grpc.aio + onnxruntime (the floor)",
            protocol="open inference",
            start=_floor,
            batches=True,
        ),
        System(
            name="offramp",
            title="**offramp**, stream",
            protocol="offramp stream",
            start=_offramp,
            batches=True,
        ),
        System(
            name="offramp-unary",
            title="**offramp**, unary",
            protocol="offramp unary",
            start=_offramp,
            batches=True,
        ),
        System(
            name=WAITING,
            title=f"**offramp**, stream, batches wait {WAIT_S * 1e3:g} ms",
            protocol="offramp stream",
            start=_offramp_that_waits,
            batches=True,
        ),
        _peer("mosec", "Mosec 0.9.8", "http"),
        _peer("kserve", "KServe 0.21.0", "open inference"),
        _peer("mlserver", "MLServer 1.7.1", "open inference"),
        _peer("pytriton", "Triton, PyTriton 0.7.0", "open inference"),
        _peer("litserve", "LitServe 0.2.19", "litserve"),
        _peer("bentoml", "BentoML 1.4.39", "bentoml"),
        _peer("ray", "Ray Serve 2.60.0", "ray", within_s=90.0),
    )
}
OURS = ("offramp", "offramp-unary")
PEER_NAMES = tuple(name for name, system in SYSTEMS.items() if system.peer)


def choose(names: list[str]) -> list[System]:
    """The named systems that can be run here, the floor first; `offramp` brings the unary call with it.

    Raises ValueError for a name that there is not, or whose environment is missing.
    """
    wanted = {FLOOR, *names, *(OURS if "offramp" in names else ())}
    if unknown := wanted - set(SYSTEMS):
        raise ValueError(
            f"no such system: {', '.join(sorted(unknown))}; known: {', '.join(SYSTEMS)}"
        )
    chosen = [system for name, system in SYSTEMS.items() if name in wanted]
    if missing := [system.peer for system in chosen if not system.is_there]:
        raise ValueError(
            f"not installed: {', '.join(missing)}; run `python -m benchmarks.serving.install`"
        )
    return chosen
