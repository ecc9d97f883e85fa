"""No profile opens the gate for the base itself: what only limits an update holds for no update at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckptaudit.judging.config import Config, check_files
from ckptaudit.judging.profiles import profiles
from ckptaudit.pipeline.api import audit

PARITY = {"equal", "merged", "soup"}
"""What a conversion or a merge has to be, another profile asks: there no change may be what is wanted."""


@pytest.mark.parametrize("profile", sorted(set(profiles()) - PARITY))
def test_every_profile_asks_whether_anything_changed(profile):
    checks = {check.id: check for file in check_files(Config(), profile) for check in file.checks}
    assert checks["actually-changed"].severity == "gate"
    assert checks["finite"].severity == "gate"


@pytest.mark.parametrize("profile", ["orthogonal_update", "intruders", "mode_connectivity", "integrity", "rlvr"])
def test_the_base_given_twice_is_refused(profile, small_pair, tmp_path):
    base, _ = small_pair
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    result = audit(base, copy, profile=profile, complete=False)
    assert not result.passed
    assert {v.check for v in result.verdicts if v.outcome == "failed"} >= {"actually-changed"}
