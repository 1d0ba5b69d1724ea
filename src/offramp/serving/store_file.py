"""The file in which a tier keeps what it answered degraded: SQLite, for one thread of one process.

    put() -> waits --finish()--> result --release(), expire()--> gone
             |   ^
             +---+ put_off(): asked again, in vain

A write-ahead log with synchronous=FULL: what put() returned is on the disk, for a killed process and for a power cut
(with NORMAL a power cut may take the latest commits; SQLite, PRAGMA synchronous). Ages are counted by a clock of the
store's own, which runs while the store is open: a device may not know the time of day when it starts.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from offramp.errors import InvalidSettings
from offramp.rpc import SampleId
from offramp.rpc.stored import StoredRecord

Placed = Literal["stored", "there", "full"]
NAME = "store.sqlite"
_VERSION = 1
_APPLICATION = 0x0FF2A3B0  # of this program, in the file's header
_ROW_BYTES = 512  # of a row and its indices, beside what it holds
_SCHEMA = """
CREATE TABLE samples (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    request BLOB NOT NULL,
    payload BLOB NOT NULL,
    degraded BLOB NOT NULL,
    size INTEGER NOT NULL,
    stored_at REAL NOT NULL,
    aged_from REAL NOT NULL,
    due REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    cursor INTEGER UNIQUE,
    failed INTEGER NOT NULL DEFAULT 0,
    full BLOB NOT NULL DEFAULT x'',
    finished_at REAL NOT NULL DEFAULT 0
);
CREATE INDEX waiting_due ON samples (due, number) WHERE cursor IS NULL;
CREATE INDEX waiting_age ON samples (aged_from) WHERE cursor IS NULL;
CREATE INDEX result_age ON samples (aged_from) WHERE cursor IS NOT NULL;
CREATE TABLE state (cursor INTEGER NOT NULL, seconds REAL NOT NULL);
INSERT INTO state VALUES (0, 0.0);
"""
_RECORD = "number, coalesce(cursor, 0), stored_at, finished_at, tries, request"
_OLDEST = "SELECT min(aged_from) FROM samples INDEXED BY waiting_age WHERE cursor IS NULL"


class Entry(NamedTuple):
    """What is put; first_s: when it may first be asked again, from now."""

    id: SampleId
    request: bytes
    payload: bytes
    degraded: bytes
    first_s: float

    @property
    def size(self) -> int:
        """Bytes that it counts for: its full answer will be about as long as the degraded one."""
        return _ROW_BYTES + len(self.request) + len(self.payload) + 2 * len(self.degraded)


class Totals(NamedTuple):
    """Samples that wait, have their full answer, will have none; bytes of all; since when the oldest waits."""

    waiting: int
    answered: int
    failed: int
    size_bytes: int
    oldest: float | None


class StoreFile:
    """Opened in `folder`, which is made where it is missing; for the thread that made it.

    most_bytes: of all inputs and answers; what would be more is not put. Raises InvalidSettings where it is of no use.
    """

    def __init__(
        self, folder: Path, most_bytes: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path, self._most_bytes, self._clock = folder / NAME, most_bytes, clock
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Before SQLite makes it, readable for all; the log takes over its mode.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        except (OSError, sqlite3.Error) as exc:
            text = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
            raise InvalidSettings("store.folder", f"{self.path}: {text}") from exc
        try:
            self._open()
        except sqlite3.Error as exc:
            self._db.close()
            raise self._unusable(_described(exc)) from exc
        except InvalidSettings:
            self._db.close()
            raise

    def _unusable(self, why: str) -> InvalidSettings:
        return InvalidSettings("store.folder", f"{self.path}: {why}")

    def _open(self) -> None:
        # Exclusive: two processes would ask everything twice. It also spares the log its shared memory.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        if (said := self._one("PRAGMA quick_check(1)")[0]) != "ok":
            raise self._unusable(f"is damaged: {' '.join(said.split())}")
        if not self._one("SELECT count(*) FROM sqlite_master")[0]:
            self._make()
        application, version = (
            self._one(f"PRAGMA {name}")[0] for name in ("application_id", "user_version")
        )
        if application != _APPLICATION:
            raise self._unusable("is a database, but no store of offramp")
        if version != _VERSION:
            raise self._unusable(f"has version {version}; this release reads {_VERSION}")
        self._cursor, seconds = self._one("SELECT cursor, seconds FROM state")
        self._began = self._clock() - seconds
        self.totals = self._counted()

    def _make(self) -> None:
        header = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_VERSION};"
        self._db.executescript(f"BEGIN;{_SCHEMA}{header}COMMIT;")

    def _one(self, query: str) -> Any:
        return self._db.execute(query).fetchone()

    def _counted(self) -> Totals:
        waiting, answered, failed, size = self._one(
            "SELECT count(*) - count(cursor), count(cursor) - total(failed), total(failed), total(size) FROM samples"
        )
        return Totals(waiting, int(answered), int(failed), int(size), self._one(_OLDEST)[0])

    @property
    def now(self) -> float:
        """Seconds that the store has been open, in all."""
        return float(self._clock() - self._began)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; the totals are up to the caller."""
        if self._db.in_transaction:  # one that could not even be given up
            self._db.execute("ROLLBACK")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("UPDATE state SET seconds = ?", (self.now,))
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            raise

    def _total(self, **more: int) -> None:
        """Change the totals after a commit, and look who is the oldest now."""
        changed = {name: getattr(self.totals, name) + number for name, number in more.items()}
        self.totals = self.totals._replace(**changed)
        with suppress(sqlite3.Error):  # what was committed is committed
            self.totals = self.totals._replace(oldest=self._one(_OLDEST)[0])

    # --- what waits ---------------------------------------------------------------------------------

    def put(self, entries: Sequence[Entry]) -> list[Placed]:
        """What became of each, in one commit: what there is no room for is left out, and what fits beside it is not.

        One whose id is there already changes nothing: "there". Raises sqlite3.Error, and then none is stored.
        """
        room = self._most_bytes - self.totals.size_bytes
        if all(entry.size > room for entry in entries):
            return ["full"] * len(entries)
        outcomes: list[Placed] = []
        size, now = 0, self.now
        with self._transaction():
            for entry in entries:
                if size + entry.size > room:
                    outcomes.append("full")
                    continue
                inserted = self._db.execute(
                    "INSERT INTO samples (id, request, payload, degraded, size, stored_at, aged_from, due) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                    (*_columns(entry), time.time(), now, now + entry.first_s),
                ).rowcount
                size += inserted * entry.size
                outcomes.append("stored" if inserted else "there")
        self._total(waiting=outcomes.count("stored"), size_bytes=size)
        return outcomes

    def discard(self, ids: Collection[SampleId]) -> None:
        """Forget those of these that wait: their callers were not told that they are kept."""
        self._forget("id = ?", [_key(sample_id) for sample_id in ids])

    def forget(self, number: int) -> None:
        """The same for one that makes no sense."""
        self._forget("number = ?", [number])

    def _forget(self, which: str, values: Sequence[object]) -> None:
        sizes: list[int] = []
        with self._transaction():
            for value in values:
                query = f"DELETE FROM samples WHERE {which} AND cursor IS NULL RETURNING size"  # noqa: S608
                sizes += [row[0] for row in self._db.execute(query, (value,))]
        self._total(waiting=-len(sizes), size_bytes=-sum(sizes))

    def next_due(self, but: Collection[int]) -> StoredRecord | None:
        """The one that may be asked again for the longest; but: the numbers of those that are being asked."""
        found = self._db.execute(
            f"SELECT {_RECORD}, payload, degraded, full FROM samples INDEXED BY waiting_due "  # noqa: S608
            "WHERE cursor IS NULL AND due <= ? ORDER BY due, number LIMIT ?",
            (self.now, len(but) + 1),
        )
        return next((r for r in map(StoredRecord._make, found) if r.number not in but), None)

    def put_off(self, number: int, seconds: float) -> None:
        """It was asked in vain, and may be asked again so much later."""
        with self._transaction():
            self._db.execute(
                "UPDATE samples SET tries = tries + 1, due = ? WHERE number = ? AND cursor IS NULL",
                (self.now + seconds, number),
            )

    def finish(self, number: int, full: bytes, *, failed: bool = False) -> bool:
        """It has its full answer, or the status that there will be none. False where it had one before."""
        with self._transaction():
            done = self._finish(number, full, failed)
        if done:
            self._total(waiting=-1, **{"failed" if failed else "answered": 1})
        return done

    def _finish(self, number: int, full: bytes, failed: bool) -> bool:
        updated = self._db.execute(
            "UPDATE samples SET cursor = ?, full = ?, failed = ?, finished_at = ?, aged_from = ? "
            "WHERE number = ? AND cursor IS NULL",
            (self._cursor + 1, full, failed, time.time(), self.now, number),
        ).rowcount
        if updated:
            self._cursor += 1
            self._db.execute("UPDATE state SET cursor = ?", (self._cursor,))
        return updated == 1

    # --- results ------------------------------------------------------------------------------------

    def results(self, after: int, most: int, *, inputs: bool) -> list[StoredRecord]:
        """The next results behind a cursor."""
        return self._page("cursor > ? ORDER BY cursor", after, most, inputs)

    def waiting(self, after: int, most: int, *, inputs: bool) -> list[StoredRecord]:
        """The next that wait, behind a number."""
        return self._page("number > ? AND cursor IS NULL ORDER BY number", after, most, inputs)

    def _page(self, which: str, after: int, most: int, inputs: bool) -> list[StoredRecord]:
        payload = "payload" if inputs else "x''"
        query = f"SELECT {_RECORD}, {payload}, degraded, full FROM samples WHERE {which} LIMIT ?"  # noqa: S608
        return [StoredRecord._make(row) for row in self._db.execute(query, (after, most))]

    def release(self, upto: int) -> int:
        """Drop the results up to a cursor; how many that were."""
        return self._drop("cursor <= ?", upto)

    def _drop(self, which: str, value: float) -> int:
        with self._transaction():
            rows = self._db.execute(
                f"DELETE FROM samples WHERE cursor IS NOT NULL AND {which} RETURNING size, failed",  # noqa: S608
                (value,),
            ).fetchall()
        failed = sum(row[1] for row in rows)
        self._total(
            answered=failed - len(rows), failed=-failed, size_bytes=-sum(row[0] for row in rows)
        )
        return len(rows)

    def expire(self, keep_s: float, status: bytes) -> tuple[int, int]:
        """Drop results, and end what waits with that status, that are older; how many of each."""
        before = self.now - keep_s
        dropped = self._drop("aged_from <= ?", before)
        found = self._db.execute(
            "SELECT number FROM samples INDEXED BY waiting_age WHERE cursor IS NULL AND aged_from <= ?",
            (before,),
        ).fetchall()
        if found:
            with self._transaction():
                for (number,) in found:
                    self._finish(number, status, failed=True)
            self._total(waiting=-len(found), failed=len(found))
        return dropped, len(found)

    def close(self) -> None:
        """Let the file go; what the log holds is moved into it."""
        with suppress(sqlite3.Error), self._transaction():
            pass  # remember the clock
        self._db.close()


def _key(sample_id: SampleId) -> bytes:
    origin, sequence = sample_id
    return struct.pack(">QQ", origin.run, sequence) + origin.device.encode()


def _columns(entry: Entry) -> tuple[object, ...]:
    return _key(entry.id), entry.request, entry.payload, entry.degraded, entry.size


def _described(error: sqlite3.Error) -> str:
    if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "is in use by another process"
    return f"cannot be used: {error}"
