"""Shards: equal work in each, a plan that is read strictly, and costs that follow the shapes."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.errors import ShardError
from ckptaudit.measurement.cost import large_cost, small_cost
from ckptaudit.measurement.jobs import Unit
from ckptaudit.measurement.shard_plan import PlannedTask, ShardPlan, finite, parse_plan, sealed
from ckptaudit.measurement.shards import Shard, cut, parse_shard
from ckptaudit.options import AuditOptions

COSTS = st.lists(st.floats(0.001, 1000), max_size=60)


def plan(**changes: object) -> ShardPlan:
    about = {
        "folder": "/tmp",
        "options": AuditOptions(base="b", tuned=("t",)),
        "sources": (),
        "runs": ("t",),
        "sufficient": {"normalized_spectral_shift": None, "rms_rotation_left": 0.5},
        "metrics": (("differing_entries",),),
        "tasks": (PlannedTask(cost=2.0, tensors=("a",)), PlannedTask(cost=1.0, units=(Unit("t", "model"),))),
    }
    return sealed(ShardPlan(**(about | changes)))  # type: ignore[arg-type]


@given(COSTS, st.integers(1, 12))
def test_every_task_is_in_exactly_one_shard(costs: list[float], count: int) -> None:
    shares = cut(costs, count)
    assert len(shares) == count
    assert sorted(p for share in shares for p in share) == list(range(len(costs)))


@given(COSTS, st.integers(1, 12))
def test_no_shard_has_more_than_the_mean_and_one_task(costs: list[float], count: int) -> None:
    sums = [sum(costs[p] for p in share) for share in cut(costs, count)]
    assert max(sums) <= sum(costs) / count + max(costs, default=0.0) + 1e-9


@given(st.integers(1, 12), st.lists(st.floats(0.8, 1.2), min_size=120, max_size=160))
def test_many_tasks_of_like_cost_are_cut_within_a_fifth(count: int, costs: list[float]) -> None:
    sums = [sum(costs[p] for p in share) for share in cut(costs, count)]
    assert max(sums) <= 1.2 * sum(sums) / count
    assert min(sums) >= 0.8 * sum(sums) / count


def test_shards_start_with_what_takes_longest() -> None:
    assert cut([3.0, 2.0, 2.0, 1.0], 2) == [[0, 3], [1, 2]]


def test_a_shard_is_written_as_a_fraction_from_zero() -> None:
    assert parse_shard("0/8") == Shard(0, 8)
    assert parse_shard("7/8") == Shard(7, 8)


@pytest.mark.parametrize("text", ["1", "-1/8", "1/8/2", "a/b", "", "0/99999999", "١/٨"])
def test_no_other_shard_is_taken(text: str) -> None:
    with pytest.raises(ShardError, match="not I/N"):
        parse_shard(text)


@pytest.mark.parametrize("text", ["8/8", "9/8", "1/1"])
def test_a_shard_counted_from_one_is_told_the_range(text: str) -> None:
    count = text.partition("/")[2]
    with pytest.raises(ShardError, match=f"counted from 0, so 0/{count} to {int(count) - 1}/{count}; .* one less"):
        parse_shard(text)


@pytest.mark.parametrize("text", ["0/0", "0/70000"])
def test_the_number_of_shards_has_bounds(text: str) -> None:
    with pytest.raises(ShardError, match="cut into 1 to 65,536 shards"):
        parse_shard(text)


def test_a_plan_comes_back_as_it_was() -> None:
    written = plan()
    assert parse_plan(msgspec.json.encode(written), "plan.json") == written


def test_infinite_limits_survive_json() -> None:
    shift = "normalized_spectral_shift"
    bounds = {shift: math.inf, "rms_rotation_left": 0.1 + 0.2}
    read = parse_plan(msgspec.json.encode(plan(sufficient=finite(bounds))), "plan.json")
    assert read.bounds == bounds


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"cost":2.0', b'"cost":3.0', "its digest"),
        (b'"a"', b'"c"', "its digest"),
        (b'"folder":', b'"fold":1,"folder":', "unknown field"),
        (b'"cost":2.0', b'"cost":"2"', "Expected `float`"),
        (b"ckptaudit.plan/1", b"ckptaudit.plan/9", "make it again"),
        (b'"version":"', b'"version":"9', "make it again"),
        (b"}", b"", "not a plan"),
    ],
)
def test_a_changed_plan_is_refused(old: bytes, new: bytes, why: str) -> None:
    content = msgspec.json.encode(plan()).replace(old, new)
    with pytest.raises(ShardError, match=why):
        parse_plan(content, "plan.json")


@pytest.mark.parametrize(
    "tasks",
    [
        (PlannedTask(cost=1.0, run=1, tensors=("a",)),),
        (PlannedTask(cost=1.0, metrics=1, tensors=("a",)),),
        (PlannedTask(cost=1.0),),
        (PlannedTask(cost=-1.0, tensors=("a",)),),
        (PlannedTask(cost=1.0, run=-1, tensors=("a",)),),
    ],
)
def test_positions_outside_the_lists_are_refused(tasks: tuple[PlannedTask, ...]) -> None:
    with pytest.raises(ShardError, match="not there"):
        parse_plan(msgspec.json.encode(plan(tasks=tasks)), "plan.json")


def test_metrics_that_are_none_are_refused() -> None:
    with pytest.raises(ShardError, match="not there"):
        parse_plan(msgspec.json.encode(plan(metrics=(("os.system",),))), "plan.json")


@given(st.integers(128, 4096), st.integers(128, 4096), st.booleans())
def test_costs_grow_with_either_side_and_are_symmetric(m: int, n: int, exact: bool) -> None:
    here = large_cost(m, n, exact=exact)
    assert here == pytest.approx(large_cost(n, m, exact=exact))
    assert here < large_cost(2 * m, n, exact=exact)
    assert large_cost(m, n, exact=exact, cached=True) < here
    assert small_cost(m, n) < small_cost(2 * m, n)


def test_a_cube_in_the_short_side_is_counted() -> None:
    assert 6 < large_cost(8192, 8192) / large_cost(4096, 4096) < 9
