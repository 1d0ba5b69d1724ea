"""Bundles by hand, and coroutines as tests."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")

from tests.serving import toy
from tests.serving.tiers import Program

MOST_S = 60.0  # of one test, before it counts as hung


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


@pytest.fixture(scope="session")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle "scores" of toy.py. Not to be changed."""
    return toy.scores_bundle(tmp_path_factory.mktemp("bundles") / "scores")


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle "raw" of toy.py. Not to be changed."""
    return toy.raw_bundle(tmp_path_factory.mktemp("bundles") / "raw")


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Starts programs that are killed, where they still run, when the test ends."""
    started: list[Program] = []

    def begin(tier: str, bundle: Path, *flags: str, **options: Any) -> Program:
        started.append(Program(tier, bundle, *flags, **options))
        return started[-1]

    yield begin
    for one in started:
        one.kill()
