"""A base and its sparse deltas: the weights that the run served, bit for bit, or one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from ckptaudit.checkpoints import fingerprint, merge_adapter, open_checkpoint, storage
from ckptaudit.checkpoints.deltas.entries import positions
from ckptaudit.checkpoints.tensors import ChangedEntries, TensorHandle
from ckptaudit.cli import main
from ckptaudit.errors import CheckpointError
from ckptaudit.measurement.jobs import Job, Unit
from ckptaudit.measurement.reading import read as read_both
from ckptaudit.pairing import pair_checkpoints
from ckptaudit.pipeline.api import audit
from tests.checkpoints.deltas.write_deltas import gaps, pulse_delta, trl_delta
from tests.conftest import FIXTURES

BASE, TUNED = FIXTURES / "base", FIXTURES / "rlvr-gentle"
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def before() -> Weights:
    return load_file(BASE / "model.safetensors")


@pytest.fixture(scope="module")
def after() -> Weights:
    return load_file(TUNED / "model.safetensors")


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory, before: Weights, after: Weights) -> Path:
    return trl_delta(tmp_path_factory.mktemp("trl") / "delta.safetensors", before, after)


def the_same(path: str, wanted: Weights) -> bool:
    opened = merge_adapter(open_checkpoint(BASE), open_checkpoint(path))
    return opened.tensors.keys() == wanted.keys() and all(
        torch.equal(opened.tensors[name].read(), tensor) for name, tensor in wanted.items()
    )


@pytest.mark.parametrize("encoding", ["raw", "gap_delta"])
def test_trl_s_deltas(tmp_path: Path, before: Weights, after: Weights, encoding: str) -> None:
    path = trl_delta(tmp_path / "delta.safetensors", before, after, encoding=encoding)
    assert the_same(f"{BASE}+{path}", after)
    assert the_same(str(path), after)


def test_pulse_s_deltas(tmp_path: Path, before: Weights, after: Weights) -> None:
    assert the_same(f"{BASE}+{pulse_delta(tmp_path / 'delta', before, after)}", after)


def test_gaps_beyond_sixteen_bits(tmp_path: Path) -> None:
    old = {"w.weight": torch.zeros(200_000, dtype=torch.bfloat16)}
    new = {"w.weight": old["w.weight"].clone()}
    new["w.weight"][150_000] = 1
    save_file(old, tmp_path / "model.safetensors")
    trl_delta(tmp_path / "delta.safetensors", old, new)
    opened = open_checkpoint(f"{tmp_path / 'model.safetensors'}+{tmp_path / 'delta.safetensors'}")
    assert torch.equal(opened.tensors["w.weight"].read(), new["w.weight"])


@given(st.sets(st.integers(0, 300_000), max_size=50))
def test_positions_are_those_that_were_encoded(wanted: set[int]) -> None:
    ordered = torch.tensor(sorted(wanted), dtype=torch.int32)
    for encoding, stored in (("raw", ordered), ("gap_delta", gaps(ordered))):
        handle = TensorHandle("w.idx", (0,), "int32", Path("d"), lambda: torch.empty(0)).with_tensor(stored)
        entries = ChangedEntries(Path("d"), "w", handle, handle, encoding)  # type: ignore[arg-type]
        found = positions(entries, 300_001)
        numpy.testing.assert_array_equal(found.numpy(), sorted(wanted))


def test_an_audit_of_a_delta_is_that_of_the_weights_it_makes(delta: Path) -> None:
    found = [
        json.loads(msgspec.json.encode(audit(BASE, path, profile="rlvr"))) for path in (f"{BASE}+{delta}", TUNED)
    ]
    for kind in ("measurements", "verdicts"):
        texts = [json.dumps(result[kind]).replace(result["tuned"][0], "TUNED") for result in found]
        assert texts[0] == texts[1], kind


def test_several_deltas_come_on_top_of_each_other_in_order(tmp_path: Path, before: Weights, after: Weights) -> None:
    half = {name: torch.where(torch.rand(t.shape) < 0.5, t, before[name]) for name, t in after.items()}
    first = trl_delta(tmp_path / "1.safetensors", before, half, version=1)
    second = trl_delta(tmp_path / "2.safetensors", half, after, version=2)
    assert the_same(f"{BASE}+{first}+{second}", after)
    assert the_same(f"{first}+{second}", after)
    assert the_same(f"{BASE}+{first}", half)
    with pytest.raises(CheckpointError, match="the delta of version 1, after that of version 2"):
        open_checkpoint(f"{BASE}+{second}+{first}")


def test_a_missing_delta_is_noticed(tmp_path: Path, before: Weights, after: Weights) -> None:
    first = trl_delta(tmp_path / "1.safetensors", before, after, version=1)
    third = trl_delta(tmp_path / "3.safetensors", before, after, version=3)
    with pytest.raises(CheckpointError, match="the delta of version 3, after that of version 1; name all of them"):
        open_checkpoint(f"{first}+{third}")


def counting(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """File and first byte of every tensor that is read from now on."""
    read: list[tuple[str, int]] = []
    plain = storage.read_bytes

    def counted(path: Path, start: int, *rest: object) -> Tensor:
        read.append((path.name, start))
        return plain(path, start, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(storage, "read_bytes", counted)
    return read


def test_what_a_delta_leaves_is_read_once(delta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pair_checkpoints(open_checkpoint(BASE), open_checkpoint(f"{BASE}+{delta}"))
    read = counting(monkeypatch)
    for tensor in pair.aligned:
        read_both(Job(tensor, frozenset(), Unit("", "")))
    assert sum(name == "model.safetensors" for name, _ in read) == len(pair.aligned)


def test_opening_reads_indices_and_no_weight(delta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = counting(monkeypatch)
    open_checkpoint(f"{BASE}+{delta}")
    assert {name for name, _ in read} == {"delta.safetensors"}


def test_a_delta_s_fingerprint_names_its_base(delta: Path) -> None:
    own = fingerprint(open_checkpoint(f"{BASE}+{delta}"))
    assert own == fingerprint(merge_adapter(open_checkpoint(BASE), open_checkpoint(delta)))
    assert own != fingerprint(open_checkpoint(f"{FIXTURES / 'rlvr'}+{delta}"))


def test_nan_in_a_delta_breaks_the_finite_check(tmp_path: Path, before: Weights) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    poisoned = {name: before[name].clone()}
    poisoned[name][3, 5] = float("nan")
    path = trl_delta(tmp_path / "delta.safetensors", before, poisoned)
    result = audit(BASE, f"{BASE}+{path}", profile="rlvr", complete=False)
    assert {v.subject for v in result.verdicts if v.check == "finite" and v.outcome == "failed"} == {"layers.1"}


Damage = Callable[[dict[str, Tensor], dict[str, str]], None]


def out_of_range(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    tensors["w.weight.idx"][-1] = 24


def negative(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    tensors["w.weight.idx"][0] = -1


def twice(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    tensors["w.weight.idx"][:] = 5


def other_dtype(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    tensors["w.weight.val"] = tensors["w.weight.val"].float()


def index_dtype(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    tensors["w.weight.idx"] = tensors["w.weight.idx"].float()


def fewer_values(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    tensors["w.weight.val"] = tensors["w.weight.val"][:-1].clone()


def no_values(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    del tensors["w.weight.val"]


def other_name(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    for ending in (".idx", ".val"):
        tensors["unknown.weight" + ending] = tensors.pop("w.weight" + ending)


def other_size(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    facts["total_elements"] = "25"


def cut_short(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    facts["total_changed_elements"] = "3"


def compressed(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    facts["encoding"] = "nvcomp_cascaded"


def newer(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    facts["version"] = "2"


def stranger(tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    tensors["w.bias"] = torch.ones(6, dtype=torch.bfloat16)


DAMAGES: dict[Damage, str] = {
    stranger: r"w\.bias stands among indices and values and is neither",
    out_of_range: "changes entry 24 of a weight of 24 entries",
    negative: "changes entry -1 of a weight of 24 entries",
    twice: "changes one entry twice",
    other_dtype: "holds float32, and the base bfloat16",
    index_dtype: "has indices of float32 and values of bfloat16",
    fewer_values: r"has \[2\] indices for \[1\] values",
    no_values: "has indices without values",
    other_name: r"changes unknown\.weight, which the base does not hold",
    other_size: "made for weights of 25 entries, and those of the base have 24",
    cut_short: "it holds 2 changed entries, and its header says 3",
    compressed: "encoded as nvcomp_cascaded, which is not read",
    newer: "a sparse delta of format sparse_weight_patch 2",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_delta_is_one_sentence(
    tmp_path: Path, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "model.safetensors"
    save_file({"w.weight": torch.zeros(4, 6, dtype=torch.bfloat16)}, base)
    tensors = {
        "w.weight.idx": torch.tensor([2, 7], dtype=torch.int32),
        "w.weight.val": torch.ones(2, dtype=torch.bfloat16),
    }
    facts = {"format": "sparse_weight_patch", "version": "1", "encoding": "raw"}
    facts |= {"total_elements": "24", "total_changed_elements": "2"}
    path = tmp_path / "delta.safetensors"
    save_file(tensors, path, metadata=facts)
    assert main(["inspect", f"{base}+{path}"]) == 0
    damage(tensors, facts)
    save_file(tensors, path, metadata=facts)
    with pytest.raises(CheckpointError, match=DAMAGES[damage]):
        open_checkpoint(f"{base}+{path}")
    capsys.readouterr()
    assert main(["inspect", f"{base}+{path}"]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_delta_of_other_shapes_is_refused(tmp_path: Path, before: Weights, after: Weights) -> None:
    folder = pulse_delta(tmp_path / "delta", before, after)
    stated = json.loads((folder / "delta_metadata.json").read_text())
    stated["shapes"]["model.norm.weight"] = [7]
    stated["shapes"]["lm_head.weight"] = [192, 100]
    (folder / "delta_metadata.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match=r"made for lm_head.weight of shape \[192, 100\]"):
        open_checkpoint(f"{BASE}+{folder}")


def test_a_delta_is_no_base(delta: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a sparse delta alone cannot be the base; pass WEIGHTS\+DELTA"):
        audit(delta, TUNED)


def test_a_second_adapter_is_refused() -> None:
    lora = FIXTURES / "lora"
    with pytest.raises(CheckpointError, match="a second adapter on top of another"):
        open_checkpoint(f"{BASE}+{lora}+{lora}")


def test_a_compressed_delta_says_how_to_unpack_it(tmp_path: Path) -> None:
    (tmp_path / "delta_sparse.safetensors.zst").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="unpack it with `zstd -d`"):
        open_checkpoint(tmp_path)
