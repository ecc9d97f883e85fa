"""Healthy runs open the gate with room to spare, damaging ones close it, and quantised ones are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptaudit.pipeline.api import audit
from ckptaudit.results.records import AuditResult

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"


def audited(tuned: Path, profile: str, base: Path = FIXTURES / "base") -> AuditResult:
    return audit(base, tuned, profile=profile, cache="off", complete=False, device="cpu")


def closing(result: AuditResult) -> set[str]:
    return {verdict.check for verdict in result.verdicts if verdict.closes}


@pytest.mark.parametrize(
    ("run", "profile"),
    [
        ("rlvr-gentle", "rlvr"),
        ("rlvr-gentle-seed1", "rlvr"),
        ("rlvr-gentle-seed2", "rlvr"),
        ("dpo", "rlvr"),
        ("lora-grpo", "rlvr"),
        ("lora-grpo", "lora"),
        ("rlvr-gentle", "opd"),
        ("dpo", "opd"),
        ("lora-grpo", "release_lora"),
        ("dpo", "release_opd"),
        ("dpo", "kind"),
        ("lora-grpo", "kind"),
    ],
)
def test_healthy_runs_open_the_gate_and_break_no_warning(run: str, profile: str) -> None:
    result = audited(FIXTURES / run, profile)
    assert closing(result) == set()
    assert {v.check for v in result.verdicts if v.outcome == "failed" and v.severity == "warn"} == set()


@pytest.mark.parametrize(
    ("run", "profile", "broken"),
    [
        ("rlvr-step40", "rlvr", {"spectral-drift", "update-size", "update-sparsity"}),
        ("rlvr", "rlvr", {"spectral-drift", "update-size", "update-sparsity", "principal-rotation-left"}),
        ("sft", "rlvr", {"spectral-drift", "update-size", "principal-rotation-right", "norms-and-biases"}),
        ("lora", "lora", {"spectral-drift", "update-size", "principal-rotation-left", "principal-rotation-right"}),
        ("sft", "opd", {"spectral-drift", "update-size", "principal-rotation-left", "update-sparsity"}),
        ("sft", "release_lora", {"spectral-drift", "update-size", "principal-rotation-left"}),
        ("sft", "release_opd", {"spectral-drift", "update-size", "update-sparsity"}),
        ("rlvr", "opd", {"spectral-drift", "update-size", "update-sparsity"}),
    ],
)
def test_runs_that_went_too_far_close_it(run: str, profile: str, broken: set[str]) -> None:
    assert broken <= closing(audited(FIXTURES / run, profile))


def one_layer(folder: Path, run: str, change: str = "") -> Path:
    """The first layer of a bundled checkpoint, changed as an export changes it."""
    state = load_file(FIXTURES / run / "model.safetensors")
    state = {n: w for n, w in state.items() if not n.startswith("model.layers.") or n.split(".")[2] == "0"}
    config = json.loads((FIXTURES / "base" / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "layer_types": config["layer_types"][:1]}
    if change == "float8":
        config["quantization_config"] = {"quant_method": "compressed-tensors"}
        for name in [n for n in state if n.endswith("_proj.weight")]:
            scale = state[name].float().abs().amax(1, keepdim=True) / 448
            state[name], state[f"{name}_scale"] = (state[name].float() / scale).to(torch.float8_e4m3fn), scale
    elif change == "no vectors":
        state = {n: w for n, w in state.items() if w.ndim > 1}
    elif change:
        state = {n: w.to(getattr(torch, change)) for n, w in state.items()}
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_float8_export_is_named_and_not_taken_for_drift(tmp_path: Path) -> None:
    base, tuned = one_layer(tmp_path / "base", "base"), one_layer(tmp_path / "tuned", "rlvr-gentle", "float8")
    result = audited(tuned, "rlvr", base)
    of_layer = [v for v in result.verdicts if v.check in ("spectral-drift", "update-size", "update-sparsity")]
    assert {v.outcome for v in of_layer} == {"error"}
    assert all("float8_e4m3fn" in v.reason and "audit the unquantised weights" in v.reason for v in of_layer)
    assert any("stored in float8_e4m3fn" in note for note in result.notes)
    assert not any(v.outcome == "failed" for v in result.verdicts)


def test_float8_on_both_sides_is_judged(tmp_path: Path) -> None:
    sides = [one_layer(tmp_path / run, run, "float8") for run in ("base", "rlvr-gentle")]
    result = audited(sides[1], "rlvr", sides[0])
    assert not any(v.outcome == "error" for v in result.verdicts)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_another_type_gets_a_line_and_opens(tmp_path: Path, dtype: str) -> None:
    base, tuned = one_layer(tmp_path / "base", "base"), one_layer(tmp_path / "tuned", "rlvr-gentle", dtype)
    result = audited(tuned, "rlvr", base)
    assert closing(result) == set()
    assert [n for n in result.notes if f"stored in {dtype} in the tuned checkpoint and in bfloat16" in n]


def test_a_model_without_norms_and_biases_skips_their_check(tmp_path: Path) -> None:
    base, tuned = (one_layer(tmp_path / run, run, "no vectors") for run in ("base", "rlvr-gentle"))
    result = audited(tuned, "rlvr", base)
    (verdict,) = [v for v in result.verdicts if v.check == "norms-and-biases"]
    assert verdict.outcome == "skipped"
    assert "norm" in verdict.reason
    assert closing(result) == set()
