"""Whatever an adapter brings is held against the base before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ckptaudit.checkpoints import Checkpoint, merge_adapter, open_checkpoint
from ckptaudit.errors import CheckpointError
from tests.checkpoints.attacks import BASE, MODULE, factors, save_adapter, save_base


@pytest.fixture
def merged(tmp_path: Path) -> Any:
    """Merge an adapter of these tensors and settings into the small model; opening only."""

    def merge(tensors: dict[str, torch.Tensor], **settings: Any) -> Checkpoint:
        base = open_checkpoint(save_base(tmp_path / "base"))
        return merge_adapter(base, open_checkpoint(save_adapter(tmp_path / "adapter", tensors, **settings)))

    return merge


def conv(*sizes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    up, down = sizes
    return {".model.patch.lora_A.weight": torch.ones(down), ".model.patch.lora_B.weight": torch.ones(up)}


MISFITS: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]] = {
    "a bias of another length": ({**factors(), "lora_B.bias": torch.ones(7)}, {"lora_bias": True}),
    "a bias with an axis more": ({**factors(), "lora_B.bias": torch.ones(16, 16)}, {"lora_bias": True}),
    "a scalar bias": ({**factors(), "lora_B.bias": torch.ones(())}, {"lora_bias": True}),
    "a bias of integers": ({**factors(), "lora_B.bias": torch.ones(16).int()}, {"lora_bias": True}),
    "a magnitude of another length": ({**factors(), "lora_magnitude_vector": torch.ones(7)}, {"use_dora": True}),
    "one magnitude": ({**factors(), "lora_magnitude_vector": torch.ones(1)}, {"use_dora": True}),
    "a scalar magnitude": ({**factors(), "lora_magnitude_vector": torch.ones(())}, {"use_dora": True}),
    "a matrix of magnitudes": ({**factors(), "lora_magnitude_vector": torch.ones(4, 4)}, {"use_dora": True}),
    "a complex magnitude": (
        {**factors(), "lora_magnitude_vector": torch.ones(16, dtype=torch.complex64)},
        {"use_dora": True},
    ),
    "four axes for a matrix": (factors((16, 4, 1, 1), (4, 16, 1, 1)), {}),
    "a wide kernel after a matrix": (factors((16, 4, 4, 5), (4, 16)), {}),
    "an update of another shape": (factors((16, 4), (4, 17)), {}),
    "a factor with one axis": (factors((16, 4), (64,)), {}),
    "factors of integers": ({name: value.int() for name, value in factors().items()}, {}),
    "factors of truth values": ({name: value.bool() for name, value in factors().items()}, {}),
    "complex factors": ({name: value.to(torch.complex64) for name, value in factors().items()}, {}),
    "an update larger than the weight": (conv((8, 4, 9, 9), (4, 3, 2, 2)), {}),
    "another kernel": (conv((8, 4, 1, 1), (4, 3, 5, 5)), {}),
    "an axis more than the kernel": (conv((8, 4, 1, 1, 1), (4, 3, 2, 2, 1)), {}),
    "an embedding with a kernel": (
        {
            ".model.embed_tokens.lora_embedding_A": torch.ones(4, 20, 1, 1),
            ".model.embed_tokens.lora_embedding_B": torch.ones(16, 4, 1, 1),
        },
        {},
    ),
    "a PiSSA kernel": (conv((8, 4, 1, 1), (4, 3, 2, 2)), {"init_lora_weights": "pissa"}),
    "a weight twice": (
        {**factors(), **{f".x.{MODULE}.{name}": value for name, value in factors().items()}},
        {},
    ),
    "a replacement twice": ({f".{n}model.embed_tokens.weight": torch.ones(20, 16) for n in ("", "x.", "y.")}, {}),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_the_base_is_refused_before_it_is_read(misfit, merged):
    tensors, settings = MISFITS[misfit]
    with pytest.raises(CheckpointError) as caught:
        merged(tensors, **settings)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("tensors", "settings"),
    [
        (factors(), {}),
        ({**factors(), "lora_B.bias": torch.ones(16)}, {"lora_bias": True}),
        ({**factors(), "lora_magnitude_vector": torch.ones(16)}, {"use_dora": True}),
        (conv((8, 4, 1, 1), (4, 3, 2, 2)), {}),
        ({**conv((8, 4, 1, 1), (4, 3, 2, 2)), ".model.patch.lora_magnitude_vector": torch.ones(1, 8, 1, 1)},
         {"use_dora": True}),
        ({".model.embed_tokens.weight": torch.ones(20, 16)}, {}),
    ],
    ids=["lora", "bias", "dora", "convolution", "dora convolution", "replaced"],
)  # fmt: skip
def test_what_fits_is_merged(tensors, settings, merged):
    checkpoint = merged(tensors, **settings)
    assert {n: tuple(h.read().shape) for n, h in checkpoint.tensors.items()} == {
        n: tuple(t.shape) for n, t in BASE.items()
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pissa_over_a_base_that_is_not_finite_names_the_tensor(value, tmp_path):
    weight = BASE[f"{MODULE}.weight"].clone()
    weight[3, 3] = value
    base = open_checkpoint(save_base(tmp_path / "base", **{f"{MODULE}.weight": weight}))
    adapter = open_checkpoint(save_adapter(tmp_path / "adapter", factors(), init_lora_weights="pissa"))
    with pytest.raises(CheckpointError, match=rf"{MODULE}\.weight holds NaN or infinity"):
        merge_adapter(base, adapter).tensors[f"{MODULE}.weight"].read()


def test_an_adapter_over_integers_asks_for_the_unquantised_base(tmp_path):
    base = save_base(tmp_path / "base", **{f"{MODULE}.weight": torch.ones(16, 16).to(torch.int8)})
    adapter = save_adapter(tmp_path / "adapter", factors())
    with pytest.raises(CheckpointError, match="unquantised base"):
        merge_adapter(open_checkpoint(base), open_checkpoint(adapter))
