"""What the page on probes shows is what the program reads and prints."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from ckptaudit.behavior.probe_lines import KEYS, SHAPES
from ckptaudit.behavior.probes import read_probes
from ckptaudit.behavior.verdict_files import KEYS as VERDICT_KEYS
from ckptaudit.behavior.verdict_files import read_verdicts
from ckptaudit.cli import main
from tests.conftest import package

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "probes.md").read_text()
SHOWN = re.findall(r"```json\n(.*?)```", PAGE, re.S)
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^    (ckptaudit probes .*)$", PAGE, re.M)]


def test_the_lines_shown_are_probes(tmp_path: Path) -> None:
    shown, _ = SHOWN
    path = tmp_path / "p.jsonl"
    path.write_text(shown)
    assert len(read_probes(path)) == len(shown.splitlines())


def test_the_lines_shown_are_verdicts(tmp_path: Path) -> None:
    _, shown = SHOWN
    path = tmp_path / "v.jsonl"
    path.write_text(shown)
    assert len(read_verdicts(path, {"u7", "i3"}).rows) == len(shown.splitlines())


def test_every_key_and_every_kind_has_its_row() -> None:
    rows = "".join(line for line in PAGE.splitlines() if line.startswith("|"))
    assert [key for key in (*KEYS, *VERDICT_KEYS) if f"`{key}`" not in rows] == []
    assert [kind for kind in SHAPES.values() if f"| {kind} |" not in rows] == []


def test_the_check_shown_prints_what_the_page_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ((command, printed),) = re.findall(r"^    \$ ckptaudit (.*)\n\n```text\n(.*?)```", PAGE, re.S | re.M)
    monkeypatch.chdir(ROOT)
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[3])
def test_the_commands_shown_make_probes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = Path(command[3])
    if source.suffix == ".parquet":
        table = package("pyarrow").Table.from_pylist([{"prompt": "Q", "completion": " a"}])
        package("pyarrow.parquet").write_table(table, source)
    else:
        source.write_text(json.dumps({"question": "2+2?", "answer": "4"}))
    assert main(command) == 0
    assert ": 1 probes" in capsys.readouterr().out
