"""The compose deployment under a name of its own, seen through the Docker SDK: what is broken, and mended."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import docker

from benchmarks.serving.running import free_port

ROOT = Path(__file__).parents[2]
STORE = "/var/lib/offramp"
_OWN_DISK = {  # a compose file (JSON is YAML)
    "services": {
        "device": {
            "environment": {"OFFRAMP_DEVICE_STORE__FOLDER": STORE},
            "tmpfs": [f"{STORE}:uid=10001,gid=10001,mode=0700,size=8m"],
        }
    }
}


@dataclass(frozen=True)
class Deployment:
    """A running compose project. engine: a docker.DockerClient."""

    project: str
    engine: Any
    clock: Path | None = (
        None  # the file whose content is the tiers' clocks less the machine's, as "+3600"
    )

    def container(self, service: str) -> Any:
        """The service's container as it is now."""
        labels = [
            f"com.docker.compose.project={self.project}",
            f"com.docker.compose.service={service}",
        ]
        (found,) = self.engine.containers.list(all=True, filters={"label": labels})
        return found

    def network(self, name: str) -> Any:
        """A network of the compose file."""
        return self.engine.networks.get(f"{self.project}_{name}")

    @property
    def device(self) -> str:
        """Where the host reaches the device."""
        (published,) = self.container("device").ports["7101/tcp"]
        return f"{published['HostIp']}:{published['HostPort']}"

    def breaker_opened(self, service: str, since: float) -> float | None:
        """When the service's log first says that its breaker opened, after `since`; both as time.monotonic()."""
        to_monotonic = time.monotonic() - time.time()
        log = self.container(service).logs(timestamps=True, since=since - to_monotonic)
        for line in log.decode(errors="replace").splitlines():
            stamp, _, text = line.partition(" ")
            if "breaker to" in text and ": open" in text:
                # Docker writes nanoseconds, of which datetime takes six digits.
                moment = datetime.strptime(stamp[:26], "%Y-%m-%dT%H:%M:%S.%f")
                return moment.replace(tzinfo=UTC).timestamp() + to_monotonic
        return None


@contextlib.contextmanager
def deployed(
    services: Sequence[str] = ("device",),
    *,
    faketime: Path | None = None,
    has_store: bool = False,
) -> Iterator[Deployment]:
    """The project up and healthy with these services and what they need; gone at the end. Raises RuntimeError.

    faketime: libfaketime.so.1, through which the tiers then read their clocks, the monotonic one left as it is.
    has_store: the device keeps what it answers degraded on a disk of its own, STORE, of a few megabytes.
    """
    project = f"offramp-chaos-{secrets.token_hex(3)}"
    # One that the engine chose would be another one after a restart.
    ports = {"PORT_DEVICE": str(free_port()), "PORT_PROMETHEUS": "0"}
    with tempfile.TemporaryDirectory() as temporary:
        files = ["--file", str(ROOT / "docker-compose.yml")]
        clock = None
        if faketime is not None:
            clock = Path(temporary, "clock", "offset")
            Path(temporary, "clock.yml").write_text(_own_clock(faketime, clock))
            files += ["--file", str(Path(temporary, "clock.yml"))]
        if has_store:
            Path(temporary, "store.yml").write_text(json.dumps(_OWN_DISK))
            files += ["--file", str(Path(temporary, "store.yml"))]

        def compose(*words: str) -> subprocess.CompletedProcess[str]:
            command = ["docker", "compose", "--project-name", project, *files, *words]
            environment = {**os.environ, **ports}
            return subprocess.run(  # noqa: S603
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )

        engine = docker.from_env(timeout=60)
        try:
            done = compose("up", "--build", "--wait", "--wait-timeout", "120", *services)
            if done.returncode != 0:
                raise RuntimeError(f"docker compose up failed: {done.stderr[-2000:]}")
            yield Deployment(project, engine, clock)
        finally:
            compose("down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "15")
            engine.close()


def _own_clock(faketime: Path, clock: Path) -> str:
    """A compose file (JSON is YAML) that gives the tiers a clock of their own, by the offset in that file."""
    clock.parent.mkdir(mode=0o755)
    clock.parent.parent.chmod(0o755)  # the tiers are other users
    clock.write_text("+0\n")
    tier = {
        "environment": {
            "LD_PRELOAD": "/faketime/libfaketime.so.1",
            "FAKETIME_TIMESTAMP_FILE": "/clock/offset",
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
        "volumes": [
            f"{faketime}:/faketime/libfaketime.so.1:ro",
            f"{clock.parent}:/clock:ro",
        ],
    }
    return json.dumps({"services": dict.fromkeys(("device", "fog", "cloud"), tier)})
