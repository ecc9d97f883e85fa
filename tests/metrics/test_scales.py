"""What "worse by a factor" means, at both ends of each scale."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptaudit.metrics import PairBatch, matrix_metrics
from ckptaudit.metrics.scales import Badness, badness

SCALES = [
    Badness(scale=scale, at_most=at_most, limit=0.3) for scale in ("size", "share") for at_most in (False, True)
]


@pytest.mark.parametrize(
    ("metric", "at_most", "limit", "value", "worse"),
    [
        ("relative_update_norm", True, 1e-2, 3e-3, 6e-3),
        ("update_hill_alpha", False, 2.0, 5.0, 2.5),
        ("update_sparsity", False, 0.275, 0.9, 0.9 / 1.1),  # odds 9 to 4.5
        ("principal_mask_overlap", True, 0.5, 0.2, 1 / 3),  # odds 1/4 to 1/2
        ("relative_update_norm", True, 1e-2, 0.0, 2e-4),  # a hundredth of the limit counts as nothing
        ("nonfinite_entries", True, 0.0, 0.0, 0.0),
    ],
)
def test_twice_as_bad(metric: str, at_most: bool, limit: float, value: float, worse: float) -> None:
    assert badness(metric, at_most=at_most, limit=limit).worsened(value, 2.0) == pytest.approx(worse)


@given(st.sampled_from(SCALES), st.floats(0, 1), st.floats(1, 100))
def test_worse_is_on_the_far_side_and_a_share_stays_one(scale: Badness, value: float, factor: float) -> None:
    worse = scale.worsened(value, factor)
    slack = 1e-9
    assert worse >= value - slack if scale.at_most else worse <= max(value, scale.value(scale.of(1.0))) + slack
    if scale.scale == "share":
        assert 0 <= worse <= 1


@given(st.sampled_from(SCALES), st.floats(0.05, 0.95))
def test_a_value_and_its_badness_are_one_thing(scale: Badness, value: float) -> None:
    assert scale.value(scale.of(value)) == pytest.approx(value)


def test_shares_stay_within_0_and_1() -> None:
    random = torch.Generator().manual_seed(0)
    base = torch.randn(3, 12, 20, generator=random)
    batch = PairBatch(base, base + 0.01 * torch.randn(base.shape, generator=random))
    shares = {name: metric for name, metric in matrix_metrics().items() if metric.scale == "share"}
    assert shares
    for name, metric in shares.items():
        values = metric.compute(batch)
        # The ratio to an isotropic update's share can pass 1 by as much as that share falls short of it.
        assert bool(((values >= 0) & (values <= 1.05)).all()), name
