"""A float32 bundle becomes an int8 one: what is rounded, what is not, and what stays behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper
from tests.serving import toy
from tests.test_bundle import edit_manifest

from offramp.bundle import Bundle, load_bundle
from offramp.cli import main
from offramp.data.fingerprints import QUANTISED_ON
from offramp.data.unseen import Unseen, from_file
from offramp.errors import InvalidBundle, InvalidInput, InvalidSettings
from offramp.evaluation.reference import run_stages
from offramp.export.int8_bundle import Quantising, write_int8
from offramp.export.int8_choice import fastest_of_the_best
from offramp.export.int8_nodes import arrangements, name_nodes
from offramp.serving.runner import StageRunner, open_session
from offramp.serving.settings import Inference
from offramp.wire import TensorSpec

SAMPLES = 300


def graph_of(*nodes: tuple[str, list[str], list[str]]) -> Any:
    """A graph of nodes named after what they yield; weights are whatever is not made by one."""
    made = [helper.make_node(kind, takes, gives, gives[0]) for kind, takes, gives in nodes]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    return helper.make_graph(made, "stage", [value], [])


STAGE = graph_of(
    ("Shape", ["x"], ["size"]),
    ("Sub", ["x", "mean"], ["prepared"]),
    ("Conv", ["prepared", "w"], ["first"]),
    ("Relu", ["first"], ["relu"]),
    ("Conv", ["relu", "w"], ["second"]),
    ("Add", ["second", "relu"], ["sum"]),
    ("Conv", ["sum", "w"], ["third"]),
    ("Reshape", ["third", "size"], ["flat"]),
    ("Gemm", ["flat", "w"], ["logits"]),
    ("Conv", ["sum", "w"], ["encoder"]),
    ("Div", ["encoder", "span"], ["scaled"]),
    ("Add", ["scaled", "half"], ["shifted"]),
    ("Clip", ["shifted"], ["clipped"]),
    ("Round", ["clipped"], ["levels"]),
    ("Cast", ["levels"], ["codes"]),
)


def test_what_decides_and_what_is_sent_is_never_of_eight_bits() -> None:
    found = list(arrangements(STAGE, ["x"], ["logits", "codes"], is_narrow=True))
    assert found == [
        ("layers and sums behind the first", {"relu", "second", "sum", "third"}),
        ("layers behind the first", {"relu", "second", "third"}),
        ("layers and sums", {"first", "relu", "second", "sum", "third"}),
        ("layers", {"first", "relu", "second", "third"}),
    ]
    wide = list(arrangements(STAGE, ["x"], ["logits", "codes"], is_narrow=False))
    assert wide == [*found[2:], *found[:2]]


def test_what_a_shortcut_leads_to_is_no_first_layer() -> None:
    block = graph_of(
        ("Relu", ["x"], ["relu"]),
        ("Conv", ["relu", "w"], ["first"]),
        ("Add", ["first", "relu"], ["sum"]),
        ("Conv", ["sum", "w"], ["second"]),
    )
    found = dict(arrangements(block, ["x"], [], is_narrow=True))
    assert found["layers and sums behind the first"] == {"sum", "second"}
    assert found["layers and sums"] == {"first", "sum", "second"}


def test_without_a_codec_the_features_may_be_rounded_and_equal_ways_are_one() -> None:
    chain = graph_of(("Conv", ["x", "w"], ["a"]), ("Conv", ["a", "w"], ["b"]))
    assert list(arrangements(chain, ["x"], [], is_narrow=False)) == [
        ("layers and sums", {"a", "b"}),
        ("layers and sums behind the first", {"b"}),
    ]
    assert dict(arrangements(chain, ["x"], ["b"], is_narrow=True)) == {"layers and sums": {"a"}}


def test_a_stage_without_layers_has_no_way() -> None:
    sums = graph_of(("Add", ["x", "x"], ["a"]), ("Add", ["a", "x"], ["b"]))
    assert list(arrangements(sums, ["x"], ["b"], is_narrow=True)) == []


def test_every_node_gets_a_name_of_its_own() -> None:
    graph = graph_of(("Relu", ["x"], ["a"]), ("Relu", ["a"], ["b"]), ("Relu", ["b"], ["c"]))
    graph.node[0].name = graph.node[1].name = ""
    graph.node[2].name = "Relu_0"
    name_nodes(graph)
    assert len({node.name for node in graph.node}) == 3


def labelled(bundle: Bundle, folder: Path, count: int = SAMPLES) -> Path:
    """Images, and what the last exit says of them, in a file."""
    images = np.random.default_rng(3).integers(0, 256, (count, 32, 32, 3), np.uint8)
    said = run_stages(bundle, images, batch=100).logits[-1].argmax(1)
    np.savez(folder / "images.npz", x=images, y=said)
    return folder / "images.npz"


@pytest.fixture(scope="module")
def images(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled(tiny_bundle, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def int8(tiny_bundle: Bundle, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`tiny_bundle` in int8, whatever that costs. Not to be changed."""
    quantising = Quantising(name="tiny-int8", samples=120, max_loss=0.5, command="by hand")
    out = tmp_path_factory.mktemp("int8") / "bundle"
    return write_int8(tiny_bundle, out, from_file(tiny_bundle, images), quantising)


