"""Every bundled check: loads alone, selects something, holds on a good pair, and is broken by its own damage."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import save_file

from ckptaudit.damages import damages_of
from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.config import Config
from ckptaudit.judging.judge import judge
from ckptaudit.judging.profiles import bundled_check_files, profiles
from ckptaudit.metrics import METRICS
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline import execute, open_audit, plan
from ckptaudit.pipeline.opening import OpenedAudit
from ckptaudit.pipeline.proving import damaged, prove

GOOD = {
    "rlvr.toml": "rlvr-gentle",
    "lora.toml": "lora-grpo",
    "opd.toml": "dpo",
    "sft.toml": "sft",
    "integrity.toml": "rlvr-gentle",
    "unlearning.toml": "rlvr-gentle",
    "gist.toml": "rlvr-gentle",
    "alignguard.toml": "rlvr",
    "alignment_restoration.toml": "rlvr",
    "orthogonal_update.toml": "muon",
    "orthogonal_layer.toml": "orthogonal_layer",
    "intruders.toml": "sft",
    "pissa.toml": "pissa",
    "mode_connectivity.toml": "rlvr-gentle",
    "kind.toml": "rlvr-gentle",
    "reference.toml": "rlvr-gentle",
    "artifact.toml": "base",
    "coverage.toml": "rlvr-gentle",
    "roles.toml": "many_parts",
    "roles_sft.toml": "many_parts",
    **dict.fromkeys(("equal.toml", "merged.toml", "soup.toml"), "rlvr-gentle"),
}
# What the warning is about is true of every PiSSA adapter: the good pair of this check is another adapter.
GOOD_FOR = {"pissa-fragile-under-rl": "lora"}

EVERY = [
    pytest.param(path, check, id=f"{path.stem}-{check.id}")
    for path in bundled_check_files()
    for check in load_checks(path).checks
]
# What compares runs is tried on several of them, in test_run_group_checks.py.
# Rollouts, probes, conversions and merges are tried in folders of their own, stale parts in test_moved_checks.py.
# What asks about the whole plan is tried within its profile, below.
SCOPES_ELSEWHERE = ("runs", "plan", "rollouts", "probes", "parity", "run")
CASES = [
    case
    for case in EVERY
    if cast(Check, case.values[1]).scope not in SCOPES_ELSEWHERE
    and cast(Check, case.values[1]).metric != "soup_residual"
]


PARTS = {
    "model.embed_tokens.weight": (40, 16),
    "lm_head.weight": (40, 16),
    "model.layers.0.block_sparse_moe.gate.weight": (4, 16),
    "model.layers.0.mixer.in_proj.weight": (16, 16),
    "model.layers.0.mixer.A_log": (16,),
    "model.layers.0.linear_attn.conv1d.weight": (16, 4),
    "visual.patch_embed.proj.weight": (16, 12),
    "model.layers.0.self_attn.sinks": (4,),
    "model.layers.0.self_attn.rotary_emb.inv_freq": (8,),
}
"""Weights that no bundled model has: routers, recurrences, vision parts, statistics."""


@pytest.fixture
def many_parts(tmp_path: Path) -> tuple[Path, Path]:
    """All those parts, and a run that moved each by a ten-thousandth, statistics apart."""
    random = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=random) for name, shape in PARTS.items()}
    steps = {name: 1e-4 * torch.randn(weight.shape, generator=random) for name, weight in base.items()}
    tuned = {name: weight if "inv_freq" in name else weight + steps[name] for name, weight in base.items()}
    for side, tensors in (("base", base), ("tuned", tuned)):
        (tmp_path / side).mkdir()
        save_file(tensors, tmp_path / side / "model.safetensors")
    return tmp_path / "base", tmp_path / "tuned"


@pytest.fixture
def good(path: Path, check: Check, fixture_pairs: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """Base and tuned of which the check's claim is true: bundled, or trained for it by the fixture of that name."""
    name = GOOD_FOR.get(check.id, GOOD[path.name])
    if (fixture_pairs / name).exists():
        return fixture_pairs / "base", fixture_pairs / name
    made: tuple[Path, Path] = request.getfixturevalue(name)
    return made


def opened(check: Check, base: Path, tuned: Path, inputs: dict[str, str]) -> OpenedAudit:
    needed = {name: inputs[name] for name in METRICS[check.metric].needs}
    return open_audit(AuditOptions(base=str(base), tuned=(str(tuned),), auxiliary=needed, complete=False))


