"""An audit on another device gives the verdicts and the numbers of the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptaudit.metrics import METRICS
from ckptaudit.pipeline.api import audit
from ckptaudit.results.records import AuditResult


@pytest.mark.parametrize("exact", [False, True], ids=["gate", "exact"])
def test_every_device_judges_alike(exact: bool, device: str, fixture_pairs: Path, tmp_path: Path) -> None:
    pair = fixture_pairs / "base", fixture_pairs / "rlvr-gentle"
    here = audit(*pair, device="cpu", exact=exact, cache="off")
    for _ in ("first time", "cached"):
        assert_alike(audit(*pair, device=device, exact=exact, cache=tmp_path / "cache"), here)


def assert_alike(one: AuditResult, other: AuditResult) -> None:
    """The same verdicts, and exact numbers within the accuracy that is promised."""
    assert [(v.check, v.subject, v.outcome) for v in one.verdicts] == [
        (v.check, v.subject, v.outcome) for v in other.verdicts
    ]
    found, expected = (
        {(m.tensor, m.metric): m.value for m in result.measurements if m.kind == "exact"} for result in (one, other)
    )
    compared = found.keys() & expected.keys()
    assert len(compared) > 0.9 * len(expected)
    for tensor, metric in compared:
        near = 0.01 if METRICS[metric].scale == "angle" else 1e-6
        assert found[tensor, metric] == pytest.approx(expected[tensor, metric], rel=0.01, abs=near), (
            tensor,
            metric,
        )
