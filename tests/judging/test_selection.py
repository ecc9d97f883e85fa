"""Which subjects a check gives verdicts on: told without making a record of every matrix."""

from __future__ import annotations

import pytest

from ckptaudit.checkpoints import Checkpoint
from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.checks import Check
from ckptaudit.judging.profiles import bundled_check_files
from ckptaudit.judging.selection import parts, selected, subjects
from ckptaudit.pairing import ModelPair
from ckptaudit.pairing.alignment import pair_checkpoints

CHECKS = {check.id: check for path in bundled_check_files() for check in load_checks(path).checks}


@pytest.fixture(scope="module")
def pair(base: Checkpoint, gentle: Checkpoint) -> ModelPair:
    return pair_checkpoints(base, gentle)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_subjects_are_those_of_the_parts(check: Check, pair: ModelPair) -> None:
    found = parts(check, pair)
    assert subjects(check, pair) == {subject: bool(matrices) for subject, matrices in found.items()}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_verdict_is_about_the_weights_of_its_parts(check: Check, pair: ModelPair) -> None:
    for subject, matrices in parts(check, pair).items():
        if matrices:
            weights = dict.fromkeys(part.tensor.name for part in matrices)
            assert [t.name for t in selected(check, pair, subject)] == list(weights)


def test_a_verdict_on_one_matrix_is_about_its_weight_alone(pair: ModelPair) -> None:
    check = CHECKS["strictly-orthogonal"]
    assert check.per == "matrix"
    name = "model.layers.1.mlp.up_proj.weight"
    assert [tensor.name for tensor in selected(check, pair, name)] == [name]
