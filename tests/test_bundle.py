import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from offramp.bundle import Bundle, load_bundle
from offramp.bundle.check import check_stage
from offramp.bundle.loading import MANIFEST, SUMS
from offramp.bundle.v1 import stage_pb2 as pb
from offramp.errors import InvalidBundle, InvalidInput

Writer = Callable[[], Path]


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest, and its hash in SHA256SUMS, so that only its content can be refused."""
    path, sums = folder / MANIFEST, folder / SUMS
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(sums.read_text().replace(before, after))


def replace_stage(folder: Path, stage: int, content: bytes) -> None:
    """Give a stage other bytes, and the hashes that they have."""
    path, sums = folder / f"stage{stage}.onnx", folder / SUMS
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    sums.write_text(sums.read_text().replace(load_sums(folder)[path.name], digest))
    edit_manifest(folder, lambda m: m["network"]["stages"][stage].update(sha256=digest))


def load_sums(folder: Path) -> dict[str, str]:
    lines = (folder / SUMS).read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


def test_a_bundle_loads_with_its_stages_and_digest(plain_bundle: Writer) -> None:
    bundle = load_bundle(plain_bundle())
    assert bundle.held == (0, 1)
    assert bundle.digest == bundle.manifest.network.digest
    assert bundle.stage_path(1).name == "stage1.onnx"
    assert bundle.manifest.network.boundaries[1].size_bytes == 2


def test_sha256sum_agrees_with_the_sums(plain_bundle: Writer) -> None:
    folder = plain_bundle()
    for line in (folder / SUMS).read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", [SUMS, MANIFEST, "stage1.onnx"])
def test_what_is_no_file_is_refused_and_not_waited_for(plain_bundle: Writer, name: str) -> None:
    folder = plain_bundle()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(InvalidBundle, match=f"{name}: is no file of at most"):
        load_bundle(folder)


@pytest.mark.parametrize("name", [SUMS, MANIFEST])
def test_a_file_of_text_has_an_end(plain_bundle: Writer, name: str) -> None:
    folder = plain_bundle()
    os.truncate(folder / name, 2**40)  # a hole: no disk is used
    with pytest.raises(InvalidBundle, match=f"{name}: is no file of at most"):
        load_bundle(folder)


@pytest.mark.parametrize("name", [SUMS, MANIFEST, "stage0.onnx", "stage1.onnx"])
def test_any_flipped_byte_is_refused_and_the_file_named(plain_bundle: Writer, name: str) -> None:
    folder = plain_bundle()
    path = folder / name
    content = path.read_bytes()
    step = max(1, len(content) // 97)
    for position in sorted({*range(0, len(content), step), len(content) - 1}):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        with pytest.raises(InvalidBundle) as caught:
            load_bundle(folder)
        # A byte of SHA256SUMS may name another file or be another file's hash.
        assert name == SUMS or name in caught.value.field
    path.write_bytes(content)
    load_bundle(folder)


@pytest.mark.parametrize("name", [SUMS, MANIFEST, "stage0.onnx"])
def test_a_file_with_a_byte_missing_or_too_many_is_refused(plain_bundle: Writer, name: str) -> None:
    folder = plain_bundle()
    path = folder / name
    content = path.read_bytes()
    for wrong in (content[:-2], content + b"x", b""):
        path.write_bytes(wrong)
        with pytest.raises(InvalidBundle):
            load_bundle(folder)


@pytest.mark.parametrize("name", [SUMS, MANIFEST])
def test_a_missing_file_is_named(plain_bundle: Writer, name: str) -> None:
    folder = plain_bundle()
    (folder / name).unlink()
    with pytest.raises(InvalidBundle, match="cannot be read") as caught:
        load_bundle(folder)
    assert caught.value.field.endswith(name)


def test_a_tier_may_hold_some_of_the_stages(plain_bundle: Writer) -> None:
    folder = plain_bundle()
    whole = load_bundle(folder)
    (folder / "stage1.onnx").unlink()
    part = load_bundle(folder)
    assert (part.held, part.digest) == ((0,), whole.digest)
    with pytest.raises(InvalidBundle, match="stage 1 is not held here"):
        part.stage_path(1)
    (folder / "stage0.onnx").unlink()
    with pytest.raises(InvalidBundle, match="no stage file"):
        load_bundle(folder)


def test_a_stage_that_changed_after_loading_is_not_given_out(plain_bundle: Writer) -> None:
    folder = plain_bundle()
    bundle = load_bundle(folder)
    assert bundle.stage_bytes(0) == (folder / "stage0.onnx").read_bytes()
    (folder / "stage0.onnx").write_bytes(b"other layers")
    with pytest.raises(InvalidBundle, match=r"not the one in manifest.json") as caught:
        bundle.stage_bytes(0)
    assert caught.value.field.endswith("stage0.onnx")


def test_a_readme_may_lie_beside(plain_bundle: Writer) -> None:
    folder = plain_bundle()
    (folder / "README.md").write_text("what this is")
    assert load_bundle(folder).held == (0, 1)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match="not a folder"):
        load_bundle(tmp_path / "nothing")


def test_a_sums_file_may_not_point_outside_the_bundle(plain_bundle: Writer) -> None:
    folder = plain_bundle()
    sums = folder / SUMS
    sums.write_text(sums.read_text().replace("stage0.onnx", "../stage0.onnx"))
    with pytest.raises(InvalidBundle, match="line 2"):
        load_bundle(folder)


RAW_INPUT = {"name": "x", "dtype": "int64", "shape": [7, 3], "bits": 64}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: m.update(colour="red"), "colour"),
        (lambda m: m.update(format=2), "format"),
        (lambda m: m["network"].update(extra=1), "network.extra"),
        (lambda m: m["network"]["boundaries"][1]["codec"].update(bits=9), "codec.bits"),
        (lambda m: m["network"]["boundaries"][1]["tensors"][0].update(bits=12), "tensors.0"),
        (lambda m: m["network"]["stages"][0].update(file="../x.onnx"), "stages.0.file"),
        (lambda m: m["network"]["stages"].pop(), "network"),
        (lambda m: m["network"].pop("preparation"), "network.preparation"),
        (lambda m: m["network"]["preparation"].update(mean=[0.5, 0.5]), "network"),
        (lambda m: m["network"]["preparation"].update(mean=[0.5] * 2, std=[1] * 2), "network"),
        (lambda m: m["network"]["boundaries"][0]["tensors"][0].update(shape=[4, 4]), "network"),
        (lambda m: m["network"]["boundaries"][0]["tensors"].append(RAW_INPUT), "network"),
        (lambda m: m["costs"].pop(), "(whole file)"),
        (lambda m: m["costs"][0].update(boundary_bytes=5), "(whole file)"),
        (lambda m: m["costs"][0].update(flops=-1), "costs.0.flops"),
        (lambda m: m["policies"][0]["exits"].pop(), "(whole file)"),
        (lambda m: m["policies"][0]["exits"][0].update(temperature=0), "policies.0"),
        (lambda m: m["policies"].append(m["policies"][0]), "(whole file)"),
        (lambda m: m.pop("provenance"), "provenance"),
        (lambda m: m.update(name="a b"), "name"),
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_refused_by_key(
    plain_bundle: Writer, change: Callable[[dict[str, Any]], None], field: str
) -> None:
    folder = plain_bundle()
    edit_manifest(folder, change)
    with pytest.raises(InvalidBundle) as caught:
        load_bundle(folder)
    assert MANIFEST in caught.value.field
    assert field in caught.value.field


def test_a_manifest_that_is_no_json_is_refused(plain_bundle: Writer) -> None:
    folder = plain_bundle()
    before = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    for wrong in (b"{", b"[" * 100_000, b"\xff\xfe", b"[]"):
        (folder / MANIFEST).write_bytes(wrong)
        after = hashlib.sha256(wrong).hexdigest()
        (folder / SUMS).write_text((folder / SUMS).read_text().replace(before, after))
        before = after
        with pytest.raises(InvalidBundle) as caught:
            load_bundle(folder)
        assert MANIFEST in caught.value.field


def test_another_stage_file_with_a_right_sum_is_still_not_the_manifests(
    plain_bundle: Writer,
) -> None:
    folder = plain_bundle()
    path, sums = folder / "stage0.onnx", folder / SUMS
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"other layers")
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(sums.read_text().replace(before, after))
    with pytest.raises(InvalidBundle, match=r"not the one in manifest.json"):
        load_bundle(folder)


def test_the_digest_covers_the_network_and_not_the_policies(plain_bundle: Writer) -> None:
    folder = plain_bundle()
    digest = load_bundle(folder).digest
    edit_manifest(folder, lambda m: m["policies"][0]["exits"][0].update(threshold=0.75))
    assert load_bundle(folder).digest == digest
    edit_manifest(folder, lambda m: m["network"].update(classes=["dog", "cat"]))
    assert load_bundle(folder).digest != digest


def test_a_policy_is_found_by_name_and_by_id_and_the_first_is_the_default(
    plain_bundle: Writer,
) -> None:
    manifest = load_bundle(plain_bundle()).manifest
    half = manifest.policies[0]
    assert manifest.policy("") is manifest.policy("half") is manifest.policy(half.id) is half
    assert manifest.policy("none") is None


# --- what an opened stage must look like --------------------------------------------------------


def argument(name: str, type_: str, *shape: int | str) -> SimpleNamespace:
    return SimpleNamespace(name=name, type=type_, shape=list(shape))


def test_a_network_without_preparation_takes_one_raw_tensor(plain_bundle: Writer) -> None:
    folder = plain_bundle()
    before = load_bundle(folder).digest

    def raw(manifest: dict[str, Any]) -> None:
        manifest["network"].update(preparation=None)
        manifest["network"]["boundaries"][0]["tensors"] = [RAW_INPUT]
        manifest["costs"][0]["boundary_bytes"] = 7 * 3 * 8

    edit_manifest(folder, raw)
    bundle = load_bundle(folder)
    assert (bundle.manifest.network.takes.dtype, bundle.manifest.network.takes.shape) == (
        "int64",
        (7, 3),
    )
    assert bundle.digest != before


IMAGE = argument("image", "tensor(uint8)", "batch", 4, 4, 1)
LOGITS = argument("logits_0", "tensor(float)", "batch", 2)
CODES = argument("codes_1", "tensor(uint8)", "batch", 1, 2, 2)


def test_a_stage_with_the_manifests_tensors_is_accepted(plain_bundle: Writer) -> None:
    manifest = load_bundle(plain_bundle()).manifest
    check_stage(manifest, 0, [IMAGE], [LOGITS, CODES])
    check_stage(manifest, 1, [CODES], [argument("logits_1", "tensor(float)", None, 2)])


@pytest.mark.parametrize(
    ("inputs", "outputs", "field"),
    [
        ([], [LOGITS, CODES], "stage0.onnx: inputs"),
        ([CODES], [LOGITS, CODES], "stage0.onnx: inputs"),
        ([IMAGE], [CODES, LOGITS], "stage0.onnx: outputs"),
        ([IMAGE], [LOGITS], "stage0.onnx: outputs"),
        (
            [argument("image", "tensor(float)", "batch", 4, 4, 1)],
            [LOGITS, CODES],
            "stage0.onnx: inputs.image",
        ),
        (
            [argument("image", "tensor(uint8)", 1, 4, 4, 1)],
            [LOGITS, CODES],
            "stage0.onnx: inputs.image",
        ),
        (
            [IMAGE],
            [argument("logits_0", "tensor(float)", "batch", 3), CODES],
            "stage0.onnx: outputs.logits_0",
        ),
        ([IMAGE], [argument("logits_0", "tensor(float)"), CODES], "stage0.onnx: outputs.logits_0"),
    ],
)
def test_a_stage_with_other_tensors_is_refused_by_file_and_tensor(
    plain_bundle: Writer, inputs: list[Any], outputs: list[Any], field: str
) -> None:
    with pytest.raises(InvalidBundle) as caught:
        check_stage(load_bundle(plain_bundle()).manifest, 0, inputs, outputs)
    assert caught.value.field == field


@pytest.mark.train
def test_an_exported_bundle_has_every_flipped_byte_refused(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.folder, folder)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for position in range(0, len(content), max(1, len(content) // 23)):
            flipped = bytearray(content)
            flipped[position] ^= 0x10
            path.write_bytes(flipped)
            with pytest.raises(InvalidBundle):
                load_bundle(folder)
        path.write_bytes(content)
    assert load_bundle(folder).digest == tiny_bundle.digest


def test_a_stage_that_onnxruntime_cannot_open_is_named(plain_bundle: Writer) -> None:
    from offramp.serving.runner import open_session

    folder = plain_bundle()
    unheard_of = pb.Graph(node=[pb.Node(op_type="NoSuchOperator")])
    replace_stage(folder, 0, pb.Model(ir_version=10, graph=unheard_of).SerializeToString())
    with pytest.raises(InvalidInput, match="onnxruntime cannot open it") as caught:
        open_session(load_bundle(folder), 0)
    assert caught.value.field.endswith("stage0.onnx")


@pytest.mark.train
@pytest.mark.parametrize("inside", [True, False], ids=["relative", "absolute"])
def test_a_stage_whose_weights_lie_in_another_file_is_refused(
    plain_bundle: Writer, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    onnx = pytest.importorskip("onnx")
    import onnxruntime as ort

    from offramp.serving.compute import session_options
    from offramp.serving.runner import open_session
    from offramp.serving.settings import Inference

    folder = plain_bundle()
    make, helper = onnx.helper.make_tensor_value_info, onnx.helper
    weights = onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["codes", "weights"], ["logits_1"])],
        "stage1",
        [make("codes", onnx.TensorProto.FLOAT, ["batch", 4])],
        [make("logits_1", onnx.TensorProto.FLOAT, ["batch", 2])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    stage = folder / "stage1.onnx"
    onnx.save(model, stage, save_as_external_data=True, location="w.bin", size_threshold=0)
    if not inside:
        model = onnx.load(stage, load_external_data=False)
        entries = model.graph.initializer[0].external_data
        next(e for e in entries if e.key == "location").value = str(folder / "w.bin")
        stage.write_bytes(model.SerializeToString())
    assert (folder / "w.bin").exists()
    replace_stage(folder, 1, stage.read_bytes())
    monkeypatch.chdir(folder)  # where a model of bytes would look
    with pytest.raises(InvalidBundle, match="has its data somewhere else"):
        open_session(load_bundle(folder), 1)
    # Nor does onnxruntime read it, by the options that it is given.
    with pytest.raises(Exception, match="External data path"):
        ort.InferenceSession(stage.read_bytes(), session_options(Inference()))


EXAMPLE = Path(__file__).parent.parent / "examples/fashion_mnist"


def test_the_example_with_its_bundle_and_images_is_under_8_megabytes() -> None:
    assert sum(path.stat().st_size for path in EXAMPLE.rglob("*") if path.is_file()) < 8_000_000
