"""`offramp infer` as a user types it: what it prints, in which order, and with which exit code it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.serving.tiers import Program, clean_environment, scrape, wait_for
from tests.serving.toy import SURE_AT

from offramp.cli import main
from offramp.client import Client
from offramp.client.inputs import payload_of
from offramp.errors import InvalidInput
from offramp.rpc.v1 import tier_pb2 as pb

NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
def device(scores: Path) -> Iterator[Program]:
    """A device with nothing above it."""
    program = Program("device", scores, "--plan.last_stage", "0")
    yield program
    program.kill()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three images; the device is sure of the first one only."""
    folder = tmp_path_factory.mktemp("images")
    for k, pixels in enumerate(SURE_AT):
        Image.fromarray(pixels[..., 0]).save(folder / f"{k}.png")
    return [str(folder / f"{k}.png") for k in range(3)]


def infer(address: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("offramp")), "infer", "--device", address]
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(**variables),
    )


def mistake(address: str, *arguments: str, code: int = 2) -> str:
    """The one line that it ends with."""
    done = infer(address, *arguments)
    assert (done.returncode, done.stdout) == (code, ""), done
    (line,) = done.stderr.splitlines()
    return line.removeprefix("offramp: ")


def test_one_line_an_image_in_the_order_given(device: Program, files: list[str]) -> None:
    order = [files[1], files[0], files[2], files[0]]
    done = infer(device.listen, *order)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == order
    assert "cat 1.000 (device, exit 0, " in lines[1]
    assert ["degraded: unreachable" in line for line in lines] == [True, False, True, False]


