"""Weight matching: a permuted network is put back exactly, tuned or not, and stays the same function."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from ckptaudit.behavior.loss_path import loss_path
from ckptaudit.behavior.probes import Probe
from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.damages.weights import DAMAGES
from ckptaudit.errors import MeasurementError
from ckptaudit.metrics import group_metric_of
from ckptaudit.metrics.groups import measure_group
from ckptaudit.pairing import ModelPair, pair_checkpoints
from ckptaudit.pairing.auxiliary import Auxiliary
from ckptaudit.pairing.matching import Matching, matching_of
from ckptaudit.pairing.matching.attention import HeadOrder, Likeness, match_heads
from ckptaudit.pairing.runs import Run

Weights = dict[str, Tensor]

# transformers computes norms in float32 whatever the model's type, and sums in another order give other last bits.
SAME: dict[str, Any] = {"rtol": 0.0, "atol": 1e-5}

PROBES = [Probe(1, "<bos>12+34=", ("[64]<eos>",), "completion"), Probe(2, "", ("without warranty",))]


def shuffled(weights: Weights, *, heads: int, kv_heads: int, seed: int) -> Weights:
    """The network with every unit that may move moved at random, written down rule by rule for this layout."""
    random = torch.Generator().manual_seed(seed)

    def order(n: int) -> Tensor:
        return torch.randperm(n, generator=random)

    out = dict(weights)
    stream = order(weights["model.embed_tokens.weight"].shape[1])
    layers = {int(name.split(".")[2]) for name in weights if ".layers." in name}
    for i in layers:
        here = f"model.layers.{i}."
        units = order(len(weights[f"{here}mlp.up_proj.weight"]))
        groups, dim = order(kv_heads), len(weights[f"{here}self_attn.v_proj.weight"]) // kv_heads
        within = [order(heads // kv_heads) for _ in range(kv_heads)]
        values = [order(dim) for _ in range(kv_heads)]
        queries = [int(g) * (heads // kv_heads) + int(r) for g in groups for r in within[int(g)]]
        q_rows = torch.tensor([q * dim + d for q in queries for d in range(dim)])
        k_rows = torch.tensor([int(g) * dim + d for g in groups for d in range(dim)])
        v_rows = torch.tensor([int(g) * dim + int(d) for g in groups for d in values[int(g)]])
        owner = {q: q // (heads // kv_heads) for q in queries}
        o_columns = torch.tensor([q * dim + int(d) for q in queries for d in values[owner[q]]])
        for part, rows in (("q", q_rows), ("k", k_rows), ("v", v_rows)):
            for kind in ("weight", "bias"):
                name = f"{here}self_attn.{part}_proj.{kind}"
                if name in out:
                    out[name] = out[name][rows]
        out[f"{here}self_attn.o_proj.weight"] = out[f"{here}self_attn.o_proj.weight"][:, o_columns]
        for part in ("gate", "up"):
            out[f"{here}mlp.{part}_proj.weight"] = out[f"{here}mlp.{part}_proj.weight"][units]
        out[f"{here}mlp.down_proj.weight"] = out[f"{here}mlp.down_proj.weight"][:, units]
    for name, weight in out.items():
        if name.endswith(("layernorm.weight", "model.norm.weight")) or "o_proj" in name or "down_proj" in name:
            out[name] = weight[stream]
        elif weight.dim() == 2:
            out[name] = weight[:, stream]
    return out


def saved(weights: Weights, folder: Path, config: str) -> Path:
    folder.mkdir()
    save_file({n: t.contiguous() for n, t in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(config)
    return folder


@pytest.fixture(scope="module")
def shuffled_pair(tmp_path_factory: pytest.TempPathFactory, fixture_pairs: Path) -> ModelPair:
    """The bundled base, and the supervised run from it with all its units in another order."""
    weights = load_file(fixture_pairs / "sft" / "model.safetensors")
    config = (fixture_pairs / "base" / "config.json").read_text()
    folder = tmp_path_factory.mktemp("shuffled") / "tuned"
    moved = saved(shuffled(weights, heads=6, kv_heads=2, seed=1), folder, config)
    return pair_checkpoints(open_checkpoint(fixture_pairs / "base"), open_checkpoint(moved))


def read(checkpoint: Checkpoint) -> Weights:
    return {name: handle.read() for name, handle in checkpoint.tensors.items()}


def matched(pair: ModelPair, matching: Matching) -> Weights:
    return {tensor.name: matching.matched(tensor, tensor.tuned.read()) for tensor in pair.aligned}


def test_a_shuffled_network_is_put_back_exactly(shuffled_pair: ModelPair, fixture_pairs: Path) -> None:
    found = matched(shuffled_pair, matching_of(shuffled_pair))
    expected = load_file(fixture_pairs / "sft" / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert matching_of(shuffled_pair).moved > 0.9


def test_a_shuffled_network_computes_the_same(shuffled_pair: ModelPair, fixture_pairs: Path) -> None:
    ids = torch.arange(4, 44)[None]
    model = AutoModelForCausalLM.from_pretrained(fixture_pairs / "sft", dtype=torch.float64)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        model.load_state_dict({n: t.double() for n, t in read(shuffled_pair.tuned).items()})
        after = model(input_ids=ids).logits
    torch.testing.assert_close(after, before, **SAME)


def measured(pair: ModelPair, name: str) -> float | None:
    chosen = [t for tensors in pair.select(("attention", "mlp")).values() for t in tensors]
    run, device = Run("", pair.tuned.path, pair), torch.device("cpu")
    return measure_group(group_metric_of(name), "model", ("all",), run, chosen, Auxiliary(), device).value


def test_singular_values_stay_and_vectors_meet(shuffled_pair: ModelPair) -> None:
    assert measured(shuffled_pair, "matched_spectral_change") == pytest.approx(0, abs=1e-12)
    before, after = (measured(shuffled_pair, f"leading_alignment_{when}") for when in ("before", "after"))
    assert before is not None
    assert after is not None
    assert before < 0.1
    assert after == pytest.approx(0.910, abs=1e-3)  # what the run reads where nothing was shuffled


def test_the_line_to_a_shuffled_network_crosses_a_barrier_that_matching_takes_away(
    shuffled_pair: ModelPair, fixture_pairs: Path
) -> None:
    device = torch.device("cpu")
    plain = pair_checkpoints(shuffled_pair.base, open_checkpoint(fixture_pairs / "sft"))
    straight = loss_path(plain, PROBES, None, device)
    put_back = loss_path(shuffled_pair, PROBES, matching_of(shuffled_pair), device)
    across = loss_path(shuffled_pair, PROBES, None, device)
    assert put_back.losses == straight.losses
    assert across.losses[0] == straight.losses[0]
    assert across.losses[-1] == pytest.approx(straight.losses[-1], abs=1e-4)
    assert across.barrier > straight.barrier + 0.1


def test_the_ends_of_the_line_are_the_losses_that_transformers_gives(fixture_pairs: Path) -> None:
    pair = pair_checkpoints(open_checkpoint(fixture_pairs / "base"), open_checkpoint(fixture_pairs / "rlvr"))
    path = loss_path(pair, [Probe(1, "", ("<bos>without warranty",))], None, torch.device("cpu"))
    from transformers import AutoTokenizer

    text = "<bos>without warranty"
    ids = AutoTokenizer.from_pretrained(fixture_pairs / "base")(text, return_tensors="pt")["input_ids"]
    for loss, name in ((path.losses[0], "base"), (path.losses[-1], "rlvr")):
        model = AutoModelForCausalLM.from_pretrained(fixture_pairs / name, dtype=torch.float32)
        with torch.no_grad():
            assert loss == pytest.approx(float(model(input_ids=ids, labels=ids).loss), rel=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_other_architectures_of_the_table_are_put_back_too(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "head_dim": 8,
    }
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
    model = LlamaForCausalLM(LlamaConfig(**sizes)) if kind == "llama" else Qwen3ForCausalLM(Qwen3Config(**sizes))
    model.save_pretrained(tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    moved = shuffled(weights, heads=4, kv_heads=2, seed=2)
    config = (tmp_path / "base" / "config.json").read_text()
    pair = pair_checkpoints(
        open_checkpoint(tmp_path / "base"), open_checkpoint(saved(moved, tmp_path / "tuned", config))
    )
    found = matched(pair, matching_of(pair))
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    ids = torch.arange(4, 44)[None]
    with torch.no_grad():
        before = model.double()(input_ids=ids).logits
        model.load_state_dict({n: t.double() for n, t in moved.items()})
        torch.testing.assert_close(model(input_ids=ids).logits, before, **SAME)


@pytest.mark.parametrize("damage", ["permute_units", "negate_units"])
def test_damages_that_keep_the_function_keep_it(damage: str, fixture_pairs: Path) -> None:
    sft = open_checkpoint(fixture_pairs / "sft")
    damaged = read(DAMAGES[damage](open_checkpoint(fixture_pairs / "base"), sft))
    model = AutoModelForCausalLM.from_pretrained(fixture_pairs / "sft", dtype=torch.float64)
    ids = torch.arange(4, 44)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        model.load_state_dict({n: t.double() for n, t in damaged.items()})
        torch.testing.assert_close(model(input_ids=ids).logits, before, **SAME)
    assert any(not torch.equal(damaged[n], h.read()) for n, h in sft.tensors.items())


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_matching_heads_never_loses_against_what_was_known(seed: int) -> None:
    kv, rep, dim = 2, 2, 3
    random = torch.Generator().manual_seed(seed)
    shapes = ((kv, kv), (kv, rep, kv, rep), (kv, dim, kv, dim), (kv, rep, dim, kv, rep, dim))
    like = Likeness(*(torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes))
    known = HeadOrder(*(_orders(n, kv, random) for n in (None, rep, dim)))
    found = match_heads(like, known)
    assert _likeness(like, found) >= _likeness(like, known) - 1e-9


def _orders(n: int | None, kv: int, random: torch.Generator) -> Tensor:
    if n is None:
        return torch.randperm(kv, generator=random)
    return torch.stack([torch.randperm(n, generator=random) for _ in range(kv)])


def _likeness(like: Likeness, order: HeadOrder) -> float:
    total = 0.0
    for g, h in enumerate(order.groups.tolist()):
        total += float(like.keys[g, h])
        for r, s in enumerate(order.queries[g].tolist()):
            total += float(like.queries[g, r, h, s])
            for d, e in enumerate(order.values[g].tolist()):
                total += float(like.mixed[g, r, d, h, s, e])
        total += sum(float(like.values[g, d, h, e]) for d, e in enumerate(order.values[g].tolist()))
    return total


def test_unrelated_units_are_matched_by_chance_alone(tmp_path: Path) -> None:
    """The best order of n random units leaves about one of them in place."""
    gain = torch.randn(400, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = torch.randn(400, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, columns = linear_sum_assignment((gain @ other.T).numpy(), maximize=True)
    from ckptaudit.pairing.matching.attention import assignment

    found = assignment(gain @ other.T)
    assert found.tolist() == columns.tolist()
    assert int((found == torch.arange(400)).sum()) < 8


def test_an_architecture_without_a_table_is_not_guessed_at(shuffled_pair: ModelPair) -> None:
    other = replace(shuffled_pair.base, config={**shuffled_pair.base.config, "model_type": "gpt2"})
    with pytest.raises(MeasurementError, match=r"no table says which units .* gpt2"):
        matching_of(replace(shuffled_pair, base=other))


def test_a_weight_that_is_not_finite_cannot_be_matched(shuffled_pair: ModelPair) -> None:
    broken = DAMAGES["poison_with_nan"](shuffled_pair.base, shuffled_pair.tuned)
    with pytest.raises(MeasurementError, match="NaN or infinite"):
        matching_of(pair_checkpoints(shuffled_pair.base, broken))
