"""Costs, calibration, the bundle that export writes, and the way back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from torch import Tensor, nn

from offramp.bundle import Bundle, load_bundle
from offramp.bundle.check import check_stage
from offramp.errors import InvalidBundle, InvalidInput
from offramp.evaluation.reference import answer, run_stages
from offramp.export.bundle import Exporting, write_bundle
from offramp.export.cost import stage_costs
from offramp.export.parity import compare
from offramp.export.policy import calibrate
from offramp.export.restore import open_bundle
from offramp.models import CodecSpec, ExitAt, HeadSpec, Preparation, SmallResNet, attach
from offramp.serving.runner import open_session
from offramp.training import build_network
from offramp.training.run import held_out
from offramp.wire import TensorSpec

pytestmark = pytest.mark.train


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


# --- costs --------------------------------------------------------------------------------------


def conv_flops(inputs: int, outputs: int, kernel: int, grid: int) -> int:
    return 2 * inputs * outputs * kernel**2 * grid**2


def test_costs_of_a_network_are_those_counted_by_hand() -> None:
    network = attach(
        SmallResNet(channels=1, classes=10, stem=4, widths=(8, 8), strides=(2, 1)),
        [ExitAt(at="blocks.0", head=HeadSpec(kind="pool"), codec=CodecSpec(channels=2, bits=4))],
        prepare=Preparation([0.5], [0.5]),
        takes=TensorSpec(name="image", dtype="uint8", shape=(8, 8, 1)),
    )
    first, second = stage_costs(network, (64, 16))
    block = conv_flops(4, 8, 3, 4) + conv_flops(8, 8, 3, 4) + conv_flops(4, 8, 1, 4)
    assert first.flops == conv_flops(1, 4, 3, 8) + block
    assert second.flops == 2 * conv_flops(8, 8, 3, 4) + 2 * 8 * 10
    assert (first.head_flops, second.head_flops) == (2 * 8 * 10, 0)
    assert first.codec_flops == conv_flops(8, 2, 1, 4)  # the encoder
    assert second.codec_flops == conv_flops(2, 8, 3, 4)  # the decoder
    assert first.head_parameters == 8 * 10 + 10
    assert first.codec_parameters == 8 * 2 + 2 * 2
    assert second.codec_parameters == 2 * 8 * 9 + 2 * 8
    assert first.parameters == (9 * 4 + 8) + (4 * 8 * 9 + 16) + (8 * 8 * 9 + 16) + (4 * 8 + 16)
    assert (first.boundary_bytes, second.boundary_bytes) == (64, 16)


def test_the_parameters_of_all_parts_are_the_networks(untrained: Any, tiny_bundle: Bundle) -> None:
    counted = sum(
        cost.parameters + cost.head_parameters + cost.codec_parameters
        for cost in tiny_bundle.manifest.costs
    )
    assert counted == sum(parameter.numel() for parameter in untrained.network.parameters())


# --- calibration --------------------------------------------------------------------------------


def exits_of(count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Logits of three exits, each better than the one before, and labels."""
    chance = np.random.default_rng(4)
    labels = chance.integers(0, 5, count)
    truth = np.eye(5)[labels]
    logits = [
        (truth * strength + chance.normal(0, 1, (count, 5))).astype(np.float32)
        for strength in (2.0, 3.0, 4.0)
    ]
    return logits, labels


def test_the_calibrated_policy_comes_first_and_keeps_its_drop() -> None:
    logits, labels = exits_of(1500)
    found = calibrate(logits, labels, (784, 98, 74), max_drop=0.005)
    assert [policy.name for policy in found.policies] == [
        "calibrated",
        "final-exit",
        "first-exit",
    ]
    calibrated, final, first = (answer(policy, tuple(logits)) for policy in found.policies)
    accuracy = {
        name: (answers.labels == labels).mean()
        for name, answers in (("calibrated", calibrated), ("final", final))
    }
    assert accuracy["calibrated"] >= accuracy["final"] - 0.005
    assert accuracy["calibrated"] == pytest.approx(found.record["thresholds"]["accuracy"])
    assert (final.exits == 2).all()
    assert (first.exits == 0).all()
    assert len({tuple(s.temperature for s in p.exits) for p in found.policies}) == 1


