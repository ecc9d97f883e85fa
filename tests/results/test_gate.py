"""The answer of the gate: open only where whatever closes it was judged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ckptaudit.errors import CkptAuditError
from ckptaudit.judging.check_files import load_checks
from ckptaudit.judging.profiles import bundled_check_files, profiles
from ckptaudit.pipeline.api import audit
from ckptaudit.results.gate import INTEGRITY, NOTHING_JUDGED, ONLY_INTEGRITY, answer
from ckptaudit.results.records import AuditResult

NEED_INPUTS = {
    "unlearning": "retain_gradients",
    "alignguard": "fisher",
    "gist": "gradients",
    "alignment_restoration": "aligned",
    "reference": "reference",
    "behavior": "probes",
    "verdicts": "verdicts",
    "rollouts": "rollouts",
    "merged": "adapter",
    "soup": "parents",
}
"""Profiles of whose own checks none can be judged without an input."""

NEED_IT_FOR_SOME = ("mode_connectivity", "pissa")


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


@pytest.mark.parametrize(("profile", "name"), NEED_INPUTS.items())
def test_a_profile_without_its_input_is_refused(profile, name, fixture_pairs):
    with pytest.raises(CkptAuditError, match=f"needs .*{name}= "):
        audit(fixture_pairs / "base", fixture_pairs / "rlvr-gentle", profile=profile, complete=False, cache="off")


def test_a_profile_without_its_input_ends_in_one_line(pytester: pytest.Pytester, fixture_pairs: Path) -> None:
    pair = [f"--base={fixture_pairs / 'base'}", f"--tuned={fixture_pairs / 'rlvr-gentle'}"]
    run = pytester.runpytest(*pair, "--audit-profile=behavior")
    assert run.ret == 4
    (line,) = filter(None, run.errlines)
    assert line.startswith(
        "ERROR: --audit-profile behavior: its checks have nothing to judge by: needs --audit-probes"
    )


def test_probes_that_tell_of_nothing_open_no_gate(
    pytester: pytest.Pytester, fixture_pairs: Path, tmp_path: Path
) -> None:
    probes = tmp_path / "one.jsonl"
    probes.write_text('{"text": "1+1="}\n')
    pair = [f"--base={fixture_pairs / 'base'}", f"--tuned={fixture_pairs / 'rlvr-gentle'}"]
    run = pytester.runpytest(*pair, "--audit-profile=behavior", f"--audit-probes={probes}")
    assert run.ret == 4
    run.stdout.fnmatch_lines(["*not judged: behavior: every check on --audit-probes was skipped*"])
    run.stdout.fnmatch_lines([f"gate CLOSED: {ONLY_INTEGRITY}"])


def test_what_counts_as_integrity_is_the_file_of_that_name() -> None:
    (file,) = (file for file in bundled_check_files() if file.name == "integrity.toml")
    assert {check.id for check in load_checks(file).checks} == INTEGRITY


@pytest.mark.parametrize("profile", NEED_IT_FOR_SOME)
def test_a_profile_without_an_input_of_some_checks_is_not_open(profile, fixture_pairs):
    result = audit(
        fixture_pairs / "base", fixture_pairs / "rlvr-gentle", profile=profile, complete=False, cache="off"
    )
    found = answer(result.verdicts)
    assert not result.passed
    assert found.closing or found.cause == NOTHING_JUDGED or "was not judged (needs " in found.cause


def test_those_are_all_profiles_that_need_an_input():
    assert {*NEED_INPUTS, *NEED_IT_FOR_SOME} < set(profiles())


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
