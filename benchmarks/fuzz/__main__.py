"""Fuzz what comes from outside: requests, answers, payloads, bundles, stages, settings, profiles.

python -m benchmarks.fuzz [--seconds N] [--only TARGET ...] [--seed N] [--json FILE]

Needs the extra `fuzz`. New inputs and those that break something are under runs/fuzz; `python -m benchmarks.fuzz.keep`
takes the few that reach something new into the repository. Exit code 1 where something broke.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.fuzz.places import FOUND, ROOT
from benchmarks.fuzz.rows import LEAST_INPUTS, bars, markdown
from benchmarks.fuzz.target import TARGETS

NAME, COMMAND = "fuzz", "benchmarks.fuzz"
_PATIENCE_S = 300.0  # beyond its time, for what a process does before and after; an input has MOST_S of the child
_LAST_WORDS_S = 5.0
_DONE = re.compile(r"^#\d+\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)
_RAISED = re.compile(r"Uncaught Python exception: ===\n(.*)")
_ENDED = re.compile(r"ERROR: libFuzzer: (.*)")


def fuzzed(name: str, seconds: int, seed: int) -> dict[str, Any]:
    """One target for that long, in a process of its own; its row."""
    folder = FOUND / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "seen.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.fuzz.child", name, str(seconds), str(seed)]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)  # noqa: S603
        code = _ended_in(process, seconds + _PATIENCE_S)
    said = log.read_text(errors="replace")
    if not (folder / "seen.json").exists():
        raise SystemExit(f"{name} did not start:\n{said[-2000:]}")
    seen = json.loads((folder / "seen.json").read_text())
    reached, features, size = map(int, (_DONE.findall(said) or [("0", "0", "0")])[-1])
    return {
        "target": name,
        "seconds": seconds,
        "inputs": seen["inputs"],
        "reached": reached,
        "features": features,
        "corpus": size,
        "slowest_ms": seen["slowest_ms"],
        "memory_mb": seen["memory_mb"],
        "broke": broken(said) if code else "",
    }


def _ended_in(process: subprocess.Popen[bytes], seconds: float) -> int:
    """The exit code of a process; one that takes longer says where it is, writes down its input, and is ended."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(seconds)
    for how in (signal.SIGUSR2, signal.SIGABRT, signal.SIGKILL):
        process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_WORDS_S)
    return 1


def broken(said: str) -> str:
    """In a line, of what a process said that ended with an error."""
    for pattern in (_RAISED, _ENDED):
        if found := pattern.search(said):
            return found[1].strip()[:200]
    return said.strip().splitlines()[-1][:200] if said.strip() else "no word"


def measured(only: Sequence[str], seconds: int, seed: int) -> dict[str, Any]:
    """What `found` of the record is."""
    chosen = {name: share for name, (_, share) in TARGETS.items() if not only or name in only}
    a_share = seconds / sum(chosen.values())
    rows = []
    for name, share in chosen.items():
        rows.append(fuzzed(name, max(2, round(share * a_share)), seed))
        print(json.dumps(rows[-1]), file=sys.stderr)
    return {
        "seconds": sum(one["seconds"] for one in rows),
        "rows": rows,
        "bars": bars(rows, LEAST_INPUTS if seconds >= _LONG_S else 0),
    }


_LONG_S = 600  # of a run that is kept


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz, print and perhaps write; 0 where nothing broke."""
    parser = argparse.ArgumentParser(f"python -m {COMMAND}", description=__doc__)
    parser.add_argument("--seconds", type=int, default=90, help="in all; from 600 on, kept")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=[], metavar="TARGET")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args(argv)
    found = measured(args.only, args.seconds, args.seed)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    is_kept = args.seconds >= _LONG_S and not args.only
    return record.conclude(
        found,
        name=NAME if is_kept else "",
        command=record.command(COMMAND, argv),
        markdown=markdown,
        seeds=[args.seed],
        packages=("grpcio", "atheris", "protobuf", "pydantic", "pillow"),
    )


if __name__ == "__main__":
    sys.exit(main())
