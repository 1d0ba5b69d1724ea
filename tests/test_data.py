import gzip
import hashlib
import io
import os
import re
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from offramp import data
from offramp.cli import main
from offramp.data import ImageSet, cifar10, fashion_mnist, hold_out
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
    broken = bytearray(gzip.compress(idx(1, 1, content=bytes(range(256)))))
    broken[20:60] = bytes([0xFF]) * 40  # within the compressed body
    path.write_bytes(broken)
    with pytest.raises(InvalidInput, match="cannot be read"):
        fashion_mnist.load("test", tmp_path)
    path.write_bytes(gzip.compress(idx(1, 1, content=b"a")))
    with pytest.raises(InvalidInput, match="wrong SHA-256") as caught:
        fashion_mnist.load("test", tmp_path)
    assert caught.value.field == str(path)


EXAMPLE = Path(__file__).parent.parent / "examples/fashion_mnist"


def test_the_committed_test_images_of_fashion_mnist_are_the_published_ones() -> None:
    images = fashion_mnist.load("test", EXAMPLE)
    assert images.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(images.labels).tolist() == [1000] * 10
    digest = hashlib.sha256(idx(10_000, 28, 28, content=images.images.tobytes())).hexdigest()
    assert digest == fashion_mnist.SHA256["t10k-images-idx3-ubyte"]


# --- the download -------------------------------------------------------------------------------

CONTENT = {"images": b"some pixels", "labels": b"some labels"}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


