"""`ckptaudit probes`: what a file can tell, and probes from data sets in the formats of TRL and lm-eval."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ckptaudit.behavior.probes import Probe, read_probes
from ckptaudit.behavior.statistics import wilson
from ckptaudit.cli import main
from tests.conftest import package

USER: Any = [{"role": "user", "content": "What colour is the sky?"}]
BLUE: Any = [{"role": "assistant", "content": "It is blue."}]
GREEN: Any = [{"role": "assistant", "content": "It is green."}]

FORMATS: dict[str, tuple[dict[str, Any], str]] = {
    "language modeling": ({"text": "The sky is blue."}, "text"),
    "language modeling, conversational": ({"messages": USER + BLUE}, "text"),
    "prompt-only": ({"prompt": "The sky is"}, "prompt"),
    "prompt-only, conversational": ({"prompt": USER}, "prompt"),
    "prompt-completion": ({"prompt": "The sky is", "completion": " blue."}, "completion"),
    "prompt-completion, conversational": ({"prompt": USER, "completion": BLUE}, "completion"),
    "preference": ({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}, "preference"),
    "preference, conversational": ({"prompt": USER, "chosen": BLUE, "rejected": GREEN}, "preference"),
    "implicit prompt": ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, "preference"),
    "implicit prompt, conversational": ({"chosen": USER + BLUE, "rejected": USER + GREEN}, "preference"),
    "unpaired preference": ({"prompt": "The sky is", "completion": " blue.", "label": True}, "labelled"),
    "unpaired preference, conversational": ({"prompt": USER, "completion": GREEN, "label": False}, "labelled"),
}
"""One row of each of TRL's formats but stepwise supervision, as its documentation has them."""


