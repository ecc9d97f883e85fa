"""From measurements to a decision: what passes, what fails, and what must never be green."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.judging.checks import Check, Guard
from ckptaudit.judging.judge import broken_tensors, decide
from ckptaudit.judging.limits import Limit, Limits
from ckptaudit.metrics import Measurement


def check(**changes: object) -> Check:
    fields: dict[str, object] = {
        "id": "drift",
        "claim": "Nothing moves.",
        "source": "ours",
        "metric": "normalized_spectral_shift",
        "roles": ("mlp",),
        "per": "layer",
        "breaks_when": "scale_spectrum",
        "remedy": "Look.",
        "at_most": 0.1,
    }
    return Check(**{**fields, **changes})  # type: ignore[arg-type]


def measured(
    *values: float | None, metric: str = "normalized_spectral_shift", kind: str = "exact"
) -> list[Measurement]:
    return [
        Measurement(f"w{i}", 0, "up_proj", (2, 10 ** (i + 1)), metric, value, kind)  # type: ignore[arg-type]
        for i, value in enumerate(values)
    ]


def test_a_layer_is_judged_by_its_worst_matrix() -> None:
    verdict = decide(check(), "layers.0", "run", measured(0.01, 0.2, 0.05))
    assert (verdict.outcome, verdict.worst, verdict.value) == ("failed", "w1", 0.2)
    assert [r.tensor for r in verdict.ranking] == ["w1", "w2", "w0"]


def test_the_worst_of_a_lower_limit_is_the_smallest() -> None:
    verdict = decide(check(at_most=None, at_least=0.1), "layers.0", "run", measured(0.5, 0.2))
    assert (verdict.outcome, verdict.worst, verdict.value) == ("passed", "w1", 0.2)


def test_the_limit_itself_is_allowed() -> None:
    assert decide(check(), "layers.0", "run", measured(0.1)).outcome == "passed"


@pytest.mark.parametrize(
    ("judge_by", "value"), [("mean", 0.2), ("weighted_mean", (0.1 * 10 + 0.3 * 100) / 110), ("sum", 0.4)]
)
def test_other_ways_to_sum_up_a_layer(judge_by: str, value: float) -> None:
    verdict = decide(check(judge_by=judge_by), "layers.0", "run", measured(0.1, 0.3))
    assert verdict.value == pytest.approx(value)
    assert verdict.worst == "w1"


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_value_that_is_no_number_cannot_be_judged(missing: float | None) -> None:
    verdict = decide(check(), "layers.0", "run", measured(0.01, missing))
    assert (verdict.outcome, verdict.value, verdict.worst) == ("error", None, "w1")


def test_a_check_that_selects_nothing_cannot_be_judged() -> None:
    verdict = decide(check(), "layers.0", "run", measured(0.0, metric="update_sparsity"))
    assert verdict.outcome == "error"
    assert "select nothing" in verdict.reason


def test_the_reason_names_nan_in_the_tuned_tensor() -> None:
    rows = [*measured(None), *measured(3.0, metric="nonfinite_entries")]
    assert "3 NaN or infinite" in decide(check(), "layers.0", "run", rows).reason


def test_a_guard_sets_aside_what_is_too_small_a_sample() -> None:
    guarded = check(only_where=Guard("changed_entries", 400))
    rows = [*measured(0.2, 0.05), *measured(10, 1000, metric="changed_entries")]
    assert decide(guarded, "layers.0", "run", rows).outcome == "passed"


def test_a_guard_that_leaves_nothing_skips_with_the_reason() -> None:
    guarded = check(only_where=Guard("changed_entries", 400))
    rows = [*measured(0.2), *measured(10, metric="changed_entries")]
    verdict = decide(guarded, "layers.0", "run", rows)
    assert verdict.outcome == "skipped"
    assert "changed_entries >= 400" in verdict.reason


def test_a_guard_that_sees_no_number_is_no_excuse() -> None:
    guarded = check(only_where=Guard("changed_entries", 400))
    rows = [*measured(None), *measured(None, metric="changed_entries")]
    assert decide(guarded, "layers.0", "run", rows).outcome == "error"


def test_a_verdict_settled_by_a_bound_says_so() -> None:
    assert decide(check(), "layers.0", "run", measured(0.05, kind="upper_bound")).kind == "upper_bound"


def test_an_angle_at_a_degenerate_gap_carries_a_remark() -> None:
    angles = measured(0.5, metric="principal_angle_left_max")
    gaps = measured(1e-5, metric="principal_gap")
    verdict = decide(check(metric="principal_angle_left_max"), "layers.0", "run", [*angles, *gaps])
    assert "degenerate gap" in verdict.ranking[0].remark


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 1))
def test_it_passes_exactly_when_every_matrix_is_within_the_limit(values: list[float], limit: float) -> None:
    verdict = decide(check(at_most=limit), "layers.0", "run", measured(*values))
    assert (verdict.outcome == "passed") == all(v <= limit for v in values)


def limits(usual: float, **moved: float) -> Limits:
    return Limits(
        Limit(usual, "check"), {name: Limit(value, f"override of {name}") for name, value in moved.items()}
    )


def test_each_tensor_is_held_to_its_own_limit_and_the_deciding_ones_is_named() -> None:
    verdict = decide(check(), "layers.0", "run", measured(0.04, 0.2), limits(0.1, w0=0.03, w1=0.5))
    assert (verdict.outcome, verdict.worst, verdict.value) == ("failed", "w0", 0.04)
    assert (verdict.limit, verdict.limit_from) == (0.03, "override of w0")
    assert [r.remark for r in verdict.ranking] == ["limit <= 0.03 here", "limit <= 0.5 here"]


def test_room_is_compared_as_a_share_of_the_limit() -> None:
    # w0 is over by 0.001, w1 by 0.0009; but w1 is nearly twice what it may be.
    verdict = decide(check(), "layers.0", "run", measured(0.006, 0.0019), limits(0.1, w0=0.005, w1=0.001))
    assert verdict.worst == "w1"


def test_a_tensor_without_a_value_shows_the_limit_it_would_have_met() -> None:
    verdict = decide(check(), "layers.0", "run", measured(None, 0.01), limits(0.1, w0=0.5))
    assert (verdict.outcome, verdict.limit) == ("error", 0.5)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=8))
def test_with_limits_of_their_own_it_passes_exactly_when_all_are_within_theirs(
    pairs: list[tuple[float, float]],
) -> None:
    own = limits(0.0, **{f"w{i}": limit for i, (_, limit) in enumerate(pairs)})
    rows = measured(*(value for value, _ in pairs))
    verdict = decide(check(), "layers.0", "run", rows, own)
    broken = {f"w{i}" for i, (value, limit) in enumerate(pairs) if value > limit}
    assert (verdict.outcome == "failed") == bool(broken)
    assert broken_tensors(check(), rows, own) == broken
    assert not broken or verdict.worst in broken
