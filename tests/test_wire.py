import io

import numpy as np
import pytest
from PIL import Image

from offramp.errors import InvalidInput
from offramp.wire import TensorSpec, decode_image, encode_image, join, pack, unpack


def naive_pack(codes: np.ndarray, bits: int) -> bytes:
    """Bits as text, most significant first, filled up with zeros to whole bytes."""
    text = "".join(f"{code:0{bits}b}" for code in codes.flatten())
    text += "0" * (-len(text) % 8)
    return bytes(int(text[k : k + 8], 2) for k in range(0, len(text), 8))


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_every_width_pack_as_a_naive_loop_packs_them_and_come_back(bits: int) -> None:
    spec = TensorSpec(name="codes", dtype="uint8", shape=(3, 5, 7), bits=bits)
    codes = np.random.default_rng(bits).integers(0, 2**bits, spec.shape, dtype=np.uint8)
    packed = pack(codes, spec)
    assert packed == naive_pack(codes, bits)
    assert len(packed) == spec.size_bytes
    np.testing.assert_array_equal(unpack(packed, spec, "payload"), codes)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float16", "float32"])
def test_tensors_of_every_dtype_come_back(dtype: str) -> None:
    spec = TensorSpec(name="x", dtype=dtype, shape=(2, 3))
    tensor = np.arange(6).reshape(2, 3).astype(dtype)
    back = unpack(pack(tensor, spec), spec, "payload")
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, tensor)


def test_floats_travel_little_endian() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(1,))
    assert pack(np.array([1.0], np.float32), spec) == b"\x00\x00\x80\x3f"


def test_a_boundary_of_four_seven_by_seven_maps_of_4_bits_is_98_bytes() -> None:
    assert TensorSpec(name="codes", dtype="uint8", shape=(4, 7, 7), bits=4).size_bytes == 98
    assert TensorSpec(name="codes", dtype="uint8", shape=(4, 7, 7), bits=3).size_bytes == 74


def test_what_does_not_fit_the_spec_is_not_packed() -> None:
    spec = TensorSpec(name="codes", dtype="uint8", shape=(2,), bits=3)
    for wrong, message in (
        (np.zeros(3, np.uint8), r"uint8 \[3\], not uint8 \[2\]"),
        (np.zeros(2, np.int64), "int64"),
        (np.array([0, 8], np.uint8), "a code of 8 does not fit 3 bits"),
    ):
        with pytest.raises(InvalidInput, match=message):
            pack(wrong, spec)


def test_bytes_of_another_length_are_refused_by_field() -> None:
    spec = TensorSpec(name="codes", dtype="uint8", shape=(4,), bits=4)
    with pytest.raises(InvalidInput, match="3 bytes") as caught:
        unpack(b"\x00" * 3, spec, "samples.0.payload")
    assert caught.value.field == "samples.0.payload"


def test_padding_that_is_not_zero_is_refused() -> None:
    spec = TensorSpec(name="codes", dtype="uint8", shape=(1,), bits=3)
    with pytest.raises(InvalidInput, match="padding"):
        unpack(b"\x01", spec, "payload")


@pytest.mark.parametrize(("dtype", "bits"), [("float32", 32), ("int64", 64), ("uint8", 8)])
def test_joined_tensors_are_what_they_are_one_by_one(dtype: str, bits: int) -> None:
    spec = TensorSpec(name="x", dtype=dtype, shape=(2, 3), bits=bits)
    data = [pack((np.arange(6).reshape(2, 3) + k).astype(dtype), spec) for k in range(3)]
    batch = join(data, spec, "payload")
    assert batch.dtype == dtype
    np.testing.assert_array_equal(batch, np.stack([unpack(one, spec, "payload") for one in data]))


