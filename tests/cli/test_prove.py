"""`ckptaudit checks --prove`: a user's checks broken by their own damage, or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptaudit.cli import main
from tests.conftest import FIXTURES

CHECK = """[[check]]
id = "{name}"
claim = "The update stays small."
source = "ours"
metric = "{metric}"
at_most = {limit}
roles = ["{roles}"]
per = "{per}"
breaks_when = "{damage}"
remedy = "Look."
"""


def written(folder: Path, **changes: object) -> Path:
    known: dict[str, object] = {
        "name": "ours",
        "metric": "relative_update_norm",
        "limit": 0.1,
        "roles": "matrix",
        "per": "layer",
        "damage": "scale_spectrum",
    }
    file = folder / f"{changes.get('name', 'ours')}.toml"
    file.write_text(CHECK.format(**{**known, **changes}))
    return file


@pytest.fixture
def pair(small_pair: tuple[Path, Path]) -> list[str]:
    base, tuned = map(str, small_pair)
    return ["--base", base, "--tuned", tuned]


def test_a_check_that_its_damage_breaks_is_proven(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checks", str(written(tmp_path)), "--prove", *pair]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ours: broken by scale_spectrum at layers.0, 0.4999 against <= 0.1"
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"limit": 10.0},
        {"damage": "rotate_principal_left", "limit": 10.0},
        {"metric": "unaligned_tensors", "per": "model", "limit": 0, "damage": "scale_spectrum"},
        {"damage": "poison_with_nan"},
    ],
    ids=["a limit too wide", "so with another damage", "a damage to something else", "what only cannot be judged"],
)
def test_a_check_that_holds_under_its_own_damage_ends_with_1_and_is_named(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object]
) -> None:
    good, bad = written(tmp_path, name="good"), written(tmp_path, name="bad", **changes)
    assert main(["checks", str(good), str(bad), "--prove", *pair]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("good: broken by") for line in printed)
    assert any(line.startswith("bad: NOT BROKEN by") for line in printed)


def test_every_bundled_check_of_a_profile_is_proven_on_a_good_pair(
    fixture_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ckptaudit.judging.profiles import profile_named

    files = [str(path) for path in profile_named("integrity").checks]
    pair = ["--base", str(fixture_pairs / "base"), "--tuned", str(fixture_pairs / "rlvr-gentle")]
    assert main(["checks", *files, "--prove", *pair]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": broken by ") == len(printed.splitlines()) == 5


def test_a_check_broken_before_any_damage_is_told_of(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checks", str(written(tmp_path, limit=1e-9)), "--prove", *pair]) == 0
    assert "note: already broken on the intact pair, at layers.0" in capsys.readouterr().out


def test_a_check_without_its_input_cannot_be_tried_and_says_so(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, metric="fisher_top_share", damage="write_on_sensitive_weights")
    assert main(["checks", str(file), "--prove", *pair]) == 0
    assert capsys.readouterr().out.splitlines() == ["ours: cannot be tried here: needs --fisher FILE"]


def test_with_its_input_it_is_proven(
    pair: list[str], small_pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(small_pair[0] / "model.safetensors")
    peaked = {name: torch.rand(weight.shape).pow(4) for name, weight in weights.items()}
    save_file(peaked, tmp_path / "fisher.safetensors")
    file = written(tmp_path, metric="fisher_weighted_ratio", limit=2.0, damage="write_on_sensitive_weights")
    assert main(["checks", str(file), "--prove", *pair, "--fisher", str(tmp_path / "fisher.safetensors")]) == 0
    assert "ours: broken by write_on_sensitive_weights at layers.0" in capsys.readouterr().out


def test_a_damage_without_its_input_ends_in_one_line_and_code_4(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, damage="write_on_sensitive_weights")
    assert main(["checks", str(file), "--prove", *pair]) == 4
    assert capsys.readouterr().err.splitlines() == ["ERROR: --fisher FILE is needed here and was not given."]


@pytest.mark.parametrize("missing", ["file", "--base", "--tuned"])
def test_what_is_missing_is_asked_for(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    given = [str(written(tmp_path))] if missing != "file" else []
    if missing in pair:
        at = pair.index(missing)
        pair = pair[:at] + pair[at + 2 :]
    assert main(["checks", *given, "--prove", *pair]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR: ")
    assert "--base PATH" in line


def test_a_check_of_behavior_is_proven_on_probes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (FIXTURES / "probes" / "task.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    probes = [{**json.loads(line), "id": f"p{at}"} for at, line in enumerate(lines)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, probes)))
    judged = [{"id": f"p{n}", "judge": "g", "choice": ("base", "tuned")[n % 2]} for n in range(6)]
    (tmp_path / "v.jsonl").write_text("\n".join(map(json.dumps, judged)))
    kind = {"roles": "all", "per": "probes"}
    kl = written(tmp_path, name="kl", metric="kl_tuned_base", limit=0.2, damage="noisy_layer", **kind)
    # The intact pair cannot be judged by an interval of six probes; its damage is plain all the same.
    wins = written(tmp_path, name="wins", metric="win_rate", limit=0.1, damage="worse_verdicts", **kind)
    wins.write_text(wins.read_text().replace("at_most", "at_least").replace("0.1", "0.45"))
    pair = ["--base", str(FIXTURES / "base"), "--tuned", str(FIXTURES / "rlvr-gentle")]
    given = ["--probes", str(tmp_path / "p.jsonl"), "--verdicts", str(tmp_path / "v.jsonl")]
    assert main(["checks", str(kl), str(wins), "--prove", *pair, *given]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("kl: broken by noisy_layer at probes, ")
    assert second == "wins: broken by worse_verdicts at probes, 0 against >= 0.45"


def test_a_check_of_behavior_without_probes_says_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kl = written(tmp_path, metric="kl_tuned_base", damage="noisy_layer", roles="all", per="probes")
    pair = ["--base", str(FIXTURES / "base"), "--tuned", str(FIXTURES / "rlvr-gentle")]
    assert main(["checks", str(kl), "--prove", *pair]) == 0
    assert capsys.readouterr().out == "ours: cannot be tried here: needs --probes FILE\n"
