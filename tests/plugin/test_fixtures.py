"""Fixtures for a team's own Python tests."""

from __future__ import annotations

from pathlib import Path

import pytest

OWN_TEST = """
def test_layer(layer, measure, model_pair):
    shifts = measure("normalized_spectral_shift", layer, roles=["attention"])
    assert len(shifts) == 4
    assert max(shifts.values()) < 1e-3
    assert layer.name in model_pair.layers
    assert "q_proj" in layer.roles
    assert layer.tensors[0].place.layer == layer.index

def test_outside_the_layers(measure):
    assert measure("update_sparsity", "embed_tokens")["model.embed_tokens.weight"] > 0.5
"""


@pytest.fixture
def pair(fixture_pairs: Path) -> list[str]:
    return ["--base", str(fixture_pairs / "base"), "--tuned", str(fixture_pairs / "rlvr-gentle")]


def test_a_test_runs_once_for_each_layer(pytester: pytest.Pytester, pair: list[str]) -> None:
    path = pytester.makepyfile(OWN_TEST)
    result = pytester.runpytest(path, *pair, "-v")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["*::test_layer[[]layers.3[]] PASSED*"])


def test_several_runs_multiply_the_tests(pytester: pytest.Pytester, pair: list[str], fixture_pairs: Path) -> None:
    path = pytester.makepyfile(OWN_TEST)
    result = pytester.runpytest(path, *pair, "--tuned", str(fixture_pairs / "rlvr"), "-k", "test_layer")
    result.assert_outcomes(passed=4, failed=4, deselected=2)


def test_without_a_pair_they_skip_with_the_reason(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(OWN_TEST)
    result = pytester.runpytest(path, "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*give --base PATH and --tuned PATH*"])


def test_an_unknown_metric_is_named_with_its_neighbours(pytester: pytest.Pytester, pair: list[str]) -> None:
    path = pytester.makepyfile("def test_it(measure): measure('update_sparsty', 'layers.0')")
    result = pytester.runpytest(path, *pair)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*did you mean update_sparsity*"])


def test_a_fixture_of_the_same_name_in_the_test_file_wins(pytester: pytest.Pytester, pair: list[str]) -> None:
    path = pytester.makepyfile(
        """
        import pytest
        @pytest.fixture
        def layer():
            return "mine"
        def test_it(layer):
            assert layer == "mine"
        """
    )
    pytester.runpytest(path, *pair).assert_outcomes(passed=1)
