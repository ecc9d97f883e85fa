"""Metrics of several weights together are compared with a released run, and calibrated, each on its own scale."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptaudit
from ckptaudit.calibration.learning import Learned, Settings, calibrate
from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.config import Config
from ckptaudit.metrics.scales import badness
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline import execute, open_audit, plan
from ckptaudit.results.json_io import write_json

CHECK = """[[check]]
id = "{metric}"
claim = "x"
source = "ours"
metric = "{metric}"
at_most = {limit}
roles = ["matrix"]
per = "layer"
breaks_when = "write_on_sensitive_weights"
remedy = "x"
"""
LIMITS = {"fisher_top_share": 0.9, "fisher_weighted_ratio": 50.0}


def twice_as_bad(metric: str, value: float) -> float:
    """By hand: a share by its odds, a size by its factor."""
    if metric == "fisher_weighted_ratio":
        return 2 * value
    odds = 2 * value / (1 - value)
    return odds / (1 + odds)


@pytest.fixture
def fisher(small_pair: tuple[Path, Path], tmp_path: Path) -> str:
    """A Fisher diagonal that is large where the update is, so that shares are far from 0."""
    before, after = (load_file(path / "model.safetensors") for path in small_pair)
    diagonal = {n: (after[n].float() - w.float()).square() for n, w in before.items()}
    top = {
        n: torch.where(d >= d.flatten().topk(max(1, d.numel() // 100)).values[-1], d, 0.1 * d)
        for n, d in diagonal.items()
    }
    save_file(top, tmp_path / "fisher.safetensors")
    return str(tmp_path / "fisher.safetensors")


@pytest.fixture
def checks(tmp_path: Path) -> Path:
    file = tmp_path / "own.toml"
    file.write_text("".join(CHECK.format(metric=metric, limit=limit) for metric, limit in LIMITS.items()))
    return file


def test_the_room_that_calibration_leaves_is_a_factor_on_the_metrics_own_scale(
    small_pair: tuple[Path, Path], fisher: str, checks: Path
) -> None:
    base, tuned = map(str, small_pair)
    opened = open_audit(
        AuditOptions(base=base, tuned=(tuned,), auxiliary={"fisher": fisher}, exact=True, complete=False)
    )
    planned = plan(opened, [load_checks(checks)], Config())
    found = calibrate(planned, execute(planned), Settings(margin=2.0))
    learned = {item.check.metric: item for item in found if isinstance(item, Learned)}
    assert learned.keys() == LIMITS.keys()
    for metric, item in learned.items():
        worst = item.deciding[0].value
        assert worst > 0.05
        assert item.limit == pytest.approx(twice_as_bad(metric, worst), rel=1e-3)
        assert item.limit >= twice_as_bad(metric, worst), "rounded to the side on which the run passes"
    assert learned["fisher_top_share"].limit < 1


def test_twice_as_bad_as_a_released_run_is_so_on_the_metrics_own_scale(
    small_pair: tuple[Path, Path], fisher: str, checks: Path, tmp_path: Path
) -> None:
    config = tmp_path / "ckptaudit.toml"
    config.write_text('profile = "integrity"\nchecks = ["own.toml"]\n')
    given = {"config": config, "inputs": {"fisher": fisher}, "cache": "off", "complete": False}
    released = tmp_path / "released.json"
    write_json(ckptaudit.audit(*small_pair, exact=True, **given), released)  # type: ignore[arg-type]
    result = ckptaudit.audit(*small_pair, against=released, **given)  # type: ignore[arg-type]
    own = [v for v in result.verdicts if v.metric in LIMITS]
    assert {v.metric for v in own} == LIMITS.keys()
    for v in own:
        assert v.released is not None
        assert v.released_limit == pytest.approx(twice_as_bad(v.metric, v.released))


@pytest.mark.parametrize(
    ("metric", "at_most", "limit", "value", "worse"),
    [
        ("alignment_coordinate_overlap", True, 0.8, 0.4, 2 * (0.4 / 0.6) / (1 + 2 * (0.4 / 0.6))),
        ("retain_tangential_share", True, 0.5, 0.2, 1 / 3),
        ("retain_loss_change", True, 0.1, 0.04, 0.08),
        ("retain_loss_change", False, -0.1, -0.04, -0.08),
        ("permuted_units", True, 0.5, 0.2, 1 / 3),
    ],
)
def test_a_scale_is_what_its_values_are(
    metric: str, at_most: bool, limit: float, value: float, worse: float
) -> None:
    assert badness(metric, at_most=at_most, limit=limit).worsened(value, 2.0) == pytest.approx(worse)
