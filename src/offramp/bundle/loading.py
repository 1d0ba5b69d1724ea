"""A bundle on disk: SHA256SUMS, manifest.json and one ONNX file a stage.

It is checked whole before anything is used. A tier may hold a subset of the stage files; whatever
is there must have the hash that SHA256SUMS and the manifest say, and `sha256sum -c --ignore-missing
SHA256SUMS` agrees. Other files may lie beside (a README, a licence, `trained_on.bin`, which
calibration reads); no tier reads them, and a stage is opened from its hashed bytes, so that it
cannot reach for a file of weights beside it.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from offramp.bundle.manifest import Manifest
from offramp.errors import InvalidBundle
from offramp.validation import first_flaw

SUMS, MANIFEST = "SHA256SUMS", "manifest.json"
MOST_STAGE_BYTES = 2**31 - 1  # a message of protobuf can have no more
MOST_TEXT_BYTES = 16 * 2**20  # of SHA256SUMS and the manifest each; that of the demo has 12 kB
CheckSums = Callable[[Path, bytes], None]  # a bundle's folder, and the content of its SHA256SUMS
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_.-]+)")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle: its folder, manifest, network digest, and the stages that are here."""

    folder: Path
    manifest: Manifest
    digest: str
    held: tuple[int, ...]

    def stage_path(self, stage: int) -> Path:
        """The ONNX file of a stage. Raises InvalidBundle where this copy does not hold it."""
        if stage not in self.held:
            raise InvalidBundle(f"{self.folder}: stages", f"stage {stage} is not held here")
        return self.folder / self.manifest.network.stages[stage].file

    def stage_bytes(self, stage: int) -> bytes:
        """The content of a stage's file, hashed once more: what is opened is what was checked.

        Raises InvalidBundle where this copy does not hold it, or it is no longer the manifest's.
        """
        path = self.stage_path(stage)
        content = read_file(path, MOST_STAGE_BYTES)
        if hashlib.sha256(content).hexdigest() != self.manifest.network.stages[stage].sha256:
            raise InvalidBundle(str(path), f"its SHA-256 is not the one in {MANIFEST}")
        return content


def read_file(path: Path, most: int) -> bytes:
    """A file's content. Raises InvalidBundle where it cannot be read, is no file (a pipe has no end), or too large."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            raise InvalidBundle(str(path), f"is no file of at most {most:,} bytes")
        return path.read_bytes()
    except OSError as exc:
        raise InvalidBundle(str(path), f"cannot be read: {exc.strerror}") from exc


def _sums(path: Path, content: bytes) -> dict[str, str]:
    try:
        lines = content.decode("ascii").removesuffix("\n").split("\n")
    except UnicodeDecodeError as exc:
        raise InvalidBundle(str(path), "is not text") from exc
    sums = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise InvalidBundle(str(path), f"line {number} is no SHA-256 and file name")
        sums[match[2]] = match[1]
    return sums


def _manifest(path: Path, content: bytes) -> Manifest:
    try:
        return Manifest.model_validate(json.loads(content))
    except ValidationError as exc:
        flaw = first_flaw(exc)
        raise InvalidBundle(f"{path}: {flaw.key or '(whole file)'}", flaw.text) from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidBundle(str(path), f"is no JSON: {exc}") from exc


def load_bundle(folder: Path, check: CheckSums | None = None) -> Bundle:
    """The bundle in a folder, its manifest and every stage file that is there checked.

    check: is asked first, of the very bytes that all the rest is held against. Raises what it raises, and InvalidBundle
    naming the file or the manifest's key.
    """
    if not folder.is_dir():
        raise InvalidBundle(str(folder), "there is no bundle: not a folder")
    listed = read_file(folder / SUMS, MOST_TEXT_BYTES)
    if check is not None:
        check(folder, listed)
    sums = _sums(folder / SUMS, listed)
    content = read_file(folder / MANIFEST, MOST_TEXT_BYTES)
    if sums.get(MANIFEST) != hashlib.sha256(content).hexdigest():
        raise InvalidBundle(str(folder / MANIFEST), f"its SHA-256 is not the one in {SUMS}")
    manifest = _manifest(folder / MANIFEST, content)
    names = {MANIFEST} | {stage.file for stage in manifest.network.stages}
    if set(sums) != names:
        raise InvalidBundle(str(folder / SUMS), f"lists {sorted(sums)}, not {sorted(names)}")
    held = []
    for k, stage in enumerate(manifest.network.stages):
        path = folder / stage.file
        if not path.exists():
            continue
        found = hashlib.sha256(read_file(path, MOST_STAGE_BYTES)).hexdigest()
        for said_by, wanted in ((MANIFEST, stage.sha256), (SUMS, sums[stage.file])):
            if found != wanted:
                raise InvalidBundle(str(path), f"its SHA-256 is not the one in {said_by}")
        held.append(k)
    if not held:
        raise InvalidBundle(str(folder), "holds no stage file")
    return Bundle(folder, manifest, manifest.network.digest, tuple(held))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json and SHA256SUMS beside the stage files that are already in the folder."""
    content = (json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n").encode()
    (folder / MANIFEST).write_bytes(content)
    sums = {MANIFEST: hashlib.sha256(content).hexdigest()}
    sums |= {stage.file: stage.sha256 for stage in manifest.network.stages}
    lines = (f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    (folder / SUMS).write_text("".join(lines))
