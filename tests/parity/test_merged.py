"""What peft merges passes bit for bit, in every kind of adapter; each mistake of a merge is found and named."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import ckptaudit
from ckptaudit.results.gate import answer
from tests.parity.adapters import Merged, made, rewritten

# peft and transformers warn of each other's plans; a warning of our own stays an error.
pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:peft.*"),
    pytest.mark.filterwarnings("ignore::Warning:transformers.*"),
    pytest.mark.filterwarnings("ignore::Warning:torch.nn.*"),
]

ATTENTION = ["q_proj", "v_proj"]
Q, V = (f"model.layers.0.self_attn.{name}.weight" for name in ATTENTION)
KINDS = {
    "lora": LoraConfig(r=4, lora_alpha=8, target_modules=ATTENTION),
    "rslora": LoraConfig(r=4, lora_alpha=16, use_rslora=True, target_modules=ATTENTION),
    "dora": LoraConfig(r=4, use_dora=True, target_modules=ATTENTION),
    "pissa": LoraConfig(r=4, init_lora_weights="pissa", target_modules=ATTENTION),
    "saved modules": LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["lm_head", "norm"]),
    "patterns": LoraConfig(
        r=4, lora_alpha=8, target_modules=ATTENTION,
        rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 5, "^model.layers.0.self_attn.q_proj": 7},
    ),
    "embeddings": LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
}  # fmt: skip
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.fixture(scope="module")
def lora(llama: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Merged:
    """Plain LoRA over a bfloat16 base; its scale is 2, its rank 4."""
    return made(tmp_path_factory.mktemp("lora"), copy.deepcopy(llama).bfloat16(), KINDS["lora"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_pefts_own_merge_has_no_fault(kind: str, dtype: torch.dtype, llama: nn.Module, tmp_path: Path) -> None:
    paths = made(tmp_path, copy.deepcopy(llama).to(dtype), KINDS[kind])
    assert paths.faults() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_in_place_of_the_merge_is_named_for_every_kind(kind: str, llama: nn.Module, tmp_path: Path) -> None:
    paths = made(tmp_path, copy.deepcopy(llama).bfloat16(), KINDS[kind])
    found = paths.faults(load_file(paths.base / "model.safetensors"))
    assert {f.tensor for f in found} == paths.merge().touched
    assert {f.fault for f in found} == {"adapter not applied"}


@pytest.mark.parametrize("dora", [False, True])
def test_transposed_layers_pass_as_peft_merges_them(dora: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=1, n_head=2))
    config = LoraConfig(r=4, use_dora=dora, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    paths = made(tmp_path, base, config)
    assert paths.faults() == []
    moved = load_file(paths.merged / "model.safetensors")
    # Parts of the fused c_attn are judged one by one.
    damaged = {n: w for n, w in load_file(paths.base / "model.safetensors").items() if "c_attn.weight" in n}
    assert damaged.keys() <= moved.keys()
    assert {f.fault for f in paths.faults(damaged)} == {"adapter not applied"}


def parts(paths: Merged, module: str = "layers.0.self_attn.q_proj") -> tuple[Tensor, Tensor, Tensor]:
    """Base weight, B and A of a module, in float32."""
    factors = load_file(paths.adapter / "adapter_model.safetensors")
    name = f"base_model.model.model.{module}"
    weight = load_file(paths.base / "model.safetensors")[f"model.{module}.weight"].float()
    return weight, factors[f"{name}.lora_B.weight"].float(), factors[f"{name}.lora_A.weight"].float()


@pytest.mark.parametrize(
    ("factor", "fault", "words"),
    [
        (0.0, "adapter not applied", "base's weight"),
        (-2.0, "sign flipped", "-1 times"),
        (4.0, "applied twice", "2 times"),
        (1.0, "half applied", "0.5 times"),
        (8.0, "scale without r", "4 times"),
        (3.0, "update scaled", "1.5"),
    ],
)
def test_a_wrong_scale_is_named(factor: float, fault: str, words: str, lora: Merged) -> None:
    weight, up, down = parts(lora)
    (found,) = lora.faults({Q: (weight + factor * (up @ down)).bfloat16()})
    assert (found.tensor, found.fault) == (Q, fault)
    assert words in found.detail


@pytest.mark.parametrize(
    ("factor", "fault"), [(0.5, "half applied"), (-1.0, "sign flipped"), (1.5, "update scaled")]
)
def test_a_scale_is_named_though_it_was_applied_to_rounded_weights(factor: float, fault: str, lora: Merged) -> None:
    base, merged = (load_file(path / "model.safetensors")[Q].float() for path in (lora.base, lora.merged))
    (found,) = lora.faults({Q: (base + factor * (merged - base)).bfloat16()})
    assert found.fault == fault


def test_a_transposed_update_is_named(lora: Merged) -> None:
    weight, up, down = parts(lora)
    (found,) = lora.faults({Q: (weight + 2 * (up @ down).T).bfloat16()})
    assert found.fault == "update transposed"


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_partial_rank_is_named_with_its_number(kept: int, lora: Merged) -> None:
    weight, up, down = parts(lora)
    (found,) = lora.faults({Q: (weight + 2 * up[:, :kept] @ down[:kept]).bfloat16()})
    assert found.fault == "partial rank"
    assert f"{kept} of 4 components" in found.detail


def test_the_update_of_the_next_layer_is_named(lora: Merged) -> None:
    weight, _, _ = parts(lora)
    _, up, down = parts(lora, "layers.1.self_attn.q_proj")
    (found,) = lora.faults({Q: (weight + 2 * up @ down).bfloat16()})
    assert found.fault == "update of another module"
    assert "model.layers.1.self_attn.q_proj.weight" in found.detail


def test_a_merge_without_its_base_is_named(lora: Merged) -> None:
    _, up, down = parts(lora)
    (found,) = lora.faults({Q: (2 * up @ down).bfloat16()})
    assert found.fault == "base left out"


def test_another_adapter_is_named(lora: Merged) -> None:
    weight, up, down = parts(lora)
    noise = torch.randn(up.shape, generator=torch.Generator().manual_seed(9)) * up.norm() / up.numel() ** 0.5
    (found,) = lora.faults({Q: (weight + 2 * noise @ down.flip(1)).bfloat16()})
    assert found.fault == "not this adapter"


def test_another_base_is_named_by_the_weights_that_no_adapter_touches(lora: Merged) -> None:
    merged = load_file(lora.merged / "model.safetensors")
    random = torch.Generator().manual_seed(3)
    noise = {name: 1 + 0.02 * torch.randn(w.shape, generator=random) for name, w in merged.items()}
    other = {name: (w.float() * noise[name]).bfloat16() for name, w in merged.items()}
    found = {f.tensor: f.fault for f in lora.faults(other)}
    assert found[Q] == found[V] == "merged on another base"
    assert found["model.embed_tokens.weight"] == "changed without an adapter"
    assert found.keys() == merged.keys()


def test_one_entry_of_an_untouched_weight_is_found(lora: Merged) -> None:
    name = "model.norm.weight"
    weight = load_file(lora.merged / "model.safetensors")[name].clone()
    weight[3] += 1
    (found,) = lora.faults({name: weight})
    assert (found.tensor, found.fault) == (name, "changed without an adapter")
    assert "1 of 32" in found.detail


def test_a_nan_is_named(lora: Merged) -> None:
    weight = load_file(lora.merged / "model.safetensors")[Q].clone()
    weight[0, 0] = torch.nan
    assert [f.fault for f in lora.faults({Q: weight})] == ["not finite"]


def test_a_merge_whose_update_was_rounded_first_is_right(lora: Merged) -> None:
    # What peft does on a device: the product is held in bfloat16 before it is added.
    weight, up, down = parts(lora)
    stored = weight.bfloat16() + (2 * (up @ down)).bfloat16()
    assert not torch.equal(stored, load_file(lora.merged / "model.safetensors")[Q])
    assert lora.faults({Q: stored}) == []


def test_a_merge_in_float32_is_right_in_either_type(lora: Merged) -> None:
    weight, up, down = parts(lora)
    wide = weight + 2 * up @ down
    assert lora.faults({Q: wide}) == []
    assert lora.faults({Q: load_file(lora.merged / "model.safetensors")[Q].float()}) == []


@settings(max_examples=40, deadline=None)
@given(factor=st.floats(-4, 4).filter(lambda c: abs(c - 1) > 0.05), size=st.sampled_from([1.0, 0.1, 0.01, 1e-3]))
def test_any_other_scale_of_any_size_is_a_fault_where_it_shows(factor: float, size: float, lora: Merged) -> None:
    """A scale other than 1 is found wherever it leads to a number that rounding cannot explain, and only there."""
    weight, up, down = parts(lora)
    exact = weight.double() + 2 * up.double() @ down.double()
    stored = (weight.double() + factor * 2 * (up.double() @ down.double())).bfloat16()
    # Within rounding by the definition, written with NumPy's spacing of float32 scaled to bfloat16.
    import numpy

    largest = numpy.maximum(numpy.abs(exact.numpy()), numpy.abs(stored.double().numpy()))
    step = 2.0 ** (numpy.floor(numpy.log2(numpy.maximum(largest, 1e-30))) - 7)
    off = numpy.abs(stored.double().numpy() - exact.numpy())
    update = numpy.abs((exact - weight.double()).numpy())
    shows = bool((off > step / 2 + 2.0**-7 * update + 2.0**-19 * update.max()).any())
    found = lora.faults({Q: stored})
    assert bool(found) == shows


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_untrained_adapter_is_its_base(dtype: torch.dtype, llama: nn.Module, tmp_path: Path) -> None:
    paths = made(tmp_path, copy.deepcopy(llama).to(dtype), KINDS["lora"], size=0.0)
    assert paths.faults() == []
    assert paths.faults(load_file(paths.base / "model.safetensors")) == []


def audited(base: str, tuned: Path, **options: Any) -> ckptaudit.AuditResult:
    return ckptaudit.audit(base, tuned, profile="merged", cache="off", device="cpu", complete=False, **options)


def test_the_profile_opens_for_a_right_merge_however_the_adapter_is_given(lora: Merged) -> None:
    for result in (
        audited(str(lora.base), lora.merged, inputs={"adapter": lora.adapter}),
        audited(f"{lora.base}+{lora.adapter}", lora.merged),
    ):
        assert answer(result.verdicts).is_open
        assert result.coverage[0].share == 1.0
        assert {v.outcome for v in result.verdicts} == {"passed"}


@pytest.mark.parametrize("factor", [-1.0, 0.5, 2.0, 0.0])
def test_the_profile_closes_for_a_flipped_or_half_merge(factor: float, lora: Merged, tmp_path: Path) -> None:
    base, merged = (load_file(p / "model.safetensors") for p in (lora.base, lora.merged))
    wrong = {n: (w.float() + factor * (merged[n].float() - w.float())).to(w.dtype) for n, w in base.items()}
    tuned = rewritten(lora.merged, wrong, tmp_path / "wrong")
    result = audited(f"{lora.base}+{lora.adapter}", tuned)
    assert not answer(result.verdicts).is_open
    assert [v.check for v in result.verdicts if v.outcome == "failed"] == ["adapter-merged"]


def test_without_an_adapter_the_profile_is_refused_in_one_line(lora: Merged) -> None:
    with pytest.raises(ckptaudit.CkptAuditError, match=r"check adapter-merged: needs adapter= PATH") as caught:
        audited(str(lora.base), lora.merged)
    assert "\n" not in str(caught.value)


def test_an_adapter_given_twice_is_refused(lora: Merged) -> None:
    with pytest.raises(ckptaudit.CkptAuditError, match="give it once"):
        audited(f"{lora.base}+{lora.adapter}", lora.merged, inputs={"adapter": lora.adapter})


def test_full_weights_in_place_of_an_adapter_are_refused(lora: Merged) -> None:
    with pytest.raises(ckptaudit.CkptAuditError, match="not an adapter"):
        audited(str(lora.base), lora.merged, inputs={"adapter": lora.base})


def test_an_adapter_of_another_model_is_refused(lora: Merged, fixture_pairs: Path) -> None:
    with pytest.raises(ckptaudit.CkptAuditError, match="pass the base that the adapter was trained on"):
        audited(str(lora.base), lora.merged, inputs={"adapter": fixture_pairs / "lora"})
