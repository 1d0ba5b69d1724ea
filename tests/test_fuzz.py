"""Every input that fuzzing has found worth keeping is taken or refused as it should be."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

import pytest
from benchmarks.fuzz.__main__ import broken
from benchmarks.fuzz.keep import arcs_of, few
from benchmarks.fuzz.mutating import of_json, of_protobuf
from benchmarks.fuzz.rows import bars, markdown
from benchmarks.fuzz.target import TARGETS, corpus, target
from google.protobuf.message import DecodeError

from offramp.bundle import Manifest
from offramp.bundle.graph import check_graph
from offramp.bundle.v1 import stage_pb2 as stage_pb
from offramp.errors import InvalidBundle
from offramp.rpc.v1 import tier_pb2 as pb


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


def test_inputs_are_changed_as_what_they_are_and_the_same_again_for_a_seed() -> None:
    def reversed_(data: bytes) -> bytes:
        return data[::-1]

    stage, manifest = target("stages").seeds()[0], target("manifests").seeds()[0]
    streams = target("requests").seeds()[3]
    between = b"\xde\xad\xbe\xef"
    for data, mutate, reads in (
        (stage, of_protobuf(stage_pb.Model, reversed_), stage_pb.Model.FromString),
        (manifest, of_json(reversed_), json.loads),
        (streams, of_protobuf(pb.Request, reversed_, between), _read_all),
    ):
        made = [mutate(data, 4096, seed) for seed in range(60)]
        assert made == [mutate(data, 4096, seed) for seed in range(60)]
        assert max(map(len, made)) <= 4096
        assert len({one for one in made if one != data and _is_read(reads, one)}) > 15
        assert mutate(b"\xff\xff", 4096, 1) == b"\xff\xff"  # nothing to know its parts by
        assert len(mutate(data, 10, 1)) <= 10


def _read_all(data: bytes) -> None:
    for part in data.split(b"\xde\xad\xbe\xef"):
        pb.Request.FromString(part)


def _is_read(reads: Callable[[bytes], object], data: bytes) -> bool:
    try:
        reads(data)
    except (ValueError, DecodeError):
        return False
    return True


def test_few_inputs_reach_what_all_of_them_reach() -> None:
    reached = {b"a": {("f", 0, 1)}, b"b" * 999: {("f", 0, 1), ("f", 1, 2)}, b"c": {("f", 1, 2)}}
    assert few(reached, set()) == [b"c", b"a"]
    assert few(reached, {("f", 0, 1)}) == [b"c"]
    assert few({}, set()) == []


def test_what_an_input_reaches_are_the_lines_of_offramp() -> None:
    def check(data: bytes) -> None:
        with contextlib.suppress(InvalidBundle):
            check_graph(data, "stage0.onnx")

    nothing, graph = arcs_of(check, b"\xff"), arcs_of(check, b"\x3a\x00")
    assert nothing != graph
    assert {file.rpartition("/")[2] for file, _, _ in nothing} == {"graph.py", "errors.py"}


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("\n === Uncaught Python exception: ===\nIndexError: no\nTraceback", "IndexError: no"),
        ("==1== ERROR: libFuzzer: timeout after 11 seconds\nSUMMARY", "timeout after 11 seconds"),
        ("killed", "killed"),
        ("", "no word"),
    ],
)
def test_what_broke_is_said(said: str, what: str) -> None:
    assert broken(said) == what


def test_a_run_in_figures() -> None:
    row = {
        "target": "stages",
        "seconds": 10,
        "inputs": 600_000,
        "reached": 66,
        "features": 294,
        "corpus": 46,
        "slowest_ms": 1.25,
        "memory_mb": [100.0, 110.0],
        "broke": "",
    }
    worse = {**row, "memory_mb": [100.0, 151.0], "broke": "IndexError: no"}
    assert [one["holds"] for one in bars([row, row], 1_000_000)] == [True, True, True]
    assert [one["holds"] for one in bars([row], 1_000_000)] == [False, True, True]
    found = {"seconds": 10, "rows": [row, worse], "bars": bars([row, worse], 1_000_000)}
    assert [one["holds"] for one in found["bars"]] == [True, False, False]
    page = markdown({"command": "python -m benchmarks.fuzz", "found": found})
    assert "| the check of a stage | 600,000 | 60,000 |" in page
    assert "| IndexError: no |" in page
    assert "| inputs | 1,200,000 | at least 1,000,000 | reached |" in page
