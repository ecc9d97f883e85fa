"""Limits learned from trusted runs: what they are made of, what is refused, and the round trip."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptaudit
from ckptaudit.cli import main

Make = Callable[[str, float], Path]

NAMES = [f"model.layers.{i}.self_attn.{role}.weight" for i in range(2) for role in ("q_proj", "v_proj")]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    random = torch.Generator().manual_seed(0)
    (tmp_path / "base").mkdir()
    tensors = {name: torch.randn(32, 24, generator=random) for name in NAMES}
    tensors |= {f"model.layers.{i}.input_layernorm.weight": torch.randn(24, generator=random) for i in range(2)}
    save_file(tensors, tmp_path / "base" / "model.safetensors")
    return tmp_path / "base"


@pytest.fixture
def make(base: Path) -> Make:
    """A run whose update is so large against the base; the second layer moves a tenth as far."""

    def made(name: str, size: float) -> Path:
        random = torch.Generator().manual_seed(sum(map(ord, name)))
        after = {}
        for key, weight in load_file(base / "model.safetensors").items():
            noise = torch.randn(weight.shape, generator=random)
            after[key] = weight + size * (0.1 if ".1." in key else 1.0) * noise * weight.norm() / noise.norm()
        folder = base.with_name(name)
        folder.mkdir()
        save_file(after, folder / "model.safetensors")
        return folder

    return made


def calibrated(base: Path, runs: list[Path], output: Path, *more: str) -> int:
    tuned = [f"--tuned={run}" for run in runs]
    return main(["calibrate", f"--base={base}", *tuned, "-o", str(output), *more])


def overrides(file: Path, check: str) -> dict[tuple[str, int | None], float]:
    tables = tomllib.loads(file.read_text())["override"]
    return {
        (t.get("roles", [""])[0], t.get("layers", [None])[0]): t.get("at_most", t.get("at_least"))
        for t in tables
        if t["check"] == check
    }


def test_the_runs_pass_the_file_they_wrote_and_a_larger_step_does_not(
    base: Path, make: Make, tmp_path: Path
) -> None:
    runs = [make("a", 1e-3), make("b", 1.1e-3), make("c", 0.9e-3)]
    file = tmp_path / "learned.toml"
    assert calibrated(base, runs, file, "--profile=sft") == 0

    for run in runs:
        assert ckptaudit.audit(base, run, config=file, complete=False, cache="off").passed
    worse = ckptaudit.audit(base, make("d", 1e-2), config=file, complete=False, cache="off")
    assert {"update-size", "spectral-drift"} <= {v.check for v in worse.verdicts if v.outcome == "failed"}
    assert all("calibration" in v.limit_from for v in worse.verdicts if v.check == "update-size")


def test_limits_leave_the_margin_and_layers_that_move_less_get_their_own(
    base: Path, make: Make, tmp_path: Path
) -> None:
    file = tmp_path / "learned.toml"
    calibrated(base, [make("a", 0.1)], file, "--profile=sft", "--margin=2")
    found = overrides(file, "update-size")
    assert found["q_proj", None] == pytest.approx(0.2, rel=1e-2)
    # One limit for the role would leave the second layer ten times the room that its run asks for.
    assert found["q_proj", 1] == pytest.approx(0.02, rel=1e-2)
    assert ("q_proj", 0) not in found


def test_the_file_says_what_so_few_runs_support(base: Path, make: Make, tmp_path: Path) -> None:
    file = tmp_path / "learned.toml"
    calibrated(base, [make("a", 1e-3), make("b", 1.1e-3)], file, "--profile=sft")
    text = file.read_text()
    assert "mean + 20.58 deviations covers 90% of such runs" in text
    assert "the worst of 2 covers 90% of such runs is 19% certain" in text
    assert "# 0.0011" in text
    assert f"b, {NAMES[0]}" in text


def test_the_same_runs_write_the_same_file(base: Path, make: Make, tmp_path: Path) -> None:
    runs = [make("a", 1e-3), make("b", 1.1e-3)]
    for name in ("one.toml", "two.toml"):
        calibrated(base, runs, tmp_path / name, "--profile=sft")
    assert (tmp_path / "one.toml").read_bytes() == (tmp_path / "two.toml").read_bytes()


def test_saves_of_one_run_count_as_one_run(base: Path, make: Make, tmp_path: Path) -> None:
    for step, size in ((10, 1e-3), (20, 1.4e-3)):
        make(f"run-checkpoint-{step}", size)
    file = tmp_path / "learned.toml"
    calibrated(base, [tmp_path / "run-checkpoint-*"], file, "--profile=sft")
    assert "One run supports no statement" in file.read_text()


def test_a_file_that_is_there_is_left_alone(base: Path, make: Make, tmp_path: Path) -> None:
    file = tmp_path / "ckptaudit.toml"
    file.write_text("# mine\n")
    run = make("a", 1e-3)
    assert calibrated(base, [run], file, "--profile=sft") == 4
    assert file.read_text() == "# mine\n"
    assert calibrated(base, [run], file, "--profile=sft", "--overwrite") == 0


def test_no_limit_is_loosened_past_a_published_separation_without_force(
    base: Path, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = make("a", 0.05), tmp_path / "learned.toml"
    assert calibrated(base, [run], file, "--profile=rlvr") == 4
    said = capsys.readouterr().err
    assert "spectral-drift" in said
    assert "past 0.001 (arXiv:2606.07082" in said
    assert not file.exists()
    assert calibrated(base, [run], file, "--profile=rlvr", "--force") == 0
    assert "FORCED past the published separation" in file.read_text()
    assert ckptaudit.audit(base, run, config=file, complete=False, cache="off").passed


def test_a_run_that_is_not_finite_teaches_nothing(
    base: Path, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make("a", 1e-3)
    tensors = load_file(run / "model.safetensors")
    tensors[NAMES[0]][0, 0] = float("nan")
    save_file(tensors, run / "model.safetensors")
    assert calibrated(base, [run], tmp_path / "learned.toml", "--profile=sft") == 4
    assert "finite[layers.0] fails" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--margin=0.5", "--coverage=1", "--confidence=0"])
def test_settings_out_of_range_are_refused(base: Path, tmp_path: Path, option: str) -> None:
    assert calibrated(base, [base], tmp_path / "learned.toml", option) == 4


def test_real_runs_of_one_recipe_pass_the_limits_they_set_and_a_stronger_run_does_not(
    fixture_pairs: Path, tmp_path: Path
) -> None:
    for name in ("base", "rlvr-gentle", "rlvr-gentle-seed1", "rlvr-gentle-seed2", "rlvr"):
        tensors = load_file(fixture_pairs / name / "model.safetensors")
        (tmp_path / name).mkdir()
        kept = {k: v for k, v in tensors.items() if "layers.1.self_attn" in k or "layers.1.input" in k}
        save_file(kept, tmp_path / name / "model.safetensors")
    file = tmp_path / "learned.toml"
    gentle = [tmp_path / "rlvr-gentle", *sorted(tmp_path.glob("rlvr-gentle-seed?"))]
    assert calibrated(tmp_path / "base", gentle, file, "--profile=rlvr") == 0
    assert {role for role, _ in overrides(file, "spectral-drift")} == {"k_proj", "o_proj", "q_proj", "v_proj"}
    assert set(overrides(file, "update-sparsity")) == {("", None)}

    def broken(run: str) -> set[str]:
        result = ckptaudit.audit(tmp_path / "base", tmp_path / run, config=file, complete=False, cache="off")
        return {v.check for v in result.verdicts if v.outcome != "passed"}

    assert broken("rlvr-gentle-seed1") == set()
    assert {"spectral-drift", "update-size", "update-sparsity"} <= broken("rlvr")
