import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.samples import samples_for
from torch import Tensor, nn

from offramp.errors import InvalidSettings
from offramp.models import CannotAttach, CodecSpec, ExitAt, HeadSpec, Preparation, attach
from offramp.models.features import logits_of
from offramp.models.zoo import CifarResNet, build_backbone, huggingface
from offramp.models.zoo.cifar_resnet import MEAN, STD
from offramp.training import read_recipe
from offramp.wire import TensorSpec

pytestmark = pytest.mark.train

IMAGE = TensorSpec(name="image", dtype="uint8", shape=(32, 32, 3))
SIGNAL = TensorSpec(name="signal", dtype="float32", shape=(20, 6))
PREPARE = Preparation([0.5] * 3, [0.25] * 3)

FAMILIES = {  # arguments, exits, the shapes that their submodules yield
    "small-resnet": ({}, ("blocks.0", "blocks.2"), [[(32, 16, 16)], [(96, 8, 8)]]),
    "cifar-resnet": ({"depth": 8}, ("layer1", "layer2.0"), [[(16, 32, 32)], [(32, 16, 16)]]),
    "mobilenet-v2": ({"width": 0.25}, ("blocks.2", "blocks.6"), [[(8, 32, 32)], [(16, 8, 8)]]),
    "msdnet": (
        {"depth": 6, "growth": 2, "width": 4},
        ("layers.2", "layers.5"),
        [[(8, 32, 32), (16, 16, 16), (32, 8, 8)], [(16, 16, 16), (32, 8, 8)]],
    ),
    "vision-transformer": (
        {"dimension": 24, "depth": 3},
        ("blocks.0", "blocks.1"),
        [[(65, 24)], [(65, 24)]],
    ),
    "recurrent": ({"width": 16}, ("layers.0", "layers.1"), [[(20, 16)], [(20, 16)]]),
}


def samples(takes: TensorSpec, count: int) -> Tensor:
    return torch.from_numpy(samples_for(takes, count))


