"""What the wheel carries: an installed package must find its checks without the source tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is built from."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("ckptaudit", "checks", "startup"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def built(sources: Path, to: Path) -> Path:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(to)]
    subprocess.run(build, cwd=sources, check=True, capture_output=True)
    return next(to.glob("*.whl"))


def test_the_wheel_is_for_any_machine(sources: Path, tmp_path: Path) -> None:
    wheel = built(sources, tmp_path)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".so", ".c", ".pyd"))]


def test_the_wheel_ships_checks_and_naming_rules(sources: Path, tmp_path: Path) -> None:
    names = set(zipfile.ZipFile(built(sources, tmp_path)).namelist())
    assert {f"ckptaudit/bundled_checks/{p.name}" for p in (ROOT / "checks").glob("*.toml")} <= names
    assert {str(p.relative_to(ROOT)) for p in (ROOT / "ckptaudit").rglob("*.toml")} <= names
    page = {str(p.relative_to(ROOT)) for p in (ROOT / "ckptaudit" / "report" / "html").rglob("*") if p.is_file()}
    assert {name for name in page if "__pycache__" not in name} <= names
    licences = {name.rpartition("/")[2] for name in names if ".dist-info/licenses/" in name}
    assert {"LICENSE", "LICENSE-d3", "NOTICE"} <= licences
    assert not any("fixtures/" in name or "tests/" in name for name in names)
