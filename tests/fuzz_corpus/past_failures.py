"""Inputs that once ended in a traceback, a hang or a wrong acceptance, written anew by what made them so.

Each writes a checkpoint, an adapter or a result into a folder; `base/` beside it is the small model they go with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.checkpoints.attacks import (
    BASE,
    MODULE,
    factors,
    safetensors,
    save_adapter,
    save_base,
    state_dict,
    tensor,
    text,
    zip_archive,
)
from tests.report.foreign_result import plain, poisoned

Write = Callable[[Path], object]


def pickled(steps: bytes) -> Write:
    return lambda folder: (folder / "model.pt").write_bytes(zip_archive(steps, _0=bytes(16)))


def one_tensor(shape: list[object], stride: list[object], offset: object = 0) -> Write:
    return pickled(state_dict(text("w") + tensor(shape, stride, offset)))


def colliding_keys(folder: Path) -> None:
    keys = (i * (2**61 - 1) % 2**63 for i in range(20_000))
    pickled(state_dict(b"".join(b"\x8a\x09" + key.to_bytes(9, "little") + b"N" for key in keys)))(folder)


def float8_method_as_list(folder: Path) -> None:
    weights = {"w.weight": torch.ones(8, 8).to(torch.float8_e4m3fn), "w.weight_scale_inv": torch.ones(1, 1)}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": ["fp8"]}}))


def ranks(*states: dict[str, torch.Tensor], world: int | None = None) -> Write:
    def write(folder: Path) -> None:
        for rank, state in enumerate(states):
            count = len(states) if world is None else world
            torch.save(state, folder / f"model_world_size_{count}_rank_{rank}.pt")

    return write


def nan_base(folder: Path) -> None:
    weight = torch.full((16, 16), math.nan).bfloat16()
    save_base(folder.parent / "base", **{f"{MODULE}.weight": weight})
    save_adapter(folder, factors(), init_lora_weights="pissa")


def adapter(tensors: dict[str, torch.Tensor], **settings: object) -> Write:
    return lambda folder: save_adapter(folder, tensors, **settings)


def many_unknown(folder: Path) -> None:
    save_adapter(folder, {f".n{i}.odd": torch.ones(1) for i in range(5_000)},
                 rank_pattern={f"n{i}x": 4 for i in range(5_000)})  # fmt: skip


def result(content: object) -> Write:
    return lambda folder: (folder / "audit.json").write_text(json.dumps(content))


def uneven_curves() -> dict[str, object]:
    content = plain()
    content["spectra"][0]["tuned_singular_values"] = [1.0]
    return content


def without_our_version() -> dict[str, object]:
    content = plain()
    content["about"]["versions"] = {"torch": "2.9"}
    return content


HUGE = {"a": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}
REFUSED: dict[str, Write] = {
    "a bias of another length": adapter({**factors(), "lora_B.bias": torch.ones(7)}, lora_bias=True),
    "a magnitude of another length": adapter({**factors(), "lora_magnitude_vector": torch.ones(7)}, use_dora=True),
    "a factor of four axes": adapter(factors((16, 4, 4, 5), (4, 16))),
    "PiSSA over NaN": nan_base,
    "twenty sizes of 2**62": one_tensor([2**62] * 20, [1] * 20),
    "an offset of NaN": one_tensor([4], [1], math.nan),
    "an empty tensor with huge sizes": lambda f: (f / "model.safetensors").write_bytes(safetensors(HUGE)),
    "a float8 method as a list": float8_method_as_list,
    "a world of no ranks": ranks({"w": torch.ones(2)}, world=0),
    "ranks that disagree": ranks({"w": torch.ones(2)}, {"w": torch.zeros(2)}),
    "keys that collide": colliding_keys,
    "39 million steps": lambda f: (f / "model.pt").write_bytes(zip_archive(b"\x80\x02" + b"]" * 39_000_000 + b".")),
    "curves of different length": result(uneven_curves()),
}  # fmt: skip
"""To be refused in one line."""

READ: dict[str, Write] = {
    "5,000 patterns and unknown tensors": many_unknown,
    "a result that does not know our version": result(without_our_version()),
    "a check's id that drives a terminal": result(poisoned("\x1b[2J\n::error::x\u202e")),
}
"""To be read, without harm and soon."""

__all__ = ["BASE", "READ", "REFUSED"]
