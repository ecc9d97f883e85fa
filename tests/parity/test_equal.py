"""A conversion that changed nothing passes in every type and layout; whatever changed is named by what happened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

import ckptaudit
from ckptaudit.checkpoints import open_checkpoint
from ckptaudit.findings import Finding
from ckptaudit.pairing import pair_checkpoints
from ckptaudit.parity.conversions import conversion_faults, quantised
from ckptaudit.results.gate import answer

CONFIG = {
    "model_type": "phi3", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32, "tie_word_embeddings": False,
}  # fmt: skip
Q = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
NORM = "model.norm.weight"

Tensors = dict[str, Tensor]


def weights(dtype: torch.dtype = torch.float32) -> Tensors:
    random = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDINGS: (32, 16), HEAD: (32, 16), NORM: (16,)}
    for i in range(2):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.self_attn.{n}_proj.weight": (16, 16) for n in "qkvo"}
        shapes |= {f"{layer}.mlp.{n}_proj.weight": (24, 16) for n in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (16, 24)
    return {name: torch.randn(shape, generator=random).to(dtype) for name, shape in shapes.items()}


def saved(folder: Path, tensors: Tensors, **config: object) -> Path:
    folder.mkdir()
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


@pytest.fixture
def faults(tmp_path: Path) -> Callable[[Tensors, Tensors], dict[str, Finding]]:
    """What differs between two sets of tensors, by name."""

    def found(original: Tensors, converted: Tensors) -> dict[str, Finding]:
        pair = pair_checkpoints(
            open_checkpoint(saved(tmp_path / "original", original)),
            open_checkpoint(saved(tmp_path / "converted", converted)),
        )
        assert {f.fault for f in pair.unaligned} <= {"shapes differ"}
        return {f.tensor: f for f in conversion_faults(pair)}

    return found


Faults = Callable[[Tensors, Tensors], dict[str, Finding]]
FLOATS = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("to", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_cast_changes_nothing(dtype: torch.dtype, to: torch.dtype, faults: Faults) -> None:
    original = weights(dtype)
    assert faults(original, {name: tensor.to(to) for name, tensor in original.items()}) == {}


def test_the_cast_is_that_of_numpy(faults: Faults) -> None:
    original = weights()
    halves = {n: torch.from_numpy(t.numpy().astype(numpy.float16)) for n, t in original.items()}
    assert faults(original, halves) == {}


def test_other_names_and_a_fused_layout_change_nothing(faults: Faults) -> None:
    original = weights(torch.bfloat16)
    fused = {
        f"module.{n}": t for n, t in original.items() if not n.endswith(("gate_proj.weight", "up_proj.weight"))
    }
    for i in range(2):
        mlp = f"model.layers.{i}.mlp"
        both = [original[f"{mlp}.{name}_proj.weight"] for name in ("gate", "up")]
        fused[f"module.{mlp}.gate_up_proj.weight"] = torch.cat(both)
    assert faults(original, fused) == {}


def test_a_fused_weight_in_the_wrong_order_is_exchanged(faults: Faults) -> None:
    original = weights(torch.bfloat16)
    fused = {n: t for n, t in original.items() if not n.endswith(("gate_proj.weight", "up_proj.weight"))}
    for i in range(2):
        mlp = f"model.layers.{i}.mlp"
        both = [original[f"{mlp}.{name}_proj.weight"] for name in ("up", "gate")]
        fused[f"{mlp}.gate_up_proj.weight"] = torch.cat(both)
    found = faults(original, fused)
    assert {f.fault for f in found.values()} == {"exchanged"}
    assert len(found) == 4
    assert "model.layers.0.mlp.up_proj.weight" in found["model.layers.0.mlp.gate_proj.weight"].detail


def rotary(tensor: Tensor) -> Tensor:
    """Rows of heads of 8, halves interleaved: as the original Llama files have them."""
    return tensor.view(2, 2, 4, 16).transpose(1, 2).reshape(16, 16)


def flipped_bit(tensor: Tensor) -> Tensor:
    bits = tensor.clone().view(torch.int16)
    bits[3, 5] ^= 1 << 14
    return bits.view(torch.bfloat16)


def few(tensor: Tensor) -> Tensor:
    changed = tensor.clone()
    changed[2, 3] += 1.37
    return changed


BF16 = [
    (Q, lambda t: t[Q].T, "transposed", "transpose"),
    (Q, lambda t: rotary(t[Q]), "rows permuted", "heads of 8"),
    (Q, lambda t: t[Q].flip(0), "rows permuted", "reverse"),
    (Q, lambda t: t[Q][[1, 0, *range(2, 16)]], "rows permuted", "2 of 16"),
    (Q, lambda t: t[Q][:, [2, 1, 0, *range(3, 16)]], "columns permuted", "2 of 16"),
    (Q, lambda t: -t[Q], "sign flipped", "opposite"),
    (Q, lambda t: t[Q] * 4, "scaled", "4 times"),
    (Q, lambda t: torch.zeros_like(t[Q]), "zero", "zero"),
    (Q, lambda t: t[Q] * torch.nan, "not finite", "256 of 256"),
    (Q, lambda t: flipped_bit(t[Q]), "bit flipped", "entry 53, bit 14"),
    (Q, lambda t: few(t[Q]), "differs", "1 of 256"),
    (Q, lambda t: (t[Q].view(torch.int16) + 1).view(torch.bfloat16), "off by one step", "256"),
    (NORM, lambda t: t[NORM] - 1, "shifted by one", "fell by 1"),
    (Q, lambda t: t[Q.replace("0", "1")], "another tensor", "model.layers.1"),
    (Q, lambda t: t[Q.replace("q_proj", "k_proj")], "another tensor", "k_proj"),
    (HEAD, lambda t: t[EMBEDDINGS], "another tensor", EMBEDDINGS),
    (DOWN, lambda t: t[DOWN].T.contiguous(), "transposed", "[16, 24]"),
]


@pytest.mark.parametrize(
    ("name", "change", "fault", "words"), BF16, ids=[f"{c[2]}-{i}" for i, c in enumerate(BF16)]
)
def test_a_change_is_named(
    name: str, change: Callable[[Tensors], Tensor], fault: str, words: str, faults: Faults
) -> None:
    original = weights(torch.bfloat16)
    found = faults(original, {**original, name: change(original)})
    assert {name: f.fault for name, f in found.items()} == {name: fault}
    assert words in found[name].detail


@pytest.mark.parametrize("through", [torch.bfloat16, torch.float16, torch.float8_e4m3fn], ids=str)
def test_a_cast_through_a_narrower_type_is_named(through: torch.dtype, faults: Faults) -> None:
    original = weights()
    found = faults(original, {**original, Q: original[Q].to(through).float()})
    assert found[Q].fault == "cast twice"
    assert str(through).removeprefix("torch.") in found[Q].detail


def test_truncation_to_bfloat16_is_named(faults: Faults) -> None:
    original = weights()
    cut = {n: (t.view(torch.int32) & -65536).view(torch.float32).bfloat16() for n, t in original.items()}
    assert {f.fault for f in faults(original, cut).values()} == {"rounded toward zero"}


def test_stochastic_rounding_is_named(faults: Faults) -> None:
    original = weights()
    random = torch.Generator().manual_seed(1)
    noise = {n: torch.randint(0, 65536, t.shape, generator=random, dtype=torch.int32) for n, t in original.items()}
    rounded = {n: ((t.view(torch.int32) + noise[n]) & -65536).view(torch.float32) for n, t in original.items()}
    found = faults(original, {n: t.bfloat16() for n, t in rounded.items()})
    assert {f.fault for f in found.values()} == {"rounded another way"}


def test_exchanged_layers_are_named_on_both_sides(faults: Faults) -> None:
    original = weights(torch.bfloat16)
    other = Q.replace("0", "1")
    found = faults(original, {**original, Q: original[other], other: original[Q]})
    assert {n: f.fault for n, f in found.items()} == {Q: "exchanged", other: "exchanged"}


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(12)), axis=st.sampled_from([0, 1]))
def test_any_permutation_is_found_and_no_other_order_is(order: list[int], axis: int) -> None:
    from ckptaudit.parity.orders import order_of_columns, order_of_rows

    original = torch.randn(12, 12, generator=torch.Generator().manual_seed(2))
    find = order_of_columns if axis else order_of_rows
    found = find(original, original.index_select(axis, torch.tensor(order)))
    assert found is not None
    assert found.tolist() == order
    assert find(original, original.index_select(axis, torch.tensor(order)) * 2) is None


def float8(tensors: Tensors, *, power_of_two: bool = False) -> Tensors:
    """Matrices of layers in float8 with one scale a tensor, as transformers' fine-grained export writes them."""
    converted = dict(tensors)
    for name in (n for n in tensors if n.startswith("model.layers.")):
        scale = tensors[name].float().abs().max() / 448
        scale = torch.exp2(torch.ceil(torch.log2(scale))) if power_of_two else scale
        converted[name] = (tensors[name].float() / scale).to(torch.float8_e4m3fn)
        converted[f"{name}_scale_inv"] = scale.reshape(1)
    return converted


