"""FLOPs by torch's own counter, with nothing computed out of its sight.

The counter knows convolutions and matrix products (2 FLOPs a multiply-accumulate); norms,
activations and pooling count nothing. On a CPU some layers run as one fused operator that it does
not know and takes for free: recurrent layers under oneDNN, attention. While counting they run as
the matrix products that they are made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def _unfused() -> Iterator[None]:
    onednn, fast_path = torch.backends.mkldnn, torch.backends.mha.get_fastpath_enabled()
    enabled = onednn.enabled
    # Not by `onednn.flags`, which sets TF32 as well and warns where there is none.
    onednn.enabled = False  # type: ignore[assignment]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        onednn.enabled = enabled
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextmanager
def counted_flops() -> Iterator[FlopCounterMode]:
    """Counts what runs inside, without gradients; `get_total_flops()` is the sum so far."""
    with torch.no_grad(), _unfused(), FlopCounterMode(display=False) as counter:
        yield counter
