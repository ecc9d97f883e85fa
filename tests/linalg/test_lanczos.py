"""The spectral norm that Lanczos' method finds is NumPy's, and the error stated holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ckptaudit.linalg import lanczos
from ckptaudit.linalg.lanczos import spectral_norm

MATRICES = {
    "noise": lambda random: random.standard_normal((300, 160)),
    "wide noise": lambda random: random.standard_normal((160, 500)),
    "rank one": lambda random: np.outer(random.standard_normal(200), random.standard_normal(150)),
    "ties": lambda random: np.linalg.qr(random.standard_normal((200, 150)))[0],
    "spike in noise": lambda random: random.standard_normal((200, 150)) + 40 * np.eye(200, 150, 7),
    "tiny": lambda random: 1e-9 * random.standard_normal((200, 150)),
    "zero": lambda random: np.zeros((200, 150)),
    "one column": lambda random: random.standard_normal((200, 1)),
}


@pytest.mark.parametrize("steps", [20, 100, 500])
@pytest.mark.parametrize("name", MATRICES)
def test_the_norm_is_within_the_error_from_below(name: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanczos, "STEPS", steps)
    matrix = MATRICES[name](np.random.default_rng(0)).astype(np.float32)
    exact = float(np.linalg.norm(matrix.astype(np.float64), 2))
    norm, error = spectral_norm(torch.from_numpy(matrix))
    assert norm * (1 - 1e-5) <= exact <= (norm + error) * (1 + 1e-7)
    if steps >= 100:
        assert error <= 0.005 * norm
