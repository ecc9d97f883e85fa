"""`init` writes what the gate then obeys, for what it finds, and replaces nothing unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from ckptaudit.cli import main
from ckptaudit.cli.init import CI
from ckptaudit.cli.surroundings import look_around
from ckptaudit.judging.config import load_config


@pytest.fixture
def project(tmp_path: Path, fixture_pairs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base and a run, in which the test runs."""
    for name, place in (("base", "base"), ("rlvr-gentle", "runs/42/checkpoint-70")):
        shutil.copytree(fixture_pairs / name, tmp_path / place)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(folder: Path, **logged: float) -> None:
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": [logged]}))


def test_it_finds_the_pair_and_writes_what_the_gate_reads(project: Path) -> None:
    assert main(["init", "--yes", "--ci=github"]) == 0
    assert load_config(Path("ckptaudit.toml")).profile == "release"
    job = yaml.safe_load(Path(CI["github"]).read_text())["jobs"]["audit"]
    (gate,) = [step["run"] for step in job["steps"] if "audit" in step.get("run", "") and "==" not in step["run"]]
    assert "--base=base --tuned=runs/42/checkpoint-70 " in gate
    assert main(["audit", *gate.split()[2:4], "-q", "-k", "finite"]) == 0


@pytest.mark.parametrize(
    ("logged", "profile"),
    [({"reward": 0.5}, "release"), ({"loss": 2.0}, "release_sft"), ({"kl": 0.1, "loss": 1.0}, "release")],
)
def test_the_trainer_s_log_tells_the_profile(logged: dict[str, float], profile: str, project: Path) -> None:
    trained(project / "runs/42/checkpoint-70", **logged)
    assert look_around(Path()).profile == profile


def test_an_adapter_names_its_base_and_its_profile(project: Path, fixture_pairs: Path) -> None:
    shutil.copytree(fixture_pairs / "lora", project / "adapter")
    config = json.loads((project / "adapter" / "adapter_config.json").read_text())
    (project / "adapter" / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "org/model"})
    )
    seen = look_around(Path())
    assert (seen.base, seen.tuned, seen.profile) == ("org/model", "adapter", "release_lora")


@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_the_ci_that_is_there_is_told_by_its_files(ci: str, project: Path) -> None:
    if ci == "github":
        (project / ".github").mkdir()
    else:
        (project / ".git").mkdir()
        (project / ".git" / "config").write_text('[remote "origin"]\n\turl = git@gitlab.example.org:a/b.git\n')
    assert main(["init", "--yes"]) == 0
    assert "ckptaudit==" in Path(CI[ci]).read_text()


def test_nothing_is_replaced_without_force(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ckptaudit.toml").write_text("# ours\n")
    assert main(["init", "--yes"]) == 4
    assert "--force" in capsys.readouterr().err
    assert Path("ckptaudit.toml").read_text() == "# ours\n"
    assert main(["init", "--yes", "--force"]) == 0
    assert "profile" in Path("ckptaudit.toml").read_text()


def test_answers_are_taken_and_asked_for(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init"]) == 4
    assert "nobody is there to be asked" in capsys.readouterr().err
    answers = iter(["", "my runs/latest", "sft", "gitlab"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    assert main(["init"]) == 0
    assert load_config(Path("ckptaudit.toml")).profile == "sft"
    job = yaml.safe_load(Path(CI["gitlab"]).read_text())["checkpoint-audit"]
    assert "--base=base --tuned='my runs/latest' " in job["script"][1]


@pytest.mark.parametrize("path", ["a'; rm -rf x; '", "${{ secrets.KEY }}", "a: b", "a #b", "$(id)", "a\nb", "`id`"])
def test_no_path_can_write_commands_into_a_ci_file(
    path: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = project / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": path}))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    assert main(["init", "--yes", "--ci=github"]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR: --base ")
    assert not Path(CI["github"]).exists()


def test_looking_around_ends_and_follows_no_links(project: Path) -> None:
    (project / "loop").symlink_to(project)
    (project / "runs" / "42" / "checkpoint-70" / "trainer_state.json").write_text("[" * 10_000)
    assert len(look_around(Path()).checkpoints) == 2


@pytest.mark.parametrize("answer", [["--profile=nope"], ["--base=a'b"]])
def test_answers_that_cannot_be_are_one_line(
    answer: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--yes", *answer]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1
