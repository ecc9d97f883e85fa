"""How fast rollouts are measured, beside DuckDB and Polars on the same aggregates of the same files.

    python -m benchmarks.rollouts [--steps 40] [--rounds 3]

It makes up a log, measures all metrics, then k3, mean ratio and mean abs(log-ratio) by step alone, with ours,
DuckDB and Polars in turn on two threads each, and prints tokens per second and the ratios within each round: of
time that passed, and of processor time, which a busy machine changes less. The figures of the three are compared
before anything is timed. Ours keeps to the loss mask and takes standard errors by sequence, which the others leave
out.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

THREADS = 2
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "ARROW_NUM_THREADS"):
    os.environ.setdefault(_name, str(THREADS))

import duckdb  # noqa: E402
import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
import pyarrow as pa  # noqa: E402

from ckptaudit.rollouts.facts import RunFacts  # noqa: E402
from ckptaudit.rollouts.measure import measure  # noqa: E402
from ckptaudit.rollouts.quantities import metrics  # noqa: E402
from ckptaudit.rollouts.readers import open_rollouts  # noqa: E402
from ckptaudit.rollouts.rows import batch_of, prompt_hash  # noqa: E402
from ckptaudit.rollouts.table import write_table  # noqa: E402

SAMPLES, LENGTH, GROUP = 128, 2000, 8
FACTS = RunFacts(group_size=GROUP, advantage="trl", max_staleness=1, clip_low=0.2, clip_high=0.2)
Aggregates = dict[int, tuple[float, float, float]]


def step_of(step: int) -> pa.RecordBatch:
    """One step of a healthy run, some 256,000 tokens."""
    rng = np.random.default_rng(step)
    rewards = (rng.random((SAMPLES // GROUP, GROUP)) < 0.5) + rng.normal(0, 0.01, (SAMPLES // GROUP, GROUP))
    advantages = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
    rows = []
    for sample in range(SAMPLES):
        size = int(rng.integers(LENGTH // 2, LENGTH * 3 // 2))
        train = -rng.exponential(0.5, size).astype(np.float32)
        rows.append(
            {
                "step": step, "sample_id": f"{step}/{sample}", "group_id": f"{step}/{sample // GROUP}",
                "prompt_hash": prompt_hash(f"{step}/{sample // GROUP}"), "response_len": size, "truncated": False,
                "version_first": step, "version_train": step, "reward": rewards.flat[sample],
                "rewards": [("accuracy", float(rewards.flat[sample] > 0.5)), ("format", 1.0)],
                "advantage": advantages.flat[sample], "token_ids": rng.integers(0, 30_000, size).astype(np.int32),
                "loss_mask": np.ones(size, dtype=bool), "logp_train": train,
                "logp_rollout": np.minimum(train + rng.normal(0, 0.02, size).astype(np.float32), -1e-6),
                "logp_new": train + rng.normal(0, 0.01, size).astype(np.float32),
                "entropy": -train + rng.normal(0, 0.1, size).astype(np.float32),
            }
        )  # fmt: skip
    return batch_of(rows, Path("made"), "benchmark")


def ours(path: Path) -> Aggregates:
    """k3, mean ratio - 1 (signed) and mean abs(l) of each step."""
    found: dict[int, dict[str, float]] = {}
    for reading in measure(open_rollouts(path), FACTS, ("mismatch_k3", "ratio_bias", "mismatch_abs")):
        if reading.subject != "run" and reading.value is not None:
            value = reading.parts[0].value if reading.parts else reading.value
            found.setdefault(int(reading.subject.split()[1]), {})[reading.metric] = value
    return {s: (v["mismatch_k3"], v["ratio_bias"], v["mismatch_abs"]) for s, v in found.items()}


def by_duckdb(path: Path) -> Aggregates:
    """The same in SQL."""
    query = f"""
        SELECT step, avg(exp(l) - l - 1), avg(exp(l)) - 1, avg(abs(l)) FROM (
            SELECT step, unnest(logp_train)::DOUBLE - unnest(logp_rollout)::DOUBLE AS l FROM read_parquet('{path}')
        ) GROUP BY step"""
    with duckdb.connect(config={"threads": THREADS}) as connection:
        return {step: tuple(values) for step, *values in connection.execute(query).fetchall()}


def by_polars(path: Path) -> Aggregates:
    """The same as a lazy query."""
    gap = pl.col("logp_train").cast(pl.Float64) - pl.col("logp_rollout").cast(pl.Float64)
    frame = (
        pl.scan_parquet(path).select("step", "logp_train", "logp_rollout").explode("logp_train", "logp_rollout")
        .select("step", gap.alias("l")).group_by("step")
        .agg((pl.col("l").exp() - pl.col("l") - 1).mean().alias("k3"), (pl.col("l").exp().mean() - 1).alias("bias"),
             pl.col("l").abs().mean().alias("abs"))
        .collect(engine="streaming")
    )  # fmt: skip
    return {row[0]: row[1:] for row in frame.iter_rows()}


def everything(path: Path) -> None:
    """All metrics."""
    for _ in measure(open_rollouts(path), FACTS, metrics()):
        pass


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollouts", description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=40, help="some 256,000 tokens each (default: 40)")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    pa.set_cpu_count(THREADS)
    with TemporaryDirectory(prefix="benchmark-") as folder:
        path = Path(folder) / "rollouts.parquet"
        tokens = _written(path, given.steps)
        _compare(ours(path), by_duckdb(path), by_polars(path))
        print(f"{tokens:,} tokens in {given.steps} steps, {path.stat().st_size / 2**20:.0f} MiB; {THREADS} threads")
        print("\n".join(_table(path, tokens, given.rounds)))
    return 0


def _written(path: Path, steps: int) -> int:
    tokens = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal tokens
        for step in range(steps):
            batch = step_of(step)
            tokens += int(np.asarray(batch.column("response_len")).sum())
            yield batch

    write_table(path, counted())
    return tokens


def _compare(*found: Aggregates) -> None:
    first, *others = found
    for other in others:
        assert first.keys() == other.keys()
        for step, values in first.items():
            np.testing.assert_allclose(values, other[step], rtol=1e-6, atol=1e-9)


def _table(path: Path, tokens: int, rounds: int) -> Iterator[str]:
    cases: dict[str, Callable[[Path], object]] = {
        "all metrics": everything, "three aggregates, ours": ours, "the same, DuckDB": by_duckdb,
        "the same, Polars": by_polars,
    }  # fmt: skip
    walls: dict[str, list[float]] = {name: [] for name in cases}
    works: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            wall, work = time.perf_counter(), time.process_time()
            case(path)
            walls[name].append(time.perf_counter() - wall)
            works[name].append(time.process_time() - work)
    mine = "three aggregates, ours"
    speeds = f"{'M tokens/s':>12}{'M tokens/CPU s':>16}"
    yield f"{'':24}{'seconds':>9}{'CPU s':>8}{speeds}{'time / ours':>13}{'CPU / ours':>12}"
    for name in cases:
        wall, work = median(walls[name]), median(works[name])
        ratios = [median(a / b for a, b in zip(times[name], times[mine], strict=True)) for times in (walls, works)]
        speeds = f"{tokens / wall / 1e6:12.1f}{tokens / work / 1e6:16.1f}"
        yield f"{name:24}{wall:9.2f}{work:8.2f}{speeds}{ratios[0]:13.2f}{ratios[1]:12.2f}"


if __name__ == "__main__":
    sys.exit(main())