def test_json_is_one_object_a_line(device: Program, files: list[str]) -> None:
    done = infer(device.listen, "--json", *files)
    first, second, _ = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["image"], first["class"], first["label"]) == (files[0], "cat", 0)
    assert (first["tier"], first["exit"], first["degraded"]) == ("device", 0, None)
    assert second["degraded"] == "unreachable"
    assert sum(first["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert [leg["tier"] for leg in first["trail"]] == ["device"]


def test_a_class_of_a_network_that_the_device_does_not_tell_of_is_a_number(
    device: Program,
    files: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = pb.DescribeResponse(networks=[pb.HeldNetwork(digest="0" * 64, classes=["x", "y", "z"])])
    monkeypatch.setattr(Client, "describe", lambda *_: told)  # as before a push of another bundle
    assert main(["infer", "--device", device.listen, "--early", files[0]]) == 0
    assert ": 0 1.000 (device" in capsys.readouterr().out
    assert main(["infer", "--device", device.listen, "--json", files[0]]) == 0
    assert json.loads(capsys.readouterr().out)["class"] == "0"


def unread(*words: str) -> tuple[int, str]:
    """The exit code, and what is said on stderr, where nobody reads stdout."""
    read, write = os.pipe()
    os.close(read)
    try:
        command = [str(Path(sys.executable).with_name("offramp")), *words]
        done = subprocess.run(
            command,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            env=clean_environment(),
        )
    finally:
        os.close(write)
    return done.returncode, done.stderr


def test_a_verb_whose_reader_has_gone_says_nothing_of_it(
    device: Program, scores: Path, files: list[str]
) -> None:
    assert unread("infer", "--device", device.listen, *files) == (0, "")
    assert unread("infer", "--device", device.listen, "--json", *files * 30) == (0, "")
    assert unread("bundle", "show", "--json", str(scores)) == (0, "")
    assert unread("link", "list") == (0, "")


def test_answers_so_far_that_nobody_reads_do_not_break_the_stream(
    scores: Path, files: list[str], start: Callable[..., Program]
) -> None:
    cloud = start("cloud", scores)
    flags = ("--plan.last_stage", "0", "--uplink.address", cloud.listen)
    device = start("device", scores, *flags)
    wait_for(lambda: scrape(device.metrics)["offramp_upstreams", ""] == 1)
    assert unread("infer", "--early", "--device", device.listen, *files) == (0, "")


def test_a_pipe_that_breaks_elsewhere_is_no_reader_that_has_gone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def break_elsewhere(_arguments: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("offramp.cli.link.run_list", break_elsewhere)
    with pytest.raises(BrokenPipeError):
        main(["link", "list"])


def test_local_says_that_it_was_asked_for(device: Program, files: list[str]) -> None:
    done = infer(device.listen, "--local", *files)
    assert done.returncode == 0
    assert [line.endswith("degraded: policy)") for line in done.stdout.splitlines()] == [
        False,
        True,
        True,
    ]


def test_one_bad_image_is_one_line_and_the_others_are_answered(
    device: Program, files: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(files[0]).read_bytes()[:-20])
    done = infer(device.listen, files[0], str(broken), str(tmp_path / "none.png"))
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    first, second = done.stderr.splitlines()
    assert first.startswith(f"offramp: {broken}: payload.image: ")
    path = tmp_path / "none.png"
    assert second == f"offramp: {path}: cannot be read: No such file or directory"


def test_a_policy_that_the_device_does_not_hold(device: Program, files: list[str]) -> None:
    line = mistake(device.listen, "--policy", "bold", files[0])
    assert line.startswith(f"{files[0]}: policy: bold is not held here; held: usual (")


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--in-flight", "0", "--in-flight: 0 is below 1"),
        ("--deadline", "0", "--deadline: 0 is not above 0"),
        ("--deadline", "nan", "--deadline: nan is not above 0"),
        ("--device", "127.0.0.1", "--device: '127.0.0.1' is not HOST:PORT"),
        ("--device", ":99999", "--device: ':99999' is not HOST:PORT"),
        ("--device", "", "--device: '' is not HOST:PORT"),
        ("--device", "a..b:1", "--device: 'a..b:1': no host can have that name"),
    ],
)
def test_a_flag_out_of_range(
    device: Program, files: list[str], flag: str, value: str, said: str
) -> None:
    assert mistake(device.listen, flag, value, files[0]).startswith(said)


def test_a_dead_port_is_one_line_within_the_deadline(files: list[str]) -> None:
    began = time.monotonic()
    line = mistake(NOWHERE, "--deadline", "0.5", files[0], code=1)
    assert line == f"{NOWHERE} does not answer within 0.5 s"
    assert time.monotonic() - began < 4.5  # the start of Python included


def test_a_proxy_for_the_web_is_not_for_tiers(device: Program, files: list[str]) -> None:
    proxy = "http://127.0.0.1:9"  # where nothing listens
    done = infer(device.listen, files[0], http_proxy=proxy, https_proxy=proxy, grpc_proxy=proxy)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_raw_tensor_is_asked_about_from_a_npy_file(raw: Path, tmp_path: Path) -> None:
    x = np.array([0.0, 4.0, 1.0], np.float32).reshape(1, 3, 1)
    files = {"right": x, "swapped": x.astype(">f4"), "double": x.astype(np.float64), "flat": x[0]}
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array)
    cloud = Program("cloud", raw)
    try:
        done = infer(cloud.listen, *(str(tmp_path / f"{name}.npy") for name in files))
    finally:
        cloud.kill()
    assert done.returncode == 2
    assert [": dog " in line for line in done.stdout.splitlines()] == [True, True]
    double, flat = done.stderr.splitlines()
    assert "payload.tensors[0].dtype: 'float64', not 'float32'" in double
    assert "payload.tensors[0].shape: [3, 1], not [1, 3, 1]" in flat


@pytest.mark.parametrize(
    "content",
    [b"", b"no array", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape'"],
)
def test_a_npy_file_that_holds_no_array_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.npy"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="holds no NumPy array") as caught:
        payload_of(path)
    assert caught.value.field == str(path)


def test_a_npy_file_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "objects.npy"
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InvalidInput, match="holds no NumPy array"):
        payload_of(path)
    np.save(path, np.array(["text"]))
    with pytest.raises(InvalidInput, match="<U4, not numbers"):
        payload_of(path)


def test_a_npy_file_that_claims_more_than_it_holds_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "claims.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(1 << 20,))
    path.write_bytes(path.read_bytes()[:4096])
    with pytest.raises(InvalidInput, match="holds no NumPy array"):
        payload_of(path)
