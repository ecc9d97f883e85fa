"""What goes into a batch must not change what comes out; bounds are used only where they settle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.engine import Job, Route, measure, pick_device
from ckptaudit.errors import MeasurementError
from ckptaudit.metrics import REGISTRY, Measurement
from ckptaudit.pairing import pair_checkpoints

WriteCheckpoint = Callable[..., Path]

CPU = torch.device("cpu")
ALL = frozenset(REGISTRY)
TOLERANT = {"nonfinite_entries", "differing_entries"}


def by_key(rows: list[Measurement]) -> dict[tuple[str, str], float | None]:
    return {(m.tensor, m.metric): m.value for m in rows}


def test_a_batch_measures_what_each_matrix_alone_does(base: Checkpoint, gentle: Checkpoint) -> None:
    tensors = [t for t in pair_checkpoints(base, gentle).aligned if t.place.layer in (0, 1)]
    together = by_key(measure([Job(t, ALL) for t in tensors], Route(CPU)))
    alone = by_key([m for t in tensors for m in measure([Job(t, ALL)], Route(CPU, batch_bytes=1))])
    assert together.keys() == alone.keys()
    for key, value in alone.items():
        assert together[key] == pytest.approx(value, rel=1e-9, abs=1e-9), key


def test_the_whole_fixture_pair_gives_a_number_for_everything(base: Checkpoint, gentle: Checkpoint) -> None:
    pair = pair_checkpoints(base, gentle)
    rows = measure([Job(t, ALL) for t in pair.aligned], Route(CPU))
    assert all(m.value is not None for m in rows)
    assert {m.metric for m in rows} == ALL


def test_a_bound_stands_in_only_where_it_settles(base: Checkpoint, gentle: Checkpoint) -> None:
    tensor = next(t for t in pair_checkpoints(base, gentle).aligned if t.place.role == "q_proj")
    job = Job(tensor, frozenset({"normalized_spectral_shift"}))
    exact = measure([job], Route(CPU))[0]
    bounded = measure([job], Route(CPU, settled={"normalized_spectral_shift": 0.1}))[0]
    unsettled = measure([job], Route(CPU, settled={"normalized_spectral_shift": 1e-9}))[0]
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
    rows = by_key(measure([Job(t, ALL) for t in pair.aligned], Route(CPU)))
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
    rows = by_key(measure([Job(t, ALL) for t in pair.aligned], Route(CPU)))
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
    assert all(m.value is not None for m in measure([Job(t, ALL) for t in pair.aligned], Route(CPU)))


def test_integer_tensors_are_compared_entry_by_entry(write_checkpoint: WriteCheckpoint) -> None:
    before, after = {"ids": torch.arange(6)}, {"ids": torch.arange(6).flip(0)}
    pair = pair_checkpoints(
        open_checkpoint(write_checkpoint("b", before)), open_checkpoint(write_checkpoint("t", after))
    )
    rows = by_key(measure([Job(t, ALL) for t in pair.aligned], Route(CPU)))
    assert rows["ids", "differing_entries"] == 6
    assert ("ids", "normalized_spectral_shift") not in rows


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "cuda:x", "meta", ""])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(MeasurementError, match="--audit-device"):
        pick_device(name)


def test_auto_finds_a_device() -> None:
    assert pick_device("auto").type in ("cpu", "cuda")
