"""The generated code is what `make protos` makes of protos/."""

from __future__ import annotations

from pathlib import Path

import grpc_tools
import pytest
from grpc_tools import protoc

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("package", "name", "kinds"),
    [
        ("offramp/rpc/v1", "tier", ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")),
        ("offramp/bundle/v1", "stage", ("_pb2.py", "_pb2.pyi")),
    ],
)
def test_generated_code_is_what_the_protos_say(
    package: str, name: str, kinds: tuple[str, ...], tmp_path: Path
) -> None:
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    command = [
        "protoc",
        f"-I{ROOT / 'protos'}",
        f"-I{well_known}",
        f"--python_out={tmp_path}",
        f"--pyi_out={tmp_path}",
        str(ROOT / "protos" / package / f"{name}.proto"),
    ]
    if "_pb2_grpc.py" in kinds:
        command.insert(1, f"--grpc_python_out={tmp_path}")
    assert protoc.main(command) == 0
    made = sorted((tmp_path / package).iterdir())
    assert [file.name for file in made] == [f"{name}{kind}" for kind in kinds]
    for file in made:
        committed = ROOT / "src" / package / file.name
        assert committed.read_text() == file.read_text(), f"{file.name}: run `make protos`"
