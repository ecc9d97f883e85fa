"""What the wheel carries: an installed package must find its checks without the source tree."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
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
    others = ("ckptaudit/artifact/class_defaults.json", "ckptaudit/py.typed", "ckptaudit/cli/templates/github.yml")
    assert {*others, "ckptaudit_startup.pth", "ckptaudit_startup.py"} <= names
    assert not any("fixtures/" in name or "tests/" in name for name in names)


def test_the_sdist_has_all_that_is_tracked_and_passes_tests(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert [name for name in listed.stdout.splitlines() if not (unpacked / name).exists()] == []
    quick = ["tests/test_project.py", "tests/test_sizes.py", "tests/naming/test_naming.py"]
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *quick]
    ended = subprocess.run(run, cwd=unpacked, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_links_of_the_description_lead_somewhere_from_anywhere(sources: Path, tmp_path: Path) -> None:
    for given, begins in (("", "docs/"), ("https://example.org/t/c/", "https://example.org/t/c/blob/main/docs/")):
        to = tmp_path / str(len(given))
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(to)]
        environment = os.environ | {"CKPTAUDIT_SOURCE_URL": given}
        subprocess.run(build, cwd=sources, check=True, capture_output=True, env=environment)
        wheel = zipfile.ZipFile(next(to.glob("*.whl")))
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        told = Parser().parsestr(wheel.read(name).decode())
        assert f"]({begins}checks.md)" in told.get_payload()
        assert [line.partition(",")[0] for line in told.get_all("Project-URL", [])] == (
            ["Source", "Documentation", "Changelog", "Issues"] if given else []
        )


def test_pictures_are_linked_to_as_files_and_anchors_stay() -> None:
    absolute = runpy.run_path(str(ROOT / "hatch_build.py"))["absolute"]
    text = "![a](b/c.png) [d](e.md#f) [g](#h) [i](https://j.org/k)"
    made = "![a](S/raw/main/b/c.png) [d](S/blob/main/e.md#f) [g](#h) [i](https://j.org/k)"
    assert absolute(text, "S") == made
