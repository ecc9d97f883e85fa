"""What is no number of one kind on both sides is not compared, and says so; buffers of integers still are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptaudit.pipeline.api import audit

WEIGHT = "model.layers.0.mlp.up_proj.weight"
KINDS = {
    "float": torch.ones(8, 8),
    "bool": torch.ones(8, 8) > 0,
    "int": torch.ones(8, 8).int(),
    "complex": torch.ones(8, 8, dtype=torch.complex64),
}
UNLIKE = [(a, b) for a in KINDS for b in KINDS if a != b] + [("complex", "complex")]


def save(path: Path, odd: torch.Tensor, *, trained: bool) -> Path:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 16, generator=random)
    change = 1e-3 * torch.randn(16, 16, generator=random) if trained else 0
    path.mkdir()
    save_file({"model.layers.0.self_attn.q_proj.weight": weight + change, WEIGHT: odd}, path / "model.safetensors")
    return path


@pytest.mark.parametrize(("base", "tuned"), UNLIKE, ids="-".join)
@pytest.mark.parametrize("complete", [True, False])
def test_numbers_of_other_kinds_cannot_be_judged(base, tuned, complete, tmp_path):
    sides = (
        save(tmp_path / "base", KINDS[base], trained=False),
        save(tmp_path / "tuned", KINDS[tuned], trained=True),
    )
    result = audit(*sides, complete=complete)
    blind = [v for v in result.verdicts if v.outcome == "error"]
    assert not result.passed
    assert any("no numbers to be compared" in v.reason and WEIGHT in v.reason for v in blind)


@pytest.mark.parametrize("kind", ["bool", "int"])
def test_buffers_of_one_kind_are_compared(kind, tmp_path):
    sides = save(tmp_path / "base", KINDS[kind], trained=False), save(tmp_path / "tuned", KINDS[kind], trained=True)
    result = audit(*sides)
    assert not any("no numbers" in v.reason for v in result.verdicts)
    assert any(m.tensor == WEIGHT and m.value == 0 for m in result.measurements if m.metric == "differing_entries")
