"""What the settings `inference.*` do to a session, and the optimised graphs that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from tests.serving.test_settings import read
from tests.test_bundle import replace_stage

from offramp.bundle import Bundle, load_bundle
from offramp.bundle.v1 import stage_pb2 as pb
from offramp.errors import InvalidBundle, InvalidSettings
from offramp.serving.compute import check_provider, providers
from offramp.serving.optimised import kept_graph, read_graph
from offramp.serving.runner import StageRunner, open_session
from offramp.serving.settings import Inference

BUNDLE = Path("examples/fashion_mnist/bundle")


@pytest.fixture
def bundle() -> Bundle:
    return load_bundle(BUNDLE)


def answers(bundle: Bundle, inference: Inference | None = None) -> list[NDArray[np.float32]]:
    """The logits of all exits on five images."""
    runner = StageRunner(bundle, range(3), inference)
    images = np.random.default_rng(2).integers(0, 256, (5, 28, 28, 1), np.uint8)
    found, tensors = [], (images,)
    for stage in runner.stages:
        outputs = runner.run(stage, tensors)
        found.append(outputs.logits)
        tensors = outputs.boundary
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"threads": 2},
        {"threads": 2, "spinning": True},
        {"optimisation": "none"},
        {"optimisation": "basic"},
        {"optimisation": "extended"},
    ],
)
def test_the_answer_is_the_same_however_it_is_computed(bundle: Bundle, settings: dict) -> None:
    for found, usual in zip(answers(bundle, Inference(**settings)), answers(bundle), strict=True):
        np.testing.assert_allclose(found, usual, atol=1e-4)


def test_a_kept_graph_answers_to_the_bit_and_is_made_once(bundle: Bundle, tmp_path: Path) -> None:
    keeping = Inference(cache=str(tmp_path / "new" / "graphs"))
    made = answers(bundle, keeping)
    files = {path: path.stat().st_mtime_ns for path in Path(keeping.cache).iterdir()}
    assert len(files) == 3
    again = answers(bundle, keeping)
    assert files == {path: path.stat().st_mtime_ns for path in Path(keeping.cache).iterdir()}
    for found in (made, again):
        for a, b in zip(found, answers(bundle), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("change", ["flipped", "torn", "empty"])
def test_a_kept_graph_that_is_broken_is_made_again(
    bundle: Bundle, tmp_path: Path, change: str
) -> None:
    keeping = Inference(cache=str(tmp_path))
    open_session(bundle, 0, keeping)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    broken = {
        "flipped": whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
        "torn": whole[:1000],
        "empty": b"",
    }
    path.write_bytes(broken[change])
    assert read_graph(path) is None
    open_session(bundle, 0, keeping)
    assert read_graph(path) is not None


def test_a_graph_is_kept_for_one_stage_level_and_onnxruntime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = kept_graph(Inference(cache="c"), "a" * 64)
    others = [
        kept_graph(Inference(cache="c"), "b" * 64),
        kept_graph(Inference(cache="c", optimisation="basic"), "a" * 64),
    ]
    monkeypatch.setattr(ort, "__version__", "0.0.0")
    others.append(kept_graph(Inference(cache="c"), "a" * 64))
    assert len({usual, *others}) == 4
    assert kept_graph(Inference(cache="c", threads=2), "a" * 64) == others[-1]


def test_a_cache_that_cannot_be_written_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSettings, match=r"^inference\.cache: .*file.* cannot be written: "):
        open_session(bundle, 0, Inference(cache=str(tmp_path / "file" / "graphs")))


def test_a_stage_that_is_no_model_leaves_nothing_in_the_cache(
    plain_bundle: object, tmp_path: Path
) -> None:
    folder: Path = plain_bundle()  # type: ignore[operator]
    unheard_of = pb.Graph(node=[pb.Node(op_type="NoSuchOperator")])
    replace_stage(folder, 0, pb.Model(ir_version=10, graph=unheard_of).SerializeToString())
    wrong = load_bundle(folder)
    with pytest.raises(InvalidBundle, match="onnxruntime cannot open it"):
        open_session(wrong, 0, Inference(cache=str(tmp_path / "graphs")))
    assert list((tmp_path / "graphs").iterdir()) == []


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "openvino"])
def test_a_provider_that_is_not_here_is_refused_with_those_that_are(
    bundle: Bundle, provider: str
) -> None:
    if len(ort.get_available_providers()) > 2:  # beside the processor, Azure's
        pytest.skip(f"this onnxruntime has {ort.get_available_providers()}")
    with pytest.raises(InvalidSettings) as failure:
        open_session(bundle, 0, Inference(provider=provider))  # type: ignore[arg-type]
    said = f"inference.provider: {provider!r} is not in this onnxruntime, which has cpu"
    assert str(failure.value) == said


def test_a_provider_that_is_here_but_does_not_start_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [*ort.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: there)
    wanted = Inference(provider="cuda")
    assert [name for name, _ in providers(wanted)] == [
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]
    on_the_processor = open_session(bundle, 0)
    with pytest.raises(InvalidSettings, match="cannot be started on this machine"):
        check_provider(wanted, on_the_processor)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"inference__provider": "quantum"}, "--inference.provider: Input should be 'cpu', 'cuda'"),
        ({"inference__optimisation": "most"}, "--inference.optimisation: Input should be 'none'"),
        ({"inference__spinning": "perhaps"}, "--inference.spinning: Input should be a valid bool"),
        (
            {"inference__provider": "cuda", "inference__cache": "graphs"},
            "--inference.provider: inference: cache: keeps graphs for the provider 'cpu' only",
        ),
    ],
)
def test_a_mistake_in_these_settings_names_the_flag(flags: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidSettings) as failure:
        read(bundle="b", **flags)
    assert str(failure.value).startswith(said)
    assert "\n" not in str(failure.value)