@pytest.mark.train
def test_an_int8_bundle_is_another_network_that_takes_and_gives_the_same(
    tiny_bundle: Bundle, int8: Bundle, images: Path
) -> None:
    before, after = tiny_bundle.manifest.network, int8.manifest.network
    assert int8.digest != tiny_bundle.digest
    assert after.boundaries == before.boundaries
    assert [stage.arithmetic for stage in after.stages] == ["int8"] * 3
    assert [stage.arithmetic for stage in before.stages] == ["float32"] * 3
    samples = from_file(tiny_bundle, images).samples
    one, many = (run_stages(int8, samples[:40], batch=batch) for batch in (1, 40))
    for a, b in zip(one.logits, many.logits, strict=True):
        assert (a.argmax(1) == b.argmax(1)).mean() > 0.95
    float32 = run_stages(tiny_bundle, samples, batch=100).logits[0].argmax(1)
    found = run_stages(int8, samples, batch=100).logits[0].argmax(1)
    assert (found == float32).mean() > 0.8


@pytest.mark.train
def test_the_provenance_says_what_decided_and_what_it_cost(
    tiny_bundle: Bundle, int8: Bundle
) -> None:
    said = int8.manifest.provenance["quantisation"]
    assert said["source"]["network"] == tiny_bundle.digest
    assert said["source"]["export"] == tiny_bundle.manifest.provenance["export"]
    assert "export" not in int8.manifest.provenance
    assert said["data"]["samples"] == 120
    assert set(said["data"]["sha256"]) == {"images.npz"}
    assert all(0 < stage["int8_layers"] < stage["layers"] for stage in said["stages"])
    for stage in said["stages"]:
        scores = {what: float(np.mean(at["agreement"])) for what, at in stage["tried"].items()}
        assert stage["arrangement"] == fastest_of_the_best(scores, 120)
    assert said["held_out"]["accuracy_float32"][-1] == 1.0  # its labels are what it says
    assert said["held_out"]["codes_off"][0] < 0.2
    assert said["calibration"]["samples"] == SAMPLES // 2


def test_the_fastest_is_chosen_unless_another_agrees_more_than_by_chance() -> None:
    within = {"fast": 0.991, "exact": 0.992}  # of 2,000, the standard error is 0.002
    assert fastest_of_the_best(within, 2000) == "fast"
    assert fastest_of_the_best(within, 20_000) == "exact"
    assert fastest_of_the_best({}, 2000) is None


@pytest.mark.train
def test_its_policies_are_fitted_anew_and_no_certificate_comes_along(
    tiny_bundle: Bundle, int8: Bundle, tmp_path: Path
) -> None:
    assert [p.name for p in int8.manifest.policies] == ["calibrated", "final-exit", "first-exit"]
    assert int8.manifest.certificates == ()
    folder = shutil.copytree(int8.folder, tmp_path / "bundle")
    policy = int8.manifest.policies[0]
    of_float32 = toy.certificate_of(tiny_bundle, policy, risk="accuracy-drop", samples=400)
    stale = asdict(of_float32)
    edit_manifest(folder, lambda manifest: manifest.update(certificates=[stale]))
    with pytest.raises(InvalidBundle, match=r"stale: of network .* calibrate again"):
        load_bundle(folder)


@pytest.mark.train
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_certificate_is_made_on_what_decided_the_stages(
    int8: Bundle, images: Path, seed: int
) -> None:
    unseen = from_file(int8, images)
    assert unseen.decided is not None
    assert unseen.decided.sum() == 120
    parts = unseen.split(0.5, seed)
    assert not unseen.decided[parts.check].any()
    assert sorted([*parts.fit, *parts.check]) == list(range(SAMPLES))
    if seed == 1:  # the split of quantisation itself
        assert len(parts.check) == SAMPLES // 2


def test_what_decided_is_fitted_on_whatever_the_seed() -> None:
    decided = np.zeros(100, np.bool_)
    decided[:30] = True
    unseen = Unseen(
        name="x",
        samples=np.arange(100),
        labels=None,
        rows=np.arange(100),
        sha256={},
        decided=decided,
    )
    for seed in range(5):
        parts = unseen.split(0.2, seed)
        assert set(range(30)) <= set(parts.fit)
        assert set(parts.fit).isdisjoint(parts.check)
    np.testing.assert_array_equal(unseen.take(np.array([29, 30])).decided, [True, False])


