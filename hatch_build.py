"""Puts the start-up file of pytest commands into editable installations too; wheels have it by `force-include`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILES = ("ckptaudit_startup.pth", "ckptaudit_startup.py")


class Startup(BuildHookInterface):
    """Adds the files of startup/ beside the package."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files."""
        if version == "editable":
            folder = Path(self.root) / "startup"
            build_data["force_include_editable"] = {str(folder / name): name for name in FILES}
