"""The three tiers in containers with TLS on: healthy, answering whoever shows a token, and nobody else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("docker")

from tests.composed import ROOT, TIERS, Deployment, up, write_images

pytestmark = [
    pytest.mark.compose,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here"),
]
IMAGES = 200


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What make.sh has made, for the user that the images have."""
    folder = tmp_path_factory.mktemp("tls") / "made"
    subprocess.run([ROOT / "deploy" / "tls" / "make.sh", folder], check=True)
    if os.getuid() == 0:  # else the containers run as whoever runs the tests
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 10001, 10001)
    return folder


@pytest.fixture(scope="module")
def deployment(docker_engine: Any, made: Path) -> Iterator[Deployment]:
    """The three tiers with TLS on; up only when their health checks, which ask in the clear, are content."""
    variables = {
        "COMPOSE_FILE": "docker-compose.yml:deploy/tls/compose.yml",
        "OFFRAMP_TLS": str(made),
    }
    if os.getuid() != 0:
        variables["TLS_USER"] = f"{os.getuid()}:{os.getgid()}"
    with up(docker_engine, **variables) as deployment:
        yield deployment


def infer(deployment: Deployment, images: list[Path], *flags: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `offramp infer`."""
    program = str(Path(sys.executable).with_name("offramp"))
    command = [program, "infer", "--json", "--device", deployment.address("device", 7101), *flags]
    done = subprocess.run(
        [*command, *map(str, images)], capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_all_three_tiers_answer_who_shows_the_token(
    deployment: Deployment, made: Path, tmp_path: Path
) -> None:
    images = write_images(tmp_path, IMAGES)
    trusting = ("--ca", str(made / "authority" / "ca.crt"))
    code, out, err = infer(
        deployment, images, *trusting, "--token-file", str(made / "app" / "token")
    )
    assert code == 0, err
    by_tier = Counter(json.loads(line)["tier"] for line in out.splitlines())
    assert set(by_tier) == set(TIERS)
    assert sum(by_tier.values()) == IMAGES
    code, out, err = infer(deployment, images[:1], *trusting)
    assert (code, out) == (1, "")
    assert err.endswith(": UNAUTHENTICATED: not allowed to call this tier\n")


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_runs_without_root_and_cannot_write_its_keys(
    deployment: Deployment, tier: str
) -> None:
    assert "0" not in deployment.process_status(tier)["Uid"].split()
    assert deployment.container(tier).attrs["State"]["Health"]["Status"] == "healthy"
    code, output = deployment.execute(tier, "touch", "/tls/tls.key")
    assert code != 0
    assert "Read-only file system" in output


def test_no_secret_is_in_a_log(deployment: Deployment, made: Path) -> None:
    secrets = [(made / who / "token").read_text().strip() for who in ("app", "operator")]
    for tier in TIERS:
        said = deployment.container(tier).logs().decode()
        assert "ready" in said
        assert "PRIVATE KEY" not in said
        assert not [secret for secret in secrets if secret in said]
