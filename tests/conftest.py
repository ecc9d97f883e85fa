from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from types import ModuleType
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

# pytester's runs in this process forget every module that was first imported within one, and would leave
# two copies of it behind: everything that is imported late in use is imported here.
import ckptaudit.checkpoints.formats
import ckptaudit.plugin.gate
from ckptaudit.behavior.gradients import Request, collect
from ckptaudit.checkpoints import Checkpoint, open_checkpoint
from ckptaudit.pipeline.api import audit
from ckptaudit.results.records import AuditResult
from tests.training import learn_rotation, train_by_muon

FIXTURES = Path(__file__).parent.parent / "fixtures"

WriteCheckpoint = Callable[..., Path]

# A gate that is started in the repository loads this file too, where the package alone may be installed.
if find_spec("xdist") is not None:
    import ckptaudit.plugin.scheduling  # noqa: F401
if find_spec("hypothesis") is not None:
    from hypothesis import settings

    # How long an example takes says more about the machine and its other users than about the code.
    settings.register_profile("ckptaudit", deadline=None)
    settings.load_profile("ckptaudit")


def missing(what: str) -> None:
    """Skip a test, or all of a file, for something that is not installed; in continuous integration it fails."""
    reason = f"needs {what}, which is not installed"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}: continuous integration skips nothing", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def package(name: str) -> ModuleType:
    """A package that only some tests need; see `missing`."""
    if find_spec(name) is None:
        missing(f"the package {name}")
    return import_module(name)


def program(name: str) -> str:
    """The path of a program that only some tests need; see `missing`."""
    path = which(name)
    if path is None:
        missing(f"the program {name}")
    return str(path)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Every device that there is."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user() -> Iterator[None]:
    """Nothing that a test runs, in this process or another, reads or writes the cache of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CKPTAUDIT_CACHE", "off")
        yield


@pytest.fixture(scope="session")
def fixture_pairs() -> Path:
    """The folder of the bundled checkpoints."""
    return FIXTURES


@pytest.fixture(scope="session")
def base() -> Checkpoint:
    return open_checkpoint(FIXTURES / "base")


@pytest.fixture(scope="session")
def gentle() -> Checkpoint:
    return open_checkpoint(FIXTURES / "rlvr-gentle")


@pytest.fixture(scope="session")
def muon(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The bundled base, and what three steps of Muon on text of its own kind make of it."""
    tuned = tmp_path_factory.mktemp("muon")
    trained = train_by_muon(FIXTURES / "base", FIXTURES / "probes" / "task.jsonl")
    save_file(trained, tuned / "model.safetensors")
    return FIXTURES / "base", tuned


@pytest.fixture(scope="session")
def orthogonal_layer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A layer kept orthogonal while it learns to turn the sft model's embedding to the base's: first and last."""
    folder = tmp_path_factory.mktemp("orthogonal-layer")
    old, new = (open_checkpoint(FIXTURES / side).tensors["model.embed_tokens.weight"] for side in ("base", "sft"))
    for name, layer in zip(("first", "last"), learn_rotation(new.read().float(), old.read().float()), strict=True):
        save_file({"adapter.orthogonal.weight": layer}, folder / f"{name}.safetensors")
    return folder / "first.safetensors", folder / "last.safetensors"


@pytest.fixture(scope="session")
def collected_inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What claims need beside the pair, by name: really collected from the bundled base, or bundled."""
    folder = tmp_path_factory.mktemp("inputs")
    wanted: dict[str, tuple[Literal["gradients", "fisher"], str]] = {
        "gradients": ("gradients", "task.jsonl"),
        "retain_gradients": ("gradients", "retain.jsonl"),
        "fisher": ("fisher", "retain.jsonl"),
    }
    for name, (what, probes) in wanted.items():
        output = folder / f"{name}.safetensors"
        data = FIXTURES / "probes" / probes
        collect(Request(what=what, model=str(FIXTURES / "base"), data=data, output=output, samples=16))
    paths = {name: str(folder / f"{name}.safetensors") for name in wanted}
    given = {"aligned": "rlvr-step70", "adapter_init": "pissa-init", "probes": "probes/task.jsonl"}
    return {**paths, **{name: str(FIXTURES / place) for name, place in given.items()}}


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> WriteCheckpoint:
    """Save tensors by name as a checkpoint folder of the given name."""

    def write(name: str, tensors: dict[str, torch.Tensor]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
        return folder

    return write


@pytest.fixture
def small_pair(write_checkpoint: WriteCheckpoint) -> tuple[Path, Path]:
    """Two layers of one 16 x 24 matrix and one vector each, in bf16; the tuned side a thousandth away."""
    random = torch.Generator().manual_seed(0)
    before = {
        f"model.layers.{i}.{name}": torch.randn(shape, generator=random).bfloat16()
        for i in range(2)
        for name, shape in (("self_attn.q_proj.weight", (16, 24)), ("input_layernorm.weight", (24,)))
    }
    after = {
        k: (v.float() * (1 + 1e-3 * torch.randn(v.shape, generator=random))).bfloat16() for k, v in before.items()
    }
    return write_checkpoint("base", before), write_checkpoint("tuned", after)


@pytest.fixture(scope="session")
def supervised() -> AuditResult:
    """The bundled supervised run held against the checks of reinforcement learning."""
    return audit(FIXTURES / "base", FIXTURES / "sft", profile="rlvr")


@pytest.fixture(scope="session")
def gentle_result() -> AuditResult:
    """The bundled gentle run, which passes."""
    return audit(FIXTURES / "base", FIXTURES / "rlvr-gentle", profile="rlvr")
