import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.cli import main
from offramp.errors import InvalidSettings
from offramp.exits.placement import Probed, Step, expected, place_greedily

# --- greedy, by what probes say -----------------------------------------------------------------


def probed(confidence: Any, correct: Any, last: Any, cost: Any, own: float = 0.0) -> Probed:
    return Probed(
        confidence=np.array(confidence, np.float64),
        correct=np.array(correct, np.bool_),
        last_correct=np.array(last, np.bool_),
        cost=np.array(cost, np.float64),
        own_cost=np.full(len(cost), own),
        whole_cost=100.0,
    )


FOUR = probed(  # candidate 0 is right where it is sure; candidate 1 always; the last exit always
    [[0.9, 0.8, 0.6, 0.5], [0.9, 0.9, 0.9, 0.9]],
    [[1, 1, 0, 0], [1, 1, 1, 1]],
    [1, 1, 1, 1],
    [10, 50],
    own=2.0,
)


def test_samples_leave_down_to_the_confidence_at_which_the_drop_is_used_up() -> None:
    assert expected(FOUR, [], 0.0) == (100.0, 1.0)
    assert expected(FOUR, [0], 0.0) == ((2 * 12 + 2 * 102) / 4, 1.0)
    assert expected(FOUR, [0], 0.25) == ((3 * 12 + 102) / 4, 0.75)
    assert expected(FOUR, [1], 0.0) == (52.0, 1.0)
    assert expected(FOUR, [0, 1], 0.0) == ((2 * 12 + 2 * 54) / 4, 1.0)


def test_equal_confidences_leave_together_or_not_at_all() -> None:
    tied = probed([[0.9, 0.9]], [[1, 0]], [1, 1], [10])
    assert expected(tied, [0], 0.4) == (100.0, 1.0)
    assert expected(tied, [0], 0.5) == (10.0, 0.5)


def test_the_exit_that_saves_most_comes_first_and_those_that_save_nothing_do_not_come() -> None:
    assert place_greedily(FOUR, 2, max_drop=0.0) == (Step(1, 52.0, 1.0), Step(0, 33.0, 1.0))
    assert place_greedily(FOUR, 1, max_drop=0.0) == (Step(1, 52.0, 1.0),)
    useless = probed([[0.9, 0.9]], [[0, 0]], [1, 1], [10])
    assert place_greedily(useless, 2, max_drop=0.0) == ()


def test_an_exit_whose_own_cost_eats_what_it_saves_is_not_placed() -> None:
    dear = probed([[0.9, 0.1]], [[1, 0]], [1, 1], [10], own=60.0)  # 70 and 160 in place of 100
    assert place_greedily(dear, 1, max_drop=0.0) == ()


def test_probes_of_unequal_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        probed([[0.9, 0.1]], [[1, 0]], [1], [10])


# --- candidates of a network --------------------------------------------------------------------

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from offramp.models import CannotAttach, CodecSpec, ExitAt, HeadSpec, Preparation, SmallResNet
from offramp.models.placement import Candidates, find_candidates, place_at_equal_flops
from offramp.models.probe import probe
from offramp.models.zoo import build_backbone
from offramp.wire import TensorSpec

IMAGE = TensorSpec(name="image", dtype="uint8", shape=(16, 16, 3))
PREPARE = Preparation([0.5] * 3, [0.25] * 3)


def candidates(backbone: nn.Module, codec: CodecSpec | None = None) -> Candidates:
    torch.manual_seed(0)
    like = ExitAt(at="", head=HeadSpec(kind="pool"), codec=codec)
    return find_candidates(backbone, like, prepare=PREPARE, takes=IMAGE)


def resnet() -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet(channels=3, classes=4, stem=4, widths=(8, 8, 16), strides=(2, 1, 2))


@pytest.mark.train
def test_the_inside_of_a_residual_block_is_no_place_for_an_exit() -> None:
    backbone = resnet().train()
    places = [place.at for place in candidates(backbone).places]
    assert places == ["stem", "blocks.0", "blocks.1", "pool"]  # `blocks` and `pool` at equal FLOPs
    assert backbone.training


