"""Every recent family in both layouts: as save_pretrained writes it, and by its names in memory.

The names in memory are what FSDP2, torch.distributed.checkpoint and per-rank files hold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from ckptaudit.checkpoints import Checkpoint, TensorHandle, open_checkpoint
from ckptaudit.naming import PRIMARY_GROUPS, Naming, in_groups
from ckptaudit.pairing import ModelPair, pair_checkpoints
from tests.families.tiny_models import FAMILIES, tiny_model

Layouts = Callable[[str], tuple[Checkpoint, Checkpoint]]


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Layouts:
    """A family on disk and from memory, the same weights."""

    @cache
    def save(family: str) -> tuple[Checkpoint, Checkpoint]:
        model, folder = tiny_model(family), tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        on_disk = open_checkpoint(folder)
        blank = TensorHandle("", (), "", Path("memory"), lambda: torch.empty(0))
        state = {name: blank.with_tensor(tensor) for name, tensor in sorted(model.state_dict().items())}
        return on_disk, Checkpoint("memory", "safetensors", state, on_disk.config)

    return save


def moved(pair: ModelPair) -> list[str]:
    return [t.name for t in pair.aligned if not torch.equal(t.base.read(), t.tuned.read())]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_aligns_across_the_two_layouts(family: str, swapped: bool, layouts: Layouts) -> None:
    base, tuned = reversed(layouts(family)) if swapped else layouts(family)
    pair = pair_checkpoints(base, tuned)
    assert pair.unaligned == ()
    assert moved(pair) == []
    assert not [note for note in pair.notes if "kept whole" in note]
    assert sum(t.base.parameters for t in pair.aligned) >= base.parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_roles_layers_and_groups_do_not_depend_on_the_layout(family: str, layouts: Layouts) -> None:
    def places(checkpoint: Checkpoint) -> set[tuple[str, str, str]]:
        pair = pair_checkpoints(checkpoint, checkpoint)
        return {(t.place.subject, t.place.role, t.group) for t in pair.aligned}

    on_disk, in_memory = (places(side) for side in layouts(family))
    tied = {place for place in in_memory ^ on_disk if place[1] in ("lm_head", "embed_tokens", "lm_head.bias")}
    convolutions = {p for p in in_memory ^ on_disk if p[1].endswith(("qkv_proj", "conv1d"))}
    assert in_memory ^ on_disk == tied | convolutions


@pytest.mark.parametrize("family", FAMILIES)
def test_every_role_is_named_by_a_rule(family: str, layouts: Layouts) -> None:
    for side in layouts(family):
        naming = Naming(side.config, side.tensors)
        assert naming.unknown({name: handle.shape for name, handle in side.tensors.items()}) == ()
        assert naming.family.startswith(str(side.config["model_type"]))


@pytest.mark.parametrize("family", FAMILIES)
def test_primary_groups_share_the_weights_out(family: str, layouts: Layouts) -> None:
    on_disk, _ = layouts(family)
    pair = pair_checkpoints(on_disk, on_disk)
    for tensor in pair.aligned:
        group = tensor.group
        assert group in PRIMARY_GROUPS
        if "int" not in tensor.base.dtype and group != "attention" and group != "mlp":
            assert in_groups(tensor.place.role, (group,), is_matrix=tensor.is_matrix)
    found = {tensor.group for tensor in pair.aligned}
    assert "vocabulary" in found
    assert found & {"attention", "linear_attention", "state_space"}


@pytest.mark.parametrize(
    ("family", "role", "group"),
    [
        ("granitemoehybrid", "A_log", "state_space"),
        ("granitemoehybrid", "gate_proj", "mlp"),
        ("mamba2", "in_proj", "state_space"),
        ("mamba2", "dt_bias", "state_space"),
        ("jamba", "D", "state_space"),
        ("qwen3_next", "linear_attn.conv1d", "linear_attention"),
        ("qwen3_next", "shared_expert_gate", "router"),
        ("kimi_linear", "linear_attn.dt_bias", "linear_attention"),
        ("kimi_linear", "linear_attn.k_conv1d", "linear_attention"),
        ("deepseek_v3", "router.bias", "router"),
        ("deepseek_v4", "sinks", "sinks"),
        ("deepseek_v4", "attn_hc.fn", "other"),
        ("deepseek_v4", "q_a_proj", "attention"),
        ("deepseek_v4", "compressor.kv_proj", "attention"),
        ("deepseek_v4", "tid2eid", "statistics"),
        ("deepseek_v32", "indexer.wq_b", "attention"),
        ("gpt_oss", "sinks", "sinks"),
        ("gpt_oss", "down_proj.bias", "bias"),
        ("gemma3n_text", "embed_tokens_per_layer", "vocabulary"),
        ("gemma4_text", "layer_scalar", "scalars"),
        ("qwen2_5_vl", "patch_embed.proj", "vision"),
        ("qwen2_5_vl", "merger.mlp.0", "vision"),
        ("kimi_k25", "mm_projector.in_proj", "vision"),
        ("whisper", "position_embeddings", "vocabulary"),
        ("whisper", "cross_attn.q_proj", "attention"),
        ("t5gemma", "cross_attn.k_proj", "attention"),
        ("lfm2", "conv", "state_space"),
        ("minimax", "slope_rate", "statistics"),
        ("llama4", "router", "router"),
    ],
)
def test_what_is_new_in_these_families_has_a_group(family: str, role: str, group: str, layouts: Layouts) -> None:
    for side in layouts(family):
        found = {t.group for t in pair_checkpoints(side, side).aligned if t.place.role == role}
        if found or role not in ("linear_attn.k_conv1d",):
            assert found == {group}


@pytest.mark.parametrize("family", ["t5gemma", "whisper"])
def test_attention_to_the_encoder_is_a_role_of_its_own(family: str, layouts: Layouts) -> None:
    on_disk, _ = layouts(family)
    roles = [t.place.role for t in pair_checkpoints(on_disk, on_disk).subjects["decoder.layers.0"] if t.is_matrix]
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert roles.count(part) == 1
        assert roles.count(f"cross_attn.{part}") == 1


def test_stacked_and_numbered_experts_stand_in_the_same_order(layouts: Layouts) -> None:
    pair = pair_checkpoints(*layouts("granitemoehybrid"))
    stacks = [t for t in pair.select(["down_proj"])["layers.0"] if t.stacked]
    assert [t.shape for t in stacks] == [(4, 32, 48)]
    numbered = pair_checkpoints(*layouts("hy_v3")).select(["down_proj"])["layers.1"]
    assert [t.place.expert for t in numbered if t.place.expert is not None] == [0, 1, 2, 3]


def test_short_convolutions_are_divided_as_the_other_side_stores_them(layouts: Layouts) -> None:
    """save_pretrained cuts the fused convolution in thirds, though keys and values differ in width."""
    on_disk, in_memory = layouts("olmo_hybrid")
    apart = {n: h.shape[0] for n, h in on_disk.tensors.items() if "layers.0" in n and "conv1d" in n}
    pair = pair_checkpoints(in_memory, on_disk)
    found = {t.place.role: t.shape[0] for t in pair.subjects["layers.0"] if "conv1d" in t.place.role}
    assert sorted(found.values()) == sorted(apart.values())
    alone = pair_checkpoints(in_memory, in_memory)
    widths = {t.place.role: t.shape[0] for t in alone.subjects["layers.0"] if "conv1d" in t.place.role}
    assert widths == {"linear_attn.q_conv1d": 16, "linear_attn.k_conv1d": 16, "linear_attn.v_conv1d": 32}


def test_queries_of_a_tower_are_put_in_the_order_of_rotary_halves(layouts: Layouts) -> None:
    on_disk, in_memory = layouts("kimi_k25")
    name = next(n for n in on_disk.tensors if n.endswith("blocks.0.wqkv.weight"))
    stored = on_disk.tensors[name].read()
    pair = pair_checkpoints(on_disk, in_memory)
    query = next(t for t in pair.aligned if t.name == f"{name}[q_proj]").base.read()
    first_head = stored[: len(query) // 4]
    torch.testing.assert_close(query[: len(query) // 4], torch.cat([first_head[0::2], first_head[1::2]]))
