"""The three tiers in containers: up and healthy, asked, read back from Prometheus, killed, stopped.

One deployment serves the whole module. The tests run in the order of this file: the last ones kill and stop tiers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("docker")

import numpy as np
from benchmarks.chaos.faults import faults
from benchmarks.chaos.load import Asked, Load, loading
from numpy.typing import NDArray
from tests.composed import (
    BASE_IMAGE,
    ROOT,
    TIERS,
    Deployment,
    answers_of,
    eventually,
    expect_data,
    up,
    write_images,
)
from tests.dashboard import Panel, is_of_a_link, panels

from offramp.data import fashion_mnist

pytestmark = pytest.mark.compose

SERVICES = (*TIERS, "prometheus")
IMAGES = 1000
MOST_BYTES_OVER_BASE = 240e6
MOST_RESIDENT_BYTES = 120e6


def demo_images() -> NDArray[np.uint8]:
    """(N, 28, 28, 1), those that the repository holds."""
    return fashion_mnist.load("test", ROOT / "examples" / "fashion_mnist").images.reshape(
        -1, 28, 28, 1
    )


def late(load: Load, since: float) -> list[Asked]:
    """What was asked since then."""
    return [one for one in list(load.asked) if one.due > since]


def count_by_tier(answers: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(answer["tier"] for answer in answers))


# On a busy machine an answer of the device's own takes longer to its caller than the 10 ms that it usually keeps.
RESERVE = """
services:
  device: { environment: { OFFRAMP_DEVICE_UPLINK__RESERVE_S: "0.5" } }
"""


@pytest.fixture(scope="module")
def deployment(
    docker_engine: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The three tiers and Prometheus, up and healthy."""
    override = tmp_path_factory.mktemp("compose") / "reserve.yml"
    override.write_text(RESERVE)
    with up(docker_engine, COMPOSE_FILE=f"docker-compose.yml:{override}") as deployment:
        yield deployment


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first test images of Fashion-MNIST as PNG files."""
    return write_images(tmp_path_factory.mktemp("images"), IMAGES)


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
    closed = ("-path", "/var/lib/offramp", "-prune", "-o")  # to a root without capabilities
    named = ("(", "-name", "pip*", "-o", "-name", "torch", ")", "-path", "*/bin/*", "-print")
    assert deployment.execute(tier, "find", "/", "-xdev", *closed, *named, user="0")[1] == ""


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


@pytest.mark.parametrize("rules", ["recording", "alerts"])
def test_promtool_finds_the_rules_to_do_what_their_tests_say(
    deployment: Deployment, rules: str
) -> None:
    # Its own scratch goes where the container may write.
    promtool = ["env", "TMPDIR=/data", "/bin/promtool", "test", "rules"]
    tests = f"/etc/prometheus/tests/{rules}.yml"
    code, output = deployment.execute("prometheus", *promtool, tests)
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


@pytest.mark.parametrize("panel", [p for p in panels() if not is_of_a_link(p)], ids=str)
def test_the_query_of_every_panel_has_data(
    deployment: Deployment, answers: list[dict[str, Any]], images: list[Path], panel: Panel
) -> None:
    expect_data(deployment, panel.queries, images)


def test_no_alert_fires_where_nothing_is_wrong(
    deployment: Deployment, answers: list[dict[str, Any]]
) -> None:
    assert deployment.series('ALERTS{alertstate="firing"}') == []


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


@pytest.mark.parametrize("name", ["fog paused", "fog cut off the network"])
def test_what_a_silent_fog_would_have_answered_the_device_answers(
    deployment: Deployment, name: str
) -> None:
    (fault,) = (one for one in faults(seed=1) if one.name == name)
    device = deployment.address("device", 7101)
    with loading(device, demo_images(), rate_hz=50, deadline_s=2.0) as load:
        # A fault needs the part of a deployment that both kinds have: its containers and networks.
        fault.begin(deployment)  # type: ignore[arg-type]
        eventually(lambda: any(one.reason for one in load.asked), 30, "a degraded answer")
        fault.end(deployment)  # type: ignore[arg-type]
        mended = time.monotonic()
        eventually(lambda: any(one.tier == "fog" for one in late(load, mended)), 30, "the fog's")
    assert len(load.asked) == load.sent
    assert {one.error for one in load.asked} == {""}
    assert {one.reason for one in load.asked} - {""} <= fault.reasons


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_stops_cleanly_on_sigterm(deployment: Deployment, tier: str) -> None:
    container = deployment.container(tier)
    container.kill(signal="SIGTERM")
    assert container.wait(timeout=20)["StatusCode"] == 0
