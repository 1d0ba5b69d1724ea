"""Fixtures that several test modules share."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.bundle import (
    Boundary,
    Bundle,
    Codec,
    Manifest,
    Network,
    Preparation,
    Stage,
    StageCost,
    write_manifest,
)
from offramp.data import cifar10
from offramp.exits import ExitPolicy, ExitSetting
from offramp.wire import TensorSpec

# --- coroutines as tests ------------------------------------------------------------------------

MOST_S = 60.0  # of one test, before it counts as hung


def pytest_collection_finish() -> None:
    """Keep what was imported so far out of the collections below, each of which would take half a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test on a loop of its own, and fail it for what the loop had to complain of."""
    test: Callable[..., Any] = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}
    complaints: list[str] = []

    def complain(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # gRPC's poller of another loop may find that loop's wake-up already read (grpc issue 36253).
        if not isinstance(context.get("exception"), BlockingIOError):
            complaints.append(f"{context['message']}: {context.get('exception')!r}")

    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(complain)
        runner.run(asyncio.wait_for(test(**arguments), MOST_S))
        gc.collect()  # an error that nobody looked at is reported when its task goes
    assert complaints == []
    return True


# --- containers ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Any]:
    """A Docker engine with Compose v2 and the base images."""
    from tests.composed import connected_engine

    with connected_engine() as engine:
        yield engine


# --- bundles and networks -----------------------------------------------------------------------

RECIPE = """
seed = 3
[data]
name = "cifar10-lossless"
held_out = 0.2
[backbone]
stem = 4
widths = [4, 8, 8]
strides = [2, 2, 1]
[[exits]]
at = "blocks.0"
head = { kind = "pool" }
codec = { channels = 2, bits = 3, stride = 2 }
[[exits]]
at = "blocks.1"
head = { kind = "conv", width = 8 }
codec = { channels = 3, bits = 8 }
[optimiser]
epochs = 2
batch = 64
peak_rate = 0.05
average = 0.5
"""


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe small enough to train in a second: three exits, two codecs."""
    path = tmp_path_factory.mktemp("recipe") / "train.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session", autouse=True)
def _copies_by_hand() -> Iterator[None]:
    """Tests make small CIFAR-10 copies of their own, which have no known hash."""
    with pytest.MonkeyPatch.context() as patch:
        for name in tuple(cifar10.SHA256):
            patch.delitem(cifar10.SHA256, name)
        yield


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 400 random training and 64 test images in the form of the CIFAR-10 copies."""
    folder = tmp_path_factory.mktemp("data")
    chance = np.random.default_rng(7)
    for split, count in (("train", 400), ("test", 64)):
        np.savez(
            folder / f"cifar10_lossless_{split}.npz",
            x=chance.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
            y=chance.integers(0, 10, count, dtype=np.uint8),
        )
    return folder


@pytest.fixture(scope="session")
def untrained(recipe_file: Path) -> Any:
    """An `offramp.training.Run` of the small recipe, its weights and norms random."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("lightning")
    from offramp.data.cifar10 import CLASSES
    from offramp.training import Run, build_network, read_recipe

    recipe = read_recipe(recipe_file)
    torch.manual_seed(5)
    network = build_network(recipe, (32, 32, 3), 10, mean=[0.5] * 3, std=[0.25] * 3)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.3, 1.5)
    provenance = {
        "recipe": recipe.model_dump(mode="json"),
        "data": {"image_shape": [32, 32, 3], "classes": list(CLASSES)},
    }
    return Run(network.eval(), recipe, provenance)


@pytest.fixture(scope="session")
def tiny_bundle(
    untrained: Any, small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The exported bundle of `untrained`: images 32x32x3, three stages. Not to be changed."""
    pytest.importorskip("onnxscript")
    from offramp.export.bundle import Exporting, write_bundle
    from offramp.training.run import held_out

    out = tmp_path_factory.mktemp("tiny") / "bundle"
    held = held_out(untrained.recipe, small_data)
    exporting = Exporting(name="tiny", max_drop=0.01, provenance=untrained.provenance)
    return write_bundle(untrained.network, out, held, exporting)


@pytest.fixture
def plain_bundle(tmp_path: Path) -> Callable[[], Path]:
    """Writes a bundle of two stages, whose files are no ONNX but have the right hashes."""

    def write() -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir()
        stages = []
        for k in range(2):
            content = f"the layers of stage {k}".encode() * 20
            (folder / f"stage{k}.onnx").write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            stages.append(Stage(file=f"stage{k}.onnx", sha256=digest, logits=f"logits_{k}"))
        image = TensorSpec(name="image", dtype="uint8", shape=(4, 4, 1))
        codes = TensorSpec(name="codes_1", dtype="uint8", shape=(1, 2, 2), bits=4)
        network = Network(
            preparation=Preparation(mean=(0.5,), std=(0.5,)),
            classes=("cat", "dog"),
            boundaries=(
                Boundary(tensors=(image,)),
                Boundary(tensors=(codes,), codec=Codec(channels=1, bits=4, stride=2)),
            ),
            stages=tuple(stages),
        )
        nothing = dict.fromkeys(set(StageCost.model_fields) - {"boundary_bytes"}, 0)
        write_manifest(
            folder,
            Manifest(
                name="plain",
                network=network,
                costs=tuple(
                    StageCost(**nothing, boundary_bytes=b.size_bytes) for b in network.boundaries
                ),
                policies=(
                    ExitPolicy(name="half", exits=(ExitSetting(threshold=0.5), ExitSetting())),
                ),
                provenance={"command": "by hand"},
            ),
        )
        return folder

    return write
