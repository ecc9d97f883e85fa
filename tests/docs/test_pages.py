"""The pages say what the program does: reference pages are generated, links resolve, examples run."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "fixtures" / "README.md"])
NOT_MODULES = {"ckptaudit.toml", "ckptaudit.schema"}
"""A file, and a key in the metadata of Parquet files."""


def test_reference_pages_are_those_the_registry_gives() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "reference.py"))
    stale = "run `make reference`"
    for name, content in made["pages"]().items():
        assert (ROOT / "docs" / name).read_text() == content, f"{name}: {stale}"
    assert made["damages_table"]() in (ROOT / "docs" / "writing-checks.md").read_text(), stale


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_paths_and_modules_that_pages_name_exist(page: Path) -> None:
    code = " ".join(re.findall(r"`([^`\n]+)`", page.read_text()))
    for path in re.findall(r"(?<![\w/.<-])(?:ckptaudit|tests|docs)/[a-z_][\w./-]*\w", code):
        assert (ROOT / path).exists() or f"{path}/<" in code, path
    for module in re.findall(r"\bckptaudit(?:\.[a-z_]+)+", code):
        assert module in NOT_MODULES or resolves(module), module


def resolves(dotted: str) -> bool:
    """Whether this is a module of the package, or a name that one defines or exports."""
    path = ROOT.joinpath(*dotted.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    home = path.parent / "__init__.py" if path.parent.is_dir() else path.parent.with_suffix(".py")
    return home.is_file() and re.search(rf"\b{path.name}\b", home.read_text()) is not None


def test_tests_that_the_security_page_names_exist() -> None:
    folder = ROOT / "tests" / "checkpoints"
    written = "".join(file.read_text() for file in folder.glob("test_*.py"))
    page = (ROOT / "SECURITY.md").read_text()
    for name in re.findall(r"`(?:test_\w+\.py::)?(test_\w+)`", page):
        assert f"def {name}(" in written, name
    for name in re.findall(r"`(test_\w+\.py)", page):
        assert (folder / name).is_file(), name


def test_the_code_map_names_every_room() -> None:
    rooms = {path.parent.name for path in (ROOT / "ckptaudit").glob("*/__init__.py")}
    mapped = set(re.findall(r"`(\w+)/`", (ROOT / "AGENTS.md").read_text().partition("## Code map")[2]))
    assert rooms <= mapped


def test_the_example_checks_and_tests_run(pytester: pytest.Pytester, fixture_pairs: Path) -> None:
    page = (ROOT / "docs" / "writing-checks.md").read_text()
    toml, python = (re.search(rf"```{kind}\n(.*?)```", page, re.S) for kind in ("toml", "python"))
    assert toml
    assert python
    pytester.path.joinpath("ours.toml").write_text(toml[1])
    pytester.path.joinpath("test_ours.py").write_text(python[1])
    pair = [f"--base={fixture_pairs / 'base'}", f"--tuned={fixture_pairs / 'rlvr-gentle'}"]
    pytester.runpytest("ours.toml", "test_ours.py", *pair).assert_outcomes(passed=6)