@pytest.mark.train
def test_flops_up_to_a_place_and_of_an_exit_there_are_those_of_its_layers() -> None:
    whole = candidates(resnet())
    found = {place.at: place for place in whole.places}
    stem = 2 * 16 * 16 * 4 * 27
    block = 2 * 64 * 8 * (36 + 72 + 4)
    assert (found["stem"].flops, found["blocks.0"].flops) == (stem, stem + block)
    assert found["blocks.0"].own_flops == 2 * 8 * 4
    assert whole.flops == found["pool"].flops + 2 * 16 * 4


@pytest.mark.train
def test_where_the_codec_does_not_fit_is_no_place() -> None:
    wide = candidates(resnet(), CodecSpec(channels=2, bits=4, stride=8))
    assert [place.at for place in wide.places] == ["stem", "blocks.0", "blocks.1"]
    assert wide.places[0].own_flops > candidates(resnet()).places[0].own_flops


@pytest.mark.train
@pytest.mark.parametrize(
    ("name", "arguments", "places"),
    [
        ("msdnet", {"depth": 3, "growth": 2, "width": 4}, {"layers.0", "layers.1", "layers.2"}),
        ("vision-transformer", {"dimension": 12, "depth": 2}, {"patches", "blocks.0", "norm"}),
    ],
)
def test_lists_of_scales_and_tokens_are_places(
    name: str, arguments: dict[str, int], places: set[str]
) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name, arguments, IMAGE, 4)
    assert places <= {place.at for place in candidates(backbone).places}


@pytest.mark.train
def test_exits_divide_the_flops_evenly() -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(4, 4, 1), nn.Tanh()) for _ in range(11)]
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), *layers, nn.Flatten(), nn.Linear(4 * 256, 1))
    found = candidates(backbone)  # at 12, 28, 44 ... 188 of 192, in 512 FLOPs
    assert [place.at for place in place_at_equal_flops(found, 3)] == ["2", "5", "8"]
    assert [place.at for place in place_at_equal_flops(found, 1)] == ["5"]
    assert [place.at for place in place_at_equal_flops(found, 12)] == [*map(str, range(11)), "12"]
    with pytest.raises(CannotAttach, match=r"placement.count: 99, but there are 12 places"):
        place_at_equal_flops(found, 99)


@pytest.mark.train
def test_places_are_not_sought_where_the_weights_say_the_same_of_everything() -> None:
    backbone = resnet()
    nn.init.zeros_(backbone.classifier.weight)
    with pytest.raises(CannotAttach, match="says the same of any input"):
        candidates(backbone)


