"""Each model behind its own chat template: its own tokens, by transformers' logits, and what cannot be compared."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckptaudit.behavior.base_rows import Kept, Rows
from ckptaudit.behavior.causal_models import open_model
from ckptaudit.behavior.evidence import Evidence, Pass
from ckptaudit.behavior.facts import ProbeFacts, probe_facts
from ckptaudit.behavior.intervals import Interval
from ckptaudit.behavior.items import Item
from ckptaudit.behavior.passes import Runner
from ckptaudit.behavior.token_count import TokenCount
from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.errors import ConfigError, ProbeError
from ckptaudit.judging.config import Config
from ckptaudit.metrics.behavior import ProbeReading, ProbesMetric, probes_metric_of
from ckptaudit.metrics.metric import METRICS
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import audited
from ckptaudit.results.records import AuditResult
from tests.behavior.conftest import CPU
from tests.behavior.templated import (
    BASE,
    EVERY,
    FACTS,
    PASSES,
    REFUSES,
    SOME,
    TEMPLATE,
    TUNED,
    Alone,
    evidence,
    prepared_of,
    some_probes,
    with_template,
)
from tests.conftest import FIXTURES, package


def result_of(folder: Path, tuned: Path, facts: ProbeFacts = FACTS, **more: Any) -> AuditResult:
    options = AuditOptions(
        base=str(BASE),
        tuned=(str(tuned),),
        profile="behavior",
        complete=False,
        auxiliary={"probes": str(folder / "probes.jsonl")},
        **{"cache": "off", **more},
    )
    return audited(options, Config(probes=facts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    some_probes(folder / "probes.jsonl")
    with_template(folder / "some", SOME)
    with_template(folder / "every", EVERY)
    return folder


@pytest.fixture(scope="module")
def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "probes.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def some(folder: Path) -> Evidence:
    return evidence(folder / "probes.jsonl", folder / "some")


@pytest.fixture(scope="module")
def sides(folder: Path) -> dict[str, Alone]:
    weak = FIXTURES / "aligned-unlearned"
    return {"base": Alone(BASE), "tuned": Alone(folder / "some"), "weak": Alone(weak)}


def is_apart(probe: dict[str, Any]) -> bool:
    turns = probe["prompt"] if "prompt" in probe else probe["messages"]
    return "zorb" in turns[0]["content"]


def test_pairs_are_scored_behind_each_models_template(
    some: Evidence, lines: list[dict[str, Any]], sides: dict[str, Alone]
) -> None:
    pairs = [line for line in lines if "chosen" in line]
    assert {is_apart(line) for line in pairs} == {True, False}
    for side, alone in sides.items():
        for line in pairs[::3]:
            for index, key in enumerate(("chosen", "rejected")):
                found = some.scores[side][line["id"], index].log_p  # type: ignore[index]
                assert np.allclose(found, alone.completed(line, key), atol=5e-5), (side, line["id"])


def test_a_text_with_other_tokens_is_scored_and_not_compared(
    some: Evidence, lines: list[dict[str, Any]], sides: dict[str, Alone]
) -> None:
    given = [line for line in lines if "completion" in line or "messages" in line]
    assert set(some.texts) == {line["id"] for line in given if not is_apart(line)}
    assert set(some.apart["base"]) == set(some.apart["tuned"]) == {line["id"] for line in given if is_apart(line)}
    completions = [line for line in given if "completion" in line]
    assert {is_apart(line) for line in completions} == {True, False}
    for line in completions[::3]:
        for side in ("base", "tuned"):
            alone = sides[side].completed(line, "completion")
            assert np.allclose(some.given(line["id"], side).log_p, alone, atol=5e-5)


def test_each_model_answers_its_own_prompt(
    some: Evidence, lines: list[dict[str, Any]], sides: dict[str, Alone]
) -> None:
    asked = [line for line in lines if line["set"] == "refusal"]
    for line in asked[::4]:
        for side in ("base", "tuned"):
            said = some.spoken[side, "greedy"][line["id"], 0]
            assert list(said.ids) == sides[side].greedy(line), (side, line["id"])
    assert set(some.answers) == {line["id"] for line in lines if line["id"] in some.answered and not is_apart(line)}


def test_hidden_states_are_those_of_its_own_prompt(
    some: Evidence, lines: list[dict[str, Any]], sides: dict[str, Alone]
) -> None:
    by_id = {line["id"]: line for line in lines}
    for side in ("base", "tuned"):
        for row in (0, len(some.stated) - 1):
            ids = torch.tensor([sides[side].prompt(by_id[some.stated[row]])])
            with torch.no_grad():
                states = sides[side].network(ids, output_hidden_states=True).hidden_states
            mean = torch.stack([layer[0].mean(dim=0) for layer in states]).numpy()
            assert np.allclose(some.states[side].mean[row], mean, atol=2e-4)


def test_openings_stand_behind_its_own_prompt(
    some: Evidence, lines: list[dict[str, Any]], sides: dict[str, Alone]
) -> None:
    line = next(line for line in lines if "safety" in line and is_apart(line))
    for side in ("base", "tuned"):
        prompt = sides[side].prompt(line)
        opening = sides[side].tokenizer(FACTS.openings[1], add_special_tokens=False)["input_ids"]
        alone = sides[side].log_p([*prompt, *opening], len(prompt))
        assert np.allclose(some.openings[side][line["id"], 1].log_p, alone, atol=5e-5)


def read(metric: str, found: Evidence, name: str | None = None) -> ProbeReading:
    reading = probes_metric_of(metric).reading(found, name)
    assert reading is not None
    return reading


@pytest.fixture(scope="module")
def alike(folder: Path) -> Evidence:
    """Each model behind its own template, which is the other's too."""
    return evidence(folder / "probes.jsonl", TUNED)


