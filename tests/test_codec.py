import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode

from offramp.models import CannotCode, CodecSpec, WireCodec, build_codec

pytestmark = pytest.mark.train

BOUNDARIES = {
    "maps": [(6, 8, 8)],
    "tokens": [(12, 16)],
    "a vector": [(16,)],
    "maps of three scales": [(4, 16, 16), (6, 8, 8), (8, 4, 4)],
    "two kinds of tokens": [(8, 6), (4, 10)],
}


def trained_on(codec: WireCodec, tensors: tuple[torch.Tensor, ...]) -> WireCodec:
    """The codec with norms that have seen these tensors, in evaluation mode."""
    codec.train()
    for _ in range(80):
        codec.through(codec.levels(tensors))
    return codec.eval()


def noise(shapes: list[tuple[int, ...]], count: int = 4) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(count, *shape) for shape in shapes)


@pytest.mark.parametrize("hidden", [0, 5])
@pytest.mark.parametrize(
    ("name", "stride"),
    [
        *((name, 1) for name in BOUNDARIES),
        *((name, 2) for name in BOUNDARIES if name != "a vector"),
    ],
)
def test_every_tensor_of_a_boundary_comes_back_in_its_own_shape(
    name: str, stride: int, hidden: int
) -> None:
    shapes = BOUNDARIES[name]
    spec = CodecSpec(channels=3, bits=4, stride=stride, hidden=hidden)
    tensors = noise(shapes)
    codec = trained_on(build_codec(shapes, spec), tensors)
    codes = codec.quantise(codec.levels(tensors))
    assert codes.dtype == torch.uint8
    assert codes.shape[:2] == (4, 3)
    decoded = codec.decode(codes)
    assert [tuple(tensor.shape[1:]) for tensor in decoded] == shapes
    for sample, whole in zip(codec.decode(codes[2:3]), decoded, strict=True):
        torch.testing.assert_close(sample, whole[2:3])


@pytest.mark.parametrize(
    ("shapes", "stride", "places"),
    [
        ([(32, 16, 16)], 2, (8, 8)),
        ([(4, 16, 16), (8, 4, 4)], 2, (2, 2)),
        ([(12, 16)], 3, (4,)),
        ([(16,)], 1, (1,)),
    ],
)
def test_codes_lie_on_the_coarsest_places_over_the_stride(
    shapes: list[tuple[int, ...]], stride: int, places: tuple[int, ...]
) -> None:
    codec = build_codec(shapes, CodecSpec(channels=7, bits=2, stride=stride)).eval()
    assert codec.levels(noise(shapes)).shape == (4, 7, *places)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_every_width_fill_their_range_and_no_more(bits: int) -> None:
    torch.manual_seed(bits)
    codec = build_codec([(6, 8, 8)], CodecSpec(channels=3, bits=bits, stride=2)).eval()
    levels = codec.levels((20 * torch.randn(16, 6, 8, 8),))
    codes = codec.quantise(levels)
    assert (codes.dtype, codes.shape) == (torch.uint8, (16, 3, 4, 4))
    assert (int(codes.min()), int(codes.max())) == (0, 2**bits - 1)


@pytest.mark.parametrize(("bits", "entropy"), [(1, 1.0), (2, 1.90), (4, 3.60)])
def test_a_fresh_codec_uses_its_levels_about_evenly(bits: int, entropy: float) -> None:
    """Entropy of a normal variable under the uniform quantiser of least error (Max 1960)."""
    torch.manual_seed(1)
    features = (torch.randn(64, 8, 8, 8),)
    codec = trained_on(build_codec([(8, 8, 8)], CodecSpec(channels=4, bits=bits)), features)
    codes = codec.quantise(codec.levels(features))
    shares = torch.bincount(codes.flatten().long(), minlength=2**bits) / codes.numel()
    found = -(shares * shares.clamp(min=1e-9).log2()).sum()
    assert float(found) == pytest.approx(entropy, abs=0.03)


def test_training_sees_what_the_far_side_of_the_wire_will_see() -> None:
    torch.manual_seed(1)
    shapes = BOUNDARIES["maps of three scales"]
    codec = build_codec(shapes, CodecSpec(channels=2, bits=3)).eval()
    levels = codec.levels(noise(shapes))
    for here, there in zip(
        codec.through(levels), codec.decode(codec.quantise(levels)), strict=True
    ):
        torch.testing.assert_close(here, there)


