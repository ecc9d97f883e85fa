"""Coverage-guided fuzzing of every reader: `python fuzz/fuzz_checkpoints.py -max_total_time=600`.

Needs `pip install atheris`. The first byte of an input chooses the file that the rest is written to. Anything
but a checkpoint or a CheckpointError in one clean line is a finding.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ckptaudit", "pickletools", "zipfile"]):
    from ckptaudit.checkpoints import formats, open_checkpoint  # noqa: F401  instrumented on import

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from ckptaudit.errors import CheckpointError

ROOT = Path(tempfile.mkdtemp())
TARGETS = (
    "single/model.safetensors",
    "zip/weights.pt",
    "index/model.safetensors.index.json",
    "adapter/adapter_config.json",
    "dcp/.metadata",
    "dcp/__0_0.distcp",
    "ranks/model_world_size_1_rank_0.pt",
    "config/config.json",
)


def prepare() -> list[bytes]:
    """Honest files around each target; their bytes are the first inputs."""
    weights = {"a": torch.ones(3, 4)}
    for target in TARGETS:
        (ROOT / target).parent.mkdir(exist_ok=True)
    save_file(weights, ROOT / "single" / "model.safetensors")
    save_file(weights, ROOT / "config" / "model.safetensors")
    save_file(weights, ROOT / "index" / "a.safetensors")
    factors = {
        "base_model.model.a.lora_A.weight": torch.ones(2, 4),
        "base_model.model.a.lora_B.weight": torch.ones(3, 2),
    }
    save_file(factors, ROOT / "adapter" / "adapter_model.safetensors")
    torch.save(weights, ROOT / "zip" / "weights.pt")
    torch.save(weights, ROOT / "ranks" / "model_world_size_1_rank_0.pt", _use_new_zipfile_serialization=False)
    dcp.save(weights, checkpoint_id=ROOT / "dcp", no_dist=True)
    (ROOT / "index" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "a.safetensors"}}')
    (ROOT / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "rank_pattern": {"a": 2}}')
    (ROOT / "config" / "config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')
    return [(ROOT / target).read_bytes() for target in TARGETS]


HONEST: list[bytes] = []


def one_input(data: bytes) -> None:
    """Write the input over its target, open everything, and put the honest bytes back."""
    choice = data[0] % len(TARGETS) if data else 0
    path = ROOT / TARGETS[choice]
    path.write_bytes(data[1:])
    try:
        for handle in open_checkpoint(path.parent).tensors.values():
            handle.read()
    except CheckpointError as error:
        if not str(error).isprintable() or len(str(error)) > 2000:
            raise AssertionError(f"no clean line: {error!r}") from error
    finally:
        path.write_bytes(HONEST[choice])


def main() -> None:
    """Seed the corpus and start."""
    HONEST.extend(prepare())
    corpus = ROOT / "corpus"
    corpus.mkdir()
    for choice, data in enumerate(HONEST):
        (corpus / str(choice)).write_bytes(bytes([choice]) + data)
    atheris.Setup([*sys.argv, "-max_len=8192", str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
