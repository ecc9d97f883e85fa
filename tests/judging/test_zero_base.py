"""A bias that is all zero in the base, as of a head that a training adds: no update is small against it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ckptaudit import audit
from ckptaudit.judging.verdict import Verdict

BIAS = "model.layers.1.self_attn.v_proj.bias"


def audited(folder: Path, fixture_pairs: Path, before: float, after: float) -> Verdict:
    """The verdict on layer 1 where each entry of one bias goes from one value to another."""
    for side, value in (("base", before), ("tuned", after)):
        shutil.copytree(fixture_pairs / "base", folder / side)
        file = folder / side / "model.safetensors"
        stored = load_file(file)
        save_file({**stored, BIAS: torch.full_like(stored[BIAS], value)}, file, {"format": "pt"})
    result = audit(folder / "base", folder / "tuned", profile="rlvr", cache="off")
    return next(v for v in result.verdicts if (v.check, v.subject) == ("norms-and-biases", "layers.1"))


def test_the_failure_says_that_the_base_is_zero_there(tmp_path: Path, fixture_pairs: Path) -> None:
    verdict = audited(tmp_path, fixture_pairs, 0.0, 1e-6)
    assert (verdict.outcome, verdict.value, verdict.reason) == ("failed", 1.0, verdict.ranking[0].remark)
    assert [(row.tensor, row.remark) for row in verdict.ranking[:1]] == [
        (BIAS, "the base is all zero here, and nothing is small against it")
    ]


def test_a_bias_that_was_lost_reads_1_as_well_and_gets_no_such_remark(tmp_path: Path, fixture_pairs: Path) -> None:
    verdict = audited(tmp_path, fixture_pairs, 0.5, 0.0)
    assert (verdict.outcome, verdict.value, verdict.ranking[0].remark) == ("failed", 1.0, "")