FP8 = {"quantization_config": {"quant_method": "fp8"}, "torch_dtype": "bfloat16"}


@pytest.mark.parametrize("power_of_two", [False, True])
def test_float8_is_equal_to_its_dequantised_copy_and_named_against_the_original(
    power_of_two: bool, tmp_path: Path
) -> None:
    original = weights(torch.bfloat16)
    narrow = open_checkpoint(saved(tmp_path / "fp8", float8(original, power_of_two=power_of_two), **FP8))
    wide = open_checkpoint(saved(tmp_path / "wide", {n: h.read() for n, h in narrow.tensors.items()}))
    assert list(conversion_faults(pair_checkpoints(narrow, wide))) == []
    export = pair_checkpoints(open_checkpoint(saved(tmp_path / "original", original)), narrow)
    assert list(conversion_faults(export)) == []
    named = list(quantised(export))
    assert len(named) == 14
    assert all("float8_e4m3fn" in f.detail for f in named)


def test_float8_beyond_its_rounding_is_a_fault(tmp_path: Path) -> None:
    original = weights(torch.bfloat16)
    wrong = float8(original)
    wrong[f"{Q}_scale_inv"] = wrong[f"{Q}_scale_inv"] * 1.2
    narrow = open_checkpoint(saved(tmp_path / "fp8", wrong, **FP8))
    found = list(conversion_faults(pair_checkpoints(open_checkpoint(saved(tmp_path / "o", original)), narrow)))
    assert [f.tensor for f in found] == [Q]


