"""The summary within pytest's own output: quiet, verbose, coloured, in CI logs; and the files it announces."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture
def closed(small_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A pair that fails one check of two, in a log of an ordinary width."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("CI", raising=False)
    file = small_pair[1] / "model.safetensors"
    save_file({k: v * 1.1 for k, v in load_file(file).items()}, file)
    return [f"--base={small_pair[0]}", f"--tuned={small_pair[1]}", "-k", "spectral-drift or aligned"]


def deep_pair(folder: Path, *, layers: int) -> tuple[Path, Path]:
    """A pair of many small layers, each of which changed too much in every way."""
    random = torch.Generator().manual_seed(0)
    roles = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
    names = [f"model.layers.{i}.{role}.weight" for i in range(layers) for role in roles]
    base = {name: torch.randn(24, 24, generator=random).bfloat16() for name in names}
    tuned = {n: (w + 0.3 * torch.randn(24, 24, generator=random)).bfloat16() for n, w in base.items()}
    for side, tensors in (("base", base), ("tuned", tuned)):
        (folder / side).mkdir()
        save_file(tensors, folder / side / "model.safetensors")
    return folder / "base", folder / "tuned"


def section(result: pytest.RunResult) -> list[str]:
    start = next(i for i, x in enumerate(result.outlines) if "checkpoint audit" in x)
    return result.outlines[start + 1 :]


def test_the_summary_answers_what_where_and_how_badly(pytester: pytest.Pytester, closed: list[str]) -> None:
    result = pytester.runpytest(*closed)
    lines = section(result)
    assert result.ret == 1
    assert any(x.startswith("spectral-drift") and "FAIL 2/2" in x and "x the limit" in x for x in lines)
    assert "where spectral-drift failed" in lines
    assert any(x.startswith("gate CLOSED, worst: spectral-drift at layers.") for x in lines)
    assert max(map(len, lines)) <= 140


def test_a_broken_check_is_told_once_and_the_answer_last(pytester: pytest.Pytester, closed: list[str]) -> None:
    lines = pytester.runpytest(*closed).outlines
    assert sum(line.startswith("claim ") for line in lines) == 1
    assert not any(line.startswith("FAILED ") for line in lines)
    assert lines[-2].startswith("gate CLOSED, worst: spectral-drift at layers.")
    assert lines[-3].startswith("3 results: 1 passed, 2 failed")


@pytest.mark.parametrize("asked", ["-v", "-rf"])
def test_each_failure_is_one_line_in_the_short_summary_where_it_is_asked_for(
    pytester: pytest.Pytester, closed: list[str], monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setenv("CI", "true")
    short = [x for x in pytester.runpytest(*closed, asked).outlines if x.startswith("FAILED ")]
    assert len(short) == 2
    assert all("limit <= 0.001" in x and "source arXiv" in x for x in short)


def test_one_line_a_failure_with_tb_line(pytester: pytest.Pytester, closed: list[str]) -> None:
    lines = pytester.runpytest(*closed, "-q", "--tb=line").outlines
    told = [line for line in lines if "spectral-drift" in line and not line.startswith("gate")]
    assert [line.partition(":")[0] for line in told] == ["rlvr.toml", "rlvr.toml"]
    assert all("limit <= 0.001" in line for line in told)


def test_quieter_prints_the_answer_alone(pytester: pytest.Pytester, closed: list[str]) -> None:
    lines = [line for line in pytester.runpytest(*closed, "-qq").outlines if line.strip("F.[%] 0123456789")]
    assert [line.split()[0] for line in lines] == ["3", "gate"]


def test_a_failing_test_of_another_kind_is_pytests_own(pytester: pytest.Pytester, closed: list[str]) -> None:
    pytester.makepyfile(test_ours="def test_ours():\n    assert 1 == 2\n")
    result = pytester.runpytest(*closed[:2], "-k", "ours or spectral-drift", "test_ours.py", "rlvr.toml")
    result.stdout.fnmatch_lines(["claim *", "*test_ours*", "E*assert 1 == 2", "FAILED test_ours.py::test_ours*"])
    result.assert_outcomes(failed=3)


def test_a_deep_model_that_fails_everywhere_prints_less_than_two_hundred_lines(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    base, tuned = deep_pair(tmp_path, layers=28)
    result = pytester.runpytest(f"--base={base}", f"--tuned={tuned}", "--audit-cache=off")
    assert result.ret == 1
    failed = result.parseoutcomes()["failed"]
    assert failed >= 5 * 28
    assert len(result.outlines) < 170
    result.stdout.fnmatch_lines(["*and * more: -v", "gate CLOSED, worst: *"])


@pytest.mark.parametrize(
    ("option", "present", "absent"),
    [
        ("-q", ("spectral-drift", "gate CLOSED"), ("aligned ", "where ")),
        ("-v", ("where spectral-drift failed",), ()),
        ("--no-header", ("gate CLOSED",), ()),
        ("-n2", ("where spectral-drift failed", "gate CLOSED"), ()),
    ],
)
def test_more_and_less_is_told_as_pytest_is_asked(
    pytester: pytest.Pytester, closed: list[str], option: str, present: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    lines = section(pytester.runpytest(*closed, option, "-rN"))
    assert all(any(x.startswith(word) for x in lines) for word in present)
    assert not any(x.startswith(word) for x in lines for word in absent)


def test_no_summary_means_none(pytester: pytest.Pytester, closed: list[str]) -> None:
    pytester.runpytest(*closed, "--no-summary").stdout.no_fnmatch_line("*checkpoint audit*")


def test_colour_only_where_pytest_has_it(pytester: pytest.Pytester, closed: list[str]) -> None:
    assert "\x1b[" not in str(pytester.runpytest(*closed).stdout)
    assert "\x1b[1;31mgate CLOSED" in str(pytester.runpytest(*closed, "--color=yes").stdout)


def test_the_order_of_verdicts_is_the_checks_own_under_workers(
    pytester: pytest.Pytester, closed: list[str]
) -> None:
    rows = [
        [
            x.split()[0]
            for x in section(pytester.runpytest(*closed, "-k", "spectral-drift or actually-changed", *more))
            if x.startswith(("actually-", "spectral-"))
        ]
        for more in ((), ("-n2",))
    ]
    assert rows[0] == rows[1] == ["actually-changed", "spectral-drift"]


def test_own_tests_that_fail_keep_the_gate_from_being_called_open(
    pytester: pytest.Pytester, small_pair: tuple[Path, Path]
) -> None:
    pytester.makepyfile("def test_ours():\n    assert False\n")
    pair = [f"--base={small_pair[0]}", f"--tuned={small_pair[1]}"]
    result = pytester.runpytest(
        "test_own_tests_that_fail_keep_the_gate_from_being_called_open.py", "integrity.toml", *pair
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(["gate CLOSED: pytest ends with code 1"])


def test_the_table_of_measurements_is_written_and_announced(pytester: pytest.Pytester, closed: list[str]) -> None:
    result = pytester.runpytest(*closed, "--audit-parquet", "out/a.parquet", "-n2")
    result.stdout.fnmatch_lines(["every measurement, as a table, is in out/a.parquet"])
    assert "normalized_spectral_shift" in pq.read_table("out/a.parquet")["metric"].to_pylist()


def test_a_place_where_no_table_can_be_written_is_refused_before_measuring(
    pytester: pytest.Pytester, closed: list[str]
) -> None:
    result = pytester.runpytest(*closed, "--audit-parquet", ".")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --audit-parquet .: no file can be written there*"])
