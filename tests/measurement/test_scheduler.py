"""What goes into a batch must not change what comes out; bounds are used only where they settle."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info

from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.errors import CheckpointError, MeasurementError
from ckptaudit.measurement import tasks
from ckptaudit.measurement.base_cache import FactorCache
from ckptaudit.measurement.batches import measure_large
from ckptaudit.measurement.jobs import Computing, Job, Unit, batch_budget, pick_device
from ckptaudit.measurement.rounds import by_unit
from ckptaudit.measurement.scheduler import measure
from ckptaudit.metrics import Measurement, PairBatch, matrix_metrics
from ckptaudit.pairing import AlignedTensor, pair_checkpoints

WriteCheckpoint = Callable[..., Path]

CPU = torch.device("cpu")
UNIT = Unit("run", "layers.0")
ALL = frozenset(matrix_metrics())
TOLERANT = {"nonfinite_entries", "base_nonfinite_entries", "differing_entries"}


def by_key(rows: list[Measurement]) -> dict[tuple[str, str], float | None]:
    return {(m.tensor, m.metric): m.value for m in rows}


def test_a_batch_measures_what_each_matrix_alone_does(base: Checkpoint, gentle: Checkpoint) -> None:
    tensors = [t for t in pair_checkpoints(base, gentle).aligned if t.place.layer in (0, 1)]
    together = by_key(measure([Job(t, ALL, UNIT) for t in tensors], Computing(CPU)))
    alone = by_key([m for t in tensors for m in measure([Job(t, ALL, UNIT)], Computing(CPU, batch_bytes=1))])
    assert together.keys() == alone.keys()
    for key, value in alone.items():
        assert together[key] == pytest.approx(value, rel=1e-9, abs=1e-9), key


def test_the_whole_fixture_pair_gives_a_number_for_everything(base: Checkpoint, gentle: Checkpoint) -> None:
    pair = pair_checkpoints(base, gentle)
    rows = measure([Job(t, ALL, UNIT) for t in pair.aligned], Computing(CPU))
    assert all(m.value is not None for m in rows)
    assert {m.metric for m in rows} == ALL


def test_a_bound_stands_in_only_where_it_settles(base: Checkpoint, gentle: Checkpoint) -> None:
    tensor = next(t for t in pair_checkpoints(base, gentle).aligned if t.place.role == "q_proj")
    job = Job(tensor, frozenset({"normalized_spectral_shift"}), UNIT)
    exact = measure([job], Computing(CPU))[0]
    bounded = measure([job], Computing(CPU, sufficient={"normalized_spectral_shift": 0.1}))[0]
    unsettled = measure([job], Computing(CPU, sufficient={"normalized_spectral_shift": 1e-9}))[0]
    assert (exact.kind, bounded.kind, unsettled.kind) == ("exact", "upper_bound", "exact")
    assert exact.value is not None
    assert bounded.value is not None
    assert bounded.value >= exact.value


def test_one_nan_spoils_its_own_matrix_and_no_other(write_checkpoint: WriteCheckpoint) -> None:
    before = {f"layers.{i}.q_proj.weight": torch.randn(4, 6) for i in range(2)}
    after = {k: v + 0.01 for k, v in before.items()}
    after["layers.0.q_proj.weight"] = after["layers.0.q_proj.weight"].clone()
    after["layers.0.q_proj.weight"][1, 2] = float("nan")
    pair = pair_checkpoints(
        open_checkpoint(write_checkpoint("b", before)), open_checkpoint(write_checkpoint("t", after))
    )
    rows = by_key(measure([Job(t, ALL, UNIT) for t in pair.aligned], Computing(CPU)))
    assert rows["layers.0.q_proj.weight", "nonfinite_entries"] == 1
    assert all(v is None for (t, m), v in rows.items() if "layers.0" in t and m not in TOLERANT)
    assert all(v is not None for (t, _), v in rows.items() if "layers.1" in t)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
def test_sides_of_different_type_are_compared_by_value(
    write_checkpoint: WriteCheckpoint, dtype: torch.dtype
) -> None:
    weight = torch.randn(8, 8).bfloat16()
    pair = pair_checkpoints(
        open_checkpoint(write_checkpoint("b", {"layers.0.q_proj.weight": weight})),
        open_checkpoint(write_checkpoint("t", {"layers.0.q_proj.weight": weight.to(dtype)})),
    )
    rows = by_key(measure([Job(t, ALL, UNIT) for t in pair.aligned], Computing(CPU)))
    size = rows["layers.0.q_proj.weight", "relative_update_norm"]
    assert size is not None
    # fp16 cannot hold every small bf16 value; its own rounding is the only difference there can be.
    assert size <= (torch.finfo(torch.float16).eps if dtype is torch.float16 else 0)


@pytest.mark.parametrize("shape", [(0,), (), (3, 0), (1,)])
def test_empty_and_scalar_tensors_have_defined_values(
    write_checkpoint: WriteCheckpoint, shape: tuple[int, ...]
) -> None:
    tensors = {"layers.0.odd": torch.ones(shape), "layers.0.q_proj.weight": torch.ones(2, 2)}
    pair = pair_checkpoints(
        open_checkpoint(write_checkpoint("b", tensors)), open_checkpoint(write_checkpoint("t", tensors))
    )
    assert all(m.value is not None for m in measure([Job(t, ALL, UNIT) for t in pair.aligned], Computing(CPU)))


def test_integer_tensors_are_compared_entry_by_entry(write_checkpoint: WriteCheckpoint) -> None:
    before, after = {"ids": torch.arange(6)}, {"ids": torch.arange(6).flip(0)}
    pair = pair_checkpoints(
        open_checkpoint(write_checkpoint("b", before)), open_checkpoint(write_checkpoint("t", after))
    )
    rows = by_key(measure([Job(t, ALL, UNIT) for t in pair.aligned], Computing(CPU)))
    assert rows["ids", "differing_entries"] == 6
    assert ("ids", "normalized_spectral_shift") not in rows


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "cuda:x", "meta", "mps", "xpu", ""])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(MeasurementError, match=r"^device= "):
        pick_device(name)


def test_auto_finds_a_device() -> None:
    assert pick_device("auto").type in ("cpu", "cuda")


LARGE = 160
SETTLED = {"principal_rotation_left": 1.0, "update_stable_rank": 50.0, "update_hill_alpha": -math.inf}


@pytest.fixture
def large_pair(write_checkpoint: WriteCheckpoint) -> list[AlignedTensor]:
    """Two matrices of 160 x 200: one turned a little, the other a lot."""
    random = torch.Generator().manual_seed(0)
    before, after = {}, {}
    for name, size in (("up", 3e-4), ("down", 0.3)):
        u, v = (torch.linalg.qr(torch.randn(n, LARGE, generator=random)).Q for n in (LARGE, 200))
        key = f"layers.0.mlp.{name}_proj.weight"
        before[key] = (u * torch.arange(1, LARGE + 1).pow(-0.5)) @ v.T
        step = torch.randn(LARGE, 1, generator=random) @ torch.randn(1, 200, generator=random)
        after[key] = before[key] + size * before[key].norm() / step.norm() * step
    sides = [open_checkpoint(write_checkpoint(*side)) for side in (("b", before), ("t", after))]
    return list(pair_checkpoints(*sides).aligned)


def test_a_bound_never_stands_where_a_check_would_fail(large_pair: list[AlignedTensor]) -> None:
    jobs = [Job(t, ALL, UNIT) for t in large_pair]
    exact = {(m.tensor, m.metric): m for m in measure(jobs, Computing(CPU))}
    gate = {(m.tensor, m.metric): m for m in measure(jobs, Computing(CPU, sufficient=SETTLED))}
    assert {m.kind for m in exact.values()} == {"exact"}
    kinds = {(t.split(".")[3], metric): m.kind for (t, metric), m in gate.items() if metric in SETTLED}
    assert kinds["up_proj", "principal_rotation_left"] == "upper_bound"
    assert kinds["up_proj", "update_hill_alpha"] == "lower_bound"
    # This one is beyond its limit: the number itself decides, for this matrix alone.
    assert kinds["down_proj", "principal_rotation_left"] == "exact"
    assert kinds["down_proj", "update_stable_rank"] == "upper_bound"
    for key, m in gate.items():
        if m.kind == "exact":
            assert m.value == pytest.approx(exact[key].value, rel=1e-6, abs=1e-6), key


def test_checks_that_counts_and_norms_settle_decompose_nothing(
    large_pair: list[AlignedTensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("decomposed")

    for name in ("svd", "svdvals", "eigh", "eigvalsh"):
        monkeypatch.setattr(torch.linalg, name, refused)
    wanted = frozenset(
        {"normalized_spectral_shift", "relative_update_norm", "update_sparsity", "nonfinite_entries"}
    )
    jobs = [Job(t, wanted, UNIT) for t in large_pair]
    rows = measure(jobs, Computing(CPU, sufficient={"normalized_spectral_shift": 1.0}))
    assert {m.kind for m in rows if m.metric == "normalized_spectral_shift"} == {"upper_bound"}


def test_a_base_seen_before_is_not_decomposed_again(
    large_pair: list[AlignedTensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [Job(t, ALL, UNIT) for t in large_pair if "up_proj" in t.name]
    nobody_asks = {name: math.inf if metric.upper_bound else -math.inf for name, metric in matrix_metrics().items()}
    computing = Computing(CPU, sufficient=nobody_asks, cache=FactorCache(tmp_path / "cache"))
    first = measure(jobs, computing)
    monkeypatch.setattr("ckptaudit.metrics.base_facts.leading", None)
    assert measure(jobs, computing) == first
    assert by_key(measure(jobs, replace(computing, cache=FactorCache(tmp_path / "cache")))) == by_key(first)


def test_a_large_matrix_that_is_not_finite_has_counts_and_nothing_else(write_checkpoint: WriteCheckpoint) -> None:
    weight = torch.randn(130, 140, generator=torch.Generator().manual_seed(0))
    broken = weight.clone()
    broken[3, 5] = float("nan")
    pair = pair_checkpoints(
        open_checkpoint(write_checkpoint("b", {"layers.0.q_proj.weight": weight})),
        open_checkpoint(write_checkpoint("t", {"layers.0.q_proj.weight": broken})),
    )
    rows = by_key(measure([Job(t, ALL, UNIT) for t in pair.aligned], Computing(CPU, sufficient=SETTLED)))
    assert {metric for (_, metric), value in rows.items() if value is not None} == TOLERANT
    assert rows["layers.0.q_proj.weight", "nonfinite_entries"] == 1


NO_MEMORY = (
    torch.OutOfMemoryError("no memory"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
)


@pytest.mark.parametrize("room", [1, 2])
@pytest.mark.parametrize("full", NO_MEMORY, ids=["allocator", "driver", "library"])
def test_a_device_without_memory_gets_half_of_it(
    base: Checkpoint, gentle: Checkpoint, monkeypatch: pytest.MonkeyPatch, room: int, full: RuntimeError
) -> None:
    tensors = [t for t in pair_checkpoints(base, gentle).aligned if t.place.role == "k_proj"][:4]
    wanted = frozenset({"update_sparsity", "nonfinite_entries"})
    enough = by_key(measure([Job(t, wanted, UNIT) for t in tensors], Computing(CPU)))
    sizes: list[int] = []
    whole = PairBatch.__init__

    def cramped(self: PairBatch, base: torch.Tensor, tuned: torch.Tensor) -> None:
        sizes.append(len(base))
        if len(base) > room:
            raise full
        whole(self, base, tuned)

    monkeypatch.setattr(PairBatch, "__init__", cramped)
    assert by_key(measure([Job(t, wanted, UNIT) for t in tensors], Computing(CPU))) == enough
    assert max(sizes) > room


def test_memory_that_never_suffices_is_said(
    base: Checkpoint, gentle: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(PairBatch, "__init__", none)
    tensor = pair_checkpoints(base, gentle).aligned[0]
    with pytest.raises(MeasurementError, match="OutOfMemoryError: no memory"):
        measure([Job(tensor, ALL, UNIT)], Computing(CPU))


def unread(tensor: AlignedTensor) -> AlignedTensor:
    """The same over a file that was damaged after it had been opened."""

    def load() -> torch.Tensor:
        raise CheckpointError(f"{tensor.name}: cannot be read.")

    return replace(tensor, tuned=replace(tensor.tuned, load=load))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("broken", ["layers.1.q_proj.weight", "layers.1.input_layernorm.weight"])
def test_what_cannot_be_read_has_no_value_and_says_why_and_nothing_beside_it_suffers(
    write_checkpoint: WriteCheckpoint, threads: int, broken: str
) -> None:
    # Matrices large enough to be measured one by one, and vectors that share a batch.
    tensors = {f"layers.{i}.q_proj.weight": torch.randn(130, 140) for i in range(2)}
    tensors |= {f"layers.{i}.input_layernorm.weight": torch.randn(64) for i in range(2)}
    sides = [open_checkpoint(write_checkpoint(side, tensors)) for side in ("b", "t")]
    aligned = [unread(t) if t.name == broken else t for t in pair_checkpoints(*sides).aligned]
    jobs = [Job(t, frozenset({"differing_entries"}), Unit("run", f"layers.{t.place.layer}")) for t in aligned]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        steps = list(by_unit(jobs, Computing(CPU)))
        with pytest.raises(CheckpointError, match=broken):
            measure(jobs, Computing(CPU))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert sum(count for count, _ in steps) == len(jobs) == 4
    complete = dict(unit for _, units in steps for unit in units)
    assert set(complete) == {Unit("run", "layers.0"), Unit("run", "layers.1")}
    for unit, rows in complete.items():
        assert [m.tensor for m in rows] == [t.name for t in aligned if t.place.subject == unit.subject]
    without = {m.tensor: m.remark for rows in complete.values() for m in rows if m.value is None}
    assert set(without) == {broken}
    assert f"{broken}: cannot be read" in without[broken]


@pytest.mark.parametrize("threads", [1, 2])
def test_every_library_keeps_to_the_threads_of_torch(base: Checkpoint, gentle: Checkpoint, threads: int) -> None:
    seen: set[int] = set()

    def listening(tensor: AlignedTensor) -> AlignedTensor:
        def load() -> torch.Tensor:
            seen.update(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas")
            return tensor.tuned.read()

        return replace(tensor, tuned=replace(tensor.tuned, load=load))

    tensors = [listening(t) for t in pair_checkpoints(base, gentle).aligned[:4]]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        measure([Job(t, frozenset({"differing_entries"}), UNIT) for t in tensors], Computing(CPU))
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


@pytest.mark.parametrize(("text", "size"), [("1B", 1), ("512MiB", 512 * 2**20), ("1.5 GB", 1_500_000_000)])
def test_a_memory_budget_is_a_size(text: str, size: int) -> None:
    assert batch_budget(text) == size


@pytest.mark.parametrize("text", ["", "lots", "512", "-1GiB", "0B", "0.0KiB", "1e9B", "nan B", "5 MiBB", "١GiB"])
def test_any_other_budget_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(MeasurementError, match=r"^memory= .*\.$"):
        batch_budget(text)


@pytest.mark.parametrize("sufficient", [{}, {"normalized_spectral_shift": 1.0}], ids=["numbers", "bounds"])
def test_small_matrices_are_measured_one_at_a_time_where_bounds_do(
    write_checkpoint: WriteCheckpoint, sufficient: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads that both run Python more than BLAS only wait for each other; large matrices are worth two."""
    large = {f"layers.{i}.mlp.up_proj.weight": torch.randn(1024, 512).bfloat16() for i in range(2)}
    small = {f"layers.{i}.self_attn.q_proj.weight": torch.randn(128, 128).bfloat16() for i in range(6)}
    side = open_checkpoint(write_checkpoint("b", large | small))
    busy, most, together = Lock(), Counter[tuple[int, ...]](), Barrier(2, timeout=60)
    alone = measure_large

    def watched(job: Job, *more: Any) -> list[Measurement]:
        if job.tensor.shape == (1024, 512):
            together.wait()  # both are here at once, or this breaks
        elif busy.acquire(blocking=False):
            found = alone(job, *more)
            busy.release()
            return found
        else:
            most[job.tensor.shape] += 1
        return alone(job, *more)

    monkeypatch.setattr(tasks, "measure_large", watched)
    jobs = [Job(t, frozenset({"normalized_spectral_shift"}), UNIT) for t in pair_checkpoints(side, side).aligned]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert len(measure(jobs, Computing(CPU, sufficient=sufficient))) == 8
    finally:
        torch.set_num_threads(before)
    assert not sufficient or not most
