"""Run once per rank: save a bundled model as FSDP2 does, each its own shards. Arguments: model, folder, rank."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM


def save_all(model: Path, folder: Path, rank: int) -> None:
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    fully_shard(network, mesh=init_device_mesh("cpu", (2,), mesh_dim_names=("fsdp",)))
    state = get_model_state_dict(network)
    torch.save(state, folder / "ranks" / f"model_world_size_2_rank_{rank}.pt")
    save({"model": state}, checkpoint_id=folder / "dcp")


if __name__ == "__main__":
    source, target, own_rank = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{target}/rendezvous", rank=own_rank, world_size=2)
    save_all(source, target, own_rank)
    dist.destroy_process_group()
