"""What the wheel carries: an installed package must find its checks without the source tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import program

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is built from: a build leaves its library there, which others are using here."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("ckptaudit", "checks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "_compiled.*"))
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture
def compiler() -> str:
    return program("cc")


def built(sources: Path, to: Path, **variables: str) -> Path:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(to)]
    subprocess.run(build, cwd=sources, check=True, capture_output=True, env={**os.environ, **variables})
    return next(to.glob("*.whl"))


def test_the_compiled_part_is_built_where_there_is_a_compiler(compiler: str, sources: Path, tmp_path: Path) -> None:
    wheel = built(sources, tmp_path)
    assert wheel.name.endswith(".whl")
    assert "-py3-none-any" not in wheel.name
    assert "ckptaudit/linalg/fast/_compiled.so" in zipfile.ZipFile(wheel).namelist()
    # Nothing of another build is taken for this one's.
    assert "-py3-none-any" in built(sources, tmp_path / "none", CC="no-such-compiler").name


def test_a_compiler_that_knows_one_processor_only_will_do(compiler: str, sources: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain-cc"
    plain.write_text(f'#!/bin/sh\ncase "$*" in *ONE_TARGET*) exec {compiler} "$@";; esac; exit 1\n')
    plain.chmod(0o755)
    wheel = built(sources, tmp_path, CC=str(plain))
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if "_compiled" in name] == ["ckptaudit/linalg/fast/_compiled.so"]
    script = "from ckptaudit.linalg.fast import compiled; import torch; print(compiled.is_available())"
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    seen = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path / "installed", check=True, capture_output=True, text=True
    )
    assert seen.stdout == "True\n"


def test_without_a_compiler_the_wheel_is_for_any_machine(sources: Path, tmp_path: Path) -> None:
    wheel = built(sources, tmp_path, CC="no-such-compiler")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not any("_compiled" in name for name in zipfile.ZipFile(wheel).namelist())


def test_the_wheel_ships_checks_and_naming_rules(sources: Path, tmp_path: Path) -> None:
    names = set(zipfile.ZipFile(built(sources, tmp_path)).namelist())
    assert {f"ckptaudit/bundled_checks/{p.name}" for p in (ROOT / "checks").glob("*.toml")} <= names
    assert {str(p.relative_to(ROOT)) for p in (ROOT / "ckptaudit").rglob("*.toml")} <= names
    page = {str(p.relative_to(ROOT)) for p in (ROOT / "ckptaudit" / "report" / "html").rglob("*") if p.is_file()}
    assert {name for name in page if "__pycache__" not in name} <= names
    licences = {name.rpartition("/")[2] for name in names if ".dist-info/licenses/" in name}
    assert {"LICENSE", "LICENSE-d3", "NOTICE"} <= licences
    assert not any("fixtures/" in name or "tests/" in name for name in names)
