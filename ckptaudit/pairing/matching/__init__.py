"""Weight matching: the permutation of a network's units that brings one checkpoint nearest to another."""

from __future__ import annotations

from ckptaudit.pairing.matching.search import Matching, matching_of
from ckptaudit.pairing.matching.symmetries import Symmetries, symmetries_of

__all__ = ["Matching", "Symmetries", "matching_of", "symmetries_of"]
