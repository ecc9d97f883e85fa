from __future__ import annotations

import time
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.naming import Layout, Naming, Place, families, in_groups, place, primary_group, rules
from ckptaudit.naming.layouts import parts_of

CONFIG_KEYS = ["model_type", "num_attention_heads", "num_key_value_heads", "hidden_size", "multi_query"]
SENSE_AND_NONSENSE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["falcon", "phi3", "gpt2", "gpt_oss"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from([*CONFIG_KEYS, "text_config"]), st.integers(), max_size=2),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.7.self_attn.q_proj.weight", Place(7, "q_proj")),
        ("model.layers.7.self_attn.q_proj.bias", Place(7, "q_proj.bias")),
        ("model.decoder.layers.1.cross_attn.q_proj.weight", Place(1, "cross_attn.q_proj", "decoder")),
        ("model.decoder.layers.1.self_attn.q_proj.weight", Place(1, "q_proj", "decoder")),
        ("model.layers.2.linear_attn.out_proj.weight", Place(2, "linear_attn.out_proj")),
        ("model.layers.2.mixer.out_proj.weight", Place(2, "out_proj")),
        ("model.layers.2.self_attn.indexer.wq_b.weight", Place(2, "indexer.wq_b")),
        ("model.layers.2.self_attn.gate_proj.weight", Place(2, "attn_gate_proj")),
        ("mtp.layers.0.self_attn.q_proj.weight", Place(0, "q_proj", "mtp")),
        ("model.mtp.layers.0.mlp.up_proj.weight", Place(0, "up_proj", "mtp")),
        ("model.mtp_layers.1.mlp.up_proj.weight", Place(1, "up_proj", "mtp")),
        ("model.mtp_block.0.mlp.up_proj.weight", Place(0, "up_proj", "mtp")),
        ("model.layers.61.eh_proj.weight", Place(61, "eh_proj")),
        ("v_head.summary.weight", Place(None, "v_head.summary")),
        ("model.layers.12.input_layernorm.weight", Place(12, "input_layernorm")),
        ("model.embed_tokens.weight", Place(None, "embed_tokens")),
        ("lm_head.weight", Place(None, "lm_head")),
        ("lm_head.bias", Place(None, "lm_head.bias")),
        ("transformer.h.3.attn.c_proj.weight", Place(3, "o_proj")),
        ("transformer.h.3.mlp.c_proj.weight", Place(3, "down_proj")),
        ("bert.encoder.layer.1.attention.output.dense.weight", Place(1, "o_proj", "encoder")),
        ("bert.encoder.layer.1.output.dense.weight", Place(1, "down_proj", "encoder")),
        ("model.encoder.layers.2.self_attn.out_proj.weight", Place(2, "o_proj", "encoder")),
        ("model.decoder.layers.2.encoder_attn.k_proj.weight", Place(2, "cross_attn.k_proj", "decoder")),
        ("vision_tower.vision_model.encoder.layers.4.mlp.fc1.weight", Place(4, "up_proj", "vision_tower")),
        ("model.layers.5.mlp.experts.17.up_proj.weight", Place(5, "up_proj", "", True, 17)),
        ("model.layers.5.mlp.experts.gate_up_proj", Place(5, "gate_up_proj", "", True)),
        ("model.layers.5.mlp.shared_experts.up_proj.weight", Place(5, "up_proj", "", True)),
        ("model.layers.5.mlp.gate.weight", Place(5, "router")),
        ("model.layers.5.mlp.gate.e_score_correction_bias", Place(5, "router.bias")),
        ("model.layers.5.mlp.gate_proj.weight", Place(5, "gate_proj")),
        ("visual.merger.mlp.0.weight", Place(None, "merger.mlp.0", "visual")),
        ("visual.merger.mlp.0.bias", Place(None, "merger.mlp.0.bias", "visual")),
        ("model.multi_modal_projector.linear_1.weight", Place(None, "multi_modal_projector.linear_1")),
        ("visual.patch_embed.proj.weight", Place(None, "patch_embed.proj", "visual")),
    ],
)
def test_places_of_known_names(name: str, expected: Place) -> None:
    assert place(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net.stage.4.mixer.in_proj.weight", Place(4, "in_proj")),
        ("7.foo.12.tail", Place(7, "tail")),
        ("tower.9.proj.weight", Place(9, "tower.proj")),
        ("weight", Place(None, "weight")),
        ("0.weight", Place(0, "weight")),
        ("something", Place(None, "something")),
        ("body.blocks.2.ff.0.weight", Place(2, "ff.0")),
        ("", Place(None, "")),
        ("...", Place(None, "")),
    ],
)
def test_unknown_architectures_have_a_layer_and_the_last_words_as_role(name: str, expected: Place) -> None:
    assert place(name) == expected


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("model.layers.3.mlp.up_proj.weight", "layers.3"),
        ("vision_tower.encoder.layers.0.mlp.fc1.weight", "vision_tower.layers.0"),
        ("model.embed_tokens.weight", "embed_tokens"),
        ("lm_head.bias", "lm_head"),
        ("encoder.final_layer_norm.weight", "encoder.final_layer_norm"),
        ("visual.merger.mlp.2.bias", "visual.merger.mlp.2"),
    ],
)
def test_subjects(name: str, subject: str) -> None:
    assert place(name).subject == subject


