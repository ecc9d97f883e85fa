"""A merge of models as coefficients of its parents' updates, fitted weight by weight in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ckptaudit.checkpoints import Checkpoint, TensorHandle
from ckptaudit.linalg.rounding import spacing
from ckptaudit.pairing import AlignedTensor, ModelPair, pair_checkpoints

ENTRIES = 2**20
"""Entries of one piece, which is all that is held in float64."""

STEPS = 20
HALVINGS = 8
"""Newton steps of a fit, and how often one is halved; a few suffice."""

SAMPLE = 2**19
"""Entries of a weight that a fit looks at; the weight is then judged with all of them."""

SLACK = 1.05
"""How far beyond rounding an entry may lie, in half steps: fitted coefficients are no better than that."""

NOISE = 2.0**-20
"""What float32 sums over a few parents may lose, relative to the weight."""

Vector = Float[Tensor, "k"]


@dataclass(frozen=True)
class Piece:
    """A run of entries: the merge's update U = T - W0, the parents' updates, and the base; `dtype` is T's."""

    update: Float[Tensor, "n"]
    parents: Float[Tensor, "n k"]
    base: Float[Tensor, "n"]
    dtype: torch.dtype

    @cached_property
    def half(self) -> Float[Tensor, "n"]:
        """Half a step of T's type, and what float32 sums may lose."""
        lost = self.base.abs() + self.parents.abs().sum(dim=1)
        return spacing(self.update + self.base, self.dtype) / 2 + NOISE * lost

    @cached_property
    def coarse(self) -> Float[Tensor, "n"]:
        """Half a step for each rounding of arithmetic in T's type."""
        largest = (self.update + self.base).abs().maximum(self.base.abs() + self.parents.abs().amax(dim=1))
        return (self.parents.shape[1] + 2) * spacing(largest, self.dtype) / 2

    def every(self, count: int) -> Piece:
        """One entry of each `count` in a row."""
        cut = slice(None, None, count)
        return Piece(self.update[cut], self.parents[cut], self.base[cut], self.dtype)

    def beyond(self, left: Float[Tensor, "n"]) -> Tensor:
        """Where a residual is farther off than rounding takes it; SLACK is for the coefficients' own error."""
        return left.abs() > SLACK * self.half

    def residual(self, coefficients: Vector) -> Float[Tensor, "n"]:
        """What the parents do not explain: U - sum_i c_i (P_i - W0)."""
        return self.update - self.parents @ coefficients


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients, the squared size of update and residual, and how many entries rounding does not explain.

    `beyond` counts entries farther off than one rounding of the sum, `far` those farther off than arithmetic in the
    stored type can take them: one rounding for each parent, one for their sum and one for that of the base.
    """

    coefficients: Vector
    update: float
    residual: float
    beyond: int
    far: int

    @property
    def relative_residual(self) -> float:
        """Norm of the residual over that of the update; 0 for a zero update."""
        return (self.residual / self.update) ** 0.5 if self.update else 0.0

    @property
    def is_inside(self) -> bool:
        """Whether the merge is this combination, rounded once, or computed in its stored type.

        The latter hides small updates, and counts only where at least three quarters of U are explained.
        """
        return self.beyond == 0 or (self.far == 0 and self.relative_residual <= EXPLAINED)


EXPLAINED = 0.5
"""The largest relative residual at which arithmetic in the stored type is accepted as the reason."""


@dataclass(frozen=True)
class SoupWeight:
    """One weight of the merge, of the base and of each parent, in stored types; read when asked for."""

    name: str
    base: TensorHandle
    merged: TensorHandle
    parents: tuple[TensorHandle, ...]

    @cached_property
    def _stored(self) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        return (
            self.merged.read().flatten(),
            self.base.read().flatten(),
            tuple(parent.read().flatten() for parent in self.parents),
        )

    @property
    def is_finite(self) -> bool:
        """Whether every number on every side is finite."""
        merged, base, parents = self._stored
        return all(bool(tensor.isfinite().all()) for tensor in (merged, base, *parents))

    def pieces(self) -> Iterator[Piece]:
        """The weight in pieces of float64. Raises CheckpointError if a file is damaged."""
        merged, base, parents = self._stored
        for start in range(0, merged.numel(), ENTRIES):
            cut = slice(start, start + ENTRIES)
            after, before = merged[cut].double(), base[cut].double()
            apart = torch.stack([parent[cut].double() - before for parent in parents], dim=1)
            yield Piece(after - before, apart, before, merged.dtype)

    def fitted(self) -> Fit:
        """Least squares first; where rounding does not explain what is left, the least excess over rounding."""
        fit = self.judged(least_squares(self.pieces(), len(self.parents)))
        if fit.beyond == 0:
            return fit
        return min(fit, self.judged(within_rounding(list(self.sample()), fit.coefficients)), key=_by_excess)

    def sample(self) -> Iterator[Piece]:
        """Every entry of a small weight, evenly spaced ones of a large weight: enough for a few coefficients."""
        every = -(-self.base.parameters // SAMPLE)
        return (piece.every(every) for piece in self.pieces())

    def judged(self, coefficients: Vector) -> Fit:
        """How well coefficients explain the weight."""
        update = residual = 0.0
        beyond = far = 0
        for piece in self.pieces():
            left = piece.residual(coefficients)
            update += float(piece.update.square().sum())
            residual += float(left.square().sum())
            off = int(piece.beyond(left).sum())
            beyond += off
            far += int((left.abs() > piece.coarse).sum()) if off else 0
        return Fit(coefficients, update, residual, beyond, far)


def least_squares(pieces: Iterator[Piece], count: int) -> Vector:
    """argmin_c norm(U - sum_i c_i D_i), of least norm where parents depend on each other; over all pieces."""
    gram, right = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for piece in pieces:
        gram += piece.parents.T @ piece.parents
        right += piece.parents.T @ piece.update
    found: Tensor = torch.linalg.pinv(gram, hermitian=True) @ right
    return found


def within_rounding(pieces: Sequence[Piece], start: Vector) -> Vector:
    """argmin_c sum_j max(0, |U_j - sum_i c_i D_ij| - h_j)^2 by Newton's method with halved steps; convex.

    Rounding pulls least squares towards steps of the stored type; an entry within half a step says nothing.
    """
    now = _excess(pieces, start)
    for _ in range(STEPS):
        step: Tensor = torch.linalg.pinv(now.gram, hermitian=True) @ now.right
        tried = (_excess(pieces, now.coefficients + step / 2**i) for i in range(HALVINGS))
        better = next((one for one in tried if one.size < now.size), None)
        if better is None:
            break
        now = better
    return now.coefficients


@dataclass(frozen=True, slots=True)
class _Excess:
    """The squared excess over rounding at some coefficients, and the equations of Newton's next step."""

    coefficients: Vector
    size: float
    gram: Tensor
    right: Tensor


