"""How a caller reaches a tier."""

from __future__ import annotations

from dataclasses import dataclass, replace

import grpc.aio

from offramp.rpc.tls import Tls

_GRPC_JITTER = 1.2  # gRPC waits up to a fifth longer than it is told


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How to reach a tier: message limit, reconnection backoff, and how soon a silent peer counts as dead."""

    message_bytes: int = 4 * 2**20
    first_backoff_s: float = 0.05
    most_backoff_s: float = 2.0
    keepalive_s: float = 10.0
    keepalive_timeout_s: float = 5.0
    padding_bytes: int = 0  # sent when a stream is opened, as much as its samples will have
    tls: Tls | None = None  # without it everything travels in the clear

    def open_channel(self, target: str) -> grpc.aio.Channel:
        """A channel to HOST:PORT."""
        if self.tls is None:
            return grpc.aio.insecure_channel(target, self.channel_arguments())
        return self.tls.open_channel(target, self.channel_arguments())

    def of_host(self, name: str) -> StreamOptions:
        """The same for an address of the host with that name."""
        return self if self.tls is None else replace(self, tls=self.tls.named(name))

    def channel_arguments(self) -> list[tuple[str, int | str]]:
        """The same, as gRPC's channel arguments."""
        return [
            ("grpc.max_send_message_length", self.message_bytes),
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.keepalive_time_ms", round(self.keepalive_s * 1e3)),
            ("grpc.keepalive_timeout_ms", round(self.keepalive_timeout_s * 1e3)),
            # A tier is a neighbour; a proxy variable meant for the web would send even 127.0.0.1 through a proxy.
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", round(self.first_backoff_s * 1e3)),
            ("grpc.max_reconnect_backoff_ms", round(self.most_backoff_s * 1e3 / _GRPC_JITTER)),
            # How long one try to connect may take, and how long a name counts as resolved: 20 s and 30 s by default.
            ("grpc.min_reconnect_backoff_ms", round(self.most_backoff_s * 1e3)),
            ("grpc.dns_min_time_between_resolutions_ms", round(self.most_backoff_s * 1e3)),
            # A channel's connections are its own, so that a new channel does not take over those of one that is dead.
            ("grpc.use_local_subchannel_pool", 1),
        ]
