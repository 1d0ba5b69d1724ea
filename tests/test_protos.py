"""The generated code is what `make protos` makes of protos/."""

from __future__ import annotations

from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).parent.parent


def test_generated_code_is_what_the_protos_say(tmp_path: Path) -> None:
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    command = [
        "protoc",
        f"-I{ROOT / 'protos'}",
        f"-I{well_known}",
        f"--python_out={tmp_path}",
        f"--pyi_out={tmp_path}",
        f"--grpc_python_out={tmp_path}",
        str(ROOT / "protos/offramp/rpc/v1/tier.proto"),
    ]
    assert protoc.main(command) == 0
    made = sorted((tmp_path / "offramp/rpc/v1").iterdir())
    assert [file.name for file in made] == ["tier_pb2.py", "tier_pb2.pyi", "tier_pb2_grpc.py"]
    for file in made:
        committed = ROOT / "src/offramp/rpc/v1" / file.name
        assert committed.read_text() == file.read_text(), f"{file.name}: run `make protos`"
