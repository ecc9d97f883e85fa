from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from types import ModuleType
from typing import Literal

# NumPy cannot be imported twice in a process, and pytester forgets what was first imported inside a test.
import numpy  # noqa: F401
import pytest
import torch
from safetensors.torch import save_file

# pytester's runs in this process forget every module that was first imported within one, and would leave
# two copies of it behind: everything that is imported late in use is imported here.
import ckptaudit.calibration.learning
import ckptaudit.checkpoints.formats
import ckptaudit.metrics.families
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


@pytest.fixture(autouse=True)
def _threads_are_left_as_they_were() -> Iterator[None]:
    """Two threads in each of two processes on two cores wait for each other: what follows takes twice as long."""
    before = torch.get_num_threads()
    yield
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == before


SLOW = (
    "artifact/test_damaged_releases.py",
    "artifact/test_hostile_documents.py",
    "behavior",
    "benchmarks/test_mutations.py",
    "benchmarks/test_on_gpu.py",
    "calibration/test_calibration.py::test_real_runs",
    "checkpoints/test_adapters.py",
    "checkpoints/test_audit_formats.py",
    "checkpoints/test_bounded_time.py",
    "checkpoints/test_dcp.py",
    "checkpoints/test_fuzz.py",
    "checkpoints/test_hostile.py::test_no_pickle_grows_or_hangs",
    "checkpoints/deltas",
    "checkpoints/sources",
    "cli/test_cli.py",
    "cli/test_cli_report.py",
    "cli/test_command_outputs.py",
    "cli/test_explain.py::test_a_probe_set",
    "cli/test_init.py::test_it_finds",
    "cli/test_prove.py::test_a_check_of_behavior",
    "cli/test_shards.py",
    "cli/test_probes.py",
    "cli/test_without_torch.py",
    "docs/test_architectures.py",
    "docs/test_commands.py",
    "docs/test_probes_page.py",
    "docs/test_site.py",
    "end_to_end",
    "families/test_damages.py",
    "families/test_every_family.py",
    "fuzz_corpus",
    "integrations",
    "judging/test_every_check.py",
    "judging/test_how_pairs_fall.py",
    "judging/test_run_group_checks.py",
    "linalg/test_ritz.py",
    "linalg/test_threads.py",
    "measurement/test_base_cache.py",
    "measurement/test_number_kinds.py",
    "measurement/test_probe_rows.py",
    "measurement/test_scheduler.py::test_a_batch_measures",
    "measurement/test_scheduler.py::test_the_whole_fixture_pair",
    "measurement/test_store.py",
    "metrics/test_against_oracle.py::test_the_bundled_pairs",
    "metrics/test_bounds.py",
    "metrics/test_depth.py",
    "metrics/test_excesses.py",
    "metrics/test_large.py",
    "metrics/test_pissa.py",
    "metrics/test_properties.py",
    "metrics/test_rms_rotation.py",
    "metrics/test_rotation.py::test_the_rotation_never",
    "metrics/test_routes.py",
    "metrics/test_sizes.py",
    "pairing/test_auxiliary.py",
    "pairing/test_matching.py",
    "parity",
    "pipeline/test_audit.py",
    "pipeline/test_devices.py",
    "pipeline/test_gpu_actors.py",
    "pipeline/test_named_causes.py",
    "pipeline/test_other_device.py",
    "pipeline/test_shards.py",
    "pipeline/test_workers.py",
    "plugin/test_bad_requests.py",
    "plugin/test_fixtures.py",
    "plugin/test_gate.py",
    "plugin/test_gate_outputs.py",
    "plugin/test_gate_cache.py",
    "plugin/test_html_option.py",
    "plugin/test_loading.py",
    "plugin/test_many_runs.py",
    "plugin/test_progress.py",
    "plugin/test_settings.py",
    "plugin/test_start.py",
    "plugin/test_summary.py",
    "plugin/test_xdist.py",
    "release",
    "report/test_evidence.py::test_sarif_keeps",
    "report/test_evidence.py::test_what_stands_around",
    "report/test_foreign_results.py",
    "report/test_github.py",
    "report/test_html.py",
    "report/test_html_in_a_browser.py",
    "report/test_junit.py",
    "report/test_steps.py",
    "report/test_trackers.py",
    "results/test_baseline.py",
    "results/test_diff.py",
    "results/test_gate.py",
    "rollouts",
)
"""Folders, files and tests that `make test-fast` leaves out, by how their ids begin."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file all of whose tests are slow where only the others are asked for."""
    if "not slow" not in config.option.markexpr.split(" and ") or " or " in config.option.markexpr:
        return None
    place = Path(__file__).parent
    slow = {place / name for name in SLOW}
    return True if slow & {collection_path, *collection_path.parents} else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow."""
    begins = tuple(f"tests/{name}" for name in SLOW)
    for item in items:
        if item.nodeid.startswith(begins):
            item.add_marker(pytest.mark.slow)


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
    given = {
        "aligned": "rlvr-step70",
        "reference": "sft",
        "adapter_init": "pissa-init",
        "probes": "probes/task.jsonl",
    }
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
