"""One matrix of both sides with what is known of its base, and the bounds on its rotation that follow."""

from __future__ import annotations

from jaxtyping import Shaped
from torch import Tensor

from ckptaudit.linalg import rotation_bounds, shift_bounds
from ckptaudit.linalg.leading import Leading
from ckptaudit.linalg.parts import cached_property
from ckptaudit.linalg.subspaces import SEPARATION
from ckptaudit.metrics import base_facts
from ckptaudit.metrics.base_facts import BaseFacts, CachedLookup, uncached, within
from ckptaudit.metrics.stored_pair import PRODUCTS, StoredPair


class BoundedPair(StoredPair):
    """A stored pair and what `lookup` finds of its base; all of its spectrum with `exact`."""

    def __init__(
        self,
        base: Shaped[Tensor, "m n"],
        tuned: Shaped[Tensor, "m n"],
        lookup: CachedLookup = uncached,
        *,
        exact: bool = False,
    ) -> None:
        super().__init__(base[None], tuned[None])
        self._lookup = lookup
        self._exact = exact
        self._prepared: BaseFacts | None = None

    def prepare(self) -> None:
        """Look at the base first, where several parts will ask for it: it saves work and changes no number."""
        self._prepared = self.facts

    @cached_property
    def facts(self) -> BaseFacts | None:
        """What is known of the base; None where the fast ways are not certified for it."""
        return self._spectrum_facts if self._exact else self._leading_facts

    @cached_property
    def _leading_facts(self) -> BaseFacts | None:
        return base_facts.leading_facts(self.stored_base[0], self._lookup, k=self.k, rank=self.mask_rank)

    @cached_property
    def _spectrum_facts(self) -> BaseFacts | None:
        return base_facts.spectrum_facts(self.stored_base[0], self._lookup, k=self.k, rank=self.mask_rank)

    @property
    def top(self) -> Leading | None:
        """The base's leading triplets; None in exact mode, or where they are not certified."""
        return self.facts.top if self.facts is not None else None

    @cached_property
    def images(self) -> rotation_bounds.Images | None:
        """The base's leading directions under the update."""
        if self.top is None or not (self.size == 0 or within(self.size, PRODUCTS)):
            return None
        return rotation_bounds.images(self.difference.update, self.top, k=self.k, size=self.size)

    @cached_property
    def angle_sines(self) -> tuple[float, float] | None:
        """Bounds on the largest and the root mean square sine between the top-k subspaces of either side."""
        if self.top is None or self.images is None:
            return None
        return rotation_bounds.angle_sines(self.images, self.top, k=self.k)

    @cached_property
    def rotation_sine(self) -> float | None:
        """Bound on the sine of the rotation of either side."""
        if self.top is None or self.images is None:
            return None
        return rotation_bounds.rotation_sine(self.images, self.top, k=self.k, share=1.0 - SEPARATION)

    @cached_property
    def rms_rotation_sines(self) -> tuple[float, float] | None:
        """Bounds on the root mean square sine of the rotation of the left and the right side."""
        if self.top is None or self.images is None:
            return None
        return rotation_bounds.rms_rotation_sines(self.images, self.top, k=self.k, share=1.0 - SEPARATION)

    @cached_property
    def moved_at_most(self) -> float | None:
        """Bound on norm(s(W1) - s(W0)), sharper than the size of the update."""
        if self.top is None or self.images is None:
            return None
        return shift_bounds.turned_back(self.images, self.top, k=self.k)
