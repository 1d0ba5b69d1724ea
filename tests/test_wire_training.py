"""What training offers to the wire: starting weights, images as an encoder leaves them, taught codecs, tables."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from offramp import data
from offramp.bundle import load_bundle
from offramp.data import reencode
from offramp.errors import InvalidInput, InvalidSettings
from offramp.evaluation.reference import run_stages
from offramp.rpc.payload import payload_arrays, tensors_payload
from offramp.training import open_run, read_recipe, train
from offramp.training.run import held_out, load_split
from offramp.wire import decode_image, encode_image

pytestmark = pytest.mark.train


def changed(recipe_file: Path, out: Path, *changes: tuple[str, str]) -> Path:
    """A copy of the small recipe with these texts in place of others."""
    text = recipe_file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    out.write_text(text)
    return out


@pytest.fixture(scope="module")
def earlier(recipe_file: Path, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the small recipe, without codecs."""
    folder = tmp_path_factory.mktemp("earlier")
    recipe = changed(
        recipe_file,
        folder / "plain.toml",
        ("codec = { channels = 2, bits = 3, stride = 2 }", ""),
        ("codec = { channels = 3, bits = 8 }", ""),
        ("epochs = 2", "epochs = 1"),
    )
    train(recipe, folder / "run", folder=small_data, precision="32-true")
    return folder / "run"


# --- starting weights ---------------------------------------------------------------------------