def dataset(folder: Path, *rows: dict[str, Any], parquet: bool = False) -> Path:
    path = folder / f"rows.{'parquet' if parquet else 'jsonl'}"
    if not parquet:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    package("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def made(folder: Path, *rows: dict[str, Any], parquet: bool = False, options: tuple[str, ...] = ()) -> list[Probe]:
    output = folder / "probes.jsonl"
    source = dataset(folder, *rows, parquet=parquet)
    assert main(["probes", "make", f"--from-dataset={source}", f"--output={output}", *options]) == 0
    return read_probes(output)


@pytest.mark.parametrize("parquet", [False, True], ids=["jsonl", "parquet"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_data_set_of_trl_becomes_probes_unchanged(tmp_path: Path, name: str, parquet: bool) -> None:
    row, kind = FORMATS[name]
    (probe,) = made(tmp_path, {**row, "source": "here"}, parquet=parquet)
    assert probe.kind == kind
    assert json.loads((tmp_path / "probes.jsonl").read_text()) == row


@pytest.mark.parametrize("name", ["implicit prompt", "implicit prompt, conversational"])
def test_an_implicit_prompt_is_what_trl_takes_for_it(tmp_path: Path, name: str) -> None:
    theirs = package("trl.data_utils").extract_prompt(FORMATS[name][0])
    (probe,) = made(tmp_path, FORMATS[name][0])

    def plain(part: Any) -> Any:
        return part if isinstance(part, str) else [{"role": m.role, "content": m.content} for m in part]

    assert plain(probe.prompt) == theirs["prompt"]
    assert list(map(plain, probe.completions)) == [theirs["chosen"], theirs["rejected"]]


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"choices": ["red", "blue"], "answer": 1}, 1),
        ({"choices": ["red", "blue"], "answer": "B"}, 1),
        ({"choices": ["red", "blue"], "answer": "blue"}, 1),
        ({"choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": "2"}, 1),
        ({"choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "A"}, 0),
    ],
)
@pytest.mark.parametrize("parquet", [False, True], ids=["jsonl", "parquet"])
def test_multiple_choice_becomes_the_form_of_lm_eval(
    tmp_path: Path, row: dict[str, Any], answer: int, parquet: bool
) -> None:
    (probe,) = made(tmp_path, {"question": "Sky?", "subject": "air", **row}, parquet=parquet)
    assert (probe.prompt, probe.completions) == ("Question: Sky?\nAnswer:", (" red", " blue"))
    assert (probe.kind, probe.answer) == ("choice", answer)


def test_columns_are_named_and_a_set_is_given(tmp_path: Path) -> None:
    row = {"question": "1+1?", "solution": "2", "uid": 17, "prompt": "left aside"}
    options = ("--map=prompt=question", "--map=reference=solution", "--map=id=uid", "--set=task")
    (probe,) = made(tmp_path, row, options=options)
    assert (probe.prompt, probe.reference, probe.id, probe.set) == ("1+1?", "2", "17", "task")


def test_messages_lose_what_no_template_is_given(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x"},
        {"role": "assistant", "content": "c", "tool_calls": None},
    ]
    (probe,) = made(tmp_path, {"messages": turns})
    assert [m.content for m in probe.completions[0]] == ["ab", "c"]  # type: ignore[union-attr]


def test_a_prompt_that_stands_beside_conversations_is_not_asked_twice(tmp_path: Path) -> None:
    row = {"prompt": "What colour is the sky?", "chosen": USER + BLUE, "rejected": USER + GREEN}
    (probe,) = made(tmp_path, row)
    assert [m.content for m in probe.prompt] == ["What colour is the sky?"]  # type: ignore[union-attr]


def test_rows_that_make_no_probe_are_counted_with_their_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c", "score": 1}
    rows = [pair, pair, {**pair, "rejected": "b"}, {**pair, "chosen": "d"}]
    assert len(made(tmp_path, *rows)) == 2
    printed = capsys.readouterr().out
    assert "probes.jsonl: 2 probes" in printed
    assert "columns score" in printed
    assert "1 rows, the first 2: was there before." in printed
    assert '1 rows, the first 3: "chosen" and "rejected" are the same.' in printed


def test_a_sample_is_drawn_at_random_and_the_same_again(tmp_path: Path) -> None:
    rows = [{"text": str(n)} for n in range(100)]
    drawn = [p.completions[0] for p in made(tmp_path, *rows, options=("--samples=20",))]
    assert len(drawn) == 20
    assert drawn != [str(n) for n in range(20)]
    assert drawn == [p.completions[0] for p in made(tmp_path, *rows, options=("--samples=20",))]


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("{}\n", (), ["no row makes a probe", "holds no text"]),
        ("", (), ["no row makes a probe"]),
        ("{\n", (), ["line 1: no JSON object"]),
        ('{"text": "a"}', ("--map=promt=text",), ["--map promt", "did you mean prompt"]),
        ('{"text": "a"}', ("--map=prompt",), ["--map prompt", "prompt=COLUMN"]),
        ('{"text": "a"}', ("--samples=0",), ["--samples 0"]),
        ('{"text": "a"}', ("--output=missing/p.jsonl",), ["--output missing/p.jsonl", "No such file"]),
    ],
)
def test_a_data_set_without_probes_ends_in_one_line_and_code_4(
    tmp_path: Path,
    content: str,
    options: tuple[str, ...],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, output = tmp_path / "rows.jsonl", tmp_path / "p.jsonl"
    source.write_text(content)
    assert main(["probes", "make", f"--from-dataset={source}", f"--output={output}", *options]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
    assert not output.exists()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_only_regular_files_are_read(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / f"rows.{suffix}"
    os.mkfifo(source)
    assert main(["probes", "make", f"--from-dataset={source}", f"--output={tmp_path / 'p.jsonl'}"]) == 4
    assert "a pipe, not a regular file" in capsys.readouterr().err


def test_a_damaged_parquet_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = dataset(tmp_path, {"text": "a" * 1000}, parquet=True)
    source.write_bytes(source.read_bytes()[:-40])
    assert main(["probes", "make", f"--from-dataset={source}", f"--output={tmp_path / 'p.jsonl'}"]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "no Parquet file" in line


def test_check_says_what_is_there_and_what_each_question_rests_on(
    fixture_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = fixture_pairs / "aligned"
    file = fixture_pairs / "probes" / "aligned.jsonl"
    assert main(["probes", "check", str(file), f"--model={model}", f"--tuned={fixture_pairs / 'aligned-dpo'}"]) == 0
    printed = capsys.readouterr().out
    probes = read_probes(file)
    assert f"{len(probes)} probes" in printed
    assert "safety      unsafe 136, safe 216" in printed
    assert "of a context of 128" in printed
    unsafe = sum(p.safety == "unsafe" for p in probes)
    half = wilson(unsafe / 2, unsafe)
    (row,) = (line for line in printed.splitlines() if line.startswith("refusal"))
    assert row.split() == ["refusal", str(unsafe), f"+-{(half.high - half.low) / 2:.3f}"]


def test_check_names_what_is_excluded_and_why(tmp_path: Path, fixture_pairs: Path) -> None:
    file = tmp_path / "p.jsonl"
    rows = [
        {"prompt": "What co", "completion": "lour"},
        {"prompt": "What", "completion": " colour"},
        {"text": "x" * 300},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    program = [sys.executable, "-P", "-m", "ckptaudit", "probes", "check", str(file)]
    done = subprocess.run(
        [*program, f"--model={fixture_pairs / 'aligned'}"], capture_output=True, text=True, check=True
    )
    assert "1 texts: the prompt's last tokens are others where the completion follows (line 1)" in done.stdout
    assert "1 texts longer than the context" in done.stdout


def test_a_second_model_without_a_tokenizer_gets_the_first_one_s(
    fixture_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, base = str(fixture_pairs / "probes" / "task.jsonl"), f"--model={fixture_pairs / 'base'}"
    printed = []
    for second in ("base", "rlvr-gentle"):
        assert main(["probes", "check", file, base, f"--tuned={fixture_pairs / second}"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_a_folder_that_is_none_is_told_of_alike_whatever_its_name_looks_like(
    fixture_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(fixture_pairs / "probes" / "task.jsonl")
    for name in ("nowhere", "/nowhere", "runs/nowhere", "../no where"):
        assert main(["probes", "check", file, f"--model={name}"]) == 4
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"ERROR: --model {name}: no such folder, and no model of that name"), line


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([{"text": "a", "sets": "b"}], (), ["line 1", 'unknown key "sets"', "did you mean set"]),
        ([{"prompt": USER}], ("--model=base",), ["line 1", "bring no chat template"]),
        ([{"text": "a"}], ("--model=base", "--tuned=aligned"), ["tokenizers that disagree"]),
        ([{"prompt": "9" * 400, "completion": "a"}], ("--model=base",), ["line 1", "fills the context of 256"]),
        ([{"text": "a"}], ("--tuned=base",), ["--tuned", "--model"]),
        ([{"text": "a"}], ("--model=probes",), ["has no tokenizer"]),
        ([{"text": "a"}], ("--model=rlvr-gentle",), ["rlvr-gentle has no tokenizer"]),
        ([{"text": "a"}], ("--model=rlvr-gentle", "--tuned=base"), ["rlvr-gentle has no tokenizer"]),
        ([{"text": "a"}], ("--model=nowhere",), ["--model", "nowhere: no such folder"]),
        ([{"text": "a"}], ("--model=base", "--tuned=nowhere"), ["--tuned", "nowhere: no such folder"]),
    ],
)
def test_what_an_audit_would_end_on_ends_the_check(
    tmp_path: Path,
    fixture_pairs: Path,
    rows: list[dict[str, Any]],
    options: tuple[str, ...],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    given = [option.replace("=", f"={fixture_pairs}/") for option in options]
    assert main(["probes", "check", str(file), *given]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
