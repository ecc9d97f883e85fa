"""Weights of a merge that are no combination of its parents, or another than the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ckptaudit.findings import Finding
from ckptaudit.pairing import AlignedTensor
from ckptaudit.pairing.model_pair import FLOATING
from ckptaudit.parity.bits import same_bits
from ckptaudit.parity.soups import Fit, Piece, Soup, SoupWeight, least_squares, within_rounding

CLOSE = 0.02
"""Coefficients this near to the common ones are the same: the fit of a small weight is no better."""

DROPPED = 0.2
"""Share of unexplained entries that stand at the base's value from which entries were chosen one by one."""


@dataclass(frozen=True)
class JudgedSoup:
    """The fits of all weights; weights are read again where they have to be looked at once more."""

    soup: Soup

    @cached_property
    def fits(self) -> dict[str, Fit]:
        """Every weight's fit, by name; not of weights that a parent lacks or that are not finite."""
        return {
            w.name: w.fitted() for t in self._floating() if (w := self.soup.weight(t)) is not None and w.is_finite
        }

    @cached_property
    def common(self) -> Tensor | None:
        """The median of the coefficients over the weights that are combinations and that all parents moved."""
        found = [fit.coefficients for fit in self.fits.values() if fit.is_inside and fit.update > 0]
        return torch.stack(found).median(dim=0).values if found else None

    def outside(self) -> Iterator[Finding]:
        """Weights that are no combination of the parents, with the cause where their numbers show one."""
        for tensor in self.soup.pair.aligned:
            if not _is_floating(tensor):
                yield from _integers(self.soup, tensor)
                continue
            weight = self.soup.weight(tensor)
            if weight is None:
                yield Finding(tensor.name, "a parent lacks it", "give the parents that were merged")
            elif tensor.name not in self.fits:
                yield Finding(tensor.name, "not finite", "a side holds NaN or infinity; merge again")
            elif not self.fits[tensor.name].is_inside:
                yield Finding(tensor.name, *_cause(self.soup, weight, self.fits[tensor.name]))

    def uncommon(self) -> Iterator[Finding]:
        """Weights that are a combination of the parents, but not the one that the others are."""
        if self.common is None:
            return
        expected = self.soup.words(self.common)
        for tensor in self._floating():
            fit = self.fits.get(tensor.name)
            if fit is None or not fit.is_inside or _near(fit.coefficients, self.common):
                continue
            weight = self.soup.weight(tensor)
            if weight is not None and not weight.judged(self.common).is_inside:
                fault = _held_alone(self.soup, fit)
                yield Finding(tensor.name, fault, f"{self.soup.words(fit.coefficients)}; the others {expected}")

    def subtracted(self) -> Iterator[Finding]:
        """Parents whose common coefficient is negative."""
        if self.common is not None:
            for parent, label, c in zip(self.soup.parents, self.soup.labels, self.common.tolist(), strict=True):
                if c < -CLOSE:
                    yield Finding(parent.path, "subtracted", f"coefficient {c:.4g} of {label}")

    def _floating(self) -> list[AlignedTensor]:
        return [tensor for tensor in self.soup.pair.aligned if _is_floating(tensor)]


def _is_floating(tensor: AlignedTensor) -> bool:
    return tensor.base.dtype in FLOATING and tensor.tuned.dtype in FLOATING


def _near(own: Tensor, common: Tensor) -> bool:
    return bool(((own - common).abs() <= CLOSE * common.abs().max().clamp_min(1.0)).all())


def _held_alone(soup: Soup, fit: Fit) -> str:
    rounded = fit.coefficients.round()
    if not _near(fit.coefficients, rounded) or int(rounded.count_nonzero()) > 1 or bool((rounded < 0).any()):
        return "other coefficients"
    if not bool(rounded.any()):
        return "left at the base"
    single = int(rounded.argmax())
    return f"copied from {soup.labels[single]}" if rounded[single] == 1 else "other coefficients"


def _integers(soup: Soup, tensor: AlignedTensor) -> Iterator[Finding]:
    """Integer tables are copied: from the base or from a parent."""
    weight = soup.weight(tensor)
    sources = (tensor.base, *(weight.parents if weight is not None else ()))
    stored = tensor.tuned.read()
    if not any(same_bits(source.read().to(stored.dtype), stored) for source in sources):
        yield Finding(tensor.name, "no parent's table", "an integer table must be one of the parents'")


def _cause(soup: Soup, weight: SoupWeight, fit: Fit) -> tuple[str, str]:
    seen = f"best {soup.words(fit.coefficients)}, relative residual {fit.relative_residual:.3g}"
    total = _sum_of_weights(weight)
    if total is not None:
        mend = "normalise the weights; spherical interpolation (slerp) is no linear combination either"
        return "weights do not sum to 1", f"with the base they sum to {total:.6g}; {mend}"
    if _no_parent_moved(weight):
        return "changed where no parent differs", f"{fit.beyond} entries; merge from the parents named here"
    if fit.far == 0:
        mend = "merge in float32 and round once (mergekit: dtype: float32, out_dtype)"
        return "hidden by rounding", f"{seen}; {mend}"
    if _dropped(weight, fit) > DROPPED:
        return "entries chosen one by one", f"{seen}; a sparse merge (TIES, DARE) is no linear combination"
    return "outside the span of the parents", f"{seen}, {fit.beyond} entries; name every parent, or merge again"


def _sum_of_weights(weight: SoupWeight) -> float | None:
    """The sum of the weights of all parents and the base, where one other than 1 explains the numbers."""
    # The base as one more parent: its coefficient is what the weights have beyond 1.
    start = least_squares((_with_base(piece) for piece in weight.pieces()), len(weight.parents) + 1)
    found = within_rounding([_with_base(piece) for piece in weight.sample()], start)
    pieces = map(_with_base, weight.pieces())
    # One step in place of half of one: this names a cause and decides nothing.
    inside = not any(bool((piece.residual(found).abs() > 2 * piece.half).any()) for piece in pieces)
    return 1 + float(found[0]) if inside else None


def _with_base(piece: Piece) -> Piece:
    return replace(piece, parents=torch.cat([piece.base[:, None], piece.parents], dim=1))


def _no_parent_moved(weight: SoupWeight) -> bool:
    return not any(bool(piece.parents.any()) for piece in weight.pieces())


def _dropped(weight: SoupWeight, fit: Fit) -> float:
    """Of the entries that are not explained, the share that stands where the base does."""
    still = beyond = 0
    for piece in weight.pieces():
        off = piece.beyond(piece.residual(fit.coefficients))
        beyond += int(off.sum())
        still += int((off & (piece.update.abs() <= piece.half)).sum())
    return still / beyond if beyond else 0.0


def pooled(weights: Callable[[], Iterator[SoupWeight]], count: int) -> Fit:
    """One set of coefficients for several weights, which are read twice, and what it leaves of all of them."""
    coefficients = least_squares((piece for weight in weights() for piece in weight.pieces()), count)
    fits = [weight.judged(coefficients) for weight in weights()]
    return Fit(
        coefficients,
        sum(fit.update for fit in fits),
        sum(fit.residual for fit in fits),
        sum(fit.beyond for fit in fits),
        sum(fit.far for fit in fits),
    )
