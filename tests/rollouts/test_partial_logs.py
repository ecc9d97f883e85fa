"""Logs that hold a part of what can be logged: judged by that, and what would record the rest is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ckptaudit import AuditResult, audit
from ckptaudit.judging.config import Config
from ckptaudit.judging.verdict import Verdict
from ckptaudit.rollouts.facts import RunFacts
from ckptaudit.rollouts.table import write_table
from tests.rollouts.simulated import run_rows, table_of

PAIR = ("logp_rollout", "logp_train")


def audited(folder: Path, table: pa.Table, **facts: object) -> AuditResult:
    write_table(folder / "rollouts.parquet", iter(table.to_batches()))
    config = Config(facts=RunFacts(group_size=8, **facts))  # type: ignore[arg-type]
    return audit(rollouts=folder / "rollouts.parquet", config=config)


def without(table: pa.Table, *columns: str) -> pa.Table:
    for name in columns:
        place = table.schema.get_field_index(name)
        table = table.set_column(
            place, table.schema.field(name), pa.nulls(table.num_rows, table.schema.field(name).type)
        )
    return table


def verdict(result: AuditResult, check: str) -> Verdict:
    return next(v for v in result.verdicts if v.check == check)


def test_rewards_and_texts_alone_open_the_gate_and_name_what_is_missing(tmp_path: Path) -> None:
    table = without(table_of(run_rows()), *PAIR, "logp_new", "entropy", "token_ids", "loss_mask", "version_first")
    found = audited(tmp_path, table, advantage="trl")
    assert found.passed
    assert verdict(found, "groups-of-one-prompt").outcome == "passed"
    k3 = verdict(found, "mismatch-k3")
    assert (k3.severity, k3.outcome) == ("gate", "skipped")
    assert "are not logged by ckptaudit: record" in k3.reason
    (log,) = found.rollouts
    assert log.judged < log.checks
    assert any("mismatch-k3" in left.checks and "record" in left.reason for left in log.unjudged)


def test_a_convention_without_a_deviation_has_no_bound(tmp_path: Path) -> None:
    rows = run_rows()
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f"{row['step']} {row['group_id']}", []).append(row)
    for members in groups.values():
        rewards: list[float] = [member["reward"] for member in members]
        for member in members:
            member["advantage"] = member["reward"] - sum(rewards) / len(rewards)
    found = audited(tmp_path, table_of(rows), advantage="prime-rl")
    bound = verdict(found, "advantages-bounded")
    assert (bound.severity, bound.outcome) == ("gate", "skipped")
    assert bound.reason.startswith("this run has no advantage that its group's deviation scales")
    assert found.passed


def test_one_sample_a_prompt_leaves_the_checks_of_groups_out(tmp_path: Path) -> None:
    rows = run_rows()
    for place, row in enumerate(rows):
        row["group_id"] = f"g{place}"
    found = audited(tmp_path, table_of(rows))
    bound = verdict(found, "advantages-bounded")
    assert (bound.outcome, bound.reason) == ("skipped", "this run has no group of several samples")


def test_identical_sides_keep_the_gate_shut(tmp_path: Path) -> None:
    rows = run_rows()
    for row in rows:
        row["logp_train"] = row["logp_rollout"]
    found = audited(tmp_path, table_of(rows))
    assert verdict(found, "mismatch-k3").outcome == "error"
    assert not found.passed


def test_a_damaged_log_is_no_partial_one(tmp_path: Path) -> None:
    found = audited(tmp_path, table_of(run_rows(steps=3)))
    assert found.verdicts
    content = (tmp_path / "rollouts.parquet").read_bytes()
    broken = bytearray(content)
    broken[len(content) // 3 : len(content) // 2] = b"\xff" * (len(content) // 2 - len(content) // 3)
    (tmp_path / "rollouts.parquet").write_bytes(broken)
    again = audit(rollouts=tmp_path / "rollouts.parquet")
    assert not again.passed
    assert {v.outcome for v in again.verdicts if v.severity == "gate" and v.outcome != "passed"} <= {
        "error",
        "skipped",
    }
    assert any(v.outcome == "error" for v in again.verdicts)


@pytest.mark.parametrize("check", ["reference-priced-in-its-group", "checkpoints-covered"])
def test_what_a_run_has_none_of_is_said(tmp_path: Path, check: str) -> None:
    found = audited(tmp_path, table_of(run_rows(steps=3)))
    assert verdict(found, check).reason.startswith("this run has no ")
