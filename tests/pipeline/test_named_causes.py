"""A cause that was found stands in the verdict and in every report, with a remedy of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.metrics.causes import CauseSearch
from ckptaudit.options import AuditOptions
from ckptaudit.pairing import pair_checkpoints
from ckptaudit.pipeline.api import audit
from ckptaudit.pipeline.causes import causes
from ckptaudit.pipeline.opening import open_audit
from ckptaudit.report.failure import explain, in_one_line
from ckptaudit.report.junit import junit
from ckptaudit.report.markdown import markdown
from ckptaudit.report.terminal import render_summary
from ckptaudit.results.records import AuditResult

SAID = "looks like layers 1 and 2 exchanged"


@pytest.fixture(scope="module")
def exchanged(fixture_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exchanged")
    tensors = load_file(fixture_pairs / "rlvr-gentle" / "model.safetensors")
    to = {".layers.1.": ".layers.2.", ".layers.2.": ".layers.1."}
    renamed = {
        next((name.replace(a, b) for a, b in to.items() if a in name), name): tensor
        for name, tensor in tensors.items()
    }
    save_file(renamed, folder / "model.safetensors")
    (folder / "config.json").write_text((fixture_pairs / "base" / "config.json").read_text())
    return folder


@pytest.fixture(scope="module")
def result(fixture_pairs: Path, exchanged: Path) -> AuditResult:
    return audit(fixture_pairs / "base", exchanged, profile="rlvr", complete=False, cache="off")


def test_every_report_says_it(result: AuditResult) -> None:
    found = [v for v in result.verdicts if v.cause is not None]
    assert {str(v.cause) for v in found} == {SAID}
    assert {v.subject for v in found} == {"layers.1", "layers.2"}
    assert SAID in in_one_line(found[0])
    assert SAID in render_summary(result, width=100, colour=False)
    assert SAID in markdown(result)
    assert SAID in junit(result).decode()


def test_the_remedy_is_the_causes(result: AuditResult) -> None:
    checks = {check.id: check for check in result.checks}
    found = next(v for v in result.verdicts if v.cause is not None and v.check == "update-size")
    text = " ".join(explain(found, checks[found.check]).split())
    assert found.cause is not None
    assert found.cause.remedy in text
    assert " ".join(checks[found.check].remedy.split()) not in text


def test_what_holds_has_no_cause(fixture_pairs: Path) -> None:
    base, tuned = fixture_pairs / "base", fixture_pairs / "sft"
    opened = open_audit(AuditOptions(base=str(base), tuned=(str(tuned),), device="cpu"))
    verdicts = audit(base, tuned, profile="rlvr", complete=False, cache="off").verdicts
    assert causes(opened, verdicts) == verdicts
    assert not any(v.cause for v in verdicts)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (2.0, "applied twice"),
        (0.5, "applied by half"),
        (0.0, "not applied"),
        (-1.0, "applied with the opposite sign"),
    ],
)
def test_a_wrong_merge_is_named_against_base_and_adapter(
    times: float, words: str, fixture_pairs: Path, tmp_path: Path
) -> None:
    merged = open_checkpoint(f"{fixture_pairs / 'base'}+{fixture_pairs / 'lora'}")
    base = load_file(fixture_pairs / "base" / "model.safetensors")
    wrong = {
        n: w if merged.tensors[n].low_rank is None else _merged(w, merged.tensors[n].low_rank.dense(), times)  # type: ignore[union-attr]
        for n, w in base.items()
    }
    save_file(wrong, tmp_path / "model.safetensors")
    search = CauseSearch(pair_checkpoints(merged, open_checkpoint(tmp_path)))
    found = search.of("model.layers.1.self_attn.q_proj.weight")
    assert str(found) == f"looks like the adapter's update {words}"


def _merged(weight: torch.Tensor, update: torch.Tensor, times: float) -> torch.Tensor:
    return (weight.double() + times * update).to(weight.dtype)
