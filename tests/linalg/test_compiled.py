"""The compiled passes over an update give what NumPy gives in float64, however matrices are stored and divided."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from ckptaudit.linalg.changes import own_product, products
from ckptaudit.linalg.fast import compiled
from tests.conftest import missing

UNIT = 2.0**-24

needs_it = pytest.mark.usefixtures("compiled_part")


@pytest.fixture(scope="module")
def compiled_part() -> None:
    if not compiled.is_available():
        missing("the compiled part of ckptaudit")


def test_it_is_there_where_there_is_a_compiler() -> None:
    assert compiled.is_available() or shutil.which("cc") is None


@pytest.fixture(params=[1, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def sparse_pair(
    shape: tuple[int, int], share: float, dtype: torch.dtype, *, by_columns: bool = False, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """A tall pair and its update, of which about `share` of the entries are not zero."""
    random = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=random).to(dtype)
    step = 0.01 * torch.randn(shape, generator=random) * (torch.rand(shape, generator=random) < share)
    tuned = (base.float() + step).to(dtype)
    update = tuned.float() - base.float()
    if by_columns:
        base, tuned, update = (w.mT.contiguous().mT for w in (base, tuned, update))
    return base, tuned, update


def close(seen: Tensor, left: Tensor, right: Tensor) -> None:
    """That `seen` is left'right on and above the diagonal, within what so many float32 products may err by."""
    a, b = (side.double().numpy() for side in (left, right))
    room = (len(a) + 2) * UNIT * (np.abs(a).T @ np.abs(b))
    assert (np.triu(np.abs(seen.double().numpy() - a.T @ b) - room) <= 0).all()


SHAPES = [(1, 1), (97, 64), (300, 130), (500, 63), (40, 200)]


@needs_it
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_products_leave_out_zeros_alone(
    shape: tuple[int, int], by_columns: bool, dtype: torch.dtype, share: float
) -> None:
    base, _, update = sparse_pair(shape, share, dtype, by_columns=by_columns)
    cross, own = compiled.products(base, update)
    middle = base.float() + 0.5 * update
    close(cross, middle, update)
    close(cross.mT, update, middle)
    close(own, update, update)


@needs_it
@given(
    st.tuples(st.integers(1, 220), st.integers(1, 150)),
    st.floats(0, 1),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
)
def test_products_of_any_shape(
    shape: tuple[int, int], share: float, by_columns: bool, other_way: bool, seed: int
) -> None:
    base, _, update = sparse_pair(shape, share, torch.bfloat16, by_columns=by_columns, seed=seed)
    stored = base.mT.contiguous().mT if other_way else base
    cross, own = compiled.products(stored, update)
    middle = base.float() + 0.5 * update
    close(cross, middle, update)
    close(cross.mT, update, middle)
    close(own, update, update)
    assert torch.equal(compiled.products(None, update)[1], own)


