"""Units in rounds: the verdicts are those of every number, and fewer numbers are computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptaudit
from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.judge import decide
from ckptaudit.judging.profiles import bundled_checks
from ckptaudit.measurement.rounds import Asking
from ckptaudit.metrics import Measurement, matrix_metrics
from ckptaudit.results.records import AuditResult

WriteCheckpoint = Callable[..., Path]
DRIFT = matrix_metrics()["normalized_spectral_shift"]
ROLES = ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj")


def moved_pair(write: WriteCheckpoint, sizes: tuple[float, ...], layers: int = 2) -> tuple[Path, Path]:
    """Matrices of 130 x 140, each moved by its own share of its norm along a random direction of rank one."""
    random = torch.Generator().manual_seed(0)
    base, tuned = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    for layer in range(layers):
        for role, size in zip(ROLES, sizes, strict=True):
            name = f"model.layers.{layer}.{role}.weight"
            before = torch.randn(130, 140, generator=random)
            step = torch.outer(torch.randn(130, generator=random), torch.randn(140, generator=random))
            base[name] = before.bfloat16()
            tuned[name] = (base[name].float() + size * before.norm() / step.norm() * step).bfloat16()
    return write("base", base), write("tuned", tuned)


def kinds(result: AuditResult, metric: str) -> Counter[str]:
    return Counter(m.kind for m in result.measurements if m.metric == metric)


@pytest.mark.parametrize(
    "sizes", [(1.0, 1.0, 1.0, 1.0), (0.5, 1e-4, 1e-4, 1e-4), (1e-4, 2e-3, 4e-3, 1e-4), (1e-4,) * 4], ids=str
)
def test_rounds_change_no_outcome_and_every_failure_rests_on_a_number(
    write_checkpoint: WriteCheckpoint, sizes: tuple[float, ...]
) -> None:
    sides = moved_pair(write_checkpoint, sizes)
    gate, exact = (ckptaudit.audit(*sides, exact=exact, profile="rlvr", cache="off") for exact in (False, True))
    assert [(v.check, v.subject, v.outcome) for v in gate.verdicts] == [
        (v.check, v.subject, v.outcome) for v in exact.verdicts
    ]
    numbers = {(m.tensor, m.metric): m.value for m in exact.measurements}
    for verdict in (v for v in gate.verdicts if v.outcome == "failed"):
        assert verdict.kind == "exact", verdict
        if verdict.worst and (verdict.worst, verdict.metric) in numbers and verdict.check != "update-sparsity":
            assert verdict.value == pytest.approx(numbers[verdict.worst, verdict.metric], rel=1e-3)


def test_one_number_of_each_layer_decides_where_all_are_far_beyond(write_checkpoint: WriteCheckpoint) -> None:
    result = ckptaudit.audit(*moved_pair(write_checkpoint, (1.0,) * 4), profile="rlvr", cache="off")
    assert kinds(result, "normalized_spectral_shift") == {"exact": 2, "upper_bound": 6}
    drifts = [v for v in result.verdicts if v.check == "spectral-drift"]
    assert [v.outcome for v in drifts] == ["failed", "failed"]
    assert all("decided by this number; 3 other matrices were not computed" in v.reason for v in drifts)
    assert all("at most this" in row.remark for v in drifts for row in v.ranking[1:])


def test_a_waiver_asks_for_every_number(write_checkpoint: WriteCheckpoint, tmp_path: Path) -> None:
    own = tmp_path / "ours.toml"
    own.write_text(
        'profile = "rlvr"\n[[waiver]]\ncheck = "spectral-drift"\nsubject = "*layers.0.self_attn.q_proj.weight"\n'
        'until = 9999-12-31\nreason = "ours"\n'
    )
    result = ckptaudit.audit(*moved_pair(write_checkpoint, (1.0, 1e-4, 1e-4, 1e-4)), config=own, cache="off")
    drifts = {v.subject: v.outcome for v in result.verdicts if v.check == "spectral-drift"}
    assert drifts == {"layers.0": "waived", "layers.1": "failed"}


def row(tensor: str, value: float, kind: str = "upper_bound") -> Measurement:
    return Measurement(tensor, 0, "q_proj", (8, 8), DRIFT.name, value, kind)  # type: ignore[arg-type]


def test_the_worst_bound_comes_first_and_the_rest_only_if_its_number_holds() -> None:
    asking = Asking(frozenset("abc"), lambda _: 1.0, lambda _: 0.5)
    bounds = [("a", row("a", 2.0)), ("b", row("b", 5.0)), ("c", row("c", 0.5)), ("d", row("d", 9.0))]
    assert asking.wanted(DRIFT, bounds, one=True) == ["b"]
    held = [bounds[0], ("b", row("b", 0.9, "exact")), *bounds[2:]]
    assert asking.wanted(DRIFT, held, one=False) == ["a"]
    broken = [bounds[0], ("b", row("b", 1.1, "exact")), *bounds[2:]]
    assert asking.wanted(DRIFT, broken, one=False) == []
    near = [("a", row("a", 0.8)), ("b", row("b", 0.7)), bounds[2]]
    assert asking.wanted(DRIFT, near, one=True) == ["a", "b"], "near enough to be computed"
    each = Asking(frozenset("abc"), lambda _: 1.0, lambda _: 0.5, each=True)
    assert each.wanted(DRIFT, broken, one=False) == ["a"]


def drift_check() -> Check:
    return next(c for c in load_checks(bundled_checks() / "rlvr.toml").checks if c.id == "spectral-drift")


def test_a_bound_beyond_its_limit_never_fails_a_check_and_never_passes_one() -> None:
    verdict = decide(drift_check(), "layers.0", "run", [row("a", 1e-5, "exact"), row("b", 1.0)])
    assert (verdict.outcome, verdict.worst) == ("error", "b")
    assert "its number was not computed" in verdict.reason


def test_a_failure_names_the_number_not_a_worse_bound() -> None:
    rows = [row("a", 2e-3, "exact"), row("b", 1.0)]
    verdict = decide(drift_check(), "layers.0", "run", rows)
    assert (verdict.outcome, verdict.worst, verdict.value, verdict.kind) == ("failed", "a", 2e-3, "exact")
    assert [r.tensor for r in verdict.ranking] == ["a", "b"]


def test_what_no_verdict_asks_of_a_unit_stays_a_bound(write_checkpoint: WriteCheckpoint) -> None:
    # The drift of attention and MLP matrices is asked for; that of the embeddings is not.
    base, tuned = moved_pair(write_checkpoint, (1e-4,) * 4, layers=1)
    for side, factor in ((base, 1.0), (tuned, 1.5)):
        tensors = load_file(side / "model.safetensors")
        tensors["model.embed_tokens.weight"] = factor * torch.ones(140, 140).bfloat16()
        save_file(tensors, side / "model.safetensors")
    result = ckptaudit.audit(base, tuned, profile="rlvr", cache="off")
    (embedding,) = [
        m for m in result.measurements if m.metric == DRIFT.name and m.tensor == "model.embed_tokens.weight"
    ]
    assert embedding.kind == "upper_bound"