class Brightness(nn.Module):
    """Knows after one layer whether an image is bright, and only at its end which side is."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.out = nn.Linear(4 * 256, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.late(self.early(x)).flatten(1))


@pytest.mark.train
def test_probes_say_what_features_tell() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (200,), generator=generator)
    images = torch.randint(0, 100, (200, 16, 16, 3), generator=generator, dtype=torch.uint8)
    images += (100 * labels[:, None, None, None]).to(torch.uint8)
    backbone = Brightness().eval()
    result = probe(backbone, candidates(backbone), images, labels, prepare=PREPARE)
    assert result.confidence.shape == result.correct.shape == (2, 80)
    assert result.correct.mean() == 1.0
    assert result.cost.tolist() == [2 * 256 * 12, 2 * 256 * (12 + 16)]


# --- in a recipe --------------------------------------------------------------------------------


@pytest.fixture
def open_recipe(recipe_file: Path, tmp_path: Path) -> Path:
    """The small recipe, with two places to be found instead of its exits."""
    text = recipe_file.read_text()
    exits, optimiser = text.index("[[exits]]"), text.index("[optimiser]")
    placement = '[placement]\nrule = "equal-flops"\ncount = 2\nhead = { kind = "pool" }\n'
    path = tmp_path / "open.toml"
    path.write_text(text[:exits] + placement + text[optimiser:])
    return path


@pytest.mark.train
def test_a_run_keeps_the_places_that_were_found_for_it(
    open_recipe: Path, small_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lightning")
    from offramp.training import open_run, train

    out = tmp_path / "run"
    assert train(open_recipe, out, folder=small_data, stop_after=1, precision="32-true") is None
    train(open_recipe, out, folder=small_data, resume=True, precision="32-true")
    run = open_run(out)
    found = json.loads((out / "placement.json").read_text())
    chosen = [row["at"] for row in found["places"] if row["chosen"]]
    assert chosen == [exit_.at for exit_ in run.recipe.exits]
    assert len(chosen) == run.network.exit_count - 1 == 2
    assert run.provenance["recipe"]["placement"] is None
    assert [e["at"] for e in run.provenance["recipe"]["exits"]] == chosen


@pytest.mark.train
def test_a_recipe_says_its_exits_in_one_way(open_recipe: Path, tmp_path: Path) -> None:
    from offramp.training import read_recipe

    text = open_recipe.read_text()
    for wrong in (f"exits = []\n{text}", text.replace("[placement]", "[placement_]")):
        open_recipe.write_text(wrong)
        with pytest.raises(InvalidSettings, match=r"either exits or placement|no such key"):
            read_recipe(open_recipe)


@pytest.mark.train
def test_utility_asks_for_a_trained_backbone(open_recipe: Path, small_data: Path) -> None:
    from offramp.training.run import plan

    open_recipe.write_text(open_recipe.read_text().replace("equal-flops", "utility"))
    with pytest.raises(InvalidSettings, match=r"placement.rule: utility probes a trained backbone"):
        plan(open_recipe, small_data)


@pytest.mark.train
def test_utility_places_exits_on_the_weights_that_the_recipe_names(
    open_recipe: Path, small_data: Path
) -> None:
    from offramp.models.zoo import SmallResNetSettings
    from offramp.training.run import plan

    settings = SmallResNetSettings(stem=4, widths=(4, 8, 8), strides=(2, 2, 1))
    takes = TensorSpec(name="image", dtype="uint8", shape=(32, 32, 3))
    torch.manual_seed(1)
    weights = small_data / "backbone.pt"
    torch.save(settings.build(takes, 10).state_dict(), weights)
    regime = '[regime]\nkind = "classifier-wise"\nbackbone_weights = "backbone.pt"\n'
    text = open_recipe.read_text().replace('"equal-flops"', '"utility"\nmax_drop = 0.5')
    open_recipe.write_text(text + regime)
    try:
        planned = plan(open_recipe, small_data)
    finally:
        weights.unlink()
    assert 1 <= sum(row["chosen"] for row in planned["places"]) <= 2


@pytest.mark.train
def test_the_command_marks_where_a_recipe_has_its_exits(
    recipe_file: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["place", str(recipe_file), "--data", str(small_data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[4] for line in lines if line.startswith("*")] == ["blocks.0", "blocks.1"]
    inside = tmp_path / "inside.toml"
    inside.write_text(recipe_file.read_text().replace('"blocks.0"', '"blocks.0.conv1"'))
    assert main(["place", str(inside), "--data", str(small_data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["elsewhere"] == ["blocks.0.conv1"]


@pytest.mark.train
def test_a_place_that_the_backbone_does_not_have_is_refused_as_training_refuses_it(
    recipe_file: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "typo.toml"
    recipe.write_text(recipe_file.read_text().replace('"blocks.1"', '"blocs.1"'))
    said = []
    for words in (["place", str(recipe)], ["train", str(recipe), "--out", str(tmp_path / "run")]):
        assert main([*words, "--data", str(small_data)]) == 2
        said.append(capsys.readouterr().err)
    assert "exits.1.at: the network has no submodule 'blocs.1'; near names are 'blocks" in said[0]
    assert said[0] == said[1]
