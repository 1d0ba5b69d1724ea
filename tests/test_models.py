from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from offramp.errors import InvalidInput
from offramp.models import (
    CodecSpec,
    ExitAt,
    ExitHead,
    ExitNetwork,
    HeadSpec,
    Preparation,
    SmallResNet,
    attach,
)
from offramp.wire import TensorSpec

pytestmark = pytest.mark.train

PREPARE = Preparation([0.5], [0.25])
CODEC = CodecSpec(channels=4, bits=4)


def image_of(size: int, channels: int = 1) -> TensorSpec:
    return TensorSpec(name="image", dtype="uint8", shape=(size, size, channels))


def images(count: int, size: int = 28, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    shape = (count, size, size, channels)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def resnet() -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet(channels=1, classes=10).eval()


def with_exits(*exits: ExitAt, backbone: nn.Module | None = None, size: int = 28) -> ExitNetwork:
    whole = backbone or resnet()
    return attach(whole, exits, prepare=PREPARE, takes=image_of(size)).eval()


@pytest.mark.parametrize(("size", "grid"), [(28, 7), (32, 8)])
def test_a_dry_run_finds_each_heads_width_and_each_codecs_grid(size: int, grid: int) -> None:
    network = with_exits(
        ExitAt(at="blocks.1", codec=CODEC),
        ExitAt(at="blocks.3", head=HeadSpec(kind="pool"), codec=CODEC),
        size=size,
    )
    assert network.heads[0][0].in_channels == 64
    assert network.heads[1][-1].in_features == 96
    outputs = network(images(3, size))
    assert [logits.shape for logits in outputs.logits] == [(3, 10)] * 3
    assert [codes.shape for codes in outputs.codes] == [(3, 4, grid, grid)] * 2
    assert network.exit_count == 3


def test_every_kind_of_submodule_can_be_tapped_by_its_name() -> None:
    network = with_exits(ExitAt(at="stem"), ExitAt(at="blocks.0.conv1"), ExitAt(at="blocks"))
    features = network(images(2)).features
    assert [tuple(f.shape[1:]) for (f,) in features] == [(16, 28, 28), (32, 14, 14), (128, 4, 4)]


def test_without_codecs_the_last_exit_is_the_backbone_alone() -> None:
    backbone = resnet()
    with torch.no_grad():
        alone = backbone(PREPARE(images(4)))
        network = with_exits(ExitAt(at="blocks.1"), ExitAt(at="blocks.3"), backbone=backbone)
        torch.testing.assert_close(network(images(4)).logits[-1], alone, rtol=0, atol=0)


def test_the_backbones_own_weights_load_unchanged_after_attaching() -> None:
    saved = resnet().state_dict()
    backbone = SmallResNet(channels=1, classes=10)
    network = with_exits(ExitAt(at="blocks.1", codec=CODEC), backbone=backbone)
    assert list(network.backbone.state_dict()) == list(saved)
    network.backbone.load_state_dict(saved)
    torch.testing.assert_close(backbone.classifier.weight, saved["classifier.weight"])


def test_a_dry_run_leaves_norms_and_mode_as_they_were() -> None:
    backbone = resnet().train()
    attach(backbone, [ExitAt(at="stem")], prepare=PREPARE, takes=image_of(28))
    assert backbone.training
    assert backbone.stem[1].running_mean.abs().sum() == 0


class Twice(nn.Module):
    """Runs one submodule twice, and two in the order opposite to their names'."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.pair = nn.Flatten()
        self.out = nn.Linear(2 * 28 * 28, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pair(self.b(self.b(self.a(x)))))


@pytest.mark.parametrize(
    ("exits", "message"),
    [
        ([ExitAt(at="blocks.9")], "no submodule 'blocks.9'; near names are 'blocks.4', "),
        ([ExitAt(at="block.1.conv3")], "exits.0.at: .* near names are 'blocks.1.conv2', "),
        ([ExitAt(at="zzz")], "at the top it has 'stem', 'blocks', 'pool', 'classifier'"),
        ([ExitAt(at="stem", tensor=1)], "exits.0.tensor: 1, but 'stem' yields 1 tensors"),
        ([ExitAt(at="stem"), ExitAt(at="stem")], "exits.1.at: 'stem' has exit 0 already"),
        ([ExitAt(at="blocks.3"), ExitAt(at="blocks.1")], r"\['blocks.3', 'blocks.1'\], but"),
        (
            [ExitAt(at="pool")],
            r"exits.0.head: of 'pool': .*'conv' does not take .* \(128,\) a sample, but pool does",
        ),
        ([ExitAt(at="blocks.1", codec=CodecSpec(channels=2, bits=4, stride=2))], "'blocks.1'"),
    ],
)
def test_an_exit_that_cannot_be_attached_names_its_submodule(
    exits: list[ExitAt], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        with_exits(*exits)


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ([72.0], [90.0], r"prepare.mean: \[72.0\] is not of pixels in \[0, 1\]"),
        ([0.3], [90.0], r"prepare.std: \[90.0\] is not above 0, of pixels in \[0, 1\]"),
        ([0.3], [0.0], r"prepare.std: \[0.0\] is not above 0"),
        ([0.3, 0.3], [0.2], "prepare.std: 1 beside a mean of 2 channels"),
    ],
)
def test_a_preparation_of_another_unit_is_refused(
    mean: list[float], std: list[float], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        Preparation(mean, std)


def test_a_submodule_that_yields_no_features_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self, *shape: int) -> None:
            super().__init__()
            self.shape, self.odd, self.out = shape, nn.Identity(), nn.Linear(784, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.odd(x.reshape(self.shape)).reshape(-1, 784))

    for shape in ((-1, 1, 1, 28, 28), (-1,), (28, -1, 28)):
        with pytest.raises(ValueError, match=r"exits.0.at: 'odd' does not yield features"):
            with_exits(ExitAt(at="odd"), backbone=Odd(*shape))


def test_tokens_are_normalised_and_averaged_and_vectors_taken_as_they_are() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(  # 28 rows of the image as tokens of 28, then one vector
        nn.Flatten(1, 2), nn.Linear(28, 6), nn.Flatten(), nn.Linear(28 * 6, 5), nn.Linear(5, 3)
    )
    exits = [ExitAt(at=at, head=HeadSpec(kind="pool")) for at in ("1", "3")]
    network = with_exits(*exits, backbone=backbone)
    outputs = network(images(2))
    assert [tuple(features.shape) for (features,) in outputs.features] == [(2, 28, 6), (2, 5)]
    assert [logits.shape for logits in outputs.logits] == [(2, 3)] * 3
    (tokens,), (vectors,) = outputs.features
    normalised = (tokens - tokens.mean(2, keepdim=True)) / tokens.std(2, False, True)
    expected = network.heads[0][-1](normalised.sum(1) / 28)
    torch.testing.assert_close(outputs.logits[0], expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(outputs.logits[1], network.heads[1][-1](vectors))


def test_a_submodule_that_runs_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one pass runs \['b', 'b'\]"):
        with_exits(ExitAt(at="b"), backbone=Twice())


def test_a_backbone_without_one_output_of_logits_is_refused() -> None:
    with pytest.raises(ValueError, match="backbone"):
        with_exits(ExitAt(at="0"), backbone=nn.Sequential(nn.Conv2d(1, 2, 3)))


def test_a_backbone_may_flatten_by_view() -> None:
    class Viewing(Twice):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(x).view(x.size(0), -1))

    assert with_exits(ExitAt(at="a"), backbone=Viewing())(images(3)).logits[-1].shape == (3, 10)


# --- codecs in a network ------------------------------------------------------------------------


def test_given_codes_take_the_place_of_the_computed_ones() -> None:
    network = with_exits(ExitAt(at="blocks.1", codec=CODEC))
    with torch.no_grad():
        own = network(images(2))
        again = network(images(2), given={1: own.codes[0]})
        other = network(images(2), given={1: torch.zeros_like(own.codes[0])})
    torch.testing.assert_close(own.logits[1], again.logits[1])
    assert (own.logits[1] - other.logits[1]).abs().max() > 0
    torch.testing.assert_close(own.logits[0], other.logits[0])


# --- outputs that are more than one tensor ------------------------------------------------------

RAW = TensorSpec(name="signal", dtype="float32", shape=(12, 4))


class Yields(nn.Module):
    """A submodule `odd` that yields what `make` makes of (N, 12, 4), and goes on with `take` of it."""

    class Odd(nn.Module):
        def __init__(self, make: Callable[[Tensor], object]) -> None:
            super().__init__()
            self.make = make

        def forward(self, x: Tensor) -> object:
            return self.make(x)

    def __init__(self, make: Callable[[Tensor], object], take: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.odd, self.take, self.out = self.Odd(make), take, nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.take(self.odd(x)).flatten(1))


def on_signals(backbone: nn.Module, codec: CodecSpec | None = None, **exit_at: Any) -> ExitNetwork:
    torch.manual_seed(2)
    exit_ = ExitAt(at="odd", head=HeadSpec(kind="pool"), codec=codec, **exit_at)
    return attach(backbone, [exit_], prepare=None, takes=RAW).eval()


def a_list(x: Tensor) -> list[Tensor]:
    return [x, x[:, ::2], x[:, ::4]]


def a_mapping(x: Tensor) -> dict[str, Tensor]:
    return {"fine": x, "coarse": x[:, ::4]}


def with_states(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return x, (x.transpose(0, 1), x.transpose(0, 1))


def with_attentions(x: Tensor) -> tuple[Tensor, Tensor, None]:
    return x, (x @ x.transpose(1, 2)).unsqueeze(1), None


@pytest.mark.parametrize(
    ("make", "take", "shapes", "chosen"),
    [
        (a_list, lambda found: found[1], [(12, 4), (6, 4), (3, 4)], 2),
        (a_mapping, lambda found: found["fine"], [(12, 4), (3, 4)], 1),
        (with_states, lambda found: found[0], [(12, 4)], 0),
        (with_attentions, lambda found: found[0], [(12, 4)], 0),
    ],
)
def test_features_are_found_in_whatever_holds_them_and_the_coarsest_feeds_the_head(
    make: Callable[[Tensor], object],
    take: Callable[[Any], Tensor],
    shapes: list[tuple[int, ...]],
    chosen: int,
) -> None:
    network = on_signals(Yields(make, take))
    signals = torch.randn(5, 12, 4)
    outputs = network(signals)
    assert [tuple(tensor.shape[1:]) for tensor in outputs.features[0]] == shapes
    torch.testing.assert_close(outputs.logits[0], network.heads[0](outputs.features[0][chosen]))
    torch.testing.assert_close(outputs.logits[-1], network.backbone(signals), rtol=0, atol=0)


def test_another_of_several_tensors_feeds_the_head_where_it_is_asked_for() -> None:
    network = on_signals(Yields(a_list, lambda found: found[1]), tensor=0)
    outputs = network(torch.randn(2, 12, 4))
    torch.testing.assert_close(outputs.logits[0], network.heads[0](outputs.features[0][0]))


def test_a_codec_joins_several_tensors_and_puts_them_back_where_they_were() -> None:
    network = on_signals(Yields(a_mapping, lambda found: found["fine"]), CODEC)
    outputs = network(torch.randn(5, 12, 4))
    assert outputs.codes[0].shape == (5, 4, 3)
    fine, coarse = outputs.decoded[0]
    assert (tuple(fine.shape), tuple(coarse.shape)) == ((5, 12, 4), (5, 3, 4))
    torch.testing.assert_close(outputs.logits[-1], network.backbone.out(fine.flatten(1)))


def test_features_may_be_given_in_place_of_the_computed_ones() -> None:
    network = on_signals(Yields(a_list, lambda found: found[1]))
    features = network(torch.randn(2, 12, 4)).features[0]
    again = network(torch.zeros(2, 12, 4), given={1: features})
    torch.testing.assert_close(again.logits[-1], network.backbone.out(features[1].flatten(1)))


def test_logits_are_taken_from_a_model_output_or_a_mapping() -> None:
    class Mapping(Yields):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": x.sum(), "logits": super().forward(x)}

    network = on_signals(Mapping(a_list, lambda found: found[0]))
    assert network(torch.randn(2, 12, 4)).logits[-1].shape == (2, 3)


def test_what_the_backbone_does_not_take_is_said_before_anything_is_attached() -> None:
    with pytest.raises(ValueError, match=r"backbone: fails on uint8 \[28, 28, 3\] a sample: "):
        attach(resnet(), [], prepare=PREPARE, takes=image_of(28, 3))
    with pytest.raises(ValueError, match="takes: an input to be prepared is a uint8 image"):
        attach(resnet(), [], prepare=PREPARE, takes=RAW)


def test_features_that_a_later_layer_overwrites_stay_as_the_head_saw_them() -> None:
    torch.manual_seed(0)
    convolution, relu = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True)
    backbone = nn.Sequential(convolution, relu, nn.Flatten(), nn.Linear(4 * 784, 3))
    network = with_exits(ExitAt(at="0"), backbone=backbone)
    outputs = network(images(2))
    assert outputs.features[0][0].min() < 0
    torch.testing.assert_close(outputs.logits[-1], backbone(PREPARE(images(2))), rtol=0, atol=0)
    outputs.logits[0].sum().backward()
    assert convolution.weight.grad is not None


def test_two_networks_may_share_a_backbone_which_still_runs_by_itself() -> None:
    backbone = resnet()
    one = with_exits(ExitAt(at="stem"), backbone=backbone)
    other = with_exits(ExitAt(at="blocks.1"), ExitAt(at="blocks.2"), backbone=backbone)
    expected = backbone(PREPARE(images(2)))
    for network, exits in ((one, 2), (other, 3), (one, 2)):
        logits = network(images(2)).logits
        assert len(logits) == exits
        torch.testing.assert_close(logits[-1], expected, rtol=0, atol=0)


# --- heads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((6, 8, 8), "pool"),
        ((6, 8, 8), "max-mean"),
        ((6, 8, 8), "conv"),
        ((9, 6), "pool"),
        ((9, 6), "max-mean"),
        ((9, 6), "cls"),
        ((9, 6), "attention"),
        ((6,), "pool"),
    ],
)
def test_heads_of_every_kind_say_logits_and_learn(shape: tuple[int, ...], kind: Any) -> None:
    torch.manual_seed(0)
    head = ExitHead(shape, 3, HeadSpec(kind=kind, width=8))
    logits = head(torch.randn(4, *shape))
    assert logits.shape == (4, 3)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_max_and_mean_stand_beside_each_other() -> None:
    features = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]])  # two channels of 1 x 2
    pooled = ExitHead((2, 1, 2), 1, HeadSpec(kind="max-mean"))[0](features)
    assert pooled.tolist() == [[3.0, 4.0, 2.0, 2.0]]


def test_the_first_token_alone_decides_under_cls_and_all_do_under_attention() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(1, 5, 4)
    others = torch.cat([tokens[:, :1], torch.randn(1, 4, 4)], 1)
    cls, attention = (ExitHead((5, 4), 3, HeadSpec(kind=k)) for k in ("cls", "attention"))
    torch.testing.assert_close(cls(tokens), cls(others))
    assert (attention(tokens) - attention(others)).abs().max() > 1e-3
    turned = tokens.flip(1)  # a mean has no order
    torch.testing.assert_close(attention(tokens), attention(turned))


def test_a_gate_says_one_number_a_sample() -> None:
    network = with_exits(ExitAt(at="stem", gate=True), ExitAt(at="blocks.1"))
    first, second = network(images(3)).gates
    assert (first.shape, second) == ((3,), None)


def test_a_head_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"head.kind: 'mlp' is none of pool, "):
        HeadSpec(kind="mlp")
    with pytest.raises(ValueError, match=r"head.width: 0"):
        HeadSpec(width=0)
