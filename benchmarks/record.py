"""Results as JSON files: what was found, and the command, seeds, data and versions that made it.

    benchmarks/results/NAME.json = {command, seeds, data, versions, found}

`docs/results.md` is generated from these files alone (`python -m benchmarks.results`).
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("offramp", "torch", "lightning", "onnx", "onnxruntime", "numpy")


def versions(*more: str) -> dict[str, str]:
    """Of Python and of the packages that decide a result; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command(module: str, argv: Sequence[str] | None = None) -> str:
    """`python -m MODULE ...` as it was called, but for --data: where a machine keeps its data is no setting."""
    words = iter(sys.argv[1:] if argv is None else argv)
    kept = []
    for word in words:
        if word == "--data":
            next(words, None)
        elif not word.startswith("--data="):
            kept.append(word)
    return shlex.join(["python", "-m", module, *kept])


def write(
    name: str,
    found: Any,
    *,
    command: str,
    data: Mapping[str, str],
    seeds: Sequence[int] = (),
    packages: Sequence[str] = (),
) -> Path:
    """Write what was found as `benchmarks/results/NAME.json`.

    data: SHA-256 by file, of everything that was read; packages: whose versions matter beside the usual ones.
    """
    content = {
        "command": command,
        "seeds": list(seeds),
        "data": dict(data),
        "versions": versions(*packages),
        "found": found,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def read(name: str) -> dict[str, Any]:
    """The content of `benchmarks/results/NAME.json`."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def conclude(
    found: Mapping[str, Any],
    *,
    name: str,
    command: str,
    markdown: Callable[[dict[str, Any]], str],
    seeds: Sequence[int],
    packages: Sequence[str] = ("grpcio",),
) -> int:
    """Print what was found, keep it unless the name is empty, and the exit code: 1 where a bar of it is broken."""
    print(markdown({"command": command, "found": found}))
    if name:
        path = write(name, found, command=command, data={}, seeds=seeds, packages=packages)
        print(f"\n{path} written")
    return 1 if any(bar["holds"] is False for bar in found.get("bars", ())) else 0
