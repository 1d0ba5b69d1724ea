"""offramp: early-exit inference across a device, a fog node and a cloud.

import offramp
with offramp.Client("localhost:7101") as device:
    print(device.infer(Path("shoe.png")))
"""

from offramp.client import AsyncClient, Client
from offramp.rpc import Answer, EncodedImage

__all__ = ["Answer", "AsyncClient", "Client", "EncodedImage"]