def test_the_pooler_of_bert_is_no_attention_output() -> None:
    assert Naming({"model_type": "bert"}).place("bert.pooler.dense.bias") == Place(None, "pooler.bias")


def test_a_family_may_name_roles_of_its_own() -> None:
    name = "model.layers.0.block_sparse_moe.experts.1.w2.weight"
    assert Naming({}).place(name).role == "w2"
    assert Naming({"model_type": "mixtral"}).place(name).role == "down_proj"


def test_a_role_may_be_selected_by_its_name_or_a_glob() -> None:
    assert in_groups("k_proj", ("norm", "k_proj"), is_matrix=True)
    assert in_groups("k_proj", ("?_proj",), is_matrix=True)
    assert not in_groups("gate_proj", ("?_proj",), is_matrix=True)


PHI3 = {"model_type": "phi3", "num_attention_heads": 4, "num_key_value_heads": 2}
QKV = "model.layers.0.self_attn.qkv_proj.weight"


def shares(layout: Layout) -> dict[str, tuple[int, int, int]]:
    return {part.role: (part.groups, part.start, part.stop) for part in layout.parts}


def test_a_fused_tensor_is_divided_by_the_numbers_of_the_config() -> None:
    assert shares(Naming(PHI3).layout(QKV, (64, 32))) == {
        "q_proj": (1, 0, 32),
        "k_proj": (1, 32, 48),
        "v_proj": (1, 48, 64),
    }


def test_heads_that_are_not_grouped_need_no_second_number() -> None:
    config = {"model_type": "phi3", "num_attention_heads": 4}
    assert [part.length for part in Naming(config).layout(QKV, (96, 32)).parts] == [32, 32, 32]


def test_the_numbers_of_a_multimodal_model_are_those_of_its_language_model() -> None:
    config = {"model_type": "some_vlm", "text_config": PHI3, "num_attention_heads": 1}
    assert [part.length for part in Naming(config).layout(QKV, (64, 32)).parts] == [32, 16, 16]


@pytest.mark.parametrize(
    ("config", "shape", "doubt"),
    [
        ({}, (64, 32), "no family in ckptaudit/naming/families describes how this model fuses it"),
        ({"model_type": "unheard_of"}, (64, 32), "no family in ckptaudit/naming/families"),
        ({"model_type": "phi3"}, (64, 32), "config.json does not give the number of heads"),
        (PHI3 | {"num_attention_heads": "4"}, (64, 32), "does not give the number of heads"),
        (PHI3 | {"num_attention_heads": -4}, (64, 32), "does not give the number of heads"),
        (PHI3, (60, 32), "config.json implies 1 x 8 equal shares, its 60 outputs do not divide so"),
    ],
)
def test_a_fused_tensor_stays_whole_when_in_doubt_and_says_why(
    config: dict[str, object], shape: tuple[int, ...], doubt: str
) -> None:
    layout = Naming(config).layout(QKV, shape)
    assert layout.parts == ()
    assert doubt in layout.doubt
    assert Naming(config).place(QKV).role == "qkv_proj"


def test_falcon_heads_that_do_not_group_evenly_are_doubted() -> None:
    config = {"model_type": "falcon", "new_decoder_architecture": True, "num_attention_heads": 5, "num_kv_heads": 2}
    layout = Naming(config).layout("transformer.h.0.self_attention.query_key_value.weight", (72, 32))
    assert layout.doubt == "config.json does not give the number of heads per kv head"


@pytest.mark.parametrize("shape", [(), (0,), (0, 8), (10**12, 0, 5), (3, 3, 3, 3), (1,)])
@pytest.mark.parametrize("name", [QKV, "model.layers.0.mlp.experts.gate_up_proj", "h.0.attn.c_attn.weight"])
def test_odd_shapes_are_one_weight(name: str, shape: tuple[int, ...]) -> None:
    for kind in ("phi3", "gpt2", "gpt_oss"):
        layout = Naming(PHI3 | {"model_type": kind}).layout(name, shape)
        assert not layout.parts
        assert not layout.turned
        assert not layout.stacked


