"""The checks that compare runs: each holds on real good runs, and is broken by its own damage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.damages.runs import RUN_DAMAGES
from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.profiles import bundled_checks
from ckptaudit.judging.verdict import Verdict
from ckptaudit.measurement.run_groups import Series
from ckptaudit.measurement.store import MeasurementStore
from ckptaudit.pairing import pair_checkpoints
from ckptaudit.pairing.runs import Group, Order, Run, open_all

RUNS = {
    "steps": (("rlvr-step40", "rlvr-step70", "rlvr"), (40, 70, 100)),
    "siblings": (("rlvr-gentle", "rlvr-gentle-seed1", "rlvr-gentle-seed2"), (0, 0, 0)),
}
CASES = [
    pytest.param(check, id=check.id)
    for name in ("trajectory.toml", "siblings.toml")
    for check in load_checks(bundled_checks() / name).checks
]


def attention_of_a_layer(path: Path) -> Checkpoint:
    """Four real matrices: enough to tell, and quick."""
    whole = open_checkpoint(path)
    kept = {n: h for n, h in whole.tensors.items() if "layers.1.self_attn" in n and n.endswith("weight")}
    return replace(whole, tensors=kept)


def verdicts(check: Check, fixtures: Path, *, damage: str = "", names: Sequence[str] = ()) -> dict[str, Verdict]:
    assert check.over is not None
    folders, steps = RUNS[check.over]
    base = attention_of_a_layer(fixtures / "base")
    tuned = [attention_of_a_layer(fixtures / name) for name in names or folders]
    if damage:
        tuned = RUN_DAMAGES[damage](base, tuned)
    runs = tuple(Run(t.path, t.path, pair_checkpoints(base, t)) for t in tuned)
    group = Group(Order(check.over, "runs", tuple(range(len(runs))), steps), runs)
    series = Series([group], MeasurementStore(), torch.device("cpu"))
    return {
        Path(run.path).name: judge(check, "layers.1", run.path, series.rows(check.over, run, "layers.1"))
        for run in series.judged(check.metric)
    }


@pytest.mark.parametrize("check", CASES)
def test_holds_on_good_runs(check: Check, fixture_pairs: Path) -> None:
    given = verdicts(check, fixture_pairs)
    assert given
    assert {v.outcome for v in given.values()} == {"passed"}, given


@pytest.mark.parametrize("check", CASES)
def test_is_broken_by_its_own_damage(check: Check, fixture_pairs: Path) -> None:
    given = verdicts(check, fixture_pairs, damage=check.breaks_when)
    assert "failed" in {v.outcome for v in given.values()}, given


def test_kinship_names_the_run_that_went_elsewhere_and_no_other(fixture_pairs: Path) -> None:
    (check,) = (c for c in load_checks(bundled_checks() / "siblings.toml").checks if c.id == "sibling-kinship")
    names = ("rlvr-gentle", "rlvr-gentle-seed1", "sft")
    given = verdicts(check, fixture_pairs, names=names)
    assert {name: v.outcome for name, v in given.items()} == dict(
        zip(names, ("passed", "passed", "failed"), strict=True)
    )


def test_the_first_save_has_nothing_to_climb_from_and_the_last_nothing_to_lock_on(fixture_pairs: Path) -> None:
    judged = {
        c.id: set(verdicts(c, fixture_pairs)) for c in load_checks(bundled_checks() / "trajectory.toml").checks
    }
    assert judged == {
        "drift-growth": {"rlvr-step70", "rlvr"},
        "stable-rank-climb": {"rlvr-step70", "rlvr"},
        "subspace-locking": {"rlvr-step40", "rlvr-step70"},
    }


def test_no_more_directions_are_compared_than_an_adapter_has(tmp_path: Path) -> None:
    # Beyond its rank an adapter's update is rounding, which no two saves have in common.
    from safetensors.torch import save_file

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
    runs, groups = open_all(base, [f"{tmp_path}@all"], "auto")
    series = Series(groups, MeasurementStore(), torch.device("cpu"))
    found = {m.metric: m.value for m in series.rows("steps", runs[0], "layers.0")}
    assert found["subspace_locking"] == pytest.approx(1.0, abs=0.05)
