"""Two audits side by side."""

from __future__ import annotations

import math

import msgspec
import pytest

from ckptaudit.results.diff import ORDER, compare
from ckptaudit.results.records import AuditResult
from tests.synthetic import measured, result, verdict


def turned(was: str, now: str) -> list[str]:
    a, b = (result([verdict("layers.0", 0.5, outcome=o)] if o != "not judged" else []) for o in (was, now))
    return [c.turn for c in compare(a, b).changed]


@pytest.mark.parametrize("was", ORDER)
def test_an_audit_differs_from_itself_in_nothing(was: str) -> None:
    assert turned(was, was) == []


@pytest.mark.parametrize(
    ("was", "now", "turn"),
    [
        ("passed", "failed", "worse"),
        ("passed", "error", "worse"),
        ("passed", "skipped", "worse"),
        ("passed", "waived", "worse"),
        ("failed", "error", "worse"),
        ("failed", "passed", "better"),
        ("error", "failed", "better"),
        ("waived", "passed", "better"),
        ("passed", "not judged", "worse"),
        ("not judged", "passed", "changed"),
        ("not judged", "failed", "worse"),
    ],
)
def test_which_way_a_verdict_turned(was: str, now: str, turn: str) -> None:
    assert turned(was, now) == [turn]


def test_what_only_warns_ranks_below_what_closes_the_gate() -> None:
    warned = result([verdict("layers.0", 0.5, severity="warn")])
    closed = result([verdict("layers.0", 0.5)])
    assert compare(warned, closed).worse
    assert not compare(closed, warned).worse


def test_numbers_that_moved_by_more_than_the_factor_are_listed_the_farthest_first() -> None:
    names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(5)]
    before = result([], [measured(n, i, "q_proj", 1.0) for i, n in enumerate(names)])
    after = result(
        [],
        [
            measured(n, i, "q_proj", v)
            for i, (n, v) in enumerate(zip(names, (1.9, 2.1, 0.1, 0.0, 1.0), strict=True))
        ],
    )
    moved = compare(before, after, factor=2.0).moved
    assert [(m.tensor, m.factor) for m in moved] == [
        (names[3], 0.0),
        (names[2], pytest.approx(0.1)),
        (names[1], pytest.approx(2.1)),
    ]
    assert next(m.factor for m in compare(after, before).moved) == math.inf


def test_bounds_are_not_compared() -> None:
    bound = msgspec.structs.replace(measured("t", 0, "q_proj", 0.5), kind="upper_bound")
    assert compare(result([], [bound]), result([], [measured("t", 0, "q_proj", 0.001)])).moved == ()


def test_another_base_is_said(supervised: AuditResult, gentle_result: AuditResult) -> None:
    assert compare(gentle_result, supervised).remarks == ()
    first, *rest = supervised.checkpoints
    other = msgspec.structs.replace(
        supervised, checkpoints=(msgspec.structs.replace(first, fingerprint="f" * 32), *rest)
    )
    (remark,) = compare(gentle_result, other).remarks
    assert remark.startswith("the bases differ")


def test_the_bundled_pairs_differ_as_they_fell(supervised: AuditResult, gentle_result: AuditResult) -> None:
    difference = compare(gentle_result, supervised)
    assert {c.turn for c in difference.changed} == {"worse"}
    assert len(difference.changed) == supervised.summary.failed + supervised.summary.noted
    assert not compare(supervised, gentle_result).worse


def test_runs_that_cannot_be_matched_are_said() -> None:
    a, b = result([], tuned=("x", "y")), result([], tuned=("z",))
    assert "nothing is compared" in " ".join(compare(a, b).remarks)
