"""The pages say what the program does: reference pages are generated, links resolve, examples run."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "fixtures" / "README.md"])


def test_reference_pages_are_those_the_registry_gives() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "reference.py"))
    stale = "run `python docs/reference.py`"
    assert (ROOT / "docs" / "metrics.md").read_text() == made["metrics_page"](), stale
    assert (ROOT / "docs" / "checks.md").read_text() == made["checks_page"](), stale
    assert made["damages_table"]() in (ROOT / "docs" / "writing-checks.md").read_text(), stale


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_example_checks_and_tests_run(pytester: pytest.Pytester, fixture_pairs: Path) -> None:
    page = (ROOT / "docs" / "writing-checks.md").read_text()
    toml, python = (re.search(rf"```{kind}\n(.*?)```", page, re.S) for kind in ("toml", "python"))
    assert toml
    assert python
    pytester.path.joinpath("ours.toml").write_text(toml[1])
    pytester.path.joinpath("test_ours.py").write_text(python[1])
    pair = [f"--base={fixture_pairs / 'base'}", f"--tuned={fixture_pairs / 'rlvr-gentle'}"]
    pytester.runpytest("ours.toml", "test_ours.py", *pair).assert_outcomes(passed=6)
