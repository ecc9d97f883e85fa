"""What an attacker writes: pickles step by step, archives around them, safetensors with any header, adapters."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

MODULE = "model.layers.0.self_attn.q_proj"
BASE = {
    f"{MODULE}.weight": torch.arange(16.0 * 16).view(16, 16).bfloat16() / 256,
    f"{MODULE}.bias": torch.ones(16).bfloat16(),
    "model.embed_tokens.weight": torch.ones(20, 16).bfloat16(),
    "model.patch.weight": torch.ones(8, 3, 2, 2).bfloat16(),
}


def zip_archive(data: bytes, **records: bytes) -> bytes:
    """What `torch.save` writes around a pickle, with storages by key."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, record in records.items():
            archive.writestr(f"archive/data/{name.removeprefix('_')}", record)
    return buffer.getvalue()


def text(value: str) -> bytes:
    """The step that puts a text on the stack."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: object) -> bytes:
    """The step that puts a number on the stack, of any size and kind."""
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    assert isinstance(value, int)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(data)) + data


def sizes(values: Any) -> bytes:
    """The steps of a tuple of numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(kind: str = "FloatStorage", count: int = 4) -> bytes:
    """The steps of a reference to storage "0"."""
    words = text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text("0") + text("cpu") + number(count)
    return b"(" + words + b"tQ"


def tensor(shape: Any, stride: Any, offset: object = 0, kind: str = "FloatStorage") -> bytes:
    """The steps of a tensor over storage "0", with whatever geometry is claimed."""
    where = storage(kind) + number(offset) + sizes(shape) + sizes(stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + where + b"\x89}tR"


def state_dict(steps: bytes) -> bytes:
    """A pickle of a dictionary; the steps put its keys and values on the stack."""
    return b"\x80\x02}(" + steps + b"u."


def safetensors(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + data


def save_base(folder: Path, **changes: torch.Tensor) -> Path:
    """A small model with a matrix, its bias, an embedding and a convolution."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(BASE | changes, folder / "model.safetensors")
    return folder


def save_adapter(folder: Path, tensors: dict[str, torch.Tensor], **settings: Any) -> Path:
    """An adapter of rank 4; names stand below the module's, or in full where they begin with a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **settings})
    )
    named = {
        f"base_model.model{name}" if name.startswith(".") else f"base_model.model.{MODULE}.{name}": value
        for name, value in tensors.items()
    }
    save_file({name: value.contiguous() for name, value in named.items()}, folder / "adapter_model.safetensors")
    return folder


def factors(up: tuple[int, ...] = (16, 4), down: tuple[int, ...] = (4, 16)) -> dict[str, torch.Tensor]:
    """A LoRA update's factors."""
    return {"lora_A.weight": torch.full(down, 0.5), "lora_B.weight": torch.full(up, 0.5)}
