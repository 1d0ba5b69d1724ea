import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offramp import data
from offramp.data import imagenette
from offramp.errors import InvalidInput

DATA = os.environ.get("OFFRAMP_DATA")


def jpeg(level: int, *, side: int = 224, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side), level if mode == "L" else (level, level, level)).save(
        file, "JPEG"
    )
    return file.getvalue()


def archive(folder: Path, split: str, files: dict[str, bytes]) -> Path:
    path = folder / f"imagenette224_{split}.tar"
    with tarfile.open(path, "w:") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    archive(
        tmp_path,
        "train",
        {
            "train/n03888257/n03888257_1.JPEG": jpeg(10),
            "train/n01440764/ILSVRC2012_val_00000001.JPEG": jpeg(20),
            "train/n02102040/n02102040_7.JPEG": jpeg(30, mode="L"),
        },
    )
    archive(
        tmp_path,
        "test",
        {
            "val/n03000684/n03000684_1.JPEG": jpeg(40),
            "val/n03028079/ILSVRC2012_val_00000002.JPEG": jpeg(50),
        },
    )
    return tmp_path


def levels(images: data.ImageSet) -> list[int]:
    """The one grey that each image of a made archive has, read at its middle."""
    found: list[int] = images.images[:, 112, 112, 0].tolist()
    return found


def test_an_archive_is_read_in_its_order_with_the_folders_as_labels(folder: Path) -> None:
    images = data.load("imagenette", "train", folder)
    assert images.image_shape == (224, 224, 3)
    assert levels(images) == [10, 20, 30]
    assert [images.classes[k] for k in images.labels] == ["parachute", "tench", "English springer"]
    assert list(images.sha256) == ["imagenette224_train.tar"]


def test_what_a_pretrained_network_has_not_seen_is_the_test_set_of_both_archives(
    folder: Path,
) -> None:
    test = data.load("imagenette-unseen", "test", folder)
    assert levels(test) == [20, 50]
    assert [test.classes[k] for k in test.labels] == ["tench", "church"]
    assert list(test.sha256) == ["imagenette224_train.tar", "imagenette224_test.tar"]
    assert levels(data.load("imagenette-unseen", "train", folder)) == [10, 30]


@pytest.mark.parametrize(
    ("files", "field", "message"),
    [
        ({"train/n99999999/a.JPEG": jpeg(1)}, "train/n99999999/a.JPEG", "none of the folders"),
        ({"train/n03888257/a.JPEG": b"no JPEG"}, "train/n03888257/a.JPEG", "no readable JPEG"),
        ({"train/n03888257/a.JPEG": jpeg(1, side=160)}, "train/n03888257/a.JPEG", "160x160"),
        ({}, "imagenette224_train.tar", "holds none"),
    ],
)
def test_an_archive_that_holds_something_else_is_refused_by_the_files_name(
    tmp_path: Path, files: dict[str, bytes], field: str, message: str
) -> None:
    archive(tmp_path, "train", files)
    with pytest.raises(InvalidInput, match=message) as caught:
        imagenette.load("train", tmp_path)
    assert caught.value.field.endswith(field)


def test_an_archive_that_is_missing_broken_or_cut_short_is_refused_by_name(folder: Path) -> None:
    path = folder / "imagenette224_train.tar"
    whole = path.read_bytes()
    for content in (b"no tar at all" * 100, whole[:700]):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"cannot be read|no readable") as caught:
            imagenette.load("train", folder)
        assert "imagenette224_train.tar" in caught.value.field
    path.unlink()
    with pytest.raises(InvalidInput, match="cannot be read"):
        imagenette.load("train", folder)


def test_the_data_set_is_known_by_name_and_needs_a_folder() -> None:
    with pytest.raises(InvalidInput, match="say where"):
        data.load("imagenette-unseen", "test")


@pytest.mark.skipif(DATA is None, reason="OFFRAMP_DATA is not set")
def test_the_unseen_images_are_of_all_classes() -> None:
    assert DATA is not None
    test = data.load("imagenette-unseen", "test", Path(DATA))
    assert len(test) == 433
    assert np.bincount(test.labels).tolist() == [45, 42, 45, 43, 40, 44, 44, 43, 44, 43]
