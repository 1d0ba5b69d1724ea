"""A bundle's stages, opened and run once in a child process: what ends that process does not end the tier.

    tried() --folder, stages, settings--> child: check, open, warm up on zeros, one stage after the other
            <--each stage that is begun; at last that all is well, or what is wrong--+
            <--or a signal and no more: the stage begun last ended the child

The child gets bounded time and memory, and of the environment what Python and onnxruntime need to start. Where the
machine's memory runs out, it is the first that the system ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from offramp.bundle import Bundle, load_bundle
from offramp.errors import InvalidBundle, InvalidInput, InvalidSettings
from offramp.serving.settings import Inference

TIMEOUT_S: Final = 60.0
FIRST_BYTES: Final = 2**30  # of memory: Python, onnxruntime, what one sample needs
BYTES_A_BYTE: Final = 8  # of memory for one of a stage's file: read, parsed, as a graph, optimised
_INHERITED: Final = (
    "HOME",  # the folder of optimised graphs may be under it
    "LD_LIBRARY_PATH",
    "ORT_DISABLE_TELEMETRY",
    "PATH",
    "PYTHONHOME",
    "PYTHONPATH",
)
_MOST_SAID: Final = 16 * 1024  # bytes that are heard of a child


async def tried(
    bundle: Bundle,
    stages: Iterable[int],
    inference: Inference | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Return once a child process has opened these stages and computed a sample of zeros in each.

    Raises InvalidBundle naming the stage that is refused there, that ended the child or kept it longer than timeout_s,
    and InvalidSettings where this machine cannot compute as `inference` asks.
    """
    wanted = list(stages)
    size = sum(bundle.stage_path(k).stat().st_size for k in wanted)
    task = {
        "folder": str(bundle.folder),
        "network": bundle.digest,
        "stages": wanted,
        "inference": (inference or Inference()).model_dump(),
        "bytes": FIRST_BYTES + BYTES_A_BYTE * size,
        "seconds": math.ceil(timeout_s) + 1,  # should the tier itself be gone by then
    }
    said = bytearray()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", __name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in _INHERITED if name in os.environ},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            await _hear(process, json.dumps(task).encode(), said)
        ended = f"ended a child process {_how(process.returncode or 0)}"
    except TimeoutError:
        ended = f"kept a child process longer than {timeout_s:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    _conclude(bundle, _lines(said), ended)


async def _hear(process: asyncio.subprocess.Process, task: bytes, said: bytearray) -> None:
    """Tell the child its task and keep what it says until it has ended."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("both are pipes")
    with contextlib.suppress(ConnectionError):  # it ended before it listened
        process.stdin.write(task)
        await process.stdin.drain()
    process.stdin.close()
    while len(said) < _MOST_SAID and (piece := await process.stdout.read(_MOST_SAID - len(said))):
        said += piece
    await process.wait()


def _how(code: int) -> str:
    """How a process ended, of its return code as `subprocess` has it."""
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"with {signal.Signals(-code).name}"
    except ValueError:
        return f"with signal {-code}"


def _lines(said: bytearray) -> list[dict[str, Any]]:
    """What a child said, as far as it is what one says."""
    found = []
    for line in said.splitlines():
        with contextlib.suppress(ValueError):  # cut off, or onnxruntime's own
            one = json.loads(line)
            if isinstance(one, dict):
                found.append(one)
    return found


def _conclude(bundle: Bundle, lines: list[dict[str, Any]], ended: str) -> None:
    last = lines[-1] if lines else {}
    if last.get("is_well") is True:
        return
    if "message" in last:
        kind = InvalidSettings if last.get("is_settings") is True else InvalidBundle
        raise kind(str(last.get("field")), str(last["message"]))
    begun = last.get("stage")
    where = bundle.stage_path(begun) if begun in bundle.held else bundle.folder
    raise InvalidBundle(str(where), f"loading it {ended}")


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _bound(most_bytes: int, seconds: int) -> None:
    """Let the system end this process beyond that, without a core of it on the disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))
    signal.alarm(seconds)
    with contextlib.suppress(OSError):  # not everywhere is there a /proc
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> int:
    """Be the child: a task on stdin, lines of JSON on stdout. Always 0, unless something ends it."""
    task = json.load(sys.stdin)
    _bound(task["bytes"], task["seconds"])
    try:
        from offramp.serving.runner import StageRunner

        bundle = load_bundle(Path(task["folder"]))
        if bundle.digest != task["network"]:
            raise InvalidBundle(task["folder"], "has changed since it was checked")
        inference = Inference.model_validate(task["inference"])
        for stage in task["stages"]:
            _say(stage=stage)
            StageRunner(bundle, [stage], inference).warm_up()
    except InvalidInput as exc:
        is_settings = isinstance(exc, InvalidSettings)
        _say(field=exc.field, message=exc.message, is_settings=is_settings)
    except Exception as exc:  # memory, most likely
        _say(field=task["folder"], message=f"cannot be tried: {type(exc).__name__}")
    else:
        _say(is_well=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
