"""The corpus in the repository: of all inputs of the last runs, few and short ones that reach what all of them reach.

`python -m benchmarks.fuzz.keep` replays seeds, corpus and runs/fuzz/TARGET/corpus, notes which lines of offramp follow
which, and takes the input that adds most a byte until nothing is added. Inputs called `found-...`, which broke
something once, stay in any case. It needs no Atheris.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.fuzz.places import CORPUS, FOUND
from benchmarks.fuzz.target import TARGETS, corpus, target

_MOST = 40  # inputs of a target
_OURS = str(Path("src") / "offramp")
Arcs = set[tuple[str, int, int]]  # a file, a line, and the line before it in the same call


def arcs_of(check: Callable[[bytes], None], data: bytes) -> Arcs:
    """What an input reaches of offramp, on this thread."""
    found: Arcs = set()

    def began(frame: FrameType, _event: str, _argument: Any) -> Any:
        file = frame.f_code.co_filename
        if _OURS not in file:
            return None
        last = [0]

        def stepped(frame: FrameType, _event: str, _argument: Any) -> Any:
            found.add((file, last[0], frame.f_lineno))
            last[0] = frame.f_lineno
            return stepped

        return stepped

    sys.settrace(began)
    try:
        check(data)
    finally:
        sys.settrace(None)
    return found


def few(reached: dict[bytes, Arcs], known: Arcs) -> list[bytes]:
    """Inputs that reach, with what is known, all that those given reach."""
    chosen: list[bytes] = []
    known, left = set(known), dict(reached)
    while left and len(chosen) < _MOST:
        best = max(left, key=lambda data: (len(left[data] - known) / (len(data) + 64), data))
        if not left[best] - known:
            break
        known |= left.pop(best)
        chosen.append(best)
    return chosen


def keep(name: str) -> tuple[int, int]:
    """How many inputs of a target are kept, and their bytes."""
    one, old = target(name), corpus(name)
    always = {file.read_bytes(): file for file in old if file.name.startswith("found-")}
    found = FOUND / name / "corpus"
    others = [*(f for f in old if f not in always.values()), *(sorted(found.glob("*")))]
    with one.opened() as check:
        check(b"")  # whatever is done once is done
        known: Arcs = set()
        for data in (*one.seeds(), *always):
            known |= arcs_of(check, data)
        reached = {data: arcs_of(check, data) for data in {file.read_bytes() for file in others}}
    chosen = few(reached, known)
    for file in old:
        if file not in always.values():
            file.unlink()
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    for data in chosen:
        (CORPUS / name / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    kept = corpus(name)
    return len(kept), sum(file.stat().st_size for file in kept)


if __name__ == "__main__":
    for target_name in sys.argv[1:] or TARGETS:
        print(target_name, *keep(target_name))