@given(
    sizes=st.dictionaries(st.text(), st.integers(1, 9), min_size=1, max_size=4),
    groups=st.integers(1, 6),
    unit=st.integers(1, 7),
)
def test_parts_share_an_axis_without_gap_or_overlap(sizes: dict[str, int], groups: int, unit: int) -> None:
    whole = sum(sizes.values()) * unit
    parts = parts_of(groups * whole, groups, sizes, {})
    assert [part.start for part in parts] == [0, *(part.stop for part in parts)][:-1]
    assert parts[-1].stop == whole
    assert [part.length for part in parts] == [size * groups * unit for size in sizes.values()]


@given(st.text())
def test_every_text_has_a_place(name: str) -> None:
    where = place(name)
    assert where.layer is None or where.layer >= 0
    assert isinstance(where.subject, str)


@given(
    config=st.dictionaries(st.sampled_from([*CONFIG_KEYS, "text_config", "x_config"]), SENSE_AND_NONSENSE),
    shape=st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
    name=st.sampled_from([QKV, "h.0.self_attention.query_key_value.weight", "layers.0.experts.gate_up_proj"]),
)
def test_no_config_breaks_a_layout(config: dict[str, object], shape: tuple[int, ...], name: str) -> None:
    naming = Naming(config)
    layout = naming.layout(name, shape)
    assert sum(part.length for part in layout.parts) in (0, *shape)
    assert isinstance(naming.ties, tuple)


@pytest.mark.parametrize("name", ["moe." * 250_000, "a" * 1_000_000, "1." * 500_000, "experts.0." * 100_000])
def test_a_name_of_a_megabyte_is_no_burden(name: str) -> None:
    start = time.perf_counter()
    Naming({"model_type": "mixtral"}).layout(name, (4, 4))
    assert time.perf_counter() - start < 5


def test_digits_that_are_no_layer_number() -> None:
    assert place("layers.\u0663.up_proj.weight").layer is None
    assert place(f"layers.{'9' * 5000}.up_proj.weight").layer is None


@pytest.mark.parametrize("family", families())
def test_family_files_use_only_what_the_common_rules_define(family: str) -> None:
    rule_file = families()[family]
    assert rule_file.model_types or rule_file.names
    numbers = {*rules().numbers, *rules().products, "heads_per_kv_head"}
    for split in rule_file.split:
        sizes = (*split.parts.values(), split.groups)
        assert {size for size in sizes if isinstance(size, str)} <= {*numbers, "entries"}
        assert split.when.keys() <= rule_file.flags.keys()
        assert {primary_group(role, is_matrix=True) for role in split.parts} <= {
            "attention",
            "mlp",
            "linear_attention",
        }
        assert split.interleaved.keys() <= split.parts.keys()
    for kernel in rule_file.kernel:
        assert {kernel.inputs, kernel.outputs} <= {"", *numbers}


WORDS = st.sampled_from(
    [
        "model",
        "layers",
        "h",
        "mlp",
        "experts",
        "block_sparse_moe",
        "self_attn",
        "q_proj",
        "gate_up_proj",
        "w1",
        "norm",
        "mtp",
        "visual",
        "blocks",
        "mm_projector",
        "proj",
        "weight",
        "bias",
        "0",
        "1",
        "07",
        "61",
        "1234567890",
    ]
)
NAMES = st.lists(WORDS, min_size=1, max_size=8).map(".".join)


@given(NAMES)
def test_a_place_is_that_of_the_name_alone(name: str) -> None:
    # Names that differ in numbers alone are analysed once; here each by itself.
    with patch("ckptaudit.naming.places.pattern_of", str):
        expected = place(name)
    assert place(name) == expected


@given(st.lists(NAMES, min_size=1, max_size=4), st.lists(st.sampled_from([8, 16, 24]), min_size=1, max_size=3))
@pytest.mark.parametrize("model_type", ["mixtral", "gpt2", "kimi_k25"])
def test_a_layout_is_that_of_the_name_alone(model_type: str, names: list[str], shape: list[int]) -> None:
    config = {"model_type": model_type, "num_attention_heads": 4, "hidden_size": 8}
    naming = Naming(config)
    found = [naming.layout(name, tuple(shape)) for name in names]
    with patch("ckptaudit.naming.model.pattern_of", str):
        assert found == [Naming(config).layout(name, tuple(shape)) for name in names]
