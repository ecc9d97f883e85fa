"""One run saved in every format is judged alike, number for number."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ckptaudit import audit

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:peft.*"),
    pytest.mark.filterwarnings("ignore::Warning:transformers.*"),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
]


@pytest.fixture(scope="module")
def saves(llama, tmp_path_factory) -> Path:
    """A base, and a run from it: an adapter, and the weights that peft makes of the two."""
    folder = tmp_path_factory.mktemp("run")
    base: Any = copy.deepcopy(llama)
    base.save_pretrained(folder / "base")
    model: Any = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(folder / "adapter")
    model.merge_and_unload().save_pretrained(folder / "tuned")
    return folder


def as_torch_shards(folder: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, folder / "a.bin")
    index = {"weight_map": dict.fromkeys(weights, "a.bin")}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


FORMATS: dict[str, Callable[[Path, dict[str, Tensor]], object]] = {
    "one safetensors file": lambda f, w: save_file(w, f / "tuned.safetensors"),
    "pytorch_model.bin": lambda f, w: torch.save(w, f / "pytorch_model.bin"),
    "legacy .pt in a training state": lambda f, w: torch.save(
        {"model": w}, f / "last.pt", _use_new_zipfile_serialization=False
    ),
    "torch shards": as_torch_shards,
    "torch.distributed.checkpoint": lambda f, w: save_distributed({"model": w}, checkpoint_id=f, no_dist=True),
    "rank files": lambda f, w: torch.save(w, f / "model_world_size_1_rank_0.pt"),
}


def measurements(saves: Path, tuned: Path) -> list[dict[str, object]]:
    rows = msgspec.to_builtins(audit(saves / "base", tuned, device="cpu").measurements)
    return [{**row, "tuned": ""} for row in rows]


@pytest.fixture(scope="module")
def reference(saves) -> list[dict[str, object]]:
    found = measurements(saves, saves / "tuned")
    assert len(found) > 50
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_numbers(kind, saves, reference, tmp_path):
    from safetensors.torch import load_file

    FORMATS[kind](tmp_path, load_file(saves / "tuned" / "model.safetensors"))
    assert measurements(saves, tmp_path) == reference


def test_an_adapter_gives_the_numbers_of_the_merged_model(saves, reference):
    assert measurements(saves, saves / "adapter") == reference
