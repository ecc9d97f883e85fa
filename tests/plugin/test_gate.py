"""A gate run through pytest: ids, selection, outcomes, files, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

OWN_CHECK = """
[[check]]
id = "own-drift"
claim = "Ours."
source = "ours"
metric = "normalized_spectral_shift"
at_most = {limit}
roles = ["{role}"]
per = "{per}"
breaks_when = "scale_spectrum"
remedy = "Look."
"""


RLVR = "--audit-profile=rlvr"
"""What is expected here was counted on this profile."""


@pytest.fixture
def good(fixture_pairs: Path) -> list[str]:
    return ["--base", str(fixture_pairs / "base"), "--tuned", str(fixture_pairs / "rlvr-gentle"), RLVR]


@pytest.fixture
def bad(fixture_pairs: Path) -> list[str]:
    return ["--base", str(fixture_pairs / "base"), "--tuned", str(fixture_pairs / "sft"), RLVR]


def own_check(pytester: pytest.Pytester, *, limit: str = "0.1", role: str = "mlp", per: str = "layer") -> None:
    pytester.path.joinpath("ours.toml").write_text(OWN_CHECK.format(limit=limit, role=role, per=per))


def test_a_good_pair_opens_the_gate_from_an_empty_folder(pytester: pytest.Pytester, good: list[str]) -> None:
    result = pytester.runpytest(*good)
    assert result.ret == 0
    result.assert_outcomes(passed=59)
    result.stdout.fnmatch_lines(["*checkpoint audit*", "spectral-drift*PASS 4/4*<= 0.001*"])


def test_a_supervised_run_closes_it_and_says_why_without_a_traceback(
    pytester: pytest.Pytester, bad: list[str]
) -> None:
    result = pytester.runpytest(*bad, "-k", "spectral-drift and layers.1")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*spectral-drift: FAIL*",
            "claim*singular values*",
            "judged*normalized_spectral_shift, the worst of each layer*",
            "*0.02109*21x the limit*L1 v_proj",
            "source*arXiv:2606.07082*",
            "remedy*",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*ckptaudit/plugin*")


def test_the_profile_is_chosen_by_name(pytester: pytest.Pytester, bad: list[str]) -> None:
    assert pytester.runpytest(*bad, "--audit-profile", "sft").ret == 0
    assert pytester.runpytest(*bad, "--audit-profile", "integrity").ret == 0


def test_ids_are_short_and_can_be_given_back(pytester: pytest.Pytester, good: list[str]) -> None:
    listed = pytester.runpytest(*good, "--collect-only", "-q")
    assert listed.ret == 5, "a list is no open gate"
    assert "rlvr.toml::spectral-drift[layers.3]" in listed.outlines
    again = pytester.runpytest("rlvr.toml::spectral-drift[layers.3]", *good, "-v")
    again.assert_outcomes(passed=1)
    again.stdout.fnmatch_lines(["rlvr.toml::spectral-drift[[]layers.3[]] PASSED*"])


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        (["-k", "update-sparsity"], 4),
        (["-k", "relative_update_norm and layers.2"], 2),
        (["-m", "audit_model"], 3),
        (["-m", "not audit"], 0),
    ],
)
def test_items_are_selected_by_name_metric_and_mark(
    pytester: pytest.Pytester, good: list[str], selection: list[str], count: int
) -> None:
    pytester.runpytest(*good, *selection).assert_outcomes(passed=count, deselected=59 - count)


def test_exitfirst_stops_and_lastfailed_comes_back_to_it(pytester: pytest.Pytester, bad: list[str]) -> None:
    pytester.runpytest(*bad, "-x").assert_outcomes(passed=10, failed=1)
    pytester.runpytest(*bad, "--lf").assert_outcomes(failed=1, deselected=58)


def test_the_json_holds_the_contract(pytester: pytest.Pytester, bad: list[str]) -> None:
    pytester.runpytest(*bad, "--audit-json", "out/a.json")
    result = json.loads(pytester.path.joinpath("out/a.json").read_text())
    assert {"schema", "base", "tuned", "summary", "unaligned", "measurements", "verdicts"} <= set(result)
    assert result["schema"] == "ckptaudit/1"
    assert result["tuned"] == [bad[3]]
    assert result["summary"].items() >= {"passed": 31, "failed": 24, "noted": 4, "skipped": 0, "errors": 0}.items()
    measurement = {"tuned", "tensor", "layer", "role", "shape", "metric", "value", "kind"}
    optional = {"method", "error", "standard_error", "samples", "remark", "worst"}
    assert all(measurement <= set(m) <= measurement | optional for m in result["measurements"])
    verdict = {"tuned", "check", "subject", "outcome", "worst", "value", "kind", "limit", "source"}
    assert all(verdict <= set(v) for v in result["verdicts"])
    assert len(result["verdicts"]) == 59


def test_the_json_says_how_the_audit_was_made(pytester: pytest.Pytester, good: list[str]) -> None:
    pytester.runpytest(*good, "-k", "finite", "--audit-json", "a.json")
    result = json.loads(pytester.path.joinpath("a.json").read_text())
    assert result["about"]["command"][:3] == ["pytest", *good[:2]]
    assert (result["about"]["profile"], result["about"]["exact"]) == ("rlvr", False)
    assert {"ckptaudit", "torch", "python"} <= result["about"]["versions"].keys()
    assert [c["side"] for c in result["checkpoints"]] == ["base", "tuned"]
    assert result["checkpoints"][0]["dtypes"] == {"bfloat16": 51}
    assert {c["id"] for c in result["checks"]} == {v["check"] for v in result["verdicts"]} == {"finite"}


def test_the_json_has_every_metric_of_every_matrix(pytester: pytest.Pytester, good: list[str]) -> None:
    pytester.runpytest(*good, "--audit-json", "a.json")
    rows = json.loads(pytester.path.joinpath("a.json").read_text())["measurements"]
    metrics = {r["metric"] for r in rows if r["tensor"] == "model.layers.3.mlp.down_proj.weight"}
    assert {
        "update_sparsity",
        "normalized_spectral_shift",
        *(f"principal_angle_{side}_{how}" for side in ("left", "right") for how in ("max", "mean")),
        "principal_mask_overlap",
        "low_magnitude_overlap",
        "off_principal_energy",
        "relative_update_norm",
        "update_spectral_norm",
        "update_stable_rank",
        "update_hill_alpha",
        "nonfinite_entries",
    } <= metrics
    assert {r["kind"] for r in rows} == {"exact", "upper_bound", "lower_bound"}
    pytester.runpytest(*good, "--audit-exact", "--audit-json", "exact.json")
    exact = json.loads(pytester.path.joinpath("exact.json").read_text())["measurements"]
    assert {r["kind"] for r in exact} == {"exact"}
    assert {(r["tensor"], r["metric"]) for r in exact} == {(r["tensor"], r["metric"]) for r in rows}


def test_the_junit_file_has_a_case_for_each_verdict_with_its_numbers(
    pytester: pytest.Pytester, bad: list[str]
) -> None:
    pytester.runpytest(*bad, "--junitxml", "a.xml")
    suite = ElementTree.parse(pytester.path / "a.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("59", "24", "0")
    case = next(c for c in suite.iter("testcase") if c.get("name") == "spectral-drift[layers.1]")
    assert case.get("classname") == "rlvr.toml"
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert properties["metric"] == "normalized_spectral_shift"
    assert float(properties["value"] or "nan") == pytest.approx(0.0210907, rel=1e-4)
    assert properties["limit"] == "<= 0.001"
    assert properties["worst_tensor"] == "model.layers.1.self_attn.v_proj.weight"
    assert (properties["source"] or "").startswith("arXiv:2606.07082")
    failure = case.find("failure")
    assert failure is not None
    assert "limit <= 0.001" in (failure.get("message") or "")


def test_own_checks_are_collected_like_the_bundled_ones(pytester: pytest.Pytester, good: list[str]) -> None:
    own_check(pytester, per="matrix", role="q_proj")
    result = pytester.runpytest("ours.toml", *good, "-v")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["ours.toml::own-drift[[]model.layers.2.self_attn.q_proj.weight[]] PASSED*"])


def test_own_checks_in_a_folder_are_found(pytester: pytest.Pytester, good: list[str]) -> None:
    own_check(pytester)
    pytester.path.joinpath("settings.toml").write_text("[other]\nx = 1\n")
    pytester.runpytest(".", *good).assert_outcomes(passed=4)


def test_a_check_decided_by_a_bound_says_so_and_exact_overrules(pytester: pytest.Pytester, good: list[str]) -> None:
    own_check(pytester)
    pytester.runpytest("ours.toml", *good).stdout.fnmatch_lines(["*4 decided by an upper bound*"])
    pytester.runpytest("ours.toml", *good, "--audit-exact").stdout.no_fnmatch_line("*decided by*bound*")


def test_a_selector_that_matches_nothing_is_an_error_and_never_green(
    pytester: pytest.Pytester, good: list[str]
) -> None:
    own_check(pytester, role="nothing_has_this_role")
    result = pytester.runpytest("ours.toml", *good)
    result.assert_outcomes(errors=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*own-drift: ERROR*", "reason*select*nothing*"])


def test_nothing_judged_is_never_zero(pytester: pytest.Pytester, fixture_pairs: Path) -> None:
    same = str(fixture_pairs / "base")
    result = pytester.runpytest("--base", same, "--tuned", same, RLVR, "-k", "low-magnitude-overlap")
    result.assert_outcomes(skipped=4, deselected=55)
    assert result.ret == 4


def test_the_same_path_twice_fails_only_for_having_changed_nothing(
    pytester: pytest.Pytester, fixture_pairs: Path
) -> None:
    same = str(fixture_pairs / "base")
    result = pytester.runpytest("--base", same, "--tuned", same, RLVR)
    result.assert_outcomes(passed=42, skipped=16, failed=1)
    result.stdout.fnmatch_lines(
        ["*actually-changed: FAIL*", "gate CLOSED, worst: actually-changed at model, 0 entries, limit >= 1"]
    )


def test_several_runs_are_told_apart_in_the_ids(
    pytester: pytest.Pytester, good: list[str], fixture_pairs: Path
) -> None:
    result = pytester.runpytest(*good, "--tuned", str(fixture_pairs / "sft"), "-k", "spectral-drift", "-v")
    result.assert_outcomes(passed=4, failed=4, deselected=110)
    result.stdout.fnmatch_lines(
        [
            "rlvr.toml::spectral-drift[[]rlvr-gentle:layers.0[]] PASSED*",
            "rlvr.toml::spectral-drift[[]sft:layers.0[]] FAILED*",
        ]
    )


def test_without_the_options_pytest_runs_as_ever_and_torch_stays_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        def test_plain():
            assert "torch" not in sys.modules
            assert "ckptaudit.judging.check_files" not in sys.modules
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