@pytest.mark.train
@pytest.mark.parametrize("change", ["missing", "other", "unsaid"])
def test_without_the_list_of_what_decided_nothing_can_be_calibrated(
    int8: Bundle, images: Path, tmp_path: Path, change: str
) -> None:
    folder = shutil.copytree(int8.folder, tmp_path / "bundle")
    path = folder / QUANTISED_ON
    assert len(path.read_bytes()) == 6 * 120
    if change == "missing":
        path.unlink()
    elif change == "other":
        path.write_bytes(b"\0" * 6)
    else:
        edit_manifest(folder, lambda manifest: manifest["provenance"]["quantisation"].pop("data"))
    with pytest.raises(InvalidBundle, match=r"quantised_on\.bin|provenance\.quantisation"):
        from_file(load_bundle(folder), images)


@pytest.mark.train
def test_the_verbs_make_and_calibrate_it(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = labelled(tiny_bundle, tmp_path, 1000), tmp_path / "int8"
    source = ["--images", str(file)]
    words = ["quantize", str(tiny_bundle.folder), "--out", str(out), "--max-loss", "0.5", *source]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{out}: network {load_bundle(out).digest[:12]}, of ")
    assert [line.split(":")[0] for line in lines[1:4]] == ["stage 0", "stage 1", "stage 2"]
    assert "500 of images.npz" in lines[4]
    assert load_bundle(out).manifest.name == "tiny-int8"
    main(["calibrate", str(out), "--max-drop", "0.3", *source])  # of random exits, met or not
    certificates = load_bundle(out).manifest.certificates
    assert all(found.network == load_bundle(out).digest for found in certificates)
    assert main(["bundle", "show", str(out)]) == 0
    assert capsys.readouterr().out.count("  int8") == 3


@pytest.mark.train
def test_a_run_is_exported_in_int8_by_the_same_code(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightning")
    chance = np.random.default_rng(11)
    images = chance.integers(0, 256, (1500, 32, 32, 3), dtype=np.uint8)
    labels = chance.integers(0, 10, 1500, dtype=np.uint8)
    np.savez(tmp_path / "cifar10_lossless_train.npz", x=images, y=labels)
    data, run, out = ["--data", str(tmp_path)], tmp_path / "run", tmp_path / "bundle"
    assert main(["train", str(recipe_file), "--out", str(run), *data]) == 0
    words = ["export", str(run), "--out", str(out), *data, "--quantize", "--max-loss", "0.5"]
    assert main([*words, "--samples", "100"]) == 0
    bundle = load_bundle(out)
    assert {stage.arithmetic for stage in bundle.manifest.network.stages} == {"int8"}
    assert bundle.manifest.name == "cifar10-lossless-int8"
    said = bundle.manifest.provenance["quantisation"]
    assert said["source"]["export"]["parity"]["batch_1"]["images"] == 96
    assert (out / "trained_on.bin").exists()
    capsys.readouterr()
    assert main(words) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.train
def test_what_cannot_be_quantised_is_refused_in_one_line(
    tiny_bundle: Bundle, int8: Bundle, images: Path, tmp_path: Path
) -> None:
    out, unseen = tmp_path / "out", from_file(tiny_bundle, images)
    few, unlabelled = (
        unseen.take(np.arange(150)),
        Unseen(name="images", samples=unseen.samples, labels=None, rows=unseen.rows, sha256={}),
    )
    usual = Quantising(name="x")
    part = shutil.copytree(tiny_bundle.folder, tmp_path / "part")
    (part / "stage1.onnx").unlink()
    for bundle, samples, said in (
        (tiny_bundle, few, "images.npz: 150 samples, of which half decide: at least 200 are"),
        (tiny_bundle, unlabelled, "images: y: is missing: accuracy needs labels"),
        (int8, unseen, f"{int8.folder}: stages: are int8 already; take the float32 bundle"),
        (load_bundle(part), unseen, f"{part}: stages: only [0, 2] of 3"),
    ):
        with pytest.raises(InvalidInput) as failure:
            write_int8(bundle, out, samples, usual)
        assert str(failure.value).startswith(said)
    with pytest.raises(InvalidInput, match="is not empty"):
        write_int8(tiny_bundle, tmp_path, unseen, usual)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"samples": 99}, "--samples"),
        ({"max_loss": 1.0}, "--max-loss"),
        ({"max_drop": -1.0}, "--max-drop"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], flag: str) -> None:
    with pytest.raises(InvalidInput) as failure:
        Quantising(name="x", **options)
    assert failure.value.field == flag


