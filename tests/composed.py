"""A compose project of this repository under a name and on ports of its own, for the tests that need containers."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import docker
import pytest
from PIL import Image

from offramp.data import fashion_mnist

ROOT = Path(__file__).parents[1]
TIERS = ("device", "fog", "cloud")
BASE_IMAGE = "python:3.11-slim-bookworm"
PROMETHEUS_IMAGE = "prom/prometheus:v2.53.3"
_FREE_PORTS = {"PORT_DEVICE": "0", "PORT_PROMETHEUS": "0"}  # 0: any that the engine finds


class Series(NamedTuple):
    """One element of a PromQL vector."""

    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Deployment:
    """A running compose project, seen through the engine's API."""

    project: str
    engine: Any

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

    def address(self, service: str, port: int) -> str:
        """Where the host reaches that port of the service."""
        (published,) = self.container(service).ports[f"{port}/tcp"]
        return f"{published['HostIp']}:{published['HostPort']}"

    def execute(self, service: str, *command: str, user: str = "") -> tuple[int, str]:
        """The exit code and the output of a command in the service's container."""
        code, output = self.container(service).exec_run(list(command), user=user)
        return code, output.decode()

    def process_status(self, service: str) -> dict[str, str]:
        """/proc/1/status of the service: its first process is the program."""
        code, text = self.execute(service, "cat", "/proc/1/status")
        assert code == 0, text
        pairs = (line.split(":", 1) for line in text.splitlines())
        return {key: value.strip() for key, value in pairs}

    def infer(self, images: list[Path]) -> list[dict[str, Any]]:
        """The answers of `offramp infer`, in the order of the images."""
        with self.infer_in_background(images) as process:
            return answers_of(process)

    def infer_in_background(self, images: list[Path]) -> subprocess.Popen[str]:
        """`offramp infer`, started and not waited for."""
        device = self.address("device", 7101)
        program = Path(sys.executable).with_name("offramp")
        command = [str(program), "infer", "--json", "--device", device]
        return subprocess.Popen(
            [*command, *map(str, images)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def series(self, expression: str) -> list[Series]:
        """The elements of a PromQL vector, as Prometheus has them now."""
        connection = http.client.HTTPConnection(self.address("prometheus", 9090), timeout=10)
        try:
            connection.request("GET", f"/api/v1/query?{urlencode({'query': expression})}")
            answer = json.load(connection.getresponse())
        finally:
            connection.close()
        assert answer["status"] == "success", (expression, answer)
        return [
            Series(sample["metric"], float(sample["value"][1]))
            for sample in answer["data"]["result"]
        ]

    def query(self, expression: str) -> dict[str, float]:
        """The value of a PromQL vector by tier (or by instance, where it names no tier)."""
        return {
            labels.get("tier", labels.get("instance", "")): value
            for labels, value in self.series(expression)
        }


def answers_of(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def eventually(is_true: Callable[[], bool], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.1)


@contextlib.contextmanager
def connected_engine() -> Iterator[Any]:
    """A Docker engine with Compose v2 and the base images; skips the test where there is none."""
    try:
        client = docker.from_env(timeout=60)
    except docker.errors.DockerException as exc:
        pytest.skip(f"no Docker engine answers: {exc}")
    try:
        compose = subprocess.run(
            ["docker", "compose", "version"], capture_output=True, text=True, check=False
        )
        if compose.returncode != 0:
            pytest.skip(f"no Compose v2: {compose.stderr.strip()}")
        for name in (BASE_IMAGE, PROMETHEUS_IMAGE):
            try:
                client.images.get(name)
            except docker.errors.ImageNotFound:
                pull_or_skip(client, name)
        yield client
    finally:
        client.close()


def pull_or_skip(client: Any, name: str) -> None:
    try:
        client.images.pull(name)
    except docker.errors.APIError as exc:
        pytest.skip(f"{name} is not here and cannot be pulled: {exc.explanation}")


@contextlib.contextmanager
def up(engine: Any, *profiles: str, **variables: str) -> Iterator[Deployment]:
    """The project up and healthy, with these compose profiles and variables; down and gone at the end."""
    project = f"offramp-test-{secrets.token_hex(4)}"
    environment = os.environ | _FREE_PORTS | variables
    named = [flag for profile in profiles for flag in ("--profile", profile)]

    def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "compose", "--project-name", project, *named, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    try:
        done = compose("up", "--build", "--wait", "--wait-timeout", "120")
        assert done.returncode == 0, done.stderr[-4000:] + compose("logs", "--tail", "30").stdout
        yield Deployment(project, engine)
    finally:
        compose("down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "15")


def write_images(folder: Path, count: int) -> list[Path]:
    """The first test images of Fashion-MNIST as PNG files."""
    pixels = fashion_mnist.load("test", ROOT / "examples" / "fashion_mnist").images
    paths = [folder / f"{index:05}.png" for index in range(count)]
    for path, image in zip(paths, pixels, strict=False):
        Image.fromarray(image.reshape(28, 28)).save(path)
    return paths


def expect_data(deployment: Deployment, queries: Sequence[str], images: list[Path]) -> None:
    """Wait until every query returns a number; images are asked about where rates have nothing to count."""

    def has_data() -> bool:
        return all(
            any(not math.isnan(value) for _, value in deployment.series(query)) for query in queries
        )

    if not has_data():  # rates are over the last minute
        deployment.infer(images[:100])
        eventually(has_data, 30, f"data for {queries}")
