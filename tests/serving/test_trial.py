"""What would end onnxruntime ends a child process, and the bundle is refused by name."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.serving import toy
from tests.serving.tiers import eventually
from tests.test_bundle import replace_stage

from offramp.bundle import Bundle, load_bundle
from offramp.errors import InvalidBundle, InvalidSettings
from offramp.serving.settings import Inference
from offramp.serving.trial import tried

ENDLESS = 2**63 - 1


def bundle_of(folder: Path, *nodes: Any, **constants: Any) -> Bundle:
    """One stage, x_1 (3,) float32 -> logits_0 (3,) float32, of such nodes."""
    toy.single_bundle(folder)
    x, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3])
        for name in ("x_1", "logits_0")
    )
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "stage", [x], [logits], tensors)
    opset = helper.make_opsetid("", 20)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    replace_stage(folder, 0, model.SerializeToString())
    return load_bundle(folder)


def node(kind: str, takes: Sequence[str], gives: str, **attributes: Any) -> Any:
    return helper.make_node(kind, takes, [gives], **attributes)


def endless(folder: Path) -> Bundle:
    """A legitimate graph, whose loop goes round 2^63 times."""

    def value(name: str, kind: int, shape: Sequence[int]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [node("Identity", ["on"], "still_on"), node("Add", ["sum", "one"], "more")],
        "body",
        [
            value("round", TensorProto.INT64, []),
            value("on", TensorProto.BOOL, []),
            value("sum", TensorProto.FLOAT, []),
        ],
        [value("still_on", TensorProto.BOOL, []), value("more", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.float32(1), "one")],
    )
    return bundle_of(
        folder,
        node("ReduceMean", ["x_1"], "begin", keepdims=0),
        node("Loop", ["rounds", "yes", "begin"], "end", body=body),
        node("Add", ["x_1", "end"], "logits_0"),
        rounds=np.int64(ENDLESS),
        yes=np.bool_(True),
    )


async def refused(bundle: Bundle, **options: Any) -> str:
    with pytest.raises(InvalidBundle) as caught:
        await tried(bundle, bundle.held, **options)
    assert caught.value.field.startswith(str(bundle.folder / "stage0.onnx"))
    return caught.value.message


async def test_stages_that_can_be_opened_and_computed_pass(scores: Path) -> None:
    bundle = load_bundle(scores)
    await tried(bundle, bundle.held, Inference(batch=4))


async def test_a_stage_that_ends_onnxruntime_as_it_is_opened_ends_a_child(tmp_path: Path) -> None:
    """Its shape inference reads before a vector (onnxruntime 1.32)."""
    bundle = bundle_of(
        tmp_path / "bundle",
        node("GatherND", ["x_1", "where"], "unused", batch_dims=-(2**31)),
        node("Identity", ["x_1"], "logits_0"),
        where=np.zeros((2, 2), np.int64),
    )
    assert await refused(bundle) == "loading it ended a child process with SIGSEGV"


async def test_a_stage_that_ends_onnxruntime_as_it_computes_ends_a_child(tmp_path: Path) -> None:
    """A frame of no length: a division by zero (onnxruntime 1.32)."""
    bundle = bundle_of(
        tmp_path / "bundle",
        node("Unsqueeze", ["x_1", "last"], "signal"),
        node("STFT", ["signal", "step", "", "length"], "spectra"),
        node("ReduceMean", ["spectra"], "mean", keepdims=0),
        node("Add", ["x_1", "mean"], "logits_0"),
        last=np.array([2]),
        step=np.int64(2),
        length=np.int64(0),
    )
    assert await refused(bundle) == "loading it ended a child process with SIGFPE"


async def test_a_stage_that_does_not_end_is_not_waited_for(tmp_path: Path) -> None:
    said = await refused(endless(tmp_path / "bundle"), timeout_s=8)
    assert said == "loading it kept a child process longer than 8 s"


@pytest.mark.parametrize("values", [2**40, 2**30], ids=["terabytes", "gigabytes"])
async def test_a_stage_that_takes_all_memory_is_refused(tmp_path: Path, values: int) -> None:
    bundle = bundle_of(
        tmp_path / "bundle",
        node("ReduceMax", ["x_1"], "one", keepdims=0),
        node("Expand", ["one", "size"], "many"),
        node("ReduceMean", ["many"], "mean", keepdims=0),
        node("Add", ["x_1", "mean"], "logits_0"),
        size=np.array([values]),
    )
    assert await refused(bundle) == "cannot compute on a sample of zeros"


async def test_what_the_child_finds_wrong_is_what_is_said(tmp_path: Path) -> None:
    custom = node("PyOp", ["x_1"], "logits_0", domain="ai.onnx.contrib")
    said = await refused(bundle_of(tmp_path / "bundle", custom))
    assert said == "'PyOp' is of 'ai.onnx.contrib', not one of ONNX's own operators"
    fine = load_bundle(toy.single_bundle(tmp_path / "fine"))
    with pytest.raises(InvalidSettings, match=r"inference\.provider: 'tensorrt' is not in"):
        await tried(fine, fine.held, Inference(provider="tensorrt"))


async def test_a_child_tries_nothing_but_what_was_checked(tmp_path: Path) -> None:
    checked = load_bundle(toy.single_bundle(tmp_path / "bundle"))
    other = bundle_of(tmp_path / "other", node("Neg", ["x_1"], "logits_0"))
    shutil.copytree(other.folder, checked.folder, dirs_exist_ok=True)
    with pytest.raises(InvalidBundle, match="bundle: has changed since it was checked"):
        await tried(checked, checked.held)


async def test_the_child_knows_no_secret_and_goes_with_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFRAMP_TOKEN", "a-secret")
    bundle = endless(tmp_path / "bundle")
    trial = asyncio.create_task(tried(bundle, bundle.held))
    await eventually(lambda: _child() is not None)
    child = _child()
    assert child is not None
    assert b"a-secret" not in _environment(child)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert _child() is None


def _environment(process: int) -> bytes:
    return Path(f"/proc/{process}/environ").read_bytes()


def _child() -> int | None:
    """The process that runs a trial for this one, once it does."""
    for thread in Path(f"/proc/{os.getpid()}/task").iterdir():
        for child in (thread / "children").read_text().split():
            if b"offramp.serving.trial" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return None
