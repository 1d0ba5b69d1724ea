"""offramp: early-exit inference across a device, a fog node and a cloud.

import offramp
with offramp.Client("localhost:7101") as device:
    print(device.infer(Path("shoe.png")))
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Before anything imports onnxruntime: from 1.29 on it reports session events and hashes of graphs and weights to its
# maker unless told not to (microsoft/onnxruntime#27379). Set the variable to 0 to let it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from offramp.client import AsyncClient, Client
    from offramp.rpc import Answer, EncodedImage, Tls

__all__ = ["Answer", "AsyncClient", "Client", "EncodedImage", "Tls"]


def __getattr__(name: str) -> Any:
    """The names above, imported when first asked for: a health check needs none of them."""
    if name in ("AsyncClient", "Client"):
        from offramp import client

        return getattr(client, name)
    if name in ("Answer", "EncodedImage", "Tls"):
        from offramp import rpc

        return getattr(rpc, name)
    raise AttributeError(f"module 'offramp' has no attribute {name!r}")
