"""Agreement of two updates, against NumPy and planted answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ckptaudit.linalg.agreement import beyond_chance, jaccard, leading_right, shared_entries, subspace_similarity


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 40, 24), (2, 24, 40)])
def test_leading_directions_span_what_numpys_do(shape: tuple[int, ...]) -> None:
    update = noise(*shape)
    space, s = leading_right(update, 5)
    for i in range(2):
        _, expected, vh = np.linalg.svd(update[i].numpy())
        assert s[i].numpy() == pytest.approx(expected, rel=1e-9)
        projector = (space[i] @ space[i].T).numpy()
        assert projector == pytest.approx(vh[:5].T @ vh[:5], abs=1e-9)


def test_directions_past_the_rank_are_left_out() -> None:
    space, _ = leading_right(noise(1, 30, 2) @ noise(1, 2, 20, seed=1), 5)
    assert (space[0].norm(dim=0) > 0).tolist() == [True, True, False, False, False]
    assert float(subspace_similarity(space, space)) == pytest.approx(1.0)
    nothing, _ = leading_right(torch.zeros(1, 30, 20).double(), 5)
    assert bool(subspace_similarity(nothing, space).isnan())


def test_similarity_is_the_mean_squared_cosine() -> None:
    x, y = torch.eye(6).double()[None, :, :2], torch.eye(6).double()[None, :, 1:3]
    assert float(subspace_similarity(x, y)) == pytest.approx(0.5)
    rotated, _ = torch.linalg.qr(noise(1, 6, 6))
    assert float(subspace_similarity(rotated @ x, rotated @ y)) == pytest.approx(0.5)


def test_independent_masks_agree_by_chance_and_nested_ones_fully() -> None:
    random = torch.Generator().manual_seed(0)
    first, second = (torch.rand(1, 400, 500, generator=random) < p for p in (0.6, 0.2))
    shares = shared_entries(torch.stack([first, second, first & second])).double()[..., 0] / first.numel()
    sizes = shares.diagonal()
    # Two hundred thousand entries: four deviations of the shared share are about 0.003.
    assert float(beyond_chance(shares[0, 1], sizes[0], sizes[1])) == pytest.approx(0.0, abs=0.04)
    assert float(beyond_chance(shares[0, 2], sizes[0], sizes[2])) == pytest.approx(1.0)
    expected = (first & second).sum() / (first | second).sum()
    assert float(jaccard(shares[0, 1], sizes[0], sizes[1])) == pytest.approx(float(expected))


def test_a_full_or_empty_mask_has_nothing_to_agree_on() -> None:
    one = torch.tensor(1.0).double()
    assert bool(beyond_chance(0.3 * one, one, 0.3 * one).isnan())
    assert bool(jaccard(0 * one, 0 * one, 0 * one).isnan())
