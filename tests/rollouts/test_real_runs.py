"""Four real runs of a tiny model: what was done to three of them shows, and the healthy one passes the gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptaudit import audit
from ckptaudit.judging.config import Config
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.measure import measure
from ckptaudit.rollouts.readers import open_rollouts
from ckptaudit.rollouts.scalars import read_scalars
from tests.rollouts.judged import CHECKS, about, limit_is_broken

FIXTURES = Path(__file__).parents[2] / "fixtures" / "rollouts"
FACTS = RunFacts(
    group_size=8, advantage="trl", max_staleness=0, max_response_length=12, clip_low=0.2, clip_high=0.2
)


@pytest.fixture(scope="module")
def broken() -> dict[str, set[str]]:
    return {run: _broken(run) for run in ("healthy", "stale-engine", "mixed-groups", "collapse")}


def _broken(run: str) -> set[str]:
    table, curves = open_rollouts(FIXTURES / run, FACTS), read_scalars(FIXTURES / run)
    found = list(measure(table, FACTS, {check["metric"] for check in CHECKS}, scalars=curves))
    return {check["id"] for check in CHECKS if any(limit_is_broken(check, r) for r in about(check, found))}


def test_the_healthy_run_breaks_no_gate(broken: dict[str, set[str]]) -> None:
    gates = {check["id"] for check in CHECKS if check.get("severity", "gate") == "gate"}
    assert not broken["healthy"] & gates
    # Wrong answers are longer here: they go on after a bracket is missing.
    assert broken["healthy"] == {"reward-not-by-length"}


def test_an_engine_one_sync_behind_is_a_mismatch(broken: dict[str, set[str]]) -> None:
    # The mean over steps is what NeMo-RL gates at 0.002; it closes the gate by a published limit.
    assert {"mismatch-k3-mean", "mismatch-k3-median"} <= broken["stale-engine"]
    assert not {"groups-of-one-prompt", "entropy-kept", "staleness-as-declared"} & broken["stale-engine"]


def test_mixed_groups_are_groups_of_several_prompts(broken: dict[str, set[str]]) -> None:
    assert "groups-of-one-prompt" in broken["mixed-groups"]
    assert not {"mismatch-k3-mean", "mismatch-k3-median", "entropy-kept"} & broken["mixed-groups"]


def test_a_learning_rate_too_high_is_a_collapse(broken: dict[str, set[str]]) -> None:
    assert {"groups-have-signal", "answers-differ", "entropy-kept"} <= broken["collapse"]
    assert "groups-of-one-prompt" not in broken["collapse"]


def test_the_curves_are_those_of_the_rollouts() -> None:
    for run in ("healthy", "stale-engine", "mixed-groups", "collapse"):
        table, curves = open_rollouts(FIXTURES / run, FACTS), read_scalars(FIXTURES / run)
        (reading,) = measure(table, FACTS, ["scalar_disagreement"], scalars=curves)
        assert reading.value is not None
        assert reading.value < 1e-3, reading.remark


@pytest.mark.parametrize(
    ("run", "closing", "closing_strictly"),
    [
        ("healthy", set(), {"reward-not-by-length"}),
        ("stale-engine", {"mismatch-k3-mean"}, {"mismatch-k3-mean", "mismatch-k3-median", "few-ratios-past-two"}),
        ("mixed-groups", {"groups-of-one-prompt"}, {"groups-of-one-prompt"}),
        ("collapse", {"groups-not-stuck"}, {"entropy-kept", "groups-have-signal", "answers-differ"}),
    ],
)
def test_the_gate_tells_them_apart(run: str, closing: set[str], closing_strictly: set[str]) -> None:
    for strict, expected in ((False, closing), (True, closing_strictly)):
        path = FIXTURES / run
        found = audit(rollouts=path, scalars=path, config=Config(facts=FACTS), strict=strict)
        closed = {v.check for v in found.verdicts if v.closes}
        assert expected <= closed if strict else expected == closed
