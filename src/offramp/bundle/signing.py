"""Signed bundles: Ed25519 over SHA256SUMS, which pins the manifest, which pins every stage.

    private key (PEM) --sign--> SHA256SUMS.sig --check_signature, public key (PEM)--> the bundle is of this deployment

A tier has the public key alone, so that one that is stolen can sign nothing for the others. The arithmetic is that of
the library `cryptography` (extra `signing`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offramp.bundle.loading import MOST_TEXT_BYTES, SUMS, read_file
from offramp.errors import InvalidBundle, InvalidInput, InvalidSettings

SIGNATURE = f"{SUMS}.sig"
_MOST_KEY_BYTES = 4096


def _library() -> tuple[Any, Any, Any]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as exc:
        text = "signatures need the library cryptography: pip install 'offramp[signing]'"
        raise InvalidSettings("bundles.verify_key", text) from exc
    return ed25519, serialization, InvalidSignature


def make_keys(private: Path) -> Path:
    """Write a new private key (mode 0600) and, beside it with the suffix .pub, its public one, whose path it returns.

    Raises InvalidInput where a file is there already or cannot be written.
    """
    ed25519, serialization, _ = _library()
    key = ed25519.Ed25519PrivateKey.generate()
    public = private.with_name(f"{private.name}.pub")
    pem, openssh = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for path, content, mode in (
        (private, secret, 0o600),
        (public, key.public_key().public_bytes(pem, openssh), 0o644),
    ):
        try:
            path.touch(mode=mode, exist_ok=False)
            path.write_bytes(content)
        except OSError as exc:
            raise InvalidInput(str(path), f"cannot be written: {exc.strerror}") from exc
    return public


def sign(folder: Path, private: Path) -> Path:
    """Sign the bundle in a folder; returns the signature's path. Raises InvalidInput for a key that is none."""
    ed25519, serialization, _ = _library()
    try:
        key = serialization.load_pem_private_key(_key(private), password=None)
    except (ValueError, TypeError) as exc:
        raise InvalidInput(str(private), "is no private key in PEM") from exc
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InvalidInput(str(private), "is no Ed25519 key")
    path = folder / SIGNATURE
    path.write_bytes(key.sign(read_file(folder / SUMS, MOST_TEXT_BYTES)))
    return path


def check_signature(folder: Path, sums: bytes, *, public: Path) -> None:
    """Return where the signature in the folder is of that content of SHA256SUMS, by the key's owner.

    Raises InvalidBundle where it is not, and InvalidSettings for a key that is none.
    """
    ed25519, serialization, invalid = _library()
    try:
        key = serialization.load_pem_public_key(_key(public))
    except (InvalidInput, ValueError) as exc:
        raise InvalidSettings("bundles.verify_key", f"{public} is no public key in PEM") from exc
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise InvalidSettings("bundles.verify_key", f"{public} is no Ed25519 key")
    path = folder / SIGNATURE
    if not path.is_file():
        raise InvalidBundle(str(path), "there is none, and only signed bundles are taken here")
    try:
        key.verify(read_file(path, _MOST_KEY_BYTES), sums)
    except invalid as exc:
        raise InvalidBundle(str(path), f"is not of {SUMS} and this deployment's key") from exc


def _key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_KEY_BYTES)
    except OSError as exc:
        raise InvalidInput(str(path), f"cannot be read: {exc.strerror}") from exc
