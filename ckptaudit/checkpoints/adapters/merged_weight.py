"""The arithmetic of a merge: what a weight becomes when a LoRA, DoRA or PiSSA update goes into it.

Written to give the bits that peft gives: the same operations, in the same order and dtypes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ckptaudit.errors import CheckpointError, printable

if TYPE_CHECKING:
    from torch import Tensor

    from ckptaudit.checkpoints.tensors import Factors, TensorHandle


@dataclass(frozen=True, slots=True)
class MergedWeight:
    """One weight and its update. `transposed` says that the weight is stored as the transpose of `up @ down`.

    What PiSSA took out of the weight is its own leading directions, or `start` where that is known.
    """

    weight: TensorHandle
    factors: Factors
    transposed: bool
    pissa: bool
    start: Factors | None = None

    def load(self) -> Tensor:
        """The merged weight in its own dtype.

        W + scale * up @ down; for DoRA each output's row is then set to its learned length:
        m * (W + U) / |W + U|. For PiSSA, W is first reduced by its own leading directions, the
        adapter's start, which peft takes out of the base whenever it loads such an adapter.
        """
        weight = self.weight.read()
        if not weight.dtype.is_floating_point:
            raise CheckpointError(
                f"{printable(self.weight.file)}: {printable(self.weight.name)} is stored as "
                f"{self.weight.dtype}; "
                "an adapter merges into floating-point weights, so pass the unquantised base."
            )
        if self.pissa or self.start is not None:
            weight = self._residual(weight)
        update = self._update(weight.dtype)
        if self.factors.magnitude is not None:
            return self._renormed(weight, update)
        # Embeddings are the one layer where peft rounds the update before it adds it.
        return (weight + (update.to(weight.dtype) if self.factors.embedding else update)).to(weight.dtype)

    def _update(self, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        up, down = self.factors.up.read().to(wide), self.factors.down.read().to(wide)
        if down.dim() > 2:
            return self._convolved(up, down)
        return _transposed(up @ down, self.transposed) * self.factors.scale

    def _convolved(self, up: Tensor, down: Tensor) -> Tensor:
        """A convolution's update: a one-by-one kernel after one of the weight's own size."""
        flat = up.reshape(up.shape[:2]) @ down.flatten(1)
        return flat.reshape(up.shape[0], *down.shape[1:]) * self.factors.scale

    def _renormed(self, weight: Tensor, update: Tensor) -> Tensor:
        assert self.factors.magnitude is not None
        changed = weight + update
        rows = _transposed(changed, self.transposed)
        length = torch.linalg.norm(rows.flatten(1), dim=1).to(changed.dtype)
        factor = self.factors.magnitude.read().to(changed.dtype).flatten() / length
        scaled = factor.view(-1, *[1] * (rows.dim() - 1))
        return (_transposed(scaled, self.transposed) * changed).to(weight.dtype)

    def _residual(self, weight: Tensor) -> Tensor:
        weight32 = _transposed(weight.float(), self.transposed)
        scale, down, up = self._taken_out(weight32)
        return _transposed((weight32 - scale * up @ down).to(weight.dtype), self.transposed)

    def _taken_out(self, weight32: Tensor) -> tuple[float, Tensor, Tensor]:
        if self.start is not None:
            return self.start.scale, self.start.down.read().float(), self.start.up.read().float()
        rank, scale = self.factors.down.shape[0], self.factors.scale
        left, values, right = self._decomposed(weight32)
        root = torch.diag(torch.sqrt(values[:rank] / scale))
        return scale, root @ right[:rank], left[:, :rank] @ root

    def _decomposed(self, weight32: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Whether LAPACK notices numbers that are not finite depends on its release.
        if not weight32.isfinite().all():
            raise self._not_decomposed("holds NaN or infinity")
        try:
            left, values, right = torch.linalg.svd(weight32, full_matrices=False)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise self._not_decomposed("has no decomposition") from error
        return left, values, right

    def _not_decomposed(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"{printable(self.weight.file)}: {printable(self.weight.name)} {why}, so a PiSSA adapter's start "
            "cannot be taken out of it; pass the base that the adapter was trained on."
        )


def _transposed(matrix: Tensor, transposed: bool) -> Tensor:
    return matrix.T if transposed else matrix
