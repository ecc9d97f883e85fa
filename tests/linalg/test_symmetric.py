"""Symmetric matrices: what LAPACK is asked for in part is what NumPy finds in full."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ckptaudit.linalg import symmetric
from ckptaudit.linalg.fast import lapack
from ckptaudit.linalg.symmetric import (
    Eigen,
    add_gram,
    eigenvalues,
    eigenvectors,
    from_triangle,
    largest_eigenvalues,
    mirrored,
    triangle,
)

N = 150


def of(values: Tensor) -> Tensor:
    random = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(len(values), len(values), generator=random, dtype=torch.float64)).Q
    product = (q * values) @ q.T
    return 0.5 * (product + product.T)


MATRICES = {
    "heavy": of(1.0 / torch.arange(1, N + 1, dtype=torch.float64)),
    "of both signs": of(torch.linspace(-1, 2, N, dtype=torch.float64)),
    "tied": of(torch.ones(N, dtype=torch.float64)),
    "in clusters": of(torch.arange(N, dtype=torch.float64).div(10).floor()),
    "of rank 3": of(torch.arange(N, dtype=torch.float64).lt(3).double()),
    "diagonal": torch.diag(torch.arange(N, dtype=torch.float64)),
    "zero": torch.zeros(N, N, dtype=torch.float64),
    "huge": 1e150 * of(1.0 / torch.arange(1, N + 1, dtype=torch.float64)),
    "tiny": 1e-150 * of(1.0 / torch.arange(1, N + 1, dtype=torch.float64)),
}


@pytest.fixture(params=["lapack", "torch", "as for large matrices"], autouse=True)
def _every_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(lapack, "is_available", lambda: False)
    elif request.param != "lapack":
        monkeypatch.setattr(symmetric, "LARGE", 1)


@pytest.mark.parametrize("name", MATRICES)
def test_eigenvalues_are_those_of_numpy(name: str) -> None:
    matrix = MATRICES[name]
    expected = np.linalg.eigvalsh(matrix.numpy())[::-1]
    room = 1e-13 * np.abs(expected).max()
    for seen in (eigenvalues(matrix), Eigen(matrix).values, eigenvectors(matrix)[0]):
        assert np.allclose(seen.numpy(), expected, rtol=0, atol=room)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", sorted(MATRICES.keys() - {"huge", "tiny"}))
def test_the_largest_eigenvalues_are_those_of_numpy(name: str, dtype: torch.dtype) -> None:
    matrix = MATRICES[name].to(dtype)
    expected = np.linalg.eigvalsh(matrix.double().numpy())[::-1]
    seen = largest_eigenvalues(matrix, 20).numpy()
    assert np.allclose(seen, expected[:20], rtol=0, atol=N * torch.finfo(dtype).eps * np.abs(expected).max())


@pytest.mark.parametrize("count", [1, 20, 37, 38, N])
@pytest.mark.parametrize("name", MATRICES)
def test_vectors_solve_the_equation_and_are_orthonormal(name: str, count: int) -> None:
    matrix = MATRICES[name]
    found = Eigen(matrix)
    vectors = found.vectors(count)
    assert vectors.shape == (N, count)
    assert np.abs(vectors.numpy().T @ vectors.numpy() - np.eye(count)).max() < 1e-10
    room = 1e-12 * float(found.values.abs().max())
    assert float((matrix @ vectors - vectors * found.values[:count]).abs().max()) <= room


@pytest.mark.parametrize("function", [eigenvalues, lambda matrix: Eigen(matrix).vectors(9), eigenvectors])
def test_the_matrix_itself_is_left_as_it_was(function: Callable[[Tensor], object]) -> None:
    matrix = MATRICES["heavy"].clone()
    function(matrix)
    assert torch.equal(matrix, MATRICES["heavy"])


def test_what_needs_all_vectors_is_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(matrix: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(matrix))
        return eigenvectors(matrix)

    monkeypatch.setattr(symmetric, "eigenvectors", counted)
    found = Eigen(MATRICES["tied"])
    for count in (N, 5):
        assert found.vectors(count).shape == (N, count)
    assert calls == [N]


def test_where_lapack_finds_no_vectors_all_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Tensor) -> Tensor:
        raise lapack.Unsolved

    expected = Eigen(MATRICES["heavy"]).vectors(5).abs()
    monkeypatch.setattr(lapack, "tridiagonal_vectors", fail)
    assert torch.allclose(Eigen(MATRICES["heavy"]).vectors(5).abs(), expected, atol=1e-12)
    monkeypatch.setattr(lapack, "tridiagonal", fail)
    assert torch.allclose(Eigen(MATRICES["heavy"]).vectors(5).abs(), expected, atol=1e-12)


def test_vectors_that_are_not_orthonormal_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmetric, "SKEW", 0.0)
    vectors = Eigen(MATRICES["heavy"]).vectors(5)
    assert torch.allclose(vectors.abs(), eigenvectors(MATRICES["heavy"])[1][:, :5].abs(), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("n", [64, 130, N])
def test_a_gram_matrix_is_added_to_what_was_there(n: int, transposed: bool, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(n, 300, generator=random, dtype=dtype).mT if transposed else torch.randn(300, n, dtype=dtype)
    total = torch.eye(n, dtype=dtype)
    add_gram(rows, total)
    expected = np.eye(n) + rows.double().numpy().T @ rows.double().numpy()
    room = 1e-11 if dtype == torch.float64 else 1e-3
    assert np.allclose(mirrored(total).double().numpy(), expected, rtol=0, atol=room)


def test_rows_with_a_stride_are_copied_first() -> None:
    wide = torch.randn(300, 2 * N, dtype=torch.float64)
    total = torch.zeros(N, N, dtype=torch.float64)
    add_gram(wide[:, ::2], total)
    assert torch.allclose(mirrored(total), wide[:, ::2].mT @ wide[:, ::2])


@pytest.mark.parametrize("n", [1, 63, 64, 65, N])
def test_a_triangle_holds_the_whole_of_a_symmetric_matrix(n: int) -> None:
    matrix = MATRICES["heavy"][:n, :n]
    kept = triangle(matrix)
    assert kept.numel() <= n * (n + symmetric.BLOCK) / 2 + symmetric.BLOCK**2
    assert torch.equal(from_triangle(kept, n), matrix)
