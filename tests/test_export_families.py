"""Small networks of many families, none of which the cut knows: every boundary, gate and error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from tests.samples import samples_for
from torch import Tensor, nn

from offramp.errors import InvalidInput
from offramp.export.cut import CutStage, cut_stages
from offramp.export.whole import export_whole
from offramp.models import CodecSpec, ExitAt, ExitNetwork, HeadSpec, Preparation, attach
from offramp.models.zoo import MSDNet
from offramp.wire import TensorSpec

pytestmark = [
    pytest.mark.train,
    # torch says so of every nn.LSTM that it exports.
    pytest.mark.filterwarnings("ignore:.*_flat_weights.*were assigned during export"),
]

Build = Callable[[], nn.Module]
POOL = HeadSpec(kind="pool")


def image(size: int) -> TensorSpec:
    return TensorSpec(name="image", dtype="uint8", shape=(size, size, 3))


def raw(dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name="x", dtype=dtype, shape=shape)


def attached(build: Build, takes: TensorSpec, *exits: ExitAt | str) -> ExitNetwork:
    torch.manual_seed(4)
    backbone = build().eval()
    for name, buffer in backbone.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    prepare = Preparation([0.5] * 3, [0.25] * 3) if takes.dtype == "uint8" else None
    wanted = [ExitAt(at=e, head=POOL) if isinstance(e, str) else e for e in exits]
    return attach(backbone, wanted, prepare=prepare, takes=takes).eval()


def crossing(stages: tuple[CutStage, ...]) -> list[list[tuple[str, str, tuple[int, ...]]]]:
    """What every boundary but the input is made of."""
    return [[(t.name, t.dtype, t.shape) for t in stage.inputs] for stage in stages[1:]]


def run_chain(stages: tuple[CutStage, ...], samples: np.ndarray) -> list[dict[str, np.ndarray]]:
    """What every stage says beside its boundary, each fed by the one before and nothing else."""
    tensors, said = {stages[0].inputs[0].name: samples}, []
    for k, stage in enumerate(stages):
        session = ort.InferenceSession(
            stage.model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, tensors), strict=True))
        following = [t.name for t in stages[k + 1].inputs] if k + 1 < len(stages) else []
        tensors = {name: outputs.pop(name) for name in following}
        said.append(outputs)
    return said


def check_parity(network: ExitNetwork, stages: tuple[CutStage, ...]) -> None:
    for count in (1, 3, 32):
        samples = samples_for(network.takes, count)
        with torch.no_grad():
            wanted = network(torch.from_numpy(samples))
        for k, said in enumerate(run_chain(stages, samples)):
            np.testing.assert_allclose(
                said[f"logits_{k}"], wanted.logits[k].numpy(), rtol=1e-4, atol=1e-4
            )
            if f"gate_{k}" in said:
                assert said[f"gate_{k}"].shape == (count,)
                np.testing.assert_allclose(
                    said[f"gate_{k}"], wanted.gates[k].numpy(), rtol=1e-4, atol=1e-4
                )


class DenselyConnected(nn.Module):
    """Each layer sees all before it; what crosses inside is a list that no submodule yields."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(4 + 3 * k, 3, 3, padding=1) for k in range(3))
        self.out = nn.Linear(13, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.relu(torch.cat(features, 1))))
        return self.out(torch.cat(features, 1).mean((2, 3)))


class Shuffled(nn.Module):
    """Samples times windows in one dimension, as windowed attention has them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.first(x).reshape(-1, 2, 4)  # (4 N, 2, 4)
        mixed = torch.softmax(windows @ windows.transpose(1, 2), 2) @ windows
        joined = mixed.reshape(mixed.shape[0] // 4, 8, 4)
        return self.out(self.second(joined).mean(1))


class StatesPassedOn(nn.Module):
    """A second LSTM begins with the states that the first one ended with."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(3, 4, batch_first=True)
        self.second = nn.LSTM(4, 4, batch_first=True)
        self.out = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        steps, states = self.first(x)
        return self.out(self.second(steps, states)[0][:, -1])


class Masked(nn.Module):
    """Token ids; the mask of the padding is needed in every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)
        )
        self.out = nn.Linear(8, 5)

    def forward(self, ids: Tensor) -> Tensor:
        padding = (ids == 0) & (torch.arange(ids.shape[1]) > 0)  # the first token is never masked
        tokens = self.embed(ids)
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=padding)
        return self.out(tokens[:, 0])


class Spectral(nn.Module):
    """A Fourier transform mixes tokens; the network has no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.out = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x + torch.fft.fft(x, dim=1).real))
        return self.out(self.second(torch.fft.rfft(x, dim=1).abs()).mean(1))


def huggingface_vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=5,
    )
    model: nn.Module = transformers.ViTForImageClassification(config)
    return model


def small_msdnet() -> nn.Module:
    return MSDNet(channels=3, classes=5, scales=2, depth=3, growth=2, width=4, stem_stride=2)


