"""Base and tuned, tensor by tensor: which correspond, where they sit, and as which matrices they count."""

from __future__ import annotations

from ckptaudit.pairing.alignment import pair_checkpoints
from ckptaudit.pairing.model_pair import AlignedTensor, Fault, ModelPair

__all__ = ["AlignedTensor", "Fault", "ModelPair", "pair_checkpoints"]
