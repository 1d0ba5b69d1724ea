"""Another manifest around the same stages: how a policy and its certificate get into a bundle.

bundle + policy, certificate --> manifest --> checked beside links to the stages --> in place, or a new folder

Calibration takes minutes, in which another may have added its own policy. So what is rewritten is the manifest as it is
then, read again under the folder's lock.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offramp.bundle.drafting import drafted
from offramp.bundle.loading import MANIFEST, SUMS, Bundle, load_bundle, write_manifest
from offramp.bundle.manifest import Brownout, Manifest
from offramp.errors import InvalidBundle, InvalidInput
from offramp.exits import ExitPolicy
from offramp.exits.certificate import Certificate


def with_policy(
    manifest: Manifest,
    policy: ExitPolicy,
    certificate: Certificate | None,
    provenance: Mapping[str, Any],
    brownout: Brownout | None = None,
) -> Manifest:
    """The same manifest with this policy, in place of the one of its name or else as the last.

    Certificates and brown-outs whose policy is gone go too, and an older one of the same policy (and risk). Raises
    ValueError where the certificate is of another network or policy.
    """
    policies = [policy if old.name == policy.name else old for old in manifest.policies]
    if policy not in policies:
        policies.append(policy)
    ids = {p.id for p in policies}
    kept = [old for old in manifest.certificates if old.policy in ids]
    if certificate is not None:
        about = (certificate.policy, certificate.risk)
        kept = [*(old for old in kept if (old.policy, old.risk) != about), certificate]
    brownouts = [old for old in manifest.brownouts if old.policy in ids - {policy.id}]
    fields = {
        "brownouts": (*brownouts, *([] if brownout is None else [brownout])),
        "policies": tuple(policies),
        "certificates": tuple(kept),
        "provenance": dict(provenance),
    }
    return Manifest(**(dict(manifest) | fields))


def rewrite(
    bundle: Bundle, change: Callable[[Manifest], Manifest], out: Path | None = None
) -> Bundle:
    """The bundle with another manifest: a copy in `out`, a new folder, or by default in its own place.

    change: from the manifest as it now is to the one wanted. Nothing is replaced before the whole has been loaded
    again. In place, the manifest and SHA256SUMS take their new content one after the other: a process killed in between
    leaves a bundle that is refused. Raises InvalidInput where `out` is not empty or cannot be written, InvalidBundle
    where another network has come into the folder.
    """
    try:
        with _locked(bundle.folder):
            now = load_bundle(bundle.folder)
            if now.digest != bundle.digest:
                raise InvalidBundle(str(bundle.folder), "another network is here by now")
            manifest = change(now.manifest)
            if out is None:
                _replace(now, manifest)
            else:
                _copy(now, manifest, out.resolve())
    except OSError as exc:
        target = out or bundle.folder
        raise InvalidInput(str(target), f"cannot be written: {exc.strerror}") from exc
    return load_bundle(out or bundle.folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone among those who rewrite this folder; the system frees the lock when a process ends, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(bundle: Bundle, manifest: Manifest) -> None:
    folder = bundle.folder.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        draft = Path(temporary)
        for stage in bundle.held:
            path = bundle.stage_path(stage)
            (draft / path.name).symlink_to(path.resolve())
        write_manifest(draft, manifest)
        load_bundle(draft)
        for name in (MANIFEST, SUMS):
            # Beside its place, for a rename does not cross file systems.
            with (folder / f".{name}.new").open("wb") as file:
                file.write((draft / name).read_bytes())
                file.flush()
                os.fsync(file.fileno())  # or a power cut may leave the name with no content
    for name in (MANIFEST, SUMS):
        (folder / f".{name}.new").replace(folder / name)


def _copy(bundle: Bundle, manifest: Manifest, out: Path) -> None:
    if out.is_relative_to(bundle.folder.resolve()):
        raise InvalidInput("--out", f"{out} lies in the bundle itself")
    with drafted(out) as draft:
        shutil.copytree(bundle.folder, draft, dirs_exist_ok=True)
        write_manifest(draft, manifest)
        load_bundle(draft)
