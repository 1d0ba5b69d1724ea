"""A module on its way to ONNX, and where it stops: at which operator, in which submodule.

    module --torch.export--> program of operators --torch.onnx--> graph

torch says where in pages of a stack trace; a user needs the operator and the submodule, in one line.
"""

from __future__ import annotations

import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import (
    ConstraintViolationError,
    GuardOnDataDependentSymNode,
)
from torch.onnx import OnnxExporterError, ONNXProgram

import offramp
from offramp.errors import InvalidInput

BATCH = "batch"  # the name of the dynamic size
FIELD = "backbone"
_CHATTY = (  # of torchvision that is not there, and of user code that it cannot find
    "torch.onnx._internal.exporter._registration",
    "torch.fx.experimental.symbolic_shapes",
)
_NOT_THE_USERS = (Path(torch.__file__).parent, Path(offramp.__file__).parent)
_OPERATOR = re.compile(r"OpOverload\(op='([\w.:]+)'")
_NODE = re.compile(r"(?:While executing|translating node) %(\w+)")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what torch says of itself."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        # A failing torch.export prints graphs to stderr.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__


def _where(exc: BaseException, network: nn.Module) -> str:
    """The innermost submodule of a traceback, and the last line of code that is the user's."""
    names = {id(module): name for name, module in network.named_modules()}
    found = ""
    frames = exc.__traceback__
    while frames is not None:
        found = names.get(id(frames.tb_frame.f_locals.get("self")), "") or found
        frames = frames.tb_next
    code = [
        frame.line
        for frame in traceback.extract_tb(exc.__traceback__)
        if frame.line and not any(map(Path(frame.filename).is_relative_to, _NOT_THE_USERS))
    ]
    return f"{_named(found)}, at `{code[-1]}`" if code else _named(found)


def _named(path: str) -> str:
    """A submodule as the backbone's own `named_modules()` names it."""
    path = path.removeprefix("backbone").removeprefix(".")
    return f" in {path!r}" if path else ""


def capture(module: nn.Module, inputs: Tensor, network: nn.Module) -> ExportedProgram:
    """The operators that `module` calls on inputs of (batch, ...), of any batch size.

    network: what `module` wraps, to name its submodules. Raises InvalidInput naming the submodule
    and the line where the forward pass cannot be followed.
    """
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(
                module, (inputs,), dynamic_shapes=({0: Dim(BATCH)},), strict=False
            )
    except Exception as exc:  # a forward pass, which is the user's own code, may raise anything
        if isinstance(exc.__context__, ConstraintViolationError):
            message = "its forward pass fixes the batch size (by len(), perhaps)"
        elif isinstance(exc, GuardOnDataDependentSymNode):
            message = f"its forward pass goes by the values of a tensor{_where(exc, network)}"
        else:
            message = f"torch.export cannot follow it{_where(exc, network)}: {_first_line(exc)}"
        raise InvalidInput(FIELD, message) from exc


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__


def _operator(node: torch.fx.Node) -> str:
    """An operator's name without its overload, like aten.view."""
    return str(node.target).rpartition(".")[0]


def _submodule(node: torch.fx.Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0].removeprefix("network.") if stack else ""


def _untranslated(exc: OnnxExporterError, program: ExportedProgram) -> str:
    """The operator that a translation failed at, with its submodule, as far as torch says it."""
    said = "\n".join(str(link) for link in _chain(exc))
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    if (match := _OPERATOR.search(said)) is not None:
        with suppress(Exception), _quiet():  # a second failure must not hide the first
            # The translator takes operators apart before it misses one.
            nodes += program.run_decompositions().graph.nodes
        found = [node for node in nodes if _operator(node) == match[1]]
        return match[1] + (_named(_submodule(found[0])) if found else "")
    if (match := _NODE.search(said)) is not None:
        found = [node for node in nodes if node.name == match[1]]
        return _operator(found[0]) + _named(_submodule(found[0])) if found else match[1]
    return _first_line(exc)


def translate(
    program: ExportedProgram, inputs: str, outputs: Sequence[str], opset: int
) -> ONNXProgram:
    """The program as ONNX, not optimised. Raises InvalidInput naming the operator that is in its way."""
    try:
        with _quiet(), torch.no_grad():
            translated = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=[inputs],
                output_names=list(outputs),
                dynamic_shapes=({0: BATCH},),
                optimize=False,
                verbose=False,
            )
    except OnnxExporterError as exc:
        message = f"ONNX has no translation for the operator {_untranslated(exc, program)}"
        raise InvalidInput(FIELD, message) from exc
    assert translated is not None  # noqa: S101 (narrows the type; None is for the old exporter)
    return translated
