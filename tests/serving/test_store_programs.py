"""The store of the real program: killed in the middle, on a full disk, with a file of no use; and `offramp results`."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.serving.running import free_port
from tests.serving.test_programs import mistake
from tests.serving.tiers import Program, clean_environment, scrape, wait_for
from tests.serving.toy import SURE_AT

from offramp.bundle import load_bundle, write_manifest
from offramp.cli import main
from offramp.client import Client
from offramp.rpc import Answer
from offramp.serving.store_file import NAME

NOWHERE = "127.0.0.1:1"
UNSURE = SURE_AT[2]
Start = Callable[..., Program]
Results = Callable[..., tuple[int, str, str]]


def flags(folder: Path, above: str = NOWHERE, rate: float = 100.0) -> list[str]:
    return [
        *("--uplink.address", above, "--plan.last_stage", "0"),
        *("--store.folder", str(folder), "--store.rate", str(rate)),
    ]


def held(device: Program, state: str) -> float:
    return scrape(device.metrics)["offramp_store_samples", f'held="{state}"']


def test_a_device_that_is_killed_in_the_middle_has_each_full_answer_once(
    scores: Path, tmp_path: Path, start: Start
) -> None:
    above = f"127.0.0.1:{free_port()}"
    cloud = start("cloud", scores, listen=above)
    device = start("device", scores, *flags(tmp_path, above, rate=20.0))
    wait_for(lambda: scrape(device.metrics)["offramp_upstreams", ""] == 1)
    with Client(device.listen) as client:
        expected = [client.infer(image, deadline_s=5.0) for image in SURE_AT]
        assert [one.tier for one in expected] == [1, 3, 3]
        cloud.kill()  # under load
        images = [SURE_AT[k % 3] for k in range(60)]
        answers = {timed.index: timed.outcome for timed in client.infer_many(images, in_flight=4)}
    kept = {one.id: k for k, one in answers.items() if isinstance(one, Answer) and one.stored}
    assert len(kept) == 40  # the device is sure of the others
    cloud = start("cloud", scores, listen=above)
    wait_for(lambda: held(device, "answered") >= 5)
    device.kill()
    again = start("device", scores, *flags(tmp_path, above, rate=20.0))
    assert held(again, "waiting") > 0
    wait_for(lambda: held(again, "waiting") == 0)
    with Client(again.listen) as client:
        results = list(client.results(waiting=True))
    assert sorted(stored.cursor for stored in results) == list(range(1, 41))
    assert {stored.id for stored in results} == set(kept)
    for stored in results:
        undegraded = expected[kept[stored.id] % 3]
        assert isinstance(stored.full, Answer)
        assert stored.full.probabilities.tolist() == undegraded.probabilities.tolist()
        assert (stored.full.exit, stored.full.degraded) == (undegraded.exit, None)


def test_on_a_full_disk_answers_go_on_and_when_there_is_room_again_they_are_kept(
    scores: Path, tmp_path: Path, start: Start
) -> None:
    log = (tmp_path / "log").open("w")
    device = start("device", scores, *flags(tmp_path / "store"), stderr=log)
    limit = device.process.pid, resource.RLIMIT_FSIZE
    with Client(device.listen) as client:
        assert client.infer(UNSURE).stored
        resource.prlimit(*limit, (1024, resource.RLIM_INFINITY))  # of any file, in bytes
        given = [client.infer(UNSURE) for _ in range(5)]
        assert [(one.degraded, one.stored) for one in given] == [("unreachable", False)] * 5
        resource.prlimit(*limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert client.infer(UNSURE).stored
        assert len(list(client.results(waiting=True))) == 2
    counted = scrape(device.metrics)
    assert counted["offramp_store_puts_total", 'put="broken"'] == 5
    assert counted["offramp_store_puts_total", 'put="stored"'] == 2
    assert counted["offramp_store_failures_total", ""] == 5
    assert device.stop() == 0
    log.close()
    said = (tmp_path / "log").read_text()
    assert said.count("but not kept") == 1
    assert said.count("works again") == 1


def test_a_store_of_no_use_is_one_line_that_names_the_file(
    scores: Path, tmp_path: Path, start: Start
) -> None:
    def line(*arguments: str) -> str:
        places = ("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
        return mistake("device", "--bundle", str(scores), *places, *arguments)

    (tmp_path / NAME).write_bytes(b"x" * 5000)
    said = line(*flags(tmp_path))
    assert said == f"store.folder: {tmp_path / NAME}: cannot be used: file is not a database"
    start("device", scores, *flags(tmp_path / "used"))
    file = tmp_path / "used" / NAME
    assert line(*flags(tmp_path / "used")) == f"store.folder: {file}: is in use by another process"
    reasons = ("--store.reasons", "unreachable,policy")
    assert line(*flags(tmp_path), *reasons).startswith("--store.reasons: 'policy' is none of ")
    assert line("--store.folder", str(tmp_path)) == (
        "store.folder: there is no uplink to get full answers from"
    )
    assert line("--store.rate", "5", "--uplink.address", NOWHERE).startswith("--store.rate: ")


# --- offramp results ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cloud(scores: Path) -> Iterator[Program]:
    program = Program("cloud", scores)
    yield program
    program.kill()


def command(address: str, *arguments: str) -> list[str]:
    offramp = str(Path(sys.executable).with_name("offramp"))
    return [offramp, "results", "--device", address, *arguments]


def renamed(bundle: Path, folder: Path, classes: tuple[str, ...]) -> Path:
    """The same stages under other class names, which is another network."""
    shutil.copytree(bundle, folder)
    manifest = load_bundle(folder).manifest
    network = manifest.network.model_copy(update={"classes": classes})
    write_manifest(folder, manifest.model_copy(update={"network": network}))
    return folder


@pytest.fixture
def results(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the verb; its exit code, standard output and standard error."""

    def run(address: str, *arguments: str) -> tuple[int, str, str]:
        code = main(["results", "--device", address, *arguments])
        return code, *capsys.readouterr()

    return run


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_results_prints_what_waits_and_what_is_answered_and_releases_what_was_printed(
    scores: Path, tmp_path: Path, start: Start, cloud: Program, results: Results
) -> None:
    device = start("device", scores, *flags(tmp_path))
    with Client(device.listen) as client:
        ids = [str(client.infer(image).id) for image in SURE_AT[1:]]
    assert results(device.listen) == (0, "", "")
    lines = results(device.listen, "--pending")[1].splitlines()
    assert [line.split()[1] for line in lines] == ids
    pattern = r"-: \S+ of \S+: waits; was cat 0\.\d{3} \(device, exit 0, unreachable\)"
    assert all(re.fullmatch(pattern, line) for line in lines)
    first, _ = objects(results(device.listen, "--pending", "--json")[1])
    assert (first["cursor"], first["full"], first["failed"]) == (0, None, None)
    assert device.stop() == 0

    device = start("device", scores, *flags(tmp_path, cloud.listen))
    wait_for(lambda: held(device, "answered") == 2)
    lines = results(device.listen)[1].splitlines()
    pattern = (
        r"\d: \S+ of \S+: (dog|fox) (1\.000|0\.999) \(cloud, exit [12]\); "
        r"was cat 0\.\d{3} \(device, exit 0, unreachable\)"
    )
    assert len(lines) == 2
    assert all(re.fullmatch(pattern, line) for line in lines)
    found = objects(results(device.listen, "--json")[1])
    assert sorted(one["id"] for one in found) == sorted(ids)
    assert {one["full"]["class"] for one in found} == {"dog", "fox"}
    (second,) = objects(results(device.listen, "--json", "--after", "1")[1])
    assert second == found[1]
    assert len(objects(results(device.listen, "--json", "--release")[1])) == 2
    assert results(device.listen) == (0, "", "")


