"""Tensors as the files store them, and the tie between output head and embeddings read off their numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ckptaudit.artifact.facts import HeadFact, StoredFact
from ckptaudit.checkpoints import Checkpoint, safetensors_files
from ckptaudit.checkpoints.float8 import SCALES
from ckptaudit.foreign_files.places import Place
from ckptaudit.naming import Naming

EMBEDDING, HEAD = "embed_tokens", "lm_head"
OTHER_STACKS = ("vision_tower", "visual", "vision_model", "audio_tower", "talker")


def stored_facts(checkpoint: Checkpoint, config: Mapping[str, object]) -> tuple[StoredFact, ...]:
    """Every tensor with its shape, role, and the type in the file's own header."""
    naming = Naming(config)
    dtypes = {} if checkpoint.is_update else header_dtypes(checkpoint)
    names = {name for _, name in dtypes}
    return tuple(
        _fact(naming, name, handle.shape, dtypes.get((handle.file, name), handle.dtype), names)
        for name, handle in checkpoint.tensors.items()
    )


def header_dtypes(checkpoint: Checkpoint) -> dict[tuple[Place, str], str]:
    """The types that safetensors headers state; readers widen float8 and would hide it."""
    files = {handle.file for handle in checkpoint.tensors.values() if handle.file.suffix == ".safetensors"}
    return {
        (file, name): handle.dtype for file in files for name, handle in safetensors_files.read_file(file).items()
    }


def head_fact(checkpoint: Checkpoint, tensors: tuple[StoredFact, ...]) -> HeadFact:
    """The output head, the input embedding, and whether they are equal; both are read only if shapes agree."""
    head, embedding = _pick(tensors, HEAD), _pick(tensors, EMBEDDING)
    if head is None or embedding is None:
        return HeadFact(head, embedding)
    if head.shape != embedding.shape:
        return HeadFact(head, embedding, equal=False)
    import torch

    one, other = (checkpoint.tensors[fact.name].read() for fact in (head, embedding))
    return HeadFact(head, embedding, equal=torch.equal(one, other.to(one.dtype)))


def _pick(tensors: tuple[StoredFact, ...], role: str) -> StoredFact | None:
    found = [t for t in tensors if t.role == role and t.layer is None and len(t.shape) == 2]
    text = [t for t in found if t.stack not in OTHER_STACKS]
    return min(text, key=lambda t: (t.stack != "", t.stack != "decoder", t.name), default=None)


def _fact(naming: Naming, name: str, shape: tuple[int, ...], dtype: str, names: Collection[str]) -> StoredFact:
    at, scaled = naming.place(name), dtype.startswith("float8") and any(name + end in names for end in SCALES)
    return StoredFact(name, shape, dtype, at.role, at.layer, at.stack, at.in_experts, at.expert, scaled)
