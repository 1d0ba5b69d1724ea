"""A recurrent network for sequences: a stack of LSTM layers, and a linear layer of its last step.

Source: Hochreiter and Schmidhuber 1997, as torch.nn.LSTM has it.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from offramp.models.attach import CannotAttach
from offramp.models.zoo.settings import BackboneSettings, Size
from offramp.wire import TensorSpec


class RecurrentClassifier(nn.Module):
    """(N, T, C) -> (N, classes). Submodules to attach exits to: `layers.0`, `layers.1`, ..."""

    def __init__(self, *, channels: int, classes: int, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.LSTM(width if k else channels, width, batch_first=True) for k in range(depth)
        )
        self.classifier = nn.Linear(width, classes)

    def forward(self, sequences: Tensor) -> Tensor:
        """Logits of the last exit."""
        steps = sequences
        for layer in self.layers:
            steps, _ = layer(steps)
        logits: Tensor = self.classifier(steps[:, -1])
        return logits


class RecurrentSettings(BackboneSettings):
    """The arguments of `RecurrentClassifier`."""

    name: Literal["recurrent"]
    width: Size = 64
    depth: Size = 3

    def build(self, takes: TensorSpec, classes: int) -> RecurrentClassifier:
        """The network for float32 sequences; raises CannotAttach for anything else."""
        if takes.dtype != "float32" or len(takes.shape) != 2:
            raise CannotAttach(
                "backbone.name",
                f"takes float32 (T, C) sequences, not {takes.dtype} {list(takes.shape)}",
            )
        return RecurrentClassifier(
            channels=takes.shape[1], classes=classes, width=self.width, depth=self.depth
        )
