"""The file of a store: nothing twice, nothing lost, nothing over its bound, and one line where it is of no use."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from offramp.errors import InvalidSettings
from offramp.rpc import Origin, SampleId
from offramp.serving.store_file import NAME, Entry, StoreFile, Totals

ROOM = 2**20


class Clock:
    """A time that is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path, clock: Clock) -> Iterator[StoreFile]:
    opened = StoreFile(tmp_path, ROOM, clock=clock)
    yield opened
    opened.close()


def entry(sequence: int, size: int = 10, *, first_s: float = 0.0) -> Entry:
    sample_id = SampleId(Origin("camera", 2**64 - 1), sequence)
    return Entry(sample_id, b"request", bytes(size), b"degraded", first_s)


def waiting(file: StoreFile) -> list[int]:
    return [record.number for record in file.waiting(0, 100, inputs=False)]


def test_a_new_folder_is_for_nobody_else(tmp_path: Path) -> None:
    StoreFile(tmp_path / "a" / "b", ROOM).close()
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    file = StoreFile(tmp_path / "a" / "b", ROOM)
    file.put([entry(1)])
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "a" / "b").iterdir()}
    file.close()
    assert modes == {NAME: 0o600, f"{NAME}-wal": 0o600}


def test_an_id_that_comes_again_changes_nothing(file: StoreFile) -> None:
    assert file.put([entry(1), entry(1, 500), entry(2)]) == ["stored", "there", "stored"]
    assert file.put([entry(1)]) == ["there"]
    assert file.totals.waiting == 2
    first, _ = file.waiting(0, 100, inputs=True)
    assert first.payload == bytes(10)
    file.finish(first.number, b"full")
    assert file.put([entry(1)]) == ["there"]
    assert (file.totals.waiting, file.totals.answered) == (1, 1)


def test_the_first_full_answer_is_the_only_one(file: StoreFile) -> None:
    file.put([entry(1)])
    (number,) = waiting(file)
    assert file.finish(number, b"first") is True
    assert file.finish(number, b"second") is False
    assert file.finish(number, b"third", failed=True) is False
    (result,) = file.results(0, 10, inputs=True)
    assert (result.cursor, result.full, result.payload) == (1, b"first", bytes(10))


def test_what_is_put_off_is_due_later_and_the_longest_due_comes_first(
    file: StoreFile, clock: Clock
) -> None:
    file.put([entry(1), entry(2), entry(3, first_s=5.0)])
    one, two, three = waiting(file)
    assert (first := file.next_due(())) is not None
    assert first.number == one
    assert (other := file.next_due({one})) is not None
    assert other.number == two
    assert file.next_due({one, two}) is None
    file.put_off(one, 10.0)
    clock.now += 5.0
    order = []
    while (due := file.next_due(order)) is not None:
        order.append(due.number)
    assert order == [two, three]
    clock.now += 5.0
    assert (again := file.next_due(order)) is not None
    assert (again.number, again.tries) == (one, 1)


def test_what_would_be_over_the_bound_is_refused_and_what_is_there_stays(tmp_path: Path) -> None:
    size = entry(1, 1000).size
    file = StoreFile(tmp_path, 3 * size)
    assert file.put([entry(k, 1000) for k in range(5)]) == ["stored"] * 3 + ["full"] * 2
    assert file.put([entry(7, 1000)]) == ["full"]
    assert file.totals.size_bytes == 3 * size
    for number in waiting(file)[:2]:
        file.finish(number, b"full")
    assert file.put([entry(8, 1000)]) == ["full"]  # results take room until they are released
    assert file.release(1) == 1
    assert file.put([entry(8, 1000)]) == ["stored"]
    file.close()


def test_one_that_is_too_large_leaves_the_room_to_those_after_it(tmp_path: Path) -> None:
    size = entry(1, 1000).size
    file = StoreFile(tmp_path, 3 * size)
    together = [entry(1, 1000), entry(2, 10 * size), entry(3, 1000), entry(3, 1000), entry(4, 1000)]
    assert file.put(together) == ["stored", "full", "stored", "there", "stored"]
    assert (file.totals.waiting, file.totals.size_bytes) == (3, 3 * size)
    file.close()


def test_the_file_is_little_larger_than_its_bound(tmp_path: Path) -> None:
    file = StoreFile(tmp_path, ROOM)
    for round_ in range(4):
        ids = range(round_ * 2000, (round_ + 1) * 2000)
        outcomes = file.put([entry(k, 300) for k in ids])
        assert set(outcomes) == {"stored", "full"}
        for number in waiting(file):
            file.finish(number, b"degraded")
        file.release(2**62)
    file.close()
    assert (tmp_path / NAME).stat().st_size < 1.25 * ROOM


