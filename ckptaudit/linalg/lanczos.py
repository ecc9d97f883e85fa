"""The spectral norm of a large matrix by Lanczos' method, without its Gram matrix."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from ckptaudit.linalg.gram import tall
from ckptaudit.linalg.products import EPS, UNIT, multiply

STEPS = 100
"""Steps at most; each reads the matrix twice."""

FAILURE = 1e-6
"""Probability, over the random start, with which the error may be larger than stated."""


def spectral_norm(matrix: Float32[Tensor, "m n"]) -> tuple[float, float]:
    """norm_2(D) from below, and how far it may lie above.

    Lanczos' method for D'D from a random unit vector, orthogonalized in full. After j steps the largest eigenvalue
    is missed by a relative e with a probability of at most 1.648 sqrt(n) exp(-sqrt(e) (2 j - 1))
    (Kuczynski and Wozniakowski 1992, theorem 4.2), whatever the spectrum is.
    """
    upright = tall(matrix)
    n = upright.shape[1]
    random = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(matrix.device)
    basis = random.new_zeros(min(STEPS, n), n)
    basis[0] = random / torch.linalg.vector_norm(random)
    off: list[float] = []
    diagonal: list[float] = []
    for step in range(len(basis)):
        image = _normal(upright, basis[step])
        diagonal.append(float(image @ basis[step]))
        for _ in range(2):
            image = image - basis[: step + 1].mT @ (basis[: step + 1] @ image)
        length = float(torch.linalg.vector_norm(image))
        if step + 1 == len(basis) or length <= n * EPS * max(map(abs, diagonal)):
            break
        off.append(length)
        basis[step + 1] = image / length
    largest = _largest_value(diagonal, off)
    missed = _missed(n, len(diagonal)) if len(diagonal) == STEPS < n else 0.0
    norm = math.sqrt(max(largest, 0.0))
    return norm, norm * (1 / math.sqrt(1 - missed) - 1 + math.sqrt(n) * UNIT)


def _normal(matrix: Float32[Tensor, "m n"], x: Float64[Tensor, "n"]) -> Float64[Tensor, "n"]:
    # As rows, which run at the speed of memory.
    image: Tensor = multiply(multiply(x.float()[None], matrix.mT), matrix)[0].double()
    return image


def _largest_value(diagonal: list[float], off: list[float]) -> float:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for at, value in enumerate(off[: len(diagonal) - 1]):
        matrix[at, at + 1] = matrix[at + 1, at] = value
    return float(torch.linalg.eigvalsh(matrix)[-1])


def _missed(n: int, steps: int) -> float:
    return (math.log(1.648 * math.sqrt(n) / FAILURE) / (2 * steps - 1)) ** 2
