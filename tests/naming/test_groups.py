"""Groups that a check may select, and the primary groups, of which every tensor is in exactly one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.naming import GROUPS, PRIMARY_GROUPS, in_groups, is_known, primary_group

ROLES = st.one_of(
    st.text("abq_k.poj", max_size=12),
    st.sampled_from(["q_proj", "router.bias", "A_log", "linear_attn.conv1d", "norm", "lm_head.bias", "sinks"]),
)


@pytest.mark.parametrize(
    ("role", "is_matrix", "in_experts", "groups"),
    [
        ("q_proj", True, False, {"attention"}),
        ("q_proj.bias", False, False, {"bias"}),
        ("cross_attn.o_proj", True, False, {"attention"}),
        ("indexer.wq_b", True, False, {"attention"}),
        ("down_proj", True, True, {"mlp", "expert"}),
        ("down_proj.bias", False, True, {"bias"}),
        ("router", True, False, {"router"}),
        ("router.bias", False, False, {"router", "bias"}),
        ("embed_tokens", True, False, {"embedding", "vocabulary"}),
        ("lm_head", True, False, {"embedding", "vocabulary"}),
        ("embed_tokens_per_layer", True, False, {"vocabulary"}),
        ("input_layernorm", False, False, {"norm"}),
        ("ln_1", False, False, {"norm"}),
        ("ln_1.bias", False, False, {"bias"}),
        ("LayerNorm", False, False, {"norm"}),
        ("sinks", False, False, {"sinks"}),
        ("layer_scalar", False, False, {"scalars"}),
        ("logit_scale", False, False, {"scalars"}),
        ("running_mean", False, False, {"statistics"}),
        ("A_log", False, False, {"state_space"}),
        ("A_log", True, False, {"state_space"}),
        ("D", False, False, {"state_space"}),
        ("dt_bias", False, False, {"state_space"}),
        ("conv1d", True, False, {"state_space"}),
        ("conv1d.bias", False, False, {"bias"}),
        ("linear_attn.conv1d", True, False, {"linear_attention"}),
        ("linear_attn.q_proj", True, False, {"linear_attention", "attention"}),
        ("linear_attn.norm", False, False, {"norm"}),
        ("merger.mlp.0", True, False, {"projector", "vision"}),
        ("merger.ln_q", False, False, {"norm"}),
        ("patch_embed.proj", True, False, {"vision"}),
        ("v_head.summary", True, False, {"heads"}),
        ("score", True, False, {"heads"}),
        ("attn_hc.fn", True, False, {"other"}),
        ("frobnicate", True, False, {"other"}),
        ("frobnicate", False, False, {"other"}),
    ],
)
def test_groups(role: str, is_matrix: bool, in_experts: bool, groups: set[str]) -> None:
    def member(group: str) -> bool:
        return in_groups(role, (group,), is_matrix=is_matrix, in_experts=in_experts)

    assert {group for group in GROUPS if member(group)} == groups | {"all"} | ({"matrix"} if is_matrix else set())


@given(role=ROLES, is_matrix=st.booleans())
def test_every_tensor_is_in_exactly_one_primary_group_and_can_be_selected_by_it(role: str, is_matrix: bool) -> None:
    group = primary_group(role, is_matrix=is_matrix)
    assert group in PRIMARY_GROUPS
    assert in_groups(role, (group,), is_matrix=is_matrix)
    assert {"vocabulary", "router", "heads", "scalars", "other"} <= {*PRIMARY_GROUPS} <= {*GROUPS}


def test_what_is_not_floating_point_is_not_trained() -> None:
    assert primary_group("q_proj", is_matrix=True, floating=False) == "statistics"


def test_biases_of_stacked_experts_are_biases_though_they_have_two_axes() -> None:
    assert primary_group("gate_up_proj.bias", is_matrix=True) == "bias"


@pytest.mark.parametrize(("role", "known"), [("q_proj", True), ("attn_hc.fn", True), ("frobnicate", False)])
def test_a_role_in_no_group_may_still_be_known(role: str, known: bool) -> None:
    assert is_known(role, is_matrix=True) is known
