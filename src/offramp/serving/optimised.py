"""Optimised graphs, kept from one start of a tier to the next.

    stage's bytes -> FOLDER/KEY.graph there and sound? -> opened as it is
                        | no
                     onnxruntime optimises it -> FOLDER/KEY.graph, in place at once

A key is of the stage's own hash and of all that decides the result: onnxruntime's version, the level
and the processor's features, for the layouts of weights are the processor's. So tiers may share a
folder, whatever runs them; a file that is torn or flipped is made again. Who may write the folder
decides what a tier computes, as with the bundle itself.
"""

from __future__ import annotations

import hashlib
import platform
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime as ort

from offramp.errors import InvalidSettings
from offramp.serving.settings import Inference

_ERRORS_ONLY = 3  # onnxruntime warns of each such graph that it is this machine's
_DIGEST = hashlib.sha256().digest_size


@cache
def _processor() -> str:
    """What of the processor may decide a graph: its features where the system tells them."""
    with suppress(OSError):
        found = re.search(
            r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
        if found:
            return f"{platform.machine()} {found[1].strip()}"
    return f"{platform.machine()} {platform.processor()}"


def kept_graph(inference: Inference, stage_sha256: str) -> Path:
    """The file in which a stage's optimised graph is kept."""
    parts = (stage_sha256, ort.__version__, inference.optimisation, _processor())
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return Path(inference.cache).expanduser() / f"{key}.graph"


def read_graph(path: Path) -> bytes | None:
    """The graph in a file; None where there is none, or one that is not whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, graph = content[:_DIGEST], content[_DIGEST:]
    return graph if hashlib.sha256(graph).digest() == digest else None


def keep_graph(path: Path, options: ort.SessionOptions, build: Callable[[], Any]) -> Any:
    """The session that `build` opens with these options, its optimised graph now in the file.

    Raises InvalidSettings where the folder cannot be made or written, and whatever `build` raises.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as temporary:
            saved, whole = Path(temporary, "graph.onnx"), Path(temporary, path.name)
            options.optimized_model_filepath = str(saved)
            options.log_severity_level = _ERRORS_ONLY
            session = build()
            graph = saved.read_bytes()
            whole.write_bytes(hashlib.sha256(graph).digest() + graph)
            whole.replace(path)
    except OSError as exc:
        text = f"{path.parent} cannot be written: {exc.strerror}"
        raise InvalidSettings("inference.cache", text) from exc
    return session
