"""The script for a machine with a card: every line of it, on a CPU and in small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any
from zipfile import ZipFile

import pytest
from blake3 import blake3

from benchmarks import on_gpu

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "on_gpu.sh"


def run(output: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = [str(SCRIPT), f"--output={output}", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert output.is_file(), ended.stderr
    return ended.returncode, json.loads(output.read_text())


def test_every_part_gives_figures_with_units(tmp_path: Path) -> None:
    code, found = run(tmp_path / "out.json", "--device=cpu", "--quick")
    assert {name: part["status"] for name, part in found["parts"].items()} == {
        part.name: "done" for part in on_gpu.PARTS
    }
    assert code == 0
    figures = {name: part["figures"] for name, part in found["parts"].items()}
    assert all(figure["unit"] for part in figures.values() for figure in part.values())
    assert figures["tests"]["passed"]["value"] > 0
    assert figures["tests"]["failed"]["value"] == 0
    for mode in ("gate", "exact"):
        for when in ("first time", "cached"):
            for part, label in (("layers", ""), ("experts", "one layer: "), ("experts", "all layers: ")):
                assert figures[part][f"{label}{mode}, {when}"]["value"] > 0
    assert figures["svd"]["svd of all matrices of both sides"]["method"].startswith("extrapolated")
    off = [figure["value"] for name, figure in figures["svd"].items() if name.endswith("off by")]
    assert off
    assert max(off) < 0.01
    assert found["parts"]["about"]["facts"]["torch"]


def test_a_part_that_fails_leaves_its_error_and_what_it_had_found(tmp_path: Path) -> None:
    code, found = run(tmp_path / "out.json", "--device=nowhere", "--only", "about")
    assert code == 1
    assert found["parts"]["about"]["status"] == "failed"
    assert "nowhere" in found["parts"]["about"]["error"]
    assert found["parts"]["about"]["facts"]["torch"], "what was found before stays"
    assert found["parts"]["layers"] == {"status": "left out", "error": "not asked for"}


def test_what_does_not_fit_the_time_is_left_out(tmp_path: Path) -> None:
    code, found = run(tmp_path / "out.json", "--device=cpu", "--seconds=5")
    assert code == 1
    assert {part["status"] for part in found["parts"].values()} == {"left out"}
    assert "of the budget were left" in found["parts"]["layers"]["error"]


def test_a_part_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    status, error = on_gpu.ended([sys.executable, "-c", child], 1.0, tmp_path / "log", os.environ)
    assert status == "stopped"
    assert error == "not done within 1 s"


def test_no_python_with_torch_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "on_gpu.sh"
    script.write_bytes(SCRIPT.read_bytes())
    (tmp_path / "dirname").symlink_to(str(which("dirname")))
    ended = subprocess.run(
        ["/bin/sh", str(script)], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 4
    assert ended.stderr == "on_gpu.sh: no Python 3.11 or newer with torch was found; name one in PYTHON.\n"


def test_wheels_and_a_stand_in_fill_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wheels").mkdir()
    with ZipFile(tmp_path / "wheels" / "carried-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried_module.py", "HERE = True\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    hidden = ("blake3", "junit_xml")
    monkeypatch.setattr(on_gpu, "find_spec", lambda name: None if name in hidden else find_spec(name))
    site = tmp_path / "site"
    assert on_gpu.prepare(site, tmp_path / "wheels") == {
        "missing": ["blake3", "junit-xml"],
        "stand-ins": ["blake3"],
    }
    assert (site / "carried_module.py").is_file()
    scope: dict[str, Any] = {}
    exec((site / "blake3.py").read_text(), scope)
    digest = scope["blake3"](b"one")
    digest.update(memoryview(b"two"))
    assert len(digest.hexdigest()) == len(blake3(b"").hexdigest())
    assert digest.hexdigest() == scope["blake3"](b"onetwo").hexdigest()
