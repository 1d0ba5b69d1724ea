"""Every input that fuzzing has found worth keeping is taken or refused as it should be."""

from __future__ import annotations

import pytest
from benchmarks.fuzz.target import TARGETS, corpus, target


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_of_the_corpus_break_nothing(name: str) -> None:
    one = target(name)
    inputs = [*one.seeds(), *(file.read_bytes() for file in corpus(name)), b""]
    with one.opened() as check:
        for data in inputs:
            check(data)