@pytest.fixture
def source(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A web server's address, the folder of its .gz files, and the paths asked of it."""
    served = tmp_path / "served"
    served.mkdir()
    for name, content in CONTENT.items():
        (served / f"{name}.gz").write_bytes(gzip.compress(content))
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, _format: str, *_arguments: object) -> None:
            asked.append(self.path)

    handler = partial(Handler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", served, asked
        server.shutdown()
        thread.join()


def test_a_download_fetches_what_is_asked_for_and_lacking(
    source: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    address, _, asked = source
    folder = tmp_path / "new" / "folder"
    fashion_mnist.download(folder, {"images": DIGESTS["images"]}, address)
    assert [path.name for path in folder.iterdir()] == ["images.gz"]
    fashion_mnist.download(folder, DIGESTS, address)
    assert sorted(path.name for path in folder.iterdir()) == ["images.gz", "labels.gz"]
    assert gzip.decompress((folder / "labels.gz").read_bytes()) == b"some labels"
    assert set(asked) == {"/images.gz", "/labels.gz"}
    asked.clear()
    fashion_mnist.download(folder, DIGESTS, address)
    assert asked == []


@pytest.mark.parametrize("wrong", [gzip.compress(b"other"), b"no gzip", gzip.compress(b"x")[:-4]])
def test_a_download_of_something_else_leaves_no_file(
    source: tuple[str, Path, list[str]], tmp_path: Path, wrong: bytes
) -> None:
    address, served, _ = source
    (served / "images.gz").write_bytes(wrong)
    with pytest.raises(InvalidInput) as caught:
        fashion_mnist.download(tmp_path / "data", DIGESTS, address)
    assert caught.value.field == f"{address}/images.gz"
    assert list((tmp_path / "data").iterdir()) == []


def test_a_download_that_finds_no_file_or_no_server_is_an_error_of_ours(
    source: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    address, served, _ = source
    (served / "images.gz").unlink()
    with pytest.raises(InvalidInput, match=r"cannot be fetched.*404.*lie, with --data"):
        fashion_mnist.download(tmp_path / "data", DIGESTS, address)
    with socket.socket() as bound:  # a port on which nobody listens
        bound.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(InvalidInput, match="cannot be fetched"):
            fashion_mnist.download(tmp_path / "data", DIGESTS, nobody)


# --- CIFAR-10 -----------------------------------------------------------------------------------


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


def cifar_archive(folder: Path, members: dict[str, bytes]) -> str:
    """Write the official archive with other content; its MD5."""
    path = folder / cifar10.ARCHIVE
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def record(label: int) -> bytes:
    return bytes([label]) + bytes([label]) * 3072


def test_the_official_archive_of_cifar10_is_read_batch_after_batch(tmp_path: Path) -> None:
    batches = {f"data_batch_{k}.bin": record(k) + record(k + 1) for k in range(1, 6)}
    md5 = cifar_archive(tmp_path, {"readme.html": b"", "test_batch.bin": record(9), **batches})
    train = cifar10.load("train", tmp_path, md5=md5)
    assert train.labels.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert train.images.shape == (10, 32, 32, 3)
    assert train.images[:, 0, 0, 0].tolist() == train.labels.tolist()
    assert cifar10.load("test", tmp_path, md5=md5).labels.tolist() == [9]
    with pytest.raises(InvalidInput, match="wrong MD5"):
        cifar10.load("test", tmp_path)


def test_an_archive_of_cifar10_that_is_broken_or_lacks_a_batch_is_refused(tmp_path: Path) -> None:
    md5 = cifar_archive(tmp_path, {"test_batch.bin": record(9)[:-1]})
    with pytest.raises(InvalidInput, match=r"lacks cifar-10-batches-bin/data_batch_1.bin"):
        cifar10.load("train", tmp_path, md5=md5)
    with pytest.raises(InvalidInput, match=r"test_batch.bin: 3072 bytes"):
        cifar10.load("test", tmp_path, md5=md5)
    path = tmp_path / cifar10.ARCHIVE
    for wrong in (path.read_bytes()[:-30], b"no archive"):
        path.write_bytes(wrong)
        md5 = hashlib.md5(wrong, usedforsecurity=False).hexdigest()
        with pytest.raises(InvalidInput, match="cannot be read"):
            cifar10.load("test", tmp_path, md5=md5)


def test_a_truncated_copy_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar10_lossless_test.npz"
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    np.savez_compressed(path, x=images, y=np.zeros(9, np.uint8))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[100:140] = bytes([0xFF]) * 40
    for wrong in (whole[: len(whole) // 2], whole[:-1], b"", bytes(flipped)):
        path.write_bytes(wrong)
        with pytest.raises(InvalidInput, match="cannot be read"):
            load_copy("lossless", "test", tmp_path)


def test_a_copy_that_lacks_its_arrays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_copy("lossless", "test", tmp_path)
    np.savez(tmp_path / "cifar10_lossless_test.npz", y=np.zeros(1))
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_copy("lossless", "test", tmp_path)
    np.savez(tmp_path / "cifar10_lossless_test.npz", x=np.zeros((1, 32, 32, 3), np.uint8), y=[10])
    with pytest.raises(InvalidInput, match="outside the 10 classes"):
        load_copy("lossless", "test", tmp_path)


def test_a_copy_of_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cifar10_lossless_test.npz"
    np.savez(path, x=np.zeros((1, 32, 32, 3), np.uint8), y=[1])
    monkeypatch.setitem(cifar10.SHA256, path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(load_copy("lossless", "test", tmp_path)) == 1
    np.savez(path, x=np.zeros((1, 32, 32, 3), np.uint8), y=[2])
    with pytest.raises(InvalidInput, match="wrong SHA-256") as caught:
        load_copy("lossless", "test", tmp_path)
    assert caught.value.field == str(path)


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
    with pytest.raises(InvalidInput, match="say where the files of cifar10 lie, with --data"):
        data.load("cifar10", "test")


@pytest.mark.parametrize("verb", ["place", "train", "export", "calibrate", "quantize", "evaluate"])
def test_what_says_where_files_lie_is_an_option_that_the_verb_has(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        data.load("cifar10", "test")
    of_option = dict(re.findall(r"(--\w+) \(of ([\w, ]+)\)", caught.value.message))
    (option,) = (option for option, verbs in of_option.items() if verb in verbs.split(", "))
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert f" {option} FOLDER where the data set's files lie" in said


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
