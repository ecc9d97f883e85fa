"""Files that are there whole or not at all, and packages that only some reports need."""

from __future__ import annotations

from errno import EISDIR
from importlib.util import find_spec
from pathlib import Path

from ckptaudit.errors import ReportError


def write_whole(path: Path, content: bytes) -> None:
    """Write aside and rename: whoever reads `path` never sees half a file. Raises OSError."""
    if path.is_dir():
        raise IsADirectoryError(EISDIR, "a folder stands there", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.part")
    aside.write_bytes(content)
    aside.replace(path)


def need(module: str, *, extra: str) -> None:
    """Raise ReportError if a package is missing that the extra brings."""
    if find_spec(module) is None:
        raise ReportError(f"this report needs the package {module}; pip install 'ckptaudit[{extra}]'.")
