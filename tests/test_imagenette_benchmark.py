from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.imagenette.curve import Point, bytes_at, frontier
from benchmarks.imagenette.protocol import PROTOCOL, read_protocol
from benchmarks.imagenette.sending import Sending, send, sendings

from offramp.errors import InvalidSettings

pytestmark = pytest.mark.train


def test_equal_accuracy_is_read_between_the_points_that_no_other_beats() -> None:
    points = [Point(400, 0.9), Point(100, 0.5), Point(300, 0.4), Point(1600, 0.9)]
    assert frontier(points) == [Point(100, 0.5), Point(400, 0.9)]
    assert bytes_at(points, 0.7) == pytest.approx(200)
    assert bytes_at(points, 0.9) == pytest.approx(400)
    assert bytes_at(points, 0.3) == 100
    assert bytes_at(points, 0.91) is None


def test_a_smaller_image_comes_back_at_full_size_and_a_bare_jpeg_is_its_tables_shorter() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    sent = send(images, Sending("jpeg", 16, 50))
    assert sent.images.shape == (2, 32, 32, 3)
    # Two quantisation and four Huffman tables of T.81's annex K, with their markers.
    tables = 2 * 69 + 2 * (33 + 183)
    assert (sent.message_bytes - sent.without_tables).tolist() == pytest.approx([tables] * 2, abs=5)


def test_every_setting_of_the_protocol_is_sent_once() -> None:
    images = read_protocol().images
    ways = list(sendings(images, 224))
    small = len(images.small_sides) * len(images.small_qualities)
    assert len({way.name for way in ways}) == len(ways) == 2 * (len(images.qualities) + small)


def test_a_protocol_with_an_unknown_key_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "protocol.toml"
    path.write_text("seeds = 1\n" + PROTOCOL.read_text())
    with pytest.raises(InvalidSettings, match="seeds"):
        read_protocol(path)
