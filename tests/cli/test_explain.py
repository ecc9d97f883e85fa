"""`ckptaudit explain`: limits, their makers, and the margin of the last result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ckptaudit
from ckptaudit.cli import main
from ckptaudit.results.json_io import write_json
from tests.conftest import FIXTURES

CONFIG = """
profile = "integrity"
checks = ["ours.toml"]

[[override]]
check = "ours"
roles = ["q_proj"]
at_most = 0.5
reason = "faster"

[[override]]
check = "ours"
layers = [1]
at_most = 0.25
reason = "trusted runs"
origin = "calibration"

[[waiver]]
check = "ours"
subject = "layers.0"
until = 9999-12-31
reason = "known"
"""

OURS = """
[[check]]
id = "ours"
claim = "Ours."
source = "our notes"
metric = "relative_update_norm"
at_most = 1e-5
roles = ["all"]
per = "layer"
breaks_when = "inflate_update"
remedy = "Look."
"""


@pytest.fixture
def folder(tmp_path: Path, small_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and the JSON of an audit by it."""
    (tmp_path / "ours.toml").write_text(OURS)
    (tmp_path / "ckptaudit.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    result = ckptaudit.audit(*small_pair, config=tmp_path / "ckptaudit.toml", cache="off")
    write_json(result, tmp_path / "audit.json")
    return tmp_path


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["explain", *arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_it_tells_every_maker_of_a_limit_and_which_is_in_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = explained(capsys, "ours", "layers.0")
    assert "set by check: <= 1e-05 in ours.toml; our notes" in said
    assert "moved by override: <= 0.5 for roles q_proj; override 1 of ckptaudit.toml: faster" in said
    assert "moved by calibration: <= 0.25 for layers 1; override 2 of ckptaudit.toml: trusted runs" in said
    assert "in force <= 0.5 for model.layers.0.self_attn.q_proj.weight, from override 1" in said
    assert "in force <= 1e-05 for model.layers.0.input_layernorm.weight, from check in ours.toml" in said
    assert "waiver waiver 1 of ckptaudit.toml, until 9999-12-31: known" in said


def test_it_tells_the_margin_of_the_last_result_against_the_limit_as_it_is_now(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = explained(capsys, "ours", "layers.1")
    assert "in force <= 0.25, from calibration, override 2 of ckptaudit.toml: trusted runs" in said
    assert "last result passed:" in said
    assert "inside the limit <= 0.25" in said
    config = folder / "ckptaudit.toml"
    config.write_text(config.read_text().replace("0.25", "1e-9"))
    again = explained(capsys, "ours", "layers.1")
    assert "outside the limit <= 1e-09, judged then by <= 0.25" in again


def test_it_explains_a_tensor_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = explained(capsys, "ours", "model.layers.0.self_attn.q_proj.weight")
    assert "in force <= 0.5, from override 1" in said


def test_without_a_checkpoint_it_says_what_it_cannot_know(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "audit.json").unlink()
    said = explained(capsys, "ours", "layers.1")
    assert "--base PATH tells which" in said
    assert "last result none" in said
    assert "in force <= 0, from check in integrity.toml" in explained(capsys, "finite", "layers.1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["our", "layers.0"], "did you mean ours"),
        (["ours", "layer.0"], "did you mean layers.0"),
        (["ours", "layers.0", "--config", "nowhere.toml"], "no such configuration file"),
        (["ours", "layers.0", "--profile", "rl"], "choose one of release, release_sft"),
        (["ours", "layers.0", "--result", "ours.toml"], "not the result of an audit"),
        (["ours", "layers.0", "--base", "nowhere"], "nowhere: no such file"),
    ],
)
def test_unknown_names_end_with_code_4_and_the_nearest(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["explain", *arguments]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_check_that_joins_for_an_input_is_found_in_any_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for check in ("kl-task", "win-rate", "drift-growth", "kl-step-growth"):
        assert main(["explain", check, "probes"]) == 0
    said = capsys.readouterr().out
    assert "<= 0.2, from check in behavior.toml" in said
    assert ">= 0.45, from check in verdicts.toml" in said


def test_a_probe_set_is_explained_by_what_its_verdict_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    probes = FIXTURES / "probes" / "task.jsonl"
    lines = probes.read_text(encoding="utf-8").splitlines()[:6]
    (tmp_path / "p.jsonl").write_text("\n".join({json.dumps({**json.loads(at), "set": "task"}) for at in lines}))
    (tmp_path / "kl.toml").write_text(
        OURS.replace("relative_update_norm", "kl_tuned_base").replace('"layer"', '"probe_set"')
        .replace("inflate_update", "noisy_layer")
    )  # fmt: skip
    (tmp_path / "ckptaudit.toml").write_text('profile = "integrity"\nchecks = ["kl.toml"]\n')
    result = ckptaudit.audit(
        FIXTURES / "base", FIXTURES / "rlvr", config=tmp_path / "ckptaudit.toml", cache="off",
        inputs={"probes": tmp_path / "p.jsonl"},
    )  # fmt: skip
    write_json(result, tmp_path / "audit.json")
    assert main(["explain", "ours", "set task"]) == 0
    assert "last result  failed: 0." in (said := capsys.readouterr().out)
    assert "outside the limit <= 1e-05" in " ".join(said.split())
    assert main(["explain", "ours", "set other"]) == 0
    assert "it holds no value of set other" in capsys.readouterr().out