def test_the_profile_opens_for_an_equal_copy_and_closes_for_one_changed_entry(tmp_path: Path) -> None:
    original = weights()
    base = saved(tmp_path / "base", original)
    right = saved(tmp_path / "right", {n: t.bfloat16() for n, t in original.items()})
    wrong = saved(tmp_path / "wrong", {n: t.bfloat16() + (n == NORM) for n, t in original.items()})
    results = [ckptaudit.audit(base, t, profile="equal", cache="off", device="cpu") for t in (right, wrong)]
    assert [answer(r.verdicts).is_open for r in results] == [True, False]
    assert results[0].coverage[0].share == 1.0
    assert [v.check for v in results[1].verdicts if v.outcome == "failed" and v.severity == "gate"] == [
        "conversion-equal"
    ]


def test_the_bundled_base_equals_its_copy_and_is_refused_against_itself(
    fixture_pairs: Path, tmp_path: Path
) -> None:
    base, copy = fixture_pairs / "base", tmp_path / "copy"
    shutil.copytree(base, copy)
    result = ckptaudit.audit(base, copy, profile="equal", cache="off", device="cpu", complete=False)
    assert {v.outcome for v in result.verdicts} <= {"passed", "skipped"}
    with pytest.raises(ckptaudit.CkptAuditError, match="are one path"):
        ckptaudit.audit(base, base, profile="equal", cache="off", device="cpu", complete=False)
