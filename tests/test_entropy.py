import math
import time
from fractions import Fraction

import numpy as np
import pytest

from offramp.bundle import Boundary, Codec
from offramp.errors import InvalidInput
from offramp.rpc.payload import (
    TensorBytes,
    payload_arrays,
    payload_size_checked,
    tensors_payload,
)
from offramp.wire import Coding, TensorSpec, pack, unpack

SHAPES = [(1, 1, 1), (3, 5, 7), (7, 8, 8), (4, 9), (6,)]


def likely_codes(
    rng: np.random.Generator, count: int, shape: tuple[int, ...], bits: int
) -> np.ndarray:
    """Codes near the middle of their range, as a codec's are."""
    top = 2**bits - 1
    levels = rng.normal(top / 2, max(0.4, top / 9), (count, *shape))
    return np.clip(np.rint(levels), 0, top).astype(np.uint8)


def spec_of(shape: tuple[int, ...], bits: int) -> TensorSpec:
    return TensorSpec(name="codes_1", dtype="uint8", shape=shape, bits=bits)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_come_back_exactly_likely_or_not(shape: tuple[int, ...], bits: int) -> None:
    rng = np.random.default_rng(bits)
    coding = Coding.fitted(likely_codes(rng, 50, shape, bits), bits)
    unlikely = rng.integers(0, 2**bits, (10, *shape), dtype=np.uint8)
    corners = [np.full(shape, code, np.uint8) for code in (0, 2**bits - 1)]
    for codes in (*likely_codes(rng, 20, shape, bits), *unlikely, *corners):
        data = coding.encode(codes)
        np.testing.assert_array_equal(coding.decode(data, shape, "x"), codes)


def test_a_reader_can_work_out_the_bytes_of_two_codes() -> None:
    """Counts of 3/4 and 1/4. 65,536 = 64 * 1024 + 0; 265,216 = 86 * 3072 + 1024."""
    coding = Coding(((3072, 1024),))
    one, both = 64 * 4096 + 0 + 3072, 86 * 4096 + 1024 + 0
    assert coding.encode(np.array([[1]], np.uint8)) == one.to_bytes(3, "big")
    assert coding.encode(np.array([[0, 1]], np.uint8)) == both.to_bytes(3, "big")


def test_bytes_are_what_one_number_without_a_limit_needs() -> None:
    """The state kept under 64 bits costs at most a byte more than the plain recursion."""
    rng = np.random.default_rng(1)
    sample = likely_codes(rng, 40, (5, 8, 8), 4)
    coding = Coding.fitted(sample, 4)
    for codes in sample[:10]:
        state = 65_536
        for row, counts in list(zip(codes.reshape(5, -1).tolist(), coding.counts, strict=True))[
            ::-1
        ]:
            for code in row[::-1]:
                whole, rest = divmod(state, counts[code])
                state = whole * 4096 + rest + sum(counts[:code])
        assert len(coding.encode(codes)) - math.ceil(state.bit_length() / 8) in (0, 1)


def test_the_mean_size_is_within_four_bytes_of_the_entropy() -> None:
    rng = np.random.default_rng(2)
    sample = likely_codes(rng, 400, (7, 8, 8), 4)
    coding = Coding.fitted(sample, 4)
    entropy_bits = 0.0
    for channel in range(7):
        shares = np.bincount(sample[:, channel].reshape(-1), minlength=16) / (400 * 64)
        entropy_bits -= 64 * float(np.sum(shares * np.log2(np.maximum(shares, 1e-12))))
    mean = np.mean([len(coding.encode(codes)) for codes in sample])
    assert entropy_bits / 8 <= mean <= entropy_bits / 8 + 4
    assert mean < spec_of((7, 8, 8), 4).size_bytes


