"""What hatchling is told beyond pyproject.toml: the start-up file, and a README whose links hold anywhere."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

FILES = ("ckptaudit_startup.pth", "ckptaudit_startup.py")
SOURCE = "CKPTAUDIT_SOURCE_URL"
"""The environment variable that names the repository, such as https://example.org/team/ckptaudit."""

PAGES = {
    "Source": "",
    "Documentation": "/tree/main/docs",
    "Changelog": "/blob/main/CHANGELOG.md",
    "Issues": "/issues",
}
_LINK = re.compile(r"(!?\[[^\]]*\]\()(?!https?:|#)([^)\s]+)\)")


class Startup(BuildHookInterface[Any]):
    """Adds the files of startup/ to editable installations; wheels have them by `force-include`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files."""
        if version == "editable":
            folder = Path(self.root) / "startup"
            build_data["force_include_editable"] = {str(folder / name): name for name in FILES}


class Addresses(MetadataHookInterface):
    """The README, its links absolute where the repository's address is given, and the project's addresses."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling when it makes the metadata."""
        source = os.environ.get(SOURCE, "").rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, source) if source else text}
        metadata["urls"] = {name: f"{source}{page}" for name, page in PAGES.items()} if source else {}


def absolute(text: str, source: str) -> str:
    """The README with every link to a file of the repository as an address; pictures as their raw content."""

    def replaced(found: re.Match[str]) -> str:
        kind = "raw" if found[1].startswith("!") else "blob"
        return f"{found[1]}{source}/{kind}/main/{found[2]})"

    return _LINK.sub(replaced, text)
