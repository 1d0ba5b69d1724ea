"""The layers of a wire codec, for maps and for tokens, for one tensor or several.

    tensor i (N, C_i, places_i) --convolution of stride s_i--+
    tensor j (N, C_j, places_j) --convolution of stride s_j--+--> sum -> norm -> (N, K, places)

With a hidden layer each of these has two convolutions with a norm and a ReLU between them beside it,
which begin as nothing: what is linear is learned first, or is known from the start.

N samples, C channels of a tensor, K of the codes; places are H x W of maps, T of tokens. Every
tensor has a stride of its own, which takes its places to those of the codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One tensor of a boundary, as its codec sees it.

    dimensions: a sample's, 3 for maps (C, H, W), 2 for tokens (T, C), 1 for a vector (C,).
    """

    dimensions: int
    channels: int
    stride: int
    signed: bool

    @property
    def is_map(self) -> bool:
        """Whether its places are H x W."""
        return self.dimensions == 3

    def grid(self, tensor: Tensor) -> Tensor:
        """Channels before places: (N, C, H, W) or (N, C, T)."""
        if self.is_map:
            return tensor
        return tensor.transpose(1, 2) if self.dimensions == 2 else tensor.unsqueeze(2)

    def tensor(self, grid: Tensor) -> Tensor:
        """What `grid` was made of."""
        if self.is_map:
            return grid
        return grid.transpose(1, 2) if self.dimensions == 2 else grid.squeeze(2)


class _Interleave(nn.Module):
    """What PixelShuffle is to maps, for tokens: (N, C s, T) -> (N, C, T s)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, grid: Tensor) -> Tensor:
        channels, tokens = grid.shape[1] // self.stride, grid.shape[2]
        phases = grid.reshape(-1, channels, self.stride, tokens)
        return phases.transpose(2, 3).reshape(-1, channels, tokens * self.stride)


class _Sum(nn.ModuleList):
    """A layer a tensor, and their sum."""

    def forward(self, grids: Sequence[Tensor]) -> Tensor:
        total: Tensor = self[0](grids[0])
        for layer, grid in zip(list(self)[1:], grids[1:], strict=True):
            total = total + layer(grid)
        return total


class _Each(nn.ModuleList):
    """A decoder a tensor, all of the same codes."""

    def forward(self, codes: Tensor) -> list[Tensor]:
        return [layer(codes) for layer in self]


class _Beside(nn.Module):
    """A linear layer and a deeper one beside it, which at first adds nothing."""

    def __init__(self, linear: nn.Module, deeper: nn.Sequential) -> None:
        super().__init__()
        self.linear, self.deeper = linear, deeper
        last = deeper[-1].weight
        assert isinstance(last, Tensor)  # noqa: S101 (narrows the type)
        nn.init.zeros_(last)

    def forward(self, grid: Tensor) -> Tensor:
        total: Tensor = self.linear(grid) + self.deeper(grid)
        return total


def linear_part(layer: nn.Module) -> nn.Conv1d | nn.Conv2d:
    """The convolution of a layer that is one or has one beside a deeper one."""
    found = layer.linear if isinstance(layer, _Beside) else layer
    assert isinstance(found, (nn.Conv1d, nn.Conv2d))  # noqa: S101 (narrows the type)
    return found


def _convolution(
    is_map: bool, inputs: int, outputs: int, kernel: int = 1, stride: int = 1
) -> nn.Module:
    """Without bias, for a norm follows; places are divided by the stride."""
    layer = nn.Conv2d if is_map else nn.Conv1d
    padding = 0 if kernel == stride else kernel // 2
    return layer(inputs, outputs, kernel, stride, padding, bias=False)


def _norm(is_map: bool, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if is_map else nn.BatchNorm1d(channels)


def _deeper(is_map: bool, *convolutions: nn.Module) -> nn.Sequential:
    """Two convolutions with a norm and a ReLU between them."""
    first, second = convolutions
    hidden = first.out_channels
    assert isinstance(hidden, int)  # noqa: S101 (narrows the type)
    return nn.Sequential(first, _norm(is_map, hidden), nn.ReLU(inplace=True), second)


def _encoding(form: Form, channels: int, hidden: int) -> nn.Module:
    """One tensor's layer of the encoder, before the sum and its norm."""
    is_map, stride = form.is_map, form.stride
    linear = _convolution(is_map, form.channels, channels, stride, stride)
    if not hidden:
        return linear
    # A layer that is followed by another may look beyond its own stride x stride places.
    wide = _convolution(is_map, form.channels, hidden, max(3, stride | 1), stride)
    return _Beside(linear, _deeper(is_map, wide, _convolution(is_map, hidden, channels)))


def encoder(forms: Sequence[Form], channels: int, hidden: int) -> nn.Sequential:
    """From one grid (or a list, of several tensors) to (N, channels, places); a norm at its end."""
    layers = [_encoding(form, channels, hidden) for form in forms]
    first = layers[0] if len(layers) == 1 else _Sum(layers)
    return nn.Sequential(first, _norm(forms[0].is_map, channels))


def _decoder(form: Form, channels: int, hidden: int) -> nn.Sequential:
    is_map, stride = form.is_map, form.stride
    outputs = form.channels * (stride**2 if is_map else stride)
    first = _convolution(is_map, channels, outputs, 3)
    if hidden:
        wide = _convolution(is_map, channels, hidden, 3)
        first = _Beside(first, _deeper(is_map, wide, _convolution(is_map, hidden, outputs, 3)))
    return nn.Sequential(
        first,
        _shuffle(is_map, stride),
        _norm(is_map, form.channels),
        nn.Identity() if form.signed else nn.ReLU(inplace=True),
    )


def _shuffle(is_map: bool, stride: int) -> nn.Module:
    if stride == 1:
        return nn.Identity()
    return nn.PixelShuffle(stride) if is_map else _Interleave(stride)


def decoder(forms: Sequence[Form], channels: int, hidden: int) -> nn.Module:
    """From (N, channels, places) to the grid of one tensor, or to a list of several's."""
    decoders = [_decoder(form, channels, hidden) for form in forms]
    return decoders[0] if len(decoders) == 1 else _Each(decoders)