def test_the_gradient_passes_the_rounding_straight_through() -> None:
    codec = build_codec([(4, 4, 4)], CodecSpec(channels=2, bits=3)).eval()
    levels = torch.rand(2, 2, 4, 4).mul(7).requires_grad_()
    unrounded = levels.detach().round().requires_grad_()
    codec.through(levels)[0].sum().backward()
    codec.decode(unrounded)[0].sum().backward()
    torch.testing.assert_close(levels.grad, unrounded.grad)
    assert levels.grad.abs().sum() > 0


def test_halves_round_to_even_as_onnx_does() -> None:
    assert WireCodec.quantise(torch.tensor([0.5, 1.5, 2.5, 2.51])).tolist() == [0, 2, 2, 3]


def test_the_names_of_a_plain_codecs_weights_stay_for_a_bundle_restores_by_them() -> None:
    codec = build_codec([(4, 4, 4)], CodecSpec(channels=2, bits=3, stride=2))
    assert {name for name, _ in codec.named_parameters()} == {
        "encoder.0.weight",
        "encoder.1.weight",
        "encoder.1.bias",
        "decoder.0.weight",
        "decoder.2.weight",
        "decoder.2.bias",
    }


def test_tokens_and_signed_maps_come_back_with_their_negative_values() -> None:
    for shapes, signed in (([(12, 16)], False), ([(4, 8, 8)], True)):
        codec = build_codec(shapes, CodecSpec(channels=3, bits=4, signed=signed)).eval()
        (decoded,) = codec.decode(torch.randint(0, 16, codec.levels(noise(shapes)).shape))
        assert decoded.min() < 0
    rectified = build_codec([(4, 8, 8)], CodecSpec(channels=3, bits=4)).eval()
    assert rectified.decode(torch.randint(0, 16, (4, 3, 8, 8)))[0].min() >= 0


def test_a_hidden_layer_costs_what_its_convolutions_cost() -> None:
    codec = build_codec([(8, 8, 8)], CodecSpec(channels=3, bits=4, stride=2, hidden=6)).eval()
    with FlopCounterMode(display=False) as counter:
        codec.levels((torch.zeros(1, 8, 8, 8),))
    assert counter.get_total_flops() == 2 * 16 * (8 * 3 * 4 + 8 * 6 * 9 + 6 * 3)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"channels": 0, "bits": 4}, "codec.channels"),
        ({"channels": 1, "bits": 0}, "codec.bits"),
        ({"channels": 1, "bits": 9}, "codec.bits"),
        ({"channels": 1, "bits": 4, "stride": 0}, "codec.stride"),
        ({"channels": 1, "bits": 4, "hidden": -1}, "codec.hidden"),
        ({"channels": 1, "bits": 4, "target_bytes": -1}, "codec.target_bytes"),
    ],
)
def test_a_codec_that_cannot_be_is_refused(spec: dict[str, int], field: str) -> None:
    with pytest.raises(CannotCode) as caught:
        CodecSpec(**spec)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("shapes", "stride", "field", "message"),
    [
        ([(4, 9, 9)], 2, "codec.stride", r"2 does not divide \(9, 9\)"),
        ([(16,)], 2, "codec.stride", "2 does not divide"),
        ([(4, 8, 8), (4, 16)], 1, "codec", "places and tokens"),
        ([(4, 8, 8), (4, 6, 6)], 1, "codec", r"cannot join .* \(8, 8\) places and \(6, 6\)"),
        ([(4, 8, 4), (4, 4, 4)], 1, "codec", r"cannot join .* \(8, 4\) places and \(4, 4\)"),
        ([(2, 3, 4, 5)], 1, "codec", "not \\(2, 3, 4, 5\\)"),
    ],
)
def test_a_boundary_that_a_codec_cannot_take_is_refused(
    shapes: list[tuple[int, ...]], stride: int, field: str, message: str
) -> None:
    with pytest.raises(CannotCode, match=message) as caught:
        build_codec(shapes, CodecSpec(channels=2, bits=4, stride=stride))
    assert caught.value.field == field
