"""Where the fuzzing finds and puts files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "fashion_mnist" / "bundle"
CORPUS = Path(__file__).parent / "corpus"  # a folder for each target, whose files are inputs
FOUND = ROOT / "runs" / "fuzz"  # what a run finds: new inputs, and those that break something
MEMORY = next((path for path in ("/dev/shm",) if Path(path).is_dir()), None)  # noqa: S108