def built(name: str, arguments: dict[str, Any]) -> tuple[nn.Module, TensorSpec, Any]:
    takes = SIGNAL if name == "recurrent" else IMAGE
    torch.manual_seed(0)
    return (
        build_backbone(name, arguments, takes, 10).eval(),
        takes,
        None if takes is SIGNAL else PREPARE,
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_exits_leave_every_family_what_it_says_and_its_weights_names(name: str) -> None:
    arguments, places, shapes = FAMILIES[name]
    backbone, takes, prepare = built(name, arguments)
    names = list(backbone.state_dict())
    inputs = samples(takes, 3)
    with torch.no_grad():
        alone = backbone(inputs if prepare is None else prepare(inputs))
        exits = [ExitAt(at=at, head=HeadSpec(kind="max-mean")) for at in places]
        network = attach(backbone, exits, prepare=prepare, takes=takes).eval()
        outputs = network(inputs)
    assert torch.equal(outputs.logits[-1], alone)
    assert list(network.backbone.state_dict()) == names
    assert [logits.shape for logits in outputs.logits] == [(3, 10)] * 3
    found = [[tuple(t.shape[1:]) for t in tensors] for tensors in outputs.features]
    assert found == shapes


@pytest.mark.parametrize("name", FAMILIES)
def test_codecs_attach_to_every_family_and_gradients_reach_its_first_layer(name: str) -> None:
    arguments, places, _ = FAMILIES[name]
    backbone, takes, prepare = built(name, arguments)
    codec = CodecSpec(channels=2, bits=4, signed=True)
    exits = [ExitAt(at=at, head=HeadSpec(kind="pool"), codec=codec) for at in places]
    network = attach(backbone, exits, prepare=prepare, takes=takes).eval()
    codes = network(samples(takes, 2)).codes
    assert all(c is not None and c.dtype == torch.uint8 and c.shape[:2] == (2, 2) for c in codes)
    network.train()(samples(takes, 4)).logits[-1].square().sum().backward()
    first = next(backbone.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


def test_a_cifar_resnet_has_the_parameters_of_the_paper() -> None:
    for depth, millions in ((20, 0.27), (32, 0.46), (56, 0.85)):  # He et al. 2015, table 6
        network = CifarResNet(channels=3, classes=10, depth=depth)
        assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions


def test_mobilenet_has_the_parameters_of_the_paper() -> None:
    network = build_backbone("mobilenet-v2", {}, IMAGE, 1000)  # Sandler et al. 2018, table 4: 3.4 M
    assert 3.4e6 < sum(p.numel() for p in network.parameters()) < 3.6e6


def test_msdnet_drops_its_finest_scale_and_halves_the_others_between_runs_of_layers() -> None:
    network, _, _ = built("msdnet", {"depth": 6, "growth": 2, "width": 4})
    features = PREPARE(samples(IMAGE, 1))
    seen = []
    for layer in network.layers:
        features = layer(features)
        seen.append([tensor.shape[1] for tensor in features])
    assert seen[:4] == [[4, 8, 16], [6, 12, 24], [8, 16, 32], [8, 16]]
    assert [len(scales) for scales in seen] == [3, 3, 3, 2, 2, 2, 1, 1, 1]


def published(name: str, depth: int) -> CifarResNet:
    folder = os.environ.get("OFFRAMP_DATA")
    if not folder or not Path(folder, "weights").exists():
        pytest.skip("OFFRAMP_DATA names no folder with weights/")
    file = Path(folder, "weights", name)
    weights = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    network = CifarResNet(channels=3, classes=10, depth=depth).eval()
    network.load_state_dict({k.removeprefix("module."): v for k, v in weights.items()})
    return network


def test_exits_do_not_change_what_the_published_resnet_56_says() -> None:
    network, prepare = published("resnet56-4bfd9763.th", 56), Preparation(MEAN, STD)
    with torch.no_grad():
        alone = network(prepare(samples(IMAGE, 8)))
        exits = [ExitAt(at="layer1.4"), ExitAt(at="layer2.4")]
        attached = attach(network, exits, prepare=prepare, takes=IMAGE).eval()
        assert torch.equal(attached(samples(IMAGE, 8)).logits[-1], alone)


def test_published_weights_score_what_their_readme_says() -> None:
    network = published("resnet20-12fca82f.th", 20)
    folder = os.environ["OFFRAMP_DATA"]
    test = np.load(Path(folder, "cifar10_lossless_test.npz"))
    images, labels = torch.from_numpy(test["x"]), torch.from_numpy(test["y"].astype(np.int64))
    with torch.no_grad():
        said = torch.cat([network(Preparation(MEAN, STD)(part)) for part in images.split(256)])
    assert int((said.argmax(1) == labels).sum()) == 932  # 91.64 % of 1,017


# --- Hugging Face -------------------------------------------------------------------------------


@pytest.fixture
def saved_vit(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
    ).save_pretrained(tmp_path)
    return tmp_path


def test_a_hugging_face_model_takes_exits_by_its_own_names(saved_vit: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("huggingface", {"model": str(saved_vit)}, IMAGE, 7).eval()
    inputs = samples(IMAGE, 2)
    with torch.no_grad():
        alone = logits_of(backbone(PREPARE(inputs)))
        exits = [ExitAt(at="vit.layers.1", head=HeadSpec(kind="cls"))]
        network = attach(backbone, exits, prepare=PREPARE, takes=IMAGE).eval()
        outputs = network(inputs)
    assert torch.equal(outputs.logits[-1], alone)
    assert [tuple(t.shape) for t in (*outputs.logits, *outputs.features[0])] == [
        (2, 7),
        (2, 7),
        (2, 17, 16),
    ]


def test_saved_weights_come_back_and_a_value_of_the_configuration_can_be_replaced(
    saved_vit: Path,
) -> None:
    torch.manual_seed(0)
    first = huggingface(str(saved_vit), 4, pretrained=False)
    first.save_pretrained(saved_vit)
    again = huggingface(str(saved_vit), 4)
    name = "vit.layers.0.layernorm_before.weight"
    assert torch.equal(again.state_dict()[name], first.state_dict()[name])
    larger = huggingface(str(saved_vit), 4, pretrained=False, config={"image_size": 64})
    assert larger(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 4)


def test_a_model_that_is_not_there_names_the_key(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(CannotAttach, match=r"backbone.model: "):
        huggingface(str(tmp_path), 4)


# --- by name ------------------------------------------------------------------------------------


def test_a_backbone_that_cannot_take_the_samples_says_so() -> None:
    with pytest.raises(CannotAttach, match=r"backbone.name: takes images, not \[20, 6\]"):
        build_backbone("cifar-resnet", {}, SIGNAL, 10)
    with pytest.raises(CannotAttach, match=r"takes float32 \(T, C\) sequences, not uint8"):
        build_backbone("recurrent", {}, IMAGE, 10)
    with pytest.raises(CannotAttach, match=r"backbone.patch: 5 does not divide 32 x 32"):
        build_backbone("vision-transformer", {"patch": 5}, IMAGE, 10)


@pytest.mark.parametrize(
    ("table", "key", "message"),
    [
        ('name = "resnet"', "backbone", "none of small-resnet, cifar-resnet, "),
        ('name = "cifar-resnet"\ndepth = 57', "backbone", "57 is not 6 n \\+ 2"),
        ('name = "cifar-resnet"\nwidths = [4]', "backbone.widths", "no such key"),
        ('name = "msdnet"\nscales = 0', "backbone.scales", "greater than or equal to 1"),
        ('name = "vision-transformer"\nheads = 5', "backbone", "5 do not divide"),
        ("stem = 0", "backbone.stem", "greater than or equal to 1"),
    ],
)
def test_a_recipe_with_a_wrong_backbone_names_its_key(
    tmp_path: Path, table: str, key: str, message: str
) -> None:
    path = tmp_path / "train.toml"
    path.write_text(
        f'exits = []\n[data]\nname = "x"\n[backbone]\n{table}\n[optimiser]\nepochs = 1\n'
    )
    with pytest.raises(InvalidSettings, match=message) as caught:
        read_recipe(path)
    assert caught.value.field == f"{path}: {key}"
