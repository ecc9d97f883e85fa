"""What was left at the base: named where its like changed, silent where that was chance or a choice of roles."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from ckptaudit.metrics.moved import (
    changed_frozen_parts,
    nearly_base,
    parts_at_base,
    runs_of,
    stale_layers,
    untouched_parts,
)
from ckptaudit.metrics.movement import Movement, chance
from ckptaudit.metrics.unchanged_rows import rows_at_base, stale_rows
from tests.stale_pairs import decoder, evidence_of, pair_of, trained

FINDERS = (
    stale_layers,
    parts_at_base,
    untouched_parts,
    nearly_base,
    changed_frozen_parts,
    stale_rows,
    rows_at_base,
)


def found(
    kept: Callable[[str], bool],
    *,
    experts: int = 0,
    file: Callable[[str], str] = lambda name: "one",
    frozen: tuple[str, ...] = (),
) -> dict[str, list[str]]:
    """What each metric names where the tensors that `kept` means are the base's, by metric."""
    base = decoder(experts=experts)
    tuned = {n: base[n] if kept(n) else w for n, w in trained(base).items()}
    evidence = evidence_of(pair_of(base, tuned, file), frozen)
    return {f.__name__: [x.tensor for x in fs] for f in FINDERS if (fs := f(evidence))}


def layer(*numbers: int) -> Callable[[str], bool]:
    return lambda name: any(f".layers.{i}." in name for i in numbers)


def test_a_healthy_update_leaves_nothing_to_find() -> None:
    assert found(lambda name: False) == {}


def test_the_base_itself_is_the_business_of_another_check() -> None:
    assert found(lambda name: True) == {}


def test_a_layer_between_changed_ones_is_stale() -> None:
    assert found(layer(2)) == {"stale_layers": ["layers.2"]}


def test_up_to_half_of_the_layers_are_stale_where_they_are_not_one_block() -> None:
    assert found(layer(1, 3, 4)) == {"stale_layers": ["layers.1", "layers.3-4"]}
    # The last layer may have been left alone on purpose, the others not.
    assert found(layer(1, 3, 5)) == {"stale_layers": ["layers.1", "layers.3"], "parts_at_base": ["layers.5"]}


def test_layers_at_an_end_a_large_block_and_most_of_a_model_only_warn() -> None:
    assert found(layer(5)) == {"parts_at_base": ["layers.5"]}
    assert found(layer(3, 4, 5)) == {"parts_at_base": ["layers.3-5"]}
    assert found(layer(2, 3, 4)) == {"parts_at_base": ["layers.2-4"]}
    assert found(layer(1, 2, 3, 5)) == {"parts_at_base": ["layers.1-3", "layers.5"]}


def test_an_adapter_on_some_layers_only_warns() -> None:
    assert found(lambda n: layer(2)(n) or "layers" not in n or "norm" in n) == {
        "parts_at_base": ["layers.2"],
        "untouched_parts": ["lm_head, embed_tokens"],
    }


def test_an_adapter_on_some_projections_is_a_line_to_read() -> None:
    kept = found(lambda n: "q_proj" not in n)
    assert kept == {"untouched_parts": ["lm_head, embed_tokens", "down_proj, up_proj", "o_proj"]}


def test_a_tensor_that_changed_in_other_layers_is_named() -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    assert found(lambda n: n == name) == {"parts_at_base": [name]}


def test_what_was_frozen_on_purpose_is_left_out() -> None:
    assert found(layer(2), frozen=("layers.2",)) == {}
    assert found(layer(2), frozen=("model.layers.2.*",)) == {}
    assert found(lambda n: "q_proj" in n, frozen=("q_proj",)) == {}


def test_frozen_parts_that_changed_and_patterns_that_name_nothing() -> None:
    assert found(layer(2), frozen=("layers.2", "visual.*")) == {"changed_frozen_parts": ["visual.*"]}
    names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(6)]
    assert found(lambda n: False, frozen=("q_proj",)) == {"changed_frozen_parts": names}