def test_cursors_grow_over_releases_and_restarts(tmp_path: Path) -> None:
    seen = []
    for round_ in range(3):
        file = StoreFile(tmp_path, ROOM)
        file.put([entry(2 * round_), entry(2 * round_ + 1)])
        for number in waiting(file):
            file.finish(number, b"full")
        seen += [record.cursor for record in file.results(0, 10, inputs=False)]
        assert file.release(2**62) == 2
        assert file.totals == Totals(0, 0, 0, 0, None)
        file.close()
    assert seen == [1, 2, 3, 4, 5, 6]


def test_totals_are_the_same_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    file = StoreFile(tmp_path, ROOM, clock=clock)
    file.put([entry(k) for k in range(5)])
    first, second, third, *_ = waiting(file)
    file.finish(first, b"full")
    file.finish(second, b"status", failed=True)
    file.discard([entry(2).id, entry(0).id])  # the latter has its answer already
    totals = file.totals
    assert (totals.waiting, totals.answered, totals.failed) == (2, 1, 1)
    assert third not in waiting(file)
    file.close()
    again = StoreFile(tmp_path, ROOM, clock=clock)
    assert again.totals == totals
    again.close()


def test_ages_are_counted_while_the_store_is_open_whatever_the_time_of_day(
    tmp_path: Path, clock: Clock
) -> None:
    file = StoreFile(tmp_path, ROOM, clock=clock)
    file.put([entry(1), entry(2)])
    file.finish(waiting(file)[0], b"full")
    clock.now += 60.0
    file.close()
    clock.now = 5.0  # another boot
    file = StoreFile(tmp_path, ROOM, clock=clock)
    assert file.expire(70.0, b"too old") == (0, 0)
    clock.now += 10.0
    assert file.expire(70.0, b"too old") == (1, 1)
    assert [r.full for r in file.results(0, 10, inputs=False)] == [b"too old"]
    assert (file.totals.waiting, file.totals.answered, file.totals.failed) == (0, 0, 1)
    clock.now += 70.0
    assert file.expire(70.0, b"too old") == (1, 0)
    assert file.totals == Totals(0, 0, 0, 0, None)
    file.close()


def test_what_was_put_is_there_after_the_process_was_killed(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from offramp.rpc import Origin, SampleId\n"
        "from offramp.serving.store_file import Entry, StoreFile\n"
        f"file = StoreFile(Path({str(tmp_path)!r}), {ROOM})\n"
        "file.put([Entry(SampleId(Origin('a', 1), k), b'r', b'p', b'd', 0.0) for k in range(3)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    file = StoreFile(tmp_path, ROOM)
    assert file.totals.waiting == 3
    file.close()


# --- of no use ----------------------------------------------------------------------------------


def refused(folder: Path) -> str:
    """What is said of a folder, after the names of setting and file."""
    with pytest.raises(InvalidSettings) as caught:
        StoreFile(folder, ROOM)
    before = f"store.folder: {folder / NAME}: "
    text = str(caught.value)
    assert text.startswith(before)
    assert "\n" not in text
    return text.removeprefix(before)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no database at all, but long enough to be taken for one" * 20)
    assert refused(tmp_path) == "cannot be used: file is not a database"


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_a_damaged_file_is_refused(tmp_path: Path, at: float) -> None:
    file = StoreFile(tmp_path, ROOM)
    file.put([entry(k, 300) for k in range(500)])
    file.close()
    content = bytearray((tmp_path / NAME).read_bytes())
    place = int(len(content) * at) // 4096 * 4096
    content[place : place + 4096] = os.urandom(4096)
    (tmp_path / NAME).write_bytes(content)
    assert refused(tmp_path).startswith(("is damaged: ", "cannot be used: "))


def test_another_programs_database_and_another_version_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / NAME) as other:
        other.execute("CREATE TABLE photos (name TEXT)")
    other.close()
    assert refused(tmp_path) == "is a database, but no store of offramp"
    (tmp_path / NAME).unlink()
    StoreFile(tmp_path, ROOM).close()
    newer = sqlite3.connect(tmp_path / NAME)
    newer.execute("PRAGMA user_version = 7")
    newer.close()
    assert refused(tmp_path) == "has version 7; this release reads 1"


def test_two_processes_cannot_have_it_at_once(file: StoreFile, tmp_path: Path) -> None:
    assert file.path.exists()
    assert refused(tmp_path) == "is in use by another process"


def test_a_folder_that_cannot_be_made_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refused(tmp_path / "file") == "File exists"
    (tmp_path / "taken" / NAME).mkdir(parents=True)
    assert refused(tmp_path / "taken") == "Is a directory"