def test_a_run_begins_with_the_weights_of_an_earlier_one_and_says_which_are_fresh(
    earlier: Path, recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    slow = changed(recipe_file, tmp_path / "slow.toml", ("peak_rate = 0.05", "peak_rate = 1e-9"))
    options = {"folder": small_data, "precision": "32-true", "weights_from": earlier}
    train(slow, tmp_path / "run", **options)
    begun = open_run(earlier).network.state_dict()
    run = open_run(tmp_path / "run")
    for name, weight in run.network.named_parameters():
        if not name.startswith("codecs."):
            torch.testing.assert_close(weight, begun[name], rtol=0, atol=1e-6)
    said = run.provenance["weights_from"]
    assert said["run"] == str(earlier)
    assert len(said["sha256"]) == 64
    assert said["loaded"] == len(begun)
    assert said["fresh"] == sorted(n for n in run.network.state_dict() if n.startswith("codecs."))


def test_a_weight_of_another_shape_stays_fresh(
    earlier: Path, recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    wider = changed(recipe_file, tmp_path / "wider.toml", ("width = 8", "width = 12"))
    options = {"folder": small_data, "precision": "32-true", "weights_from": earlier}
    train(wider, tmp_path / "run", **options)
    fresh = json.loads((tmp_path / "run" / "provenance.json").read_text())["weights_from"]["fresh"]
    assert "heads.1.0.weight" in fresh
    assert "heads.0.2.weight" not in fresh
    assert "backbone.stem.0.weight" not in fresh


def test_an_interrupted_run_with_starting_weights_goes_on_to_the_same_end(
    earlier: Path, recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    options = {"folder": small_data, "precision": "32-true", "weights_from": earlier}
    train(recipe_file, tmp_path / "whole", **options)
    train(recipe_file, tmp_path / "parts", stop_after=1, **options)
    train(recipe_file, tmp_path / "parts", resume=True, **options)
    whole, parts = (open_run(tmp_path / name) for name in ("whole", "parts"))
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(weight, parts.network.state_dict()[name])
    assert whole.provenance["weights_from"] == parts.provenance["weights_from"]


@pytest.mark.parametrize(
    ("old", "new"), [("seed = 3", "seed = 4"), ("held_out = 0.2", "held_out = 0.3")]
)
def test_weights_that_saw_what_is_held_out_here_are_refused(
    earlier: Path, recipe_file: Path, small_data: Path, tmp_path: Path, old: str, new: str
) -> None:
    other = changed(recipe_file, tmp_path / "other.toml", (old, new))
    with pytest.raises(InvalidInput, match="so it saw images") as caught:
        train(other, tmp_path / "run", folder=small_data, weights_from=earlier)
    assert caught.value.field == "--weights-from"


def test_a_folder_that_is_no_run_is_refused(
    recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="no finished run"):
        train(recipe_file, tmp_path / "run", folder=small_data, weights_from=tmp_path)


# --- images as an encoder leaves them -----------------------------------------------------------

ENCODE = ("held_out = 0.2", 'held_out = 0.2\nencode = { media_type = "image/webp", quality = 10 }')


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/webp"])
def test_every_image_of_a_set_goes_through_the_encoder(small_data: Path, media_type: str) -> None:
    images = data.load("cifar10-lossless", "test", small_data)
    seen = reencode(images, media_type, 30)
    for before, after in zip(images.images[:5], seen.images[:5], strict=True):
        encoded = encode_image(before, media_type, quality=30)
        np.testing.assert_array_equal(after, decode_image(encoded, media_type, (32, 32, 3), "x"))
    np.testing.assert_array_equal(seen.labels, images.labels)
    assert (seen.sha256, seen.name) == (images.sha256, images.name)


def test_a_recipe_encodes_training_held_out_and_test_images_alike(
    recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    plain = read_recipe(recipe_file)
    encoded = read_recipe(changed(recipe_file, tmp_path / "webp.toml", ENCODE))
    held = reencode(held_out(plain, small_data), "image/webp", 10)
    np.testing.assert_array_equal(held_out(encoded, small_data).images, held.images)
    for split in ("train", "test"):
        images = reencode(load_split(plain, split, small_data), "image/webp", 10)
        np.testing.assert_array_equal(load_split(encoded, split, small_data).images, images.images)


@pytest.mark.parametrize(
    ("encode", "key"),
    [
        ('{ media_type = "image/png", quality = 10 }', "data.encode.media_type"),
        ('{ media_type = "image/webp", quality = 0 }', "data.encode.quality"),
        ('{ media_type = "image/webp" }', "data.encode.quality"),
    ],
)
def test_an_encoding_that_cannot_be_names_its_key(
    recipe_file: Path, tmp_path: Path, encode: str, key: str
) -> None:
    wrong = changed(
        recipe_file,
        tmp_path / "wrong.toml",
        ("held_out = 0.2", f"held_out = 0.2\nencode = {encode}"),
    )
    with pytest.raises(InvalidSettings, match=key):
        read_recipe(wrong)


# --- codecs taught by the boundary as it was ----------------------------------------------------


def test_codec_distillation_adds_the_codecs_errors_to_the_loss(
    recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    ends = []
    for name, weight in (("without", 0.0), ("with", 3.0)):
        regime = f'[regime]\nkind = "joint"\ncodec_distillation = {weight}\n[optimiser]'
        recipe = changed(recipe_file, tmp_path / f"{name}.toml", ("[optimiser]", regime))
        train(recipe, tmp_path / name, folder=small_data, precision="32-true")
        ends.append(open_run(tmp_path / name).network.state_dict())
    codec = "codecs.1.decoder.0.weight"
    assert not torch.equal(ends[0][codec], ends[1][codec])
    with (tmp_path / "with" / "metrics.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2


# --- tables in the bundle -----------------------------------------------------------------------


def test_export_fits_tables_that_make_another_network_and_the_same_answers(
    untrained: object, small_data: Path, tiny_bundle: object, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    from offramp.export.bundle import Exporting, write_bundle

    held = held_out(untrained.recipe, small_data)
    exporting = Exporting(
        name="tiny", max_drop=0.01, provenance=untrained.provenance, entropy_coding=True
    )
    write_bundle(untrained.network, tmp_path / "coded", held, exporting)
    coded, packed = load_bundle(tmp_path / "coded"), load_bundle(tiny_bundle.folder)
    assert coded.digest != packed.digest
    assert coded.manifest.policies == packed.manifest.policies
    record = coded.manifest.provenance["export"]["entropy_coding"]
    boundaries = coded.manifest.network.boundaries
    assert set(record) == {"boundary_1", "boundary_2"}
    images = data.load("cifar10-lossless", "test", small_data).images
    ours, theirs = (run_stages(bundle, images, batch=32) for bundle in (coded, packed))
    for k, (boundary, tensors) in enumerate(zip(boundaries[1:], ours.boundaries, strict=True), 1):
        assert boundary.coding is not None
        assert record[f"boundary_{k}"]["packed_bytes"] == boundary.size_bytes
        codes = tensors[boundary.tensors[0].name]
        sizes = []
        for sample, other in zip(
            codes, theirs.boundaries[k - 1][boundary.tensors[0].name], strict=True
        ):
            payload = tensors_payload([sample], boundary)
            sizes.append(len(payload[0].data))
            np.testing.assert_array_equal(payload_arrays(payload, boundary)[0], other)
        assert max(sizes) <= boundary.size_bytes
        assert np.mean(sizes) == pytest.approx(record[f"boundary_{k}"]["mean_bytes"], rel=0.1)
