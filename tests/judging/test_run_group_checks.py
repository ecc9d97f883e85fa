"""The checks that compare runs: each holds on real good runs, and is broken by its own damage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.judging.check_files import CheckFile, load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.config import Config
from ckptaudit.judging.judge import judge
from ckptaudit.judging.profiles import bundled_checks
from ckptaudit.judging.verdict import Verdict
from ckptaudit.measurement.run_groups import measure_run_group
from ckptaudit.options import AuditOptions, Several
from ckptaudit.pairing.runs import open_all
from ckptaudit.pipeline import execute, open_audit, plan
from ckptaudit.pipeline.opening import OpenedAudit
from ckptaudit.pipeline.proving import damaged

RUNS: dict[Several, dict[str, str]] = {
    "steps": {"checkpoint-40": "rlvr-step40", "checkpoint-70": "rlvr-step70", "checkpoint-100": "rlvr"},
    "siblings": {name: name for name in ("rlvr-gentle", "rlvr-gentle-seed1", "rlvr-gentle-seed2")},
}
"""The bundled runs by the names they are given here: those of a training hold its step numbers."""

CASES = [
    pytest.param(check, id=check.id)
    for name in ("trajectory.toml", "siblings.toml")
    for check in load_checks(bundled_checks() / name).checks
]


def attention_of_a_layer(source: Path, folder: Path) -> str:
    """Four real matrices: enough to tell, and quick."""
    weights = load_file(source / "model.safetensors")
    kept = {n: w for n, w in weights.items() if "layers.1.self_attn" in n and n.endswith("weight")}
    folder.mkdir(exist_ok=True)
    save_file(kept, folder / "model.safetensors")
    return str(folder)


def opened(check: Check, fixtures: Path, folder: Path, names: Mapping[str, str] | None = None) -> OpenedAudit:
    assert check.over is not None
    base = attention_of_a_layer(fixtures / "base", folder / "base")
    runs = names or RUNS[check.over]
    tuned = tuple(attention_of_a_layer(fixtures / source, folder / name) for name, source in runs.items())
    return open_audit(AuditOptions(base=base, tuned=tuned, several=check.over, complete=False))


def verdicts(check: Check, audit: OpenedAudit) -> dict[str, Verdict]:
    planned = plan(audit, [CheckFile(Path("one.toml"), (check,))], Config())
    given = {Path(v.tuned).name: v for v in judge(planned, execute(planned))}
    assert len(given) == len(planned.verdicts), "one verdict about each run"
    return given


@pytest.mark.parametrize("check", CASES)
def test_holds_on_good_runs(check: Check, fixture_pairs: Path, tmp_path: Path) -> None:
    given = verdicts(check, opened(check, fixture_pairs, tmp_path))
    assert given
    assert {v.outcome for v in given.values()} == {"passed"}, given


@pytest.mark.parametrize("check", CASES)
def test_is_broken_by_its_own_damage(check: Check, fixture_pairs: Path, tmp_path: Path) -> None:
    given = verdicts(check, damaged(opened(check, fixture_pairs, tmp_path), check))
    assert "failed" in {v.outcome for v in given.values()}, given


def test_kinship_names_the_run_that_went_elsewhere_and_no_other(fixture_pairs: Path, tmp_path: Path) -> None:
    (check,) = (c for c in load_checks(bundled_checks() / "siblings.toml").checks if c.id == "sibling-kinship")
    names = ("rlvr-gentle", "rlvr-gentle-seed1", "sft")
    given = verdicts(check, opened(check, fixture_pairs, tmp_path, {name: name for name in names}))
    assert {name: v.outcome for name, v in given.items()} == dict(
        zip(names, ("passed", "passed", "failed"), strict=True)
    )


def test_the_first_save_has_nothing_to_climb_from_and_the_last_nothing_to_lock_on(
    fixture_pairs: Path, tmp_path: Path
) -> None:
    judged = {
        c.id: set(verdicts(c, opened(c, fixture_pairs, tmp_path)))
        for c in load_checks(bundled_checks() / "trajectory.toml").checks
    }
    assert judged == {
        "drift-growth": {"checkpoint-70", "checkpoint-100"},
        "stable-rank-climb": {"checkpoint-70", "checkpoint-100"},
        "subspace-locking": {"checkpoint-40", "checkpoint-70"},
        "straight-weights": {"checkpoint-100"},
        "one-direction": {"checkpoint-100"},
    }


def test_what_takes_three_saves_is_skipped_with_two(fixture_pairs: Path, tmp_path: Path) -> None:
    runs = {"checkpoint-40": "rlvr-step40", "checkpoint-70": "rlvr-step70"}
    for check in (c for c in load_checks(bundled_checks() / "trajectory.toml").checks if c.per == "model"):
        (verdict,) = verdicts(check, opened(check, fixture_pairs, tmp_path, runs)).values()
        assert verdict.outcome == "skipped"
        assert "more checkpoints" in verdict.reason


def test_no_more_directions_are_compared_than_an_adapter_has(tmp_path: Path) -> None:
    # Beyond its rank an adapter's update is rounding, which no two saves have in common.
    random = torch.Generator().manual_seed(0)
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file({name: torch.randn(160, 128, generator=random).bfloat16()}, tmp_path / "base.safetensors")
    down, up = torch.randn(2, 128, generator=random), 1e-2 * torch.randn(160, 2, generator=random)
    for step in (1, 2):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        factors = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": step * up}
        save_file(factors, folder / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    base = open_checkpoint(tmp_path / "base.safetensors")
    _, (group,) = open_all(base, [f"{tmp_path}@all"], "auto")
    rows = measure_run_group(group, "layers.0", torch.device("cpu"))
    found = {m.metric: m.value for m in rows if m.tuned == group.runs[0].path}
    assert found["subspace_locking"] == pytest.approx(1.0, abs=0.05)