# What crosses: by exit, (name, dtype, shape a sample).
FAMILIES: dict[str, tuple[Build, TensorSpec, tuple[str, ...], list[Any]]] = {
    "densely connected": (
        DenselyConnected,
        image(8),
        ("layers.0", "layers.1"),
        [
            [("alive_1_0", "float32", (4, 4, 4)), ("features_1", "float32", (3, 4, 4))],
            [
                ("alive_2_0", "float32", (4, 4, 4)),
                ("alive_2_1", "float32", (3, 4, 4)),
                ("features_2", "float32", (3, 4, 4)),
            ],
        ],
    ),
    "multi-scale": (
        small_msdnet,
        image(8),
        ("layers.0", "layers.1"),
        [
            [("features_1_0", "float32", (4, 4, 4)), ("features_1_1", "float32", (8, 2, 2))],
            [("features_2_0", "float32", (6, 4, 4)), ("features_2_1", "float32", (12, 2, 2))],
        ],
    ),
    "Hugging Face's ViT": (
        huggingface_vit,
        image(16),
        ("vit.layers.0",),
        [[("features_1", "float32", (5, 16))]],
    ),
    "recurrent": (
        StatesPassedOn,
        raw("float32", 6, 3),
        ("first",),
        [
            [
                ("alive_1_0", "float32", (1, 4)),  # (1, N, 4) in the graph
                ("alive_1_1", "float32", (1, 4)),
                ("features_1", "float32", (6, 4)),
            ]
        ],
    ),
    "masked tokens": (
        Masked,
        raw("int64", 7),
        ("layers.0",),
        [[("alive_1_0", "uint8", (7,)), ("features_1", "float32", (7, 8))]],
    ),
    "windows in the batch": (
        Shuffled,
        raw("float32", 8, 4),
        ("first", "second"),
        [[("features_1", "float32", (8, 4))], [("features_2", "float32", (8, 4))]],
    ),
    "spectral": (
        Spectral,
        raw("float32", 8, 6),
        ("first",),
        [[("features_1", "float32", (8, 6))]],
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_of_any_family_say_what_pytorch_says(family: str) -> None:
    build, takes, exits, wanted = FAMILIES[family]
    network = attached(build, takes, *exits)
    stages = cut_stages(export_whole(network))
    assert crossing(stages) == wanted
    booleans = [t for stage in stages[1:] for t in stage.inputs if t.dtype == "uint8"]
    assert all(tensor.bits == 1 for tensor in booleans)  # a mask travels in bits
    check_parity(network, stages)


def test_several_tensors_join_in_one_codec_and_a_gate_is_an_output_of_its_stage() -> None:
    codec = CodecSpec(channels=2, bits=3)
    exits = (
        ExitAt(at="layers.0", head=POOL, codec=codec),
        ExitAt(at="layers.1", head=POOL, gate=True),
    )
    network = attached(small_msdnet, image(8), *exits)
    whole = export_whole(network)
    stages = cut_stages(whole)
    assert [names.gate for names in whole.exits] == [None, "gate_1", None]
    outputs = [[output.name for output in stage.model.graph.output] for stage in stages]
    assert outputs == [
        ["logits_0", "codes_1"],
        ["logits_1", "gate_1", "features_2_0", "features_2_1"],
        ["logits_2"],
    ]
    assert crossing(stages)[0] == [("codes_1", "uint8", (2, 2, 2))]
    check_parity(network, stages)


def test_what_a_head_computes_is_not_sent_although_the_backbone_needs_it_too() -> None:
    class Squeezed(nn.Module):
        """A gain a channel from the same mean that a pooling head takes."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.gain = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
            self.out = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            features = self.first(x)
            gain = self.gain(features.mean((2, 3)))
            return self.out((features * gain[:, :, None, None]).amax((2, 3)))

    network = attached(Squeezed, image(8), "first")
    stages = cut_stages(export_whole(network))
    assert crossing(stages) == [[("features_1", "float32", (4, 6, 6))]]
    check_parity(network, stages)


# --- what cannot be exported ----------------------------------------------------------------------


class Wrong(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Sequential(inner))
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(x).mean(1))


class SingularValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svd(x).S[:, None] * x


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return x
        return -x


class ByHand(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return torch.as_tensor(np.sort(np.asarray(x.detach()), axis=-1))


class NumPy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ByHand.apply(x)


@torch.library.custom_op("offramp_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class OwnOperator(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return twice(x)


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (SingularValues, r"no translation for the operator aten\._linalg_svd in 'layers\.1\.0'"),
        (OwnOperator, r"no translation for the operator offramp_tests\.twice in 'layers\.1\.0'"),
        (Branches, r"goes by the values of a tensor in 'layers\.1\.0', at `if x\.mean\(\) > 0:`"),
        (NumPy, r"cannot follow it in 'layers\.1\.0', at `.*np\.asarray"),
    ],
)
def test_what_stands_in_the_way_of_an_export_is_named_with_its_place(
    inner: type[nn.Module], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    network = attached(lambda: Wrong(inner()), raw("float32", 4, 4))
    with pytest.raises(InvalidInput, match=said) as caught:
        export_whole(network)
    assert caught.value.field == "backbone"
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # and no page of a trace beside it


def test_a_value_that_mixes_samples_cannot_cross() -> None:
    class Normalised(nn.Module):
        """By the largest value of the whole batch."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            largest = x.abs().max()
            return self.out(self.first(x * largest) / largest)

    network = attached(Normalised, raw("float32", 4), "first")
    with pytest.raises(InvalidInput, match="not one row a sample") as caught:
        cut_stages(export_whole(network))
    assert caught.value.field == "exits.at"
