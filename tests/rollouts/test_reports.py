"""What reports show of rollouts: every step, curves, distributions, and samples with everything escaped."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from ckptaudit import AuditResult, audit
from ckptaudit.metrics.step_series import KEPT, SeriesBuilder, StepNote, StepValue
from ckptaudit.report.html import render_html
from ckptaudit.report.html.figures import MOST, curve, thinned
from ckptaudit.report.parquet import write_parquet
from ckptaudit.report.rollouts_text import sparkline, step_lines
from ckptaudit.results.json_io import read_json, write_json
from ckptaudit.rollouts.distributions import distributions
from ckptaudit.rollouts.measure import measure
from ckptaudit.rollouts.readers import open_rollouts
from ckptaudit.rollouts.table import write_table
from tests.rollouts.judged import FACTS
from tests.rollouts.simulated import run_rows, table_of

RUNS = Path(__file__).parents[2] / "fixtures" / "rollouts"


@pytest.fixture(scope="module")
def mixed() -> AuditResult:
    return audit(rollouts=RUNS / "mixed-groups")


def test_every_step_is_in_the_result(mixed: AuditResult) -> None:
    (log,) = mixed.rollouts
    assert log.step_numbers == tuple(range(1, 21))
    table = open_rollouts(RUNS / "mixed-groups")
    expected = [r for r in measure(table, FACTS, ["mismatch_k3"]) if r.metric == "mismatch_k3"]
    (k3,) = [c for c in log.curves if c.metric == "mismatch_k3"]
    assert k3.values == tuple(r.value for r in expected)
    assert k3.samples == tuple(r.samples for r in expected)
    assert [low for low in k3.low if low is not None] == [r.low for r in expected if r.low is not None]
    # What no check limits is there as well.
    assert {"mismatch_k1", "sequence_ess"} <= {c.metric for c in log.curves}


def test_json_and_parquet_hold_them(mixed: AuditResult, tmp_path: Path) -> None:
    write_json(mixed, tmp_path / "a.json")
    assert read_json(tmp_path / "a.json").rollouts == mixed.rollouts
    write_parquet(mixed, tmp_path / "a.parquet")
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    steps = [row for row in rows if (row["metric"], row["tensor"]) == ("group_prompt_count", "step 7")]
    assert [(row["value"], row["unit"], row["tuned"]) for row in steps] == [
        (44.0, "groups", mixed.rollouts[0].tuned)
    ]
    assert any(row["tensor"] == "run" for row in rows)


def test_a_broken_check_shows_three_samples(mixed: AuditResult) -> None:
    verdict = next(v for v in mixed.verdicts if v.check == "groups-of-one-prompt")
    assert (verdict.over_steps.judged, verdict.over_steps.broken) == (20, 20)  # type: ignore[union-attr]
    assert len(verdict.samples) == 3
    assert {s.group for s in verdict.samples} == {"1/0"}
    assert len({s.prompt for s in verdict.samples}) > 1
    assert all(not v.samples for v in mixed.verdicts if v.outcome == "passed")


def hostile_log(folder: Path) -> Path:
    """A run with impossible log-probabilities in a sample whose name and texts are hostile."""
    rows = run_rows(steps=3)
    rows[-1] |= {
        "sample_id": "\x1b[2J<script>alert(1)</script>",
        "prompt": "::error ::owned\u202e\n" * 400,
        "response": "</dd><img src=x onerror=alert(2)>",
        "logp_train": [0.5] * len(rows[-1]["logp_train"]),
    }
    write_table(folder / "rollouts.parquet", iter(table_of(rows).to_batches()))
    return folder / "rollouts.parquet"


def test_foreign_texts_are_escaped_and_cut(pytester: pytest.Pytester) -> None:
    log = hostile_log(pytester.path)
    result = pytester.runpytest(f"--audit-rollouts={log}", "--audit-json=a.json", "--audit-html=a.html",
                                "--junitxml=j.xml", "-k", "possible")  # fmt: skip
    assert result.ret == 1
    shown = str(result.stdout)
    assert "\x1b[2J" not in shown
    assert "\\x1b[2J<script>" in shown
    assert "\u202e" not in shown
    assert not re.search(r"^\s*::error", shown, re.MULTILINE)
    page = (pytester.path / "a.html").read_text()
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "&lt;img src=x onerror=alert(2)&gt;" in page
    (verdict,) = json.loads((pytester.path / "a.json").read_bytes())["verdicts"]
    assert all(len(sample["prompt"]) < 300 for sample in verdict["samples"])
    case = next(ElementTree.parse(pytester.path / "j.xml").iter("testcase"))
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert (properties["steps_judged"], properties["steps_broken"]) == ("3", "1")
    assert "sample 1" in "".join(case.itertext())


def test_the_page_draws_curves_limits_and_first_failures(pytester: pytest.Pytester) -> None:
    pytester.runpytest(f"--audit-rollouts={RUNS / 'stale-engine'}", "--audit-html=a.html", "-q")
    page = (pytester.path / "a.html").read_text()
    assert page.count('<line class="limit"') > 5
    assert '<circle class="first"' in page
    for title in ("log-ratio log pi_old - log mu", "tail: share", "mean log-ratio by position", "reward by length"):
        assert title in page


def test_a_result_without_rollouts_has_no_such_section(mixed: AuditResult) -> None:
    assert 'id="rollouts"' in render_html(mixed)
    assert 'id="rollouts"' not in render_html(msgspec.structs.replace(mixed, rollouts=()))


def test_distributions_count_every_token_and_sample() -> None:
    found = distributions(open_rollouts(RUNS / "stale-engine"))
    table = pq.read_table(RUNS / "stale-engine" / "rollouts.parquet")
    ratio = np.concatenate([
        np.asarray(a, dtype=np.float32).astype(float) - np.asarray(b, dtype=np.float32).astype(float)
        for a, b in zip(table["logp_train"].to_pylist(), table["logp_rollout"].to_pylist(), strict=True)
    ])  # fmt: skip
    assert sum(found.below) == (ratio < 0).sum()
    assert sum(found.above) == (ratio > 0).sum()
    assert found.equal == (ratio == 0).sum()
    past = found.sizes.index(next(s for s in found.sizes if s > 0.5))
    assert sum(found.above[past:]) == (ratio >= found.sizes[past]).sum()
    first = [
        float(np.float32(a[0])) - float(np.float32(b[0]))
        for a, b in zip(table["logp_train"].to_pylist(), table["logp_rollout"].to_pylist(), strict=True)
    ]
    assert found.by_position[0].mean == pytest.approx(np.mean(first), abs=1e-12)
    assert found.by_position[0].standard_error == pytest.approx(np.std(first, ddof=1) / math.sqrt(len(first)))
    lengths, rewards = np.array(table["response_len"].to_pylist()), np.array(table["reward"].to_pylist())
    (bin_of_four,) = [b for b in found.reward_by_length if b.start == 4]
    assert bin_of_four.mean == pytest.approx(rewards[(lengths >= 4) & (lengths < 8)].mean())
    assert sum(b.count for b in found.reward_by_length) == len(rewards)


def test_long_curves_are_thinned_and_keep_their_extremes() -> None:
    points = [(float(i), math.sin(i / 50) + (5.0 if i == 7777 else 0.0)) for i in range(20_000)]
    kept = thinned(points)
    assert len(kept) <= MOST
    assert max(p[1] for p in kept) == max(p[1] for p in points)
    assert len(curve(points)) < 20_000


def test_series_keep_every_value_and_the_notes_of_the_furthest() -> None:
    builder = SeriesBuilder()
    values = [((i * 7919) % 1009) / 1009 if i % 100 else None for i in range(5000)]
    for step, value in enumerate(values):
        builder.add(StepValue(step, value, value, value, None, 10, StepNote(f"sample {step}", "")))
    series = builder.built()
    assert [at.value for at in series] == values
    by_step = {at.step: at.note.worst for at in series}
    assert sum(bool(worst) for worst in by_step.values()) <= 4 * KEPT + 1
    top = sorted((value for value in values if value is not None), reverse=True)[:KEPT]
    named = sorted((at.value for at in series if at.note.worst and at.value is not None), reverse=True)
    assert named[: KEPT // 2] == top[: KEPT // 2]


def test_a_sparkline_shows_the_largest_of_each_stretch() -> None:
    assert sparkline([0.0, 1.0, 0.5]) == "▁█▅"
    assert len(sparkline([0.0] * 999 + [1.0])) <= 60
    assert sparkline([0.0] * 999 + [1.0])[-1] == "█"


def test_the_terminal_says_where_a_check_first_broke(mixed: AuditResult) -> None:
    (line,) = [line for line in step_lines(mixed) if line.startswith("groups-of-one-prompt")]
    assert "broken at 20 of 20 steps, first at step 1" in line
