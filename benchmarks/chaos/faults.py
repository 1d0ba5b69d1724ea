"""What can be done to a tier in a container, and how it is undone.

stop and start change nothing that a restart of the machine would not; a network that a container has left it comes back
to under the same name; limits are the control group's.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.chaos.deployment import STORE, Deployment

Act = Callable[[Deployment], None]
_LINKS = {"fog": "device-fog", "cloud": "fog-cloud"}  # the network on which the tier below finds it
_UNLIMITED = -1
_SPARE_BYTES = 16 * 2**20
_SLOW_US = 1_000  # of 100,000: the least that the kernel takes
_SHOW_TIME = "import time; print(time.time())"
_FILLER = f"{STORE}/filler"
_FILL = f"""
import errno, os
file = os.open({_FILLER!r}, os.O_CREAT | os.O_WRONLY)
for size in (65536, 1):
    try:
        while os.write(file, bytes(size)): pass
    except OSError as exc:
        assert exc.errno == errno.ENOSPC
"""
_CLOCK_OFF_S = 30.0  # how long it may take to ask for it


@dataclass(frozen=True)
class Fault:
    """begin, then end; reasons: why answers may be degraded meanwhile."""

    name: str
    tier: str
    begin: Act
    end: Act
    reasons: frozenset[str]
    is_gone: bool = True  # the tier does not answer at all meanwhile
    hits_device: bool = False
    needs: Literal["", "clock", "store"] = (
        ""  # of a deployment: tiers with a clock, a device with a disk of its own
    )


def faults(seed: int) -> list[Fault]:
    """All of them, in the order of the table."""
    found = []
    for tier in ("fog", "cloud"):
        found += [
            _fault("killed", tier, lambda c: c.kill("SIGKILL"), lambda c: c.start()),
            _fault("stopped", tier, lambda c: c.stop(timeout=15), lambda c: c.start()),
            _fault("paused", tier, lambda c: c.pause(), lambda c: c.unpause()),
            _cut_off(tier),
        ]
    found.append(
        _fault(
            "slowed to 1 % of a core",
            "fog",
            lambda c: c.update(cpu_period=100_000, cpu_quota=_SLOW_US),
            lambda c: c.update(cpu_period=100_000, cpu_quota=_UNLIMITED),
            is_gone=False,
        )
    )
    found.append(_fault("out of memory", "fog", _squeeze, _release))
    order = random.Random(seed).sample(["device", "fog", "cloud"], 3)  # noqa: S311
    found.append(_restarted(order))
    found.append(_disk_full())
    found += [_clock_set("an hour forward", 3600), _clock_set("a day back", -86_400)]
    return found


def _fault(
    what: str,
    tier: str,
    begin: Callable[[Any], object],
    end: Callable[[Any], object],
    *,
    is_gone: bool = True,
) -> Fault:
    return Fault(
        name=f"{tier} {what}",
        tier=tier,
        begin=lambda deployment: _ignore(begin(deployment.container(tier))),
        end=lambda deployment: _ignore(end(deployment.container(tier))),
        reasons=frozenset({"unreachable", "deadline"} | (set() if is_gone else {"overloaded"})),
        is_gone=is_gone,
    )


def _ignore(_said: object) -> None:
    """What the engine says of a change."""


def _cut_off(tier: str) -> Fault:
    def leave(deployment: Deployment) -> None:
        deployment.network(_LINKS[tier]).disconnect(deployment.container(tier))

    def come_back(deployment: Deployment) -> None:
        deployment.network(_LINKS[tier]).connect(deployment.container(tier), aliases=[tier])

    reasons = frozenset({"unreachable", "deadline"})
    return Fault(f"{tier} cut off the network", tier, leave, come_back, reasons)


def _squeeze(container: Any) -> None:
    """Leave it too little memory for what else is started there: the kernel ends the largest, which is the tier."""
    used = container.stats(stream=False)["memory_stats"]["usage"]
    limit = used + _SPARE_BYTES
    container.update(mem_limit=limit, memswap_limit=limit)
    hungry = f"x = bytes(1) * {4 * _SPARE_BYTES}; import time; time.sleep(60)"
    container.exec_run(["python", "-c", hungry], detach=True)


def _release(container: Any) -> None:
    container.update(mem_limit=2**31, memswap_limit=2**31)
    container.reload()
    if container.status != "running":
        container.start()


def _restarted(order: list[str]) -> Fault:
    def begin(deployment: Deployment) -> None:
        for tier in order:
            deployment.container(tier).restart(timeout=15)
            time.sleep(1.0)

    reasons = frozenset({"unreachable", "deadline", "overloaded"})
    name = f"all restarted: {', '.join(order)}"
    return Fault(name, "device", begin, lambda _: None, reasons, is_gone=False, hits_device=True)


def _disk_full() -> Fault:
    """No byte is left where the device keeps what it answers degraded, and then the fog is gone."""

    def begin(deployment: Deployment) -> None:
        code, said = deployment.container("device").exec_run(["python", "-c", _FILL])
        if code != 0:
            raise RuntimeError(f"the device's disk could not be filled: {said.decode()}")
        deployment.container("fog").kill("SIGKILL")

    def end(deployment: Deployment) -> None:
        device = deployment.container("device")
        if b"but not kept" not in device.logs():
            raise RuntimeError("the device's store did not come to a full disk")
        device.exec_run(["rm", _FILLER])
        deployment.container("fog").start()

    reasons = frozenset({"unreachable", "deadline"})
    return Fault("device's disk full, fog killed", "fog", begin, end, reasons, needs="store")


def _clock_set(how: str, seconds: int) -> Fault:
    """On all tiers: clocks are compared nowhere, and what is measured is measured with the monotonic one."""

    def step(deployment: Deployment, offset: int) -> None:
        if deployment.clock is None:
            raise ValueError("this deployment has no clock of its own")
        deployment.clock.write_text(f"{offset:+d}\n")
        found = deployment.container("fog").exec_run(["python", "-c", _SHOW_TIME])
        if abs(float(found.output) - time.time() - offset) > _CLOCK_OFF_S:
            raise RuntimeError(
                f"the fog's clock is at {found.output.decode()}, not {offset:+d} s off"
            )

    return Fault(
        name=f"all clocks {how}",
        tier="fog",
        begin=lambda deployment: step(deployment, seconds),
        end=lambda deployment: step(deployment, 0),
        reasons=frozenset(),
        is_gone=False,
        needs="clock",
    )
