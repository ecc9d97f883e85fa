"""Files to lazy tensors. `open_checkpoint` takes whatever path there is; a caller never knows the format."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from math import prod
from pathlib import Path

from ckptaudit.checkpoints.fingerprint import fingerprint
from ckptaudit.checkpoints.json_files import clipped, reason
from ckptaudit.checkpoints.tensor_names import refuse_strange_names
from ckptaudit.checkpoints.tensors import Checkpoint, LowRankUpdate, TensorHandle
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files.places import Place

__all__ = ["Checkpoint", "LowRankUpdate", "TensorHandle", "fingerprint", "merge_adapter", "open_checkpoint"]

MAX_HOLLOW = 2**24
"""Entries that the other sizes of an empty tensor may come to: each row of one still has a norm."""


def open_checkpoint(path: str | Place) -> Checkpoint:
    """Open whatever a run left behind; reads headers only.

    A file or folder of any format that `docs/formats.md` lists; `FOLDER@latest` for a trainer's newest
    save; `org/name[@revision]` for a model on the Hugging Face hub, which is downloaded; a URL (`s3://`, `gs://`,
    `az://`, `https://`, `hf://`) for what is read where it lies; `BASE+ADAPTER` for an adapter merged
    into another base than the one audited against. An adapter alone comes back as its factors: pass it
    through `merge_adapter`. Raises CheckpointError, in one sentence that names the file and the mend.
    """
    try:
        return _open(str(path)) if isinstance(path, str | Path) else _read(path, str(path))
    except OSError as error:
        raise CheckpointError(f"{printable(path)}: cannot be opened ({reason(error)}).") from error


def merge_adapter(base: Checkpoint, tuned: Checkpoint, initial: Checkpoint | None = None) -> Checkpoint:
    """The tuned side as full weights: an adapter or sparse deltas merged into `base`, anything else as it is.

    Nothing is read yet; each tensor is merged when it is read, to the bits that peft's own
    `merge_and_unload` gives in the base's dtype; the entries of sparse deltas replace the base's. `initial` is
    the adapter before training, which one begun by a randomised PiSSA cannot be merged without. Raises
    CheckpointError if they do not fit.
    """
    if _is_delta_alone(base):
        raise CheckpointError(
            f"{printable(base.path)}: a sparse delta alone cannot be the base; pass WEIGHTS+DELTA."
        )
    if _is_delta_alone(tuned):
        from ckptaudit.checkpoints.deltas.patching import apply_patches

        return apply_patches(base, tuned)
    if tuned.adapter is None and base.adapter is None:
        return tuned
    from ckptaudit.checkpoints.adapters import merge

    return merge.merge_adapter(base, tuned, initial)


def _open(text: str) -> Checkpoint:
    from ckptaudit.checkpoints.paths import locate

    parts = _parts(text)
    if len(parts) > 1:
        return reduce(_joined, map(_open, parts))
    place = locate(text)
    return _read(place, text if isinstance(place, Path) and Path(text) == place else str(place))


def _parts(text: str) -> list[str]:
    """The checkpoints that a text joins by plus signs; a file may have such a sign in its own name."""
    before, plus, last = text.rpartition("+")
    if not plus or not before or _is_there(text):
        return [text]
    more = _parts(before)
    return [*more, last] if len(more) > 1 or _is_there(before) else [text]


def _joined(first: Checkpoint, second: Checkpoint) -> Checkpoint:
    if _is_delta_alone(first) and _is_delta_alone(second):
        from ckptaudit.checkpoints.deltas.patching import several

        return several(first, second)
    if first.merged_from is not None and second.adapter is not None:
        raise CheckpointError(
            f"{printable(second.path)}: a second adapter on top of another; merge the first, and pass the result."
        )
    return merge_adapter(first, second)


def _is_delta_alone(checkpoint: Checkpoint) -> bool:
    return bool(checkpoint.patches) and checkpoint.patched_from is None


def _is_there(text: str) -> bool:
    """Whether all of this names one checkpoint; a store is asked only about an address with a plus in it."""
    from ckptaudit.checkpoints.sources import is_url, remote_path

    if not is_url(text):
        return Path(text).exists()
    before, plus, after = text.rpartition("+")
    return not plus or not before or (not is_url(after) and remote_path(text).exists())


def _read(place: Place, text: str) -> Checkpoint:
    # Imported late: the readers pull in torch, which a path that does not exist should not wait for.
    from ckptaudit.checkpoints.float8 import widen
    from ckptaudit.checkpoints.formats import read_contents

    contents = read_contents(place)
    if not contents.tensors:
        raise CheckpointError(f"{printable(place)}: the checkpoint holds no tensor; save it again.")
    refuse_strange_names(place, contents.tensors)
    _refuse_hollow(place, contents.tensors)
    return Checkpoint(
        path=text,
        format=contents.format,
        tensors=widen(place, contents.tensors, contents.config),
        config=contents.config,
        adapter=contents.adapter,
        patches=() if contents.patch is None else (contents.patch,),
        place=place,
    )


def _refuse_hollow(place: Place, tensors: Mapping[str, TensorHandle]) -> None:
    for name, handle in tensors.items():
        if not handle.parameters and prod(filter(None, handle.shape)) > MAX_HOLLOW:
            raise CheckpointError(
                f"{printable(place)}: tensor {clipped(name)} is empty and claims a shape of {list(handle.shape)}; "
                "the file is damaged."
            )
