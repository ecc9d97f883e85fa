"""The page as a file: what stands in it, how large it is, and that nothing in it can be more than text."""

from __future__ import annotations

import hashlib
import html
import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.linalg

from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.judging.verdict import times_over
from ckptaudit.metrics import Measurement
from ckptaudit.report.html import render_html, write_html
from ckptaudit.report.html.cells import Names, grids_of
from ckptaudit.report.html.placing import likeness, placed, published
from ckptaudit.results.json_io import read_json, write_json
from ckptaudit.results.records import AuditResult
from tests.synthetic import measured, result, verdict

VENDOR = Path(__file__).parent.parent.parent / "ckptaudit" / "report" / "html" / "vendor"


def words_of(page: str) -> str:
    body = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="audit">(.*?)</script>', page, re.S)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_begins_with_the_verdict_the_worst_check_and_where(small_result: AuditResult) -> None:
    grown = next(v for v in small_result.verdicts if v.check == "spectral-drift" and v.outcome == "failed")
    text = words_of(render_html(small_result))
    assert text.index("Gate closed") < text.index("checks failed") < text.index("Claim")
    assert grown.value is not None
    assert f"spectral-drift {grown.value / grown.limit:.3g}x the limit" in text
    # No weight of that layer is what it was: there is no finite factor, so the difference is told.
    assert "the worst is update-sparsity, 0.275 below the minimum in layers.1" in text


def test_every_check_shows_its_claim_source_and_remedy(small_result: AuditResult) -> None:
    text = words_of(render_html(small_result))
    for check in small_result.checks:
        for said in (check.claim, check.source, check.remedy):
            assert " ".join(said.split()) in text


def test_the_page_is_made_again_from_the_json_file(small_result: AuditResult, tmp_path: Path) -> None:
    write_json(small_result, tmp_path / "audit.json")
    assert render_html(read_json(tmp_path / "audit.json")) == render_html(small_result)


def test_a_result_of_an_older_file_still_makes_a_page(small_result: AuditResult) -> None:
    fields = ("schema", "base", "tuned", "summary", "unaligned", "measurements", "verdicts")
    older = {name: msgspec.to_builtins(getattr(small_result, name)) for name in fields}
    assert "Gate closed" in words_of(render_html(msgspec.convert(older, AuditResult)))


def test_the_page_is_written_whole_or_not_at_all(small_result: AuditResult, tmp_path: Path) -> None:
    write_html(small_result, tmp_path / "deep" / "report.html")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["report.html"]
    assert (tmp_path / "deep" / "report.html").read_text("utf-8").rstrip().endswith("</html>")


def test_a_hostile_name_is_text_and_ends_no_element(small_result: AuditResult, hostile_name: str) -> None:
    page = render_html(small_result)
    assert "window.hacked" in page
    assert "<script>window" not in page
    charts = (VENDOR / "echarts.common.min.js").read_text("utf-8").strip()
    assert "<img" not in page.replace(charts, "")
    assert page.count("<script") == page.count("</script>") == 3
    assert "\u2028" not in page
    assert hostile_name.replace("\u2028", "\\u2028") in data_of(page)["names"]


def test_the_policy_names_the_scripts_by_digest_and_allows_nothing_else(small_result: AuditResult) -> None:
    page = render_html(small_result)
    policy = re.search(r'Security-Policy" content="([^"]*)"', page)
    assert policy
    assert html.unescape(policy[1]).startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy[1]


def test_a_page_the_size_of_7b_stays_under_five_megabytes(seven_billion: AuditResult) -> None:
    assert len(render_html(seven_billion).encode()) < 5e6


def test_experts_are_summed_up_and_their_mean_and_worst_are_those_of_the_rows(
    many_experts: AuditResult, many_experts_page: Path
) -> None:
    page = many_experts_page.read_text("utf-8")
    assert len(page.encode()) < 5e6
    grids = data_of(page)["runs"][0]["grids"]
    grid = next(g for g in grids["grids"] if g["metric"] == "normalized_spectral_shift")
    at = grids["rows"].index("layers.7"), grids["roles"].index("up_proj")
    cell = next(c for c in grid["cells"] if tuple(c[:2]) == at)
    values = [
        m.value
        for m in many_experts.measurements
        if m.value is not None and (m.layer, m.role, m.metric) == (7, "up_proj", "normalized_spectral_shift")
    ]
    assert cell[2] == len(values) == 256
    assert cell[4] == pytest.approx(np.max(values), rel=1e-5)
    assert cell[5] == pytest.approx(np.mean(values), rel=1e-5)
    assert [v for _, v, _ in cell[8]] == pytest.approx(sorted(values, reverse=True)[:6], rel=1e-5)


def test_spectra_and_angles_are_those_that_scipy_gives(small_result: AuditResult) -> None:
    assert 1 <= len(small_result.spectra) <= 6
    row = small_result.spectra[0]
    base, tuned = (
        open_checkpoint(path).tensors[row.tensor].read().double().numpy() for path in (small_result.base, row.tuned)
    )
    (u0, s0, v0), (u1, s1, v1) = (scipy.linalg.svd(x, full_matrices=False) for x in (base, tuned))
    assert row.base_singular_values == pytest.approx(s0, rel=1e-12)
    assert row.tuned_singular_values == pytest.approx(s1, rel=1e-12)
    left = np.degrees(scipy.linalg.subspace_angles(u0[:, : row.k], u1[:, : row.k]))[::-1]
    right = np.degrees(scipy.linalg.subspace_angles(v0[: row.k].T, v1[: row.k].T))[::-1]
    assert row.left_angles == pytest.approx(left, rel=1e-6)
    assert row.right_angles == pytest.approx(right, rel=1e-6)
    assert row.gap == pytest.approx((s0[row.k - 1] - s0[row.k]) / s0[row.k - 1])


