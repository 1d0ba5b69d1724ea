"""The serving benchmark: what it concludes from canned figures, its floor, and that its decisions are fixed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp")
onnx = pytest.importorskip("onnx")

from benchmarks.serving import report, w2_report, w3
from benchmarks.serving.clients import CLIENTS, Answer
from benchmarks.serving.clients.open_inference import OpenInferenceClient
from benchmarks.serving.loads import Open, arrivals_s
from benchmarks.serving.measuring import TreeMeter, control_group, pss_mb
from benchmarks.serving.network import LEAVING, POOL, candidates, choose
from benchmarks.serving.peers.stage import GOES_ON, Stage
from benchmarks.serving.pipelines import PIPELINES
from benchmarks.serving.running import Command, free_port, running
from benchmarks.serving.summary import bars, batch_share, ratio, summarise
from benchmarks.serving.systems import SYSTEMS
from benchmarks.serving.systems import choose as choose_systems

from offramp.exits import ExitPolicy, ExitSetting


def trial(cpu_ms: float, p99: float, open_p99: float | None = None, **more: Any) -> dict[str, Any]:
    latency = {"p50": p99 / 2, "p99": p99}
    found: dict[str, Any] = {
        "meter": "by hand",
        "start_s": 1.0,
        "pss_mb": 80.0,
        "processes": 1,
        "closed": {"cpu_ms": cpu_ms, "images_per_s": 500.0, "latency_ms": latency, "wrong": {}},
        "batch": {"cpu_ms": cpu_ms, "images_per_s": 950.0, "wrong": {}},
    }
    if open_p99 is not None:
        found["open"] = {"latency_ms": {"p50": 1.0, "p99": open_p99}, "wrong": {}}
    return found | more


def one_round(ours: float, floor: float, mosec: float) -> dict[str, Any]:
    spent = {"cpu_ms": 1.0, "wall_ms": 1.0, "median_ms": 1.0}
    return {
        "bare": {"1": spent, "8": spent, "32": spent},
        "floor": trial(floor, 20.0, 10.0),
        "offramp": trial(ours, 15.0, 6.0),
        "mosec": trial(mosec, 18.0, 8.0),
    }


ROUNDS = [one_round(0.9, 1.2, 1.0), one_round(1.8, 2.0, 1.5), one_round(0.8, 1.0, 0.9)]


def test_a_bar_judges_the_median_of_the_ratios_within_the_rounds() -> None:
    assert ratio(ROUNDS, "cpu_ms", "floor") == pytest.approx(0.8)  # of 0.75, 0.9 and 0.8
    assert ratio(ROUNDS, "cpu_ms", "ray") is None
    assert batch_share(ROUNDS) == pytest.approx(0.95)
    found = {one["what"]: (one["found"], one["holds"]) for one in bars(ROUNDS, ("mosec", "ray"))}
    assert found["CPU-ms a request, over the floor's"] == (pytest.approx(0.8), True)
    assert found["CPU-ms a request, over the best peer's (mosec)"] == (pytest.approx(0.9), True)
    assert found["p99 in the open loop, over the best peer's (mosec)"] == (0.75, True)
    assert found["memory (PSS) of single images, MB"] == (80.0, True)


def test_what_was_not_measured_is_neither_held_nor_broken() -> None:
    alone = [{name: row[name] for name in ("bare", "floor", "offramp")} for row in ROUNDS]
    holds = {one["what"]: one["holds"] for one in bars(alone, ("mosec",))}
    assert holds["CPU-ms a request, over the best peer's (None)"] is None
    assert holds["p99 in the open loop, over the best peer's (None)"] is None


def test_a_wrong_answer_of_anyone_breaks_a_bar() -> None:
    fast = trial(0.1, 1.0, 1.0)
    fast["closed"]["wrong"] = {"another answer than onnxruntime's": 1}
    found = bars([{**ROUNDS[0], "mosec": fast}], ("mosec",))
    assert [one["holds"] for one in found if "wrongly" in one["what"]] == [False]


def record_of(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    machine = {"processor": "p", "cores": 2, "server_core": 0, "load_core": 1, "load_before": 0.1}
    found = {
        "machine": machine,
        "seconds": 3.0,
        "titles": {name: name for name in rounds[0] if name != "bare"},
        "rounds": rounds,
        "summary": summarise(rounds),
        "bars": bars(rounds, ("mosec",)),
    }
    return {"command": "python -m benchmarks.serving.w1", "found": found}


def test_a_system_that_the_offered_rate_is_too_much_for_has_a_dash() -> None:
    page = report.markdown(record_of([{**row, "mosec": trial(2.0, 30.0)} for row in ROUNDS]))
    (row,) = [line for line in page.splitlines() if line.startswith("| mosec |")]
    assert row.split(" | ")[5] == "-"
    assert "| CPU-ms a request, over the floor's | 0.8 | at most 0.9 | reached |" in page


def test_a_picture_is_drawn_from_a_record(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.serving.plot import draw

    draw(record_of(ROUNDS)["found"], tmp_path / "serving.png")
    assert (tmp_path / "serving.png").read_bytes().startswith(b"\x89PNG")


def pipeline(cpu_ms: float, *latencies_ms: float) -> dict[str, Any]:
    exits = [{"requests": 9, "p50": value, "p99": 2 * value} for value in latencies_ms]
    return {
        "many": {"images_per_s": 100.0, "wrong": {}},
        "one": {"by_exit": exits, "wrong": {}},
        "all_cpu_ms": cpu_ms,
        "pss_mb": {"cloud": 70.0, "fog": 71.0, "device": 72.0},
    }


def test_framework_cpu_is_what_is_spent_beyond_the_stages() -> None:
    rounds = [
        {
            "bound": {"compute_cpu_ms": 0.5, "latency_ms": [1.0, 2.0, 3.0], "hop_bytes": [1, 2, 3]},
            "offramp": pipeline(1.1, 1.1, 2.2, 3.6),
            "mosec": pipeline(1.7, 3.0, 6.0, 9.0),
            "kserve": pipeline(2.5, 3.0, 6.0, 9.0),
        }
    ]
    found = {one["what"]: (one["found"], one["holds"]) for one in w2_report.bars(rounds)}
    assert found["framework CPU-ms, over the best peer's (mosec)"] == (pytest.approx(0.5), True)
    names = [f"exit {k}, p50 with one in flight, over compute and bare gRPC" for k in range(3)]
    assert [found[name][1] for name in names] == [True, True, False]


def test_arrivals_are_the_same_for_the_same_seed_and_come_at_the_rate() -> None:
    load = Open(rate_hz=400.0, seconds=20.0, seed=3)
    times = arrivals_s(load)
    assert np.array_equal(times, arrivals_s(load))
    assert len(times) == pytest.approx(8000, rel=0.05)
    assert (np.diff(times) > 0).all()
    assert times[-1] < 20.0


def test_a_pool_has_the_shares_and_a_policy_of_its_thresholds_decides_so() -> None:
    chance = np.random.default_rng(1)
    logits = [chance.normal(size=(500, 10)) for _ in range(3)]
    even = ExitPolicy(name="even", exits=(ExitSetting(),) * 3)
    first, second = (even.decide(k, logits[k]).confidence for k in range(2))
    places, exits, thresholds = choose(first, second)
    assert np.bincount(exits).tolist() == list(LEAVING)
    assert len(set(places)) == POOL
    settings = [ExitSetting(threshold=threshold) for threshold in thresholds]
    policy = ExitPolicy(name="fixed", exits=(*settings, ExitSetting()))
    leaves = [d.leaves for d in policy.decisions([at[places] for at in logits])]
    assert np.array_equal(np.argmax(leaves, 0), exits)


def test_candidates_are_the_same_for_the_same_seed() -> None:
    assert np.array_equal(candidates(4, 1), candidates(4, 1))
    assert candidates(4, 1).dtype == np.float32


def test_the_floor_s_own_distance_to_the_bars_is_said() -> None:
    rounds = [
        {
            "bound": {"compute_cpu_ms": 0.5, "latency_ms": [1.0, 2.0, 3.0], "hop_bytes": [1, 2, 3]},
            "offramp": pipeline(1.7, 1.1, 2.2, 3.6),
            "floor": pipeline(1.1, 1.2, 2.6, 3.9),
            "mosec": pipeline(1.3, 3.0, 6.0, 9.0),
        }
    ]
    assert w2_report.best_peer(rounds) == "mosec"  # the floor is nobody's peer
    machine = {"processor": "x", "cores": 2, "server_core": 0, "load_core": 1, "load_before": 0.1}
    for one in rounds[0].values():
        for load in ("many", "one"):
            one.setdefault(load, {})["others"] = 0.0
    found = {
        "machine": machine,
        "seconds": 1.0,
        "rounds": rounds,
        "titles": {name: name for name in ("offramp", "floor", "mosec")},
        "bars": w2_report.bars(rounds),
    }
    page = w2_report.markdown({"command": "measure", "found": found})
    assert "has 0.75 of the framework CPU-ms of the best peer, and 1.20 / 1.30 / 1.30 of" in page
    assert "offramp has 2.00 of the floor's framework CPU-ms" in page


def test_links_are_where_each_system_s_requests_pass() -> None:
    rows = {"requests": 9, "p50": 10.0, "p99": 20.0}
    found = {
        "machine": {
            "processor": "x",
            "cores": 2,
            "server_core": 0,
            "load_core": 1,
            "load_before": 0.1,
        },
        "seconds": 1.0,
        "rate_hz": 30.0,
        "engine": "stream",
        "fog_cloud": "wan-region",
        "titles": {"offramp": "ours"},
        "profiles": {
            "lte": {
                "offramp": {
                    "latency_ms": {"p50": 11.0, "p99": 60.0},
                    "by_exit": [rows] * 3,
                    "wrong": {"late": 2},
                }
            }
        },
    }
    page = w3.markdown({"command": "measure", "found": found})
    assert "| lte | ours | 11 | 60 | 10 / 10 / 10 | 20 / 20 / 20 | 2 |" in page


def linear(path: Path, *, outputs: int = 1) -> Path:
    """logits = the mean of each channel (and codes = the first row of the first channel, as uint8)."""
    helper, kinds = onnx.helper, onnx.TensorProto
    takes = helper.make_tensor_value_info("image", kinds.FLOAT, ["n", 3, 32, 32])
    nodes = [helper.make_node("ReduceMean", ["image"], ["logits"], axes=[2, 3], keepdims=0)]
    gives = [helper.make_tensor_value_info("logits", kinds.FLOAT, ["n", 3])]
    if outputs == 2:
        nodes.append(helper.make_node("Cast", ["logits"], ["codes"], to=kinds.UINT8))
        gives.append(helper.make_tensor_value_info("codes", kinds.UINT8, ["n", 3]))
    graph = helper.make_graph(nodes, "linear", [takes], gives)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def codes_only(path: Path) -> Path:
    """logits = three uint8 codes as float32."""
    helper, kinds = onnx.helper, onnx.TensorProto
    takes = helper.make_tensor_value_info("codes", kinds.UINT8, ["n", 3])
    gives = helper.make_tensor_value_info("logits", kinds.FLOAT, ["n", 3])
    nodes = [helper.make_node("Cast", ["codes"], ["logits"], to=kinds.FLOAT)]
    graph = helper.make_graph(nodes, "codes", [takes], [gives])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


@pytest.fixture
def floor(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    model = linear(tmp_path / "linear.onnx")
    command = [sys.executable, "-m", "benchmarks.serving.floor", str(model), str(port)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    yield f"127.0.0.1:{port}"
    process.terminate()
    assert process.wait(20) == 0


def test_the_floor_answers_as_onnxruntime_does(floor: str) -> None:
    images = np.random.default_rng(2).normal(size=(5, 3, 32, 32)).astype(np.float32)
    labels = images.mean((2, 3)).argmax(1).tolist()

    async def ask() -> None:
        async with OpenInferenceClient(floor, images) as client:
            assert await client.ask([3]) == [Answer(labels[3])]
            assert await client.ask(range(5)) == [Answer(label) for label in labels]
            client.images = images[:, :2]  # two channels of three
            with pytest.raises(Exception, match="INVALID_ARGUMENT"):
                await client.ask([4])

    asyncio.run(ask())


@pytest.fixture
def bare_tiers(tmp_path: Path) -> Iterator[str]:
    """A first stage that hands on what it is not sure of, and a second one that answers it."""
    first, last = free_port(), free_port()
    stages = [
        {"PORT": str(first), "EXIT": "0", "THRESHOLD": "0.9", "NEXT": f"127.0.0.1:{last}"},
        {"PORT": str(last), "EXIT": "1", "THRESHOLD": "", "NEXT": ""},
    ]
    models = linear(tmp_path / "first.onnx", outputs=2), codes_only(tmp_path / "last.onnx")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.floor_tier"],
            env={**os.environ, "PYTHONPATH": str(Path.cwd()), "MODEL": str(model), **variables},
        )
        for model, variables in zip(models, stages, strict=True)
    ]
    yield f"127.0.0.1:{first}"
    for process in processes:
        process.terminate()
        assert process.wait(20) == 0


def test_bare_tiers_answer_what_is_sure_and_hand_on_the_rest(bare_tiers: str) -> None:
    images = np.zeros((2, 3, 32, 32), np.float32)
    images[0, 2], images[1, 1] = 9.0, 1.0

    async def ask() -> list[list[Answer]]:
        async with CLIENTS["bare stream"](bare_tiers, images) as client:
            return list(await asyncio.gather(*(client.ask([k % 2]) for k in range(10))))

    assert asyncio.run(ask()) == [[Answer(2, 0)], [Answer(1, 1)]] * 5


def test_a_stage_behind_a_peer_decides_by_the_largest_probability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL", str(linear(tmp_path / "two.onnx", outputs=2)))
    monkeypatch.setenv("EXIT", "1")
    images = np.zeros((2, 3, 32, 32), np.float32)
    images[0, 2], images[1, 2] = 9.0, 1.0  # 0.9998 and 0.58 sure
    monkeypatch.setenv("THRESHOLD", "0.9")
    sure, unsure = Stage().run(images)
    assert (sure.exit, int(sure.tensor.argmax())) == (1, 2)
    assert unsure.to_bytes() == bytes([GOES_ON, 0, 0, 1])
    monkeypatch.setenv("THRESHOLD", "")  # the last one answers all
    assert [outcome.exit for outcome in Stage().run(images)] == [1, 1]


def test_cpu_time_of_a_server_counts_its_children_and_all_end_with_it() -> None:
    busy = "import time; until = time.process_time() + 0.3\nwhile time.process_time() < until: pass"
    script = f'{sys.executable} -c "{busy}" & sleep 60'
    command = Command(["sh", "-c", script])
    with running(command, min(os.sched_getaffinity(0)), "test") as server:
        until = time.monotonic() + 20
        while server.meter.cpu_s() < 0.3 and time.monotonic() < until:
            time.sleep(0.05)
        assert server.meter.cpu_s() >= 0.3
        found = server.meter.process_ids()
        assert len(found) >= 2
    until = time.monotonic() + 20
    while left := [one for one in found if Path(f"/proc/{one}").exists()]:
        assert time.monotonic() < until, f"{left} are still there"
        time.sleep(0.05)


def test_without_a_control_group_the_tree_of_processes_is_read() -> None:
    meter = TreeMeter(os.getpid())
    assert os.getpid() in meter.process_ids()
    assert meter.cpu_s() > 0
    memory_mb, processes = pss_mb(meter)
    assert memory_mb > 10
    assert processes >= 1
    with control_group() as group:
        assert group is None or group.process_ids() == []


def test_systems_are_chosen_with_the_floor_first_and_a_missing_one_is_named() -> None:
    assert [one.name for one in choose_systems(["offramp"])] == [
        "floor",
        "offramp",
        "offramp-unary",
    ]
    with pytest.raises(ValueError, match="no such system: triton"):
        choose_systems(["triton"])
    assert {one.protocol for one in SYSTEMS.values()} <= set(CLIENTS)
    assert {one.protocol for one in PIPELINES.values()} <= set(CLIENTS)


def test_generated_messages_are_what_the_proto_says(tmp_path: Path) -> None:
    grpc_tools = pytest.importorskip("grpc_tools")
    from grpc_tools import protoc

    folder = Path("benchmarks/serving/open_inference")
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    outs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = ["protoc", "-I.", f"-I{well_known}", *outs, str(folder / "inference.proto")]
    assert protoc.main(command) == 0
    for file in sorted((tmp_path / folder).iterdir()):
        assert (folder / file.name).read_text() == file.read_text()
