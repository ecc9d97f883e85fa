"""What was once found by an attack or by the fuzzer stays mended, and a short seeded run finds nothing more."""

from __future__ import annotations

import io
import os
import pickletools
import resource
import time
import zipfile
from pathlib import Path
from random import Random

import pytest

from ckptaudit.errors import CkptAuditError
from fuzz.__main__ import findings, judged
from fuzz.mutations import archive_changed, mutated
from fuzz.targets import Target, read_merged, read_result, read_tensors, targets
from tests.checkpoints.attacks import save_base
from tests.fuzz_corpus.past_failures import READ, REFUSED

SECONDS = float(os.environ.get("FUZZ_SECONDS", "4"))
"""A minute in continuous integration."""


def opened(folder: Path) -> None:
    if (folder / "audit.json").exists():
        read_result(folder)
    elif (folder / "adapter_config.json").exists():
        read_merged(folder)
    else:
        read_tensors(folder)


def written(name: str, root: Path) -> Path:
    save_base(root / "base")
    folder = root / "input"
    folder.mkdir()
    (REFUSED | READ)[name](folder)
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_line(name, tmp_path):
    folder = written(name, tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CkptAuditError):
        opened(folder)
    assert judged(Target(name, "", lambda f: f, opened), folder) is None
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 400_000, f"{grown:,} kB"


@pytest.mark.parametrize("name", READ)
def test_it_is_read_without_harm(name, tmp_path):
    folder = written(name, tmp_path)
    opened(folder)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_every_target_reads_its_honest_files(target, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    path = target.write(folder)
    target.read(folder)
    assert path.is_file()


def test_the_clock_does_not_change_a_damaged_archive(monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("0/data.pkl", pickletools.optimize(b"\x80\x02K\x01."))
    found = set()
    for now in (10**9, 2 * 10**9):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        found.add(archive_changed(buffer.getvalue(), Random(0)))
    assert len(found) == 1


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_damage_is_the_same_for_the_same_seed_and_does_something(target, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    honest = target.write(folder).read_bytes()
    some = [mutated(honest, target.kind, Random(seed)) for seed in range(20)]
    assert some == [mutated(honest, target.kind, Random(seed)) for seed in range(20)]
    assert sum(data != honest for data in some) > 15


@pytest.mark.slow
def test_a_seeded_run_finds_nothing():
    found = [f"{target.name}: {wrong}\n{data[:2000]!r}" for target, data, wrong in findings(SECONDS, seed=16)]
    assert not found, "\n\n".join(found[:3])
