from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.checkpoints import Checkpoint, LowRankUpdate, TensorHandle
from ckptaudit.errors import PairingError
from ckptaudit.pairing import AlignedTensor, ModelPair, pair_checkpoints
from ckptaudit.pairing.names import renamed

LAYER = "model.layers.0.self_attn.q_proj.weight"
QKV = "model.layers.0.self_attn.qkv_proj.weight"
PHI3: dict[str, object] = {"model_type": "phi3", "num_attention_heads": 4, "num_key_value_heads": 2}


def checkpoint(tensors: dict[str, torch.Tensor], config: dict[str, object] | None = None) -> Checkpoint:
    blank = TensorHandle("", (), "", Path("made.safetensors"), lambda: torch.empty(0))
    handles = {name: blank.with_tensor(tensor) for name, tensor in sorted(tensors.items())}
    return Checkpoint("made", "safetensors", handles, config or {})


def names(*found: str) -> dict[str, torch.Tensor]:
    return {name: torch.ones(4, 6) for name in found}


def paired(pair: ModelPair) -> list[str]:
    return [tensor.name for tensor in pair.aligned]


def faults(pair: ModelPair) -> list[str]:
    return [str(fault) for fault in pair.unaligned]


def only(pair: ModelPair) -> AlignedTensor:
    (tensor,) = pair.aligned
    return tensor


class TestNames:
    @pytest.mark.parametrize(
        ("base", "tuned"),
        [
            (LAYER, f"module.{LAYER}"),
            (LAYER, f"_orig_mod.{LAYER}"),
            (LAYER, f"base_model.model.{LAYER}"),
            (LAYER, f"module._orig_mod.{LAYER}"),
            (LAYER, "layers.0.self_attn.q_proj.weight"),
            (LAYER, "model.layers.0._fsdp_wrapped_module.self_attn.q_proj.weight"),
            (LAYER, "model.layers.0._checkpoint_wrapped_module.self_attn._orig_mod.q_proj.weight"),
            (LAYER, "model.language_model.layers.0.self_attn.q_proj.weight"),
            (LAYER, "language_model.model.layers.0.self_attn.q_proj.weight"),
            ("model.language_model.embed_tokens.weight", "language_model.model.embed_tokens.weight"),
            ("lm_head.weight", "language_model.lm_head.weight"),
            ("visual.blocks.0.mlp.fc1.weight", "model.visual.blocks.0.mlp.fc1.weight"),
            ("bert.encoder.layer.0.output.dense.weight", "encoder.layer.0.output.dense.weight"),
        ],
    )
    def test_names_that_differ_by_wrappers_align_under_the_base_name(self, base: str, tuned: str) -> None:
        for left, right in ((base, tuned), (tuned, base)):
            pair = pair_checkpoints(checkpoint(names(left)), checkpoint(names(right)))
            assert paired(pair) == [left]
            assert pair.unaligned == ()
            assert pair.notes == (f"1 tensor under another prefix in the tuned checkpoint ({left})",)

    def test_equal_names_are_never_renamed(self) -> None:
        both = names(LAYER, f"module.{LAYER}")
        pair = pair_checkpoints(checkpoint(both), checkpoint(both))
        assert paired(pair) == sorted(both)
        assert pair.notes == ()

    def test_a_name_that_could_stand_for_two_is_left_alone(self) -> None:
        base = names("model.embed.weight", "language_model.embed.weight", "x")
        pair = pair_checkpoints(checkpoint(base), checkpoint(names("embed.weight", "x")))
        assert paired(pair) == ["x"]
        assert faults(pair) == [
            "embed.weight: only in tuned",
            "language_model.embed.weight: only in base",
            "model.embed.weight: only in base",
        ]

    def test_words_that_are_no_wrappers_tell_tensors_apart(self) -> None:
        base, tuned = names("encoder.final_norm.weight", "x"), names("decoder.final_norm.weight", "x")
        assert paired(pair_checkpoints(checkpoint(base), checkpoint(tuned))) == ["x"]

    def test_nothing_in_common_is_an_error_that_shows_both_sides(self) -> None:
        with pytest.raises(PairingError, match=r"no tensor name in common \(base has a\.b, tuned has c\.d\)"):
            pair_checkpoints(checkpoint(names("a.b")), checkpoint(names("c.d")))

    def test_control_characters_in_names_are_escaped(self) -> None:
        pair = pair_checkpoints(checkpoint(names("x", "a\nb\x1b[31m")), checkpoint(names("x")))
        assert faults(pair) == ["a\\nb\\x1b[31m: only in base"]

    @given(st.lists(st.text("abm.od_ule", max_size=12)), st.lists(st.text("abm.od_ule", max_size=12)))
    def test_renaming_is_one_to_one_and_touches_no_common_name(self, base: list[str], tuned: list[str]) -> None:
        found = renamed(base, tuned)
        assert len(set(found.values())) == len(found)
        assert not found.keys() & set(base)
        assert not set(found.values()) & set(tuned)