def test_leaving_at_an_exit_costs_the_bytes_that_have_gone_up_by_then() -> None:
    logits, labels = exits_of(800)
    found = calibrate(logits, labels, (784, 98, 74), max_drop=0.01)
    shares = np.bincount(answer(found.policies[0], tuple(logits)).exits, minlength=3) / 800
    assert found.record["thresholds"]["mean_cost"] == pytest.approx(shares @ [0, 98, 98 + 74])


# --- the bundle ---------------------------------------------------------------------------------


def test_a_bundle_says_what_made_it(untrained: Any, tiny_bundle: Bundle) -> None:
    provenance = tiny_bundle.manifest.provenance
    assert provenance["recipe"] == untrained.provenance["recipe"]
    export = provenance["export"]
    assert export["calibration"]["samples"] == 80
    assert len(export["calibration"]["exits"]) == 3
    assert set(export["parity"]) == {"batch_1", "batch_3", "batch_32"}
    assert {"torch", "onnx", "onnxruntime"} <= set(export["versions"])
    assert tiny_bundle.manifest.network.preparation.mean == pytest.approx((0.5, 0.5, 0.5))


def test_the_files_of_a_bundle_are_the_manifest_the_sums_and_a_stage_each(
    tiny_bundle: Bundle,
) -> None:
    names = sorted(path.name for path in tiny_bundle.folder.iterdir())
    assert names == ["SHA256SUMS", "manifest.json", "stage0.onnx", "stage1.onnx", "stage2.onnx"]
    for k in tiny_bundle.held:
        onnx.checker.check_model(onnx.load(tiny_bundle.stage_path(k)), full_check=True)
    parameters = sum(c.parameters + c.head_parameters for c in tiny_bundle.manifest.costs)
    sizes = sum(tiny_bundle.stage_path(k).stat().st_size for k in tiny_bundle.held)
    assert sizes < 4 * parameters + 40_000  # no weight twice


def test_codes_carry_their_bits_into_the_manifest(tiny_bundle: Bundle) -> None:
    boundaries = tiny_bundle.manifest.network.boundaries
    assert [boundary.size_bytes for boundary in boundaries] == [3072, 48, 192]
    assert boundaries[1].tensors[0].bits == 3
    assert boundaries[1].codec is not None
    assert boundaries[1].codec.model_dump() == {"channels": 2, "bits": 3, "stride": 2}


def test_every_stage_opens_as_the_manifest_says(tiny_bundle: Bundle) -> None:
    for k in tiny_bundle.held:
        session = open_session(tiny_bundle, k)
        check_stage(tiny_bundle.manifest, k, session.get_inputs(), session.get_outputs())


def test_the_batch_size_changes_no_answer(tiny_bundle: Bundle) -> None:
    images = pixels(40)
    one, many = (run_stages(tiny_bundle, images, batch=batch) for batch in (1, 32))
    for a, b in zip(one.logits, many.logits, strict=True):
        assert a.shape == (40, 10)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert one.boundaries[0]["codes_1"].shape == (40, 2, 8, 8)
    assert one.boundaries[0]["codes_1"].max() < 2**3


