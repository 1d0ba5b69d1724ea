import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from offramp import data
from offramp.data import ImageSet, fashion_mnist, hold_out
from offramp.data.cifar10 import load_copy, parse_records
from offramp.data.fashion_mnist import parse_idx
from offramp.errors import InvalidInput

CLASSES = ("a", "b", "c")


def idx(*sizes: int, content: bytes) -> bytes:
    return b"\x00\x00\x08" + bytes([len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + content


def test_an_idx_file_of_two_images_is_read_row_by_row() -> None:
    images = parse_idx(idx(2, 1, 3, content=bytes([1, 2, 3, 4, 5, 6])), "x")
    assert images.tolist() == [[[1, 2, 3]], [[4, 5, 6]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "not an IDX file of unsigned bytes"),
        (b"\x1f\x8b\x08\x00", "not an IDX file"),
        (b"\x00\x00\x08\x03\x00\x00", "ends within its header"),
        (idx(2, 2, content=b"abc"), "3 bytes of data for the shape"),
        (idx(2, 2, content=b"abcde"), "5 bytes of data for the shape"),
        (idx(2**31, 2**31, content=b"abcd"), "4 bytes of data"),
    ],
)
def test_an_idx_file_with_a_wrong_header_or_length_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        parse_idx(content, "train.gz")
    assert caught.value.field == "train.gz"


def test_files_that_are_not_fashion_mnists_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    with pytest.raises(InvalidInput, match="cannot be read"):
        fashion_mnist.load("test", tmp_path)
    path.write_bytes(b"no gzip")
    with pytest.raises(InvalidInput, match="cannot be read"):
        fashion_mnist.load("test", tmp_path)
    path.write_bytes(gzip.compress(idx(1, 1, content=b"a"))[:-3])
    with pytest.raises(InvalidInput, match="cannot be read"):
        fashion_mnist.load("test", tmp_path)
    path.write_bytes(gzip.compress(idx(1, 1, content=b"a")))
    with pytest.raises(InvalidInput, match="wrong SHA-256") as caught:
        fashion_mnist.load("test", tmp_path)
    assert caught.value.field == str(path)


def test_the_test_images_of_fashion_mnist_are_the_published_ones() -> None:
    if not fashion_mnist.DEBIAN.exists():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    images = fashion_mnist.load("test")
    assert images.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(images.labels).tolist() == [1000] * 10
    digest = hashlib.sha256(idx(10_000, 28, 28, content=images.images.tobytes())).hexdigest()
    assert digest == fashion_mnist.SHA256["t10k-images-idx3-ubyte"]


def test_a_cifar_record_is_a_label_and_three_planes() -> None:
    planes = bytes([10]) * 1024 + bytes([20]) * 1024 + bytes([30]) * 1024
    images, labels = parse_records(bytes([7]) + planes, "x")
    assert images.shape == (1, 32, 32, 3)
    assert images[0, 5, 9].tolist() == [10, 20, 30]
    assert labels.tolist() == [7]


@pytest.mark.parametrize("content", [b"", b"x" * 3072, b"x" * 3074])
def test_a_cifar_batch_with_a_part_of_a_record_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="no whole number of 3073-byte records"):
        parse_records(content, "data_batch_1.bin")


def test_a_copy_that_lacks_its_arrays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_copy("lossless", "test", tmp_path)
    np.savez(tmp_path / "cifar10_lossless_test.npz", y=np.zeros(1))
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_copy("lossless", "test", tmp_path)
    np.savez(tmp_path / "cifar10_lossless_test.npz", x=np.zeros((1, 32, 32, 3), np.uint8), y=[10])
    with pytest.raises(InvalidInput, match="outside the 10 classes"):
        load_copy("lossless", "test", tmp_path)


def test_a_pickled_copy_is_refused(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "cifar10_lossless_test.npz",
        x=np.array([{"a": 1}], dtype=object),
        y=np.zeros(1),
    )
    with pytest.raises(InvalidInput, match="allow_pickle"):
        load_copy("lossless", "test", tmp_path)


@pytest.mark.parametrize("kind", ["jpeg", "lossless"])
def test_the_cifar_copies_hold_ten_classes_of_colour_images(kind: str) -> None:
    if "OFFRAMP_DATA" not in os.environ:
        pytest.skip("OFFRAMP_DATA does not say where the CIFAR-10 copies lie")
    images = data.load(f"cifar10-{kind}", "test", Path(os.environ["OFFRAMP_DATA"]))
    assert images.image_shape == (32, 32, 3)
    assert set(images.labels) == set(range(10))
    assert 50 < images.images.mean() < 200


def test_an_unknown_data_set_and_one_without_a_folder_are_refused() -> None:
    with pytest.raises(InvalidInput, match="'mnist' is none of fashion-mnist"):
        data.load("mnist", "test")
    with pytest.raises(InvalidInput, match="say where the files"):
        data.load("cifar10", "test")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 4, 4, 1), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 3])),
        (np.zeros((2, 4, 4, 1), np.uint8), np.array([-1, 0])),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(
    images: np.ndarray, labels: np.ndarray
) -> None:
    with pytest.raises(InvalidInput):
        ImageSet(name="x", images=images, labels=labels, classes=CLASSES, sha256={})


def test_what_is_held_out_is_disjoint_the_same_again_and_another_with_another_seed() -> None:
    kept, held = hold_out(100, 0.1, seed=1)
    assert len(held) == 10
    assert sorted([*kept, *held]) == list(range(100))
    np.testing.assert_array_equal(hold_out(100, 0.1, seed=1)[1], held)
    assert hold_out(100, 0.1, seed=2)[1].tolist() != held.tolist()
    assert held[:3].tolist() == [
        5,
        6,
        8,
    ]  # on every machine, or a bundle calibrates on its own data
