"""`offramp link list|show|compile|plot`: what they print and write, and what they refuse in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from offramp.cli import main
from offramp.links.timeline import read_timeline


def test_list_names_every_profile_and_marks_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["link", "list"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 13
    for row in rows:
        name, kind = row.split()[:2]
        assert (kind == "target") == name.endswith("-target") == ("not a measurement" in row)
    assert main(["link", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in told} == {"measured", "estimate", "target"}


def test_show_prints_tags_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["link", "show", "5g-sa-mid"]) == 0
    text = capsys.readouterr().out
    assert "events.handover.duration_ms: p0=50" in text
    assert "\n  measured: SIGCOMM'22" in text
    assert "\n  estimate: " in text
    assert main(["link", "show", "5g-urllc-target", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "target"


def test_compile_writes_the_same_file_for_the_same_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = str(tmp_path / f"{name}.csv")
        flags = ["--seed", str(seed), "--duration", "30", "--step-ms", "20", "--out", out]
        assert main(["link", "compile", "lte", *flags]) == 0
    a, b, c = ((tmp_path / f"{name}.csv").read_bytes() for name in "abc")
    assert a == b != c
    assert "lag-1 correlation" in capsys.readouterr().out
    assert len(read_timeline(tmp_path / "a.csv").up.state) == 1500


def test_a_trace_is_compiled_for_as_long_as_it_lasts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, out = tmp_path / "mine.txt", tmp_path / "t.csv"
    trace.write_text("0 10\n1 20\n2 30\n", encoding="utf-8")
    flags = ["--trace-up", str(trace), "--out", str(out), "--json"]
    assert main(["link", "compile", "wan-region", *flags]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["kind"], told["rows"]) == ("wan-region+mine", "trace", 60)
    assert sorted(set(read_timeline(out).up.rate_mbit.tolist())) == [10, 20, 30]


def test_plot_draws_a_profile_and_a_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    timeline = tmp_path / "t.csv"
    flags = ["--duration", "20", "--out"]
    assert main(["link", "compile", "5g-mmwave-drive", *flags, str(timeline)]) == 0
    for source in ("5g-embb-target", str(timeline)):
        picture = tmp_path / "picture.png"
        assert main(["link", "plot", source, *flags, str(picture)]) == 0
        assert picture.read_bytes()[:4] == b"\x89PNG"
        picture.unlink()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "5g-nsa-med"], "profile: there is no '5g-nsa-med'; near: 5g-nsa-mid"),
        (["compile", "lte", "--duration", "-1", "--out", "x"], "duration: -1 s"),
        (["compile", "lte", "--out", "absent/x"], "--out: the folder of absent/x does not exist"),
        (["compile", "lte", "--out", "."], "--out: . is a folder"),
        (["compile", "lte", "--trace-up", "absent", "--out", "x"], "absent: there is no such file"),
        (["plot", "lte", "--out", "absent/x"], "--out: the folder of absent/x does not exist"),
        (["plot", "lte", "--out", "."], "--out: . is a folder"),
        (["plot", "lte", "--out", "x.txt"], "--out: x.txt does not end in .png"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["link", *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_without_pyyaml_the_verb_says_which_extra_it_needs() -> None:
    program = (
        "import sys; sys.modules['yaml'] = None\n"
        "from offramp.cli import main; sys.exit(main(['link', 'list']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "needs the extra `links`" in done.stderr
    assert done.stderr.count("\n") == 1
