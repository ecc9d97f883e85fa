"""Which format a path holds. One row per format, tried in order; what is known but not read says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ckptaudit.checkpoints import paths, safetensors_files
from ckptaudit.checkpoints.adapters import peft
from ckptaudit.checkpoints.deltas import patch_files
from ckptaudit.checkpoints.json_files import read_settings
from ckptaudit.checkpoints.shards import read_shards
from ckptaudit.checkpoints.tensor_names import refuse_strange_names
from ckptaudit.checkpoints.tensors import Adapter, SparsePatch, TensorHandle
from ckptaudit.checkpoints.torch_files import dcp, fsdp_ranks, state_dicts
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files import open_regular, regular_size
from ckptaudit.foreign_files.places import Place

Reader = Callable[[Place], dict[str, TensorHandle]]

# Folders inside a trainer's checkpoint that hold its weights: accelerate's FSDP, verl's workers, NeMo-RL's policy.
INNER = ("pytorch_model_fsdp_0", "actor", "policy/weights")
POINTER, LARGEST_POINTER = b"version https://git-lfs.github.com/spec/", 1024
NOT_WEIGHTS = (
    "optimizer",
    "scheduler",
    "training_args",
    "scaler",
    "rng_state",
    "random_states",
    "optim_world",
    "extra_state",
)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a path turned out to hold."""

    format: str
    tensors: dict[str, TensorHandle]
    config: dict[str, object] = field(default_factory=dict)
    adapter: Adapter | None = None
    patch: SparsePatch | None = None


def read_contents(path: Place) -> Contents:
    """Open whatever is there; headers only. Raises CheckpointError, naming the path and the mend."""
    return _folder(path) if path.is_dir() else _file(path)


def _file(path: Place) -> Contents:
    if path.name.startswith("adapter_model.") and (path.parent / peft.CONFIG).is_file():
        return _adapter(path.parent, path)
    _refuse_known(path.parent, [path.name])
    for ending, (label, reader) in _FILES.items():
        if path.name.endswith(ending):
            tensors = reader(path)
            if label == "safetensors" and patch_files.is_patch(path, tensors):
                return Contents("sparse delta", tensors, patch=patch_files.open_patch(path, tensors))
            return Contents(label, tensors)
    raise CheckpointError(
        f"{printable(path)}: not a file of weights by its name; pass a .safetensors, .bin, .pt, .pth or .ckpt "
        "file, "
        "or the folder of the checkpoint."
    )


def _folder(folder: Place) -> Contents:
    weights = _adapter_weights(folder)
    if weights is not None:
        return _adapter(folder, weights)
    for name in _NAMED:
        if (folder / name).is_file():
            return _with_config(folder, _file(folder / name))
    if (folder / dcp.METADATA).is_file():
        return _with_config(folder, Contents("torch.distributed.checkpoint", dcp.read_folder(folder)))
    if fsdp_ranks.is_rank_folder(folder):
        return _with_config(folder, Contents("rank files", fsdp_ranks.read_ranks(folder)))
    inner = [folder / name for name in INNER if (folder / name).is_dir()]
    return _with_config(folder, _folder(inner[0])) if inner else _lone(folder)


def _adapter_weights(folder: Place) -> Place | None:
    """The adapter's weights, where the folder holds an adapter and no full model."""
    if not (folder / peft.CONFIG).is_file() or any((folder / name).is_file() for name in _NAMED):
        return None
    names = ("adapter_model.safetensors", "adapter_model.bin")
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise CheckpointError(
            f"{printable(folder)}: {peft.CONFIG} without adapter_model.safetensors; copy the adapter's weights too."
        )
    return found[0]


def _adapter(folder: Place, weights: Place) -> Contents:
    reader = safetensors_files.read_file if weights.suffix == ".safetensors" else state_dicts.read_file
    tensors = reader(weights)
    refuse_strange_names(weights, tensors)
    return Contents("adapter", tensors, adapter=peft.open_adapter(folder, tensors))


def _with_config(folder: Place, contents: Contents) -> Contents:
    # verl keeps the model's configuration one folder further in.
    for path in (folder / "config.json", folder / "huggingface" / "config.json"):
        if path.is_file():
            config = read_settings(path)
            return replace(contents, config=config)
    return contents


