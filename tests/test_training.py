import csv
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from offramp.data import ImageSet
from offramp.errors import InvalidInput, InvalidSettings
from offramp.training import open_run, read_recipe, train
from offramp.training.batches import Batches, erase, flip, shift
from offramp.training.recipe import Data
from offramp.training.run import CHECKPOINT, held_out, laid_out

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def finished(recipe_file: Path, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    scores = train(
        recipe_file, out, folder=small_data, precision="32-true", command="offramp train it"
    )
    assert scores is not None
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return open_run(run).network.state_dict()


def log_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_an_interrupted_run_goes_on_to_the_weights_of_one_that_was_not(
    finished: Path, recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = {"folder": small_data, "precision": "32-true"}
    assert train(recipe_file, out, stop_after=1, command="the first", **options) is None
    with pytest.raises(InvalidInput, match=r"no finished run: it lacks provenance.json"):
        open_run(out)
    assert train(recipe_file, out, resume=True, command="the second", **options) is not None
    provenance = open_run(out).provenance
    assert (provenance["command"], provenance["resumed"]) == ("the first", ["the second"])
    assert same(weights(out), weights(finished))
    assert log_of(out) == log_of(finished)


def test_one_seed_gives_identical_weights_twice(
    finished: Path, recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    train(recipe_file, tmp_path / "again", folder=small_data, precision="32-true")
    assert same(weights(tmp_path / "again"), weights(finished))


def test_a_run_keeps_the_moving_average_of_the_weights_and_not_the_last(finished: Path) -> None:
    checkpoint = torch.load(finished / CHECKPOINT, weights_only=True)
    name = "backbone.classifier.weight"
    average, last = (
        checkpoint[key][f"network.{name}"] for key in ("state_dict", "current_model_state")
    )
    torch.testing.assert_close(weights(finished)[name], average, rtol=0, atol=0)
    assert (average - last).abs().max() > 0


def test_the_log_has_loss_and_accuracy_of_every_exit_for_every_epoch(finished: Path) -> None:
    rows = log_of(finished)
    assert [row["epoch"] for row in rows] == ["0", "1"]
    for split in ("train", "validation"):
        for k in range(3):
            assert all(float(row[f"{split}/loss_{k}"]) > 0 for row in rows)
            assert all(0 <= float(row[f"{split}/accuracy_{k}"]) <= 1 for row in rows)


def test_the_scores_are_those_of_the_network_that_the_run_opens_to(
    finished: Path, small_data: Path
) -> None:
    run = open_run(finished)
    held = held_out(run.recipe, small_data)
    with torch.no_grad():
        outputs = run.network(torch.from_numpy(held.images))
    for k, logits in enumerate(outputs.logits):
        accuracy = float((logits.argmax(1).numpy() == held.labels).mean())
        assert run.provenance["scores"][f"validation/accuracy_{k}"] == pytest.approx(
            accuracy, abs=1e-4
        )


def test_provenance_says_what_made_the_run(finished: Path) -> None:
    provenance = json.loads((finished / "provenance.json").read_text())
    assert provenance["command"] == "offramp train it"
    assert "resumed" not in provenance
    assert provenance["seed"] == 3
    assert provenance["precision"] == "32-true"
    assert provenance["data"]["trained_on"] == 320
    assert provenance["data"]["held_out"] == 80
    assert len(provenance["data"]["sha256"]["cifar10_lossless_train.npz"]) == 64
    assert set(provenance["versions"]) == {"offramp", "torch", "lightning", "python"}
    assert (finished / "recipe.toml").exists()


def test_images_are_normalised_by_what_was_trained_on(finished: Path) -> None:
    prepare = open_run(finished).network.prepare
    assert (prepare.mean / 255).flatten().tolist() == pytest.approx([0.5] * 3, abs=0.01)
    assert (prepare.std / 255).flatten().tolist() == pytest.approx([0.29] * 3, abs=0.01)


def test_channels_come_last_but_where_a_narrow_strided_convolution_would_go_wrong() -> None:
    for width, is_last in ((8, True), (4, False)):
        wide, narrow = torch.nn.Conv2d(3, width, 3), torch.nn.Conv2d(width, width, 1, stride=2)
        laid_out(torch.nn.Sequential(wide, narrow))
        assert wide.weight.is_contiguous(memory_format=torch.channels_last) == is_last


def test_a_folder_that_holds_a_run_is_not_trained_over(
    finished: Path, recipe_file: Path, small_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="--resume goes on with it"):
        train(recipe_file, finished, folder=small_data)
    with pytest.raises(InvalidInput, match="is finished"):
        train(recipe_file, finished, folder=small_data, resume=True)
    other = tmp_path / "other.toml"
    other.write_text(recipe_file.read_text().replace("seed = 3", "seed = 4"))
    started = tmp_path / "run"
    started.mkdir()
    (started / "recipe.toml").write_text(recipe_file.read_text())
    with pytest.raises(InvalidInput, match="made by another recipe"):
        train(other, started, folder=small_data, resume=True)


def test_a_folder_that_is_no_run_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"it lacks recipe.toml"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("seed = 3", "sed = 3", "sed"),
        ("held_out = 0.2", "mean = [72.0]\nstd = [0.3]", "data.mean.0"),
        ("epochs = 2", "epochs = 0", "optimiser.epochs"),
        ("held_out = 0.2", "held_out = 1.5", "data.held_out"),
        ("strides = [2, 2, 1]", "strides = [2, 2]", "backbone"),
        ("bits = 3", "bits = 9", "exits.0.codec"),
        ('kind = "pool"', 'kind = "mlp"', "exits.0.head"),
        ('at = "blocks.0"', "at = 1", "exits.0.at"),
        ("[data]", "[data", ""),
    ],
)
def test_a_recipe_that_is_wrong_names_its_key(
    recipe_file: Path, tmp_path: Path, before: str, after: str, key: str
) -> None:
    path = tmp_path / "train.toml"
    path.write_text(recipe_file.read_text().replace(before, after))
    with pytest.raises(InvalidSettings) as caught:
        read_recipe(path)
    assert str(path) in caught.value.field
    assert key in caught.value.field


def test_a_key_that_no_recipe_has_is_said_not_to_be_one(recipe_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(recipe_file.read_text().replace("held_out", "hold_out"))
    with pytest.raises(InvalidSettings, match=r"train\.toml: data\.hold_out: no such key$"):
        read_recipe(path)


def test_a_recipe_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "no.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSettings, match=r"no\.toml"):
        read_recipe(tmp_path / "no.toml")


# --- batches and their augmentation -------------------------------------------------------------


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int) -> ImageSet:
    """Images whose pixels all are the image's number."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 1)
    )
    return ImageSet(
        name="numbered",
        images=np.ascontiguousarray(images),
        labels=np.arange(count) % 2,
        classes=("even", "odd"),
        sha256={},
    )


def labels_of(images: torch.Tensor) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


def test_a_training_epoch_shows_each_image_once_and_another_order_next_time() -> None:
    batches = Batches(numbered(12), 4, augment=Data(name="x", shift=0, flip=False), seed=1)

    def order() -> list[int]:
        return [int(image[0, 0, 0]) for images, _ in batches for image in images]

    first = order()
    assert sorted(first) == list(range(12))
    assert order() == first  # the same epoch again
    batches.epoch = 1
    assert order() != first


def test_a_training_epoch_drops_an_incomplete_batch_and_a_validation_epoch_does_not() -> None:
    assert len(Batches(numbered(10), 4, augment=Data(name="x"))) == 2
    whole = Batches(numbered(10), 4)
    assert [len(labels) for _, labels in whole] == [4, 4, 2]
    assert len(whole) == 3


def test_processes_that_train_together_share_every_batch() -> None:
    batches = Batches(numbered(12), 4, augment=Data(name="x", shift=0, flip=False), seed=1)
    whole = [labels_of(images) for images, _ in batches]
    batches.processes = 2
    halves = []
    for batches.rank in (0, 1):
        halves.append([labels_of(images) for images, _ in batches])
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(w) for w in whole]


def test_shifting_moves_the_picture_whole_and_fills_with_black() -> None:
    images = torch.zeros((64, 5, 5, 1), dtype=torch.uint8)
    images[:, 2, 2] = 9
    shifted = shift(images, 2, chance())
    assert (shifted.sum((1, 2, 3)) == 9).all()
    places = {tuple(where.tolist()) for where in shifted[..., 0].nonzero()[:, 1:]}
    assert len(places) > 10
    torch.testing.assert_close(shift(images, 0, chance()), images)


def test_flipping_mirrors_about_half_of_the_images() -> None:
    images = torch.arange(4, dtype=torch.uint8).view(1, 1, 4, 1).repeat(400, 1, 1, 1)
    mirrored = (flip(images, chance())[:, 0, 0, 0] == 3).float().mean()
    assert 0.4 < mirrored < 0.6


def test_erasing_touches_its_share_of_the_images_and_a_quarter_of_one_at_most() -> None:
    images = torch.zeros((400, 20, 20, 1), dtype=torch.uint8)
    erased = (erase(images, 0.3, chance()) > 0).float().mean((1, 2, 3))
    assert 0.2 < (erased > 0).float().mean() < 0.4
    assert erased.max() <= 0.3  # 25 % and a pixel at each side
    assert not (erase(images, 0.0, chance()) > 0).any()
