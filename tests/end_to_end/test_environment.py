"""The environment fails: disks without room, memory without room, a process killed, a base replaced underway.

Whatever happens, the gate is not called open where it is not, and no half of a file stands in a file's place.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

pytestmark = pytest.mark.slow

OPEN = "gate open"
PYTEST = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider"]


def command(pair: tuple[Path, Path], *options: object) -> list[str]:
    return [*PYTEST, f"--base={pair[0]}", f"--tuned={pair[1]}", *map(str, options)]


def ended(
    folder: Path, pair: tuple[Path, Path], *options: object, limit: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(pair, *options),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
        timeout=300,
    )


@pytest.fixture(scope="module")
def pair(fixture_pairs: Path) -> tuple[Path, Path]:
    return fixture_pairs / "base", fixture_pairs / "rlvr-gentle"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, most of it taken."""
    place = tmp_path / "full"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        (place / "filler").write_bytes(bytes(40_000))
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def small_files() -> None:
    """No file of more than 20 kB can be written: a quota."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize("option", ["--audit-json=%s/a.json", "--audit-html=%s/a.html"])
def test_an_output_on_a_full_disk_closes_the_gate(option, full_disk, pair, tmp_path):
    told = ended(tmp_path, pair, option % full_disk)
    assert told.returncode == 4, told.stdout[-2000:]
    assert OPEN not in told.stdout
    assert leftovers(full_disk) == []
    assert not (full_disk / "a.json").exists()


@pytest.mark.parametrize("option", ["--audit-json=a.json", "--audit-html=a.html"])
def test_an_output_beyond_a_quota_closes_the_gate(option, pair, tmp_path):
    told = ended(tmp_path, pair, option, limit=small_files)
    assert told.returncode == 4, told.stdout[-2000:]
    assert OPEN not in told.stdout
    assert leftovers(tmp_path) == []


def test_a_cache_on_a_full_disk_costs_time_alone(full_disk, pair, tmp_path):
    told = ended(tmp_path, pair, f"--audit-cache={full_disk / 'cache'}")
    assert told.returncode == 0, told.stdout[-2000:]
    assert OPEN in told.stdout
    assert leftovers(full_disk) == []


def test_a_cache_beyond_a_quota_costs_time_alone(pair, tmp_path):
    told = ended(tmp_path, pair, "--audit-cache=cache", limit=small_files)
    assert told.returncode == 0, told.stdout[-2000:]
    assert OPEN in told.stdout
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("megabytes", [200, 600, 1200])
def test_memory_without_room_never_opens_the_gate_by_mistake(megabytes, pair, tmp_path):
    def little() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20, megabytes * 2**20))

    told = ended(tmp_path, pair, "--audit-json=a.json", limit=little)
    opened = OPEN in told.stdout
    assert opened == (told.returncode == 0)
    assert opened == (tmp_path / "a.json").exists() or told.returncode == 1
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_process_that_is_killed_leaves_whole_files_and_a_cache_that_works(seed, pair, tmp_path):
    options = ("--audit-json=a.json", "--audit-cache=cache")
    process = subprocess.Popen(
        command(pair, *options), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(Random(seed).uniform(1.0, 6.0))
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    if (tmp_path / "a.json").exists():
        json.loads((tmp_path / "a.json").read_text())
    told = ended(tmp_path, pair, *options)
    assert told.returncode == 0, told.stdout[-2000:]
    assert OPEN in told.stdout


@pytest.mark.parametrize("how", ["replaced", "cut short", "gone", "a pipe"])
def test_a_base_that_changes_in_mid_audit_is_noticed(how, pair, tmp_path):
    """After everything was opened, before anything is measured."""
    base = Path(shutil.copytree(pair[0], tmp_path / "base"))
    change = {
        "replaced": f"shutil.copy({str(pair[1] / 'model.safetensors')!r}, aside); os.replace(aside, path)",
        "cut short": "os.truncate(path, 1000)",
        "gone": "os.remove(path)",
        "a pipe": "os.remove(path); os.mkfifo(path)",
    }[how]
    (tmp_path / "conftest.py").write_text(
        "import os, shutil\n"
        "def pytest_collection_finish(session):\n"
        f"    path = {str(base / 'model.safetensors')!r}\n"
        "    aside = path + '.aside'\n"
        f"    {change}\n"
    )
    told = ended(tmp_path, (base, pair[1]))
    assert told.returncode in (1, 4), told.stdout[-2000:]
    assert OPEN not in told.stdout
    assert "INTERNALERROR" not in told.stdout + told.stderr
