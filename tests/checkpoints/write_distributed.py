"""Run once per rank: save one sharded model the ways that trainers do. Arguments: folder, rank."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def model() -> nn.Module:
    torch.manual_seed(0)
    # Five rows over two ranks: the shards differ in size, and the last one may be empty.
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 1), nn.Embedding(7, 3)).to(torch.bfloat16)


def save_all(folder: Path, rank: int) -> None:
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("fsdp",))
    sharded = model()
    fully_shard(sharded, mesh=mesh)
    optimizer = torch.optim.AdamW(sharded.parameters())
    for parameter in sharded.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state: dict[str, Any] = get_model_state_dict(sharded)
    whole = {name: tensor.full_tensor().contiguous() for name, tensor in state.items()}
    moments = get_optimizer_state_dict(sharded, optimizer)
    save_distributed({"model": state, "optim": moments, "step": 3}, checkpoint_id=folder / "dcp")
    save_distributed(state, checkpoint_id=folder / "flat" / "pytorch_model_fsdp_0")
    save_ranks(folder / "verl" / "global_step_5" / "actor", state, rank)

    replicas = init_device_mesh("cpu", (1, 2), mesh_dim_names=("ddp", "fsdp"))
    hybrid = model()
    fully_shard(hybrid, mesh=replicas)
    replicated: dict[str, Any] = get_model_state_dict(hybrid)
    save_ranks(folder / "hybrid", replicated, rank)
    if rank == 0:
        save_file(whole, folder / "whole.safetensors")


def save_ranks(folder: Path, state: dict[str, torch.Tensor], rank: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / f"model_world_size_2_rank_{rank}.pt")
    (folder / "fsdp_config.json").write_text('{"FSDP_version": 2, "world_size": 2}')


if __name__ == "__main__":
    target, own_rank = Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{target}/rendezvous", rank=own_rank, world_size=2)
    save_all(target, own_rank)
    dist.destroy_process_group()
