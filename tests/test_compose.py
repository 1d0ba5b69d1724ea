"""The three tiers in containers: up and healthy, asked, read back from Prometheus, killed, stopped.

One deployment serves the whole module. The tests run in the order of this file: the last ones kill and stop tiers.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from PIL import Image

from offramp.data import fashion_mnist

docker = pytest.importorskip("docker")

pytestmark = pytest.mark.compose

ROOT = Path(__file__).parents[1]
TIERS = ("device", "fog", "cloud")
SERVICES = (*TIERS, "prometheus")
BASE_IMAGE = "python:3.11-slim-bookworm"
PROMETHEUS_IMAGE = "prom/prometheus:v2.53.3"
IMAGES = 1000
MOST_BYTES_OVER_BASE = 240e6
MOST_RESIDENT_BYTES = 120e6


# --- the deployment -----------------------------------------------------------------------------


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

    def query(self, expression: str) -> dict[str, float]:
        """The value of a PromQL vector by tier (or by instance, where it names no tier)."""
        connection = http.client.HTTPConnection(self.address("prometheus", 9090), timeout=10)
        try:
            connection.request("GET", f"/api/v1/query?{urlencode({'query': expression})}")
            answer = json.load(connection.getresponse())
        finally:
            connection.close()
        assert answer["status"] == "success", answer
        return {
            sample["metric"].get("tier", sample["metric"].get("instance", "")): float(
                sample["value"][1]
            )
            for sample in answer["data"]["result"]
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


def count_by_tier(answers: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(answer["tier"] for answer in answers))


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """A Docker engine with Compose v2 and the base images."""
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


@pytest.fixture(scope="module")
def deployment(engine: Any) -> Iterator[Deployment]:
    """The project up and healthy under a name and on ports of its own."""
    project = f"offramp-test-{secrets.token_hex(4)}"
    # Port 0 lets the engine choose free ones.
    environment = os.environ | {"PORT_DEVICE": "0", "PORT_PROMETHEUS": "0"}

    def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "compose", "--project-name", project, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    try:
        up = compose("up", "--build", "--wait", "--wait-timeout", "120")
        assert up.returncode == 0, up.stderr[-4000:] + compose("logs", "--tail", "30").stdout
        yield Deployment(project, engine)
    finally:
        compose("down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "15")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first test images of Fashion-MNIST as PNG files."""
    folder = tmp_path_factory.mktemp("images")
    pixels = fashion_mnist.load("test", ROOT / "examples" / "fashion_mnist").images
    paths = [folder / f"{index:05}.png" for index in range(IMAGES)]
    for path, image in zip(paths, pixels, strict=False):
        Image.fromarray(image.reshape(28, 28)).save(path)
    return paths


@pytest.fixture(scope="module")
def answers(deployment: Deployment, images: list[Path]) -> list[dict[str, Any]]:
    """What the device answered to every image while all tiers were up."""
    return deployment.infer(images)


# --- what is up ---------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_is_healthy_without_root_or_privileges_on_a_read_only_root(
    deployment: Deployment, service: str
) -> None:
    container = deployment.container(service)
    status = deployment.process_status(service)
    assert container.attrs["State"]["Health"]["Status"] == "healthy"
    assert "0" not in status["Uid"].split()
    assert int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    code, output = deployment.execute(service, "touch", "/x", user="0")
    assert code != 0
    assert "Read-only file system" in output


def test_only_device_and_prometheus_are_published_and_on_the_loopback_only(
    deployment: Deployment,
) -> None:
    published = {
        service: [
            p["HostIp"]
            for ports in deployment.container(service).ports.values()
            for p in ports or ()
        ]
        for service in SERVICES
    }
    assert published == {
        "device": ["127.0.0.1"],
        "fog": [],
        "cloud": [],
        "prometheus": ["127.0.0.1"],
    }


def test_the_device_reaches_the_fog_and_not_the_cloud(deployment: Deployment) -> None:
    def reaches(service: str, host: str, port: int) -> bool:
        connect = f"import socket; socket.create_connection(({host!r}, {port}), 2).close()"
        return deployment.execute(service, "python", "-c", connect)[0] == 0

    (network,) = deployment.container("cloud").attrs["NetworkSettings"]["Networks"].values()
    assert reaches("device", "fog", 7102)
    assert reaches("fog", network["IPAddress"], 7103)
    assert not reaches("device", network["IPAddress"], 7103)


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_says_once_that_it_is_ready(deployment: Deployment, tier: str) -> None:
    # How soon, python -m benchmarks.footprint measures.
    lines = deployment.container(tier).logs(stderr=False).decode().splitlines()
    assert len([line for line in lines if line.startswith(f"ready {tier} ")]) == 1


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_waits_longer_before_it_is_killed_than_it_drains(
    deployment: Deployment, tier: str
) -> None:
    assert deployment.container(tier).attrs["Config"]["StopTimeout"] > 10


@pytest.mark.parametrize("tier", TIERS)
def test_an_image_adds_little_to_its_base(deployment: Deployment, tier: str) -> None:
    base = deployment.engine.images.get(BASE_IMAGE).attrs["Size"]
    size = deployment.container(tier).image.attrs["Size"]
    assert 0 < size - base < MOST_BYTES_OVER_BASE


