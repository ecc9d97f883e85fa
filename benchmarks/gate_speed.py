"""The gate against float64 decompositions of both sides, whole processes run in turn on generated pairs.

The pair has the layer shapes of a 0.5-billion-parameter Qwen2.5 (hidden 896, intermediate 4864, 14 heads, 2
key/value heads), bf16, heavy-tailed spectra and a sparse update of relative norm 4e-4 before rounding. Prints
seconds and ratios; ratios are what carries over to another machine.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPES = {
    "self_attn.q_proj": (896, 896),
    "self_attn.k_proj": (128, 896),
    "self_attn.v_proj": (128, 896),
    "self_attn.o_proj": (896, 896),
    "mlp.gate_proj": (4864, 896),
    "mlp.up_proj": (4864, 896),
    "mlp.down_proj": (896, 4864),
}

FLOAT64 = """
import sys, torch
from safetensors import safe_open
base, tuned = (safe_open(p + "/model.safetensors", "pt") for p in sys.argv[1:])
for name in base.keys():
    for side in (base, tuned):
        torch.linalg.svd(side.get_tensor(name).double(), full_matrices=False)
"""


def heavy_tailed(shape: tuple[int, int], random: torch.Generator) -> torch.Tensor:
    r = min(shape)
    u, v = (torch.linalg.qr(torch.randn(n, r, generator=random)).Q for n in shape)
    return (u * torch.arange(1, r + 1).pow(-0.5)) @ v.T


def updated(weight: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """A low-rank step plus noise, as reinforcement learning leaves them; rounding to bf16 makes it sparse."""
    left, right = (torch.randn(n, 8, generator=random) for n in weight.shape)
    noise = torch.randn(weight.shape, generator=random)
    step = left @ right.T / 8**0.5 + noise
    return weight + 4e-4 * weight.norm() / step.norm() * step


def write_pair(folder: Path, layers: int) -> list[Path]:
    random = torch.Generator().manual_seed(0)
    sides: list[dict[str, torch.Tensor]] = [{}, {}]
    for layer in range(layers):
        for name, shape in SHAPES.items():
            weight = heavy_tailed(shape, random).bfloat16()
            key = f"model.layers.{layer}.{name}.weight"
            sides[0][key], sides[1][key] = weight, updated(weight.float(), random).bfloat16()
    paths = [folder / "base", folder / "tuned"]
    for path, tensors in zip(paths, sides, strict=True):
        path.mkdir()
        save_file(tensors, path / "model.safetensors")
    return paths


def seconds(command: list[str], folder: Path) -> float:
    start = time.perf_counter()
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 1):
        sys.exit(ended.stdout + ended.stderr)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    print("| layers | float64 (s) | all metrics (s) | ratio | checks a bound settles (s) | ratio |")
    print("|---|---|---|---|---|---|")
    for layers in given.layers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            base, tuned = write_pair(folder, layers)
            gate = [sys.executable, "-P", "-m", "pytest", f"--base={base}", f"--tuned={tuned}", "-q", "--tb=no"]
            commands = {
                "float64": [sys.executable, "-c", FLOAT64, str(base), str(tuned)],
                "all": [*gate, "--audit-json", "a.json"],
                "bounds": [*gate, "-k", "spectral-drift or update-size or update-sparsity or finite"],
            }
            # Taken in turn, the best of the rounds: another process's burst must not fall on one side alone.
            rounds = [{k: seconds(c, folder) for k, c in commands.items()} for _ in range(given.rounds)]
        best = {k: min(r[k] for r in rounds) for k in commands}
        ratios = {k: best["float64"] / best[k] for k in ("all", "bounds")}
        print(
            f"| {layers} | {best['float64']:.1f} | {best['all']:.1f} | {ratios['all']:.1f} "
            f"| {best['bounds']:.1f} | {ratios['bounds']:.1f} |",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"\nlargest memory of any process: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
