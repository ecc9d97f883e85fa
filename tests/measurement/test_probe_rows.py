"""The table of what both models say of each token, against transformers' own logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckptaudit.errors import ProbeError, ReportError
from ckptaudit.judging.config import Config
from ckptaudit.measurement import probe_rows
from ckptaudit.measurement.probe_rows import BY_TEXT, PAIRED, Origin, write_rows
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import audited
from tests.behavior.judged import FACTS
from tests.conftest import FIXTURES, package

pq = package("pyarrow.parquet")

BASE, TUNED = FIXTURES / "aligned", FIXTURES / "aligned-grpo"

Rows = list[dict[str, Any]]


def some_probes(path: Path, kinds: int = 3) -> Path:
    """A few of every kind of the bundled probes."""
    kept: dict[tuple[str, ...], list[str]] = {}
    for line in (FIXTURES / "probes" / "aligned.jsonl").read_text(encoding="utf-8").splitlines():
        probe = json.loads(line)
        kept.setdefault((probe["set"], *sorted(probe.keys() - {"id"})), []).append(line)
    path.write_text("\n".join(line for lines in kept.values() for line in lines[:kinds]), encoding="utf-8")
    return path


def options(folder: Path, *tuned: Path, rows: str | None = "rows.parquet", **more: Any) -> AuditOptions:
    return AuditOptions(
        base=str(BASE),
        tuned=tuple(map(str, tuned)),
        profile="behavior",
        complete=False,
        cache="off",
        auxiliary={"probes": str(folder / "probes.jsonl")},
        probe_rows=None if rows is None else str(folder / rows),
        **more,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    some_probes(folder / "probes.jsonl")
    audited(options(folder, TUNED), Config(probes=FACTS))
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> Any:
    return pq.read_table(folder / "rows.parquet")


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    sides = {"base": BASE, "tuned": TUNED}
    return {s: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for s, path in sides.items()}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TUNED)


def of_text(table: Any, probe: str, text: str, model: str) -> Rows:
    rows: Rows = table.to_pylist()
    return [row for row in rows if (row["probe"], row["text"], row["model"]) == (probe, text, model)]


def log_softmax(network: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    """Alone, in one pass, in float64 afterwards."""
    with torch.no_grad():
        logits = network(torch.tensor([ids])).logits[0].double().numpy()
    z = logits - logits.max(axis=1, keepdims=True)
    found: np.ndarray[Any, Any] = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return found


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "probes.jsonl").read_text(encoding="utf-8").splitlines()]


def of_kind(folder: Path, *keys: str) -> list[dict[str, Any]]:
    found = [probe for probe in written(folder) if all(key in probe for key in keys)]
    assert found, f"no probe with {keys}"
    return found


def test_pairs_are_scored_as_transformers_does(
    folder: Path, table: Any, networks: dict[str, Any], tokenizer: Any
) -> None:
    for probe in of_kind(folder, "chosen", "rejected"):
        prompt = tokenizer.apply_chat_template(probe["prompt"], add_generation_prompt=True, tokenize=False)
        for text in ("chosen", "rejected"):
            full = tokenizer.apply_chat_template([*probe["prompt"], *probe[text]], tokenize=False)
            start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            ids = tokenizer(full, add_special_tokens=False)["input_ids"]
            for model, network in networks.items():
                rows = of_text(table, probe["id"], text, model)
                tokens = [row["token"] for row in rows]
                assert tokens == ids[start : start + len(tokens)]
                lp = log_softmax(network, ids)[start - 1 : start - 1 + len(tokens)]
                own = lp[np.arange(len(tokens)), tokens]
                assert np.allclose([row["log_p"] for row in rows], own, atol=5e-5)
                assert [row["rank"] for row in rows] == ((lp > own[:, None]).sum(axis=1) + 1).tolist()
                assert np.allclose([row["entropy"] for row in rows], -(np.exp(lp) * lp).sum(axis=1), atol=5e-5)
                assert [row["position"] for row in rows] == list(range(len(tokens)))


def test_texts_are_compared_as_transformers_says(
    folder: Path, table: Any, networks: dict[str, Any], tokenizer: Any
) -> None:
    for probe in of_kind(folder, "prompt", "completion"):
        rows = of_text(table, probe["id"], "completion", "tuned")
        prompt = tokenizer.apply_chat_template(probe["prompt"], add_generation_prompt=True, tokenize=False)
        front = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = [*front, *(row["token"] for row in rows)]
        b, t = (log_softmax(networks[m], ids)[len(front) - 1 : -1] for m in ("base", "tuned"))
        p, q = np.exp(t), np.exp(b)
        assert np.allclose([row["kl_tuned_base"] for row in rows], (p * (t - b)).sum(axis=1), atol=1e-5)
        assert np.allclose([row["kl_base_tuned"] for row in rows], (q * (b - t)).sum(axis=1), atol=1e-5)
        assert np.allclose([row["total_variation"] for row in rows], abs(p - q).sum(axis=1) / 2, atol=1e-5)
        assert [row["agree"] for row in rows] == (b.argmax(axis=1) == t.argmax(axis=1)).tolist()


def test_an_answer_is_what_the_tuned_model_says(table: Any, tokenizer: Any) -> None:
    answers = [row for row in table.to_pylist() if row["text"] == "answer"]
    by_probe: dict[tuple[str, str], list[int]] = {}
    for row in answers:
        by_probe.setdefault((row["probe"], row["model"]), []).append(row["token"])
    assert all(by_probe[probe, "base"] == tokens for (probe, _), tokens in by_probe.items())
    # Greedy: each token is the one that the tuned model finds likeliest.
    assert {row["rank"] for row in answers if row["model"] == "tuned"} == {1}


def test_every_row_says_where_it_comes_from(folder: Path, table: Any) -> None:
    rows = table.to_pylist()
    assert all(len(row[name]) in (32, 64) for row in rows for name in BY_TEXT[5:])
    assert len({(row["model"], row["weights"]) for row in rows}) == 2
    assert {row["checkpoint"] for row in rows} == {str(BASE), str(TUNED)}
    keys = [(row["probe"], row["text"], row["model"], row["position"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {row["probe"] for row in rows} == {probe["id"] for probe in written(folder)}


def test_the_comparison_stands_beside_the_tuned_model_alone(table: Any) -> None:
    for row in table.to_pylist():
        compared = row["model"] == "tuned" and row["text"] in ("text", "completion", "answer")
        assert all((row[name] is not None) == compared for name in PAIRED)


def test_several_runs_have_a_file_each(tmp_path: Path) -> None:
    some_probes(tmp_path / "probes.jsonl", 1)
    audited(options(tmp_path, TUNED, FIXTURES / "aligned-dpo", several="apart"), Config(probes=FACTS))
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == ["rows-1.parquet", "rows-2.parquet"]
    first, second = (pq.read_table(tmp_path / f"rows-{n}.parquet").to_pylist() for n in (1, 2))
    weights = [{row["weights"] for row in rows if row["model"] == "base"} for rows in (first, second)]
    assert weights[0] == weights[1]
    assert {row["checkpoint"] for row in second} == {str(BASE), str(FIXTURES / "aligned-dpo")}


def test_rows_without_probes_are_refused(tmp_path: Path) -> None:
    asked = AuditOptions(base=str(BASE), tuned=(str(TUNED),), probe_rows=str(tmp_path / "rows.parquet"))
    with pytest.raises(ProbeError, match="rows are of probes"):
        audited(asked)


def test_rows_take_the_place_of_no_file_that_is_read(tmp_path: Path) -> None:
    some_probes(tmp_path / "rows.parquet", 1)
    before = (tmp_path / "rows.parquet").read_bytes()
    probes = {"probes": str(tmp_path / "rows.parquet")}
    asked = AuditOptions(
        base=str(BASE), tuned=(str(TUNED),), auxiliary=probes, probe_rows=str(tmp_path / "." / "rows.parquet")
    )
    with pytest.raises(ReportError, match=r"probe_rows= .*would be overwritten"):
        audited(asked)
    assert (tmp_path / "rows.parquet").read_bytes() == before


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    origin = Origin({}, {}, {}, {}, "")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ReportError, match="cannot be written"):
        write_rows(tmp_path / "folder", [], origin)


def test_blocks_do_not_change_the_table(
    folder: Path, table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_rows, "TEXTS", 5)
    (tmp_path / "probes.jsonl").write_bytes((folder / "probes.jsonl").read_bytes())
    audited(options(tmp_path, TUNED), Config(probes=FACTS))
    written = pq.ParquetFile(tmp_path / "rows.parquet")
    assert written.num_row_groups > 5
    assert written.read().to_pylist() == table.to_pylist()