def test_a_stale_file_that_cuts_a_layer() -> None:
    def file(name: str) -> str:
        return "second" if ".layers.2.mlp" in name or layer(3, 4)(name) else "first"

    assert found(lambda n: file(n) == "second", file=file) == {"stale_layers": ["second"]}
    assert found(lambda n: False, file=file) == {}


def test_unused_experts_are_a_line_and_one_lost_in_every_layer_a_warning() -> None:
    assert found(lambda n: "layers.2.mlp.experts.1." in n, experts=4) == {"untouched_parts": ["experts"]}
    assert found(lambda n: ".experts.1." in n, experts=4) == {"parts_at_base": ["expert 1"]}
    assert found(lambda n: ".experts." in n, experts=4) == {"untouched_parts": ["up_proj"]}


def test_one_entry_of_a_model() -> None:
    base = decoder()
    tuned = {name: tensor.clone() for name, tensor in base.items()}
    tuned["model.layers.0.mlp.up_proj.weight"][0, 0] += 1
    (finding,) = nearly_base(evidence_of(pair_of(base, tuned)))
    assert finding.detail == "1 of 103,808 entries changed, in model.layers.0.mlp.up_proj.weight"
    assert not parts_at_base(evidence_of(pair_of(base, tuned)))


def test_tuning_of_biases_is_not_nearly_the_base() -> None:
    base = decoder()
    tuned = {n: trained(base)[n] if "norm" in n else w for n, w in base.items()}
    assert not nearly_base(evidence_of(pair_of(base, tuned)))


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_stale_rank_is_a_block_of_rows_of_every_matrix(ranks: int) -> None:
    base, rows = decoder(), 64 // ranks
    tuned = trained(base)
    for name, tensor in tuned.items():
        if tensor.shape[0] == 64:
            tensor[rows : 2 * rows] = base[name][rows : 2 * rows]
    evidence = evidence_of(pair_of(base, tuned))
    assert [f.tensor for f in stale_rows(evidence)] == [f"rank 1 of 0 to {ranks - 1}"]
    assert not rows_at_base(evidence)


def test_a_block_of_rows_of_one_matrix_is_named() -> None:
    base = decoder()
    tuned = trained(base)
    name = "model.layers.1.self_attn.q_proj.weight"
    tuned[name][16:32] = base[name][16:32]
    evidence = evidence_of(pair_of(base, tuned))
    assert [f.tensor for f in rows_at_base(evidence)] == [name]
    assert not stale_rows(evidence)


@settings(max_examples=25, deadline=None)
@given(share=st.floats(2e-3, 0.9), seed=st.integers(0, 2**16))
def test_no_sparse_healthy_update_is_stale(share: float, seed: int) -> None:
    base = decoder(4)
    evidence = evidence_of(pair_of(base, trained(base, share, seed)))
    assert not Movement.of(evidence).stale
    assert not [*stale_layers(evidence), *parts_at_base(evidence), *stale_rows(evidence), *rows_at_base(evidence)]


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 5000), k=st.integers(0, 5000), p=st.floats(1e-6, 1 - 1e-6))
def test_the_chance_is_a_bound_on_the_binomial_tail(n: int, k: int, p: float) -> None:
    k = min(k, n)
    assert binom.logcdf(k, n, p) <= chance(float(k), n, p) + 1e-6 * max(1.0, abs(chance(float(k), n, p)))


def test_the_chance_that_nothing_changes_is_exact() -> None:
    assert chance(0.0, 64, 0.1) == pytest.approx(64 * math.log(0.9))


def test_consecutive_numbers_are_one_run() -> None:
    assert runs_of([0, 1, 2, 5, 7, 8]) == [[0, 1, 2], [5], [7, 8]]


def test_parts_without_a_number_are_left_out() -> None:
    base = decoder(3)
    evidence = evidence_of(pair_of(base, trained(base)))
    values = {metric: dict.fromkeys(numbers) for metric, numbers in evidence.values.items()}
    blind = type(evidence)(evidence.pair, values)
    assert not any(find(blind) for find in FINDERS)
