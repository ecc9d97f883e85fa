"""Adapters of multimodal models, which transformers names otherwise in memory than on disk."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from ckptaudit import audit
from ckptaudit.checkpoints import merge_adapter, open_checkpoint
from ckptaudit.errors import CheckpointError
from tests.families.tiny_models import tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:peft.*"),
    pytest.mark.filterwarnings("ignore::Warning:transformers.*"),
]


def made(family: str, folder: Path) -> tuple[Path, Path, Path]:
    """A base, an adapter on all its attention, and what peft merges of the two, each as it is saved."""
    network: Any = tiny_model(family)
    network.save_pretrained(folder / "base")
    again = copy.deepcopy(network)
    torch.manual_seed(0)
    tuned: Any = get_peft_model(network, LoraConfig(r=4, target_modules=["q_proj"]))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    tuned.save_pretrained(folder / "adapter")
    PeftModel.from_pretrained(again, folder / "adapter").merge_and_unload().save_pretrained(folder / "merged")
    return folder / "base", folder / "adapter", folder / "merged"


@pytest.mark.parametrize("family", ["qwen2_5_vl", "mistral3"])
def test_an_adapter_of_a_multimodal_model_merges_as_in_peft(family, tmp_path):
    base, adapter, stored = made(family, tmp_path)
    whole = open_checkpoint(base)
    merged = merge_adapter(whole, open_checkpoint(adapter))
    expected = load_file(stored / "model.safetensors")
    assert set(expected) == set(merged.tensors)
    assert [name for name, tensor in expected.items() if not torch.equal(tensor, merged.tensors[name].read())] == []
    changed = [name for name, h in merged.tensors.items() if h is not whole.tensors[name]]
    assert any("q_proj" in name and "visual" not in name and "vision" not in name for name in changed)


def test_the_merged_file_of_a_multimodal_model_is_its_base_and_adapter(tmp_path):
    base, adapter, merged = made("mistral3", tmp_path)
    result = audit(base=str(base), tuned=str(merged), profile="merged", inputs={"adapter": str(adapter)})
    assert result.passed


def test_names_of_towers_mean_nothing_to_a_model_of_text_alone(tmp_path):
    base, adapter, _ = made("mistral3", tmp_path)
    plain = open_checkpoint(base)
    text = {name.removeprefix("language_model."): handle for name, handle in plain.tensors.items()}
    alone = type(plain)(plain.path, plain.format, text, {"model_type": "mistral"})
    with pytest.raises(CheckpointError, match="does not hold under a name that is known"):
        merge_adapter(alone, open_checkpoint(adapter))
