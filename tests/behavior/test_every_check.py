"""Every bundled check of behavior holds on a healthy run, and is broken by its own damage."""

from __future__ import annotations

import pytest

from ckptaudit.damages.behavior import MODEL_DAMAGES, ROW_DAMAGES
from ckptaudit.judging.checks import Check
from tests.behavior.judged import CHECKS, damaged, evidence, verdict

ALL = [pytest.param(check, id=check.id) for check in CHECKS]
NOTHING_TURNED_WRONG = "mistakes-in-sight"


@pytest.mark.parametrize("check", ALL)
def test_holds_on_a_gentle_run(check: Check) -> None:
    found = verdict(check, evidence("rlvr-gentle"))
    if check.id == NOTHING_TURNED_WRONG:
        assert found.reason == "0 known pairs turned wrong, fewer than 30"
    else:
        # Shares of few probes have wide intervals: such a claim is not judged, and says what would help.
        assert found.outcome == "passed" or "more probes would do" in found.reason, found.reason


def test_intervals_that_are_too_wide_are_those_of_shares_and_quotients() -> None:
    unclear = {check.metric for check in CHECKS if "more probes" in verdict(check, evidence("rlvr-gentle")).reason}
    changes = {name for name in unclear if name.endswith(("_change", "_flips"))}
    assert unclear - changes <= {"vendi_ratio", "score_gain_per_nat"}
    assert len(CHECKS) - len(unclear) >= 20


@pytest.mark.parametrize("check", ALL)
def test_is_broken_by_its_own_damage(check: Check) -> None:
    found = verdict(check, damaged(check, "rlvr-gentle"))
    assert found.outcome == "failed", found.reason


def test_supervised_tuning_breaks_the_limits_of_reinforcement_learning() -> None:
    broken = {check.id for check in CHECKS if verdict(check, evidence("sft")).outcome == "failed"}
    assert {"kl-task", "kl-retain", "shifted-share", "rank-shift", "chosen-likelihood"} <= broken


def test_every_damage_breaks_some_check() -> None:
    assert {check.breaks_when for check in CHECKS} == {*MODEL_DAMAGES, *ROW_DAMAGES}


def test_only_published_limits_close_the_gate() -> None:
    assert {check.id for check in CHECKS if check.severity == "gate"} == {"kl-task", "shifted-share"}
    ours = [check for check in CHECKS if check.severity != "gate"]
    assert all("ours" in check.note for check in ours)