@pytest.mark.parametrize(("path", "check"), CASES)
def test_holds_on_the_good_pair_and_is_broken_by_its_own_damage(
    path: Path, check: Check, good: tuple[Path, Path], collected_inputs: dict[str, str]
) -> None:
    proof = prove(opened(check, *good, collected_inputs), check, load_checks(path))

    assert proof.intact, "it selects nothing"
    assert {v.outcome for v in proof.intact} == {"passed"}, proof.intact
    assert "failed" in {v.outcome for v in proof.damaged}, proof.damaged
    assert proof.breaks
    assert not proof.needs


# Where they are included, the other file's checks cover every tensor, which tests/parity tries.
PLANS = [
    case
    for case in EVERY
    if cast(Check, case.values[1]).scope == "plan" and cast(Path, case.values[0]).name == "coverage.toml"
]


@pytest.mark.parametrize(("path", "check"), PLANS)
def test_what_asks_about_the_plan_holds_in_its_profile_and_is_broken_by_its_damage(
    path: Path, check: Check, good: tuple[Path, Path]
) -> None:
    files = [load_checks(file) for file in next(p for p in profiles().values() if path in p.checks).checks]
    audit = opened(check, *good, {})

    def outcomes(of: OpenedAudit) -> set[str]:
        planned = plan(of, files, Config())
        narrowed = planned.only({v.id for v in planned.verdicts if v.check.scope in ("matrix", "plan")})
        return {v.outcome for v in judge(narrowed, execute(narrowed)) if v.check == check.id}

    assert outcomes(audit) == {"passed"}
    assert outcomes(damaged(audit, check)) == {"failed"}


@pytest.mark.parametrize(("path", "check"), EVERY)
def test_loads_alone(path: Path, check: Check, tmp_path: Path) -> None:
    table = next(
        t for f in bundled_check_files() for t in tomllib.loads(f.read_text())["check"] if t["id"] == check.id
    )
    lines = [f"{key} = {_toml(value)}" for key, value in table.items()]
    alone = tmp_path / "alone.toml"
    alone.write_text("\n".join(["[[check]]", *lines]))

    assert load_checks(alone).checks[0].id == check.id


@pytest.mark.parametrize(("path", "check"), EVERY)
def test_says_where_its_limit_comes_from(path: Path, check: Check) -> None:
    if check.scope == "rollouts":  # trainers' documentation and code are sources there, too
        assert check.published
        return
    if check.scope == "probes" and not check.source.startswith(("arXiv:", "ours:")):
        assert "arXiv:" in check.source
        assert check.severity != "gate", "what only follows a paper's idea warns"
        assert check.published
        assert check.note
        return
    assert check.source.startswith(("arXiv:", "definition:", "follows from arXiv:", "calibrated:", "ours:"))
    if check.source.startswith("ours:"):
        assert check.severity != "gate", "a limit of our own warns"
    elif not check.source.startswith("definition"):
        assert check.published
        assert check.note


def test_every_damage_breaks_some_check() -> None:
    # Of rollouts there are more damages than checks, each tried in tests/rollouts.
    every = [check for path in bundled_check_files() for check in load_checks(path).checks]
    checks = [check for check in every if check.scope != "rollouts"]
    assert {check.breaks_when for check in checks} == {name for c in checks for name in damages_of(c.scope)}


def test_every_bundled_file_is_a_profile_or_joins_one() -> None:
    listed = {f for p in profiles().values() for f in (*p.checks, *(f for fs in p.companions.values() for f in fs))}
    assert listed == set(bundled_check_files())


def test_supervised_run_breaks_the_rlvr_profile_on_several_checks(fixture_pairs: Path) -> None:
    base, tuned = (str(fixture_pairs / name) for name in ("base", "sft"))
    audit = open_audit(AuditOptions(base=base, tuned=(tuned,), complete=False))
    planned = plan(audit, [load_checks(file) for file in profiles()["rlvr"].checks], Config())

    broken = {v.check for v in judge(planned, execute(planned)) if v.outcome == "failed"}

    assert {"spectral-drift", "principal-rotation-left", "principal-rotation-right", "update-sparsity"} <= broken
    assert {"update-size", "low-magnitude-overlap"} <= broken


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    # JSON's strings, with their escapes, are TOML's.
    return json.dumps(value) if isinstance(value, str | bool) else str(value)
