"""Brings pages that stand outside of docs/ into the site, and turns links to and from them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "AGENTS.md": "agents.md",
    "SECURITY.md": "security.md",
    "LICENSE": "LICENSE.txt",
    "fixtures/README.md": "fixtures.md",
    "action.yml": "action.yml",
    "templates/checkpoint-audit.yml": "templates/checkpoint-audit.yml",
    # Under names that a browser shows as text.
    **{
        f"examples/{file.name}": f"examples/{file.name}{'' if file.suffix in ('.yml', '.yaml') else '.txt'}"
        for file in sorted((ROOT / "examples").iterdir())
    },
    **{f"checks/{file.name}": f"checks/{file.name}" for file in sorted((ROOT / "checks").glob("*.toml"))},
}
"""Files of the repository, and what they are called in the site."""
LINK = re.compile(r"(\]\()([^)#:]+)((?:#[^)]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the files from outside. Called by mkdocs."""
    for source, name in OUTSIDE.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages. Called by mkdocs."""
    homes = {name: source for source, name in OUTSIDE.items()}
    source = homes.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return LINK.sub(lambda found: f"{found[1]}{_target(found[2], posixpath.dirname(source))}{found[3]}", markdown)


def _target(link: str, folder: str) -> str:
    place = posixpath.normpath(posixpath.join(folder, link))
    return OUTSIDE.get(place, place.removeprefix("docs/"))
