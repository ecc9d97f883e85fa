"""An audit without pytest: what it measures, and what its result says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

import ckptaudit
from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.checks import Guard
from ckptaudit.judging.config import Config
from ckptaudit.judging.limits import Limits
from ckptaudit.judging.plan import CLEARANCE, AuditPlan, PlannedVerdict, sufficient_bounds
from ckptaudit.judging.profiles import bundled_checks
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline import assemble, execute, open_audit, plan
from ckptaudit.pipeline.opening import OpenedAudit


def test_the_bundled_pair_passes(fixture_pairs: Path) -> None:
    result = ckptaudit.audit(fixture_pairs / "base", fixture_pairs / "rlvr-gentle", profile="rlvr")
    assert result.passed
    assert result.summary.passed == len(result.verdicts) == 59


def test_a_pair_that_cannot_be_judged_raises_one_sentence(tmp_path: Path, fixture_pairs: Path) -> None:
    with pytest.raises(ckptaudit.CkptAuditError, match="no such file or directory"):
        ckptaudit.audit(tmp_path / "missing", fixture_pairs / "base")


def test_a_configuration_bears_on_an_audit_without_pytest(small_pair: tuple[Path, Path], tmp_path: Path) -> None:
    own = tmp_path / "ours.toml"
    own.write_text(
        'profile = "integrity"\n[[override]]\ncheck = "actually-changed"\nat_least = 1e9\nreason = "ours"\n'
        '[[waiver]]\ncheck = "finite"\nsubject = "layers.0"\nuntil = 9999-12-31\nreason = "ours"\n'
    )
    result = ckptaudit.audit(*small_pair, config=own, cache="off")
    assert not result.passed
    (failed,) = [v for v in result.verdicts if v.outcome == "failed"]
    assert (failed.check, failed.limit, failed.limit_from) == (
        "actually-changed",
        1e9,
        "override 1 of ours.toml: ours",
    )
    assert result.notes == ("waiver 1 of ours.toml (finite, layers.0) forgave nothing; remove it",)
    own.write_text(own.read_text().replace("at_least = 1e9", 'severity = "warn"\nat_least = 1e9'))
    assert ckptaudit.audit(*small_pair, config=own, cache="off").passed
    assert not ckptaudit.audit(*small_pair, config=own, strict=True, cache="off").passed


def test_tensors_that_miss_their_counterpart_are_forgiven_by_name(
    write_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    one, other = {"a.weight": torch.ones(2, 2)}, {"b.weight": torch.ones(2, 2), "c.weight": torch.ones(2, 2)}
    pair = write_checkpoint("whole", one | other), write_checkpoint("part", one)
    own = tmp_path / "ours.toml"
    text = 'profile = "integrity"\n'
    outcomes = []
    for subject in ("b.weight", "c.weight"):
        text += f'[[waiver]]\ncheck = "aligned"\nsubject = "{subject}"\nuntil = 9999-12-31\nreason = "ours"\n'
        own.write_text(text)
        result = ckptaudit.audit(*pair, config=own, cache="off")
        outcomes += [(v.outcome, v.value) for v in result.verdicts if v.check == "aligned"]
    assert outcomes == [("failed", 1.0), ("waived", 2.0)]


def test_every_public_name_is_there() -> None:
    assert all(getattr(ckptaudit, name) is not None for name in ckptaudit.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = ckptaudit.nothing


@pytest.fixture(scope="module")
def opened(fixture_pairs: Path) -> OpenedAudit:
    base, tuned = (str(fixture_pairs / name) for name in ("base", "rlvr-gentle"))
    return open_audit(AuditOptions(base=base, tuned=(tuned,), profile="rlvr"))


@pytest.fixture(scope="module")
def planned(opened: OpenedAudit) -> AuditPlan:
    return plan(opened, [load_checks(bundled_checks() / "rlvr.toml")], Config())


def test_only_what_the_verdicts_rest_on_is_measured(opened: OpenedAudit, planned: AuditPlan) -> None:
    drift = [v for v in planned.verdicts if v.check.id == "spectral-drift" and v.subject == "layers.1"]
    narrowed = planned.only({drift[0].id})
    rows = assemble(opened, narrowed, [], execute(narrowed)).measurements
    assert {r.layer for r in rows} == {1}
    assert {r.metric for r in rows} == {"normalized_spectral_shift", "nonfinite_entries", "base_nonfinite_entries"}


def test_a_plan_of_fewer_verdicts_is_no_longer_complete_and_keeps_their_order(planned: AuditPlan) -> None:
    ids = [v.id for v in planned.verdicts]
    assert len(set(ids)) == len(ids) == 59
    assert planned.complete
    assert planned.only(ids) == planned
    chosen = ids[30], ids[3]
    narrowed = planned.only(chosen)
    assert [v.id for v in narrowed.verdicts] == [ids[3], ids[30]]
    assert not narrowed.complete
    assert set(narrowed.units) == {unit for i in (3, 30) for unit in planned.verdicts[i].units}
    assert len(narrowed.units) < len(planned.units)
    assert planned.only(()).verdicts == ()


def test_a_tied_head_left_out_of_one_side_is_compared_with_the_embedding(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weight = torch.randn(6, 4)
    for name, tensors in (
        ("base", {"model.embed_tokens.weight": weight}),
        ("tuned", {"model.embed_tokens.weight": weight + 0.1, "lm_head.weight": weight + 0.1}),
    ):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text('{"tie_word_embeddings": true}')
    result = ckptaudit.audit(tmp_path / "base", tmp_path / "tuned", profile="integrity")
    assert result.unaligned == ()
    assert result.passed


def test_bf16_fp16_and_fp32_sides_give_the_same_geometry(fixture_pairs: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = load_file(fixture_pairs / "rlvr-gentle" / "model.safetensors")
    save_file({k: v.float() for k, v in tensors.items()}, tmp_path / "wide.safetensors")
    narrow = ckptaudit.audit(fixture_pairs / "base", fixture_pairs / "rlvr-gentle", profile="rlvr")
    wide = ckptaudit.audit(fixture_pairs / "base", tmp_path / "wide.safetensors", profile="rlvr")
    values = {(v.check, v.subject): v.value for v in narrow.verdicts}
    for verdict in wide.verdicts:
        assert verdict.value == pytest.approx(values[verdict.check, verdict.subject], rel=1e-9, abs=1e-9)


def drift_with(planned: AuditPlan, **changed: object) -> PlannedVerdict:
    """The first verdict of the spectral drift check, its check changed."""
    drift = next(v for v in planned.verdicts if v.check.id == "spectral-drift")
    check = msgspec.structs.replace(drift.check, **changed)
    return replace(drift, check=check, limits=Limits.own(check))


def test_the_strictest_check_says_how_good_a_bound_must_be(planned: AuditPlan) -> None:
    strict, lenient = (drift_with(planned, at_most=limit) for limit in (1e-4, 1e-2))
    limits = sufficient_bounds([lenient, strict])
    assert limits["normalized_spectral_shift"] == 1e-4 / CLEARANCE
    assert limits["principal_rotation_left"] == math.inf
    assert limits["update_hill_alpha"] == -math.inf
    assert "relative_update_norm" not in limits


@pytest.mark.parametrize(
    "changed",
    [
        {"judge_by": "mean"},
        {"judge_by": "weighted_mean"},
        {"judge_by": "sum"},
        {"at_most": None, "at_least": 1e-9},
        {"metric": "relative_update_norm", "only_where": Guard("normalized_spectral_shift", 1e-9)},
    ],
)
def test_what_needs_the_number_itself_gets_no_bound(planned: AuditPlan, changed: dict[str, object]) -> None:
    assert "normalized_spectral_shift" not in sufficient_bounds([drift_with(planned, **changed)])


@pytest.mark.parametrize("run", ["rlvr-gentle", "sft"])
def test_bounds_change_no_outcome(fixture_pairs: Path, run: str) -> None:
    sides = fixture_pairs / "base", fixture_pairs / run
    gate, exact = (ckptaudit.audit(*sides, exact=exact, profile="rlvr") for exact in (False, True))
    assert [v.outcome for v in gate.verdicts] == [v.outcome for v in exact.verdicts]
    assert {m.kind for m in exact.measurements} == {v.kind for v in exact.verdicts if v.kind} == {"exact"}
    assert {m.kind for m in gate.measurements} == {"exact", "upper_bound", "lower_bound"}
    assert all(v.kind == "exact" for v in gate.verdicts if v.outcome == "failed")
