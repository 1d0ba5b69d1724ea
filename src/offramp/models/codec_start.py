"""A codec that begins as the best linear one: the principal components of what its boundary holds.

A fresh codec would spend most of a short training on finding them. From a few hundred samples they
are known at once, and training goes on from there.

    patches of s x s places, all tensors side by side --components--> K channels of variance 1
                                                      <--the same, transposed--
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from offramp.models.codec import SPAN, WireCodec
from offramp.models.codec_layers import Form, linear_part
from offramp.models.network import ExitNetwork

_LEAST = 1e-6  # of the largest component's variance: below it there is nothing to code


def _patches(grid: Tensor, form: Form) -> Tensor:
    """(N, C, places) -> (N * places / s^d, C * s^d), in the order of a convolution's weights."""
    count, channels, *sizes = grid.shape
    split = [part for size in sizes for part in (size // form.stride, form.stride)]
    places, within = range(2, 2 + len(split), 2), range(3, 3 + len(split), 2)
    parts = grid.reshape(count, channels, *split).permute(0, *places, 1, *within)
    return parts.reshape(-1, channels * form.stride ** len(sizes))


def _decoders(codec: WireCodec) -> list[nn.Sequential]:
    """One a tensor."""
    found = codec.decoder.children() if len(codec.forms) > 1 else [codec.decoder]
    return [layers for layers in found if isinstance(layers, nn.Sequential)]


def _set(layer: nn.Module, name: str, value: Tensor) -> None:
    """Copy a value into a parameter or buffer of a layer."""
    target = getattr(layer, name)
    with torch.no_grad():
        target.copy_(value.reshape(target.shape))


def start_codec(codec: WireCodec, tensors: tuple[Tensor, ...]) -> None:
    """Make the codec code the principal components of a boundary's tensors, (N, ...) each.

    Of its linear layers alone; what a deeper layer is beside them stays. Every tensor counts by its
    variance. Channels beyond the number of components stay as they were.
    """
    forms = codec.forms
    grids = [
        form.grid(tensor.detach().double()) for form, tensor in zip(forms, tensors, strict=True)
    ]
    scales = [grid.std().clamp(min=1e-9) for grid in grids]
    patches = torch.cat(
        [_patches(g / s, form) for g, s, form in zip(grids, scales, forms, strict=True)], 1
    )  # (M, D)
    mean = patches.mean(0)
    variances, components = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    count = min(codec.spec.channels, len(variances))
    variances = variances.flip(0)[:count].clamp(min=_LEAST * float(variances[-1]))
    components = components.flip(1)[:, :count]  # (D, count)
    norm = codec.encoder[-1]
    means = getattr(norm, "running_mean").clone()  # noqa: B009 (a module's attributes have no types)
    means[:count] = mean @ components / variances.sqrt()
    _set(norm, "running_mean", means)
    _set(norm, "running_var", torch.ones_like(means))
    widths = [form.channels * form.stride ** (2 if form.is_map else 1) for form in forms]
    parts = components.split(widths)
    first = codec.encoder[0]
    encoders = list(first.children()) if len(forms) > 1 else [first]
    for layer, part, scale in zip(encoders, parts, scales, strict=True):
        _start_encoder(linear_part(layer), (part / variances.sqrt() / scale).T)
    reach = SPAN[codec.spec.bits - 1] / 2  # codes from -1 to 1 are so many standard deviations
    for layers, part, scale in zip(_decoders(codec), parts, scales, strict=True):
        _start_decoder(linear_part(layers[0]), part * variances.sqrt() * scale * reach)
    _start_norms(codec, tensors, grids)


def _start_encoder(layer: nn.Conv1d | nn.Conv2d, rows: Tensor) -> None:
    weight = layer.weight.detach().clone()
    weight[: len(rows)] = rows.reshape(len(rows), *weight.shape[1:])
    _set(layer, "weight", weight)


def _start_decoder(layer: nn.Conv1d | nn.Conv2d, columns: Tensor) -> None:
    """The middle of a kernel of 3 places; the others begin at 0."""
    weight = torch.zeros_like(layer.weight)
    middle = weight[:, :, 1, 1] if weight.ndim == 4 else weight[:, :, 1]
    middle[:, : columns.shape[1]] = columns
    _set(layer, "weight", weight)


def _start_norms(codec: WireCodec, tensors: tuple[Tensor, ...], grids: Sequence[Tensor]) -> None:
    """Let each decoder's norm leave its input as it is, and add the mean of its tensor's channels."""
    training = codec.training
    codec.eval()
    with torch.no_grad():
        codes = codec.quantise(codec.levels(tensors)).float() * (2.0 / codec.top) - 1.0
        for layers, grid in zip(_decoders(codec), grids, strict=True):
            linear, shuffle, norm, _ = layers
            variance, mean = torch.var_mean(shuffle(linear(codes)).transpose(0, 1).flatten(1), 1)
            for name, value in (
                ("running_mean", mean),
                ("running_var", variance),
                ("weight", variance.sqrt()),
                ("bias", grid.transpose(0, 1).flatten(1).mean(1)),
            ):
                _set(norm, name, value)
    codec.train(training)


def start_codecs(network: ExitNetwork, inputs: Tensor, boundaries: Sequence[int]) -> None:
    """Start the codecs at these boundaries, in order, by what these inputs (N, ...) are there.

    The network is left in the mode it was in.
    """
    training = {module: module.training for module in network.modules()}
    network.eval()
    with torch.no_grad():
        for k in sorted(boundaries):
            codec = network.codec(k)
            if codec is not None:
                start_codec(codec, network(inputs).features[k - 1])
    for module, mode in training.items():
        module.training = mode
