"""The whole graph against PyTorch, and the stages against the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from torch import Tensor, nn

from offramp.errors import InvalidInput
from offramp.export.batch_size import anchor_batch
from offramp.export.cut import CutStage, cut_stages
from offramp.export.liveness import Dataflow
from offramp.export.whole import export_whole
from offramp.models import CodecSpec, ExitAt, ExitNetwork, HeadSpec, Preparation, attach
from offramp.wire import TensorSpec

pytestmark = [
    pytest.mark.train,
    # torch says so of every nn.LSTM that it exports.
    pytest.mark.filterwarnings("ignore:.*_flat_weights.*were assigned during export"),
]

SHAPE = (8, 8, 1)
TAKES = TensorSpec(name="image", dtype="uint8", shape=SHAPE)
POOL = HeadSpec(kind="pool")


class Branching(nn.Module):
    """Nearly all that a cut may meet.

    A skip over both boundaries (`early`) and one over the second (`one`), a view by the batch size,
    and a recurrent layer whose first state is made from the batch size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.rows = nn.LSTM(16, 5, batch_first=True)
        self.out = nn.Linear(4 * 16 + 3 * 64 + 5, 6)

    def forward(self, x: Tensor) -> Tensor:
        early = self.stem(x)
        one = self.first(torch.relu(early))
        two = self.second(torch.relu(one)) + one
        state = torch.zeros(1, x.size(0), 5) + torch.arange(5.0)
        rows, _ = self.rows(two.permute(0, 2, 1, 3).reshape(x.size(0), 4, 16), (state, 0 * state))
        flat = (two.view(x.size(0), -1), early.view(x.size(0), -1), rows[:, -1])
        return self.out(torch.cat(flat, 1))


def random_images(count: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def session(model: Any) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run_model(model: Any, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    opened = session(model)
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(names, tensors), strict=True))


def run_chain(stages: tuple[CutStage, ...], images: np.ndarray) -> list[np.ndarray]:
    """Logits of every exit, each stage fed by what the one before gave and nothing else."""
    tensors, logits = {"image": images}, []
    for k, stage in enumerate(stages):
        tensors = run_model(stage.model, tensors)
        logits.append(tensors.pop(f"logits_{k}"))
    return logits


def cut(network: ExitNetwork) -> tuple[Any, tuple[CutStage, ...]]:
    whole = export_whole(network)
    return whole.model, cut_stages(whole)


@pytest.fixture(scope="module")
def branching() -> ExitNetwork:
    torch.manual_seed(2)
    exits = [ExitAt(at="first", head=POOL), ExitAt(at="second", head=POOL)]
    return attach(Branching(), exits, prepare=Preparation([0.5], [0.5]), takes=TAKES).eval()


@pytest.fixture(scope="module")
def branches(branching: ExitNetwork) -> tuple[CutStage, ...]:
    return cut(branching)[1]


@pytest.fixture(scope="module")
def coded(untrained: Any) -> tuple[Any, tuple[CutStage, ...]]:
    return cut(untrained.network)


@pytest.mark.parametrize("count", [1, 3, 32])
def test_stages_with_codecs_say_exactly_what_the_whole_says(
    coded: tuple[Any, tuple[CutStage, ...]], count: int
) -> None:
    whole, stages = coded
    images = random_images(count, (32, 32, 3))
    wanted = run_model(whole, {"image": images})
    for k, logits in enumerate(run_chain(stages, images)):
        np.testing.assert_allclose(logits, wanted[f"logits_{k}"], rtol=1e-6, atol=1e-6)


def test_with_a_codec_the_boundary_is_its_codes_and_nothing_else(
    coded: tuple[Any, tuple[CutStage, ...]],
) -> None:
    _, stages = coded
    assert [[(t.name, t.dtype, t.shape) for t in stage.inputs] for stage in stages] == [
        [("image", "uint8", (32, 32, 3))],
        [("codes_1", "uint8", (2, 8, 8))],
        [("codes_2", "uint8", (3, 8, 8))],
    ]


def test_the_graphs_weights_are_the_networks_by_name_and_value(
    untrained: Any, coded: tuple[Any, tuple[CutStage, ...]]
) -> None:
    whole, stages = coded
    state = untrained.network.state_dict()
    wanted = {name for name in state if not name.endswith("num_batches_tracked")}
    for models in ([whole], [stage.model for stage in stages]):
        found = [weight for model in models for weight in model.graph.initializer]
        named = {weight.name: onnx.numpy_helper.to_array(weight) for weight in found}
        assert wanted <= set(named)
        for name in wanted:
            np.testing.assert_array_equal(named[name], state[name].numpy())
    weights = [w.name for s in stages for w in s.model.graph.initializer if w.name in wanted]
    assert len(weights) == len(wanted)  # none is in two stages


def test_nothing_of_the_exporting_machine_stays_in_a_stage(
    coded: tuple[Any, tuple[CutStage, ...]],
) -> None:
    for stage in coded[1]:
        content = stage.model.SerializeToString()
        for trace in (b".py", b"File ", b"stack_trace", b"pkg.torch", b"namespace"):
            assert trace not in content
        assert all(not node.doc_string for node in stage.model.graph.node)


@pytest.mark.parametrize("count", [1, 3, 32])
def test_stages_without_codecs_say_what_pytorch_says_at_every_batch_size(
    branching: ExitNetwork, branches: tuple[CutStage, ...], count: int
) -> None:
    images = random_images(count)
    with torch.no_grad():
        wanted = branching(torch.from_numpy(images)).logits
    for found, logits in zip(run_chain(branches, images), wanted, strict=True):
        np.testing.assert_allclose(found, logits.numpy(), rtol=1e-5, atol=1e-5)