def _excess(pieces: Sequence[Piece], coefficients: Vector) -> _Excess:
    count, size = len(coefficients), 0.0
    gram, right = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for piece in pieces:
        left = piece.residual(coefficients)
        excess = left - left.clamp(-piece.half, piece.half)
        off = excess != 0
        rows = piece.parents[off]
        gram += rows.T @ rows
        right += rows.T @ excess[off]
        size += float(excess.square().sum())
    return _Excess(coefficients, size, gram, right)


def _by_excess(fit: Fit) -> tuple[int, int, float]:
    return fit.beyond, fit.far, fit.residual


@dataclass(frozen=True)
class Soup:
    """A pair of base and merge, and the parents in the order of their coefficients."""

    pair: ModelPair
    parents: tuple[Checkpoint, ...]

    @cached_property
    def _by_parent(self) -> tuple[dict[str, AlignedTensor], ...]:
        return tuple({t.name: t for t in pair_checkpoints(self.pair.base, p).aligned} for p in self.parents)

    def weight(self, tensor: AlignedTensor) -> SoupWeight | None:
        """The weight on all sides; None where a parent lacks it."""
        own = [known.get(tensor.name) for known in self._by_parent]
        found = [t.tuned for t in own if t is not None and t.shape == tensor.shape]
        if len(found) < len(own):
            return None
        return SoupWeight(tensor.name, tensor.base, tensor.tuned, tuple(found))

    def words(self, coefficients: Vector) -> str:
        """Coefficients in words: 0.5 of A, 0.5 of B."""
        return ", ".join(f"{c:.4g} of {n}" for c, n in zip(coefficients.tolist(), self.labels, strict=True))

    @cached_property
    def labels(self) -> Sequence[str]:
        """What tells the parents apart."""
        from ckptaudit.checkpoints.paths import labels

        paths = [parent.path for parent in self.parents]
        return labels(paths) if len(paths) > 1 else [paths[0].rstrip("/").rpartition("/")[2]]
