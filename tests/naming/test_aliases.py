"""Names in other spellings: one weight has one name, whatever library stored it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptaudit.naming import Naming, Place, families, place_of_weight, short_name
from ckptaudit.naming.aliases import aliases_of, canonical

WORDS = ["layers", "0", "mlp", "attn", "gate", "experts", "norm", "weight", "w1"]
V4 = Naming({"model_type": "deepseek_v4"})
TITAN = Naming({}, ["tok_embeddings.weight", "layers.0.attention_norm.weight"])
MEGATRON = Naming({}, ["decoder.layers.0.self_attention.linear_qkv.weight"])


@pytest.mark.parametrize(
    ("table", "name", "expected"),
    [
        ({"a.b": "c"}, "x.a.b.weight", "x.c.weight"),
        ({"a.b": "c"}, "xa.b.weight", "xa.b.weight"),
        ({"a.b": "c"}, "a.bx.weight", "a.bx.weight"),
        ({"a.*.b": "c.*"}, "a.7.b.weight", "c.7.weight"),
        ({"^head": "lm_head"}, "head.weight", "lm_head.weight"),
        ({"^head": "lm_head"}, "module.model.head.weight", "module.model.lm_head.weight"),
        ({"^head": "lm_head"}, "layers.0.head.weight", "layers.0.head.weight"),
        ({"a": "b", "b": "c"}, "a.weight", "c.weight"),
        ({"a+": "b"}, "aa.weight", "aa.weight"),
    ],
)
def test_word_sequences(table: dict[str, str], name: str, expected: str) -> None:
    assert canonical(name, aliases_of(table)) == expected


@pytest.mark.parametrize(
    ("naming", "stored", "meant"),
    [
        (V4, "head.weight", "lm_head.weight"),
        (V4, "layers.3.attn.wq_a.weight", "layers.3.self_attn.q_a_proj.weight"),
        (V4, "layers.3.attn.attn_sink", "layers.3.self_attn.sinks"),
        (V4, "layers.3.attn.indexer.wq_b.weight", "layers.3.self_attn.compressor.indexer.q_b_proj.weight"),
        (V4, "layers.3.hc_attn_fn", "layers.3.attn_hc.fn"),
        (V4, "layers.3.ffn.gate.bias", "layers.3.mlp.gate.e_score_correction_bias"),
        (TITAN, "output.weight", "lm_head.weight"),
        (TITAN, "layers.0.attention.wq.weight", "layers.0.self_attn.q_proj.weight"),
        (TITAN, "layers.0.moe.experts.w1", "layers.0.mlp.experts.gate_proj"),
        (MEGATRON, "embedding.word_embeddings.weight", "embed_tokens.weight"),
        (
            MEGATRON,
            "decoder.layers.2.self_attention.linear_qkv.layer_norm_weight",
            "layers.2.input_layernorm.weight",
        ),
        (MEGATRON, "decoder.layers.2.mlp.linear_fc2.weight", "layers.2.mlp.down_proj.weight"),
    ],
)
def test_spellings_of_libraries(naming: Naming, stored: str, meant: str) -> None:
    assert naming.canonical(stored) == meant
    assert naming.place(stored) == naming.place(meant)


@pytest.mark.parametrize("family", [name for name, family in families().items() if family.aliases])
@settings(max_examples=20)
@given(name=st.lists(st.sampled_from(WORDS), max_size=8))
def test_a_canonical_name_stays_as_it_is(family: str, name: list[str]) -> None:
    rules = aliases_of(families()[family].aliases)
    once = canonical(".".join(name), rules)
    assert canonical(once, rules) == once


def test_libraries_are_known_by_their_names_and_not_by_one_word() -> None:
    assert "torchtitan" in TITAN.family
    assert "megatron" in MEGATRON.family
    assert "torchtitan" not in Naming({}, ["tok_embeddings.weight"]).family
    assert Naming({}).family == "no model_type (rules: common)"
    assert Naming({"model_type": "qwen3"}).family == "qwen3 (rules: common)"
    assert Naming({"model_type": "kimi_linear"}).family == "kimi_linear (rules: block_sparse_moe, delta_rule)"


def test_unknown_roles_are_listed() -> None:
    shapes = {"layers.0.frob.weight": (4, 4), "layers.1.frob.weight": (4, 4), "layers.0.q_proj.weight": (4, 4)}
    assert Naming({}).unknown(shapes) == ("frob",)


@pytest.mark.parametrize("name", ["attn." * 200_000, "layers." * 250, "a" * 1_000_000, "^.*.+(" * 300])
def test_a_hostile_name_costs_little(name: str) -> None:
    start = time.perf_counter()
    for naming in (V4, TITAN, MEGATRON):
        naming.canonical(name)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("weight", "expected", "short"),
    [
        ("h.0.attn.c_attn.weight[k_proj]", Place(0, "k_proj"), "L0 k_proj"),
        ("h.0.attn.c_attn.bias[k_proj]", Place(0, "k_proj.bias"), "L0 k_proj.bias"),
        (
            "layers.3.mlp.experts.gate_up_proj[up_proj][7]",
            Place(3, "up_proj", "", True, 7),
            "L3 expert 7 up_proj",
        ),
        ("layers.3.mlp.experts.down_proj[2]", Place(3, "down_proj", "", True, 2), "L3 expert 2 down_proj"),
        ("visual.blocks.1.attn.qkv.weight[q_proj]", Place(1, "q_proj", "visual"), "visual L1 q_proj"),
        ("lm_head.weight", Place(None, "lm_head"), "lm_head"),
    ],
)
def test_a_weight_by_the_name_that_reports_use(weight: str, expected: Place, short: str) -> None:
    assert place_of_weight(weight) == expected
    assert short_name(place_of_weight(weight)) == short


@given(st.text("ab[].0", max_size=20))
def test_any_text_has_a_short_name(name: str) -> None:
    assert isinstance(short_name(place_of_weight(name)), str)