def test_divergences_say_how_many_probes_they_leave_out(some: Evidence, alike: Evidence) -> None:
    for metric in ("kl_tuned_base", "kl_on_answers", "shifted_share", "rank_shift"):
        found, both = read(metric, some), read(metric, alike)
        shared, of = found.samples, both.samples
        assert found.value is not None
        assert 0 < shared < of
        assert f"{of - shared} of {of} probes are left out: each model's own chat template" in found.remark
        assert "left out" not in both.remark
    kept = replace(alike, items=tuple(item for item in alike.items if item.probe.id in some.texts))
    assert read("kl_tuned_base", some).value == pytest.approx(read("kl_tuned_base", kept).value, rel=1e-3)


def test_what_asks_each_model_by_itself_counts_every_probe(folder: Path, some: Evidence) -> None:
    for metric in ("poft_win", "prompt_dependence_ratio", "ranking_accuracy_change", "refusal_mass_change"):
        found = read(metric, some)
        assert found.value is not None, metric
        assert "left out" not in found.remark
    completions = [i for i in some.items if i.probe.kind == "completion"]
    gains = [some.given(i.probe.id, "tuned").mean - some.given(i.probe.id, "base").mean for i in completions]
    assert read("poft_win", some).value == pytest.approx(float(np.mean(1 / (1 + np.exp(-np.array(gains))))))


def test_the_same_templates_read_as_one_does(folder: Path, alike: Evidence) -> None:
    shared = evidence(folder / "probes.jsonl", TUNED, sharing("tuned"))
    compared = 0
    for metric in METRICS.values():
        if isinstance(metric, ProbesMetric) and set(metric.passes) <= {*PASSES, "greedy"} and metric.among is None:
            assert metric.reading(alike, None) == metric.reading(shared, None), metric.name
            compared += 1
    assert compared > 20


def test_where_no_probe_agrees_nothing_is_told_of_divergence(folder: Path) -> None:
    found = result_of(folder, folder / "every")
    verdicts = {verdict.check: verdict for verdict in found.verdicts if verdict.subject == "probes"}
    for check in ("kl-task", "shifted-share"):
        assert verdicts[check].outcome in ("error", "skipped"), check
        assert "each model's own chat template makes other tokens of them" in verdicts[check].reason
    assert verdicts["kl-task"].value is None
    assert all(m.value is not None for m in found.measurements if m.metric == "refusal_change")
    assert not found.passed
    assert "become other tokens by each model's own chat template" in " ".join(found.notes)


def test_few_that_agree_are_too_few(some: Evidence) -> None:
    apart = [item for item in some.items if item.probe.id in some.apart["base"]]
    alike = [item for item in some.items if item.probe.id in some.texts][:4]
    found = read("kl_tuned_base", replace(some, items=(*apart, *alike)))
    assert found.value is None
    assert found.remark.startswith("4 probes, fewer than 5; ")


def test_growth_from_save_to_save_rests_on_the_same_tokens(some: Evidence) -> None:
    names = [*some.texts, *some.apart["base"]]
    intervals = tuple(Interval(10, dict.fromkeys(names, (nats, 4))) for nats in (1.0, 2.0))
    found = read("kl_step_growth", replace(some, intervals=intervals))
    assert found.samples == len(some.texts)
    assert found.value == pytest.approx(2)
    assert "are left out" in found.remark


