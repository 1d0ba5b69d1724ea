"""One target under Atheris, which is libFuzzer for Python: `python -m benchmarks.fuzz.child TARGET SECONDS SEED`.

Reached lines are counted in offramp and in the parsers that are Python themselves. What it has seen so far is in
`seen.json`, for libFuzzer ends the process as it likes: inputs, the slowest of them, memory after the first 1,000 and
now.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import atheris

from benchmarks.fuzz.mutating import of_json, of_protobuf
from benchmarks.fuzz.places import CORPUS, FOUND

_INSTRUMENTED = ("offramp", "tomllib", "PIL")
_SETTLED = 1_000  # inputs after which caches are full and memory is what it is
_FIRST = (1, 100, _SETTLED)  # for a run that never comes so far
_EVERY_S = 1.0
MOST_S = 10  # of one input, before it counts as hung
MOST_MB = 1024


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


class _Watch:
    """Counts what passes through a check, and writes it down every second."""

    def __init__(self, check: Callable[[bytes], None], file: Path) -> None:
        self._check, self._file = check, file
        self._inputs, self._slowest_s, self._slowest = 0, 0.0, b""
        self._first_mb, self._written = 0.0, time.monotonic()

    def __call__(self, data: bytes) -> None:
        began = time.monotonic()
        self._check(data)
        ended = time.monotonic()
        self._inputs += 1
        if ended - began > self._slowest_s:
            self._slowest_s, self._slowest = ended - began, data
        if self._inputs in _FIRST:
            self._first_mb = _resident_mb()
        if ended > self._written + _EVERY_S or self._inputs == _SETTLED:
            self._written = ended
            self.write()

    def write(self) -> None:
        """The file, whole at any time."""
        seen = {
            "inputs": self._inputs,
            "slowest_ms": 1e3 * self._slowest_s,
            "slowest": self._slowest.hex(),
            "memory_mb": [self._first_mb, _resident_mb()],
        }
        draft = self._file.with_suffix(".new")
        draft.write_text(json.dumps(seen))
        draft.replace(self._file)


def _dictionary(words: tuple[str, ...], file: Path) -> list[str]:
    if not words:
        return []
    escaped = (
        word.replace("\\x", "\0").replace("\\", "\\\\").replace('"', '\\"') for word in words
    )
    file.write_text("".join(f'"{word}"\n'.replace("\0", "\\x") for word in escaped))
    return [f"-dict={file}"]


def main() -> None:
    """Fuzz until the time is over or something breaks; libFuzzer ends the process."""
    name, seconds, seed = sys.argv[1:]
    faulthandler.register(signal.SIGUSR2)  # says where it is, should it hang
    with atheris.instrument_imports(include=list(_INSTRUMENTED)):
        from PIL import JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401 (or they come later, as they are)

        from benchmarks.fuzz.target import target

        one = target(name)
    folder = FOUND / name
    new, real = folder / "corpus", folder / "seeds"
    for path in (new, real):
        path.mkdir(parents=True, exist_ok=True)
    for k, data in enumerate(one.seeds()):
        (real / f"{k:03}").write_bytes(data)
    known = [str(path) for path in (CORPUS / name, real) if path.is_dir()]
    options = [
        *(f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={one.MOST_BYTES}"),
        *(f"-timeout={MOST_S}", f"-rss_limit_mb={MOST_MB}", f"-artifact_prefix={folder}/broken-"),
        *_dictionary(one.DICTIONARY, folder / "dictionary"),
    ]
    with ExitStack() as stack:
        watch = _Watch(stack.enter_context(one.opened()), folder / "seen.json")
        more: dict[str, Any] = {}
        if one.MESSAGE is not None:
            more["custom_mutator"] = _mutator(one)
        atheris.Setup([sys.argv[0], *options, str(new), *known], watch, **more)
        atheris.Fuzz()


def _mutator(one: Any) -> Callable[[bytes, int, int], bytes]:
    def as_bytes(data: bytes) -> bytes:
        return bytes(atheris.Mutate(data, max(len(data) + 64, 64)))

    if one.MESSAGE == "json":
        return of_json(as_bytes)
    return of_protobuf(one.MESSAGE, as_bytes, one.BETWEEN)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
