"""The three tiers in containers with emulated links between them: healthy, crossed, watched, switched under load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("docker")

from tests.composed import Deployment, answers_of, eventually, expect_data, up, write_images
from tests.dashboard import Panel, is_of_a_link, panels

pytestmark = pytest.mark.compose

LINKS = ("link-device-fog", "link-fog-cloud")
FIRST, SECOND = "wifi6", "5g-nsa-mid"  # of the link between device and fog
MACHINE = "raspberry-pi-5"  # stands in for the device
IMAGES = 300


# On a busy machine an answer of the device's own takes longer to its caller than the 10 ms that it usually keeps.
RESERVE = """
services:
  device: { environment: { OFFRAMP_DEVICE_UPLINK__RESERVE_S: "1" } }
"""


@pytest.fixture(scope="module")
def deployment(
    docker_engine: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The three tiers, Prometheus and both links."""
    override = tmp_path_factory.mktemp("compose") / "reserve.yml"
    override.write_text(RESERVE)
    files = f"docker-compose.yml:{override}"
    settings = {"LINK_DEVICE_FOG": FIRST, "MACHINE_DEVICE": MACHINE, "COMPOSE_FILE": files}
    with up(docker_engine, "emulation", **settings) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first test images of Fashion-MNIST as PNG files."""
    return write_images(tmp_path_factory.mktemp("images"), IMAGES)


@pytest.fixture(scope="module")
def answers(deployment: Deployment, images: list[Path]) -> list[dict[str, Any]]:
    """What the device answered over the links."""
    return deployment.infer(images)


def set_link(deployment: Deployment, *change: str) -> dict[str, Any]:
    """What is in force between device and fog after a change."""
    command = ("offramp", "link", "set", "--control", "/run/link/control", "--json", *change)
    code, output = deployment.execute("link-device-fog", *command)
    assert code == 0, output
    status: dict[str, Any] = json.loads(output)
    return status


@pytest.mark.parametrize("service", LINKS)
def test_a_link_is_healthy_without_root_or_privileges_on_a_read_only_root(
    deployment: Deployment, service: str
) -> None:
    status = deployment.process_status(service)
    assert deployment.container(service).attrs["State"]["Health"]["Status"] == "healthy"
    assert "0" not in status["Uid"].split()
    assert int(status["CapBnd"], 16) == 0
    code, output = deployment.execute(service, "touch", "/x", user="0")
    assert code != 0
    assert "Read-only file system" in output


def test_every_image_is_answered_over_the_links(
    answers: list[dict[str, Any]], images: list[Path]
) -> None:
    assert [answer["image"] for answer in answers] == [str(path) for path in images]
    assert {answer["tier"] for answer in answers} == {"device", "fog", "cloud"}


def test_what_the_tiers_exchange_crosses_the_links(
    deployment: Deployment, answers: list[dict[str, Any]]
) -> None:
    sent = 'offramp_wire_bytes_total{side="upstream", direction="up"}'

    def by_link(query: str) -> dict[str, float]:
        return {series.labels["link"]: series.value for series in deployment.series(query)}

    def crossed() -> bool:
        tiers = deployment.query(sent)
        links = by_link('offramp_link_bytes_total{direction="up"}')
        return (
            len(links) == 2
            and links["device-fog"] > tiers["device"] > 0
            and links["fog-cloud"] > tiers["fog"] > 0
        )

    eventually(crossed, 30, "the links count more than the tiers sent: HTTP/2 comes on top")


def test_the_device_stands_for_a_machine_and_says_so(
    deployment: Deployment, answers: list[dict[str, Any]]
) -> None:
    found = deployment.series("offramp_tier_profile_info")
    profiles = {series.labels["tier"]: series.labels["profile"] for series in found}
    assert profiles["device"] == MACHINE


@pytest.mark.parametrize("panel", [p for p in panels() if is_of_a_link(p)], ids=str)
def test_the_query_of_every_panel_of_a_link_has_data(
    deployment: Deployment, answers: list[dict[str, Any]], images: list[Path], panel: Panel
) -> None:
    expect_data(deployment, panel.queries, images)


def test_a_profile_switched_under_load_loses_no_request_and_shows_in_the_metrics(
    deployment: Deployment, answers: list[dict[str, Any]], images: list[Path]
) -> None:
    def profile() -> list[str]:
        found = deployment.series('offramp_link_info{link="device-fog"}')
        return [series.labels["profile"] for series in found]

    assert profile() == [FIRST]
    with deployment.infer_in_background(images) as process:
        assert set_link(deployment, "--profile", SECOND)["profile"] == SECOND
        during = answers_of(process)
    assert [answer["image"] for answer in during] == [str(path) for path in images]
    assert {answer["degraded"] for answer in during} <= {None, "deadline"}
    eventually(lambda: profile() == [SECOND], 30, "the switch is scraped")


def test_over_a_cut_link_the_device_answers_itself_and_afterwards_the_fog_again(
    deployment: Deployment, answers: list[dict[str, Any]], images: list[Path]
) -> None:
    from_above = [
        image for image, answer in zip(images, answers, strict=True) if answer["tier"] != "device"
    ]
    set_link(deployment, "--cut", "hold")
    (cut,) = deployment.infer(from_above[:1])
    assert (cut["tier"], cut["degraded"]) == ("device", "deadline")
    set_link(deployment, "--restore")
    eventually(
        lambda: deployment.infer(from_above[:1])[0]["tier"] != "device", 30, "the fog answers again"
    )
