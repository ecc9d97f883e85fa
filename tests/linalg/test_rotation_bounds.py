"""The series behind the bounds on rotation: no term lies above what stands for it."""

from __future__ import annotations

import math

import pytest
import torch

from ckptaudit.linalg import rotation_bounds
from ckptaudit.linalg.leading import Leading, leading
from ckptaudit.linalg.rotation_bounds import Images, images, rotation_sine

K, SHARE = 20, 0.9


def base_and_images(shape: tuple[int, int], kind: str) -> tuple[Leading, Images]:
    random = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 160, generator=random, dtype=torch.float64)).Q for n in shape)
    weight = (u * torch.arange(1, 161, dtype=torch.float64).pow(-0.5)) @ v.T
    step = torch.randn(*shape, generator=random, dtype=torch.float64)
    update = {
        "noise": step,
        "of the first": u[:, :1] @ v[:, -1:].T,
        "of the last": u[:, -1:] @ v[:, :K].sum(1)[None],
    }
    d = (1e-4 * update[kind] / torch.linalg.matrix_norm(update[kind])).float()
    base = leading(weight, K)
    assert base is not None
    return base, images(d, base, k=K, size=float(torch.linalg.matrix_norm(d.double())) * (1 + 1e-6))


@pytest.mark.parametrize("shape", [(160, 300), (300, 160)])
@pytest.mark.parametrize("kind", ["noise", "of the first", "of the last"])
def test_three_norms_bound_every_term_of_the_series(shape: tuple[int, int], kind: str) -> None:
    base, found = base_and_images(shape, kind)
    count = rotation_bounds.separation(base, K).count  # type: ignore[union-attr]
    weights = (float(base.s[K - 1]) / base.s[:count]).clamp(max=1.0)
    bound = rotation_bounds._series(found, base, K, count, SHARE)
    sums = [0.0, 0.0]
    for power in range(300):
        for side, gram in enumerate((found.right, found.left)):
            scaled = gram[:count, :count] * (weights * weights[:, None]) ** (power + 1)
            norm = math.sqrt(max(0.0, float(torch.linalg.eigvalsh(scaled)[-1])))
            sums[side ^ power % 2] += SHARE**power * norm
    assert max(sums) <= bound
    if kind == "noise":
        assert bound < 1.03 * max(sums)


def test_between_two_powers_the_terms_fall_and_are_not_as_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    base, found = base_and_images((300, 160), "noise")
    three = rotation_sine(found, base, k=K, share=SHARE)
    monkeypatch.setattr(rotation_bounds, "POWERS", tuple(map(float, range(40))))
    all_of_them = rotation_sine(found, base, k=K, share=SHARE)
    monkeypatch.setattr(rotation_bounds, "POWERS", (0.0,))
    assert all_of_them <= three < 1.03 * all_of_them < rotation_sine(found, base, k=K, share=SHARE)
