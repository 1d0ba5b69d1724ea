"""Every input that fuzzing has found worth keeping is taken or refused as it should be."""

from __future__ import annotations

import pytest
from benchmarks.fuzz.target import TARGETS, corpus, target

from offramp.bundle import Manifest
from offramp.bundle.graph import check_graph


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_of_the_corpus_break_nothing(name: str) -> None:
    one = target(name)
    inputs = [*one.seeds(), *(file.read_bytes() for file in corpus(name)), b""]
    with one.opened() as check:
        for data in inputs:
            check(data)


def test_what_the_fuzzer_begins_with_is_taken_and_not_only_refused() -> None:
    stage, manifest = target("stages").seeds()[0], target("manifests").seeds()[1]
    check_graph(stage, "stage0.onnx")
    boundaries = Manifest.model_validate_json(manifest).network.boundaries
    assert [boundary.coding is not None for boundary in boundaries] == [False, True, False]
