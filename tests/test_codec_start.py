import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from offramp.models import (
    CodecSpec,
    ExitAt,
    HeadSpec,
    Preparation,
    SmallResNet,
    attach,
    build_codec,
    start_codecs,
)
from offramp.models.codec_start import start_codec
from offramp.training.codec_loss import reconstruction_loss
from offramp.wire import TensorSpec

pytestmark = pytest.mark.train


def of_few_components(
    shapes: list[tuple[int, ...]], count: int, samples: int = 200
) -> tuple[torch.Tensor, ...]:
    """Tensors that are mixtures of `count` random patterns at each place of 2 x 2 (or 2 tokens)."""
    torch.manual_seed(1)
    tensors = []
    for shape in shapes:
        if len(shape) == 3:
            channels, height, width = shape
            patterns = torch.randn(count, channels, 2, 2)
            weights = torch.randn(samples, count, height // 2, width // 2)
            tensor = torch.einsum("nkhw,kcij->nchiwj", weights, patterns)
        else:
            tokens, channels = shape
            patterns = torch.randn(count, 2, channels)
            weights = torch.randn(samples, count, tokens // 2)
            tensor = torch.einsum("nkt,kic->ntic", weights, patterns)
        tensors.append(tensor.reshape(samples, *shape) * 3 + 1)
    return tuple(tensors)


def error(codec: object, tensors: tuple[torch.Tensor, ...]) -> float:
    with torch.no_grad():
        codes = codec.quantise(codec.levels(tensors))
        return reconstruction_loss(codec.decode(codes), tensors).item()


@pytest.mark.parametrize("hidden", [0, 6])
@pytest.mark.parametrize("shapes", [[(6, 8, 8)], [(8, 10)]], ids=["maps", "tokens"])
def test_what_has_as_many_components_as_the_codec_has_channels_is_coded_at_once(
    shapes: list[tuple[int, ...]], hidden: int
) -> None:
    tensors = of_few_components(shapes, 4)
    spec = CodecSpec(channels=4, bits=8, stride=2, hidden=hidden, signed=True)
    codec = build_codec(shapes, spec).eval()
    assert error(codec, tensors) > 0.5
    start_codec(codec, tensors)
    assert error(codec, tensors) < 2e-3
    codec.train()
    through = codec.through(codec.levels(tensors))
    assert reconstruction_loss(through, tensors).item() < 2e-3


def test_the_error_is_the_share_of_variance_beyond_the_components() -> None:
    """White noise: 4 of 24 components leave 20/24 of the variance."""
    torch.manual_seed(2)
    noise = (torch.randn(500, 6, 8, 8),)
    codec = build_codec([(6, 8, 8)], CodecSpec(channels=4, bits=8, stride=2, signed=True)).eval()
    start_codec(codec, noise)
    assert error(codec, noise) == pytest.approx(20 / 24, abs=0.02)


def test_several_tensors_are_coded_together_each_by_its_own_variance() -> None:
    torch.manual_seed(3)
    common = torch.randn(300, 2, 4, 4)
    fine = (
        common.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat(1, 2, 1, 1)
    )  # (300, 4, 8, 8)
    tensors = (1000 * fine, common.repeat(1, 3, 1, 1))
    shapes = [(4, 8, 8), (6, 4, 4)]
    codec = build_codec(shapes, CodecSpec(channels=2, bits=8, signed=True)).eval()
    start_codec(codec, tensors)
    assert error(codec, tensors) < 2e-3


def test_channels_beyond_the_components_do_no_harm() -> None:
    vectors = (torch.randn(400, 3),)
    codec = build_codec([(3,)], CodecSpec(channels=5, bits=8)).eval()
    start_codec(codec, vectors)
    assert error(codec, vectors) < 2e-3


def test_the_codecs_of_a_network_start_in_order_and_its_mode_stays() -> None:
    torch.manual_seed(4)
    codec = CodecSpec(channels=6, bits=6)
    exits = [
        ExitAt(at=at, head=HeadSpec(kind="pool"), codec=codec) for at in ("blocks.0", "blocks.1")
    ]
    network = attach(
        SmallResNet(channels=1, classes=3, stem=4, widths=(4, 6, 6), strides=(2, 1, 2)),
        exits,
        prepare=Preparation([0.5], [0.25]),
        takes=TensorSpec(name="image", dtype="uint8", shape=(8, 8, 1)),
    ).train()
    network.backbone.stem.eval()
    images = torch.randint(0, 256, (64, 8, 8, 1), dtype=torch.uint8)
    start_codecs(network, images, [1, 2])
    assert network.training
    assert not network.backbone.stem.training
    outputs = network.eval()(images)
    for features, decoded in zip(outputs.features, outputs.decoded, strict=True):
        assert reconstruction_loss(decoded, features).item() < 0.05
