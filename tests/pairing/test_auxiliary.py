"""Inputs beside the pair: what fits, what is refused in one line, and what a check does without one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ckptaudit
from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.config import Config
from ckptaudit.options import AuditOptions
from ckptaudit.pairing.auxiliary import open_auxiliary
from ckptaudit.pipeline import execute, judge, open_audit, plan

NAME = "model.layers.0.self_attn.q_proj.weight"


def saved(folder: Path, tensors: dict[str, torch.Tensor]) -> str:
    path = folder / "input.safetensors"
    save_file(tensors, path)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "tensors", "words"),
    [
        ("fisher", {"other.weight": torch.ones(2, 2)}, ["none of its tensors is named like", "other.weight"]),
        ("fisher", {NAME: torch.ones(16, 23)}, [NAME, "shapes differ", "[16, 24]", "[16, 23]"]),
        ("gradients", {NAME: torch.ones(4, 16, 23)}, [NAME, "shapes differ"]),
        ("gradients", {NAME: torch.ones(16, 24)}, [NAME, "shapes differ"]),
        (
            "gradients",
            {NAME: torch.ones(4, 16, 24), "model.layers.0.input_layernorm.weight": torch.ones(3, 24)},
            ["same number of samples", "[3, 4]", "ckptaudit collect gradients"],
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, small_pair: tuple[Path, Path], kind: str, tensors: dict[str, torch.Tensor], words: list[str]
) -> None:
    with pytest.raises(ckptaudit.CkptAuditError) as caught:
        open_auxiliary({kind: saved(tmp_path, tensors)}, open_checkpoint(small_pair[0]))
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in (f"{kind}= ", *words)), text


def test_a_missing_file_ends_with_code_4_and_one_line(
    pytester: pytest.Pytester, small_pair: tuple[Path, Path]
) -> None:
    base, tuned = small_pair
    run = pytester.runpytest_subprocess(f"--base={base}", f"--tuned={tuned}", "--audit-fisher=no.safetensors")
    assert run.ret == 4
    run.stderr.fnmatch_lines(["ERROR: *no.safetensors: no such file or directory*"])


def test_a_pipe_is_called_a_pipe(tmp_path: Path, small_pair: tuple[Path, Path]) -> None:
    os.mkfifo(tmp_path / "probes.jsonl")
    with pytest.raises(ckptaudit.CkptAuditError, match=r"probes\.jsonl: a pipe, not a regular file"):
        open_auxiliary({"probes": str(tmp_path / "probes.jsonl")}, open_checkpoint(small_pair[0]))


def test_a_profile_of_checks_without_their_input_names_the_option(
    pytester: pytest.Pytester, fixture_pairs: Path
) -> None:
    pair = [f"--base={fixture_pairs / 'base'}", f"--tuned={fixture_pairs / 'rlvr-gentle'}"]
    run = pytester.runpytest(*pair, "--audit-profile=unlearning", "-rs")
    assert run.ret == 4
    run.stderr.fnmatch_lines(["ERROR: --audit-profile unlearning: *needs --audit-retain-gradients FILE."])


def test_an_audit_with_inputs_passes_and_reports_them(
    pytester: pytest.Pytester, fixture_pairs: Path, collected_inputs: dict[str, str]
) -> None:
    pair = [f"--base={fixture_pairs / 'base'}", f"--tuned={fixture_pairs / 'rlvr-gentle'}"]
    retain = f"--audit-retain-gradients={collected_inputs['retain_gradients']}"
    run = pytester.runpytest_subprocess(
        *pair, retain, "--audit-profile=unlearning", "--audit-json=audit.json", "-n2", "-p", "no:cacheprovider"
    )
    assert run.ret == 0
    result = json.loads((pytester.path / "audit.json").read_text())
    assert result["about"]["inputs"] == {"retain_gradients": collected_inputs["retain_gradients"]}
    rows = {(m["metric"], m["tensor"], m["layer"], m["role"]) for m in result["measurements"]}
    assert ("retain_tangential_share", "layers.2", 2, "attention, mlp") in rows
    assert ("retain_loss_change", "model", None, "all") in rows
    whole = next(v for v in result["verdicts"] if v["check"] == "retain-tangent-model")
    assert whole["subject"] == "model"
    assert whole["worst"].startswith("model.layers.")


def test_a_broken_claim_says_where_most_of_it_is(
    pytester: pytest.Pytester, fixture_pairs: Path, collected_inputs: dict[str, str]
) -> None:
    pair = [f"--base={fixture_pairs / 'base'}", f"--tuned={fixture_pairs / 'sft'}"]
    run = pytester.runpytest(
        *pair, f"--audit-aligned={collected_inputs['aligned']}", "--audit-profile=alignment_restoration"
    )
    assert run.ret == 1
    run.stdout.fnmatch_lines(["judged  alignment_kept, *", "* below the minimum  layers.0  L0 *"])


def test_an_input_that_lacks_weights_is_told_of(tmp_path: Path, fixture_pairs: Path) -> None:
    weights = load_file(fixture_pairs / "base" / "model.safetensors")
    few = {n: torch.rand(w.shape) for n, w in weights.items() if ".0.self_attn" in n} | {"unknown": torch.ones(1)}
    result = ckptaudit.audit(
        fixture_pairs / "base",
        fixture_pairs / "rlvr-gentle",
        profile="alignguard",
        inputs={"fisher": saved(tmp_path, few)},
    )
    by_subject = {v.subject: v for v in result.verdicts if v.check == "fisher-weight"}
    assert by_subject["layers.0"].outcome == "passed"
    assert "weights left out" in by_subject["layers.0"].ranking[0].remark
    assert by_subject["layers.1"].outcome == "skipped"
    assert "holds none of these weights" in by_subject["layers.1"].reason
    assert any("without" in note and "fisher= " in note for note in result.notes)
    assert any("unknown" in note for note in result.notes)


def test_a_nan_in_an_input_cannot_be_judged(tmp_path: Path, small_pair: tuple[Path, Path]) -> None:
    poisoned = torch.rand(16, 24)
    poisoned[3, 3] = torch.nan
    result = ckptaudit.audit(
        *small_pair, profile="alignguard", inputs={"fisher": saved(tmp_path, {NAME: poisoned})}
    )
    verdict = next(v for v in result.verdicts if v.check == "fisher-weight" and v.subject == "layers.0")
    assert verdict.outcome == "error"
    assert "fisher= " in verdict.reason
    assert NAME in verdict.reason


def test_gradients_of_fused_and_turned_weights_are_taken_apart_as_the_weights_are(tmp_path: Path) -> None:
    """GPT-2 stores [in, out] and query, key and value in one: each part's gradients must follow its part."""
    random = torch.Generator().manual_seed(0)
    name, config = "transformer.h.0.attn.c_attn.weight", '{"model_type": "gpt2", "n_embd": 8, "n_head": 2}'
    weight = torch.randn(8, 24, generator=random)
    stack = torch.randn(3, 8, 24, generator=random)
    step = torch.zeros(8, 24)
    step[:, 8:16] = stack[1, :, 8:16]  # the key part of one sample
    for folder, tensor in (("base", weight), ("tuned", weight + step)):
        (tmp_path / folder).mkdir()
        save_file({name: tensor}, tmp_path / folder / "model.safetensors")
        (tmp_path / folder / "config.json").write_text(config)
    check = """[[check]]
id = "tangent"
claim = "x"
source = "ours"
metric = "retain_tangential_share"
at_most = 1
roles = ["attention"]
per = "matrix"
breaks_when = "climb_retain_loss"
remedy = "x"
"""
    (tmp_path / "one.toml").write_text(check)
    options = AuditOptions(
        base=str(tmp_path / "base"),
        tuned=(str(tmp_path / "tuned"),),
        auxiliary={"retain_gradients": saved(tmp_path, {name: stack})},
    )
    planned = plan(open_audit(options), [load_checks(tmp_path / "one.toml")], Config())
    given = {v.subject: v.value for v in judge(planned, execute(planned))}
    assert given[f"{name}[k_proj]"] == pytest.approx(1.0)
    assert given[f"{name}[q_proj]"] == given[f"{name}[v_proj]"] == 0.0