class TestShapes:
    def test_different_shapes_do_not_align(self) -> None:
        base = checkpoint({"x": torch.ones(2, 2), LAYER: torch.ones(4, 6)})
        pair = pair_checkpoints(base, checkpoint({"x": torch.ones(2, 2), LAYER: torch.ones(4, 8)}))
        assert faults(pair) == [f"{LAYER}: shapes differ, base [4, 6], tuned [4, 8]"]

    @pytest.mark.parametrize("rows", [(8, 12), (12, 8)])
    @pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight", "transformer.wte.weight"])
    def test_a_resized_vocabulary_is_compared_on_the_common_rows(self, name: str, rows: tuple[int, int]) -> None:
        grown = torch.arange(12 * 3.0).reshape(12, 3)
        base, tuned = ({name: grown[:n]} for n in rows)
        pair = pair_checkpoints(checkpoint(base), checkpoint(tuned))
        tensor = only(pair)
        assert tensor.shape == (8, 3)
        assert torch.equal(tensor.base.read(), grown[:8])
        assert torch.equal(tensor.tuned.read(), grown[:8])
        assert [u.fault for u in pair.unaligned] == ["rows beyond the common vocabulary"]
        sides = f"base [{rows[0]}, 3], tuned [{rows[1]}, 3]"
        assert faults(pair) == [f"{name}: rows beyond the common vocabulary, {sides}; the first 8 are compared"]

    def test_another_width_of_the_embedding_is_no_resized_vocabulary(self) -> None:
        name = "model.embed_tokens.weight"
        pair = pair_checkpoints(checkpoint({name: torch.ones(8, 3)}), checkpoint({name: torch.ones(12, 4)}))
        assert [u.fault for u in pair.unaligned] == ["shapes differ"]

    def test_rows_of_other_weights_are_not_cut(self) -> None:
        pair = pair_checkpoints(checkpoint({LAYER: torch.ones(8, 3)}), checkpoint({LAYER: torch.ones(12, 3)}))
        assert [u.fault for u in pair.unaligned] == ["shapes differ"]

    @pytest.mark.parametrize(
        ("shape", "matrix_shape", "is_matrix"),
        [
            ((4, 6), (1, 4, 6), True),
            ((6,), (1, 1, 6), False),
            ((), (1, 1, 1), False),
            ((8, 3, 2, 4, 4), (1, 8, 96), True),
            ((8, 3, 5), (1, 8, 15), True),
            ((0, 6), (1, 0, 6), False),
        ],
    )
    def test_any_tensor_counts_as_matrices(
        self, shape: tuple[int, ...], matrix_shape: tuple[int, int, int], is_matrix: bool
    ) -> None:
        side = checkpoint({"conv.weight": torch.ones(shape)})
        tensor = only(pair_checkpoints(side, side))
        assert (tensor.matrix_shape, tensor.is_matrix) == (matrix_shape, is_matrix)
        assert tensor.matrix_names() == ("conv.weight",)

    def test_integers_are_no_matrices(self) -> None:
        side = checkpoint({"mask": torch.ones(4, 6, dtype=torch.int8)})
        assert not only(pair_checkpoints(side, side)).is_matrix

    def test_types_of_storage_may_differ(self) -> None:
        base, tuned = ({"x": torch.ones(4, 6, dtype=d)} for d in (torch.float32, torch.bfloat16))
        tensor = only(pair_checkpoints(checkpoint(base), checkpoint(tuned)))
        assert not tensor.dtypes_agree
        assert tensor.is_matrix


class TestSubjects:
    def test_layers_come_in_order_before_what_stands_outside(self) -> None:
        stored = [f"model.layers.{i}.mlp.up_proj.weight" for i in (10, 9, 2)] + ["model.embed_tokens.weight"]
        side = checkpoint(names(*stored))
        pair = pair_checkpoints(side, side)
        assert tuple(pair.subjects) == ("layers.2", "layers.9", "layers.10", "embed_tokens")
        assert pair.layers == ("layers.2", "layers.9", "layers.10")

    def test_selecting_roles(self) -> None:
        side = checkpoint(names(LAYER, "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"))
        pair = pair_checkpoints(side, side)
        assert list(pair.select(["attention"])) == ["layers.0"]
        assert list(pair.select(["up_proj"])) == ["layers.0", "layers.1"]
        assert pair.select(["nonesuch"]) == {}

    def test_selecting_under_a_condition(self) -> None:
        side = checkpoint(names(LAYER, "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"))
        pair = pair_checkpoints(side, side)

        def is_first(tensor: AlignedTensor) -> bool:
            return tensor.place.layer == 0

        assert {s: [t.place.role for t in ts] for s, ts in pair.select(["up_proj"], is_first).items()} == {
            "layers.0": ["up_proj"]
        }
        assert pair.select_all(["up_proj"]) == tuple(t for t in pair.aligned if t.place.role == "up_proj")


