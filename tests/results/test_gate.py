"""The answer of the gate: open only where whatever closes it was judged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptaudit.judging.profiles import profiles
from ckptaudit.pipeline.api import audit
from ckptaudit.results.gate import NOTHING_JUDGED, answer
from ckptaudit.results.records import AuditResult

NEED_INPUTS = ("mode_connectivity", "pissa", "unlearning", "alignguard", "gist", "alignment_restoration")


@pytest.fixture(scope="module")
def damaged_base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bases of the bundled run with one NaN or infinity in a matrix, a bias or the embeddings."""
    fixtures = Path(__file__).parents[2] / "fixtures"
    made = {}
    for name, tensor, value in (
        ("matrix", "model.layers.2.mlp.up_proj.weight", float("nan")),
        ("bias", "model.layers.1.self_attn.v_proj.bias", float("inf")),
        ("embeddings", "model.embed_tokens.weight", float("-inf")),
    ):
        folder = Path(shutil.copytree(fixtures / "base", tmp_path_factory.mktemp(name) / "base"))
        weights = load_file(folder / "model.safetensors")
        weights[tensor].view(-1)[3] = torch.tensor(value)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        made[name] = folder
    return made


@pytest.mark.parametrize("profile", ["release", "release_sft", "rlvr", "integrity", "lora", "intruders"])
@pytest.mark.parametrize("where", ["matrix", "bias", "embeddings"])
def test_a_base_that_is_not_finite_is_never_green(where, profile, damaged_base, fixture_pairs):
    result = audit(damaged_base[where], fixture_pairs / "rlvr-gentle", profile=profile, complete=False, cache="off")
    blind = [v for v in result.verdicts if v.outcome == "error"]
    assert any("the base has 1 NaN or infinite entries" in v.reason for v in blind)
    assert not result.passed


@pytest.mark.parametrize("profile", NEED_INPUTS)
def test_a_profile_without_its_input_is_not_open(profile, fixture_pairs):
    result = audit(
        fixture_pairs / "base", fixture_pairs / "rlvr-gentle", profile=profile, complete=False, cache="off"
    )
    found = answer(result.verdicts)
    assert not result.passed
    assert found.closing or found.cause == NOTHING_JUDGED or "was not judged (needs " in found.cause


def test_those_are_all_profiles_that_need_an_input():
    assert set(NEED_INPUTS) < set(profiles())


def test_the_command_says_which_claim_went_unjudged(pytester: pytest.Pytester, fixture_pairs: Path) -> None:
    pair = [f"--base={fixture_pairs / 'base'}", f"--tuned={fixture_pairs / 'rlvr-gentle'}"]
    run = pytester.runpytest(*pair, "--audit-profile=mode_connectivity")
    assert run.ret == 4
    run.stdout.fnmatch_lines(["gate CLOSED: linearly-connected was not judged (needs --audit-probes FILE)"])
    assert "gate open" not in str(run.stdout)


def test_a_model_without_such_weights_is_no_reason(gentle_result: AuditResult) -> None:
    assert answer(gentle_result.verdicts).is_open


def test_a_list_of_checks_is_no_open_gate(pytester: pytest.Pytester, fixture_pairs: Path) -> None:
    pair = [f"--base={fixture_pairs / 'base'}", f"--tuned={fixture_pairs / 'rlvr-gentle'}"]
    run = pytester.runpytest(*pair, "--collect-only", "-q")
    assert run.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    run.stdout.fnmatch_lines(["*spectral-drift*"])
