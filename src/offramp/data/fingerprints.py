"""What a network has seen, in 6 bytes a sample: enough to find a sample again, not to show it.

    samples --SHA-256 of each one's bytes, first 6--> sorted, each once --> RUN/trained_on.bin
                                                                            BUNDLE/quantised_on.bin

Two different samples share a fingerprint by chance once in 2**48 pairs: one in a million comparisons of 6,000 samples
with 54,000. Samples are compared to the byte; a re-encoded image is another sample.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from offramp.errors import InvalidInput

TRAINED_ON: Final = "trained_on.bin"
QUANTISED_ON: Final = "quantised_on.bin"
_WIDTH = 6

Fingerprints = NDArray[np.uint64]


def fingerprints(samples: NDArray[Any]) -> Fingerprints:
    """One fingerprint a sample, in their order: (N, ...) -> (N,)."""
    digests = (hashlib.sha256(np.ascontiguousarray(one).data).digest() for one in samples)
    return np.array([int.from_bytes(digest[:_WIDTH], "big") for digest in digests], np.uint64)


def packed(found: Fingerprints) -> bytes:
    """The content of a file of fingerprints: sorted, each once, 6 bytes big-endian."""
    wide = np.unique(found).astype(">u8").view(np.uint8).reshape(-1, 8)
    return wide[:, 8 - _WIDTH :].tobytes()


def write_trained_on(folder: Path, samples: NDArray[Any]) -> str:
    """Write the fingerprints of what was trained on into a folder; the file's SHA-256 (hex)."""
    return write_fingerprints(folder / TRAINED_ON, samples)


def write_fingerprints(path: Path, samples: NDArray[Any]) -> str:
    """Write the fingerprints of samples into a file; its SHA-256 (hex)."""
    content = packed(fingerprints(samples))
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def unpacked(content: bytes, field: str) -> Fingerprints:
    """The fingerprints of a file's content. Raises InvalidInput naming `field` for another length."""
    if len(content) % _WIDTH:
        raise InvalidInput(field, f"{len(content)} bytes are no whole number of fingerprints")
    narrow = np.frombuffer(content, np.uint8).reshape(-1, _WIDTH)
    wide = np.zeros((len(narrow), 8), np.uint8)
    wide[:, 8 - _WIDTH :] = narrow
    return wide.view(">u8").ravel().astype(np.uint64)