class TestFusedTensors:
    def test_one_side_may_lack_its_config(self) -> None:
        tensors = {QKV: torch.ones(64, 32)}
        nothing: dict[str, object] = {}
        for configs in ((PHI3, nothing), (nothing, PHI3)):
            pair = pair_checkpoints(*(checkpoint(tensors, config) for config in configs))
            assert [t.place.role for t in pair.aligned] == ["k_proj", "q_proj", "v_proj"]

    def test_without_a_config_it_is_one_weight_and_a_note_says_so(self) -> None:
        side = checkpoint({QKV: torch.ones(64, 32)})
        pair = pair_checkpoints(side, side)
        assert only(pair).place.role == "qkv_proj"
        assert list(pair.select(["attention"])) == ["layers.0"]
        reason = "no family in ckptaudit/naming/families describes how this model fuses it"
        assert pair.notes == (f"1 fused tensor kept whole: {reason} ({QKV})",)

    def test_fused_on_one_side_and_apart_on_the_other(self) -> None:
        whole = torch.arange(64 * 32.0).reshape(64, 32)
        apart = {
            f"model.layers.0.self_attn.{role}.weight": rows
            for role, rows in zip(("q_proj", "k_proj", "v_proj"), whole.split((32, 16, 16)), strict=True)
        }
        pair = pair_checkpoints(checkpoint({QKV: whole}, PHI3), checkpoint(apart, PHI3))
        assert paired(pair) == [f"{QKV}[{role}]" for role in ("k_proj", "q_proj", "v_proj")]
        assert all(torch.equal(t.base.read(), t.tuned.read()) for t in pair.aligned)
        assert pair.unaligned == ()

    def test_what_is_missing_of_a_fused_tensor_is_named(self) -> None:
        apart = {"model.layers.0.self_attn.q_proj.weight": torch.ones(32, 32)}
        pair = pair_checkpoints(checkpoint({QKV: torch.ones(64, 32)}, PHI3), checkpoint(apart, PHI3))
        assert faults(pair) == [f"{QKV}[{role}]: only in base" for role in ("k_proj", "v_proj")]

    def test_different_architectures_are_not_forced_together(self) -> None:
        base = checkpoint({QKV: torch.ones(96, 32)}, {"model_type": "phi3", "num_attention_heads": 4})
        tuned = checkpoint({"transformer.h.0.attn.c_attn.weight": torch.ones(32, 96)}, {"model_type": "gpt2"})
        with pytest.raises(PairingError, match="no tensor name in common"):
            pair_checkpoints(base, tuned)

    def test_a_missing_stack_of_experts_is_one_line(self) -> None:
        stack = {"model.layers.0.mlp.experts.down_proj": torch.ones(64, 4, 6), "x": torch.ones(2)}
        pair = pair_checkpoints(checkpoint(stack), checkpoint({"x": torch.ones(2)}))
        assert faults(pair) == ["model.layers.0.mlp.experts.down_proj: only in base"]

    @pytest.mark.parametrize("kind", ["phi3", "gpt2", "gpt_neox"])
    def test_each_weight_keeps_its_share_of_an_adapters_update(self, kind: str) -> None:
        stored = {"phi3": QKV, "gpt2": "h.0.attn.c_attn.weight", "gpt_neox": "layers.0.query_key_value.weight"}
        up, down = torch.randn(96, 3), torch.randn(3, 32)
        whole = up @ down if kind != "gpt2" else (up @ down).mT
        config: dict[str, object] = {"model_type": kind, "num_attention_heads": 4}
        factors = checkpoint({"up": up, "down": down}).tensors
        update = LowRankUpdate(factors["up"], factors["down"], 1.0, transposed=kind == "gpt2")
        side = checkpoint({stored[kind]: whole}, config)
        handle = replace(side.tensors[stored[kind]], low_rank=update)
        pair = pair_checkpoints(side, replace(side, tensors={stored[kind]: handle}))
        assert len(pair.aligned) == 3
        for tensor in pair.aligned:
            share = tensor.tuned.low_rank
            assert share is not None
            assert not share.transposed
            torch.testing.assert_close(share.up.read() @ share.down.read(), tensor.tuned.read())
            assert share.up.shape == (32, 3)

    def test_an_update_that_is_stored_the_other_way_round_is_not_divided(self) -> None:
        factors = checkpoint({"up": torch.ones(32, 3), "down": torch.ones(3, 96)}).tensors
        side = checkpoint({QKV: torch.ones(96, 32)}, {"model_type": "phi3", "num_attention_heads": 4})
        update = LowRankUpdate(factors["up"], factors["down"], 1.0, transposed=True)
        handle = replace(side.tensors[QKV], low_rank=update)
        pair = pair_checkpoints(side, replace(side, tensors={QKV: handle}))
        assert [tensor.tuned.low_rank for tensor in pair.aligned] == [None] * 3

    def test_a_share_is_read_when_asked_for_and_not_before(self) -> None:
        reads: list[str] = []

        def load() -> torch.Tensor:
            reads.append("read")
            return torch.ones(64, 32)

        handle = TensorHandle(QKV, (64, 32), "float32", Path("made"), load)
        side = Checkpoint("made", "safetensors", {QKV: handle}, PHI3)
        pair = pair_checkpoints(side, side)
        assert reads == []
        assert pair.aligned[0].base.read().shape == (16, 32)
        assert reads == ["read"]
