"""The documentation site is complete, strict, and loads nothing from anywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ckptaudit
from tests.conftest import package

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder


class Loads(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        fetched = given.get("src") if tag != "link" else given.get("href")
        if fetched:
            self.found.append(fetched)


def test_a_reader_s_browser_asks_nobody(site: Path) -> None:
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text())
        assert [url for url in loads.found if re.match(r"(https?:)?//", url)] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text()), style


def test_every_public_name_has_its_signature_and_docstring(site: Path) -> None:
    page = (site / "api.html").read_text()
    for name in ckptaudit.__all__:
        assert f'id="ckptaudit.{name}"' in page
    words = " ".join(re.sub(r"<[^>]+>", "", page).split())
    assert "base: str" in words
    assert "Base of every error this package raises" in words


def test_pages_are_found_by_search(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())
    places = {entry["location"] for entry in index["docs"]}
    assert {"metrics.html#update_sparsity", "checks.html#spectral-drift", "options.html", "glossary.html"} <= places


@pytest.mark.parametrize("page", ["index", "security", "contributing", "agents", "changelog", "fixtures"])
def test_pages_from_outside_docs_are_part_of_it(site: Path, page: str) -> None:
    text = (site / f"{page}.html").read_text()
    assert not re.findall(r'href="(?:docs/[^"]*|[^":]*\.md[^"]*)"', text)
