"""A verdict in words: on one screen, and in one line."""

from __future__ import annotations

import msgspec
import pytest

from ckptaudit.report.appearance import number
from ckptaudit.report.failure import SENTENCE_LENGTH, explain, in_one_line
from ckptaudit.results.records import AuditResult
from tests.synthetic import check, verdict


def test_a_failure_fits_on_one_screen(supervised: AuditResult) -> None:
    checks = {check.id: check for check in supervised.checks}
    for found in supervised.verdicts:
        text = explain(found, checks[found.check])
        assert len(text.splitlines()) <= 24
        assert checks[found.check].source in " ".join(text.split())


def test_one_line_has_value_limit_tensor_and_source(supervised: AuditResult) -> None:
    found = next(v for v in supervised.verdicts if (v.check, v.subject) == ("spectral-drift", "layers.1"))
    assert in_one_line(found) == (
        "0.02109, limit <= 0.001 (normalized_spectral_shift of layers.1); "
        "worst tensor model.layers.1.self_attn.v_proj.weight; "
        "source arXiv:2606.07082, 3.2 and C.3, after arXiv:2511.08567, Gate II"
    )


@pytest.mark.parametrize("value", [0.5, None])
def test_one_line_stays_one_and_short_whatever_the_names(value: float | None) -> None:
    name = "\n\x1b[2J" + "x" * 10_000
    line = in_one_line(verdict(name, value, worst=name, reason=name))
    assert len(line) <= SENTENCE_LENGTH
    assert line.isprintable()


def test_a_moved_limit_and_a_waiver_are_told() -> None:
    found = verdict("layers.0", 0.5, worst="w")
    plain = explain(found, check("drift"))
    assert "limit from" not in plain
    assert "waiver" not in plain
    moved = msgspec.structs.replace(found, limit_from="override 1: agreed", waiver="until 2026-01-01: known")
    told = explain(moved, check("drift"))
    assert "limit from    override 1: agreed" in told
    assert "waiver        until 2026-01-01: known" in told


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (3.0, "3"), (1e-5, "1e-05"), (0.0210907, "0.02109"), (123456.0, "123456")]
)
def test_numbers_are_short_and_counts_are_whole(value: float, text: str) -> None:
    assert number(value) == text
