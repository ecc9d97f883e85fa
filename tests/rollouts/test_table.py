"""The canonical table on disk, the facts of a run, and the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ckptaudit.cli import main
from ckptaudit.errors import ConfigError, RolloutError
from ckptaudit.rollouts.facts import RunFacts, read_facts
from ckptaudit.rollouts.readers import open_rollouts
from ckptaudit.rollouts.table import SCHEMA, read_table, write_table

FIXTURES = Path(__file__).parents[2] / "fixtures" / "rollouts"


def test_what_is_written_is_read(healthy: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.parquet"
    assert write_table(path, healthy.to_batches(max_chunksize=100)) == healthy.num_rows
    again = pa.Table.from_batches(read_table([path]))
    assert again.equals(healthy.combine_chunks().cast(again.schema))
    assert [p.name for p in path.parent.iterdir()] == ["table.parquet"]


def test_only_the_columns_asked_for_are_read(healthy: pa.Table, tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", healthy.to_batches())
    batch = next(read_table([tmp_path / "t.parquet"], ["reward"]))
    assert set(batch.schema.names) == {"reward"} | {f.name for f in SCHEMA if not f.nullable}


def test_steps_that_go_backwards_are_not_written(healthy: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="go backwards"):
        write_table(tmp_path / "t.parquet", [*healthy.slice(600).to_batches(), *healthy.slice(0, 9).to_batches()])
    assert not list(tmp_path.iterdir())


def test_a_table_without_a_column_that_is_required_is_refused(tmp_path: Path) -> None:
    schema = SCHEMA.remove(SCHEMA.get_field_index("step"))
    pq.write_table(schema.empty_table(), tmp_path / "t.parquet")
    with pytest.raises(RolloutError, match="column step is missing"):
        list(read_table([tmp_path / "t.parquet"]))


def test_a_column_of_another_type_is_refused(healthy: pa.Table, tmp_path: Path) -> None:
    place = SCHEMA.get_field_index("logp_train")
    wrong = healthy.set_column(place, "logp_train", pa.array(["x"] * healthy.num_rows))
    pq.write_table(wrong.replace_schema_metadata(SCHEMA.metadata), tmp_path / "t.parquet")
    with pytest.raises(RolloutError, match="column logp_train holds string from row 1 on"):
        list(read_table([tmp_path / "t.parquet"]))


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_file_that_is_cut_short_ends_in_one_sentence(keep: float, tmp_path: Path) -> None:
    data = (FIXTURES / "healthy" / "rollouts.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(RolloutError):
        list(read_table([tmp_path / "t.parquet"]))


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.parquet")
    with pytest.raises(RolloutError, match="regular file"):
        list(read_table([tmp_path / "t.parquet"]))


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """A log eight times as long takes about as much memory to measure."""
    script = (
        "import sys, resource\n"
        "from ckptaudit.rollouts.measure import measure\n"
        "from ckptaudit.rollouts.readers import open_rollouts\n"
        "from ckptaudit.rollouts.facts import RunFacts\n"
        "from ckptaudit.rollouts.quantities import metrics\n"
        "list(measure(open_rollouts(sys.argv[1]), RunFacts(), metrics()))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for name, steps in (("short", 3), ("long", 24)):
        write_table(tmp_path / name / "t.parquet", (_long_step(step) for step in range(steps)))
        ran = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / name)], capture_output=True, text=True, check=True,
            env={**os.environ, "MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system"},
        )  # fmt: skip
        peaks.append(int(ran.stdout) // 1024)
    size = (tmp_path / "long" / "t.parquet").stat().st_size // 2**20
    assert peaks[1] < peaks[0] + max(64, size / 2), (peaks, size)


def _long_step(step: int) -> pa.RecordBatch:
    from ckptaudit.rollouts.rows import batch_of, prompt_hash

    rng = np.random.default_rng(step)
    rows = []
    for sample in range(32):
        train = -rng.exponential(1.0, 4000).astype(np.float32)
        rows.append(
            {
                "step": step, "sample_id": f"{step}/{sample}", "group_id": str(sample // 8),
                "prompt_hash": prompt_hash(str(sample // 8)), "reward": float(sample % 3), "response_len": 4000,
                "token_ids": rng.integers(0, 9, 4000).astype(np.int32), "logp_train": train,
                "logp_rollout": np.minimum(train + rng.normal(0, 0.02, 4000).astype(np.float32), -1e-6),
            }
        )  # fmt: skip
    return batch_of(rows, Path("made"), "long")


def test_facts_are_read_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[rollouts]\ngroup_size = 8\nadvantage = "trl"\nclip_low = 0.2\n')
    assert read_facts(tmp_path / "c.toml") == RunFacts(group_size=8, advantage="trl", clip_low=0.2)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("group_sise = 8", "did you mean group_size"),
        ("group_size = 0", "below 1"),
        ('group_size = "eight"', "group_size"),
        ('advantage = "gae"', "not one of verl, trl"),
        ("temperature = 0.0", "not above 0"),
        ("top_p = 1.5", "not in (0, 1]"),
        ("clip_low = 2.0", "ratio below 0"),
        ("clip_high = nan", "clip_high"),
        ("max_staleness = -1", "below 0"),
        ("reward_weights = {a = inf}", "finite"),
    ],
)
def test_a_wrong_fact_is_named_with_what_is_allowed(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f"[rollouts]\n{line}\n")
    with pytest.raises(ConfigError) as error:
        read_facts(tmp_path / "c.toml")
    assert said in str(error.value)
    assert "c.toml: [rollouts]" in str(error.value)


def test_inspect_names_what_cannot_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "inspect", str(FIXTURES / "healthy")]) == 0
    said = capsys.readouterr().out
    assert "20 steps from 1 to 20, 7,040 samples" in said
    assert "logp_new" in said
    assert "not measured: clip_asymmetry, clip_share" in said


def test_convert_writes_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text('{"input": "a", "output": "b", "score": 1}\n' * 4)
    out = tmp_path / "t.parquet"
    assert main(["rollouts", "convert", str(tmp_path), "-o", str(out)]) == 0
    assert "4 samples of verl" in capsys.readouterr().out
    assert open_rollouts(out).columns >= {"reward", "response"}


def test_convert_does_not_write_over_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    file = FIXTURES / "healthy" / "rollouts.parquet"
    assert main(["rollouts", "convert", str(FIXTURES / "healthy"), "-o", str(file)]) == 4
    assert "would be overwritten" in capsys.readouterr().err


def test_a_missing_folder_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "inspect", "nowhere"]) == 4
    assert capsys.readouterr().err == "ERROR: nowhere: no such folder or file of rollouts. See docs/rollouts.md.\n"
