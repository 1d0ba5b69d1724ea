import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from offramp.models import (
    CodecSpec,
    ExitAt,
    ExitNetwork,
    HeadSpec,
    Preparation,
    SmallResNet,
    WireCodec,
    attach,
)

pytestmark = pytest.mark.train

PREPARE = Preparation([0.5], [0.25])
CODEC = CodecSpec(channels=4, bits=4)


def images(count: int, size: int = 28, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    shape = (count, size, size, channels)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def resnet() -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet(channels=1, classes=10).eval()


def with_exits(*exits: ExitAt, backbone: nn.Module | None = None, size: int = 28) -> ExitNetwork:
    whole = backbone or resnet()
    return attach(whole, exits, prepare=PREPARE, image_shape=(size, size, 1)).eval()


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
    assert [tuple(f.shape[1:]) for f in features] == [(16, 28, 28), (32, 14, 14), (128, 4, 4)]


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
    attach(backbone, [ExitAt(at="stem")], prepare=PREPARE, image_shape=(28, 28, 1))
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
        ([ExitAt(at="blocks.9")], "no submodule 'blocks.9'"),
        ([ExitAt(at="blocks.3"), ExitAt(at="blocks.1")], r"\['blocks.3', 'blocks.1'\], but"),
        ([ExitAt(at="pool")], r"exits.0.head: of 'pool': .* 'conv' takes .* not \(128,\)"),
        ([ExitAt(at="blocks.1", codec=CodecSpec(channels=2, bits=4, stride=2))], "'blocks.1'"),
        (
            [ExitAt(at="stem"), ExitAt(at="pool", head=HeadSpec(kind="pool"), codec=CODEC)],
            r"exits.1.codec: takes \(C, H, W\) features, but 'pool' yields \(128,\)",
        ),
    ],
)
def test_an_exit_that_cannot_be_attached_names_its_submodule(
    exits: list[ExitAt], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        with_exits(*exits)


def test_a_submodule_that_yields_no_one_tensor_of_samples_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self, *shape: int) -> None:
            super().__init__()
            self.shape, self.odd, self.out = shape, nn.Identity(), nn.Linear(784, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.odd(x.reshape(self.shape)).reshape(-1, 784))

    for shape in ((1, 1, 1, 28, 28), (784,), (28, 28)):
        with pytest.raises(ValueError, match=r"exits.0.at: 'odd' does not yield one tensor"):
            with_exits(ExitAt(at="odd"), backbone=Odd(*shape))


def test_tokens_are_averaged_and_vectors_taken_as_they_are() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(  # 28 rows of the image as tokens of 28, then one vector
        nn.Flatten(1, 2), nn.Linear(28, 6), nn.Flatten(), nn.Linear(28 * 6, 5), nn.Linear(5, 3)
    )
    exits = [ExitAt(at=at, head=HeadSpec(kind="pool")) for at in ("1", "3")]
    network = with_exits(*exits, backbone=backbone)
    outputs = network(images(2))
    assert [tuple(features.shape) for features in outputs.features] == [(2, 28, 6), (2, 5)]
    assert [logits.shape for logits in outputs.logits] == [(2, 3)] * 3
    tokens, vectors = outputs.features
    torch.testing.assert_close(outputs.logits[0], network.heads[0][-1](tokens.sum(1) / 28))
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


# --- the wire codec -----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_every_width_fill_their_range_and_no_more(bits: int) -> None:
    torch.manual_seed(bits)
    codec = WireCodec(6, CodecSpec(channels=3, bits=bits, stride=2)).eval()
    levels = codec.levels(20 * torch.randn(16, 6, 8, 8))
    codes = codec.quantise(levels)
    assert (codes.dtype, codes.shape) == (torch.uint8, (16, 3, 4, 4))
    assert (int(codes.min()), int(codes.max())) == (0, 2**bits - 1)
    assert codec.decode(codes).shape == (16, 6, 8, 8)


def test_training_sees_what_the_far_side_of_the_wire_will_see() -> None:
    torch.manual_seed(1)
    codec = WireCodec(4, CodecSpec(channels=2, bits=3)).eval()
    levels = codec.levels(torch.randn(5, 4, 6, 6))
    torch.testing.assert_close(codec.through(levels), codec.decode(codec.quantise(levels)))


def test_the_gradient_passes_the_rounding_straight_through() -> None:
    codec = WireCodec(4, CodecSpec(channels=2, bits=3)).eval()
    levels = torch.rand(2, 2, 4, 4).mul(7).requires_grad_()
    unrounded = levels.detach().round().requires_grad_()
    codec.through(levels).sum().backward()
    codec.decode(unrounded).sum().backward()
    torch.testing.assert_close(levels.grad, unrounded.grad)
    assert levels.grad.abs().sum() > 0


def test_halves_round_to_even_as_onnx_does() -> None:
    assert WireCodec.quantise(torch.tensor([0.5, 1.5, 2.5, 2.51])).tolist() == [0, 2, 2, 3]


def test_given_codes_take_the_place_of_the_computed_ones() -> None:
    network = with_exits(ExitAt(at="blocks.1", codec=CODEC))
    with torch.no_grad():
        own = network(images(2))
        again = network(images(2), given={1: own.codes[0]})
        other = network(images(2), given={1: torch.zeros_like(own.codes[0])})
    torch.testing.assert_close(own.logits[1], again.logits[1])
    assert (own.logits[1] - other.logits[1]).abs().max() > 0
    torch.testing.assert_close(own.logits[0], other.logits[0])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"channels": 0, "bits": 4}, "codec.channels"),
        ({"channels": 1, "bits": 0}, "codec.bits"),
        ({"channels": 1, "bits": 9}, "codec.bits"),
        ({"channels": 1, "bits": 4, "stride": 0}, "codec.stride"),
    ],
)
def test_a_codec_that_cannot_be_is_refused(spec: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodecSpec(**spec)


def test_a_head_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"head.kind: 'mlp'"):
        HeadSpec(kind="mlp")
    with pytest.raises(ValueError, match=r"head.width: 0"):
        HeadSpec(width=0)