def test_the_spectra_shown_are_of_the_matrices_that_broke_most(small_result: AuditResult) -> None:
    bad = small_result.tuned[0]
    broken = {
        v.worst
        for v in small_result.verdicts
        if v.tuned == bad and v.outcome == "failed" and v.check == "spectral-drift"
    }
    assert broken <= {s.tensor for s in small_result.spectra if s.tuned == bad}


@pytest.mark.parametrize(
    ("value", "limit", "sign", "times"),
    [
        (0.02, 0.001, "<=", 20),
        (0.1, 0.4, ">=", 4),
        (0.0, 0.0, "<=", 0),
        (3, 0, "<=", math.inf),
        (0, 1, ">=", math.inf),
    ],
)
def test_the_margin_is_a_factor_over_one_exactly_when_broken(
    value: float, limit: float, sign: str, times: float
) -> None:
    assert times_over(value, limit, sign) == pytest.approx(times)


def _rows(values: dict[str, float], kind: str = "exact") -> AuditResult:
    rows = tuple(
        Measurement(f"model.layers.{i}.mlp.up_proj.weight", i, "up_proj", (8, 8), metric, value, kind, tuned="t")  # type: ignore[arg-type]
        for i in range(2)
        for metric, value in values.items()
    )
    return msgspec.structs.replace(EMPTY, measurements=rows)


EMPTY = msgspec.convert(
    {
        "base": "b",
        "tuned": ["t"],
        "summary": {"passed": 0, "failed": 0, "skipped": 0, "errors": 0},
        "unaligned": [],
        "measurements": [],
        "verdicts": [],
    },
    AuditResult,
)


@pytest.mark.parametrize("regime", ["rlvr", "sft"])
def test_a_run_with_the_published_numbers_of_a_regime_is_placed_in_it(regime: str) -> None:
    middle = {q.metric: sum(getattr(q, regime)) / 2 for q in published()} | {"changed_entries": 40.0}
    overlap = next(q for q in published() if q.metric == "low_magnitude_overlap")
    assert overlap.chance is not None
    assert overlap.own_chance is not None
    # The published mask holds 30 % of the weights and ours half: the same share of the way from chance.
    share = (middle["low_magnitude_overlap"] - overlap.chance) / (1 - overlap.chance)
    middle["low_magnitude_overlap"] = overlap.own_chance + share * (1 - overlap.own_chance)
    rows = placed(_rows(middle), "t")
    assert all(regime in row.nearest for row in rows)
    assert "RLVR" in likeness(rows).word or "fine-tuning" in likeness(rows).word


def test_a_cell_marks_a_bound_where_the_bound_is_and_its_mean_always() -> None:
    exact = _rows({"normalized_spectral_shift": 4e-4}).measurements[:1]
    bound = msgspec.structs.replace(exact[0], tensor="model.layers.0.mlp.1.weight", value=2e-4, kind="upper_bound")
    data = data_of(render_html(msgspec.structs.replace(EMPTY, measurements=(*exact, bound))))
    (cell,) = data["runs"][0]["grids"]["grids"][0]["cells"]
    assert (cell[4], cell[6]) == (4e-4, "exact")
    assert (cell[5], cell[9]) == (pytest.approx(3e-4), "upper_bound")


def test_a_bound_is_not_placed_as_if_it_were_the_value() -> None:
    rows = placed(_rows({"normalized_spectral_shift": 1e-3}, kind="upper_bound"), "t")
    assert all(not row.nearest for row in rows)
    assert likeness(rows).word == "not placed"


def test_a_pair_in_which_nothing_changed_is_not_called_like_anything() -> None:
    rows = placed(_rows({"normalized_spectral_shift": 0.0, "update_sparsity": 1.0}), "t")
    assert likeness(rows).word == "unchanged"


def test_nothing_judged_is_not_an_open_gate() -> None:
    text = words_of(render_html(EMPTY))
    assert "Gate closed" in text
    assert "Nothing was judged" in text


def test_the_charts_library_is_the_one_the_manifest_names() -> None:
    manifest = tomllib.loads((VENDOR / "manifest.toml").read_text("utf-8"))
    for entry in manifest["file"]:
        assert hashlib.sha256((VENDOR / entry["as"]).read_bytes()).hexdigest() == entry["sha256"]
    assert manifest["version"].encode() in (VENDOR / "echarts.common.min.js").read_bytes()


def test_a_bound_beyond_the_limit_is_no_cell_that_failed() -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    row = msgspec.structs.replace(measured(name, 0, "q_proj", 0.07), kind="upper_bound")
    found = result([verdict("layers.0", 0.02, worst=name)], [row])
    (grid,) = grids_of(found, "tuned", Names()).grids
    assert [cell.over for cell in grid.cells] == [-3.0]
