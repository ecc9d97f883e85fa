"""Files to lazy tensors. `open_checkpoint` takes whatever path there is; a caller never knows the format."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ckptaudit.checkpoints.handle import Checkpoint, TensorHandle
from ckptaudit.errors import CheckpointError, printable

__all__ = ["Checkpoint", "TensorHandle", "open_checkpoint"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint directory or a single `.safetensors` file; reads headers only.

    Raises CheckpointError, in one sentence that names the file and the mend.
    """
    root = Path(path)
    try:
        if not root.exists():
            raise CheckpointError(f"{printable(root)}: no such file or directory; check the path.")
        tensors = _tensors(root)
        config = _config(root / "config.json") if root.is_dir() else {}
    except (PermissionError, OSError) as error:
        raise CheckpointError(f"{printable(root)}: cannot be opened ({printable(error)}).") from error
    if not tensors:
        raise CheckpointError(f"{printable(root)}: the checkpoint holds no tensor; save it again.")
    return Checkpoint(path=str(path), format="safetensors", tensors=tensors, config=config)


def _tensors(root: Path) -> dict[str, TensorHandle]:
    # Imported late: the reader pulls in torch, which a path that does not exist should not wait for.
    from ckptaudit.checkpoints.safetensors import read_file, read_index

    if root.is_file():
        if root.suffix == ".safetensors":
            return read_file(root)
        if root.name.endswith(".safetensors.index.json"):
            return read_index(root)
        raise CheckpointError(f"{printable(root)}: not a .safetensors file; pass one, or the folder that holds it.")
    if (root / INDEX).is_file():
        return read_index(root / INDEX)
    if (root / SINGLE).is_file():
        return read_file(root / SINGLE)
    return _lone_file(root)


def _lone_file(root: Path) -> dict[str, TensorHandle]:
    """Folders whose weights have an unusual name, as long as there is no doubt which file is meant."""
    from ckptaudit.checkpoints.safetensors import read_file, read_index

    indexes = sorted(root.glob("*.safetensors.index.json"))
    if len(indexes) == 1:
        return read_index(indexes[0])
    files = sorted(root.glob("*.safetensors"))
    if len(files) == 1 and not indexes:
        return read_file(files[0])
    if files or indexes:
        names = ", ".join(printable(f.name) for f in (indexes or files)[:4])
        raise CheckpointError(
            f"{printable(root)}: several safetensors files ({names}, ...) and no {INDEX}; "
            "pass one file, or add the index."
        )
    if not any(root.iterdir()):
        raise CheckpointError(f"{printable(root)}: the directory is empty; pass the folder that holds the weights.")
    raise CheckpointError(
        f"{printable(root)}: no weights here; expected {SINGLE}, {INDEX} or one .safetensors file."
    )


def _config(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except (RecursionError, msgspec.DecodeError) as error:
        raise CheckpointError(
            f"{path}: the model configuration is not a JSON object ({printable(error)}); save or download it again."
        ) from error