@pytest.mark.parametrize("tier", TIERS)
def test_an_image_holds_no_torch_and_no_pip(deployment: Deployment, tier: str) -> None:
    code, base_python = deployment.execute(
        tier, "python", "-c", "import os, sys; print(os.path.realpath(sys.executable))"
    )
    assert code == 0
    for python in ("/opt/offramp/bin/python", base_python.strip()):
        for module in ("torch", "pip", "ensurepip"):
            code, output = deployment.execute(tier, python, "-m", module)
            assert code == 1
            assert f"No module named {module}" in output
    find = [
        "find",
        "/",
        "-xdev",
        "(",
        "-name",
        "pip*",
        "-o",
        "-name",
        "torch",
        ")",
        "-path",
        "*/bin/*",
    ]
    assert deployment.execute(tier, *find, user="0")[1] == ""


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_reports_to_nobody(deployment: Deployment, tier: str) -> None:
    logs = deployment.container(tier).logs()
    assert b"ready" in logs
    assert b"telemetry" not in logs.lower()  # onnxruntime says so where it reports


def test_promtool_accepts_the_configuration(deployment: Deployment) -> None:
    code, output = deployment.execute(
        "prometheus", "/bin/promtool", "check", "config", "/etc/prometheus/prometheus.yml"
    )
    assert code == 0, output


# --- the answers --------------------------------------------------------------------------------


def test_every_image_is_answered_and_every_tier_answers_some(
    answers: list[dict[str, Any]], images: list[Path]
) -> None:
    assert [answer["image"] for answer in answers] == [str(path) for path in images]
    assert {answer["degraded"] for answer in answers} == {None}
    assert set(count_by_tier(answers)) == set(TIERS)


def test_prometheus_scrapes_all_three_tiers(deployment: Deployment) -> None:
    expected = {"device:9101": 1.0, "fog:9102": 1.0, "cloud:9103": 1.0}
    eventually(lambda: deployment.query("up") == expected, 30, "three targets up")


def test_prometheus_has_the_answers_that_the_caller_got(
    deployment: Deployment, answers: list[dict[str, Any]]
) -> None:
    def answered() -> dict[str, float]:
        return deployment.query("sum by (tier) (offramp_exits_total)")

    eventually(lambda: sum(answered().values()) >= IMAGES, 30, "all answers scraped")
    assert answered() == count_by_tier(answers)
    assert deployment.query('offramp_requests_total{outcome="answered", tier="device"}') == {
        "device": IMAGES
    }


def test_prometheus_has_the_bytes_of_every_hop(
    deployment: Deployment, answers: list[dict[str, Any]]
) -> None:
    by_tier = count_by_tier(answers)
    sent = {"device": by_tier["fog"] + by_tier["cloud"], "fog": by_tier["cloud"]}
    for direction in ("up", "down"):
        hop = deployment.query(
            f'offramp_wire_bytes_total{{side="upstream", direction="{direction}"}}'
        )
        assert hop["device"] > sent["device"]
        assert hop["fog"] > sent["fog"]
        assert hop["cloud"] == 0


def test_a_device_stays_small_under_requests(
    deployment: Deployment, answers: list[dict[str, Any]]
) -> None:
    assert len(answers) == IMAGES
    resident, unit = deployment.process_status("device")["VmRSS"].split()
    assert unit == "kB"
    assert int(resident) * 1024 < MOST_RESIDENT_BYTES


# --- the end: these tests kill and stop tiers, in this order ------------------------------------


def test_when_the_cloud_is_killed_every_image_is_still_answered(
    deployment: Deployment, answers: list[dict[str, Any]], images: list[Path]
) -> None:
    def computing() -> bool:
        read = (
            "from urllib.request import urlopen; "
            "print(urlopen('http://127.0.0.1:9101/metrics').read().decode())"
        )
        _, text = deployment.execute("device", "python", "-c", read)
        total = sum(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith("offramp_requests_total")
        )
        return total > len(answers)

    with deployment.infer_in_background(images) as process:
        eventually(computing, 30, "the second round has begun")
        deployment.container("cloud").kill()
        during = answers_of(process)
    assert len(during) == len(images)
    assert {answer["degraded"] for answer in during} <= {None, "unreachable"}

    unsure = [
        image for image, answer in zip(images, answers, strict=True) if answer["tier"] == "cloud"
    ]
    after = deployment.infer(unsure)
    assert [(answer["tier"], answer["degraded"]) for answer in after] == [
        ("fog", "unreachable")
    ] * len(unsure)
    lost = Counter(answer["degraded"] for answer in during + after)["unreachable"]
    eventually(
        lambda: (
            deployment.query('offramp_degraded_total{tier="fog", reason="unreachable"}')
            == {"fog": lost}
        ),
        30,
        f"{lost} degraded answers scraped",
    )


def test_when_the_cloud_is_back_it_answers_again(
    deployment: Deployment, answers: list[dict[str, Any]], images: list[Path]
) -> None:
    unsure = [
        image for image, answer in zip(images, answers, strict=True) if answer["tier"] == "cloud"
    ]
    deployment.container("cloud").start()
    eventually(
        lambda: count_by_tier(deployment.infer(unsure[:1])) == {"cloud": 1}, 30, "the cloud answers"
    )


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_stops_cleanly_on_sigterm(deployment: Deployment, tier: str) -> None:
    container = deployment.container(tier)
    container.kill(signal="SIGTERM")
    assert container.wait(timeout=20)["StatusCode"] == 0