def test_a_folder_that_holds_something_is_not_written_over(
    untrained: Any, small_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("mine")
    held = held_out(untrained.recipe, small_data)
    with pytest.raises(InvalidInput, match="is not empty"):
        write_bundle(untrained.network, tmp_path, held, Exporting(name="x"))


def test_a_bundle_takes_the_place_of_an_empty_folder_and_leaves_nothing_beside(
    untrained: Any, small_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    before = out.stat().st_mode
    held = held_out(untrained.recipe, small_data)
    bundle = write_bundle(untrained.network, out, held, Exporting(name="x"))
    assert bundle.folder == out
    assert out.stat().st_mode == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_export_that_fails_leaves_nothing(
    untrained: Any, small_data: Path, tmp_path: Path
) -> None:
    held = held_out(untrained.recipe, small_data)
    with pytest.raises(InvalidInput, match="training mode"):
        write_bundle(
            copy.deepcopy(untrained.network).train(), tmp_path / "b", held, Exporting(name="x")
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "two words", "a/b", "a\n"])
def test_a_name_that_no_manifest_takes_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Exporting(name=name)
    text = "is not made of letters, digits, dots, dashes and underscores"
    assert str(caught.value) == f"name: {name!r} {text}"


def test_a_drop_that_is_no_share_is_refused() -> None:
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(InvalidInput, match="--max-drop"):
            Exporting(name="x", max_drop=wrong)


def test_without_a_codec_the_features_cross_as_floats_and_parity_holds_from_them(
    untrained: Any, small_data: Path, tmp_path: Path
) -> None:
    recipe = untrained.recipe
    plain = recipe.exits[0].model_copy(update={"codec": None})
    recipe = recipe.model_copy(update={"exits": (plain,)})
    torch.manual_seed(1)
    network = build_network(recipe, (32, 32, 3), 10, mean=[0.5] * 3, std=[0.25] * 3).eval()
    provenance = untrained.provenance | {"recipe": recipe.model_dump(mode="json")}
    held = held_out(recipe, small_data)
    exporting = Exporting(name="floats", provenance=provenance)
    bundle = write_bundle(network, tmp_path / "bundle", held, exporting)
    crossing = bundle.manifest.network.boundaries[1]
    assert [(t.name, t.dtype, t.shape) for t in crossing.tensors] == [
        ("features_1", "float32", (4, 16, 16))
    ]
    assert crossing.codec is None
    assert crossing.size_bytes == 4 * 4 * 16 * 16
    found = compare(open_bundle(bundle).network, bundle, pixels(16), batch=5)
    assert found.holds
    assert 0 < max(stage.worst for stage in found.stages) < 1e-4


class Tokens(nn.Module):
    """A small vision transformer: a class token before 16 patches, two layers, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.first_token = nn.Parameter(torch.randn(1, 1, 8))
        self.places = nn.Parameter(torch.randn(1, 17, 8))
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
                for norm_first in (True, False)
            )
        )
        self.out = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.first_token.expand(x.size(0), -1, -1), patches), 1)
        return self.out(self.layers(tokens + self.places)[:, 0])


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 10)
    )


@pytest.mark.parametrize(
    ("make", "exits", "crossing"),
    [(Tokens, ("layers.0",), (17, 8)), (perceptron, ("2", "4"), (12,))],
    ids=["transformer", "perceptron"],
)
def test_networks_of_tokens_and_of_vectors_become_bundles_that_keep_parity(
    make: Callable[[], nn.Module],
    exits: tuple[str, ...],
    crossing: tuple[int, ...],
    untrained: Any,
    small_data: Path,
    tmp_path: Path,
) -> None:
    torch.manual_seed(3)
    network = attach(
        make(),
        [ExitAt(at=at, head=HeadSpec(kind="pool")) for at in exits],
        prepare=Preparation([0.5] * 3, [0.25] * 3),
        takes=TensorSpec(name="image", dtype="uint8", shape=(32, 32, 3)),
    ).eval()
    held = held_out(untrained.recipe, small_data)
    bundle = write_bundle(network, tmp_path / "bundle", held, Exporting(name="x"))
    (tensor,) = bundle.manifest.network.boundaries[1].tensors
    assert (tensor.dtype, tensor.shape) == ("float32", crossing)
    for batch in (1, 3, 32):
        found = compare(network, bundle, pixels(40), batch=batch)
        assert found.holds, found


# --- and back -----------------------------------------------------------------------------------


def test_a_bundle_gives_back_the_network_weight_by_weight(
    untrained: Any, tiny_bundle: Bundle
) -> None:
    restored = open_bundle(tiny_bundle).network
    assert not restored.training
    for name, value in untrained.network.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value), name


def test_a_bundle_with_a_stage_missing_does_not_give_back_a_network(tiny_bundle: Bundle) -> None:
    part = dataclasses.replace(tiny_bundle, held=(0, 1))
    with pytest.raises(InvalidBundle, match=r"lack the weights backbone.blocks.2"):
        open_bundle(part)


def test_a_bundle_without_a_recipe_does_not_give_back_a_network(plain_bundle: Any) -> None:
    with pytest.raises(InvalidBundle, match=r"provenance.recipe"):
        open_bundle(load_bundle(plain_bundle()))