def test_every_value_alive_at_a_boundary_crosses_it_and_passes_through_to_where_it_is_needed(
    branches: tuple[CutStage, ...],
) -> None:
    assert [[tensor.shape for tensor in stage.inputs] for stage in branches] == [
        [(8, 8, 1)],
        [(3, 8, 8), (4, 4, 4)],  # early, one
        [(3, 8, 8), (4, 4, 4), (4, 4, 4)],  # early, one and the second convolution
    ]
    outputs = [output.name for output in branches[1].model.graph.output]
    assert outputs == ["logits_1", *(tensor.name for tensor in branches[2].inputs)]
    names = [tensor.name for stage in branches for tensor in stage.inputs]
    assert len(set(names)) == len(names)


def test_a_stage_reads_the_batch_size_off_its_own_boundary(
    branches: tuple[CutStage, ...],
) -> None:
    for stage in branches:
        opened = session(stage.model)
        assert [found.name for found in opened.get_inputs()] == [t.name for t in stage.inputs]
        assert all(isinstance(found.shape[0], str) for found in opened.get_inputs())
        assert all(isinstance(found.shape[0], str) for found in opened.get_outputs())


def test_a_codec_that_covers_one_of_two_live_values_is_refused() -> None:
    codec = CodecSpec(channels=2, bits=4)
    network = attach(
        Branching(),
        [ExitAt(at="first", head=POOL, codec=codec)],
        prepare=Preparation([0.5], [0.5]),
        takes=TAKES,
    ).eval()
    with pytest.raises(InvalidInput, match="need more than its codes") as caught:
        cut(network)
    assert caught.value.field == "exits.0.codec"


def test_a_network_whose_only_exit_is_its_own_is_one_stage() -> None:
    backbone = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 3))
    network = attach(backbone, [], prepare=Preparation([0.5], [0.5]), takes=TAKES).eval()
    _, stages = cut(network)
    images = random_images(3)
    with torch.no_grad():
        wanted = network(torch.from_numpy(images)).logits[0].numpy()
    np.testing.assert_allclose(run_chain(stages, images)[0], wanted, rtol=1e-5, atol=1e-6)


def test_a_network_in_training_mode_or_with_a_fixed_batch_is_refused() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(64, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(x.reshape(len(x), 64))

    network = attach(Fixed(), [], prepare=Preparation([0.5], [0.5]), takes=TAKES)
    with pytest.raises(InvalidInput, match="training mode"):
        export_whole(network.train())
    with pytest.raises(InvalidInput, match="fixes the batch size"):
        export_whole(network.eval())


def test_liveness_of_a_graph_drawn_by_hand() -> None:
    """x -> a -> b -> c and a -> d -> c: at a cut behind b, both b and a are alive."""
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            node("Relu", ["x"], ["a"]),
            node("Mul", ["a", "w"], ["b"]),
            node("Neg", ["a"], ["d"]),
            node("Add", ["b", "d"], ["c"]),
        ],
        "drawn",
        [info("x", 1, [2])],
        [info("c", 1, [2])],
        [onnx.helper.make_tensor("w", 1, [2], [1.0, 2.0])],
    )
    flow = Dataflow(graph)
    before = flow.before(["b"])
    assert before == {"x", "a", "b", "w"}
    assert flow.alive(before, ["c"]) == ("a", "b")
    assert not flow.is_data("w")


def test_what_a_node_that_has_run_yields_is_there_with_all_of_its_outputs() -> None:
    """x -> lstm -> (y, h): at a cut behind y, a reader of h needs h, and not x."""
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node("LSTM", ["x", "w", "r"], ["y", "h", ""]), node("Neg", ["h"], ["z"])],
        "drawn",
        [info("x", 1, [2])],
        [info("z", 1, [2])],
        [onnx.helper.make_tensor(name, 1, [1], [1.0]) for name in "wr"],
    )
    flow = Dataflow(graph)
    assert flow.alive(flow.before(["y"]), ["z"]) == ("h",)


@pytest.mark.parametrize(
    ("sizes", "bounds", "wanted"),
    [
        (["batch", 4, 5], {}, [3, 4, 5]),
        ([1, "batch", 5], {}, [1, 3, 5]),
        (["4*batch", 5], {}, [12, 5]),
        (["batch*2*3"], {}, [18]),
        ([7, "batch", 5], {"start": -2}, [3, 5]),
        ([7, "batch", 5], {"start": 2}, [5]),
        (["batch", 4], {"end": 1}, [3]),
    ],
)
def test_a_shape_is_rebuilt_from_the_batch_size(
    sizes: list[int | str], bounds: dict[str, int], wanted: list[int]
) -> None:
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    # The values of `other` cannot be computed from x: only its declared sizes can say its shape.
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node("Shape", ["other"], ["sizes"], **bounds)],
            "drawn",
            [info("x", 1, ["batch", 2]), info("other", 1, sizes)],
            [info("sizes", 7, [len(wanted)])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 20)],
        ir_version=10,
    )
    anchored = anchor_batch(model, "x", "batch")
    assert Dataflow(anchored.graph).is_data("sizes") is False
    del anchored.graph.input[1]
    (found,) = session(anchored).run(["sizes"], {"x": np.zeros((3, 2), np.float32)})
    assert found.tolist() == wanted


def test_a_shape_of_sizes_that_data_decide_stays_data() -> None:
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node("Shape", ["x"], ["sizes"])],
            "drawn",
            [info("x", 1, ["batch", "u0"])],
            [info("sizes", 7, [2])],
        )
    )
    assert Dataflow(anchor_batch(model, "x", "batch").graph).is_data("sizes")
