"""The changed entries of one weight, and the weight that they make of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.checkpoints.tensors import ChangedEntries, TensorHandle
from ckptaudit.errors import CheckpointError, printable

if TYPE_CHECKING:
    from torch import Tensor


def positions(entries: ChangedEntries, size: int) -> Tensor:
    """The flat positions in a weight of `size` entries, int64, in the order of the values.

    gap_delta: position[k] = sum_{j<=k} (gap[j] + 1) - 1. Raises CheckpointError for one that lies outside the
    weight, or that occurs twice.
    """
    import torch

    # torch compares and adds no unsigned integers of 16 or 32 bits.
    wide = torch.from_numpy(entries.indices.read().numpy().astype("int64"))
    found = wide if entries.encoding == "raw" else torch.cumsum(wide + 1, dim=0) - 1
    if found.numel() and (int(found.min()) < 0 or int(found.max()) >= size):
        where = next(int(i) for i in (found.min(), found.max()) if not 0 <= i < size)
        raise _wrong(entries, f"changes entry {where:,} of a weight of {size:,} entries")
    ordered = found.sort().values
    if bool((ordered[1:] == ordered[:-1]).any()):
        raise _wrong(entries, "changes one entry twice")
    return found


@dataclass(frozen=True, slots=True)
class PatchedTensor:
    """A weight and the entries that deltas change in it, in order: a later one comes on top."""

    weight: TensorHandle
    changes: tuple[ChangedEntries, ...]

    def load(self) -> Tensor:
        """The changed weight, in its own dtype."""
        return self.over(self.weight.read())

    def over(self, weight: Tensor) -> Tensor:
        """The changed weight where the unchanged one has been read already; that one stays as it is."""
        flat = weight.reshape(-1).clone()
        for change in self.changes:
            flat[positions(change, flat.numel())] = change.values.read()
        return flat.view(weight.shape)


def reads_the_same(one: TensorHandle, other: TensorHandle) -> bool:
    """Whether two handles stand for the same bytes of the same file, read in the same way."""
    from ckptaudit.checkpoints.storage import StoredTensor

    here, there = (getattr(handle.load, "__self__", None) for handle in (one, other))
    return isinstance(here, StoredTensor) and isinstance(there, StoredTensor) and here == there


def _wrong(entries: ChangedEntries, what: str) -> CheckpointError:
    return CheckpointError(
        f"{printable(entries.path)}: the delta of {clipped(entries.name)} {what}; it is damaged, or made for "
        "another base."
    )
