"""The benchmark's own parts: a pair worth timing, an honest stopwatch, tables that say what was missed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import ckptaudit
from benchmarks import family, pair, tables
from benchmarks.limits import changed_share, least_work
from benchmarks.modes import Mode, Place, modes
from benchmarks.timing import Run

ROOT = Path(__file__).parent.parent.parent


def test_the_pair_is_a_healthy_run_and_made_once(tmp_path: Path) -> None:
    shapes = family.Shapes("tiny", 64, 96, 4, 4, 96)
    kind = family.Kind("power law", "rank 8 and noise", shapes)
    base, tuned = pair.pair_of(1, tmp_path, kind)
    result = ckptaudit.audit(base, tuned, profile="integrity")
    assert result.passed
    assert not result.unaligned
    assert {m.layer for m in result.measurements} == {None, 0}
    sizes = [
        m.value for m in result.measurements if m.metric == "relative_update_norm" and len(m.shape) == 2 and m.value
    ]
    assert all(2e-4 < size < 8e-4 for size in sizes)
    made = (base / "model.safetensors").stat().st_mtime_ns
    assert pair.pair_of(1, tmp_path, kind) == (base, tuned)
    assert (base / "model.safetensors").stat().st_mtime_ns == made


MEASURE = """
import subprocess
import sys
from pathlib import Path
from benchmarks.timing import timed
small, large = (timed([sys.executable, "-c", f"x = b'1' * {n}"], folder=Path()) for n in (1, 100 << 20))
assert 90 << 20 < large.peak_bytes - small.peak_bytes < 110 << 20, (small, large)
assert 0 < small.cpu_seconds < 60 and small.code == 0
timed([sys.executable, "-c", "print('why'); exit(3)"], folder=Path())
"""


def test_a_process_is_timed_with_its_memory_and_its_failure_ends_everything() -> None:
    # From a small process: the kernel counts the memory of whoever starts another towards that one's peak.
    ended = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.endswith("ended with 3:\nwhy\n\n"), ended.stderr


def test_the_table_takes_the_best_run_and_says_what_was_missed() -> None:
    gate = Mode("gate", lambda _: [], faster={"float64": 5})
    exact = Mode("exact", lambda _: [], faster={"float64": 5})
    other = Mode("float64", lambda _: [])
    runs = {"gate": [taking(3), taking(2)], "exact": [taking(4)], "float64": [taking(12)]}
    table = tables.speed(tables.Results([gate, exact, other], {4: runs}, [taking(1)]), 4)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[2] == ["gate", "2.0", "2.5", "2", "", "6.0", "5 x float64", "yes"]
    assert rows[3] == ["exact", "4.0", "4.0", "1", "", "3.0", "5 x float64", "no"]
    assert rows[4] == ["float64", "12.0", "12.0", "1", "", "", "", ""]


def test_the_table_of_pairs_marks_each_floor_that_is_missed() -> None:
    gate = Mode("gate", lambda _: [], faster={"modeldelta": 3, "float64": 8})
    runs = {"gate": taking(2), "modeldelta": taking(6), "float64": taking(15)}
    shut = {"gate": Run(4, 4, 1 << 20, 1, 0.0)}
    table = tables.family({"one": runs, "two": shut}, [gate, Mode("modeldelta", lambda _: [])])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[0] == ["pair", "gate", "modeldelta", "peak (MiB)", "gate"]
    assert rows[2] == ["one", "2.0 (2.0), 3.0 x, 7.5* x", "6.0 (6.0)", "1", "open"]
    assert rows[3] == ["two", "4.0 (4.0)", "", "1", "closed"]


TINY_LATENT = family.Latent(query=24, value=16, head=8, rotary=4, value_head=8)
DENSE = family.Shapes("tiny", 64, 96, 4, 4, 96)
TINY = {
    "stored in float32": family.Kind("power law", "rank 8 and noise", DENSE, stored=torch.float32),
    "untied head": family.Kind("power law", "rank 8 and noise", DENSE, tied=False),
    "mixture": family.Kind("power law", "rank 8 and noise", family.Shapes("tiny", 64, 32, 4, 2, 96, 4)),
    "latent": family.Kind("noise and spikes", "noise", family.Shapes("tiny", 64, 32, 4, 4, 96, 4, TINY_LATENT)),
}


@pytest.mark.parametrize("kind", TINY.values(), ids=TINY)
def test_pairs_of_other_kinds_are_complete_models(kind: family.Kind, tmp_path: Path) -> None:
    base, tuned = pair.pair_of(1, tmp_path, kind)
    config = json.loads((base / "config.json").read_text())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    built = {name for name, _ in model.named_parameters()}
    fused = {name for name in built if ".experts." in name}
    with safe_open(base / "model.safetensors", "pt") as stored:
        names = set(stored.keys())
        assert {str(stored.get_tensor(name).dtype) for name in names} == {str(kind.stored)}
    assert built - fused == {name for name in names if ".experts." not in name}
    assert ckptaudit.audit(base, tuned, profile="integrity").passed


def test_first_runs_start_from_an_empty_cache_of_their_own(tmp_path: Path) -> None:
    place = Place(tmp_path / "base", tmp_path / "tuned", tmp_path)
    of = {mode.name: mode for mode in modes(Path("python"), Path("modeldelta"))}
    for kind in ("gate", "exact"):
        first, cached = of[f"{kind}, first time"], of[f"{kind}, cached"]
        assert first.command(place) == cached.command(place)
        (place.cache(kind) / "entry").mkdir(parents=True)
        cached.prepare(place)
        assert place.cache(kind).is_dir()
        first.prepare(place)
        assert not place.cache(kind).exists()


def taking(seconds: float) -> Run:
    return Run(seconds, seconds, 1 << 20, 0, 0.0)


def test_the_share_of_changed_entries_is_that_of_matrices(tmp_path: Path) -> None:
    base = {"matrix": torch.zeros(4, 5), "vector": torch.zeros(3)}
    tuned = {"matrix": torch.eye(4, 5), "vector": torch.ones(3)}
    files = [str(tmp_path / f"{name}.safetensors") for name in ("base", "tuned")]
    for side, file in zip((base, tuned), files, strict=True):
        save_file(side, file)
    assert changed_share(*files) == 4 / 20


def test_the_least_work_of_the_exact_mode_counts_both_products() -> None:
    work = least_work("exact, cached", [(100, 10)], 0)
    assert work.float32 == pytest.approx(3 * 100 * 10 * 10 + 4 / 3 * 10**3)


CHANGED = {
    "rank 8 and noise": (0.05, 0.4),
    "sparse, 64 % changed": (0.3, 0.7),
    "sparse, 1 % changed": (0.001, 0.05),
}


@pytest.mark.parametrize("update", family.UPDATES)
@pytest.mark.parametrize("base", family.SPECTRA)
def test_each_kind_of_pair_is_what_its_name_says(base: str, update: str) -> None:
    random = torch.Generator().manual_seed(0)
    weight = family.Bases(random).matrix(base, (128, 96)).bfloat16()
    tuned = family.updated(weight, update, random)
    low, high = CHANGED.get(update, (0.01, 1.0))
    assert low < float((weight != tuned).float().mean()) < high
    s = torch.linalg.svdvals(weight.double())
    if base == "flat":
        assert s[0] / s[-1] < 1.1
    if base == "repeated values":
        assert (s[:6] - s[0]).abs().max() < 0.01 * s[0]
    assert float(weight.float().square().mean().sqrt()) == pytest.approx(0.02, rel=0.2)
