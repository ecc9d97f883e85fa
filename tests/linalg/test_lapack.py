"""The bridge to SciPy's LAPACK offers its routines together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from ckptaudit.linalg.fast import lapack


@pytest.fixture(autouse=True)
def _looked_up_again() -> Iterator[None]:
    lapack.is_available.cache_clear()
    yield
    lapack.is_available.cache_clear()


def use_everything(dtype: torch.dtype) -> None:
    rows = torch.randn(30, 20, generator=torch.Generator().manual_seed(0), dtype=dtype)
    total = torch.zeros(20, 20, dtype=dtype)
    lapack.add_gram(rows, total)
    matrix = rows.mT @ rows
    reflectors = matrix.clone()
    diagonal, off, factors = lapack.tridiagonal(reflectors)
    values = lapack.tridiagonal_values(diagonal, off)
    for find in (lapack.tridiagonal_vectors, lapack.tridiagonal_vectors_of_ties):
        lapack.transformed_back(reflectors, factors, find(diagonal, off, values[-3:]))
    lapack.decomposed(matrix)


def test_this_scipy_has_every_routine() -> None:
    assert lapack.is_available()


def test_every_routine_that_is_called_is_looked_up_before(monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()
    routine = lapack._routine

    def noted(name: str) -> Callable[..., None]:
        called.add(name)
        return routine(name)

    monkeypatch.setattr(lapack, "_routine", noted)
    for dtype in (torch.float32, torch.float64):
        use_everything(dtype)
    assert called == set(lapack.ROUTINES)


@pytest.mark.parametrize("absent", lapack.ROUTINES)
def test_without_one_of_them_none_is_offered(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.linalg import cython_blas, cython_lapack

    for module in (cython_blas, cython_lapack):
        published = {name: capsule for name, capsule in module.__pyx_capi__.items() if name != absent}
        monkeypatch.setattr(module, "__pyx_capi__", published)
    lapack._routine.cache_clear()
    assert not lapack.is_available()


def test_a_routine_with_other_arguments_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.linalg import cython_lapack

    published = dict(cython_lapack.__pyx_capi__)
    published["dsyevd"] = published["zheevd"]
    monkeypatch.setattr(cython_lapack, "__pyx_capi__", published)
    lapack._routine.cache_clear()
    assert not lapack.is_available()


@pytest.mark.parametrize("count", [1, 7, 40])
def test_vectors_of_repeated_eigenvalues_are_orthonormal(count: int) -> None:
    diagonal, off = torch.ones(40, dtype=torch.float64), torch.zeros(40, dtype=torch.float64)
    rows = lapack.tridiagonal_vectors_of_ties(diagonal, off, diagonal[:count])
    assert torch.allclose(rows @ rows.mT, torch.eye(count, dtype=torch.float64), atol=1e-12)
