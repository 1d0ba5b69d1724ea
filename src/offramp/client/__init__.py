"""Asking a tier from Python: `Client` and `AsyncClient`."""

from offramp.client.asynchronous import AsyncClient, Timed
from offramp.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "Timed"]