def _lone(folder: Place) -> Contents:
    """Folders whose weights have an unusual name, as long as there is no doubt which file is meant."""
    names = sorted(child.name for child in folder.iterdir() if not child.name.startswith(NOT_WEIGHTS))
    for endings in (
        (".safetensors.index.json",),
        (".safetensors",),
        (".bin.index.json",),
        (".bin", ".pt", ".pth", ".ckpt"),
    ):
        found = [name for name in names if name.endswith(endings) and (folder / name).is_file()]
        if len(found) == 1:
            _refuse_known(folder, names)
            return _with_config(folder, _file(folder / found[0]))
        if found:
            _refuse_known(folder, names)
            shown = ", ".join(printable(name) for name in found[:4])
            raise CheckpointError(
                f"{printable(folder)}: several files of weights ({shown}, ...) and no index; "
                "pass one file, or add the index."
            )
    _refuse_known(folder, names)
    raise _no_weights(folder)


def _no_weights(folder: Place) -> CheckpointError:
    saves = paths.saves(folder)
    if saves:
        return CheckpointError(
            f"{printable(folder)}: a trainer's folder with {len(saves)} saves and no weights of its own; "
            f"pass one of them, or {printable(folder)}{paths.LATEST} for {printable(saves[-1].name)}."
        )
    if not isinstance(folder, Path) and folder.was_refused:
        return CheckpointError(f"{printable(folder)}: access was refused; check address and credentials.")
    if not isinstance(folder, Path) and folder.lists_nothing:
        return CheckpointError(
            f"{printable(folder)}: no weights under a usual name (model.safetensors or its index, an adapter), and "
            "this server lists no others; pass the address of the file or of the index."
        )
    if not any(folder.iterdir()):
        return CheckpointError(
            f"{printable(folder)}: the directory is empty; pass the folder that holds the weights."
        )
    return CheckpointError(
        f"{printable(folder)}: no weights here; expected model.safetensors, pytorch_model.bin, "
        "an adapter, .metadata with .distcp files, rank files, or one file of weights."
    )


def _refuse_known(folder: Place, names: list[str]) -> None:
    if any((folder / name / "model_optim_rng.pt").is_file() for name in names):
        raise CheckpointError(
            f"{printable(folder)}: a Megatron-LM checkpoint, one file for each tensor-parallel rank; export it to "
            "Hugging Face with Megatron-Bridge, or save it as torch_dist, and pass that."
        )
    for marks, what in _KNOWN:
        if any(name.startswith(marks) or name.endswith(marks) for name in names):
            raise CheckpointError(f"{printable(folder)}: {what}.")


def _read_safetensors(path: Place) -> dict[str, TensorHandle]:
    _refuse_pointer(path)
    return safetensors_files.read_file(path)


def _read_torch(path: Place) -> dict[str, TensorHandle]:
    _refuse_pointer(path)
    return state_dicts.read_file(path)


def _refuse_pointer(path: Place) -> None:
    """What Git leaves in place of a large file that was never fetched."""
    if regular_size(path) <= LARGEST_POINTER:
        with open_regular(path) as file:
            if file.read(len(POINTER)) == POINTER:
                raise CheckpointError(
                    f"{printable(path)}: a Git LFS pointer, not the weights; fetch them with `git lfs pull`."
                )


def _read_safetensors_shards(index: Place) -> dict[str, TensorHandle]:
    return read_shards(index, _read_safetensors)


def _read_torch_shards(index: Place) -> dict[str, TensorHandle]:
    return read_shards(index, _read_torch)


_FILES: dict[str, tuple[str, Reader]] = {
    ".safetensors.index.json": ("safetensors", _read_safetensors_shards),
    ".safetensors": ("safetensors", _read_safetensors),
    ".bin.index.json": ("torch", _read_torch_shards),
    ".bin": ("torch", _read_torch),
    ".pt": ("torch", _read_torch),
    ".pth": ("torch", _read_torch),
    ".ckpt": ("torch", _read_torch),
}
_NAMED = (
    "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin",
)  # fmt: skip
_KNOWN = (
    (
        ("zero_pp_rank_", "bf16_zero_pp_rank_", "mp_rank_", "zero_to_fp32.py"),
        "a DeepSpeed ZeRO checkpoint, whose weights are spread over the ranks' optimizer states; "
        "consolidate it with `python zero_to_fp32.py . OUTPUT --safe_serialization` in the folder above "
        "global_step*, then pass OUTPUT",
    ),
    ((".safetensors.zst",), "a compressed sparse delta; unpack it with `zstd -d` and pass what comes out"),
    ((".gguf",), "a GGUF model, whose weights are quantised; audit the weights that it was converted from"),
    (
        (".h5", ".msgpack", ".ckpt.index"),
        "TensorFlow or Flax weights; save the model with transformers as safetensors",
    ),
)