def test_results_names_classes_by_the_network_of_the_answer(
    scores: Path, tmp_path: Path, start: Start, results: Results
) -> None:
    pushes = ("--bundles.push", "true", "--bundles.folder", str(tmp_path / "pushed"))
    device = start("device", scores, *flags(tmp_path / "store"), *pushes)
    with Client(device.listen) as client:
        assert client.infer(UNSURE).stored
    assert "was cat 0" in results(device.listen, "--pending")[1]
    for said, names in (("was cat 0", "xyz"), ("was 0 0", "uvw")):  # held as the former; gone
        other = renamed(scores, tmp_path / names, tuple(names))
        assert main(["bundle", "push", str(other), "--to", device.listen]) == 0
        results(device.listen)  # takes what the push has printed
        assert said in results(device.listen, "--pending")[1]
    (one,) = objects(results(device.listen, "--pending", "--json")[1])
    assert (one["degraded"]["class"], one["degraded"]["label"]) == ("0", 0)


def test_results_follows_until_it_is_interrupted_and_stops_where_nobody_reads(
    scores: Path, tmp_path: Path, start: Start
) -> None:
    device = start("device", scores, *flags(tmp_path))
    with Client(device.listen) as client:
        assert len(list(client.infer_many([UNSURE] * 300, in_flight=32))) == 300
    following, reading = (
        subprocess.Popen(
            command(device.listen, "--pending", "--json", *more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        for more in (["--follow"], [])
    )
    assert following.stdout is not None
    assert reading.stdout is not None
    for _ in range(300):
        assert json.loads(following.stdout.readline())["full"] is None
    following.send_signal(signal.SIGINT)
    assert following.communicate(timeout=20) == ("", "")
    assert following.returncode == 130
    assert json.loads(reading.stdout.readline())["full"] is None
    reading.stdout.close()
    assert reading.stderr is not None
    assert (reading.wait(20), reading.stderr.read()) == (0, "")
    reading.stderr.close()


def test_results_of_a_device_without_a_store_and_of_none(cloud: Program, results: Results) -> None:
    said = "offramp: this tier keeps no results: it has no setting store.folder\n"
    assert results(cloud.listen) == (1, "", said)
    assert results(cloud.listen, "--after", "-1") == (2, "", "offramp: --after: -1 is no cursor\n")
    said = f"offramp: {NOWHERE} does not answer within 5 s\n"
    assert results(NOWHERE) == (1, "", said)
    said = "offramp: --device: '127.0.0.1' is not HOST:PORT\n"
    assert results("127.0.0.1") == (2, "", said)
