"""The three programs: a mistake is one line and exit code 2; --check-config says what would run."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serving.tiers import LOCAL, Program, clean_environment, program


def run(
    tier: str, *flags: str, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        program(tier, *flags),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env=clean_environment(**variables),
    )


def mistake(tier: str, *flags: str, **variables: str) -> str:
    """The one line that the program ends with."""
    done = run(tier, *flags, **variables)
    assert (done.returncode, done.stdout) == (2, ""), done
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"offramp-{tier}: ")
    return line.removeprefix(f"offramp-{tier}: ")


@pytest.mark.parametrize("tier", ["device", "fog", "cloud"])
def test_check_config_says_what_would_run_from_any_folder(
    scores: Path, tmp_path: Path, tier: str
) -> None:
    (tmp_path / "tier.toml").write_text(f"bundle = '{scores}'\npolicy = 'never'\n")
    done = run(tier, "--config", "tier.toml", "--check-config", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("bundle scores ")
    assert "policy never " in done.stdout
    assert done.stdout.count("\n") == 1


def test_check_config_needs_no_port(scores: Path, start: Callable[..., Program]) -> None:
    cloud = start("cloud", scores)
    flags = ("--bundle", str(scores), "--listen", cloud.listen, "--metrics", cloud.metrics)
    assert run("cloud", *flags, "--check-config").returncode == 0


def test_settings_that_do_not_fit_the_bundle(scores: Path, tmp_path: Path) -> None:
    bundle = ("--bundle", str(scores), "--check-config")
    assert mistake("cloud", *bundle, "--plan.last_stage", "3") == (
        "plan.last_stage: 3, but the last stage is 2"
    )
    assert mistake("cloud", *bundle, OFFRAMP_CLOUD_POLICY="bold") == (
        "policy: 'bold' is none of the bundle's: usual, never, always"
    )
    part = shutil.copytree(scores, tmp_path / "part")
    (part / "stage2.onnx").unlink()
    assert mistake("cloud", "--bundle", str(part)) == (
        f"plan.last_stage: 2, but {part} holds the stages [0, 1] only"
    )


def test_the_cloud_ends_at_the_last_stage_of_whichever_bundle(scores: Path, raw: Path) -> None:
    for bundle, said in ((scores, "stages [0, 1, 2] up to 2"), (raw, "stages [0, 1] up to 1")):
        assert said in run("cloud", "--bundle", str(bundle), "--check-config").stdout
    flags = ("--bundle", str(scores), "--check-config")
    assert "up to 1" in run("cloud", *flags, OFFRAMP_CLOUD_PLAN__LAST_STAGE="1").stdout
    assert mistake("cloud", *flags, "--plan.last_stage", "-2").startswith("--plan.last_stage: ")


def test_a_keepalive_that_a_tier_would_not_bear_is_refused(scores: Path) -> None:
    line = mistake("fog", "--bundle", str(scores), "--uplink.keepalive_s", "1")
    assert line.startswith("--uplink.keepalive_s: ")


def test_settings_that_are_none(scores: Path, tmp_path: Path) -> None:
    bundle = ("--bundle", str(scores), "--check-config")
    (tmp_path / "bad.toml").write_text("bundle = 'b'\nbundel = 'c'\n")
    (tmp_path / "worse.toml").write_text("bundle = \n")
    config = ("--config", str(tmp_path / "bad.toml"))
    assert mistake("fog", *config) == f"{tmp_path}/bad.toml: bundel: no such key"
    config = ("--config", str(tmp_path / "worse.toml"))
    assert mistake("fog", *config).startswith(f"{tmp_path}/worse.toml: is no TOML: ")
    assert mistake("fog", "--bundle", "/none").startswith("/none: there is no bundle")
    assert mistake("fog", *bundle, "--colour", "1") == "unrecognized arguments: --colour 1"
    assert mistake("cloud", *bundle, OFFRAMP_CLOUD_UPLINK__ADDRESS="a:1").startswith(
        "$OFFRAMP_CLOUD_UPLINK__ADDRESS: uplink: "
    )


@pytest.mark.parametrize(
    "name", ["stage0.onnx", "stage1.onnx", "stage2.onnx", "manifest.json", "SHA256SUMS"]
)
def test_a_bundle_with_one_flipped_bit_is_refused_by_the_name_of_the_file(
    scores: Path, tmp_path: Path, name: str
) -> None:
    copy = shutil.copytree(scores, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    line = mistake("cloud", "--bundle", str(copy))
    assert line.startswith(str(copy))
    if name != "SHA256SUMS":  # whose hashes accuse another file, or whose names none
        assert line.startswith(f"{copy / name}: ")


def test_a_model_with_the_right_hash_and_the_wrong_tensors_is_refused(
    scores: Path, tmp_path: Path
) -> None:
    import hashlib

    copy = shutil.copytree(scores, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    old = manifest["network"]["stages"][1]["sha256"]
    for content, said in ((b"no model", "is no ONNX model"), (None, "inputs")):
        shutil.copytree(scores, copy, dirs_exist_ok=True)
        data = content if content is not None else (scores / "stage0.onnx").read_bytes()
        (copy / "stage1.onnx").write_bytes(data)
        new = hashlib.sha256(data).hexdigest()
        text = (copy / "manifest.json").read_text().replace(old, new)
        (copy / "manifest.json").write_text(text)
        sums = (scores / "SHA256SUMS").read_text().replace(old, new)
        was = hashlib.sha256((scores / "manifest.json").read_bytes()).hexdigest()
        now = hashlib.sha256(text.encode()).hexdigest()
        (copy / "SHA256SUMS").write_text(sums.replace(was, now))
        line = mistake("cloud", "--bundle", str(copy))
        assert line.startswith((str(copy / "stage1.onnx"), "stage1.onnx: "))
        assert said in line


@pytest.mark.parametrize("setting", ["listen", "metrics"])
def test_a_port_in_use_is_named_by_its_setting(scores: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        places = {"listen": LOCAL, "metrics": LOCAL, setting: address}
        flags = [flag for key, place in places.items() for flag in (f"--{key}", place)]
        line = mistake("cloud", "--bundle", str(scores), *flags)
    assert line == f"{setting}: cannot listen on {address}: Address already in use"


def test_an_address_of_another_machine_is_named_with_the_reason(scores: Path) -> None:
    address = "192.0.2.1:7101"  # of nobody, RFC 5737
    line = mistake("cloud", "--bundle", str(scores), "--listen", address, "--metrics", LOCAL)
    assert line == f"listen: cannot listen on {address}: Cannot assign requested address"


def test_health_is_asked_by_the_program_itself(scores: Path, start: Callable[..., Program]) -> None:
    cloud = start("cloud", scores)
    flags = ("--bundle", str(scores), "--listen", cloud.listen)
    assert run("cloud", *flags, "--health").returncode == 0
    proxy = "http://127.0.0.1:9"  # where nothing listens
    assert run("cloud", *flags, "--health", http_proxy=proxy).returncode == 0
    assert cloud.stop() == 0
    assert run("cloud", *flags, "--health").returncode == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_program_ends_well_on_either_signal(
    scores: Path, start: Callable[..., Program], tmp_path: Path, number: signal.Signals
) -> None:
    device = start("device", scores, "--uplink.address", "127.0.0.1:1", cwd=tmp_path)
    device.send(number)
    assert device.process.wait(20) == 0


def test_help_and_version_are_for_people(scores: Path) -> None:
    del scores
    done = run("device", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--plan.last_stage" in done.stdout
    assert run("device", "--version").stdout.strip()[0].isdigit()
