"""No command prints text of somebody else's file as it is: it could drive a terminal or a job's log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from ckptaudit.cli import main
from tests.report.test_foreign_results import UNSEEN, assert_log

ATTACK = r"\u001b[31m\n::error::forged\r\u202e##vso[task.complete]"
CHECK = f"""[[check]]
id = "ours"
claim = "{ATTACK}"
source = "{ATTACK}"
metric = "relative_update_norm"
at_most = 1e-3
roles = ["embed_tokens"]
per = "layer"
breaks_when = "inflate_update"
remedy = "{ATTACK}"
"""


@pytest.fixture
def checks(tmp_path: Path) -> Path:
    path = tmp_path / "ours.toml"
    path.write_text(CHECK)
    return path


def test_checks_lists_claims_and_sources_of_a_foreign_file(
    checks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checks", str(checks)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert_log(lines)
    assert "::error::forged" in "".join(lines)
    assert len(lines) == 4


def test_explain_shows_a_foreign_claim_and_reason(
    checks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "ckptaudit.toml"
    config.write_text(f"""checks = ["{checks}"]

[[override]]
check = "ours"
at_most = 0.5
reason = "{ATTACK}"
""")
    assert main(["explain", "ours", "layers.1", "--config", str(config)]) == 0
    assert_log(capsys.readouterr().out.splitlines())


def test_rollouts_inspect_names_foreign_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.mkdir()
    row = {"step": 1, "input": ATTACK, "output": ATTACK, "score": 1.0}
    (log / "1.jsonl").write_text(json.dumps(row) + "\n")
    curves = tmp_path / "curves.jsonl"
    curves.write_text(json.dumps({"step": 1, json.loads(f'"{ATTACK}"'): 0.5}) + "\n")
    code = main(["rollouts", "inspect", str(log), "--scalars", str(curves)])
    printed = capsys.readouterr()
    assert_log((printed.out + printed.err).splitlines())
    assert code == 0, printed.err


def test_inspect_refuses_or_escapes_foreign_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    save_file({"model.norm.weight": np.zeros(2, "float32")}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(f'{{"model_type": "{ATTACK}"}}')
    assert main(["inspect", str(tmp_path)]) == 0
    assert_log(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    "arguments", [["checks"], ["inspect"], ["report"], ["probes", "check"], ["rollouts", "inspect"]]
)
def test_errors_show_no_foreign_path_as_it_is(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "no\x1b[31m\n::error::forged"]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert not UNSEEN.search(line)


def test_a_name_is_escaped_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "ckptaudit.toml"
    config.write_text('profile = "\\u001b[31mred"\n')
    assert main(["explain", "spectral-drift", "layers.1", "--config", str(config)]) == 4
    assert "'\\x1b[31mred'" in capsys.readouterr().err


def test_a_path_of_thousands_of_characters_is_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", f"/tmp/{'a' * 3000}"]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "aaa...aaa" in line
    assert len(line) < 600