def test_the_tokens_that_are_expected_are_those_that_are_run(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    base, tuned = open_checkpoint(BASE), open_checkpoint(folder / "some")
    prepared = prepared_of(folder / "probes.jsonl", folder / "some")
    Runner(
        base=open_model(base, base, CPU),
        tuned=open_model(tuned, base, CPU),
        items=prepared.items,
        decode=prepared.decode,
        facts=FACTS,
        counted=TokenCount(lambda done, total: seen.append((done, total))),
    ).evidence(("texts", "pairs", "unprompted", "openings"))
    assert seen[0][1] == seen[-1][0]


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = package("pyarrow.parquet").read_table(path).to_pylist()
    return rows


def test_rows_hold_each_models_tokens_and_template(
    folder: Path, tmp_path: Path, lines: list[dict[str, Any]], sides: dict[str, Alone]
) -> None:
    result_of(folder, folder / "some", probe_rows=str(tmp_path / "rows.parquet"))
    rows = rows_of(tmp_path / "rows.parquet")
    digests = {side: {row["template"] for row in rows if row["model"] == side} for side in ("base", "tuned")}
    assert [len(found) for found in digests.values()] == [1, 1]
    assert digests["base"] != digests["tuned"]
    apart = next(line for line in lines if "completion" in line and is_apart(line))
    for side in ("base", "tuned"):
        own = [r for r in rows if (r["probe"], r["text"], r["model"]) == (apart["id"], "completion", side)]
        assert [r["kl_tuned_base"] for r in own] == [None] * len(own)
        assert np.allclose([r["log_p"] for r in own], sides[side].completed(apart, "completion"), atol=5e-5)
    assert not any(r["text"] == "answer" and r["probe"] == apart["id"] for r in rows)


def test_kept_rows_of_another_template_are_not_taken(folder: Path, some: Evidence) -> None:
    """The base is given the tuned model's template first, then its own, and then what was kept is read."""
    kept: dict[str, Rows] = {}

    def lookup(key: str) -> Kept:
        return Kept(kept.get(key), lambda rows: kept.update({key: rows}))

    probes, tuned = folder / "probes.jsonl", folder / "some"
    passes: tuple[Pass, ...] = ("pairs", "openings", "greedy")
    shared = evidence(probes, tuned, sharing("tuned"), passes, lookup)
    first, again = (evidence(probes, tuned, FACTS, passes, lookup) for _ in range(2))
    for found in (first, again):
        assert found.spoken["base", "greedy"] == some.spoken["base", "greedy"]
        for key, row in some.scores["base"].items():
            assert np.allclose(found.scores["base"][key].log_p, row.log_p, atol=5e-5)
    moved = [
        key for key, row in some.scores["base"].items() if abs(row.total - shared.scores["base"][key].total) > 0.01
    ]
    assert moved


def sharing(choice: str) -> ProbeFacts:
    return ProbeFacts(template=choice, max_new_tokens=8, samples=2)  # type: ignore[arg-type]


def test_a_model_without_a_template_is_given_the_others(folder: Path, tmp_path: Path) -> None:
    bare = with_template(tmp_path / "bare", TEMPLATE)
    (bare / "chat_template.jinja").unlink()
    items: tuple[Item, ...] = prepared_of(folder / "probes.jsonl", bare).items
    assert all(item.alike("texts") and item.alike("prompt") for item in items)


def test_a_template_that_fails_is_named_with_its_model(folder: Path, tmp_path: Path) -> None:
    silent = with_template(tmp_path / "silent", REFUSES)
    with pytest.raises(ProbeError, match=r"line 1: .*keeps silent.*\(by the chat template of .*tuned"):
        prepared_of(folder / "probes.jsonl", silent)


def gate(folder: Path, tuned: Path, template: str) -> subprocess.CompletedProcess[str]:
    (folder / "ckptaudit.toml").write_text(f'[probes]\ntemplate = "{template}"\nmax_new_tokens = 8\nsamples = 2\n')
    words = ["--base", BASE, "--tuned", tuned, "--audit-probes", folder / "probes.jsonl"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "kl-task or poft", "--audit-profile",
         "behavior", "--audit-json", "found.json", *map(str, words)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_gate_runs_each_model_with_its_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "probes.jsonl").write_bytes((folder / "probes.jsonl").read_bytes())
    done = gate(tmp_path, folder / "some", "own")
    found = json.loads((tmp_path / "found.json").read_text())
    (verdict,) = (v for v in found["verdicts"] if v["check"] == "kl-task")
    assert verdict["outcome"] == "passed", done.stdout
    assert any("are left out" in (m["remark"] or "") for m in found["measurements"])


def test_a_template_that_fails_ends_the_run_in_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "probes.jsonl").write_bytes((folder / "probes.jsonl").read_bytes())
    done = gate(tmp_path, with_template(tmp_path / "silent", REFUSES), "own")
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert done.returncode == 4, done.stdout + done.stderr
    assert len(lines) == 1
    assert "keeps silent" in lines[0]
    assert "(by the chat template of --tuned)" in lines[0]
    assert "Traceback" not in done.stdout + done.stderr


def test_another_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[probes\]: Invalid enum value 'ours'"):
        probe_facts({"probes": {"template": "ours"}}, Path("ckptaudit.toml"))


def test_a_look_into_the_file_counts_the_same_tokens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ckptaudit.cli import main

    words = ["probes", "check", folder / "probes.jsonl", "--model", BASE, "--tuned", folder / "every"]
    assert main([*map(str, words), "--template", "own"]) == 0
    assert "same tokens 0 of " in capsys.readouterr().out
