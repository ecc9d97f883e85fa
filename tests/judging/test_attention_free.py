"""Claims about attention and MLP on a model that has neither, and on one whose names are not recognised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptaudit import audit
from ckptaudit.report.failure import remedy_of
from ckptaudit.results.gate import answer
from ckptaudit.results.records import AuditResult
from tests.families.tiny_models import tiny_model

Change = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` and `tuned`, an update of one rounding step on a third of the entries."""
    folder, model = tmp_path_factory.mktemp("mamba"), tiny_model("mamba2").to(torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():  # no part may be all zero, as in a model that was trained
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder / "base")
    with torch.no_grad():
        for weight in model.parameters():
            chosen = torch.rand(weight.shape, generator=generator) < 0.3
            weight.mul_(torch.where(chosen, 1 + 2**-7, 1.0).to(weight.dtype))
    model.save_pretrained(folder / "tuned")
    return folder


def audited(folder: Path, tuned: Path) -> AuditResult:
    return audit(folder / "base", tuned, cache="off")


def changed(folder: Path, to: Path, change: Change) -> Path:
    """The tuned side with some tensors replaced."""
    to.mkdir()
    for file in (folder / "tuned").iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    save_file({**load_file(to / "model.safetensors"), **change}, to / "model.safetensors", {"format": "pt"})
    return to


def test_such_a_model_skips_them_and_the_rest_judges_every_parameter(mamba: Path) -> None:
    result = audited(mamba, mamba / "tuned")
    drift = [v for v in result.verdicts if v.check == "spectral-drift"]
    assert [(v.outcome, v.reason) for v in drift] == [("skipped", "this model has no weights of: attention, mlp")]
    limited = [v for v in result.verdicts if v.check == "recurrent-size"]
    assert {v.outcome for v in limited} == {"passed"}
    assert [v.outcome for v in result.verdicts if v.check == "coverage"] == ["passed"]
    assert answer(result.verdicts).is_open


@pytest.mark.parametrize("part", ["in_proj.weight", "out_proj.weight", "conv1d.weight", "A_log"])
def test_a_part_that_was_lost_closes_the_gate(part: str, mamba: Path, tmp_path: Path) -> None:
    stored = load_file(mamba / "tuned" / "model.safetensors")
    (name,) = (name for name in stored if name.endswith(f"layers.1.mixer.{part}"))
    lost = torch.randn(stored[name].shape, generator=torch.Generator().manual_seed(1)).to(stored[name].dtype)
    result = audited(mamba, changed(mamba, tmp_path / "lost", {name: lost}))
    assert not answer(result.verdicts).is_open
    assert "recurrent-size" in {v.check for v in result.verdicts if v.outcome == "failed"}


def test_a_weight_that_no_rule_names_keeps_the_claims_an_error(mamba: Path, tmp_path: Path) -> None:
    more = {"backbone.layers.0.mystery.weight": torch.ones(8, 8, dtype=torch.bfloat16)}
    base = changed(mamba, tmp_path / "base", {**load_file(mamba / "base" / "model.safetensors"), **more})
    tuned = changed(mamba, tmp_path / "tuned", more)
    result = audit(base, tuned, cache="off")
    drift = [v for v in result.verdicts if v.check == "spectral-drift"]
    assert [(v.outcome, v.reason) for v in drift] == [("error", "the check's roles select nothing here")]
    assert remedy_of(drift[0], "Compare learning rates.").startswith("Names of tensors are not read")
