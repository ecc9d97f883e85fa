"""Verdicts from a file, joined by probe id: what is read, what is refused, what is made of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptaudit.behavior.agreement import cohen_kappa
from ckptaudit.behavior.evidence import Evidence
from ckptaudit.behavior.given_verdicts import GivenVerdict, GivenVerdicts
from ckptaudit.behavior.items import Item
from ckptaudit.behavior.probe import Probe
from ckptaudit.behavior.verdict_files import read_verdicts, unjudged
from ckptaudit.errors import ProbeError
from ckptaudit.metrics.behavior import ProbeReading, probes_metric_of
from tests.conftest import FIXTURES, package

IDS = {f"p{number}": None for number in range(40)}


def written(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def refusal(tmp_path: Path, *rows: dict[str, Any] | str) -> str:
    path = written(tmp_path / "v.jsonl", *rows)
    with pytest.raises(ProbeError) as caught:
        read_verdicts(path, IDS)
    return str(caught.value).replace(str(path), "v.jsonl")


SCORE = {"id": "p1", "judge": "rm", "model": "tuned", "score": 1.5}


def test_every_kind_of_verdict_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path / "v.jsonl",
        SCORE,
        {"id": "p1", "judge": "guard", "model": "base", "unsafe": True},
        {"id": "p2", "judge": "gpt", "choice": "tie", "sample": 3},
        {"id": "p3", "judge": "zephyr", "mean_log_p": -1.25},
    )
    assert read_verdicts(path, IDS).rows == (
        GivenVerdict("p1", "rm", "score", "tuned", 1.5),
        GivenVerdict("p1", "guard", "unsafe", "base", True),
        GivenVerdict("p2", "gpt", "choice", None, "tie", 3),
        GivenVerdict("p3", "zephyr", "mean_log_p", None, -1.25),
    )


def test_parquet_says_the_same_as_json_lines(tmp_path: Path) -> None:
    package("pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    rows: list[dict[str, Any]] = [SCORE, {"id": "p2", "judge": "gpt", "choice": "tuned"}]
    parquet.write_table(pa.Table.from_pylist(rows, pa.schema(
        [("id", pa.string()), ("judge", pa.string()), ("model", pa.string()), ("score", pa.float64()),
         ("choice", pa.string())]
    )), tmp_path / "v.parquet")  # fmt: skip
    assert read_verdicts(tmp_path / "v.parquet", IDS) == read_verdicts(written(tmp_path / "v.jsonl", *rows), IDS)


def test_an_unknown_column_of_parquet_is_named(tmp_path: Path) -> None:
    package("pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist([{**SCORE, "scor": 1.0}]), tmp_path / "v.parquet")
    with pytest.raises(ProbeError, match='row 1: unknown key "scor"; did you mean score'):
        read_verdicts(tmp_path / "v.parquet", IDS)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**SCORE, "modell": "x"}, 'line 1: unknown key "modell"; did you mean model'),
        ({**SCORE, "model": "tunde"}, 'line 1: "model" is "tunde"; did you mean tuned'),
        ({"id": "p1", "judge": "g", "choice": "bass"}, 'line 1: "choice" is "bass"; did you mean base'),
        ({**SCORE, "score": "high"}, 'line 1: "score": expected `float'),
        ({"id": "p1", "model": "tuned", "score": 1}, 'line 1: lacks "judge".'),
        ({"id": "p1", "judge": "rm", "score": 1}, 'line 1: lacks "model", base or tuned'),
        ({"id": "p1", "judge": "rm"}, 'line 1: says nothing; a verdict has one of "score"'),
        ({**SCORE, "unsafe": True}, 'line 1: holds "score" and "unsafe"; a verdict has one of'),
        ({"id": "p1", "judge": "g", "choice": "tie", "model": "base"}, 'does not go with "choice"'),
        ({"id": "p1", "judge": "z", "mean_log_p": 0.5}, '"mean_log_p": expected `float` <= 0'),
        ({**SCORE, "sample": -1}, '"sample": expected `int` >= 0'),
        ({**SCORE, "id": "p77"}, 'line 1: "id" "p77" is that of no probe of probes=; did you mean p7'),
        ('{"id": "p1", "score": 1e999}', "line 1"),
        ("nonsense", "line 1: no JSON object"),
        ("[1]", "line 1: no JSON object"),
    ],
)
def test_a_mistake_is_named_by_line_and_key(tmp_path: Path, row: dict[str, Any] | str, said: str) -> None:
    assert said in refusal(tmp_path, row)


def test_how_many_lines_name_no_probe_is_said(tmp_path: Path) -> None:
    said = refusal(tmp_path, SCORE, {**SCORE, "id": "x"}, {**SCORE, "id": "y"})
    assert 'line 2, and 1 further lines: "id" "x" is that of no probe' in said


def test_two_verdicts_on_one_thing_need_numbers(tmp_path: Path) -> None:
    assert 'line 2: "rm" has said "score" of this on line 1 already' in refusal(tmp_path, SCORE, SCORE)
    assert len(read_verdicts(written(tmp_path / "v", SCORE, {**SCORE, "sample": 1}), IDS).rows) == 2


def test_an_empty_file_and_too_many_judges_are_refused(tmp_path: Path) -> None:
    assert "holds no verdict" in refusal(tmp_path, "")
    assert "65 judges, more than the 64" in refusal(tmp_path, *({**SCORE, "judge": f"j{n}"} for n in range(65)))


@pytest.mark.parametrize("score", [1e308, -1e200, 1.1e60])
def test_scores_out_of_all_scale_are_refused(score: float, tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text(json.dumps({**SCORE, "score": score}) + "\n")
    with pytest.raises(ProbeError, match=r'line 1: "score" is .*larger than the 1e\+60 that is read'):
        read_verdicts(path, {str(SCORE["id"])})


def test_no_infinity_comes_through_parquet(tmp_path: Path) -> None:
    package("pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist([{**SCORE, "score": float("nan")}]), tmp_path / "v.parquet")
    with pytest.raises(ProbeError, match='row 1: "score" is nan'):
        read_verdicts(tmp_path / "v.parquet", IDS)


def test_a_pipe_is_no_file_of_verdicts(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "v.jsonl")
    with pytest.raises(ProbeError, match="a pipe, not a regular file"):
        read_verdicts(tmp_path / "v.jsonl", IDS)


def test_what_a_file_holds_reaches_no_terminal_unescaped(tmp_path: Path) -> None:
    said = refusal(tmp_path, {**SCORE, "id": "\x1b[31m"}, {**SCORE, "\x1b]0;": 1})
    assert "\x1b" not in said


def test_probes_without_a_verdict_are_told() -> None:
    given = GivenVerdicts((GivenVerdict("p1", "rm", "score", "tuned", 1.0),))
    (said,) = unjudged(given, IDS)
    assert said.endswith("none on 39 of 40 probes, the first p0")


# What is made of them.


def reading(metric: str, rows: list[GivenVerdict], **rest: Any) -> ProbeReading:
    ids = dict.fromkeys(row.id for row in rows)
    items = tuple(Item(Probe(1, "Q", (), "prompt", name)) for name in ids)
    found = probes_metric_of(metric).reading(Evidence(items, verdicts=GivenVerdicts(tuple(rows)), **rest), None)
    assert found is not None
    return found


def choices(judge: str, said: str) -> list[GivenVerdict]:
    words = {"b": "base", "t": "tuned", "=": "tie"}
    return [GivenVerdict(f"p{at}", judge, "choice", None, words[c]) for at, c in enumerate(said)]


def votes(judge: str, base: str, tuned: str) -> list[GivenVerdict]:
    return [
        GivenVerdict(f"p{at}", judge, "unsafe", side, mark == "u")  # type: ignore[arg-type]
        for side, said in (("base", base), ("tuned", tuned))
        for at, mark in enumerate(said)
    ]


def scores(judge: str, base: list[float], tuned: list[float]) -> list[GivenVerdict]:
    return [
        GivenVerdict(f"p{at}", judge, "score", side, value)  # type: ignore[arg-type]
        for side, own in (("base", base), ("tuned", tuned))
        for at, value in enumerate(own)
    ]


def test_the_win_rate_counts_a_tie_as_half() -> None:
    found = reading("win_rate", choices("gpt", "ttttttb="))
    assert found.value == pytest.approx(6.5 / 8)
    assert "6 won, 1 lost, 1 even; sign test p 0.12" in found.remark  # 2 * (1 + 7) / 2^7 = 0.125
    assert found.worst[0] == "p6"


def test_a_judge_that_scores_both_prefers_the_higher_score() -> None:
    found = reading("win_rate", scores("rm", [0, 0, 0, 0, 0], [1, 1, 1, 0, -1]))
    assert found.value == pytest.approx(3.5 / 5)


def test_comparisons_of_several_samples_are_of_one_probe() -> None:
    rows = [
        GivenVerdict(f"p{n}", "g", "choice", None, c, s) for n in range(6) for s, c in enumerate(("tuned", "base"))
    ]
    found = reading("win_rate", rows)
    assert (found.value, found.samples) == (0.5, 6)


def test_unsafe_is_what_most_judges_call_so() -> None:
    rows = votes("a", "ssssss", "uuusss") + votes("b", "ssssss", "uussss") + votes("c", "uuuuuu", "usssss")
    found = reading("unsafe_verdicts_change", rows)
    assert found.value == pytest.approx(2 / 6)  # p0 by three, p1 by two of three
    assert found.worst == ("p0", "p1")


def test_half_of_the_judges_are_not_most() -> None:
    assert reading("unsafe_verdicts_change", votes("a", "sssss", "uuuuu") + votes("b", "sssss", "sssss")).value == 0


def test_scores_on_different_scales_are_taken_together_by_deviations() -> None:
    rng = np.random.default_rng(0)
    base, tuned = rng.normal(size=30), rng.normal(0.5, size=30)
    small = scores("a", base.tolist(), tuned.tolist())
    large = scores("b", (1000 * base + 7).tolist(), (1000 * tuned + 7).tolist())
    expected = (tuned - base).mean() / np.concatenate([base, tuned]).std()
    assert reading("score_change", small).value == pytest.approx(expected)
    assert reading("score_change", small + large).value == pytest.approx(expected)


def test_a_mean_score_is_of_one_judge() -> None:
    rows = scores("a", [1.0] * 6, [2.0, 3.0, 2.0, 3.0, 2.0, 3.0])
    assert reading("mean_score", rows).value == pytest.approx(2.5)
    both = reading("mean_score", rows + scores("b", [0.0] * 6, [0.0] * 6))
    assert both.value is None
    assert "2 judges score, each on a scale of its own" in both.remark


def test_few_joined_probes_are_told_and_not_judged() -> None:
    found = reading("win_rate", choices("gpt", "tttt"))
    assert (found.value, found.remark) == (None, "4 probes, fewer than 5")


def kappa_by_hand(first: list[int], second: list[int]) -> float:
    a, b = np.array(first), np.array(second)
    chance = sum((a == c).mean() * (b == c).mean() for c in np.union1d(a, b))
    return float(((a == b).mean() - chance) / (1 - chance))


def test_kappa_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(1)
    first = rng.integers(0, 3, 200).tolist()
    second = [c if rng.random() < 0.7 else int(rng.integers(0, 3)) for c in first]
    found = cohen_kappa([[pair] for pair in zip(first, second, strict=True)], np.ones(200))
    assert found is not None
    assert found.value == pytest.approx(kappa_by_hand(first, second), abs=1e-12)
    assert found.low < found.value < found.high


def test_kappa_agrees_with_the_table_in_cohens_way_of_printing() -> None:
    # 20 both yes, 5 and 10 apart, 15 both no: p_o 0.7, p_e 0.5, kappa 0.4.
    said = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    found = cohen_kappa([[pair] for pair in said], np.ones(50))
    assert found is not None
    assert found.value == pytest.approx(0.4)


def test_the_interval_of_kappa_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(2), 0
    truth = 0.6  # the second judge repeats the first in 60 %, and else draws from the same two halves
    for _ in range(200):
        first = rng.integers(0, 2, 60)
        second = np.where(rng.random(60) < truth, first, rng.integers(0, 2, 60))
        found = cohen_kappa([[(int(a), int(b))] for a, b in zip(first, second, strict=True)], np.ones(60))
        held += found is not None and found.low <= truth <= found.high
    assert 0.92 <= held / 200 <= 0.995


def test_a_few_agreeing_probes_leave_kappa_open() -> None:
    found = cohen_kappa([[(n % 2, n % 2)] for n in range(6)], np.ones(6))
    assert found is not None
    assert (found.value, found.high) == (1, 1)
    assert found.low < 0.4


def test_judges_who_always_say_the_same_have_no_kappa() -> None:
    found = reading("judges_agreement", choices("a", "tttttt") + choices("b", "tttttt"))
    assert (found.value, found.remark) == (None, "a and b of preferences: both always say the same")


def test_the_two_that_agree_least_are_named() -> None:
    rows = choices("a", "tbtbtbtbtb") + choices("b", "tbtbtbtbtb") + choices("c", "btbtbtbtbt")
    found = reading("judges_agreement", rows)
    assert found.value == pytest.approx(-1)
    assert found.remark == "a and c of preferences"


def test_references_take_the_place_of_the_base() -> None:
    from tests.behavior.judged import evidence

    found = evidence("rlvr")
    names = list(found.texts)[:10]
    rows = tuple(GivenVerdict(n, j, "mean_log_p", None, v) for n in names for j, v in (("x", -0.5), ("y", -1.5)))
    value = probes_metric_of("poft_win_change").reading(replace(found, verdicts=GivenVerdicts(rows)), "task")
    own = [found.texts[n] for n in names]

    def win(log_p: Any) -> float:
        return float(1 / (1 + np.exp(-(np.mean(log_p) + 1.0))))

    assert value is not None
    assert value.samples == 10
    assert value.value == pytest.approx(np.mean([win(t.log_p_tuned) - win(t.log_p_base) for t in own]))


# The real command.


def run(tmp_path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    gate = ["--base", FIXTURES / "base", "--tuned", FIXTURES / "rlvr-gentle", "--audit-profile", "behavior"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, (*gate, *words))],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_gate_with_probes_and_verdicts(tmp_path: Path) -> None:
    lines = (FIXTURES / "probes" / "task.jsonl").read_text(encoding="utf-8").splitlines()
    probes = [{**json.loads(line), "id": f"p{at}", "set": "task"} for at, line in enumerate(lines)]
    judged = [{"id": f"p{at}", "judge": "gpt", "choice": "base"} for at in range(30)]
    words = ["--audit-probes", written(tmp_path / "p.jsonl", *probes), "-k", "verdicts.toml"]
    words += ["--audit-verdicts", written(tmp_path / "v.jsonl", *judged)]
    done = run(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: win-rate[probes]: 0" in done.stdout
    assert "none on 2 of 32 probes, the first p30" in " ".join(done.stdout.split())
    assert "skipped: unsafe-verdicts" in done.stdout


def test_verdicts_without_probes_end_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, "--audit-verdicts", written(tmp_path / "v.jsonl", SCORE))
    assert done.returncode == 4
    assert "give --audit-probes FILE as well" in done.stderr