def test_the_right_bytes_in_all_are_refused_where_one_tensor_has_too_few() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(2,))
    with pytest.raises(InvalidInput, match="4 bytes") as caught:
        join([bytes(4), bytes(12)], spec, "payload")
    assert caught.value.field == "payload"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=(2,))
    data = np.array([0.0, value], "<f4").tobytes()
    with pytest.raises(InvalidInput, match="NaN or infinite"):
        unpack(data, spec, "payload")
    with pytest.raises(InvalidInput, match="NaN or infinite"):
        join([bytes(8), data], spec, "payload")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"dtype": "float64", "shape": (1,)}, "dtype"),
        ({"dtype": "uint8", "shape": (0, 2)}, "shape"),
        ({"dtype": "uint8", "shape": (1,), "bits": 9}, "bits"),
        ({"dtype": "float32", "shape": (1,), "bits": 8}, "bits"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(spec: dict, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        TensorSpec(name="x", **spec)


def picture(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_comes_back_to_the_pixel(channels: int) -> None:
    pixels = picture((6, 9, channels))
    data = encode_image(pixels, "image/png")
    np.testing.assert_array_equal(decode_image(data, "image/png", pixels.shape, "x"), pixels)


@pytest.mark.parametrize("media_type", ["image/jpeg", "image/webp"])
def test_lossy_pictures_come_back_about_as_they_were(media_type: str) -> None:
    ramp = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[:, None, None], (32, 32, 3))
    data = encode_image(np.ascontiguousarray(ramp), media_type, quality=95)
    back = decode_image(data, media_type, (32, 32, 3), "x")
    assert np.abs(back.astype(int) - ramp).mean() < 4


def test_a_grey_network_takes_a_colour_picture_as_grey() -> None:
    data = encode_image(np.full((4, 4, 3), 77, np.uint8), "image/png")
    assert np.unique(decode_image(data, "image/png", (4, 4, 1), "x")).tolist() == [77]


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_palette_and_colour_pictures_are_taken(mode: str, channels: int) -> None:
    white = Image.new("RGB", (4, 4), "white").convert(mode)
    found = decode_image(saved(white, "PNG"), "image/png", (4, 4, channels), "x")
    assert found.shape == (4, 4, channels)
    assert (found == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_dropped_whatever_it_hides(channels: int) -> None:
    hidden = Image.new("RGBA", (4, 4), (51, 51, 51, 0))
    palette = saved(hidden.convert("RGB").convert("P"), "PNG", transparency=bytes(256))
    for data in (saved(hidden, "PNG"), palette):
        found = decode_image(data, "image/png", (4, 4, channels), "x")
        assert np.unique(found).tolist() == [51]


@pytest.mark.parametrize(
    ("data", "media_type", "mode"),
    [
        (saved(Image.new("I;16", (4, 4), 40_000), "PNG"), "image/png", "I;16"),
        (saved(Image.new("CMYK", (4, 4)), "JPEG"), "image/jpeg", "CMYK"),
    ],
)
def test_a_picture_of_another_mode_is_refused_by_its_name(
    data: bytes, media_type: str, mode: str
) -> None:
    with pytest.raises(InvalidInput, match=f"of mode '{mode}', not one of 1, L") as caught:
        decode_image(data, media_type, (4, 4, 1), "image")
    assert caught.value.field == "image"


LOSSY, LOSSLESS, EXTENDED = (
    saved(Image.new("RGB", (5, 3), "red"), "WEBP"),
    saved(Image.new("RGB", (5, 3), "red"), "WEBP", lossless=True),
    saved(Image.new("RGBA", (5, 3), (9, 9, 9, 9)), "WEBP"),
)


@pytest.mark.parametrize(
    ("data", "kind", "huge"),
    [
        (LOSSY, b"VP8 ", LOSSY[:26] + b"\xff\x3f\xff\x3f" + LOSSY[30:]),
        (LOSSLESS, b"VP8L", LOSSLESS[:21] + b"\xff\xff\xff\x0f" + LOSSLESS[25:]),
        (EXTENDED, b"VP8X", EXTENDED[:24] + b"\xfe\x3f\x00\xfe\x3f\x00" + EXTENDED[30:]),
    ],
    ids=["lossy", "lossless", "extended"],
)
def test_the_size_of_every_kind_of_webp_is_seen_in_its_header(
    data: bytes, kind: bytes, huge: bytes
) -> None:
    assert data[12:16] == kind
    assert decode_image(data, "image/webp", (3, 5, 3), "x").shape == (3, 5, 3)
    with pytest.raises(InvalidInput, match="5x3 pixels, not 4x4"):
        decode_image(data, "image/webp", (4, 4, 3), "x")
    with pytest.raises(InvalidInput, match=r"1638[34]x1638[34] pixels, not 5x3"):
        decode_image(huge, "image/webp", (3, 5, 3), "x")
    for length in range(0, len(data), 7):
        with pytest.raises(InvalidInput, match="no readable WEBP"):
            decode_image(data[:length], "image/webp", (3, 5, 3), "x")


def huge_png() -> bytes:
    file = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(file, "PNG")  # 20 kB that would be 144 MB of pixels
    return file.getvalue()


PNG = encode_image(picture((4, 4, 1)), "image/png")


@pytest.mark.parametrize(
    ("data", "media_type", "message"),
    [
        (PNG[:-20], "image/png", "no readable PNG"),
        (PNG[:40], "image/png", "no readable PNG"),
        (PNG[:33] + PNG[-12:], "image/png", "no readable PNG"),
        (b"", "image/png", "no readable PNG"),
        (b"GIF89a" + PNG, "image/png", "no readable PNG"),
        (PNG, "image/jpeg", "no readable JPEG"),
        (PNG, "image/gif", "'image/gif' is none of image/png"),
        (encode_image(picture((5, 4, 1)), "image/png"), "image/png", "4x5 pixels, not 4x4"),
        (huge_png(), "image/png", "12000x12000 pixels, not 4x4"),
    ],
    ids=[
        "truncated",
        "header only",
        "no pixels",
        "empty",
        "prefixed",
        "other type",
        "gif",
        "size",
        "bomb",
    ],
)
def test_a_broken_or_wrong_picture_is_refused_by_field(
    data: bytes, media_type: str, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        decode_image(data, media_type, (4, 4, 1), "image")
    assert caught.value.field.startswith("image")


def test_a_picture_cannot_feed_a_network_that_takes_no_picture() -> None:
    with pytest.raises(InvalidInput, match="cannot be the tensor"):
        decode_image(PNG, "image/png", (4, 4), "image")
