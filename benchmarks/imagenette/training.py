"""Training of heads and codecs around a backbone that stays as it is.

features -> codec 1 -> blocks -> fog exit, codec 2 -> blocks -> logits
   |                                                      |
device exit                        the uncompressed network's logits teach all of them
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.imagenette.features import Cached
from benchmarks.imagenette.network import Rest
from benchmarks.imagenette.protocol import Training
from offramp.models import ExitNetwork, WireCodec
from offramp.training.codec_loss import reconstruction_loss

_HEAD_BATCH = 128  # heads and the first reconstruction are cheap: larger batches, fewer steps
# Weights of features against the uncompressed ones, beside the task: where they were coded, and some
# layers behind, where what the task needs of them counts (as in SC2, Matsubara et al. 2022).
_AT_CODEC, _BEHIND_CODEC = 0.3, 2.0


def _batches(count: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Rows of `steps` batches, epoch after epoch, each in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat((order, torch.randperm(count, generator=generator)))
        yield order[:size]
        order = order[size:]


def _taught(logits: Tensor, batch: Cached, temperature: float) -> Tensor:
    """Cross-entropy and the teacher's softened probabilities (Hinton et al. 2015, 1503.02531)."""
    soft = (batch.logits / temperature).softmax(1)
    guess = (logits.float() / temperature).log_softmax(1)
    matched = F.kl_div(guess, soft, reduction="batchmean") * temperature**2
    return F.cross_entropy(logits.float(), batch.labels) + matched


class _Fitting:
    """AdamW under one learning-rate cycle (Smith and Topin 2017, arXiv 1708.07120)."""

    def __init__(self, parameters: Iterable[nn.Parameter], peak_rate: float, steps: int) -> None:
        self._optimiser = torch.optim.AdamW(list(parameters), peak_rate, weight_decay=1e-4)
        self._cycle = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, peak_rate, total_steps=steps, pct_start=0.2
        )

    def step(self, loss: Tensor) -> None:
        """One step down that loss."""
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._cycle.step()


def train_device_exit(network: ExitNetwork, cached: Cached, training: Training, seed: int) -> None:
    """The head of exit 0 is then trained on the frozen features, which no codec has touched."""
    head = network.heads[0]
    head.train()
    steps = training.head_epochs * len(cached.labels) // _HEAD_BATCH
    fitting = _Fitting(head.parameters(), training.head_rate, steps)
    for rows in _batches(len(cached.labels), _HEAD_BATCH, steps, seed):
        batch = cached.batch(rows)
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(batch.features)
        fitting.step(_taught(logits, batch, training.temperature))
    head.eval()


def _reconstruct(codec: WireCodec, cached: Cached, training: Training, seed: int) -> None:
    steps = training.reconstruction_steps
    fitting = _Fitting(codec.parameters(), training.peak_rate, steps)
    for rows in _batches(len(cached.labels), _HEAD_BATCH // 2, steps, seed):
        features = cached.batch(rows).features
        with torch.autocast("cpu", torch.bfloat16):
            decoded = codec.through(codec.levels((features,)))
        fitting.step(reconstruction_loss(decoded, (features,)))


def _codecs(network: ExitNetwork) -> tuple[WireCodec, WireCodec]:
    first, second = network.codec(1), network.codec(2)
    if first is None or second is None:
        raise ValueError("network: lacks a codec")
    return first, second


def train_codecs(
    network: ExitNetwork,
    cached: Cached,
    training: Training,
    *,
    epochs: float,
    fresh: bool,
    seed: int,
) -> None:
    """Both codecs and the fog's head are then trained through the frozen rest of the network.

    fresh: the codecs are untrained, so the first begins with reconstruction alone. The network is
    left in evaluation mode.
    """
    first, second = _codecs(network)
    fog_head, rest = network.heads[1], Rest(network)
    parts = nn.ModuleList((first, second, fog_head)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts.train()
    if fresh:
        _reconstruct(first, cached, training, seed)
    steps = int(epochs * len(cached.labels) / training.batch)
    fitting = _Fitting(parts.parameters(), training.peak_rate, steps)
    for step, rows in enumerate(_batches(len(cached.labels), training.batch, steps, seed + 1)):
        batch = cached.batch(rows)
        with torch.autocast("cpu", torch.bfloat16):
            seen = first.through(first.levels((batch.features,)))
            deeper = rest.to_fog_exit(seen[0])
            fog_logits = fog_head(deeper)
            seen_deeper = second.through(second.levels((deeper,)))
            logits = rest.to_logits(seen_deeper[0])
        task = _taught(fog_logits, batch, training.temperature)
        task = task + _taught(logits, batch, training.temperature)
        lost = (
            _AT_CODEC * reconstruction_loss(seen, (batch.features,))
            + _BEHIND_CODEC * reconstruction_loss((deeper,), (batch.deeper,))
            + _AT_CODEC * reconstruction_loss(seen_deeper, (batch.deeper,))
        )
        fitting.step(task + lost)
        if step % 50 == 0:
            right = float((logits.argmax(1) == batch.labels).float().mean())
            print(f"step {step} of {steps}: loss {task.item():.3f}, right {right:.2f}", flush=True)
    network.eval()
