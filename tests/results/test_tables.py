"""A result as tables, as a line, and as a notebook shows it."""

from __future__ import annotations

import pytest

import ckptaudit
from ckptaudit.errors import ReportError
from ckptaudit.results import packages
from ckptaudit.results.records import AuditResult
from ckptaudit.results.tables import MEASUREMENTS, VERDICTS
from tests.synthetic import large, measured, result, verdict


@pytest.mark.parametrize(("table", "columns"), [("measurements", MEASUREMENTS), ("verdicts", VERDICTS)])
def test_the_three_kinds_of_table_hold_the_same_rows(
    supervised: AuditResult, table: str, columns: tuple[str, ...]
) -> None:
    arrow = supervised.to_arrow(table)  # type: ignore[arg-type]
    pandas = supervised.to_pandas(table)  # type: ignore[arg-type]
    polars = supervised.to_polars(table)  # type: ignore[arg-type]
    assert arrow.num_rows == len(pandas) == polars.height == len(getattr(supervised, table))
    assert tuple(arrow.column_names) == tuple(pandas.columns) == tuple(polars.columns) == columns


def test_a_verdict_is_found_in_the_table(supervised: AuditResult) -> None:
    frame = supervised.to_pandas("verdicts")
    row = frame[(frame.check == "spectral-drift") & (frame.subject == "layers.1")].iloc[0]
    assert row["outcome"] == "failed"
    assert row["value"] == pytest.approx(0.02109, rel=1e-3)


def test_what_has_no_value_is_null_and_never_a_number() -> None:
    found = result([verdict("layers.0", None, reason="a NaN")])
    assert found.to_arrow("verdicts")["value"].to_pylist() == [None]


def test_an_unknown_table_and_a_missing_package_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReportError, match="measurements and verdicts are there"):
        result([]).to_arrow("weights")  # type: ignore[arg-type]
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    with pytest.raises(ReportError, match=r"ckptaudit\[polars\]"):
        result([]).to_polars()


def test_a_result_is_one_line_however_large(supervised: AuditResult) -> None:
    for found in (supervised, large(layers=28, experts=8)):
        assert "gate closed" in repr(found)
        assert len(repr(found)) < 300
        assert "\n" not in repr(found)


def test_a_notebook_shows_the_answer_the_checks_and_the_map(supervised: AuditResult) -> None:
    shown = supervised._repr_html_()
    assert "gate CLOSED, worst: spectral-drift at layers.1, 21x the limit" in shown
    assert "<td>spectral-drift</td><td>21x the limit</td>" in shown
    assert '<span style="color:#b84200">#</span>' in shown or '<span style="color:#b84200"># </span>' in shown
    assert "<script" not in shown


def test_a_hostile_name_is_text_in_a_notebook() -> None:
    name = "model.layers.0.<img src=x onerror=alert(1)>.weight"
    found = result([verdict(name, 0.5, worst=name)], [measured(name, 0, "<b>role</b>", 0.5)])
    assert "<img" not in found._repr_html_()
    assert "<b>" not in found._repr_html_()


def test_every_public_name_is_listed() -> None:
    assert set(ckptaudit.__all__) <= set(dir(ckptaudit))
