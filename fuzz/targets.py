"""What is fuzzed: honest files of each format, which of them is damaged, and what reads them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from ckptaudit.behavior.probes import read_probes
from ckptaudit.checkpoints import merge_adapter, open_checkpoint
from ckptaudit.judging.check_files import holds_checks, load_checks
from ckptaudit.judging.config import find_config, load_config
from ckptaudit.report.difference_text import difference_lines
from ckptaudit.report.github import annotation_lines
from ckptaudit.report.html import render_html
from ckptaudit.report.junit import junit
from ckptaudit.report.markdown import markdown
from ckptaudit.report.terminal import render_summary
from ckptaudit.results.diff import compare
from ckptaudit.results.json_io import read_json
from fuzz.delta_targets import DELTAS
from fuzz.log_targets import CURVES, KINDS, read_curves, read_log, written_log

WEIGHTS = {"a.weight": torch.arange(12.0).view(3, 4), "b.weight": torch.ones(2, dtype=torch.bfloat16)}
FACTORS = {
    "base_model.model.a.lora_A.weight": torch.ones(2, 4),
    "base_model.model.a.lora_B.weight": torch.ones(3, 2),
    "base_model.model.a.lora_B.bias": torch.ones(3),
}
BASE = {"a.weight": torch.ones(3, 4), "a.bias": torch.ones(3)}
CHECKS = Path(__file__).parents[1] / "checks"
CONFIG = """profile = "rlvr"
frozen = ["embed_tokens"]
[[override]]
check = "spectral-drift"
at_most = 0.01
reason = "agreed"
[[waiver]]
check = "finite"
subject = "layers.1"
until = 2030-01-01
reason = "known"
"""


@dataclass(frozen=True, slots=True)
class Target:
    """`write` puts honest files into a folder and names the one to damage; `read` takes the folder."""

    name: str
    kind: str
    """How to damage it: `json`, `lines`, `safetensors`, `pickle`, `archive`, `text` or `bytes`."""
    write: Callable[[Path], Path]
    read: Callable[[Path], object]


def read_tensors(folder: Path) -> None:
    """Open whatever is there, and read all of it."""
    for handle in open_checkpoint(folder).tensors.values():
        read = handle.read()
        if tuple(read.shape) != handle.shape:
            raise AssertionError(f"{handle.name} has another shape than it said")


def read_merged(folder: Path) -> None:
    """The adapter merged into the base beside it; never larger than that."""
    base = open_checkpoint(folder.parent / "base")
    for name, handle in merge_adapter(base, open_checkpoint(folder)).tensors.items():
        if name in base.tensors and handle.read().numel() > base.tensors[name].parameters:
            raise AssertionError(f"{name} grew")


def read_result(folder: Path) -> None:
    """The JSON of an audit, and every report that is made of it."""
    result = read_json(folder / "audit.json")
    rendered = [
        render_summary(result, width=100, colour=False, verbosity=1),
        markdown(result),
        junit(result).decode(),
        render_html(result),
        *annotation_lines(result),
        *difference_lines(compare(result, result, names=("a", "b"), factor=2.0)),
    ]
    if any("\x1b" in text or "\u202e" in text for text in rendered):
        raise AssertionError("a report shows what must be escaped")


def read_checks(folder: Path) -> None:
    """A check file, as a file of ours and as one that may be."""
    holds_checks(folder / "mine.toml")
    load_checks(folder / "mine.toml")


def read_config(folder: Path) -> None:
    """A configuration, found and loaded."""
    find_config([folder])
    load_config(folder / "ckptaudit.toml")


def _saved(name: str, tensors: dict[str, torch.Tensor], beside: dict[str, Any], damaged: str) -> Any:
    def write(folder: Path) -> Path:
        save_file(tensors, folder / name)
        for other, content in beside.items():
            (folder / other).write_text(json.dumps(content))
        return folder / damaged

    return write


def _torch(name: str, *, zipped: bool) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.save(WEIGHTS, folder / name, _use_new_zipfile_serialization=zipped)
        return folder / name

    return write


def _distributed(damaged: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save({"model": WEIGHTS}, checkpoint_id=folder, no_dist=True)
        return folder / damaged

    return write


def _adapter(damaged: str, **settings: Any) -> Callable[[Path], Path]:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"a": 2}, **settings}

    def write(folder: Path) -> Path:
        (folder.parent / "base").mkdir(exist_ok=True)
        save_file(BASE, folder.parent / "base" / "model.safetensors")
        return Path(_saved("adapter_model.safetensors", FACTORS, {"adapter_config.json": config}, damaged)(folder))

    return write


def _text(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


FLOAT8 = {"w.weight": torch.ones(16, 16).to(torch.float8_e4m3fn), "w.weight_scale_inv": torch.ones(2, 2)}
QUANTISED = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [8, 8]}, "torch_dtype": "bfloat16"}
PROBES = '{"text": "a b c"}\n{"prompt": "a", "completion": "b"}\n'


def result_json() -> str:
    """A small result with a record of every kind."""
    from tests.report.foreign_result import plain

    return msgspec.json.encode(plain()).decode()


def targets() -> list[Target]:
    """Every reader."""
    index = {"weight_map": dict.fromkeys(WEIGHTS, "a.safetensors")}
    name = "model.safetensors"
    return [
        Target("safetensors", "safetensors", _saved(name, WEIGHTS, {}, name), read_tensors),
        Target("index", "json", _saved("a.safetensors", WEIGHTS, {f"{name}.index.json": index},
                                       f"{name}.index.json"), read_tensors),
        Target("config", "json", _saved(name, FLOAT8, {"config.json": QUANTISED}, "config.json"), read_tensors),
        Target("float8", "safetensors", _saved(name, FLOAT8, {"config.json": QUANTISED}, name), read_tensors),
        Target("zip", "archive", _torch("model.pt", zipped=True), read_tensors),
        Target("legacy", "pickle", _torch("model.pt", zipped=False), read_tensors),
        Target("ranks", "archive", _torch("model_world_size_1_rank_0.pt", zipped=True), read_tensors),
        Target("metadata", "pickle", _distributed(".metadata"), read_tensors),
        Target("distcp", "archive", _distributed("__0_0.distcp"), read_tensors),
        Target("adapter config", "json", _adapter("adapter_config.json", lora_bias=True), read_merged),
        Target("adapter", "safetensors", _adapter("adapter_model.safetensors", lora_bias=True), read_merged),
        Target("checks", "text", _text("mine.toml", (CHECKS / "intruders.toml").read_text()), read_checks),
        Target("configuration", "text", _text("ckptaudit.toml", CONFIG), read_config),
        Target("probes", "text", _text("probes.jsonl", PROBES), lambda f: read_probes(f / "probes.jsonl")),
        Target("result", "json", _text("audit.json", result_json()), read_result),
        *(Target(f"delta {n}", kind, write, read) for n, (kind, write, read) in DELTAS.items()),
        *(Target(f"rollouts {n}", kind, written_log(n), read_log) for n, kind in KINDS.items()),
        *(Target(f"scalars {n}", kind, write, read_curves) for n, (kind, write) in CURVES.items()),
    ]  # fmt: skip
