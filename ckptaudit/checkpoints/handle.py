"""What every reader returns: a read-only map from tensor name to a handle. Opening reads headers only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class TensorHandle:
    """One tensor of a checkpoint: its header facts, and the way to its bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path
    load: Callable[[], Tensor] = field(repr=False, compare=False)

    @property
    def parameters(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    def read(self) -> Tensor:
        """The tensor on the CPU in its stored dtype. Raises CheckpointError if the file is damaged."""
        return self.load()

    def with_tensor(self, tensor: Tensor) -> TensorHandle:
        """The same handle over other contents; how damages are made for tests of the checks."""
        return replace(
            self,
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            load=lambda: tensor,
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's tensors by name, in sorted order, and its model configuration if it has one."""

    path: str
    format: str
    tensors: Mapping[str, TensorHandle]
    config: Mapping[str, object] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Number of entries over all tensors."""
        return sum(handle.parameters for handle in self.tensors.values())

    @property
    def ties_embeddings(self) -> bool:
        """Whether the configuration says that the output head shares the input embedding."""
        return self.config.get("tie_word_embeddings") is True