@needs_it
def test_a_sparse_update_and_a_dense_one_are_the_same_to_whoever_asks() -> None:
    base, _, update = sparse_pair((300, 130), 0.1, torch.bfloat16)
    for seen, expected in zip(products(base, update, share=0.1), products(base, update), strict=True):
        assert torch.allclose(seen, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    sparse, dense = own_product(update, share=0.1), own_product(update)
    assert torch.equal(sparse, sparse.mT)
    assert torch.allclose(sparse, dense, rtol=0, atol=1e-6 * float(dense.abs().max()))


@needs_it
def test_what_is_not_worth_it_is_left_to_others() -> None:
    _, _, update = sparse_pair((30, 20), 0.1, torch.float32)
    assert compiled.is_sparse(update, share=0.1)
    assert not compiled.is_sparse(update, share=0.9)
    assert not compiled.is_sparse(update[:, ::2], share=0.1)
    assert not compiled.applies(update.double())
    assert not compiled.applies(update, update.bfloat16())
    assert not compiled.applies(update, update.mT.contiguous().mT)


@needs_it
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("shape", [(1, 1), (9, 1000), (300, 130)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_comparison_is_that_of_float64(shape: tuple[int, int], dtype: torch.dtype) -> None:
    base, tuned, expected = sparse_pair(shape, 0.3, dtype)
    update, changed = torch.full(shape, 7.0), torch.zeros(shape, dtype=torch.bool)
    differing, squares = compiled.compared(base, tuned, update, changed)
    assert torch.equal(update, expected)
    assert torch.equal(changed, base != tuned)
    assert differing == int((base != tuned).sum())
    assert squares == pytest.approx(float(expected.double().square().sum()), rel=1e-12)


@needs_it
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("shape", [(1, 1), (700, 130), (60, 1200), (1100, 600)])
@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_rows_are_acted_on_without_cancellation(
    shape: tuple[int, int], by_columns: bool, dtype: torch.dtype, count: int
) -> None:
    base, tuned, update = sparse_pair(shape, 0.2, dtype, by_columns=by_columns)
    rows = torch.randn(count, shape[1], generator=torch.Generator().manual_seed(1))
    before, after, d, z = (w.double() for w in (base, tuned, update, rows))
    seen = compiled.acted(rows, base, tuned)
    grown = (z @ d.mT) @ after + (z @ before.mT) @ d
    room = 4 * sum(shape) * UNIT * ((z.abs() @ d.abs().mT) @ after.abs() + (z.abs() @ before.abs().mT) @ d.abs())
    assert ((seen.double() - grown).abs() <= room).all()
    exact = z @ (after.mT @ after - before.mT @ before)
    assert torch.allclose(seen.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()) + 1e-30)


@needs_it
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("count", [1, 31, 32, 33, 120])
def test_the_largest_values_are_those_of_scipy(count: int, scale: float) -> None:
    random = np.random.default_rng(0)
    diagonal, off = scale * np.sort(random.random(120)), scale * 0.1 * random.standard_normal(119)
    # Ties, an entry of zero beside the diagonal, and a block that stands alone.
    diagonal[50:60], off[50:60], off[7] = scale, 0.0, 0.0
    expected = eigh_tridiagonal(diagonal, off, eigvals_only=True)[::-1][:count]
    seen = compiled.largest_values(torch.from_numpy(diagonal), torch.from_numpy(off), count).numpy()
    assert np.allclose(seen, expected, rtol=0, atol=1e-9 * scale)


@needs_it
def test_a_matrix_of_zeros_has_values_of_zero() -> None:
    zeros = torch.zeros(9, dtype=torch.float64)
    assert compiled.largest_values(zeros, zeros[:8], 3).tolist() == [0.0] * 3
    assert compiled.largest_values(zeros[:1] + 2, zeros[:0], 1).tolist() == [2.0]


@needs_it
@pytest.mark.parametrize("count", [1, 7, 8, 9, 40])
def test_tridiagonal_vectors_are_those_of_scipy(count: int) -> None:
    random = np.random.default_rng(0)
    diagonal, off = np.linspace(0, 3, 200) + 0.3 * random.standard_normal(200), random.standard_normal(199)
    values, expected = eigh_tridiagonal(diagonal, off)
    arrays = (torch.from_numpy(w) for w in (diagonal, off, values[-count:].copy()))
    seen = compiled.tridiagonal_vectors(*arrays).numpy()
    assert np.allclose(np.linalg.norm(seen, axis=1), 1, rtol=0, atol=1e-14)
    aligned = seen * np.sign((seen * expected[:, -count:].T).sum(axis=1, keepdims=True))
    assert np.allclose(aligned, expected[:, -count:].T, rtol=0, atol=1e-11)


@needs_it
def test_a_matrix_of_one_entry_or_of_none_beside_its_diagonal_has_unit_vectors() -> None:
    one = torch.ones(1, dtype=torch.float64)
    assert compiled.tridiagonal_vectors(one, one[:0], one).tolist() == [[1.0]]
    diagonal = torch.arange(5, dtype=torch.float64)
    seen = compiled.tridiagonal_vectors(diagonal, torch.zeros(4, dtype=torch.float64), diagonal[3:])
    assert torch.equal(seen.abs(), torch.eye(5, dtype=torch.float64)[3:])


def test_a_library_of_another_build_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled._library.cache_clear()
    monkeypatch.setattr(compiled, "VERSION", compiled.VERSION + 1)
    assert not compiled.is_available()
    compiled._library.cache_clear()


def test_without_a_library_nothing_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled._library.cache_clear()
    monkeypatch.setattr(compiled, "LIBRARY", compiled.LIBRARY.with_name("absent.so"))
    assert not compiled.is_available()
    assert not compiled.applies(torch.ones(3, 2))
    compiled._library.cache_clear()