def test_a_network_without_layers_has_nothing_to_quantise(tmp_path: Path) -> None:
    bundle = load_bundle(toy.scores_bundle(tmp_path / "scores"))
    samples = np.random.default_rng(1).integers(0, 256, (400, 4, 4, 1), np.uint8)
    unseen = Unseen(
        name="x", samples=samples, labels=np.zeros(400, np.int64), rows=np.arange(400), sha256={}
    )
    with pytest.raises(InvalidInput, match="--max-loss: no stage can be int8"):
        write_int8(bundle, tmp_path / "out", unseen, Quantising(name="x"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores"]


@pytest.mark.train
@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "openvino"])
def test_only_what_certifies_int8_computes_it(int8: Bundle, provider: str) -> None:
    with pytest.raises(InvalidSettings, match=f"inference.provider: '{provider}' rounds int8"):
        open_session(int8, 0, Inference(provider=provider))  # type: ignore[arg-type]


@pytest.mark.train
def test_a_kept_graph_of_int8_answers_to_the_bit(int8: Bundle, tmp_path: Path) -> None:
    keeping = Inference(cache=str(tmp_path))
    images = np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3), np.uint8)
    usual = StageRunner(int8, [0]).run(0, [images])
    for _ in range(2):  # made, then kept
        found = StageRunner(int8, [0], keeping).run(0, [images])
        np.testing.assert_array_equal(found.logits, usual.logits)
        np.testing.assert_array_equal(found.boundary[0], usual.boundary[0])


@pytest.mark.train
def test_evaluate_shows_it_beside_the_float32_bundle(
    tiny_bundle: Bundle,
    int8: Bundle,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("rich")
    shared = ["--images", str(images), "--cache", str(tmp_path)]
    words = ["evaluate", str(int8.folder), "--beside", str(tiny_bundle.folder), *shared]
    assert main([*words, "--json", str(tmp_path / "all.json")]) == 0
    assert f"Beside tiny, network {tiny_bundle.digest[:12]}" in capsys.readouterr().out
    pair = json.loads((tmp_path / "all.json").read_text())["beside"]
    assert pair["other_network"] == tiny_bundle.digest
    last = pair["exits"][-1]
    assert last["other_accuracy"]["value"] == 1.0  # the labels are what it says
    assert last["accuracy"]["value"] == last["agreement"]
    assert last["time"]["p50_ms"] > 0
    other = toy.scores_bundle(tmp_path / "scores")
    assert main(["evaluate", str(int8.folder), "--beside", str(other), *shared]) == 2
    assert "--beside: network" in capsys.readouterr().err


@pytest.mark.train
def test_features_that_travel_without_a_codec_keep_their_form(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from offramp.data import TensorSet
    from offramp.export.bundle import Exporting, write_bundle
    from offramp.models import ExitAt, HeadSpec, attach

    torch.manual_seed(1)
    layers = (torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3))
    backbone = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(288, 3))
    takes = TensorSpec(name="x", dtype="float32", shape=(3, 8, 8))
    exits = [ExitAt(at="1", head=HeadSpec(kind="pool"))]
    network = attach(backbone, exits, prepare=None, takes=takes).eval()
    samples = np.random.default_rng(4).normal(size=(400, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        labels = network(torch.from_numpy(samples)).logits[-1].argmax(1).numpy()
    held = TensorSet(name="x", samples=samples, labels=labels, classes=("a", "b", "c"), sha256={})
    float32 = write_bundle(network, tmp_path / "float32", held, Exporting(name="plain"))
    unseen = Unseen(name="x", samples=samples, labels=labels, rows=np.arange(400), sha256={})
    quantising = Quantising(name="plain-int8", max_loss=0.2)
    int8 = write_int8(float32, tmp_path / "int8", unseen, quantising)
    assert int8.manifest.network.boundaries == float32.manifest.network.boundaries
    a, b = (run_stages(bundle, samples, batch=50).boundaries[0] for bundle in (float32, int8))
    assert int8.manifest.provenance["quantisation"]["held_out"]["codes_off"] == [None]
    assert list(a) == list(b)
    for name, features in a.items():
        assert b[name].dtype == np.float32
        assert np.abs(features - b[name]).max() < 0.1 * np.abs(features).max()


@pytest.mark.train
def test_the_weights_are_not_read_back_from_int8(int8: Bundle) -> None:
    pytest.importorskip("torch")
    from offramp.export.restore import open_bundle

    with pytest.raises(InvalidBundle, match="take the bundle that this one was made of"):
        open_bundle(int8)
