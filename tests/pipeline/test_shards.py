"""An audit in shards: the result of one process, to the bit; and never green where a part is missing or wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from benchmarks.giant import Giant, write
from ckptaudit.errors import ConfigError, ShardError
from ckptaudit.judging.config import Config, load_config
from ckptaudit.measurement.shard_plan import ShardPlan, sealed
from ckptaudit.measurement.shards import Shard, cut
from ckptaudit.metrics import Measurement
from ckptaudit.options import AuditOptions
from ckptaudit.pipeline.api import audited, prepare
from ckptaudit.pipeline.collecting import collected_result
from ckptaudit.pipeline.shard_plans import open_planned, shard_plan
from ckptaudit.pipeline.shards import measure_shard
from ckptaudit.results.gate import answer
from ckptaudit.results.records import AuditResult
from tests.conftest import FIXTURES, package

package("pyarrow")

from ckptaudit.measurement.parts import PartHead, PartRow, read_part, write_part  # noqa: E402

COUNT = 3
PROBES = {"probes": str(FIXTURES / "probes" / "task.jsonl")}
ROLLOUTS = str(FIXTURES / "rollouts" / "healthy")


def options(tuned: Sequence[str] = ("sft",), **more: object) -> AuditOptions:
    about = {"cache": "off", "profile": "rlvr"} | more
    return AuditOptions(base=str(FIXTURES / "base"), tuned=tuple(str(FIXTURES / t) for t in tuned), **about)  # type: ignore[arg-type]


def planned(asked: AuditOptions, config: str = "") -> ShardPlan:
    prepared = prepare(asked, load_config(Path(config)) if config else Config())
    return shard_plan(prepared.opened, prepared.plan, config=config)


def measured(plan: ShardPlan, folder: Path, count: int = COUNT) -> list[Path]:
    work = open_planned(plan)
    parts = [folder / f"part-{index}.parquet" for index in range(count)]
    for index, path in enumerate(parts):
        measure_shard(work, Shard(index, count), path)
    return parts


def comparable(result: AuditResult) -> bytes:
    """The JSON of a result but for times."""
    assert result.about is not None
    about = structs.replace(result.about, started="", seconds=0.0, command=())
    return msgspec.json.encode(structs.replace(result, about=about))


@pytest.fixture(scope="module")
def plan() -> ShardPlan:
    return planned(options(("rlvr-gentle",)))


@pytest.fixture(scope="module")
def parts(plan: ShardPlan, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return measured(plan, tmp_path_factory.mktemp("parts"))


@pytest.mark.parametrize(
    "asked",
    [
        options(("sft",), profile="release"),
        options(("rlvr-gentle",), profile="release", exact=True),
        options(("lora",), profile="lora", complete=False),
        options(("rlvr-gentle", "rlvr", "sft"), several="siblings", complete=False),
        options(("rlvr-step70", "rlvr"), several="steps", complete=False),
        options(("rlvr-gentle",), profile="alignguard", auxiliary={"aligned": str(FIXTURES / "rlvr-step70")}),
        options(("rlvr-gentle",), profile="equal"),
        options(("rlvr-gentle",), profile="release", auxiliary=PROBES, rollouts=(ROLLOUTS,), complete=False),
    ],
    ids=["release", "exact", "lora", "siblings", "steps", "groups", "parity", "probes and rollouts"],
)
def test_shards_give_the_result_of_one_process_to_the_bit(asked: AuditOptions, tmp_path: Path) -> None:
    plan = planned(asked)
    result = collected_result(plan, measured(plan, tmp_path))
    assert comparable(result) == comparable(audited(asked))


def test_the_number_of_shards_changes_nothing(plan: ShardPlan, parts: list[Path], tmp_path: Path) -> None:
    alone = collected_result(plan, measured(plan, tmp_path, 1))
    assert comparable(alone) == comparable(collected_result(plan, parts))
    assert alone.passed


def test_an_empty_shard_is_a_part_like_any_other(plan: ShardPlan, tmp_path: Path) -> None:
    count = len(plan.tasks) + 2
    assert collected_result(plan, measured(plan, tmp_path, count)).passed


def lost(parts: list[Path], folder: Path) -> list[Path]:
    return parts[1:]


def doubled(parts: list[Path], folder: Path) -> list[Path]:
    return [*parts, Path(shutil.copy(parts[0], folder / "again.parquet"))]


def truncated(parts: list[Path], folder: Path) -> list[Path]:
    (folder / "short.parquet").write_bytes(parts[0].read_bytes()[:-100])
    return [folder / "short.parquet", *parts[1:]]


def flipped(parts: list[Path], folder: Path) -> list[Path]:
    content = bytearray(parts[0].read_bytes())
    content[len(content) // 3] ^= 1
    (folder / "flipped.parquet").write_bytes(content)
    return [folder / "flipped.parquet", *parts[1:]]


def rewritten(path: Path, to: Path, rows: Callable[[list[PartRow]], list[PartRow]], **head: object) -> Path:
    old, found = read_part(path, 10**6)
    kept = rows(found)
    write_part(to, structs.replace(old, rows=len(kept), **head), kept)
    return to


def of_another_plan(parts: list[Path], folder: Path) -> list[Path]:
    return [rewritten(parts[0], folder / "p.parquet", list, plan="0" * 32), *parts[1:]]


def of_another_version(parts: list[Path], folder: Path) -> list[Path]:
    return [rewritten(parts[0], folder / "p.parquet", list, version="0.0.1"), *parts[1:]]


def without_its_last_row(parts: list[Path], folder: Path) -> list[Path]:
    return [rewritten(parts[0], folder / "p.parquet", lambda rows: rows[:-1]), *parts[1:]]


def with_a_row_twice(parts: list[Path], folder: Path) -> list[Path]:
    return [rewritten(parts[0], folder / "p.parquet", lambda rows: [*rows, rows[-1]]), *parts[1:]]


def said_to_be_another_shard(parts: list[Path], folder: Path) -> list[Path]:
    return [rewritten(parts[0], folder / "p.parquet", list, shard=Shard(1, COUNT)), *parts[1:]]


def a_folder(parts: list[Path], folder: Path) -> list[Path]:
    return [folder, *parts[1:]]


@pytest.mark.parametrize(
    "change",
    [
        lost,
        doubled,
        truncated,
        flipped,
        of_another_plan,
        of_another_version,
        without_its_last_row,
        with_a_row_twice,
        said_to_be_another_shard,
        a_folder,
    ],
)
def test_what_a_bad_part_was_to_say_cannot_be_judged(
    plan: ShardPlan, parts: list[Path], tmp_path: Path, change: Callable[[list[Path], Path], list[Path]]
) -> None:
    result = collected_result(plan, change(parts, tmp_path))
    whole = collected_result(plan, parts)
    assert whole.passed
    assert not result.passed
    assert answer(result.verdicts).closing
    errors = [v for v in result.verdicts if v.outcome == "error"]
    assert errors
    assert all("part" in v.reason or "measured" in v.reason for v in errors), errors[0].reason
    # What rests on sound parts alone is judged as ever, and nothing fails or passes that did not.
    before = {(v.check, v.subject): v for v in whole.verdicts}
    for verdict in result.verdicts:
        if verdict.outcome not in ("error", "skipped"):
            assert verdict.outcome == before[verdict.check, verdict.subject].outcome


def test_without_any_part_nothing_is_judged(plan: ShardPlan) -> None:
    result = collected_result(plan, [])
    needs = [v for v in result.verdicts if v.check in ("spectral-drift", "finite", "update-size")]
    assert needs
    assert {v.outcome for v in needs} == {"error"}
    assert not result.passed


def test_the_reason_names_the_shard_and_the_file(plan: ShardPlan, parts: list[Path], tmp_path: Path) -> None:
    result = collected_result(plan, truncated(parts, tmp_path))
    reason = next(v.reason for v in result.verdicts if v.outcome == "error")
    assert f"the part of shard 0/{COUNT} is missing" in reason
    assert "short.parquet" in reason


@pytest.mark.parametrize("measure", [True, False], ids=["measure", "collect"])
def test_a_side_that_changed_is_refused(tmp_path: Path, measure: bool) -> None:
    shutil.copytree(FIXTURES / "rlvr-gentle", tmp_path / "tuned")
    plan = planned(options((str(tmp_path / "tuned"),)))
    file = next((tmp_path / "tuned").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ShardError, match="has changed since the plan was made"):
        _ = open_planned(plan) if measure else collected_result(plan, [])


def test_a_checkpoint_saved_since_the_plan_was_made_is_noticed(tmp_path: Path) -> None:
    for step, side in ((40, "rlvr-step40"), (70, "rlvr-step70")):
        shutil.copytree(FIXTURES / side, tmp_path / "run" / f"checkpoint-{step}")
    plan = planned(options((f"{tmp_path / 'run'}@all",), complete=False))
    parts = measured(plan, tmp_path)
    assert len({v.tuned for v in collected_result(plan, parts).verdicts}) == 2
    shutil.copytree(FIXTURES / "rlvr", tmp_path / "run" / "checkpoint-100")
    with pytest.raises(ShardError, match="plan and measure again"):
        collected_result(plan, parts)


def test_other_checks_or_limits_than_planned_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "ckptaudit.toml"
    limit = '[[override]]\ncheck = "spectral-drift"\nat_most = {}\nreason = "ours"\n'
    config.write_text(limit.format(0.1))
    plan = planned(options(("rlvr-gentle",)), str(config))
    config.write_text(limit.format(0.001))
    with pytest.raises(ShardError, match="another configuration"):
        collected_result(plan, [])
    config.unlink()
    with pytest.raises(ConfigError):
        collected_result(plan, [])


def test_a_plan_that_names_other_tensors_is_refused(plan: ShardPlan) -> None:
    first, *rest = plan.tasks
    forged = sealed(structs.replace(plan, tasks=(structs.replace(first, tensors=("other",)), *rest)))
    with pytest.raises(ShardError, match="plan again"):
        open_planned(forged)


def test_a_giant_is_planned_by_its_headers_and_cut_within_a_fifth(tmp_path: Path) -> None:
    model = Giant(layers=5, dense=1, experts=16, vocabulary=2048)
    for side in ("base", "tuned"):
        assert write(model, tmp_path / side) > 4 * 2**30
    asked = AuditOptions(base=str(tmp_path / "base"), tuned=(str(tmp_path / "tuned"),), cache="off")
    costs = [task.cost for task in planned(asked).tasks]
    assert costs == sorted(costs, reverse=True)
    for count in (2, 8):
        sums = [sum(costs[p] for p in share) for share in cut(costs, count)]
        assert max(sums) <= 1.2 * sum(sums) / count
        assert min(sums) >= 0.8 * sum(sums) / count


NUMBERS = st.none() | st.floats(allow_nan=False)


@given(st.lists(st.tuples(st.integers(0, 9), NUMBERS, NUMBERS), max_size=5))
def test_numbers_in_a_part_are_exact_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[tuple[int, float | None, float | None]]
) -> None:
    path = tmp_path_factory.mktemp("part") / "part.parquet"
    rows = [PartRow(task, 0, row(value, error)) for task, value, error in numbers]
    head = PartHead(plan="p", version="v", shard=Shard(0, 1), rows=len(rows), device="cpu", seconds=0.5)
    write_part(path, head, rows)
    found_head, found = read_part(path, len(rows))
    assert found_head == head
    # As text too: -0.0 equals 0.0, and must not become it.
    assert repr(found) == repr(rows)


def row(value: float | None, error: float | None) -> Measurement:
    return Measurement("a\n\U0001f600", 3, "q_proj", (2, 3), "m", value, "exact", error=error, samples=2**40)


def test_more_rows_than_the_plan_can_have_are_not_read(parts: list[Path]) -> None:
    with pytest.raises(ShardError, match="rows"):
        read_part(parts[0], 3)


def test_another_table_is_no_part(tmp_path: Path) -> None:
    pa, pq = package("pyarrow"), package("pyarrow.parquet")
    pq.write_table(pa.table({"task": [1]}), tmp_path / "t.parquet")
    with pytest.raises(ShardError, match="other columns"):
        read_part(tmp_path / "t.parquet", 10)


def test_a_column_that_unpacks_to_much_is_refused(parts: list[Path], tmp_path: Path) -> None:
    pq = package("pyarrow.parquet")
    table = pq.read_table(parts[0])
    pq.write_table(table, tmp_path / "packed.parquet", use_dictionary=["record"])
    with pytest.raises(ShardError, match="packed otherwise"):
        read_part(tmp_path / "packed.parquet", 10**6)