def test_a_code_that_was_never_seen_can_still_be_sent() -> None:
    coding = Coding.fitted(np.zeros((30, 2, 4), np.uint8), 3)
    assert coding.counts[0] == (4089, 1, 1, 1, 1, 1, 1, 1)
    codes = np.array([[0, 7, 0, 0], [1, 2, 3, 4]], np.uint8)
    np.testing.assert_array_equal(coding.decode(coding.encode(codes), (2, 4), "x"), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_fitted_counts_follow_the_found_shares(bits: int) -> None:
    sample = likely_codes(np.random.default_rng(3), 200, (3, 8, 8), bits)
    coding = Coding.fitted(sample, bits)
    assert coding.fits((3, 8, 8), bits)
    for channel, counts in enumerate(coding.counts):
        assert sum(counts) == 4096
        found = np.bincount(sample[:, channel].reshape(-1), minlength=2**bits)
        for count, times in zip(counts, found.tolist(), strict=True):
            assert abs(Fraction(count, 4096) - Fraction(times, 200 * 64)) < Fraction(2**bits, 4096)


@pytest.mark.parametrize(
    "counts", [((4096, 0),), ((2048, 2047),), ((5000, -904),), ((2048, 2048), ())]
)
def test_tables_that_cannot_be_are_refused(counts: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="counts"):
        Coding(counts)


# --- the packed form and the coded form ---------------------------------------------------------

SHAPE, BITS = (7, 8, 8), 4
SPEC = spec_of(SHAPE, BITS)
SAMPLE = likely_codes(np.random.default_rng(4), 60, SHAPE, BITS)
CODING = Coding.fitted(SAMPLE, BITS)


def test_what_coding_would_not_shorten_is_packed() -> None:
    noise = np.random.default_rng(5).integers(0, 16, SHAPE, dtype=np.uint8)
    assert len(CODING.encode(noise)) > SPEC.size_bytes
    assert pack(noise, SPEC, CODING) == pack(noise, SPEC)
    np.testing.assert_array_equal(unpack(pack(noise, SPEC, CODING), SPEC, "x", CODING), noise)
    likely = pack(SAMPLE[0], SPEC, CODING)
    assert len(likely) < SPEC.size_bytes
    np.testing.assert_array_equal(unpack(likely, SPEC, "x", CODING), SAMPLE[0])
    packed = pack(SAMPLE[0], SPEC)  # a peer may leave coding out
    np.testing.assert_array_equal(unpack(packed, SPEC, "x", CODING), SAMPLE[0])


def test_every_flipped_bit_and_every_cut_is_refused_or_other_codes_within_range() -> None:
    data = bytearray(CODING.encode(SAMPLE[1]))
    refused = 0
    for bit in range(0, 8 * len(data), 3):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            codes = CODING.decode(bytes(broken), SHAPE, "x")
        except InvalidInput:
            refused += 1
        else:
            assert codes.max() < 16
            assert not np.array_equal(codes, SAMPLE[1])
    assert refused >= len(range(0, 8 * len(data), 3)) - 1
    for length in range(len(data)):
        with pytest.raises(InvalidInput):
            CODING.decode(bytes(data[:length]), SHAPE, "x")


def test_noise_of_every_length_is_refused_quickly() -> None:
    rng = np.random.default_rng(6)
    began = time.monotonic()
    taken = 0
    for length in range(SPEC.size_bytes):
        for data in (rng.bytes(length), bytes(length), b"\xff" * length):
            try:
                codes = CODING.decode(data, SHAPE, "payload")
            except InvalidInput:
                continue
            assert CODING.encode(codes) == data  # it was a tensor's own encoding
            taken += 1
    assert taken <= 1
    assert time.monotonic() - began < 30


def test_there_is_one_coded_form_of_each_tensor() -> None:
    data = CODING.encode(SAMPLE[2])
    for other in (b"\x00" + data, data + bytes(4), b"\x00" * 4 + data):
        with pytest.raises(InvalidInput):
            CODING.decode(other, SHAPE, "x")


# --- in a boundary and a payload ----------------------------------------------------------------

BOUNDARY = Boundary(tensors=(SPEC,), codec=Codec(channels=7, bits=BITS, stride=2), coding=CODING)


def test_a_payload_of_a_boundary_with_tables_is_coded_and_comes_back() -> None:
    payload = tensors_payload([SAMPLE[3]], BOUNDARY)
    assert len(payload[0].data) < BOUNDARY.size_bytes
    payload_size_checked(payload, BOUNDARY, 1)
    (codes,) = payload_arrays(payload, BOUNDARY)
    np.testing.assert_array_equal(codes, SAMPLE[3])


@pytest.mark.parametrize("size", [0, 225, 10_000])
def test_empty_and_over_long_payloads_are_refused_before_anything_is_decoded(size: int) -> None:
    with pytest.raises(InvalidInput, match=f"{size} bytes, not the at most 224") as caught:
        payload_size_checked((TensorBytes(bytes(size)),), BOUNDARY, 1)
    assert caught.value.field == "payload.tensors[0].data"


def test_a_corrupt_payload_names_its_field() -> None:
    with pytest.raises(InvalidInput, match="no entropy-coded") as caught:
        payload_arrays((TensorBytes(b"\xff" * 60),), BOUNDARY)
    assert caught.value.field == "payload.tensors[0].data"


def test_without_tables_a_shorter_payload_is_refused_as_ever() -> None:
    plain = Boundary(tensors=(SPEC,), codec=BOUNDARY.codec)
    with pytest.raises(InvalidInput, match="60 bytes, not the 224"):
        payload_size_checked((TensorBytes(bytes(60)),), plain, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": None}, "not one tensor of codes"),
        ({"tensors": (spec_of((6, 8, 8), 4),)}, r"not for \[6, 8, 8\] codes of 4 bits"),
        ({"tensors": (spec_of((7, 8, 8), 3),)}, "of 3 bits"),
        ({"tensors": (SPEC, SPEC)}, "not one tensor of codes"),
    ],
)
def test_tables_that_do_not_fit_their_boundary_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Boundary(**{**dict(BOUNDARY), **changes})


def test_tables_are_written_into_the_manifest_only_where_there_are_some() -> None:
    assert "coding" not in Boundary(tensors=(SPEC,), codec=BOUNDARY.codec).model_dump(mode="json")
    written = BOUNDARY.model_dump(mode="json")
    assert len(written["coding"]["counts"]) == 7
    assert Boundary.model_validate(written) == BOUNDARY
